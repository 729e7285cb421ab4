"""Numbers on command lines: `type=` functions of argparse that refuse nan, inf and what is out of range."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

MAX_THREADS = 256
MAX_SEED = 2**31 - 1
MAX_COUNT = 10_000_000
MAX_SIDE_PX = 8192
MAX_MINUTES = 100_000.0

_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """A whole number in [minimum, maximum]."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"expected a whole number in [{minimum}, {maximum}], got {text[:40]!r}")
        return int(text)

    return parse


def real(minimum: float, maximum: float) -> Callable[[str], float]:
    """A finite number in [minimum, maximum]."""

    def parse(text: str) -> float:
        value = float(text) if _REAL.fullmatch(text) else math.nan
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"expected a number in [{minimum:g}, {maximum:g}], got {text[:40]!r}")
        return value

    return parse


def path(text: str) -> Path:
    """A path that an operating system can take."""
    if "\0" in text or not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one or one with a zero byte")
    return Path(text)


threads = whole(0, MAX_THREADS)
seed = whole(0, MAX_SEED)
side_px = whole(1, MAX_SIDE_PX)
count = whole(1, MAX_COUNT)
count_or_none = whole(0, MAX_COUNT)
minutes = real(0.0, MAX_MINUTES)
