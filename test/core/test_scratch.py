"""What killed processes leave goes at the next start; what others have stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mm_perception.core import scratch
from mm_perception.core.scratch import (
    FOREIGN_AGE_S,
    make_scratch_folder,
    remove_orphans,
    scratch_file,
    scratch_folder,
    scratch_path,
)

WORK = """
import sys
from pathlib import Path
from mm_perception.core.scratch import make_scratch_folder, scratch_file
target = Path(sys.argv[1])
with scratch_file(target, ".npz") as temporary:
    temporary.write_bytes(b"half")
    folder = make_scratch_folder(target)
    (folder / "deep").mkdir()
    (folder / "deep" / "half").write_bytes(b"half")
    print("working", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch):
    monkeypatch.setattr(scratch, "LOOK_AGAIN_S", 0.0)


@pytest.fixture
def worker(tmp_path):
    """A process in the middle of its work."""
    line = [sys.executable, "-c", WORK, str(tmp_path / "frames.npz")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.communicate()


def age(path: Path, seconds: float) -> None:
    """Makes a file or folder, and all in it, look as if it was written long ago."""
    for one in (*path.rglob("*"), path):
        os.utime(one, (time.time() - seconds,) * 2)


def test_files_of_a_working_process_stay_and_of_a_killed_one_go(tmp_path, worker):
    there = sorted(tmp_path.iterdir())
    assert len(there) == 2 and all(path.name.startswith(".frames.npz.") for path in there)
    for path in there:
        age(path, 2 * FOREIGN_AGE_S)
    assert remove_orphans(tmp_path) == [] and sorted(tmp_path.iterdir()) == there
    worker.kill()
    worker.wait()
    with scratch_file(tmp_path / "next") as temporary:
        assert list(tmp_path.iterdir()) == []
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_is_used_again_is_not_taken_for_the_old_process(tmp_path):
    path = scratch_path(tmp_path / "a")
    pid = str(os.getpid())
    start = path.name.split(f".{pid}-")[1].split("-")[0]
    before = path.with_name(path.name.replace(f".{pid}-{start}-", f".{pid}-{int(start) - 1}-"))
    path.write_bytes(b"mine")
    before.write_bytes(b"of another with this id")
    assert remove_orphans(tmp_path) == [before] and list(tmp_path.iterdir()) == [path]


def test_of_other_machines_only_what_is_old_goes(tmp_path):
    young, old, busy = (tmp_path / f".{name}.999999-7-0123abcd-0.tmp" for name in ("young", "old", "busy"))
    for path in (young, old, busy):
        path.mkdir()
        (path / "part").write_bytes(b"x")
        age(path, FOREIGN_AGE_S + 60)
    os.utime(young)
    (busy / "part").write_bytes(b"still written to")
    assert remove_orphans(tmp_path) == [old]
    assert sorted(tmp_path.iterdir()) == sorted([young, busy])


def test_what_is_of_another_form_or_user_stays(tmp_path, monkeypatch):
    dead = scratch_path(tmp_path / "a").name.replace(f".{os.getpid()}-", ".999999999-")
    others = [tmp_path / name for name in ("notes.tmp", ".vim.swp", ".a.123.tmp", dead.removeprefix("."), f"{dead}~")]
    for path in others:
        path.write_bytes(b"not ours")
        age(path, 10 * FOREIGN_AGE_S)
    (tmp_path / "album").mkdir()
    link = tmp_path / dead
    link.symlink_to("album")
    os.utime(link, (0, 0), follow_symlinks=False)
    assert remove_orphans(tmp_path) == [] and link.is_symlink()
    link.unlink()
    link.write_bytes(b"of another user")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert remove_orphans(tmp_path) == [] and link.exists()
    monkeypatch.undo()
    monkeypatch.setattr(scratch, "LOOK_AGAIN_S", 0.0)
    assert remove_orphans(tmp_path) == [link]
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "album"])


def test_names_differ_and_long_ones_fit(tmp_path):
    for name in ("a" * 250, "ä" * 120, ".hidden", "."):
        one, other = scratch_path(tmp_path / name, ".npz"), scratch_path(tmp_path / name, ".npz")
        assert one != other and one.name.startswith(".") and one.suffix == ".npz"
        one.write_bytes(b"it fits")


def test_an_error_leaves_nothing(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        scratch_file(tmp_path / "a") as file,
        scratch_folder(tmp_path / "b") as folder,
    ):
        file.write_bytes(b"x")
        (folder / "x").write_bytes(b"x")
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    assert make_scratch_folder(tmp_path / "a").is_dir()


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    assert remove_orphans(tmp_path / "none") == []
