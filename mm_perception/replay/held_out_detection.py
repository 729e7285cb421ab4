"""What cameras add to LiDAR in detection: one network with all sensors and with fewer, on worlds that no training saw.

Three ways to answer the same frames:

- `fusion`: the network with all sensors.
- `lidar`: the network's LiDAR stream alone, with the same weights: what the first stage of training learned, which the
  second froze. It is run by torch, whatever runs the others.
- `camera-blind`: the fused network while all cameras are missing; what is left when they fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
from mm_perception.core.types import Detections3D
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Engine
from mm_perception.engines.load import load_engine
from mm_perception.metrics.detection import DetectionMetric, DetectionScores, ScoredBoxes, matched_frames
from mm_perception.metrics.nuscenes_format import scored_boxes
from mm_perception.pipeline.detection_boxes import boxes_of
from mm_perception.replay.frame_view import frame_view
from mm_perception.replay.held_out import FEWEST_WORLDS, interval_95
from mm_perception.sensing.detector_inputs import DetectorEncoder
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import DetectionFrame, detection_rig

F64 = NDArray[np.float64]

FUSION, LIDAR, BLIND = WAYS = ("fusion", "lidar", "camera-blind")
BASELINE = LIDAR
FAR_M = 30.0
SMALL_CLASSES = ("barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone")
"""Those of the world whose boxes are shorter than 2.5 m."""
RESAMPLES = 1000
FRAME_ID = "lidar"


class Way(NamedTuple):
    """One way to answer frames: an engine that takes some of the encoder's tensors, with or without the cameras."""

    engine: Engine
    cameras: bool = True


@dataclass(slots=True, eq=False)
class DetectionComparison:
    """Truth and answers of N frames.

    Attributes:
        ways: names.
        conditions: (N,) of each frame. worlds: (N,) seed of each frame's world.
        truth: (N,) boxes with their LiDAR returns.
        found: by way, (N,) boxes.
        inference_ms: by way, of each frame.
    """

    ways: tuple[str, ...]
    conditions: list[str] = field(default_factory=list)
    worlds: list[int] = field(default_factory=list)
    truth: list[ScoredBoxes] = field(default_factory=list)
    found: dict[str, list[ScoredBoxes]] = field(default_factory=dict)
    inference_ms: dict[str, list[float]] = field(default_factory=dict)


def open_ways(card: DetectorCard, lidar_card: DetectorCard | None = None, engine: str = "auto") -> dict[str, Way]:
    """The three ways of a card.

    Args:
        lidar_card: whose LiDAR stream runs alone; None: the card's own.

    Raises:
        ConfigError: the cards are of different sizes or classes, or not for the frames of the world.
        EngineError, ModelError: a network cannot be run; the LiDAR's stream needs torch.
    """
    alone = lidar_card or card
    if (alone.variant, alone.classes) != (card.variant, card.classes):
        raise ConfigError(
            f"model {alone.name}: expected variant {card.variant} and the classes of {card.name}, to be compared with"
        )
    check_world_card(card)
    from mm_perception.engines.lidar_alone import lidar_engine

    blind_to_images = lidar_engine(alone)
    fused = load_engine(card, engine)
    return {FUSION: Way(fused), LIDAR: Way(blind_to_images), BLIND: Way(fused, cameras=False)}


def check_world_card(card: DetectorCard) -> None:
    """Raises ConfigError if frames of the simulated world are not for a detector of this card."""
    if not set(card.classes) <= set(DETECTION_CLASSES):
        raise ConfigError(
            f"model {card.name}: has other classes than the simulated world ({', '.join(DETECTION_CLASSES)})"
        )
    cameras = [camera.model for camera in detection_rig().cameras]
    shape = len(cameras), cameras[0].height, cameras[0].width
    if shape != (card.sizes.views, *card.input_size):
        raise ConfigError(
            f"model {card.name}: takes {card.sizes.views} images of {card.input_size} px, the simulated world has "
            f"{shape[0]} of {shape[1:]}"
        )


