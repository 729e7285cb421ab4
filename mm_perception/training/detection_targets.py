"""What the detector's heads should say: boxes in the heads' terms, heatmaps of their centres, and who answers for whom.

Assignment after Carion et al., DETR (ECCV 2020); costs and heatmaps after Bai et al., TransFusion (CVPR 2022,
arXiv:2203.11496), which DeepInteraction keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.geometry.boxes import iou_3d

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
CLASS_COST, CENTER_COST, IOU_COST = 0.15, 0.25, 0.25
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
MIN_OVERLAP, MIN_RADIUS = 0.1, 2


@dataclass(frozen=True, slots=True, eq=False)
class TruthBoxes:
    """M boxes in the LiDAR's frame.

    Attributes:
        centers: (M, 3) [m]. sizes_lwh: (M, 3) [m]. yaw_rad: (M,) heading. velocity: (M, 2) [m/s], NaN where unknown.
        labels: (M,) class ids.
    """

    centers: F64
    sizes_lwh: F64
    yaw_rad: F64
    velocity: F64
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.centers)
        rest = {"centers": (3,), "sizes_lwh": (3,), "yaw_rad": (), "velocity": (2,), "labels": ()}
        for name, shape in rest.items():
            if getattr(self, name).shape != (count, *shape):
                raise DataError(f"truth boxes: {name}: expected {(count, *shape)}, got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.centers)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> TruthBoxes:
        return TruthBoxes(
            self.centers[rows], self.sizes_lwh[rows], self.yaw_rad[rows], self.velocity[rows], self.labels[rows]
        )


@dataclass(frozen=True, slots=True)
class TargetGrid:
    """The map that the heads speak of: range [m] of x, y, z from low to high, and rows and columns."""

    range_m: tuple[float, float, float, float, float, float]
    cells: tuple[int, int]

    @property
    def cell_m(self) -> F64:
        x0, y0, _, x1, y1, _ = self.range_m
        return np.array([(x1 - x0) / self.cells[1], (y1 - y0) / self.cells[0]])


def encode(boxes: TruthBoxes, grid: TargetGrid) -> F32:
    """(M, 10) x, y [cells], z of the middle [m], log w, l, h, sine and cosine of the network's yaw, vx, vy.

    The network's yaw is -heading - pi / 2, see `models.deepinteraction.boxes`.
    """
    low = np.array(grid.range_m[:2])
    yaw = -boxes.yaw_rad - np.pi / 2
    size = boxes.sizes_lwh[:, [1, 0, 2]]
    columns = [
        (boxes.centers[:, :2] - low) / grid.cell_m, boxes.centers[:, 2:], np.log(np.maximum(size, 1e-3)),
        np.sin(yaw)[:, None], np.cos(yaw)[:, None], boxes.velocity,
    ]  # fmt: skip
    return np.concatenate(columns, axis=1).astype(np.float32)


def heatmap(boxes: TruthBoxes, grid: TargetGrid, classes: int) -> F32:
    """(K, rows, columns) a Gaussian hill round each centre, 1 at its cell; the higher one where hills meet.

    Zhou et al., "Objects as Points" (arXiv:1904.07850). Of centres beyond the map, what
    reaches into it.
    """
    out = np.zeros((classes, *grid.cells), np.float32)
    places = encode(boxes, grid)[:, :2]
    for i in range(len(boxes)):
        x, y = (int(np.floor(v)) for v in places[i])
        width, length = boxes.sizes_lwh[i, 1] / grid.cell_m[0], boxes.sizes_lwh[i, 0] / grid.cell_m[1]
        radius = max(MIN_RADIUS, int(gaussian_radius(length, width)))
        draw_hill(out[int(boxes.labels[i])], x, y, radius)
    return out


def gaussian_radius(length: float, width: float, overlap: float = MIN_OVERLAP) -> float:
    """How far [cells] the centre of a box may be off so that it still overlaps by `overlap`.

    The smallest of three cases (corners both inwards, both outwards, one of each), in the form that CornerNet (Law &
    Deng, ECCV 2018) brought into general use: each quadratic's root is taken as (b + sqrt(b^2 - 4 a c)) / 2.
    """
    total, area = length + width, length * width
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    return float(min((b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases))


def draw_hill(plane: F32, x: int, y: int, radius: int) -> None:
    """Raises the (rows, columns) plane to a Gaussian hill round a cell, in place; what lies beyond the plane is cut."""
    sigma = (2 * radius + 1) / 6
    rows, columns = plane.shape
    y0, y1 = max(0, y - radius), min(rows, y + radius + 1)
    x0, x1 = max(0, x - radius), min(columns, x + radius + 1)
    dy, dx = np.arange(y0, y1)[:, None] - y, np.arange(x0, x1)[None] - x
    if y1 <= y0 or x1 <= x0:
        return
    hill = np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)).astype(np.float32)
    np.maximum(plane[y0:y1, x0:x1], hill, out=plane[y0:y1, x0:x1])


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Which of the N queries of a layer answers for which box: (P,) each, with the overlap of both."""

    query: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: F64


def assign(logits: F64, predicted: TruthBoxes, truth: TruthBoxes, grid: TargetGrid) -> Matches:
    """The one-to-one assignment of least cost: class (focal), distance of centres, overlap.

    Args:
        logits: (K, N) of the classes.
        predicted: N boxes; their labels are not used.

    Raises:
        DataError: a cost is not finite.
    """
    from scipy.optimize import linear_sum_assignment

    none = np.zeros(0, np.int64)
    if len(truth) == 0 or len(predicted) == 0:
        return Matches(none, none, np.zeros(0))
    overlap = iou_3d(
        predicted.centers, predicted.sizes_lwh, predicted.yaw_rad, truth.centers, truth.sizes_lwh, truth.yaw_rad
    )
    low, high = np.array(grid.range_m[:2]), np.array(grid.range_m[3:5])
    a, b = (predicted.centers[:, :2] - low) / (high - low), (truth.centers[:, :2] - low) / (high - low)
    distance = np.abs(a[:, None] - b[None]).sum(axis=-1)
    cost = CLASS_COST * _class_cost(logits, truth.labels) + CENTER_COST * distance - IOU_COST * overlap
    if not np.isfinite(cost).all():
        raise DataError("assignment: a predicted box or class is not finite")
    query, box = linear_sum_assignment(cost)
    return Matches(query, box, overlap[query, box])


def _class_cost(logits: F64, labels: NDArray[np.int64]) -> F64:
    """(N, M) what the focal loss would gain if query n were of box m's class."""
    p = 1.0 / (1.0 + np.exp(-logits.T))
    eps = 1e-12
    negative = -np.log(1.0 - p + eps) * (1.0 - FOCAL_ALPHA) * p**FOCAL_GAMMA
    positive = -np.log(p + eps) * FOCAL_ALPHA * (1.0 - p) ** FOCAL_GAMMA
    return np.asarray((positive - negative)[:, labels])
