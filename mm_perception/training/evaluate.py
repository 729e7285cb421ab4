"""Scores of a network on validation frames, computed as a replay computes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mm_perception.core.errors import DataError
from mm_perception.engines.card import ModelCard
from mm_perception.metrics.segmentation import ConfusionMatrix, SegmentationScores
from mm_perception.models.cmx import Cmx
from mm_perception.training.batches import stack
from mm_perception.training.samples import Sample, SampleSource, to_input


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Scores over all frames and by condition (without those of unknown condition)."""

    frames: int
    overall: SegmentationScores
    by_condition: dict[str, SegmentationScores]

    def figures(self) -> dict[str, float]:
        """What goes on a card, as fractions: miou, pixel_accuracy, and miou.<condition>."""
        named = {"miou": self.overall.miou, "pixel_accuracy": self.overall.pixel_accuracy}
        named |= {f"miou.{name}": scores.miou for name, scores in self.by_condition.items()}
        return {name: round(value, 4) for name, value in named.items() if not np.isnan(value)}


def evaluate(
    model: Cmx, card: ModelCard, source: SampleSource, device: torch.device, batch_size: int = 4
) -> Evaluation:
    """Segments every frame at the card's input size and compares at the size of its labels.

    `model` is on `device`; whether it was in training mode is kept.

    Raises:
        DataError: no pixel of the source is labelled.
    """
    total = ConfusionMatrix(card.num_classes)
    parts: dict[str, ConfusionMatrix] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(source), batch_size):
            samples = [source[i] for i in range(start, min(start + batch_size, len(source)))]
            for sample, ids in zip(samples, _predict(model, card, samples, device), strict=True):
                total.add(sample.labels, ids)
                if sample.condition:
                    parts.setdefault(sample.condition, ConfusionMatrix(card.num_classes)).add(sample.labels, ids)
    finally:
        model.train(was_training)
    if not total.counts.any():
        raise DataError(f"{source.description}: no pixel of its {len(source)} frames is labelled")
    return Evaluation(len(source), total.scores(), {name: parts[name].scores() for name in sorted(parts)})


def _predict(
    model: Cmx, card: ModelCard, samples: list[Sample], device: torch.device
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """(H, W) class ids per sample, at the size of its labels."""
    placed = [to_input(sample, card) for sample in samples]
    rgb, x, _ = stack([sample for sample, _ in placed], card, device)
    with torch.inference_mode():
        ids = model(rgb, x).argmax(1).to(torch.uint8).cpu().numpy()
    return [placement.restore(one) for one, (_, placement) in zip(ids, placed, strict=True)]
