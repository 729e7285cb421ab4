"""The street's course: a gently winding centre line, and places given along and across it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEP_M = 1.0


class Road:
    """A centre line through the origin; `s` [m] runs along it, `d` [m] to its left.

    Attributes:
        length_m: s runs from -100 to this.
    """

    def __init__(self, length_m: float, bend_rad: float = 0.0, wave_m: float = 300.0, phase_rad: float = 0.0) -> None:
        """The heading is bend_rad * sin(2 pi s / wave_m + phase_rad), less its value at s = 0."""
        self.length_m = length_m
        self._s = np.arange(-100.0, length_m + 2 * _STEP_M, _STEP_M)
        angle = bend_rad * (np.sin(2 * np.pi * self._s / wave_m + phase_rad) - np.sin(phase_rad))
        xy = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=1) * _STEP_M, axis=0)
        self._xy = xy - xy[100]
        self._angle = angle

    def heading(self, s_m: float) -> float:
        """Direction of travel at s, about +z, 0 along +x [rad]."""
        return float(np.interp(s_m, self._s, self._angle))

    def bounds(self, margin_m: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Corners (x, y) of the rectangle along the axes that holds the whole line and `margin_m` around it."""
        (x0, y0), (x1, y1) = self._xy.min(axis=0) - margin_m, self._xy.max(axis=0) + margin_m
        return (float(x0), float(y0)), (float(x1), float(y1))

    def place(self, s_m: float, d_m: float) -> tuple[float, float]:
        """World (x, y) of one place."""
        x, y = self.places(np.array([s_m]), np.array([d_m]))[0]
        return float(x), float(y)

    def places(self, s_m: NDArray[np.floating], d_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) world (x, y) of N places."""
        angle = np.interp(s_m, self._s, self._angle)
        x = np.interp(s_m, self._s, self._xy[:, 0]) - np.sin(angle) * d_m
        y = np.interp(s_m, self._s, self._xy[:, 1]) + np.cos(angle) * d_m
        return np.stack([x, y], axis=1)