def compare_ways(
    card: DetectorCard,
    ways: Mapping[str, Way],
    frames: Iterable[DetectionFrame],
    on_result: Callable[[DetectionFrame, dict[str, Detections3D]], None] | None = None,
) -> DetectionComparison:
    """Answers every frame in every way; the engines are closed at the end.

    Args:
        card: how inputs are prepared, and what the outputs mean.
        on_result: is given each frame and the boxes by way.

    Raises:
        DataError: a frame is damaged, or its images are of another size than the card's.
        EngineError: a network failed.
    """
    encoders = {seeing: DetectorEncoder(card.sizes, card.image_mean, card.image_std) for seeing in (True, False)}
    result = DetectionComparison(tuple(ways))
    try:
        for frame in frames:
            view = frame_view(frame, bgr=card.channel_order == "bgr")
            blind = replace(view, present=np.zeros_like(view.present))
            needed = {way.cameras for way in ways.values()}
            tensors = {seeing: encoders[seeing].encode(view if seeing else blind).tensors for seeing in needed}
            found = {}
            for name, (engine, cameras) in ways.items():
                given = {spec.name: tensors[cameras][spec.name] for spec in engine.inputs}
                begun = time.perf_counter()
                outputs = engine.run(given)
                result.inference_ms.setdefault(name, []).append(1e3 * (time.perf_counter() - begun))
                found[name] = boxes_of(outputs, card.sizes, card.classes, FRAME_ID, 0)
                result.found.setdefault(name, []).append(scored_boxes(found[name]))
            result.truth.append(scored_boxes(frame.boxes, frame.lidar_points))
            result.conditions.append(frame.condition)
            result.worlds.append(frame.world_seed)
            if on_result is not None:
                on_result(frame, found)
    finally:
        for way in ways.values():
            way.engine.close()
    return result


class Judged:
    """Some frames of a comparison, matched, over the classes of which they hold truth.

    Attributes:
        classes: names; truths: (N, C) true boxes that count, by frame and class.
        metrics: by way.
    """

    def __init__(self, comparison: DetectionComparison, rows: NDArray[np.integer], nearest_m: float = 0.0) -> None:
        """Args:
        rows: which frames.
        nearest_m: boxes nearer than this are left out before the matching, true and found ones.
        """
        truth = [_beyond(comparison.truth[i].counted(), nearest_m) for i in rows]
        self.metrics: dict[str, DetectionMetric] = {}
        for way in comparison.ways:
            found = [_beyond(comparison.found[way][i], nearest_m) for i in rows]
            self.metrics[way] = matched_frames(list(zip(truth, found, strict=True)), DETECTION_CLASSES)
        self.classes = next(iter(self.metrics.values())).classes  # those of the truth, in all ways
        self.truths = np.array([[np.count_nonzero(t.classes == name) for name in self.classes] for t in truth])
        self.truths = self.truths.reshape(len(truth), len(self.classes)).astype(np.int64)

    def scores(self, way: str) -> DetectionScores:
        """All figures."""
        return self.metrics[way].scores()

    def aps(self, way: str, draws: Sequence[NDArray[np.integer]]) -> F64:
        """(R, C) average precision in each of R selections of frames; NaN for classes without truth in it."""
        out = np.full((len(draws), len(self.classes)), np.nan)
        for k, chosen in enumerate(draws):
            found = self.metrics[way].scores(chosen).mean_dist_aps
            held = self.truths[chosen].sum(axis=0) > 0
            out[k, held] = [found[name] for name, there in zip(self.classes, held, strict=True) if there]
        return out


def _beyond(boxes: ScoredBoxes, nearest_m: float) -> ScoredBoxes:
    return boxes.take(boxes.distance_m > nearest_m) if nearest_m else boxes


def drawn_frames(
    worlds: Sequence[int] | NDArray[np.integer], generator: np.random.Generator, resamples: int
) -> list[NDArray[np.int64]]:
    """`resamples` selections of frames: worlds drawn with replacement, each with all its frames.

    Args:
        worlds: (N,) which frames belong together.
    """
    _, index = np.unique(np.asarray(worlds), return_inverse=True)
    members = [np.nonzero(index == w)[0] for w in range(int(index.max()) + 1)]
    drawn = generator.integers(0, len(members), (resamples, len(members)))
    return [np.concatenate([members[w] for w in row]) for row in drawn]


