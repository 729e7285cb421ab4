"""What both `mm-perception evaluate` commands ask for: which held-out frames, and where results go."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import OutputFolder, check_new_folder


def add_frame_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--frames", type=numbers.count_or_none, default=210, help="held-out frames, all conditions in turn"
    )
    parser.add_argument("--seed", type=numbers.seed, default=0, help="which set of held-out worlds, 0 to 999")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    add_overwrite(parser)
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--cache", type=Path, help="folder of frames that were made before")


def check_frame_options(args: argparse.Namespace) -> None:
    """Raises ConfigError if there are no such frames, or an output must not be written."""
    if args.frames < 1 or not 0 <= args.seed < 1000:
        raise ConfigError(f"expected --frames of at least 1 and --seed in 0..999, got {args.frames} and {args.seed}")
    check_files(args, {"json": "json"}, (args.cache,), folders=("pictures",))
    if args.pictures is not None:
        check_new_folder(args.pictures, f"evaluate {args.task}", args.overwrite)


def open_pictures(args: argparse.Namespace) -> contextlib.AbstractContextManager[OutputFolder | None]:
    """The folder of --pictures; None where none were asked for. Raises ConfigError if it must not be written."""
    if args.pictures is None:
        return contextlib.nullcontext()
    return OutputFolder(args.pictures, f"evaluate {args.task}", args.overwrite)
