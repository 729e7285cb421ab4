"""How well an engine's outputs agree with the reference engine's, in terms of what the outputs are used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.detector import DetectorVariant, query_scores
from mm_perception.engines.card import WeightsCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array

BOX_DISTANCE_M = 0.2
BOX_SCORE = 0.05
"""A box is found again where one of its class and about its score lies this near."""
LEAST_BOXES = 20
"""Where fewer are likely (untrained weights), the likeliest so many stand in."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of one comparison; the worst of several samples.

    Attributes:
        usable: no output holds NaN or infinity, and every box's label is one of the card's classes.
        difference: the largest of any output, as a share of that output's largest value (at least 1).
        labels: share of pixels with the reference's label, or of its boxes that are found again.
    """

    usable: bool
    difference: float
    labels: float

    def worst(self, other: Agreement) -> Agreement:
        return Agreement(
            self.usable and other.usable,
            max(self.difference, other.difference),
            min(self.labels, other.labels),
        )

    def __str__(self) -> str:
        if not self.usable:
            return "values that are not finite, or labels of no class"
        return f"{100 * self.labels:.2f} % of the results equal, values off by {self.difference:.2g}"


UNUSABLE = Agreement(False, np.inf, 0.0)
"""Outputs that no box or label can be read from."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is asked of an engine: `labels` at least, `difference` at most; see `Agreement`."""

    labels: float
    difference: float

    def __post_init__(self) -> None:
        assert all(0 <= getattr(self, field.name) for field in fields(self))

    def met(self, agreement: Agreement) -> bool:
        return agreement.usable and agreement.labels >= self.labels and agreement.difference <= self.difference

    def __str__(self) -> str:
        return f"at least {100 * self.labels:.2f} % and at most {self.difference:.2g}"


TOLERANCES = {
    "fp32": Tolerance(0.999, 1e-2),
    "tf32": Tolerance(0.995, 5e-2),
    "fp16": Tolerance(0.995, 0.1),
    "mixed": Tolerance(0.995, 0.1),
    "bf16": Tolerance(0.98, 0.5),
    "int8": Tolerance(0.95, np.inf),
}
"""By precision. What counts is what comes out: labels and boxes. The values' own difference only catches what those
could hide, and says little where eight bits are asked for."""


def agreement(
    card: WeightsCard, expected: Sequence[Mapping[str, Array]], got: Sequence[Mapping[str, Array]]
) -> Agreement:
    """Compares the outputs of several samples.

    Args:
        expected: the reference engine's, usable; see `Agreement`.
    """
    result = Agreement(True, 0.0, 1.0)
    for want, have in zip(expected, got, strict=True):
        result = result.worst(_one(card, want, have))
    return result


def _one(card: WeightsCard, expected: Mapping[str, Array], got: Mapping[str, Array]) -> Agreement:
    values = [name for name, value in expected.items() if np.issubdtype(value.dtype, np.floating)]
    if not all(np.isfinite(got[name]).all() for name in values):
        return UNUSABLE
    if isinstance(card, DetectorCard):
        if not ((got["labels"] >= 0) & (got["labels"] < len(card.classes))).all():
            return UNUSABLE
        # Queries are ranked by score, so that two of about one score may change places: compare boxes, not slots.
        found = _boxes_found(card.sizes, expected, got)
        return Agreement(True, 0.0, found)
    difference = max(
        float(np.abs(got[name] - expected[name]).max()) / max(1.0, float(np.abs(expected[name]).max()))
        for name in values
    )
    same = float((np.argmax(got["logits"], axis=1) == np.argmax(expected["logits"], axis=1)).mean())
    return Agreement(True, difference, same)


def _boxes_found(sizes: DetectorVariant, expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    """Share of the expected boxes that are found again."""
    want_place, want_label, want_score = _ranked(sizes, expected)
    have_place, have_label, have_score = _ranked(sizes, got)
    likely = max(LEAST_BOXES, int((want_score >= BOX_SCORE).sum()))
    want_place, want_label, want_score = want_place[:likely], want_label[:likely], want_score[:likely]
    near = np.linalg.norm(want_place[:, None] - have_place[None], axis=-1) <= BOX_DISTANCE_M
    alike = np.abs(want_score[:, None] - have_score[None]) <= BOX_SCORE
    return float((near & alike & (want_label[:, None] == have_label[None])).any(axis=1).mean())


def _ranked(
    sizes: DetectorVariant, outputs: Mapping[str, Array]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """(N, 2) middles on the ground [m], (N,) labels and (N,) scores, the best first."""
    labels = outputs["labels"][0].astype(np.int64)
    scores = query_scores(outputs)
    place = outputs["center"][0].T * np.asarray(sizes.plane.cell_m)
    order = np.argsort(-scores, kind="stable")
    return place[order].astype(np.float64), labels[order], scores[order]
