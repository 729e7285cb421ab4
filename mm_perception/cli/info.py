"""`mm-perception info [BAG...]`: what is in a bag, or in several as one timeline, or what this installation has."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from rich.table import Table

from mm_perception.bags.reader import BagReader
from mm_perception.cli.console import make_console
from mm_perception.core.resources import config_dir
from mm_perception.engines.load import ENGINE_NAMES, why_not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("bag", nargs="*", type=Path, help="an .mcap, .db3 or .bag file, or a folder; several: as one")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    console = make_console()
    if not args.bag:
        for kind in ("rigs", "models", "classes", "scenarios", "recipes"):
            names = ", ".join(sorted(p.stem for p in (config_dir() / kind).glob("*.yaml")))
            console.print(f"{kind}: {names}", highlight=False)
        reasons = {name: why_not(name) for name in ENGINE_NAMES}
        console.print("engines: " + (", ".join(n for n, why in reasons.items() if why is None) or "none"))
        for name, why in reasons.items():
            if why is not None:
                console.print(f"  not {name}: {why}", soft_wrap=True, highlight=False)
        console.print(f"ROS 2: {'yes' if importlib.util.find_spec('rclpy') else 'no'}")
        return 0
    with BagReader(args.bag) as bag:
        head = f"{bag.name}: {bag.message_count} messages in {bag.duration_s:.3f} s"
        console.print(head, soft_wrap=True, highlight=False)
        for note in bag.notes:
            console.print(note, style="yellow", soft_wrap=True, highlight=False)
        table = Table("topic", "type", "messages")
        for topic, type_name in sorted({**bag.topics, **bag.foreign}.items()):
            table.add_row(topic, type_name, str(bag.count(topic)))
        console.print(table)
        for reason, count in sorted(bag.dropped.items()):
            console.print(f"dropped {count:6d}  {reason}", highlight=False)
    return 0
