"""The detector's loss: hills of the heatmap, and class and box of every refining layer.

Focal losses after Lin et al. (ICCV 2017, arXiv:1708.02002) and Zhou et al. (arXiv:1904.07850); the weights of the parts
are those of DeepInteraction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.core.detector import Plane
from mm_perception.models.deepinteraction.boxes import RawBoxes, middle_and_size
from mm_perception.training.detection_targets import (
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    MIN_RADIUS,
    Matches,
    TargetGrid,
    TruthBoxes,
    assign,
    draw_hill,
    encode,
    heatmap,
)

BOX_WEIGHT = 0.25
CODE_WEIGHTS = (1.0,) * 8 + (0.2, 0.2)  # velocities count less


class DetectionLoss(NamedTuple):
    """Parts of the loss, scalars, each with its weight.

    Attributes:
        heatmap: of the hills. classes, boxes: (L,) one per layer.
        iou: mean overlap of matched boxes in the last layer, for curves.
    """

    heatmap: Tensor
    classes: Tensor
    boxes: Tensor
    iou: float

    @property
    def total(self) -> Tensor:
        return self.heatmap + self.classes.sum() + self.boxes.sum()


def detection_loss(
    heat_logits: Tensor, layers: list[RawBoxes], kept: list[Tensor], truth: TruthBoxes, grid: TargetGrid, plane: Plane
) -> DetectionLoss:
    """The loss of one frame. Queries that are not `kept` are neither praised nor blamed; a layer counts per match.

    Args:
        heat_logits: (1, K, rows, columns).
        layers: boxes of each layer, (1, ..., N). kept: (1, N) for each.
        truth: boxes whose middles lie within the grid.
    """
    hills = torch.from_numpy(heatmap(truth, grid, heat_logits.shape[1])).to(heat_logits)[None]
    matches = [assign_layer(raw, truth, grid, plane) for raw in layers]
    encoded = torch.from_numpy(encode(truth, grid)).to(heat_logits)
    parts = [
        layer_loss(raw, mask[0], match, encoded, truth.labels)
        for raw, mask, match in zip(layers, kept, matches, strict=True)
    ]
    classes_part, boxes_part = (torch.stack(part) for part in zip(*parts, strict=True))
    iou = float(np.mean(matches[-1].iou)) if len(matches[-1].iou) else 0.0
    return DetectionLoss(hill_loss(heat_logits, hills), classes_part, boxes_part, iou)


def layer_loss(
    raw: RawBoxes, kept: Tensor, match: Matches, encoded: Tensor, labels: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Class and box loss of one layer.

    Args:
        kept: (N,) bool.
        encoded: (M, 10) truth in the heads' terms; what is not known (a velocity) is NaN and costs nothing.
        labels: (M,) its classes.
    """
    query = torch.from_numpy(match.query).to(encoded.device)
    box = torch.from_numpy(match.truth).to(encoded.device)
    wanted = torch.zeros_like(raw.heatmap[0])
    wanted[torch.from_numpy(labels[match.truth]).to(query.device), query] = 1.0
    used = kept[query]
    positives = used.sum().clamp(min=1)
    class_part = focal_loss(raw.heatmap[0][:, kept], wanted[:, kept]) / positives
    code = torch.cat([raw.center, raw.height, raw.dim, raw.rot, raw.vel], dim=1)[0].transpose(0, 1)
    known = torch.isfinite(encoded[box])
    off = (code[query] - torch.nan_to_num(encoded[box])).abs() * known * code.new_tensor(CODE_WEIGHTS)
    return class_part, BOX_WEIGHT * off[used].sum() / positives


def assign_layer(raw: RawBoxes, truth: TruthBoxes, grid: TargetGrid, plane: Plane) -> Matches:
    """Matches of one layer's boxes."""
    middle, size, yaw = (part[0].detach().double().cpu().numpy() for part in middle_and_size(raw, plane))
    count = len(middle)
    predicted = TruthBoxes(
        middle, size[:, [1, 0, 2]], -yaw - np.pi / 2, np.zeros((count, 2)), np.zeros(count, np.int64)
    )
    return assign(raw.heatmap[0].detach().double().cpu().numpy(), predicted, truth, grid)


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """The sum over all classes and queries; `wanted` is 0 or 1."""
    p = logits.sigmoid()
    wrong = p * (1 - wanted) + (1 - p) * wanted
    weight = (FOCAL_ALPHA * wanted + (1 - FOCAL_ALPHA) * (1 - wanted)) * wrong**FOCAL_GAMMA
    return (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()


def hill_loss(logits: Tensor, hills: Tensor) -> Tensor:
    """Gaussian focal loss: cells near a centre are blamed less for a high answer; per centre."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    at_top = hills.eq(1.0)
    positive = -(p.log() * (1 - p) ** 2) * at_top
    negative = -((1 - p).log() * p**2 * (1 - hills) ** 4) * ~at_top
    return (positive + negative).sum() / at_top.sum().clamp(min=1)


def image_hills(places: NDArray[np.float64], labels: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(V, K, h, w) a small hill where each box's middle shows in each image.

    Args:
        places: (V, M, 2) sampling coordinates, NaN where it does not show.
        shape: K, h, w.
    """
    classes, height, width = shape
    out = np.zeros((len(places), classes, height, width), np.float32)
    for view, box in np.argwhere(np.isfinite(places).all(axis=-1)):
        x = int((places[view, box, 0] + 1.0) / 2.0 * width)
        y = int((places[view, box, 1] + 1.0) / 2.0 * height)
        draw_hill(out[view, int(labels[box])], x, y, MIN_RADIUS)
    return out
