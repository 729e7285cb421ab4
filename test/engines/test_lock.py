"""The cache's lock against other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mm_perception.core.errors import EngineError
from mm_perception.core.processes import EndedError, allow_children, end_children
from mm_perception.core.progress import Caution
from mm_perception.engines.stamp import check_writable, locked

HOLD = """
import sys
from pathlib import Path
from mm_perception.engines.stamp import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "m.onnx")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_of_another_process_is_waited_for_and_named(tmp_path: Path, holder: subprocess.Popen[str]):
    refused = pytest.raises(EngineError, match=r"m\.onnx\.lock: another process has held this lock")
    with refused, locked(tmp_path / "m.onnx", timeout_s=0.2):
        pytest.fail("two processes hold one lock")


def test_a_lock_dies_with_its_process(tmp_path: Path, holder: subprocess.Popen[str]):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "m.onnx", timeout_s=0.2):
        pass


def test_an_error_inside_frees_the_lock(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "m.onnx"):
        1 / 0  # noqa: B018
    with locked(tmp_path / "m.onnx", timeout_s=0.2):
        pass


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EngineError, match="cannot be written"), locked(tmp_path / "file" / "m.onnx"):
        pytest.fail("locked below a file")


def test_waiting_is_told_once_and_ends_when_the_other_is_done(tmp_path: Path, holder: subprocess.Popen[str]):
    told: list[str] = []
    waits = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        waits.set()

    def free() -> None:
        assert waits.wait(10.0)
        holder.kill()

    thread = threading.Thread(target=free)
    thread.start()
    with locked(tmp_path / "m.onnx", timeout_s=10.0, tell=tell):
        assert told == ["waiting for another process that works on m.onnx"]
    thread.join()


def test_waiting_ends_when_the_process_is_told_to(tmp_path: Path, holder: subprocess.Popen[str]):
    try:
        with pytest.raises(EndedError), locked(tmp_path / "m.onnx", 10.0, lambda text: end_children() and None):
            pytest.fail("two processes hold one lock")
    finally:
        allow_children()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_folder_that_cannot_be_written_is_read_with_a_caution(tmp_path, monkeypatch, code, has_lock):
    told: list[str] = []
    if has_lock:
        (tmp_path / "m.onnx.lock").touch()
    opened = Path.open

    def refuse(path, mode="r", *rest, **more):
        if "r" not in mode:
            raise OSError(code, os.strerror(code))
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with locked(tmp_path / "m.onnx", tell=told.append):
        pass
    (text,) = told
    assert isinstance(text, Caution) and os.strerror(code) in text and "MM_PERCEPTION_CACHE" in text


def test_what_cannot_be_kept_is_said_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path, "m must be built")
    check_writable(tmp_path / "none", "m must be built")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(EngineError, match=r"m must be built, but .* cannot be written: set MM_PERCEPTION_CACHE"):
        check_writable(tmp_path, "m must be built")


EXPORT = """
import sys
from pathlib import Path
from mm_perception.engines.card import find_card
from mm_perception.engines.load import exported
print("begin", flush=True)
sys.stdin.readline()
print(exported(find_card(sys.argv[1]), sys.argv[2], lambda text: print(text, flush=True)))
"""


def test_two_processes_that_begin_at_once_export_once(small_card: Path, tmp_path: Path):
    for package in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    line = [sys.executable, "-c", EXPORT, str(small_card), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen(line, **pipes, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "begin\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("exporting small to" in text for text in said) == [False, True]
    assert sorted("waiting for another process that works on small" in text for text in said) == [False, True]
    assert len({text.splitlines()[-1] for text in said}) == 1
