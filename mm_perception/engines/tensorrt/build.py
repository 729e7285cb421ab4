"""From an ONNX file to a TensorRT plan, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from mm_perception.core.errors import EngineError
from mm_perception.engines.tensorrt.build_process import BuildJob

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build gave: number of layers, seconds of parsing and building, size of the plan."""

    layers: int
    parse_s: float
    build_s: float
    bytes: int


def build_plan(job: BuildJob, tell: Progress, interpreter: str = sys.executable) -> BuildReport:
    """Builds the plan and waits for it. The plan's file appears under its name only when it is whole.

    Args:
        tell: hears of every phase and, within it, of every tenth.

    Raises:
        EngineError: the graph cannot be built; the builder crashed or ran out of memory. With what it said.
    """
    job.plan.parent.mkdir(parents=True, exist_ok=True)
    temporary = job.plan.with_name(f".{job.plan.name}.{os.getpid()}.tmp")
    inner = BuildJob(job.onnx, temporary, job.library, job.settings, job.timing_cache)
    line = [interpreter, "-m", "mm_perception.engines.tensorrt.build_process", inner.to_json()]
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
            process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True, encoding="utf-8"
            )
            try:
                last = _listen(process, tell)
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
            noise.seek(0)
            words = noise.read().strip().splitlines()[-5:]
        if "done" in last:
            report = BuildReport(**last["done"])
            temporary.replace(job.plan)
            return report
    finally:
        temporary.unlink(missing_ok=True)
    if "error" in last:
        raise EngineError(last["error"])
    raise EngineError(f"the builder {_ending(code)}" + "".join(f"\n  {word}" for word in words))


def _listen(process: subprocess.Popen[str], tell: Progress) -> dict[str, dict]:  # type: ignore[type-arg]
    last: dict[str, dict] = {}  # type: ignore[type-arg]
    assert process.stdout is not None
    for text in process.stdout:
        last = json.loads(text)
        if "progress" in last:
            tell(str(last["progress"]))
    return last


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; the system does that when memory runs out"
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    return f"ended with {code} and said nothing"
