"""Oriented boxes: corners and point membership."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import Detections3D


def box_corners(
    centers: NDArray[np.floating], sizes_lwh: NDArray[np.floating], yaw_rad: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The corners of N boxes.

    Returns:
        (N, 8, 3) [m]: the bottom face counter-clockwise from front left, then the top face likewise.
    """
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
    offsets = np.concatenate([np.c_[signs, -np.ones(4)], np.c_[signs, np.ones(4)]]) / 2
    local = offsets[None] * np.asarray(sizes_lwh, dtype=np.float64)[:, None]
    cos, sin = np.cos(yaw_rad)[:, None], np.sin(yaw_rad)[:, None]
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    return np.stack([x, y, local[..., 2]], axis=-1) + np.asarray(centers, dtype=np.float64)[:, None]


def count_points_inside(xyz: NDArray[np.floating], boxes: Detections3D) -> NDArray[np.int64]:
    """How many of the (P, 3) points, given in the boxes' frame, each of N boxes holds. Returns (N,)."""
    counts = np.zeros(len(boxes), dtype=np.int64)
    for i in range(len(boxes)):
        d = np.asarray(xyz, dtype=np.float64) - boxes.centers[i]
        cos, sin = np.cos(boxes.yaw_rad[i]), np.sin(boxes.yaw_rad[i])
        local = np.stack([cos * d[:, 0] + sin * d[:, 1], -sin * d[:, 0] + cos * d[:, 1], d[:, 2]], axis=1)
        counts[i] = np.count_nonzero((np.abs(local) <= boxes.sizes_lwh[i] / 2).all(axis=1))
    return counts
