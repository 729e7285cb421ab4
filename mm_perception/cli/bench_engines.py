"""`mm-perception bench engines`: how fast and how equal the engines are, side by side."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.bench.machine import cpu_name
from mm_perception.bench.networks import bench_card
from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.files import write_json
from mm_perception.core.scratch import scratch_folder
from mm_perception.engines.engine import Array, Engine
from mm_perception.engines.load import ENGINE_NAMES, available_engines, installed, load_engine
from mm_perception.engines.reference import made_inputs
from mm_perception.engines.stamp import installed_version


@dataclass(frozen=True, slots=True)
class Timing:
    """One engine on one network."""

    variant: str
    engine: str
    version: str
    min_ms: float
    median_ms: float
    cpu_ms: float  # CPU time of all threads in the fastest round by CPU time
    max_abs_diff: float  # of the logits, from torch's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--variants", nargs="+", default=["b0", "b2"], metavar="V", help="b0 to b5")
    parser.add_argument("--engines", nargs="+", default=None, choices=ENGINE_NAMES, help="those installed")
    parser.add_argument("--height", type=numbers.side_px, default=480, metavar="PX")
    parser.add_argument("--width", type=numbers.side_px, default=640, metavar="PX")
    parser.add_argument(
        "--threads", type=numbers.whole(1, numbers.MAX_THREADS), default=1, help="CPU threads per engine (1)"
    )
    parser.add_argument("--rounds", type=numbers.count_or_none, default=7, help="timed runs per engine, in turns (7)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep exported ONNX files here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Times the engines in turns, so that all of them meet the same load of the machine.

    Raises:
        ConfigError: an option is out of range.
        EngineError: torch or every other engine is missing, or an engine fails.
    """
    if args.rounds < 1:
        raise ConfigError(f"--rounds: expected at least 1, got {args.rounds}")
    check_files(args, {"json": "json"})
    names = args.engines or list(available_engines())
    if not installed("torch"):
        raise EngineError("the comparison needs torch: pip install torch")
    print(f"CMX, {args.height}x{args.width} px, batch 1, float32, {args.threads} thread(s), {cpu_name()}")
    print(f"{args.rounds} rounds in turns after one warm-up; seeded random weights\n")
    print(f"{'variant':8} {'engine':12} {'version':22} {'min ms':>8} {'median':>8} {'cpu ms':>8} {'max |diff|':>11}")
    timings: list[Timing] = []
    kept: AbstractContextManager[str | Path] = (
        nullcontext(args.cache)
        if args.cache is not None
        else scratch_folder(Path(tempfile.gettempdir()) / "mm_perception")
    )
    with kept as cache:
        for variant in args.variants:
            for timing in _bench(variant, names, args, Path(cache)):
                timings.append(timing)
                print(
                    f"{timing.variant:8} {timing.engine:12} {timing.version:22} {timing.min_ms:8.0f} "
                    f"{timing.median_ms:8.0f} {timing.cpu_ms:8.0f} {timing.max_abs_diff:11.1e}",
                    flush=True,
                )
    if args.json is not None:
        write_json(args.json, _report(args, timings), args.overwrite)
    return 0


def _report(args: argparse.Namespace, timings: list[Timing]) -> dict[str, Any]:
    return {
        "height": args.height,
        "width": args.width,
        "threads": args.threads,
        "rounds": args.rounds,
        "cpu": cpu_name(),
        "timings": [asdict(timing) for timing in timings],
    }


def _bench(variant: str, names: list[str], args: argparse.Namespace, cache: Path) -> list[Timing]:
    card = bench_card(f"cmx-{variant}", args.height, args.width)
    tensors = made_inputs(card)[0]
    reference = load_engine(card, "torch", threads=args.threads)
    expected = reference.run(tensors)["logits"]
    reference.close()
    engines = [load_engine(card, name, threads=args.threads, cache_dir=cache) for name in names]
    differences = [float(np.abs(engine.run(tensors)["logits"] - expected).max()) for engine in engines]
    rounds = [[_time(engine, tensors) for engine in engines] for _ in range(args.rounds)]
    timings = []
    for i, (engine, difference) in enumerate(zip(engines, differences, strict=True)):
        wall = [one[i][0] for one in rounds]
        cpu = min(one[i][1] for one in rounds)
        version = installed_version(engine.name)
        timings.append(Timing(variant, engine.name, version, min(wall), statistics.median(wall), cpu, difference))
        engine.close()
    return timings


def _time(engine: Engine, tensors: dict[str, Array]) -> tuple[float, float]:
    """Wall and CPU milliseconds of one inference."""
    wall, cpu = time.perf_counter(), time.process_time()
    engine.run(tensors)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
