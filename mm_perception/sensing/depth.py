"""Depth to X images (raw and HHA), and registration onto another camera.

HHA: S. Gupta, R. Girshick, P. Arbelaez, J. Malik, Learning Rich Features from RGB-D Images for Object Detection
and Segmentation, ECCV 2014: horizontal disparity, height above ground, angle with gravity.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

MAX_DEPTH_M = 80.0
"""Full scale of the raw encoding: as far as road scenes are labelled."""


def raw_depth_image(depth_m: NDArray[np.float32], max_depth_m: float = MAX_DEPTH_M) -> NDArray[np.float32]:
    """(H, W) depth [m] to (H, W, 3) in 0..1: depth over `max_depth_m`, three times; 0 where there is none."""
    scaled = np.nan_to_num(depth_m * np.float32(1.0 / max_depth_m), nan=0.0)
    return np.repeat(np.clip(scaled, 0.0, 1.0)[..., None], 3, axis=2).astype(np.float32)


def hha_image(
    depth_m: NDArray[np.float32], camera: CameraModel, down: NDArray[np.floating] | None = None
) -> NDArray[np.float32]:
    """(H, W) depth [m] to (H, W, 3) HHA in 0..1; 0 in all channels where there is no depth.

    The published 8-bit scales, over 255: disparity 31000 / (z in cm), height above the lowest points in cm, and
    the angle between surface normal and up in degrees plus 38.

    Args:
        camera: of the depth image's grid.
        down: (3,) direction of gravity in the optical frame. If None it is estimated: the direction that is
            parallel to most and orthogonal to most of the other normals, starting at the image's y axis
            (Gupta, Arbelaez, Malik, CVPR 2013, section 2).

    Raises:
        CalibrationError: the camera is of another size.
    """
    points = back_project(depth_m, camera)
    normals = surface_normals(points)
    direction = _estimate_down(normals) if down is None else np.asarray(down, np.float32)
    direction = direction / np.float32(np.linalg.norm(direction))
    valid = np.isfinite(depth_m)
    height_m: NDArray[np.floating] = -(points @ direction)
    if valid.any():
        height_m = height_m - np.nanpercentile(height_m, 1)
    cos = np.clip(normals @ -direction, -1.0, 1.0)
    angle_deg = np.degrees(np.arccos(cos))
    hha = np.stack([310.0 / depth_m, height_m * 100.0, angle_deg + 38.0], axis=-1)
    hha = np.where(valid[..., None], np.nan_to_num(hha, nan=0.0), 0.0)
    return np.asarray(np.clip(hha, 0.0, 255.0) / 255.0, np.float32)


def back_project(depth_m: NDArray[np.float32], camera: CameraModel) -> NDArray[np.float32]:
    """(H, W) depth [m] to (H, W, 3) points [m] of the optical frame; NaN where there is none.

    Raises:
        CalibrationError: the camera is of another size.
    """
    height, width = depth_m.shape
    if (camera.width, camera.height) != (width, height):
        raise CalibrationError(f"depth of {width}x{height}, camera of {camera.width}x{camera.height}")
    points = np.empty((height, width, 3), np.float32)
    np.multiply(camera.rays(), depth_m[..., None], out=points[..., :2])
    points[..., 2] = depth_m
    if camera.has_distortion:
        points[np.isnan(points[..., 0])] = np.nan  # pixels on which the lens brings nothing
    return points


def surface_normals(points: NDArray[np.float32], radius_px: int = 3) -> NDArray[np.float32]:
    """(H, W, 3) unit normals that face the camera, by central differences over `radius_px`.

    NaN at the border and beside missing points.
    """
    normals = np.full_like(points, np.nan)
    r = radius_px
    if min(points.shape[:2]) <= 2 * r:
        return normals
    du = points[r:-r, 2 * r :] - points[r:-r, : -2 * r]
    dv = points[2 * r :, r:-r] - points[: -2 * r, r:-r]
    cross = np.cross(dv, du)
    length = np.linalg.norm(cross, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = cross / length
    facing = np.einsum("hwc,hwc->hw", unit, points[r:-r, r:-r])
    normals[r:-r, r:-r] = np.where((facing > 0)[..., None], -unit, unit)
    return normals


def _estimate_down(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Refines gravity from the camera's y axis, first with 45, then with 15 degrees of tolerance."""
    direction = np.array([0.0, 1.0, 0.0])
    flat = normals[np.isfinite(normals).all(axis=-1)].astype(np.float64)
    if len(flat) < 100:
        return direction.astype(np.float32)
    flat = flat[:: max(1, len(flat) // 20_000)]
    for tolerance_deg in (45.0, 15.0):
        limit = np.radians(tolerance_deg)
        for _ in range(5):
            cos = np.abs(flat @ direction)
            parallel = flat[cos > np.cos(limit)]
            orthogonal = flat[cos < np.sin(limit)]
            # Floors should be parallel (large variance along g), walls orthogonal (none along g).
            scatter = orthogonal.T @ orthogonal - parallel.T @ parallel
            smallest = np.linalg.eigh(scatter)[1][:, 0]
            direction = smallest * np.sign(smallest @ direction or 1.0)
    return direction.astype(np.float32)


def register_depth(
    depth_m: NDArray[np.float32],
    camera: CameraModel,
    target: CameraModel,
    target_from_camera: RigidTransform,
) -> NDArray[np.float32]:
    """Depth as another camera sees it.

    Each pixel is moved to the target and the nearest one wins; single-pixel gaps that the finer grid leaves are
    filled from their neighbours.

    Returns:
        (target.height, target.width) float32 depth [m] along the target's optical axis; NaN where none.

    Raises:
        CalibrationError: the depth camera is of another size.
        DataError: the depth image is empty.
    """
    if depth_m.size == 0:
        raise DataError("depth image without pixels")
    points = back_project(depth_m, camera).reshape(-1, 3)
    points = target_from_camera.apply(points[np.isfinite(points).all(axis=1)])
    pixels, depth = target.project(points)
    index = splat_nearest(pixels, depth, target.width, target.height)
    registered = np.full(target.height * target.width, np.nan, np.float32)
    hit = index >= 0
    registered[hit] = depth[index[hit]]
    return _fill_single_gaps(registered.reshape(target.height, target.width))


def splat_nearest(
    pixels: NDArray[np.floating], depth_m: NDArray[np.floating], width: int, height: int
) -> NDArray[np.int64]:
    """Which of N projected points each pixel shows.

    Args:
        pixels: (N, 2) as (u, v); NaN and points outside are left out.
        depth_m: (N,); the smallest wins.

    Returns:
        (height * width,) int64 index of the point, -1 where there is none.
    """
    index = np.full(height * width, -1, np.int64)
    with np.errstate(invalid="ignore"):
        inside = (
            (pixels[:, 0] >= -0.5)
            & (pixels[:, 0] < width - 0.5)
            & (pixels[:, 1] >= -0.5)
            & (pixels[:, 1] < height - 0.5)
        )
    chosen = np.nonzero(inside)[0]
    columns, rows = np.floor(pixels[chosen].T + 0.5).astype(np.int64)
    # Later assignments win, so the far points go first.
    order = np.argsort(-depth_m[chosen], kind="stable")
    index[(rows * width + columns)[order]] = chosen[order]
    return index


def _fill_single_gaps(depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gives a pixel without depth the least depth beside it where at least 5 of its 8 neighbours have one."""
    missing = ~np.isfinite(depth_m)
    known = (~missing).astype(np.float32)
    neighbours = cv2.boxFilter(known, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    least = cv2.erode(np.where(missing, np.float32(np.inf), depth_m), np.ones((3, 3), np.uint8))
    return np.where(missing & (neighbours >= 4.5), least, depth_m).astype(np.float32)
