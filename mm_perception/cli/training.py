"""What both `mm-perception train` commands share: tools, options that overrule a recipe, and lines of progress."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mm_perception.core.config import from_mapping, load_yaml, to_mapping
from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.resources import find_config
from mm_perception.engines.load import installed

R = TypeVar("R")
WORLD = Path("world")
_NEEDED = ("torch", "safetensors")


def check_tools() -> None:
    """Raises EngineError if a package that every training needs is missing."""
    missing = [package for package in _NEEDED if not installed(package)]
    if missing:
        raise EngineError(f"training needs {', '.join(missing)}: pip install {' '.join(missing)}")


def overruled(kind: type[R], name: str | None, options: dict[str, Any]) -> R:
    """The recipe of a name or path, or the usual one, with the options in its place that are not None.

    Raises:
        ConfigError: there is no such recipe, or a value is impossible.
    """
    recipe = load_yaml(find_config("recipes", name), kind) if name else kind()
    given = {option: value for option, value in options.items() if value is not None}
    return from_mapping(kind, {**to_mapping(recipe), **given}, "recipe and options")


def check_counts(args: argparse.Namespace) -> None:
    """Raises ConfigError if no frames of the world are asked for."""
    if min(args.frames, args.val_frames) < 1:
        raise ConfigError(f"expected frames to train and to validate with, got {args.frames} and {args.val_frames}")


def check_apart(args: argparse.Namespace) -> None:
    """Raises ConfigError if --val are the frames of --data."""
    if args.val is not None and args.val.resolve() == args.data.resolve():
        raise ConfigError(f"--val: expected other frames than --data, got {args.val} for both; leave --val out")


def advance(progress: Progress, task: TaskID, done: int, total: int) -> None:
    """Shows that so many of the frames are made."""
    progress.update(task, completed=done, total=total)


def bar(console: Console) -> Progress:
    """A line for a training: what it is at, how far, and how long it will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
