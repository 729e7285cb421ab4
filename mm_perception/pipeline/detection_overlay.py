"""One picture of everything that a detector saw and found."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import Detections3D
from mm_perception.pipeline.box_overlay import draw_birds_eye, draw_boxes, white_for
from mm_perception.pipeline.detection import DetectionOutcome

COLUMNS = 3
MIN_TILE = (128, 224)  # of cameras that gave nothing, where no other tells the size


def draw_mosaic(
    outcome: DetectionOutcome,
    cameras: Sequence[str],
    colors_rgb: NDArray[np.uint8],
    range_m: float,
    truth: Detections3D | None = None,
) -> NDArray[np.uint8]:
    """Cameras row by row, three in a row, and the view from above at their right.

    Args:
        cameras: in the order of the tiles; one that was not used is dark and says so.
        colors_rgb: (C, 3) uint8, by class.
        range_m: of the view from above.
        truth: in the frame of the detections, drawn thin and white.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    sizes = [picture.image.shape[:2] for picture in outcome.pictures.values()]
    height, width = sizes[0] if sizes else MIN_TILE
    tiles = []
    for name in cameras:
        picture = outcome.pictures.get(name)
        if picture is None:
            tiles.append(_dark(f"{name}: {_reason(outcome, name)}", height, width))
            continue
        tile = picture.image
        if truth is not None:
            tile = draw_boxes(tile, truth, picture.image_from_output, white_for(truth), thickness=1, scores=False)
        tiles.append(draw_boxes(tile, outcome.detections, picture.image_from_output, colors_rgb, thickness=1))
        _write(tiles[-1], name, (4, 14))
    while len(tiles) % min(COLUMNS, len(tiles)):
        tiles.append(_dark("", height, width))
    columns = min(COLUMNS, len(tiles))
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    mosaic = np.concatenate(rows, axis=0)
    side = max(len(mosaic), 2 * MIN_TILE[0])
    above = draw_birds_eye(outcome.points, outcome.detections, colors_rgb, side, range_m, truth)
    if not outcome.trained:
        _write(above, "untrained weights: boxes mean nothing", (4, 14))
    padded = np.zeros((side, mosaic.shape[1], 3), np.uint8)
    padded[: len(mosaic)] = mosaic
    return np.concatenate([padded, above], axis=1)


def _reason(outcome: DetectionOutcome, name: str) -> str:
    kinds = [what.partition(".")[2] for what in outcome.degraded if what.partition(".")[0] == name]
    return kinds[0] if kinds else "not used"


def _dark(text: str, height: int, width: int) -> NDArray[np.uint8]:
    tile = np.full((height, width, 3), 24, np.uint8)
    _write(tile, text, (4, height // 2))
    return tile


def _write(picture: NDArray[np.uint8], text: str, place: tuple[int, int]) -> None:
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, thickness, cv2.LINE_AA)
