"""Work in a process of its own: a builder or converter that crashes, or takes all memory, takes no node with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mm_perception.core.errors import EngineError
from mm_perception.core.processes import check_not_ended, child
from mm_perception.engines.tensorrt.errors import RefusedError

Progress = Callable[[str], None]


def job_text(job: Any) -> str:
    """A job (a dataclass) as JSON, as its `from_json` reads it."""
    return json.dumps(asdict(job), default=str)


def run_apart(task: str, job: Any, tell: Progress, interpreter: str = sys.executable) -> dict[str, Any]:
    """Runs one of `apart_process.TASKS` and waits for it.

    Args:
        job: what to do; a dataclass of the task.
        tell: hears of the progress.

    Returns:
        what the task gave.

    Raises:
        RefusedError: what was asked for cannot be had, or the process crashed.
        EngineError: it was killed, or ran out of memory or disk. With what it said.
        EndedError: this process has been told to end.
    """
    line = [interpreter, "-m", "mm_perception.engines.tensorrt.apart_process", task, job_text(job)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise}
        try:
            with child(line, **pipes, text=True, encoding="utf-8") as process:
                last = _listen(process, tell)
                code = process.wait()
        except OSError as error:
            raise EngineError(f"no process for the {task}: {error}") from error
        check_not_ended()  # else its end would be taken for a failure
        noise.seek(0)
        words = noise.read().strip().splitlines()[-5:]
    if "done" in last:
        return dict(last["done"])
    if "refused" in last:
        raise RefusedError(str(last["refused"]))
    if "error" in last:
        raise EngineError(str(last["error"]))
    text = f"the process of the {task} {_ending(code)}" + "".join(f"\n  {word}" for word in words)
    raise EngineError(text) if code == -signal.SIGKILL else RefusedError(text)


def _listen(process: subprocess.Popen[str], tell: Progress) -> dict[str, Any]:
    last: dict[str, Any] = {}
    assert process.stdout is not None
    for text in process.stdout:
        try:
            last = json.loads(text)
        except ValueError:  # cut off: what the process ended with says more
            continue
        if "progress" in last:
            tell(str(last["progress"]))
    return last


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; the system does that when memory runs out"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    return f"ended with {code} and said nothing"
