"""`mm-perception COMMAND`: one file per command, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from mm_perception import __version__
from mm_perception.core.errors import MmPerceptionError

COMMANDS = {
    "demo": "play a bag through the fusion node over DDS and show what comes out",
    "soak": "drive a live node with a simulated vehicle and random faults, and judge it",
    "run": "start the fusion node (as `ros2 run mm_perception fusion_node` does)",
    "rig": "write a commented rig from a bag or from the topics that are there",
    "check": "tell before a drive what of a rig is missing, late, out of sync or without transforms",
    "play": "publish what bags hold over ROS, at their pace, with /clock",
    "replay": "run a bag through the same pipeline without ROS, with metrics",
    "simulate": "make a bag of a drive through the simulated world, with the truth",
    "evaluate": "measure what a second sensor buys, on held-out simulated scenes",
    "train": "train a network and publish its weights with a card",
    "export": "write a model as ONNX with its card",
    "build-engine": "build a TensorRT engine of a model and try it",
    "metrics": "score files of boxes with the nuScenes detection metric",
    "convert": "make a bag of recorded data sets: nuscenes, kitti, rgbt",
    "bench": "measure codec, synchronizer, engines or a GPU",
    "security-policy": "write an SROS2 policy for the fusion node on a rig",
    "fuzz": "feed damaged messages, bags, configuration and weights to everything that reads them",
    "info": "show what is in a bag, and which engines, rigs and models there are",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with an option in one line; `--help` shows the rest."""

    def error(self, message: str) -> NoReturn:
        raise _OptionError(f"{self.prog}: {message}")


class _OptionError(Exception):
    """The command line is not one of this program's."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 when it did what it was asked to, 2 for wrong input (said in one line), 130 when interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    parser = _Parser(prog="mm-perception", description=__doc__)
    parser.add_argument("--version", action="version", version=f"mm-perception {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    # A command's file is imported only when it is asked for: some need ROS, torch or others.
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    module = None
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            module = importlib.import_module(f"mm_perception.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
    try:
        args = parser.parse_args(arguments)
    except _OptionError as error:
        print(error, file=sys.stderr)
        return 2
    assert module is not None
    try:
        return int(module.run(args))
    except MmPerceptionError as error:
        print(f"mm-perception {args.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"mm-perception {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
