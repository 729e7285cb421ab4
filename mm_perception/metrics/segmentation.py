"""Mean intersection over union of class maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import IGNORE_LABEL


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationScores:
    """What a confusion matrix says.

    Attributes:
        iou: (C,) intersection over union as a fraction, NaN for classes in neither truth nor prediction.
        accuracy: (C,) share of a class's true pixels that were found, NaN for classes not in the truth.
        miou: mean of `iou` over the classes that occur; NaN if none does.
        pixel_accuracy: share of labelled pixels that are right; NaN without any.
    """

    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    miou: float
    pixel_accuracy: float


class ConfusionMatrix:
    """Counts of (true class, predicted class) over frames.

    Attributes:
        counts: (C, C) int64, rows are the truth.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise DataError(f"confusion matrix of {num_classes} classes")
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Counts one frame; pixels whose truth is 255 are left out.

        Raises:
            DataError: the shapes differ, or an id is neither a class nor 255.
        """
        classes = len(self.counts)
        if truth.shape != predicted.shape:
            raise DataError(f"label image of shape {truth.shape}, prediction of shape {predicted.shape}")
        labelled = truth != IGNORE_LABEL
        t, p = truth[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
        for what, ids in (("label", t), ("prediction", p)):
            if len(ids) and int(ids.max()) >= classes:
                raise DataError(f"{what} id {int(ids.max())}, but there are {classes} classes")
        self.counts += np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)

    def scores(self) -> SegmentationScores:
        counts = self.counts.astype(np.float64)
        hits, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        union = true + predicted - hits
        iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
        accuracy = np.divide(hits, true, out=np.full(len(hits), np.nan), where=true > 0)
        total = counts.sum()
        return SegmentationScores(
            iou,
            accuracy,
            float(np.nanmean(iou)) if (union > 0).any() else float("nan"),
            float(hits.sum() / total) if total else float("nan"),
        )


def miou_of_true_classes(counts: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean IoU over the classes that the truth holds.

    Unlike `SegmentationScores.miou`, a class that only the prediction holds is not averaged in (its pixels still
    count against the classes that they were taken from), so that models are compared over the same classes.

    Args:
        counts: (..., C, C) confusion matrices, rows are the truth.

    Returns:
        (...) fraction; NaN where the truth holds nothing.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    iou = np.where(true > 0, hits / np.maximum(true + predicted - hits, 1.0), 0.0)
    occurring = (true > 0).sum(axis=-1)
    return np.asarray(np.where(occurring > 0, iou.sum(axis=-1) / np.maximum(occurring, 1), np.nan))


@dataclass(frozen=True, slots=True, eq=False)
class MappedScores:
    """Scores over the classes that a label map names; what a model predicts beside them is one more column.

    Attributes:
        iou: (K,) fraction; 0 for a class that neither truth nor prediction holds.
        miou: mean over all K classes, as benchmarks with a fixed list give it.
        miou_present: mean over the classes that the truth holds; NaN if it holds none.
        accuracy: share of labelled pixels that are right; NaN without any.
        pixels: (K,) labelled pixels of each class.
    """

    iou: NDArray[np.float64]
    miou: float
    miou_present: float
    accuracy: float
    pixels: NDArray[np.int64]


def mapped_scores(counts: NDArray[np.int64]) -> MappedScores:
    """Scores of a (K + 1, K + 1) confusion matrix whose last class is "none of them" (never in the truth)."""
    hits = np.diag(counts)[:-1].astype(np.float64)
    true, predicted = counts.sum(axis=1)[:-1], counts.sum(axis=0)[:-1]
    iou = hits / np.maximum(true + predicted - hits, 1.0)
    total = int(true.sum())
    present = float(iou[true > 0].mean()) if total else float("nan")
    return MappedScores(
        iou, float(iou.mean()), present, float(hits.sum() / total) if total else float("nan"), true.astype(np.int64)
    )
