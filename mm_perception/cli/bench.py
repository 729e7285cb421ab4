"""`mm-perception bench codec|sync|engines|gpu|transport|overload`: measurements; nothing here is a test."""

from __future__ import annotations

import argparse
import importlib

BENCHES = {
    "codec": "milliseconds per message of each kind",
    "sync": "this package's synchronizer against message_filters' on the same streams",
    "engines": "milliseconds per inference of each engine",
    "transport": "how many raw images and clouds arrive between two processes over ROS 2, by publisher and QoS",
    "overload": "how old results get when a live node is sent more sets than it can infer",
    "gpu": "networks and pipeline on an NVIDIA GPU, beside its roofline",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    benches = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    for name, text in BENCHES.items():
        _module(name).add_arguments(benches.add_parser(name, help=text, description=text))


def run(args: argparse.Namespace) -> int:
    """Runs one bench."""
    return int(_module(args.bench).run(args))


def _module(name: str):  # type: ignore[no-untyped-def]  # a module of this room
    return importlib.import_module(f"mm_perception.cli.bench_{name}")
