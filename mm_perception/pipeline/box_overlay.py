"""Pictures of boxes, for people: in camera images, and from above."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import box_corners

F64 = NDArray[np.float64]
Picture = NDArray[np.uint8]

NEAREST_M = 0.1
"""What lies nearer to a camera's plane is cut off."""
RING_M = 10.0
_FARTHEST_PX = 1e6  # beyond, lines are not drawn: OpenCV counts pixels in 32 bits
_GROUND, _RING, _OWN = 18, 60, (90, 200, 90)
_HEIGHTS_M = (-3.0, 3.0)  # of points, dark to light
WHITE = (255, 255, 255)
# Pairs of `box_corners`, and the line from the middle of the bottom (8) to that of its front edge (9).
_EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7), (8, 9),
)  # fmt: skip


def detection_colors(classes: Sequence[str]) -> Picture:
    """(C, 3) uint8 RGB: bright, and each class its own."""
    colors = np.zeros((len(classes), 3), np.uint8)
    for i in range(len(classes)):
        hue, pale = i / max(len(classes), 1), i % 2
        colors[i] = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.55 if pale else 0.95, 1.0)]
    return colors


def white_for(detections: Detections3D) -> Picture:
    """(C, 3) colours for truth."""
    return np.full((len(detections.classes), 3), 255, np.uint8)


def draw_boxes(
    image: Picture,
    detections: Detections3D,
    image_from_boxes: F64,
    colors_rgb: Picture,
    *,
    thickness: int = 2,
    scores: bool = True,
) -> Picture:
    """The edges of boxes over an image, the farthest box first, with a line on the ground to the front.

    Edges are cut where they pass the plane `NEAREST_M` before the camera; a box that lies behind draws nothing.

    Args:
        image: (H, W, 3) uint8 RGB.
        image_from_boxes: (4, 4) from the boxes' frame to homogeneous pixels (u w, v w, w), w the distance along the
            optical axis [m].
        colors_rgb: (C, 3) uint8, by class.
        scores: whether scores are written beside the boxes.

    Returns:
        (H, W, 3), a new picture.

    Raises:
        DataError: colours or projection have another shape.
    """
    _check(colors_rgb, detections)
    if image_from_boxes.shape != (4, 4):
        raise DataError(f"image_from_boxes: expected (4, 4), got {image_from_boxes.shape}")
    picture: Picture = image.copy()
    corners = box_corners(detections.centers, detections.sizes_lwh, detections.yaw_rad)
    projected = _with_heading(corners) @ image_from_boxes[:3, :3].T + image_from_boxes[:3, 3]
    for i in np.argsort(-projected[..., 2].mean(axis=1), kind="stable"):
        color = _color(colors_rgb, detections, int(i))
        ends = [_before_camera(projected[i, a], projected[i, b]) for a, b in _EDGES]
        drawn = [_line(picture, pair, color, thickness) for pair in ends if pair is not None]
        if scores and any(drawn):
            pixels = np.concatenate([pair for pair in ends if pair is not None])
            _label(picture, f"{detections.scores[i]:.2f}", (pixels[:, 0].min(), pixels[:, 1].min()), color)
    return picture


def draw_birds_eye(
    points_xyz: NDArray[np.floating],
    detections: Detections3D,
    colors_rgb: Picture,
    size_px: int,
    range_m: float,
    truth: Detections3D | None = None,
) -> Picture:
    """Points and boxes from above: x ahead is up, y to the left is left, the origin in the middle.

    Truth is thin and white, beneath the detections; the rings are `RING_M` apart.

    Args:
        points_xyz: (M, 3 or more) [m], in the frame of the boxes; the higher, the lighter.
        colors_rgb: (C, 3) uint8, by class.
        size_px: height and width of the picture. range_m: from its middle to its edges.

    Raises:
        DataError: an impossible size or range, or colours of another shape.
    """
    if size_px < 1 or not range_m > 0:
        raise DataError(f"bird's-eye view: expected a positive size and range, got {size_px} px and {range_m} m")
    _check(colors_rgb, detections)
    picture = np.full((size_px, size_px, 3), _GROUND, np.uint8)
    middle, scale = (size_px - 1) / 2, size_px / (2 * range_m)
    for k in range(1, int(range_m * 1.5 / RING_M) + 1):
        cv2.circle(picture, (round(middle), round(middle)), round(k * RING_M * scale), (_RING,) * 3, 1, cv2.LINE_AA)
    _dots(picture, points_xyz, range_m)
    _line(picture, np.array([[middle + scale, middle], [middle - scale, middle]]), _OWN, 1)
    _line(picture, np.array([[middle, middle], [middle, middle - 2 * scale]]), _OWN, 1)
    layers = [] if truth is None else [(truth, white_for(truth), 1)]
    for boxes, colors, thickness in (*layers, (detections, colors_rgb, max(1, round(size_px / 400)))):
        corners = _with_heading(box_corners(boxes.centers, boxes.sizes_lwh, boxes.yaw_rad))
        pixels = _from_above(corners, size_px, range_m)
        for i in np.argsort(boxes.scores, kind="stable"):
            for a, b in (*_EDGES[:4], _EDGES[-1]):
                _line(picture, pixels[i, [a, b]], _color(colors, boxes, int(i)), thickness)
    return picture


