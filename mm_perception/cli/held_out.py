"""What both `mm-perception evaluate` commands ask for: which held-out frames, and where results go."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.core.errors import ConfigError


def add_frame_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--frames", type=numbers.count_or_none, default=210, help="held-out frames, all conditions in turn"
    )
    parser.add_argument("--seed", type=numbers.seed, default=0, help="which set of held-out worlds, 0 to 999")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--cache", type=Path, help="folder of frames that were made before")


def check_frame_options(args: argparse.Namespace) -> None:
    """Raises ConfigError if there are no such frames."""
    if args.frames < 1 or not 0 <= args.seed < 1000:
        raise ConfigError(f"expected --frames of at least 1 and --seed in 0..999, got {args.frames} and {args.seed}")
