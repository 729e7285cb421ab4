"""`mm-perception train segmentation|detection`: from labelled frames to weights with a card."""

from __future__ import annotations

import argparse
import importlib

TASKS = {
    "segmentation": "a CMX network, on simulated scenes, a folder of images or a labelled bag",
    "detection": "a DeepInteraction++ detector, on simulated scenes, a folder of frames or a bag with true boxes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, text in TASKS.items():
        _module(name).add_arguments(tasks.add_parser(name, help=text, description=text))


def run(args: argparse.Namespace) -> int:
    """Trains for one task."""
    return int(_module(args.task).run(args))


def _module(name: str):  # type: ignore[no-untyped-def]  # a module of this room
    return importlib.import_module(f"mm_perception.cli.train_{name}")
