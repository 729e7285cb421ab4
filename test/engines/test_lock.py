"""The cache's lock against other processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mm_perception.core.errors import EngineError
from mm_perception.engines.stamp import locked

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
