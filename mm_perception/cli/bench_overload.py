"""`mm-perception bench overload`: a live node that is sent more sets than it can infer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.demo import choose_detector, choose_own_domain
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.cli.soak import endless_drive, use_shipped_dds_profile
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_json
from mm_perception.core.rig import load_rig
from mm_perception.core.settings import FusionSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--rig", default="sim", help="a shipped simulated vehicle: sim or demo (no six cameras)")
    parser.add_argument("--rate", type=numbers.real(0.01, 1000.0), default=4.0, help="sets per second: 4 / n")
    parser.add_argument("--seconds", type=numbers.real(5.0, 86_400.0), default=60.0, help="how long")
    parser.add_argument("--model", default=FusionSettings().model, help="segmentation card, or none")
    parser.add_argument("--detector", help="3D detection card, or none (default: the shipped one, if it fits)")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--log", type=numbers.path, default=Path("out/overload.log"), help="the node's log")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 0 if the results stayed as young as they should, else 1."""
    check_files(args, {"json": "json"})
    console = Console()
    rig = load_rig(args.rig)
    detector = choose_detector(rig, args.detector)
    parameters = {
        "rig": args.rig,
        "model": args.model,
        "engine": args.engine,
        "detector": detector or "none",
        "diagnostics_period_s": "0.5",
    }
    loop = endless_drive(args.rig, rig, args.rate, console)
    choose_own_domain()
    use_shipped_dds_profile()
    try:
        from mm_perception.ros.overload import measure_overload
    except ImportError as error:
        raise ConfigError(f"ROS 2 is not there ({error}): source an installation or run make setup") from error
    figures = measure_overload(rig, parameters, loop, args.rate, args.seconds, args.log, console.print)
    table = Table(
        "offered /s", "inferred /s", "passed over", "inference ms", "age median ms", "age p95 ms", "2 T + P ms",
        "RSS MB/min", title=f"rig {rig.name}, {args.seconds:.0f} s",
    )  # fmt: skip
    table.add_row(
        f"{figures.offered_hz:.2f}", f"{figures.inferred_hz:.2f}", str(figures.superseded),
        f"{figures.inference_ms:.0f}", f"{figures.age_median_ms:.0f}", f"{figures.age_p95_ms:.0f}",
        f"{figures.bound_ms:.0f}", f"{figures.rss_mb_per_min:.2f}",
    )  # fmt: skip
    console.print(table)
    if args.json:
        write_json(args.json, asdict(figures) | {"bound_ms": figures.bound_ms}, args.overwrite)
    return 0 if figures.age_p95_ms <= figures.bound_ms else 1
