"""Sparse depth of LiDAR points in camera images, and dense depth from it by classical image processing.

J. Ku, A. Harakeh, S. Waslander, "In Defense of Classical Image Processing: Fast Depth Completion on the CPU", CRV 2018
(arXiv:1802.00036), the variant that treats near, middle and far points apart and does not extrapolate upwards.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.sensing.fusion_geometry import NEAREST_M

F32 = NDArray[np.float32]
MAX_DEPTH_M = 100.0
NEAR_M, MIDDLE_M = 15.0, 30.0
EMPTY = 0.1  # smaller values hold no depth
SPREADS = 6  # how often the last holes are filled from their rims


def _kernel(size: int, cross: bool = False) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_CROSS if cross else cv2.MORPH_RECT, (size, size)), np.uint8)


_FAR, _MIDDLE, _NEAR = _kernel(3, True), _kernel(5, True), _kernel(7, True)
_FULL5, _FULL9 = _kernel(5), _kernel(9)


def sparse_depth(
    points: NDArray[np.floating],
    lidar2img: NDArray[np.floating],
    image_size: tuple[int, int],
    map_size: tuple[int, int],
) -> F32:
    """(V, h, w) depth along each camera's axis [m], 0 where no point falls.

    Of several points in one place the nearest stays. Points that are not finite, behind a camera or beyond its image
    are left out.

    Args:
        points: (N, 3) in the LiDAR's frame.
        lidar2img: (V, 4, 4) to homogeneous pixels of images of `image_size` (height, width).
        map_size: height and width of the maps.
    """
    height, width = map_size
    finite = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    maps = np.full((len(lidar2img), height * width), np.inf)
    for i, matrix in enumerate(np.asarray(lidar2img, np.float64)):
        image = finite @ matrix[:3, :3].T + matrix[:3, 3]
        z = image[:, 2]
        ahead = np.nonzero(z > NEAREST_M)[0]
        u = np.floor(image[ahead, 0] / z[ahead] / image_size[1] * width)
        v = np.floor(image[ahead, 1] / z[ahead] / image_size[0] * height)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        index = (v[inside] * width + u[inside]).astype(np.int64)
        np.minimum.at(maps[i], index, z[ahead[inside]])
    return np.where(np.isfinite(maps), maps, 0.0).reshape(-1, height, width).astype(np.float32)


def complete_depth(maps: F32) -> F32:
    """(V, h, w) sparse depth [m], 0 for none, to dense depth; 0 stays above the topmost depth of each column.

    Raises:
        DataError: the maps are not (V, h, w) or hold values that are negative or not finite.
    """
    if maps.ndim != 3 or not np.isfinite(maps).all() or (maps < 0).any():
        raise DataError(f"depth maps: expected (V, h, w) of finite values from 0, got {maps.shape}")
    return np.stack([_complete(one) for one in maps]) if len(maps) else maps.astype(np.float32)


def _complete(depth: F32) -> F32:
    """One map. Depth is turned round first, so that growing keeps the nearer of two values."""
    filled = _grown_by_distance(depth)
    filled = np.asarray(cv2.morphologyEx(filled, cv2.MORPH_CLOSE, _FULL5), np.float32)
    filled = _blend(filled, cv2.medianBlur(filled, 5), filled > EMPTY)
    filled = _blend(filled, cv2.dilate(filled, _FULL9), (filled <= EMPTY) & _below_top(filled))
    below = _below_top(filled)
    for _ in range(SPREADS):
        filled = _blend(filled, cv2.dilate(filled, _FULL5), (filled < EMPTY) & below)
    known = (filled > EMPTY) & below
    filled = _blend(filled, cv2.medianBlur(filled, 5), known)
    filled = _blend(filled, cv2.bilateralFilter(filled, 5, 0.5, 2.0), known)
    return np.asarray(np.where(filled > EMPTY, np.float32(MAX_DEPTH_M) - filled, filled), np.float32)


def _grown_by_distance(depth: F32) -> F32:
    """Turned depth, each point grown by a cross that is larger for near points; near ones win."""
    known = depth > EMPTY
    turned = np.where(known, np.float32(MAX_DEPTH_M) - depth, depth).astype(np.float32)
    out = turned
    for low, high, kernel in (
        (MIDDLE_M, np.inf, _FAR),
        (NEAR_M, MIDDLE_M, _MIDDLE),
        (EMPTY, NEAR_M, _NEAR),
    ):
        chosen = (depth > low) & (depth <= high)
        grown = cv2.dilate(np.where(chosen, turned, np.float32(0.0)), kernel)
        out = _blend(out, grown, grown > EMPTY)
    return out


def _below_top(filled: F32) -> NDArray[np.bool_]:
    """(h, w) what does not lie above the topmost depth of its column; all of a column without any."""
    return np.asarray((np.maximum.accumulate(filled > EMPTY, axis=0)) | ~(filled > EMPTY).any(axis=0))


def _blend(base: F32, other: Any, where: NDArray[np.bool_]) -> F32:
    return np.asarray(np.where(where, other, base), np.float32)
