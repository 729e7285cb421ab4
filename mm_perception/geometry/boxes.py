"""Oriented boxes: corners and point membership."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform


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


def wrapped_rad(angle: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """The same directions in [-pi, pi)."""
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi, np.float64)


def transformed_boxes(boxes: Detections3D, transform: RigidTransform) -> Detections3D:
    """The same boxes in `transform.dst`: upright still, as they would look from above after a slight roll or pitch."""
    rotation = transform.rotation[:2, :2]
    heading = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)], axis=-1) @ rotation.T
    yaw = np.arctan2(heading[:, 1], heading[:, 0]).astype(np.float32)
    velocity = (boxes.velocity @ rotation.T).astype(np.float32)
    return replace(
        boxes, centers=transform.apply(boxes.centers), yaw_rad=yaw, velocity=velocity, frame_id=transform.dst
    )


def moved_on(boxes: Detections3D, stamp_ns: int) -> Detections3D:
    """The same boxes at another instant; those whose velocity is not known stay where they are."""
    step = np.nan_to_num(boxes.velocity) * np.float32((stamp_ns - boxes.stamp_ns) * 1e-9)
    centers = boxes.centers + np.pad(step, ((0, 0), (0, 1)))
    return replace(boxes, centers=centers.astype(np.float32), stamp_ns=stamp_ns)


def count_points_inside(xyz: NDArray[np.floating], boxes: Detections3D) -> NDArray[np.int64]:
    """How many of the (P, 3) points, given in the boxes' frame, each of N boxes holds. Returns (N,)."""
    counts = np.zeros(len(boxes), dtype=np.int64)
    for i in range(len(boxes)):
        d = np.asarray(xyz, dtype=np.float64) - boxes.centers[i]
        cos, sin = np.cos(boxes.yaw_rad[i]), np.sin(boxes.yaw_rad[i])
        local = np.stack([cos * d[:, 0] + sin * d[:, 1], -sin * d[:, 0] + cos * d[:, 1], d[:, 2]], axis=1)
        counts[i] = np.count_nonzero((np.abs(local) <= boxes.sizes_lwh[i] / 2).all(axis=1))
    return counts


def iou_3d(
    centers: NDArray[np.floating], sizes_lwh: NDArray[np.floating], yaw_rad: NDArray[np.floating],
    other_centers: NDArray[np.floating], other_sizes_lwh: NDArray[np.floating], other_yaw_rad: NDArray[np.floating],
) -> NDArray[np.float64]:  # fmt: skip
    """(N, M) volume of the intersection over that of the union of upright boxes, 0..1; 0 where both are flat."""
    a, b = np.asarray(centers, np.float64), np.asarray(other_centers, np.float64)
    size_a, size_b = np.asarray(sizes_lwh, np.float64), np.asarray(other_sizes_lwh, np.float64)
    shape = (len(a), len(b))
    if 0 in shape:
        return np.zeros(shape)
    bottom = np.maximum((a[:, 2] - size_a[:, 2] / 2)[:, None], (b[:, 2] - size_b[:, 2] / 2)[None])
    top = np.minimum((a[:, 2] + size_a[:, 2] / 2)[:, None], (b[:, 2] + size_b[:, 2] / 2)[None])
    reach = np.linalg.norm(size_a[:, :2], axis=1)[:, None] + np.linalg.norm(size_b[:, :2], axis=1)[None]
    apart = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=-1)
    i, j = np.nonzero((top > bottom) & (apart < reach / 2))
    ground = np.zeros(shape)
    if len(i):
        first = box_corners(a, size_a, np.asarray(yaw_rad))[:, :4, :2]
        second = box_corners(b, size_b, np.asarray(other_yaw_rad))[:, :4, :2]
        ground[i, j] = _clipped_area(first[i], second[j])
    shared = ground * np.maximum(top - bottom, 0.0)
    union = size_a.prod(axis=1)[:, None] + size_b.prod(axis=1)[None] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def _clipped_area(polygons: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) area of the intersection of (P, 4, 2) rectangles, both counter-clockwise.

    Sutherland and Hodgman (CACM 1974), for all pairs at once: a corner that is cut away is moved to where its edges
    leave the half plane, so that the number of corners only grows by as many as edges cut.
    """
    corners = polygons
    for k in range(4):
        start, stop = windows[:, k], windows[:, (k + 1) % 4]
        normal = np.stack([start[:, 1] - stop[:, 1], stop[:, 0] - start[:, 0]], axis=-1)  # inwards
        side = np.einsum("pc,pnc->pn", normal, corners - start[:, None])
        following, next_side = np.roll(corners, -1, axis=1), np.roll(side, -1, axis=1)
        cut = (side < 0) != (next_side < 0)
        share = np.where(cut, side / np.where(cut, side - next_side, 1.0), 0.0)
        crossing = corners + share[..., None] * (following - corners)
        # Each corner gives itself if it is inside, and its edge's crossing if there is one; else the last valid point
        # again, which adds no area.
        candidates = np.stack([corners, crossing], axis=2).reshape(len(corners), -1, 2)
        valid = np.stack([side >= 0, cut], axis=2).reshape(len(corners), -1)
        corners = _last_valid(candidates, valid)
    x, y = corners[..., 0], corners[..., 1]
    twice = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    return np.asarray(np.maximum(twice / 2.0, 0.0))


def _last_valid(points: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Points with the invalid ones replaced by the valid one before them in the ring; the first one where none is."""
    count = points.shape[1]
    index = np.where(valid, np.arange(count), -1)
    index = np.maximum.accumulate(index, axis=1)
    last = np.where(valid.any(axis=1), count - 1 - np.argmax(valid[:, ::-1], axis=1), 0)
    index = np.where(index < 0, last[:, None], index)
    return np.take_along_axis(points, index[..., None], axis=1)
