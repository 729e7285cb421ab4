"""`mm-perception bench overload`: a live node that is sent more sets than it can infer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.driving import add_drive_options, prepare_drive
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_drive_options(parser, rate_hz=4.0)
    parser.add_argument("--seconds", type=numbers.real(5.0, 86_400.0), default=60.0, help="how long")
    parser.add_argument("--log", type=numbers.path, default=Path("out/overload.log"), help="the node's log")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 0 if the results stayed as young as they should, else 1."""
    check_files(args, {"json": "json"})
    console = make_console()
    drive = prepare_drive(args, console)
    from mm_perception.ros.overload import measure_overload

    figures = measure_overload(
        drive.rig, drive.parameters, drive.loop, args.rate, args.seconds, args.log, console.print
    )
    table = Table(
        "offered /s", "inferred /s", "passed over", "inference ms", "age median ms", "age p95 ms", "2 T + P ms",
        "RSS MB/min", title=f"rig {drive.rig.name}, {args.seconds:.0f} s",
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
