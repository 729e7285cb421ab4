"""Thermal images to X images: raw counts, linear temperature, or automatic gain control."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import ThermalFrame

ThermalEncoding = Literal["raw", "kelvin", "agc"]

FULL_SCALE_COUNTS = 16383.0
"""14-bit sensors, counts in the low bits."""

KELVIN_RANGE = (253.15, 333.15)
"""-20 to +60 degrees Celsius: road scenes in all seasons, people and engines inside."""

_UNIT_OF = {"raw": "counts", "kelvin": "kelvin"}


def thermal_image(frame: ThermalFrame, encoding: ThermalEncoding) -> NDArray[np.float32]:
    """(H, W) thermal values to (H, W, 3) in 0..1, the one channel three times.

    Args:
        encoding: `raw`: counts over 16383; `kelvin`: -20..60 degrees Celsius to 0..1; `agc`: the camera's own
            8-bit picture, or, of counts and temperatures, the frame's 1st to 99th percentile stretched to
            0..1 (good for the eye and for weights trained on 8-bit data; it forgets absolute temperature).

    Raises:
        DataError: the frame's unit cannot give that encoding.
    """
    if encoding == "agc":
        grey = frame.values / np.float32(255.0) if frame.unit == "agc" else _stretch(frame.values)
    elif frame.unit != _UNIT_OF[encoding]:
        raise DataError(f"thermal encoding {encoding!r} needs {_UNIT_OF[encoding]}, the frame has {frame.unit}")
    elif encoding == "raw":
        grey = frame.values / np.float32(FULL_SCALE_COUNTS)
    else:
        low, high = KELVIN_RANGE
        grey = (frame.values - np.float32(low)) / np.float32(high - low)
    return np.repeat(np.clip(grey, 0.0, 1.0)[..., None], 3, axis=2).astype(np.float32)


def _stretch(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(values, (1, 99))
    if high - low < 1e-6:  # a uniform scene has no contrast to stretch
        return np.full_like(values, 0.5)
    return np.asarray((values - np.float32(low)) / np.float32(high - low), np.float32)