def summary(comparison: DetectionComparison, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """mAP, NDS and what fusion gains over the LiDAR alone, as JSON; figures are fractions.

    Distances are from the LiDAR; true boxes without a return of it are left out, and so are classes without truth in a
    selection of frames from its means. The intervals are 95 % percentile bootstrap intervals over worlds (frames of one
    world are alike), with the same draws in all ways, each draw over the classes that it holds; null where there are
    fewer than `FEWEST_WORLDS` worlds. They hold the spread of scenes, not that of training seeds.

    Returns:
        mAP, NDS, interval_95, gain, gain_interval_95 and frames by "all" and condition; AP by class and true_boxes of
        all frames; the same as of a condition for `far` (boxes beyond `FAR_M`) and `small` (`SMALL_CLASSES`).
    """
    out: dict[str, Any] = {"mAP": {}, "NDS": {}, "interval_95": {}, "gain": {}, "gain_interval_95": {}, "frames": {}}
    rows = np.arange(len(comparison.conditions))
    conditions = np.array(comparison.conditions)
    for condition in ("all", *dict.fromkeys(comparison.conditions)):
        chosen = rows if condition == "all" else rows[conditions == condition]
        judged, draws = Judged(comparison, chosen), _draws(comparison, chosen, seed, resamples)
        drawn = {way: judged.aps(way, draws) for way in comparison.ways}
        figures = _figures(judged, drawn, judged.classes)
        for name, value in figures.items():
            out[name][condition] = value
        out["frames"][condition] = len(chosen)
        if condition == "all":
            out["AP"] = {way: _rounded(judged.scores(way).mean_dist_aps) for way in comparison.ways}
            out["true_boxes"] = dict(zip(judged.classes, judged.truths.sum(axis=0).tolist(), strict=True))
            out["small"] = {"classes": [c for c in judged.classes if c in SMALL_CLASSES]}
            out["small"] |= _figures(judged, drawn, tuple(out["small"]["classes"]))
    far, draws = Judged(comparison, rows, FAR_M), _draws(comparison, rows, seed, resamples)
    out["far"] = {"beyond_m": FAR_M, "classes": list(far.classes)}
    out["far"] |= _figures(far, {way: far.aps(way, draws) for way in comparison.ways}, far.classes)
    return out


def _draws(
    comparison: DetectionComparison, rows: NDArray[np.integer], seed: int, resamples: int
) -> list[NDArray[np.int64]]:
    """Selections among `rows`, none where there are too few worlds."""
    worlds = np.asarray(comparison.worlds)[rows]
    if len(np.unique(worlds)) < FEWEST_WORLDS:
        return []
    return drawn_frames(worlds, np.random.default_rng([seed, resamples]), resamples)


def _figures(judged: Judged, drawn: dict[str, F64], classes: tuple[str, ...]) -> dict[str, Any]:
    """Point figures and intervals over some of the classes; null where there is no truth of them."""
    columns = [judged.classes.index(name) for name in classes]
    scores = {way: judged.scores(way) for way in judged.metrics}
    mean_ap = {way: mean_ap_of(s, classes) for way, s in scores.items()}
    means = {way: _mean_of_known(values[:, columns]) for way, values in drawn.items()}
    gain = interval = None
    if FUSION in mean_ap and BASELINE in mean_ap and classes:
        gain = mean_ap[FUSION] - mean_ap[BASELINE]
        interval = interval_95(means[FUSION] - means[BASELINE])
    return {
        "mAP": _rounded(mean_ap),
        "NDS": _rounded({way: nds_of(s, classes) for way, s in scores.items()}),
        "interval_95": {way: interval_95(values) for way, values in means.items()},
        "gain": None if gain is None else round(gain, 5),
        "gain_interval_95": interval,
    }


def mean_ap_of(scores: DetectionScores, classes: Sequence[str]) -> float:
    """Mean average precision over some classes; NaN of none."""
    return scores.over(classes).mean_ap if classes else float("nan")


def nds_of(scores: DetectionScores, classes: Sequence[str]) -> float:
    """The nuScenes detection score over some classes; NaN of none."""
    return scores.over(classes).nds if classes else float("nan")


def _mean_of_known(values: F64) -> F64:
    """(R,) means of the rows' numbers; NaN of rows without any."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(float(value), 5) if np.isfinite(value) else None for name, value in values.items()}
