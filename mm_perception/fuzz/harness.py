"""Runs inputs in a subprocess that may die: what is foreign, slow, large or fatal becomes a finding.

A child is forked for a range of inputs and says with each which one it is at. Memory is judged by the child's own
high-water mark, which costs a microsecond to read: only an input that raised it beyond the budget can have broken it.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mm_perception.core.errors import MmPerceptionError
from mm_perception.fuzz.cost import measured
from mm_perception.fuzz.targets import Target, input_of

MOST_SECONDS, MOST_BYTES = 2.0, 500_000_000
_HANG_S = 60.0
"""Of wall time: far beyond what a busy machine makes of 2 s."""
_RANGE = 20_000
"""Inputs per child: libraries that keep something per input do not grow for ever."""
_MOST_ADDRESS_SPACE = 16 << 30
_AT = struct.Struct("<q")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke a promise.

    Attributes:
        kind: foreign (an error of another family), slow, large, hang or crash.
        seconds: of processor time, whatever else the machine does.
    """

    target: str
    seed: int
    index: int
    kind: str
    text: str
    seconds: float = 0.0
    bytes: int = 0


@dataclass(slots=True)
class TargetReport:
    """What came of one target. `refused`: inputs that ended in one of this package's errors."""

    target: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def shares(targets: list[Target], inputs: int) -> dict[str, int]:
    """How many of the inputs each target gets, at least one."""
    whole = sum(target.share for target in targets)
    counts = {target.name: max(1, inputs * target.share // whole) for target in targets}
    widest = max(targets, key=lambda target: target.share).name
    counts[widest] += max(0, inputs - sum(counts.values()))
    return counts


def fuzz(targets: list[Target], inputs: int, seed: int, on_progress: Report | None = None) -> list[TargetReport]:
    """Feeds each target its share of inputs.

    Args:
        on_progress: is told a target's name, the inputs done and all of its inputs.
    """
    reports = []
    for target in targets:
        report, wanted = TargetReport(target.name), shares(targets, inputs)[target.name]
        input_of(target, seed, 0)  # what is imported and made once, before the fork
        start = time.perf_counter()
        while report.inputs < wanted:
            first = report.inputs
            _run_range(target, seed, first, min(wanted, first + _RANGE), report)
            if on_progress is not None:
                on_progress(target.name, report.inputs, wanted)
        report.seconds = time.perf_counter() - start
        reports.append(report)
    return reports


def check_input(target: Target, data: bytes) -> Finding | None:
    """Runs one input in this process: for what was found, and for tests."""
    caught: list[str] = []

    def run() -> None:
        try:
            target.run(data)
        except MmPerceptionError:
            return
        except Exception as error:
            caught.append(f"{type(error).__name__}: {str(error)[:300]}")

    cost = measured(run)
    kind = "foreign" if caught else _over(cost.seconds, cost.bytes)
    return Finding(target.name, -1, -1, kind, "".join(caught), cost.seconds, cost.bytes) if kind else None


def _over(seconds: float, size: int) -> str:
    return "large" if size > MOST_BYTES else "slow" if seconds > MOST_SECONDS else ""


def _run_range(target: Target, seed: int, first: int, stop: int, report: TargetReport) -> None:
    """Runs inputs up to `stop`, or to the first that ends the child; `report.inputs` is where to go on."""
    at = mmap.mmap(-1, _AT.size)
    at[:] = _AT.pack(first)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                _child(target, seed, first, stop, at, lambda words: print_line(pipe, words))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    ended = False
    try:
        for words in _lines(reading, child, at):
            if "finding" in words:
                report.findings.append(Finding(**words["finding"]))
            ended = ended or "next" in words
            if ended:
                report.inputs, report.slowest_s = words["next"], max(report.slowest_s, words["slowest_s"])
                report.refused += words["refused"]
    finally:
        os.close(reading)
    _, status = os.waitpid(child, 0)
    index = _AT.unpack(at[:])[0]
    at.close()
    if not ended:
        hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        kind, text = ("hang", f"more than {_HANG_S:g} s") if hung else ("crash", f"wait status {status}")
        report.findings.append(Finding(target.name, seed, index, kind, text))
        report.inputs = index + 1


def print_line(pipe: Any, words: dict[str, Any]) -> None:
    pipe.write(json.dumps(words) + "\n")
    pipe.flush()


def _lines(reading: int, child: int, at: mmap.mmap) -> Iterator[dict[str, Any]]:
    """What the child says, to its end; a child that stays at one input for too long is killed."""
    rest, last, since = b"", -1, time.monotonic()
    while True:
        ready, _, _ = select.select([reading], [], [], 1.0)
        if ready:
            data = os.read(reading, 1 << 16)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from (json.loads(line) for line in whole)
        index = _AT.unpack(at[:])[0]
        if index != last:
            last, since = index, time.monotonic()
        elif time.monotonic() - since > _HANG_S:
            os.kill(child, signal.SIGKILL)
            return


def _child(
    target: Target, seed: int, first: int, stop: int, at: mmap.mmap, say: Callable[[dict[str, Any]], None]
) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESS_SPACE, _MOST_ADDRESS_SPACE))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # libraries complain about damaged files there
    peak, slowest, refused = _peak(), 0.0, 0
    for index in range(first, stop):
        at[:] = _AT.pack(index)
        data = input_of(target, seed, index)
        peak = max(peak, _peak())
        foreign, start = "", time.process_time()
        try:
            target.run(data)
        except MmPerceptionError:
            refused += 1
        except BaseException as error:
            foreign = f"{type(error).__name__}: {str(error)[:300]}"
        seconds, risen = time.process_time() - start, _peak() - peak
        slowest = max(slowest, seconds)
        kind = "foreign" if foreign else _over(seconds, risen)
        if kind:
            say({"finding": asdict(Finding(target.name, seed, index, kind, foreign, seconds, risen))})
        if risen > MOST_BYTES // 4:  # the mark would hide a lower peak of the next
            say({"next": index + 1, "slowest_s": slowest, "refused": refused})
            return
    say({"next": stop, "slowest_s": slowest, "refused": refused})


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_findings(reports: list[TargetReport], targets: list[Target], folder: Path) -> list[Path]:
    """Writes the input of each finding. Raises OSError."""
    by_name = {target.name: target for target in targets}
    paths = []
    for finding in (one for report in reports for one in report.findings):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{finding.target}-{finding.seed}-{finding.index}-{finding.kind}.bin"
        path.write_bytes(input_of(by_name[finding.target], finding.seed, finding.index))
        paths.append(path)
    return paths
