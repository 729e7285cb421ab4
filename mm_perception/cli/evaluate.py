"""`mm-perception evaluate segmentation|detection`: what a second sensor buys, on held-out scenes."""

from __future__ import annotations

import argparse
import importlib

TASKS = {
    "segmentation": "networks of RGB alone, RGB-thermal and RGB-depth side by side",
    "detection": "cameras and LiDAR against the LiDAR alone, and against cameras that fail",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, text in TASKS.items():
        _module(name).add_arguments(tasks.add_parser(name, help=text, description=text))


def run(args: argparse.Namespace) -> int:
    """Evaluates one task."""
    return int(_module(args.task).run(args))


def _module(name: str):  # type: ignore[no-untyped-def]  # a module of this room
    return importlib.import_module(f"mm_perception.cli.evaluate_{name}")
