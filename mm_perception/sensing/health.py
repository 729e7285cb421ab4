"""Whether a measurement shows anything: frozen, black or saturated images, empty clouds; and the ground a LiDAR covers.

Absence of sight is not absence of obstacles, so every measurement is looked at before something is concluded of it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import DepthFrame, EventPacket, ImageFrame, Measurement, PointCloud, ThermalFrame

BLANK_DEVIATION = 1.0
"""An 8-bit image whose values deviate less from their mean shows nothing: a dead, covered or dazzled camera."""
BLACK_LEVEL, WHITE_LEVEL = 16, 250
SATURATED_SHARE = 0.95
"""Of the pixels; beyond it an image is dazzled."""
FROZEN_IMAGES = 2
"""Repetitions of the same image after which its camera counts as frozen: encoders of video repeat one now and then."""
FROZEN_SWEEPS = 3
"""The same for sweeps. Range noise makes no two of them equal, so that one repetition already casts doubt."""
SECTOR_DEG = 10
SECTORS = 360 // SECTOR_DEG
NEAR_M = 1.5
"""Returns from nearer than this are of the vehicle itself or of dirt on the sensor; they say nothing of the ground."""
FAR_M = 200
FEWEST_RETURNS = 3
"""With which a sector counts as covered."""
FORGETS = 0.999
"""What a sweep's best number of returns fades by with each further one: by half in 70 s at 10 Hz."""
_SAMPLES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """The ground that one sweep covers.

    Attributes:
        range_m: (36,) float32, by sector of 10 degrees in the sensor's frame: sector i holds the azimuths from
            -180 + 10 i on, counter-clockwise about +z, 0 along +x. The distance [m] that 95 % of the sector's returns
            do not exceed, in steps of 1 m, at most 200; 0 where there are fewer than 3 returns.
        returns: beyond 1.5 m.
    """

    range_m: NDArray[np.float32]
    returns: int

    @property
    def covered_deg(self) -> int:
        """Sum of the covered sectors."""
        return int(np.count_nonzero(self.range_m)) * SECTOR_DEG


@dataclass(frozen=True, slots=True, eq=False)
class Health:
    """What one measurement is worth.

    Attributes:
        problem: "" for none; frozen, black, blank, saturated or empty.
        repeats: how many measurements before it had the same content.
        coverage: of LiDAR sweeps.
        shape: what describes its form: size, or "" where it has none.
        usual_returns: of LiDAR sweeps, how many returns beyond 1.5 m the sensor gave at best of late.
    """

    problem: str = ""
    repeats: int = 0
    coverage: Coverage | None = None
    shape: str = ""
    usual_returns: int = 0


class HealthMonitor:
    """Looks at the measurements of one sensor in their order."""

    def __init__(self) -> None:
        self._signature: int | None = None
        self._repeats = 0
        self._usual_returns = 0.0

    def look(self, measurement: Measurement) -> Health:
        """The health of the next measurement."""
        signature = content_signature(measurement)
        self._repeats = self._repeats + 1 if signature == self._signature else 0
        self._signature = signature
        problem = condition(measurement)
        if not problem and self._is_frozen(measurement):
            problem = "frozen"
        coverage = cover(measurement.xyz) if isinstance(measurement, PointCloud) else None
        if coverage is not None:
            self._usual_returns = max(coverage.returns, self._usual_returns * FORGETS)
        return Health(problem, self._repeats, coverage, _shape(measurement), round(self._usual_returns))

    def _is_frozen(self, measurement: Measurement) -> bool:
        if isinstance(measurement, EventPacket):
            return len(measurement) > 0 and self._repeats >= FROZEN_IMAGES
        return self._repeats >= (FROZEN_SWEEPS if isinstance(measurement, PointCloud) else FROZEN_IMAGES)


def condition(measurement: Measurement) -> str:
    """What is wrong with a measurement by itself: "", black, blank, saturated or empty.

    Events have none: an event camera that sees nothing move sends nothing.
    """
    if isinstance(measurement, ImageFrame):
        return image_condition(measurement.image)
    if isinstance(measurement, ThermalFrame):
        values = _sample(measurement.values)
        return "blank" if float(values.min()) == float(values.max()) else ""
    if isinstance(measurement, DepthFrame):
        return "" if bool(np.isfinite(_sample(measurement.depth_m)).any()) else "empty"
    if isinstance(measurement, PointCloud):
        return "" if len(measurement) else "empty"
    return ""


def image_condition(image: NDArray[np.uint8]) -> str:
    """Of an (H, W, 3) image: "", black (no value above 16 deviates), blank (all alike) or saturated."""
    values = _sample(image)
    deviation = float(values.std())
    if deviation < BLANK_DEVIATION:
        return "black" if float(values.mean()) < BLACK_LEVEL else "blank"
    return "saturated" if float(np.mean(values >= WHITE_LEVEL)) > SATURATED_SHARE else ""


def content_signature(measurement: Measurement) -> int:
    """A number that two measurements share if they are equal but for their stamps.

    Large arrays are sampled: noise reaches every part of an image, so two of a camera that lives differ anywhere.
    """
    parts: tuple[NDArray[Any], ...]
    if isinstance(measurement, PointCloud):
        parts = (measurement.xyz,)
    elif not isinstance(measurement, EventPacket):
        parts = (_pixels(measurement),)
    else:
        # A static scene gives no events: then nothing repeats.
        times = measurement.t_ns - measurement.stamp_ns
        parts = (measurement.x, measurement.y, times) if len(measurement) else (np.array([measurement.stamp_ns]),)
    number = 0
    for part in parts:
        number = zlib.crc32(np.ascontiguousarray(_sample(part)).data, number ^ part.size & 0xFFFFFFFF)
    return number


def cover(xyz: NDArray[np.float32]) -> Coverage:
    """The ground that (N, 3) points [m] of a sweep cover; see `Coverage`."""
    x, y = xyz[:, 0], xyz[:, 1]
    distance = np.hypot(x, y)
    far = distance >= NEAR_M
    if not far.all():
        x, y, distance = x[far], y[far], distance[far]
    sector = ((np.arctan2(y, x) + np.pi) * (SECTORS / (2 * np.pi))).astype(np.int64) % SECTORS
    metre = np.minimum(distance, FAR_M).astype(np.int64)
    table = np.bincount(sector * (FAR_M + 1) + metre, minlength=SECTORS * (FAR_M + 1)).reshape(SECTORS, FAR_M + 1)
    returns = table.sum(axis=1)
    within = np.cumsum(table, axis=1) >= 0.95 * returns[:, None]
    range_m = (np.argmax(within, axis=1) + 1).clip(max=FAR_M).astype(np.float32)
    range_m[returns < FEWEST_RETURNS] = 0.0
    return Coverage(range_m, len(distance))


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """At most about 65,536 of the values, evenly spread."""
    flat = values.reshape(-1)
    # An odd step does not fall on one channel or one column alone.
    return flat[:: max(1, len(flat) // _SAMPLES) | 1]


def _shape(measurement: Measurement) -> str:
    if isinstance(measurement, EventPacket):
        return f"{measurement.width}x{measurement.height}"
    if isinstance(measurement, PointCloud):
        return ""
    height, width = _pixels(measurement).shape[:2]
    return f"{width}x{height}"


def _pixels(measurement: ImageFrame | DepthFrame | ThermalFrame) -> NDArray[Any]:
    if isinstance(measurement, ImageFrame):
        return measurement.image
    return measurement.depth_m if isinstance(measurement, DepthFrame) else measurement.values
