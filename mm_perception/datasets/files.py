"""Reading the files of data sets, with errors that name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError

FIRST_NS = 1_600_000_000_000_000_000
"""Where recordings start whose files hold no stamps (2020-09-13T12:26:40Z); zero would mean that nobody set it."""


def require_folder(folder: Path, *parts: str) -> Path:
    """Raises DataError if the folder, or one of the parts in it, does not exist."""
    for path in (folder, *(folder / part for part in parts)):
        if not path.exists():
            raise DataError(f"{path} does not exist")
    return folder


def read_json(path: Path) -> Any:
    """Raises DataError if the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error


def read_bytes(path: Path) -> NDArray[np.uint8]:
    """A file as it is."""
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_points(path: Path, columns: int) -> NDArray[np.float32]:
    """(N, columns) float32 of a file without a header.

    Raises:
        DataError: the file is missing, or its size is no whole number of points.
    """
    data = read_bytes(path)
    if data.size % (4 * columns):
        raise DataError(f"{path}: {data.size} bytes are no whole points of {columns} floats")
    return data.view(np.float32).reshape(-1, columns)


def read_image(path: Path) -> NDArray[Any]:
    """An image as OpenCV reads it (blue first). Raises DataError."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if pixels is None:
        raise DataError(f"{path}: is missing or no image")
    return pixels
