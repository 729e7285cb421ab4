"""Pictures of results, for people."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import SegmentationMap


def class_colors(num_classes: int, palette: Sequence[tuple[int, int, int]] | None = None) -> NDArray[np.uint8]:
    """(C, 3) uint8 RGB: the palette, or distinct hues (golden-angle steps; class 0 is dark grey)."""
    if palette is not None:
        return np.array(palette, np.uint8)
    colors = np.full((num_classes, 3), 64, np.uint8)
    for class_id in range(1, num_classes):
        hue = (class_id * 0.381966) % 1.0
        value = 1.0 if class_id % 2 else 0.75
        colors[class_id] = [round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, value)]
    return colors


def draw_overlay(
    image: NDArray[np.uint8],
    segmentation: SegmentationMap,
    colors: NDArray[np.uint8],
    alpha: float = 0.5,
    note: str = "",
) -> NDArray[np.uint8]:
    """Blends class colours over the (H, W, 3) RGB image; untrained weights are named in the picture.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    painted = colors[segmentation.class_ids]
    blended = cv2.addWeighted(image, 1.0 - alpha, painted, alpha, 0.0)
    lines = [note] if note else []
    if not segmentation.trained:
        lines.append("UNTRAINED WEIGHTS: labels mean nothing")
    return _write(np.asarray(blended, np.uint8), lines)


def draw_points(
    image: NDArray[np.uint8], pixels: NDArray[np.floating], depth_m: NDArray[np.floating], far_m: float = 50.0
) -> NDArray[np.uint8]:
    """Marks projected points, near ones red, far ones blue; (N, 2) pixels may be NaN or outside."""
    picture: NDArray[np.uint8] = image.copy()
    height, width = picture.shape[:2]
    with np.errstate(invalid="ignore"):
        inside = (pixels[:, 0] >= 0) & (pixels[:, 0] < width) & (pixels[:, 1] >= 0) & (pixels[:, 1] < height)
    chosen = np.nonzero(inside)[0]
    chosen = chosen[np.argsort(-depth_m[chosen])]
    scaled = np.clip(255 * (1.0 - depth_m[chosen] / far_m), 0, 255).astype(np.uint8)
    ramp = cv2.cvtColor(cv2.applyColorMap(scaled[:, None], cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    radius = max(1, round(width / 800))
    for (u, v), color in zip(pixels[chosen], ramp[:, 0], strict=True):
        cv2.circle(picture, (int(u), int(v)), radius, tuple(int(c) for c in color), -1)
    return picture


def _write(image: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """Writes lines at the top left, white on a dark bar."""
    scale = image.shape[1] / 900
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale
    thickness = max(1, round(1.5 * scale))
    top = 0
    for line in lines:
        (width, height), below = cv2.getTextSize(line, font, size, thickness)
        margin = round(6 * scale) + 1
        bottom = top + height + below + 2 * margin
        bar = image[top:bottom, : width + 2 * margin]
        bar[:] = bar // 4
        origin = (margin, top + margin + height)
        cv2.putText(image, line, origin, font, size, (255, 255, 255), thickness, cv2.LINE_AA)
        top = bottom
    return image
