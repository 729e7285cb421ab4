"""`mm-perception bench transport`: how many raw images and clouds arrive between two processes, by size and QoS."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_json

if TYPE_CHECKING:
    from mm_perception.ros.transport import TransportFigures

SIZES = "640x480,1280x720,1920x1080,2MB"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--sizes", default=SIZES, help="WIDTHxHEIGHT (rgb8 image) or <n>MB (cloud), comma separated")
    parser.add_argument(
        "--seconds", type=numbers.real(0.1, 86_400.0), default=20.0, help="how long each publisher sends"
    )
    parser.add_argument("--rate", type=numbers.real(0.01, 1000.0), default=10.0, help="messages per second")
    parser.add_argument(
        "--publishers", default="reliable,best_effort", help="reliability of the publishers, comma separated"
    )
    parser.add_argument(
        "--reliability",
        default="auto",
        choices=("auto", "best_effort", "reliable"),
        help="of the subscription, as in a rig",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints a table.

    Raises:
        ConfigError: rclpy is not installed, or an option cannot be used.
    """
    check_files(args, {"json": "json"})
    try:
        from mm_perception.ros.transport import measure_transport, parse_load
    except ImportError as error:
        raise ConfigError(f"bench transport needs ROS 2 (rclpy), which cannot be imported: {error}") from error
    sizes, publishers = args.sizes.split(","), args.publishers.split(",")
    for size in sizes:
        parse_load(size)
    if wrong := [name for name in publishers if name not in ("reliable", "best_effort")]:
        raise ConfigError(f"--publishers: expected reliable or best_effort, got {', '.join(wrong)!r}")
    figures = [
        measure_transport(size, publisher, asked=args.reliability, seconds=args.seconds, rate_hz=args.rate)
        for size in sizes
        for publisher in publishers
    ]
    make_console().print(_table(figures, args.rate))
    if args.json:
        write_json(args.json, [asdict(one) for one in figures], args.overwrite)
    return 0


def _table(figures: list[TransportFigures], rate_hz: float) -> Table:
    table = Table(title=f"transport at {rate_hz:g} Hz")
    for name in ("message", "[MB]", "publisher", "arrived", "median [ms]", "p95 [ms]", "lost", "subscription"):
        table.add_column(name, justify="left" if name in ("message", "publisher", "subscription") else "right")
    for one in figures:
        times = ("-" if value is None else f"{value:.1f}" for value in (one.median_ms, one.p95_ms))
        lost = "?" if one.lost is None else str(one.lost)
        arrived = f"{one.arrived} of {one.sent}"
        table.add_row(one.load, f"{one.megabytes:.2f}", one.publisher, arrived, *times, lost, one.qos)
    return table
