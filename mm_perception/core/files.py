"""The rule for whatever is written: nothing that this package did not make is removed or replaced.

A file or folder is new, or `--overwrite` was given and what is there is of the same kind: a bag by a bag, a report
folder by a report folder, figures by figures. It is written beside its place and renamed when it is whole, so that
a failure (a full disk, a killed process) leaves what was there. What is an input is never an output.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from mm_perception.core.errors import ConfigError
from mm_perception.core.limits import MAX_JSON_BYTES
from mm_perception.core.scratch import make_scratch_folder, scratch_file
from mm_perception.core.yaml_file import read_text

MARKER = ".mm_perception.json"
"""Lies in a folder that a command made, and names the command and its files."""
OVERWRITE = "give another name, or --overwrite to replace it"
_HEAD_BYTES = 512


def _is_text(head: bytes) -> bool:
    return b"\0" not in head and not _is_json(head)


def _is_json(head: bytes) -> bool:
    return head.lstrip()[:1] in (b"{", b"[")


KINDS: Mapping[str, tuple[str, Callable[[bytes], bool]]] = {
    "bag": ("a bag", lambda head: head.startswith(b"\x89MCAP0\r\n")),
    "json": ("a JSON file", _is_json),
    "text": ("a text file", _is_text),
    "image": ("an image", lambda head: head.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff"))),
    "onnx": ("an ONNX file", lambda head: head.startswith(b"\x08")),
    "xml": ("an XML file", lambda head: head.lstrip().startswith(b"<")),
}
"""Kinds of files, in words and by their first bytes: a file is replaced by one of its kind alone."""


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | str | None] = ()) -> None:
    """Refuses outputs that are an input or each other, by whatever links they are named.

    Args:
        outputs: by option; None: not asked for.
        inputs: what is read: files and folders as `Path`; as text, files, or names that are no paths.

    Raises:
        ConfigError: an output is an input, holds one, or lies where an input's own files do; or two are one.
    """
    named = {option: path for option, path in outputs.items() if path is not None}
    read = [Path(one) for one in inputs if one and (Path(one).is_file() or (isinstance(one, Path) and one.exists()))]
    for option, path in named.items():
        for source in read:
            if _touches(path, source):
                raise ConfigError(f"{option} {path}: is the input {source} or would replace a part of it; name another")
    places: dict[Path, str] = {}
    for option, path in named.items():
        other = places.setdefault(_place(path), option)
        if other != option:
            raise ConfigError(f"{option} {path}: expected another file than that of {other}")


def _touches(path: Path, source: Path) -> bool:
    """Whether writing `path` would change `source`: the same, a folder around it, or something in it that exists."""
    with contextlib.suppress(OSError):
        if path.samefile(source):
            return True
    place, there = _place(path), _place(source)
    return place == there or place in there.parents or (there in place.parents and os.path.lexists(place))


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path))


def check_new_file(path: Path, overwrite: bool, kind: str) -> Path:
    """The place of a file that may be written: where `path` leads if it is a link.

    Args:
        kind: of `KINDS`.

    Raises:
        ConfigError: it exists and `overwrite` is not given, or it is no regular file of the kind.
    """
    words, is_one = KINDS[kind]
    place = _place(path)
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link to nothing; remove it, or give another name") from None
        return place
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path}: is a folder, expected {words} or nothing; give another name")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: is a device, pipe or socket, expected {words} or nothing; give another name")
    if not overwrite:
        raise ConfigError(f"{path}: exists already; {OVERWRITE}")
    with place.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not is_one(head):
        raise ConfigError(f"{path}: exists and is not {words}, so --overwrite does not replace it; give another name")
    return place


def write_new_file(path: Path, data: bytes | memoryview | str, overwrite: bool, kind: str) -> None:
    """Writes a file that a user named, or leaves what is there; folders are made.

    Raises:
        ConfigError: as `check_new_file`.
        OSError: it cannot be written.
    """
    place = check_new_file(path, overwrite, kind)
    place.parent.mkdir(parents=True, exist_ok=True)
    with scratch_file(place) as temporary:
        _write_synced(temporary, data.encode() if isinstance(data, str) else data)
        put_file(temporary, place, overwrite)


def write_json(path: Path, content: object, overwrite: bool, indent: int = 2) -> None:
    """Writes figures as JSON, whose numbers are finite: others become null. Raises as `write_new_file`."""
    write_new_file(path, json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n", overwrite, "json")


def _finite(content: object) -> object:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def put_file(temporary: Path, place: Path, overwrite: bool) -> None:
    """Gives a finished file its name; without `overwrite` only where nothing has come there meanwhile.

    Raises:
        ConfigError: something has. OSError: it cannot be renamed.
    """
    if not overwrite:
        try:
            os.link(temporary, place)  # a rename would replace what has come there
            return
        except FileExistsError:
            raise ConfigError(f"{place}: exists already; {OVERWRITE}") from None
        except OSError as error:  # file systems without hard links
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if os.path.lexists(place):
                raise ConfigError(f"{place}: exists already; {OVERWRITE}") from None
    temporary.replace(place)


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a file of this package's own beside its place and moves it there: nobody reads half of it.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    with scratch_file(path) as temporary:
        _write_synced(temporary, data)
        temporary.replace(path)


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    """A rename must not reach the disk before what it names."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class OutputFolder:
    """A folder of results that takes its name when it is complete; until then it is written to `work`.

    A folder that exists is refused if anything is in it, unless a command made it (its `MARKER` says so) and may
    renew it. Then the files that the command made are replaced, and everything else in it stays. Leaving the `with`
    block without an error publishes the folder; otherwise what was there stays as it was.

    Attributes:
        path: as the user named it.
        work: where files are written.
    """

    def __init__(self, path: Path, command: str, overwrite: bool, renew: bool = False) -> None:
        """Args:
            command: that makes it.
            renew: replace a folder of the same command without being told to.

        Raises:
            ConfigError: there is something else.
            OSError: no folder can be made beside it.
        """
        self.path = path
        self._command, self._place = command, _place(path)
        self._old = check_new_folder(path, command, overwrite, renew)
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self.work = make_scratch_folder(self._place)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def _publish(self) -> None:
        new = {file.relative_to(self.work).as_posix() for file in self.work.rglob("*") if file.is_file()}
        marker = {"made_by": f"mm-perception {self._command}", "files": sorted(new)}
        (self.work / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        if not self._place.exists() or not any(self._place.iterdir()):
            self.work.replace(self._place)
            return
        self._check_free(new)
        # Until all is in its place the folder is known to hold both the old files and the new ones.
        both = {**marker, "files": sorted(new | self._old)}
        replace_file(self._place / MARKER, json.dumps(both, indent=1).encode())
        for name in sorted(new):
            target = self._place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).replace(target)
        for name in self._old - new:
            (self._place / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or the folder itself
                (self._place / name).parent.rmdir()
        (self.work / MARKER).replace(self._place / MARKER)

    def _check_free(self, new: set[str]) -> None:
        """Raises ConfigError if a new file would take the place of one that no command made."""
        for name in sorted(new | self._old):
            target = self._place / name
            inner = [self._place / part for part in PurePosixPath(name).parents if part.name]
            strange = [part for part in inner if os.path.lexists(part) and (part.is_symlink() or not part.is_dir())]
            if os.path.lexists(target) and (name not in self._old or target.is_dir()):
                strange.append(target)
            if strange:
                raise ConfigError(f"{strange[0]}: was not made by this command and would be replaced; move it away")


def check_new_folder(path: Path, command: str, overwrite: bool, renew: bool = False) -> set[str]:
    """The files in a folder that may be replaced; see `OutputFolder`. Raises ConfigError if nothing may be written."""
    place = _place(path)
    if not os.path.lexists(place):
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link to nothing; remove it, or give another name")
        return set()
    if not place.is_dir():
        raise ConfigError(f"{path}: expected a folder or nothing, got a file; give another name")
    if not any(place.iterdir()):
        return set()
    made_by, files = _read_marker(place)
    if not made_by:
        raise ConfigError(f"{path}: is a folder with files that no command made; name a new or empty folder")
    if not overwrite and not (renew and made_by == f"mm-perception {command}"):
        raise ConfigError(f"{path}: exists already, from {made_by}; {OVERWRITE}")
    return files


def _read_marker(folder: Path) -> tuple[str, set[str]]:
    """Which command made a folder, and which files; "" and none: nobody knows."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        made_by, names = str(marker["made_by"]), [PurePosixPath(str(name)) for name in marker["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return "", set()
    if not made_by or any(name.is_absolute() or ".." in name.parts or not name.name for name in names):
        return "", set()
    return made_by, {name.as_posix() for name in names}


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: it cannot be read, is too large or too deep, or is no JSON.
    """
    try:
        return json.loads(read_text(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON ({type(error).__name__}: {error})") from error
