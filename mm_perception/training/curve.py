"""The course of a run: curve.csv for programs, curve.png for people."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.files import replace_file
from mm_perception.core.scratch import scratch_file
from mm_perception.training.checkpoint import CURVE_COLUMNS

Row = Sequence[float | str]

_PANEL = (640, 300)  # width, height of a panel [px]
_MARGIN = (60, 20, 30, 30)  # left, right, top, bottom [px]
_INK, _GRID = (40, 40, 40), (225, 225, 225)
LOSS, QUALITY = (200, 120, 40), (60, 140, 40)  # blue first, as OpenCV draws


def write_curve(rows: Sequence[Row], path: Path) -> None:
    """Writes all rows anew."""
    with scratch_file(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(CURVE_COLUMNS)
            writer.writerows(rows)
        temporary.replace(path)


def append_curve(row: Row, path: Path) -> None:
    """Adds one row to a file that `write_curve` made."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)


def draw_curve(rows: Sequence[Row], path: Path) -> None:
    """Draws loss and mIoU over steps, one below the other.

    Raises:
        OSError: the picture cannot be written.
    """
    column = {name: i for i, name in enumerate(CURVE_COLUMNS)}

    def points(name: str) -> NDArray[np.float64]:
        pairs = [(row[column["step"]], row[column[name]]) for row in rows if row[column[name]] != ""]
        return np.array(pairs, np.float64).reshape(-1, 2)

    draw_panels([("loss", points("loss"), LOSS), ("mIoU of validation frames", points("miou"), QUALITY)], path)


def draw_panels(panels: Sequence[tuple[str, NDArray[np.float64], tuple[int, int, int]]], path: Path) -> None:
    """Draws lines, one below the other.

    Args:
        panels: title, (N, 2) points (step, value) and colour of each, blue first.

    Raises:
        OSError: the picture cannot be written.
    """
    done, data = cv2.imencode(path.suffix, np.concatenate([_panel(*panel) for panel in panels]))
    if not done:
        raise OSError(f"{path}: the image cannot be encoded")
    replace_file(path, data.tobytes())


def _panel(title: str, points: NDArray[np.float64], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 picture of one line; points (N, 2) as (step, value)."""
    width, height = _PANEL
    left, right, top, bottom = _MARGIN
    picture = np.full((height, width, 3), 255, np.uint8)
    _write(picture, title, (left, top - 10))
    if len(points) == 0:
        return picture
    low, high = float(points[:, 1].min()), float(points[:, 1].max())
    high = high if high > low else low + 1e-6
    last = max(float(points[:, 0].max()), 1.0)
    for value in np.linspace(low, high, 5):
        y = round(height - bottom - (value - low) / (high - low) * (height - top - bottom))
        cv2.line(picture, (left, y), (width - right, y), _GRID)
        _write(picture, f"{value:.3g}", (4, y + 4))
    for step in np.linspace(0.0, last, 5):
        _write(picture, f"{step:.0f}", (round(left + step / last * (width - left - right)) - 12, height - 10))
    x = left + points[:, 0] / last * (width - left - right)
    y = height - bottom - (points[:, 1] - low) / (high - low) * (height - top - bottom)
    line = np.rint(np.stack([x, y], axis=1)).astype(np.int32)
    cv2.polylines(picture, [line[:, None]], False, colour, 2, cv2.LINE_AA)
    if len(line) == 1:
        cv2.circle(picture, (int(line[0, 0]), int(line[0, 1])), 3, colour, -1)
    return picture


def _write(picture: NDArray[np.uint8], text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