def _check(colors: Picture, detections: Detections3D) -> None:
    if colors.shape != (len(detections.classes), 3):
        raise DataError(f"colours: expected {(len(detections.classes), 3)}, got {colors.shape}")


def _with_heading(corners: F64) -> F64:
    """(N, 8, 3) corners to (N, 10, 3): with the middle of the bottom, and that of its front edge."""
    bottom, front = corners[:, :4].mean(axis=1), corners[:, [0, 3]].mean(axis=1)
    return np.concatenate([corners, bottom[:, None], front[:, None]], axis=1)


def _before_camera(a: F64, b: F64) -> F64 | None:
    """(2, 2) pixels of the part of an edge that lies before the camera; None if none does.

    Args:
        a, b: (3,) homogeneous pixels of its ends; they are linear along the edge.
    """
    if max(a[2], b[2]) < NEAREST_M:
        return None
    if min(a[2], b[2]) < NEAREST_M:
        cut = a + (NEAREST_M - a[2]) / (b[2] - a[2]) * (b - a)
        a, b = (cut, b) if a[2] < b[2] else (a, cut)
    return np.stack([a[:2] / a[2], b[:2] / b[2]])


def _line(picture: Picture, ends: F64, color: tuple[int, int, int], thickness: int) -> bool:
    """Draws from one pixel to another, and says whether any of it lies within the picture."""
    if not (np.abs(ends) < _FARTHEST_PX).all():
        return False
    height, width = picture.shape[:2]
    (x0, y0), (x1, y1) = np.rint(ends).astype(int).tolist()
    inside, start, stop = cv2.clipLine((0, 0, width, height), (x0, y0), (x1, y1))
    if inside:
        cv2.line(picture, start, stop, color, thickness, cv2.LINE_AA)
    return bool(inside)


def _label(picture: Picture, text: str, place: tuple[float, float], color: tuple[int, int, int]) -> None:
    """Writes above a place, moved into the picture."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.3, picture.shape[1] / 1500)
    (width, height), below = cv2.getTextSize(text, font, size, 1)
    x = int(np.clip(place[0], 0, max(picture.shape[1] - width, 0)))
    y = int(np.clip(place[1] - 3, height, max(picture.shape[0] - below, height)))
    cv2.putText(picture, text, (x, y), font, size, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), font, size, color, 1, cv2.LINE_AA)


def _dots(picture: Picture, points: NDArray[np.floating], range_m: float) -> None:
    size = len(picture)
    finite = points[np.isfinite(points[:, :3]).all(axis=1)]
    pixels = np.rint(_from_above(finite, size, range_m)).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    low, high = _HEIGHTS_M
    light = 70 + 130 * np.clip((finite[:, 2] - low) / (high - low), 0.0, 1.0)
    order = np.argsort(finite[inside, 2], kind="stable")
    column, row = pixels[inside][order].T
    picture[row, column] = light[inside][order, None].astype(np.uint8)


def _from_above(points: NDArray[np.floating], size_px: int, range_m: float) -> F64:
    """(..., 2) column and row of (..., 3) points."""
    middle, scale = (size_px - 1) / 2, size_px / (2 * range_m)
    places = np.asarray(points[..., :2], np.float64)
    return np.stack([middle - places[..., 1] * scale, middle - places[..., 0] * scale], axis=-1)


def _color(colors: Picture, boxes: Detections3D, i: int) -> tuple[int, int, int]:
    red, green, blue = colors[boxes.labels[i]].tolist()
    return red, green, blue
