"""Names for what is not whole yet, and the removal of what killed processes have left of it.

Files and folders are written under a hidden name beside their place and renamed when they are whole. The name says
which process is at work on it: its id, when it started (ids are used again) and where that id means anything (the
machine since it booted, and the namespace of process ids, which differs between containers). What a killed process
has left is removed when the next one begins to write there; what belongs to anybody else is never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

FOREIGN_AGE_S = 86_400.0
"""What a process of another boot, machine or container has left is removed when nothing in it changed for this long:
whether that process lives cannot be seen from here."""
LOOK_AGAIN_S = 60.0
"""A folder is looked through at most this often by one process."""

_NAME = re.compile(r"\..+\.(?P<pid>\d+)-(?P<start>\d+)-(?P<home>[0-9a-f]{8})-\d+\.tmp(\.[a-z]+)?")
_LONGEST = 120  # bytes of a name that are kept in that of its scratch file; file systems allow 255 in all
_numbers = itertools.count()
_looked_at_s: dict[Path, float] = {}


def scratch_path(path: Path, suffix: str = "") -> Path:
    """A hidden name beside `path` that no other process or thread uses.

    Args:
        suffix: of the name, for writers that go by it: lower-case letters after a dot.
    """
    name = path.name.encode()[:_LONGEST].decode(errors="ignore").lstrip(".") or "file"
    pid = os.getpid()
    return path.with_name(f".{name}.{pid}-{_start_of(pid) or 0}-{_home()}-{next(_numbers)}.tmp{suffix}")


@contextlib.contextmanager
def scratch_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """A name beside `path` to write to and to rename; what is still there at the end is removed."""
    remove_orphans(path.parent)
    temporary = scratch_path(path, suffix)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`; what is still there at the end is removed. Raises OSError."""
    temporary = make_scratch_folder(path)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_scratch_folder(path: Path) -> Path:
    """A new folder beside `path` that the caller removes. Raises OSError."""
    remove_orphans(path.parent)
    temporary = scratch_path(path)
    temporary.mkdir()
    return temporary


def remove_orphans(folder: Path) -> list[Path]:
    """Removes what killed processes of this user have left in a folder; returns what that was.

    A process of this machine that is seen to be dead leaves orphans at once, others after `FOREIGN_AGE_S`. Links and
    names of another form stay. What cannot be removed stays, too.
    """
    key, now_s = folder.absolute(), time.monotonic()
    if now_s - _looked_at_s.get(key, -LOOK_AGAIN_S) < LOOK_AGAIN_S:
        return []
    _looked_at_s[key] = now_s
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _NAME.fullmatch(entry.name)
            if found is None or not _is_orphan(entry, int(found["pid"]), int(found["start"]), found["home"]):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_orphan(entry: os.DirEntry[str], pid: int, start: int, home: str) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    if not regular or status.st_uid != os.getuid():
        return False
    if home == _home() and start:
        return _start_of(pid) != start
    return time.time() - _changed_s(Path(entry.path)) > FOREIGN_AGE_S


def _changed_s(path: Path) -> float:
    """When anything in it was last written."""
    newest = path.lstat().st_mtime
    for inner in path.rglob("*") if path.is_dir() else ():
        with contextlib.suppress(OSError):
            newest = max(newest, inner.lstat().st_mtime)
    return newest


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since boot; None: it is dead, or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # fields 3 and 22 of proc(5); zombies are dead


@lru_cache(maxsize=1)
def _home() -> str:
    """Where this process's id means anything: 8 hex digits of boot and namespace."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]
