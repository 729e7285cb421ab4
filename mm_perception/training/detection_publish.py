"""A trained detector as the files that are shipped, weights in half precision and their card; see `publish`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.core.errors import ModelError
from mm_perception.core.types import Detections3D
from mm_perception.engines.detector_card import DetectorCard, find_detector_card
from mm_perception.engines.torch_engine import TorchEngine, deployed_network, load_detector_network
from mm_perception.geometry.boxes import wrapped_rad
from mm_perception.metrics.detection import ERROR_THRESHOLD_M, ScoredBoxes
from mm_perception.models.deepinteraction.model import DeepInteraction
from mm_perception.pipeline.detection_boxes import boxes_of
from mm_perception.replay.held_out_detection import (
    FRAME_ID,
    FUSION,
    DetectionComparison,
    Judged,
    Way,
    compare_ways,
    mean_ap_of,
    nds_of,
)
from mm_perception.sensing.detector_inputs import DetectorEncoder
from mm_perception.sim.detection_frames import load_detection_frame
from mm_perception.training.detection_loop import outputs_of
from mm_perception.training.detection_recipe import DetectorRecipe
from mm_perception.training.detection_samples import Variation, network_inputs, sample_of
from mm_perception.training.publish import TOLERANCE, provenance, published_name, write_checked

F64 = NDArray[np.float64]

COMPARED = 4  # validation frames on which the written weights are compared with those in float32
SAME_M, SAME_SCORE = 0.25, 0.05  # how far a box may move and its score may change
LEAST_SAME = 0.9  # share of the boxes that must be found again
FEWEST_MATCHES = 10
"""Of fewer found boxes of a class, no deviation is given."""
_ABSOLUTE_TO_DEVIATION = math.sqrt(math.pi / 2)
"""A normal deviate's mean absolute value is its deviation over this; the mean length of two is the deviation times it
(Rayleigh's distribution)."""


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How near the written weights are to those in float32.

    Attributes:
        heatmap: largest difference of the heatmaps' logits, of the largest logit (or of 1).
        boxes, same: boxes above the card's least score in float32, and how many of them the written weights find again
            (queries may swap, so that boxes are compared and not outputs).
    """

    heatmap: float
    boxes: int
    same: int


@dataclass(frozen=True, slots=True, eq=False)
class DetectorReport:
    """What was written.

    Attributes:
        figures: of the written weights on the validation frames: mAP, NDS, both by condition, AP by class.
    """

    weights_path: Path
    card_path: Path
    card: DetectorCard
    figures: dict[str, float]
    agreement: Agreement


def publish_detector(
    network: DeepInteraction,
    base: DetectorCard,
    train: str,
    val: str,
    val_files: Sequence[Path],
    recipe: DetectorRecipe,
    folder: Path,
    *,
    name: str = "",
    device: str = "cpu",
) -> DetectorReport:
    """Writes `<name>.safetensors` and `<name>.yaml` into `folder` and checks them by reading both again.

    The card's `measured` figures and deviations are those of the written weights on the validation frames. The files
    appear only after the checks.

    Args:
        network: on `device`.
        base: the card that the training began with.
        train, val: the frames in a few words, for the card.
        val_files: of `DetectionFrame`s.
        name: of the new card; empty: the base's without "-untrained".

    Raises:
        DataError: a frame is damaged.
        ModelError: a weight does not fit fp16, the answers differ by more than `TOLERANCE` or in more boxes than
            `LEAST_SAME` lets pass, or the file cannot be written.
    """
    card = replace(
        base,
        name=published_name(base.name, name),
        provenance=provenance("detection", train, val, f"random:{recipe.seed}", recipe.seed, recipe.digest()),
    )
    told: list[tuple[dict[str, float], Agreement]] = []

    def check(written: DetectorCard) -> DetectorCard:
        again = load_detector_network(written).to(device)
        agreement = compare_networks(network.eval(), again, written, val_files[:COMPARED], torch.device(device))
        engine = TorchEngine(deployed_network(written), *written.specs(), device=device)
        comparison = compare_ways(written, {FUSION: Way(engine)}, map(load_detection_frame, val_files))
        figures = figures_of(comparison)
        position, yaw = deviations(comparison.truth, comparison.found[FUSION], written.min_score)
        told.append((figures, agreement))
        measured = {k: v for k, v in figures.items() if not k.startswith("AP.")}
        return replace(written, measured=measured, position_deviation_m=position or None, yaw_deviation_rad=yaw or None)

    weights, card_file = write_checked(network, card, folder, check)
    return DetectorReport(weights, card_file, find_detector_card(card_file), *told[0])


def compare_networks(
    expected: DeepInteraction, got: DeepInteraction, card: DetectorCard, files: Sequence[Path], device: torch.device
) -> Agreement:
    """How near the answers of two networks on `device` are; the first is the truth.

    Raises:
        ModelError: they are not near enough.
    """
    encoder = DetectorEncoder(card.sizes, card.image_mean, card.image_std)
    differences, boxes, same = [0.0], 0, 0
    for path in files:
        sample = sample_of(load_detection_frame(path), encoder, Variation(), np.random.default_rng(0))
        images, lidar2img, lidar, maps = network_inputs(sample, device)
        with torch.inference_mode():
            one, other = (network(images, lidar, maps, lidar2img) for network in (expected, got))
        for a, b in ((one.heatmap_lidar, other.heatmap_lidar), (one.heatmap_fused, other.heatmap_fused)):
            differences.append(_difference(a, b))
        wanted, found = (
            boxes_of(outputs_of(decoded, decoded.layers[-1]), card.sizes, card.classes, FRAME_ID, 0, least)
            for decoded, least in ((one, card.min_score), (other, 0.0))
        )
        boxes += len(wanted)
        same += count_same(wanted, found)
    heatmap = float(np.max(differences))  # NaN if one is
    if not heatmap <= TOLERANCE:
        raise ModelError(
            f"{card.name}: heatmaps of the fp16 weights differ from float32 by {heatmap:.3g} of the largest value, "
            f"expected at most {TOLERANCE}"
        )
    if boxes - same > max(1.0, (1.0 - LEAST_SAME) * boxes):
        raise ModelError(
            f"{card.name}: the fp16 weights find {same} of {boxes} boxes of float32 again, expected {LEAST_SAME:.0%}"
        )
    return Agreement(heatmap, boxes, same)


def _difference(expected: Tensor, got: Tensor) -> float:
    """The largest difference, of the largest value or of 1; NaN stays NaN."""
    return float((expected - got).abs().max() / expected.abs().max().clamp(min=1.0))


def count_same(expected: Detections3D, got: Detections3D) -> int:
    """How many boxes have one of their class within `SAME_M` over the ground and `SAME_SCORE`."""
    if len(got) == 0:
        return 0
    apart = np.linalg.norm(expected.centers[:, None, :2] - got.centers[None, :, :2], axis=-1)
    score = np.abs(expected.scores[:, None] - got.scores[None])
    same = (apart <= SAME_M) & (score <= SAME_SCORE) & (expected.labels[:, None] == got.labels[None])
    return int(same.any(axis=1).sum())


def figures_of(comparison: DetectionComparison) -> dict[str, float]:
    """mAP and NDS of all frames and by condition ("mAP.night"), and AP by class ("AP.car"), as fractions.

    Classes without truth that counts are left out, and so are conditions without any truth.
    """
    figures: dict[str, float] = {}
    conditions = np.array(comparison.conditions)
    for condition in ("", *sorted(set(comparison.conditions))):
        rows = np.nonzero(conditions == condition)[0] if condition else np.arange(len(conditions))
        judged = Judged(comparison, rows)
        if not judged.classes:
            continue
        scores, suffix = judged.scores(FUSION), f".{condition}" if condition else ""
        figures[f"mAP{suffix}"] = round(mean_ap_of(scores, judged.classes), 4)
        figures[f"NDS{suffix}"] = round(nds_of(scores, judged.classes), 4)
        if not condition:
            figures |= {f"AP.{name}": round(ap, 4) for name, ap in scores.mean_dist_aps.items()}
    return figures


def deviations(
    truth: Sequence[ScoredBoxes], found: Sequence[ScoredBoxes], min_score: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Standard deviations of what is found, by class: of the position along each axis of the ground [m], and of the
    heading [rad].

    Boxes are matched as the metric does at 2 m, so larger errors of position are no part of it. Both follow from mean
    absolute errors, as of normal deviates: a few headings that are turned round do not decide alone.

    Args:
        min_score: boxes below are not reported, and so not asked.
    """
    errors: dict[str, list[F64]] = {}
    for there, seen in zip(truth, found, strict=True):
        there, seen = there.counted(), seen.counted()
        seen = seen.take(seen.scores >= min_score)
        for name in set(there.classes.tolist()):
            one, other = there.take(there.classes == name), seen.take(seen.classes == name)
            errors.setdefault(name, []).append(_matched_errors(one, other, turned_alike=name == "barrier"))
    position, yaw = {}, {}
    for name, parts in sorted(errors.items()):
        rows = np.concatenate(parts)
        if len(rows) >= FEWEST_MATCHES:
            distance_m, turn_rad = rows.mean(axis=0).tolist()
            position[name] = round(distance_m / _ABSOLUTE_TO_DEVIATION, 4)
            yaw[name] = round(turn_rad * _ABSOLUTE_TO_DEVIATION, 4)
    return position, yaw


def _matched_errors(truth: ScoredBoxes, found: ScoredBoxes, turned_alike: bool) -> F64:
    """(M, 2) distance over the ground [m] and turn [rad] of the boxes that are found, the best score first.

    Args:
        turned_alike: front and back are the same.
    """
    rows, free = [], np.ones(len(truth.centers), bool)
    for i in np.argsort(-found.scores, kind="stable"):
        if not free.any():
            break
        distance = np.linalg.norm(truth.centers[:, :2] - found.centers[i, :2], axis=1)
        j = int(np.argmin(np.where(free, distance, np.inf)))
        if distance[j] < ERROR_THRESHOLD_M:
            free[j] = False
            turn = abs(float(wrapped_rad(found.yaw_rad[i] - truth.yaw_rad[j])))
            rows.append((float(distance[j]), min(turn, math.pi - turn) if turned_alike else turn))
    return np.array(rows, np.float64).reshape(-1, 2)
