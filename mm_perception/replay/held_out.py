"""What fusion buys: models side by side on frames of worlds that no training has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import DepthFrame, ImageFrame, Measurement, SensorBundle, ThermalFrame
from mm_perception.engines.card import ModelCard
from mm_perception.engines.load import load_engine
from mm_perception.metrics.latency import StageClock
from mm_perception.metrics.segmentation import ConfusionMatrix, miou_of_true_classes
from mm_perception.pipeline.intake import Calibration, Observation
from mm_perception.pipeline.segmentation import SegmentationPipeline
from mm_perception.sim.frames import LabelledFrame
from mm_perception.sim.surfaces import CLASSES

FEWEST_WORLDS = 10
"""Of fewer, a bootstrap says nothing about others: no interval is given."""
FRAME_ID = "head_optical_frame"
RESAMPLES = 2000
RIG = RigConfig(
    sensors=(
        SensorConfig("rgb", "rgb"),
        SensorConfig("depth", "depth", required=False),
        SensorConfig("thermal", "thermal", required=False),
    ),
    reference="rgb",
    name="held-out frames",
)


@dataclass(slots=True, eq=False)
class Comparison:
    """Confusion matrices of M models on N frames.

    Attributes:
        models: names.
        conditions: (N,) of each frame.
        worlds: (N,) seed of each frame's world.
        counts: by model, (N, C, C) int64, rows are the truth.
        inference_ms: by model, of each frame.
    """

    models: tuple[str, ...]
    conditions: list[str] = field(default_factory=list)
    worlds: list[int] = field(default_factory=list)
    counts: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    inference_ms: dict[str, list[float]] = field(default_factory=dict)


def compare(
    cards: dict[str, ModelCard],
    frames: Iterable[LabelledFrame],
    engine: str = "auto",
    on_result: Callable[[LabelledFrame, dict[str, NDArray[np.uint8]]], None] | None = None,
) -> Comparison:
    """Runs every model on every frame, through the pipeline of the node.

    Args:
        on_result: is given each frame and the (H, W) class ids by model.

    Raises:
        ConfigError: a card has other classes than the world, or needs a sensor that the frames lack.
        EngineError, ModelError: a model cannot be run.
    """
    pipelines = {}
    for name, card in cards.items():
        if card.classes != CLASSES:
            raise ConfigError(f"model {card.name}: has other classes than the simulated world ({', '.join(CLASSES)})")
        pipelines[name] = SegmentationPipeline(card, load_engine(card, engine), RIG)
    result = Comparison(tuple(cards))
    for i, frame in enumerate(frames):
        observation = as_observation(frame, stamp_ns=i)
        predicted = {}
        for name, pipeline in pipelines.items():
            clock = StageClock()
            predicted[name] = pipeline.step(observation, clock).class_ids
            matrix = ConfusionMatrix(len(CLASSES))
            matrix.add(frame.class_ids, predicted[name])
            result.counts.setdefault(name, []).append(matrix.counts)
            result.inference_ms.setdefault(name, []).append(clock.stage_ms["inference"])
        result.conditions.append(frame.condition)
        result.worlds.append(frame.world_seed)
        if on_result is not None:
            on_result(frame, predicted)
    for pipeline in pipelines.values():
        pipeline.engine.close()
    return result


def as_observation(frame: LabelledFrame, stamp_ns: int) -> Observation:
    """One frame as the intake would hand it to the pipeline: all sensors see through one lens."""
    measurements: dict[str, Measurement] = {
        "rgb": ImageFrame(frame.rgb, stamp_ns, FRAME_ID),
        "depth": DepthFrame(frame.depth_m, stamp_ns, FRAME_ID),
        "thermal": ThermalFrame(frame.thermal.astype(np.float32), "counts", stamp_ns, FRAME_ID),
    }
    return Observation(SensorBundle(stamp_ns, "rgb", measurements), Calibration({}, {}, {}))


def summary(comparison: Comparison, baseline: str, seed: int = 0) -> dict[str, Any]:
    """mIoU, gains over the baseline and IoU per class, over all frames and per condition, as JSON.

    mIoU is that of the summed confusion matrix, over the classes that the truth of those frames holds; conditions
    whose frames lack a class leave it out. The intervals are 95 % percentile bootstrap intervals over worlds (frames
    of one world are alike), with the same draws for all models, each draw over the classes that it holds; null where
    there are fewer than `FEWEST_WORLDS` worlds. They hold the spread of scenes, not that of training seeds.
    """
    matrices = {name: np.stack(comparison.counts[name]) for name in comparison.models}
    conditions, worlds = np.array(comparison.conditions), np.array(comparison.worlds)
    out: dict[str, Any] = {"miou": {}, "interval_95": {}, "gain": {}, "gain_interval_95": {}, "iou": {}, "frames": {}}
    for condition in ("all", *dict.fromkeys(comparison.conditions)):
        chosen = np.ones(len(conditions), bool) if condition == "all" else conditions == condition
        enough = len(np.unique(worlds[chosen])) >= FEWEST_WORLDS
        draws = {
            name: bootstrap(counts[chosen], worlds[chosen], np.random.default_rng([seed, RESAMPLES]))
            for name, counts in matrices.items()
            if enough
        }
        point = {name: float(miou_of_true_classes(counts[chosen].sum(axis=0))) for name, counts in matrices.items()}
        out["frames"][condition] = int(chosen.sum())
        out["miou"][condition] = {name: round(value, 5) for name, value in point.items()}
        out["interval_95"][condition] = {name: interval_95(draws.get(name)) for name in comparison.models}
        others = [name for name in comparison.models if name != baseline]
        out["gain"][condition] = {name: round(point[name] - point[baseline], 5) for name in others}
        out["gain_interval_95"][condition] = {
            name: interval_95(draws[name] - draws[baseline] if enough else None) for name in others
        }
        out["iou"][condition] = {name: _per_class(counts[chosen].sum(axis=0)) for name, counts in matrices.items()}
    return out


def bootstrap(
    counts: NDArray[np.int64], worlds: NDArray[np.int64], generator: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """(resamples,) mIoU of worlds drawn with replacement.

    Args:
        counts: (N, C, C) of N frames.
        worlds: (N,) which frames belong together.
    """
    _, index = np.unique(worlds, return_inverse=True)
    per_world = np.zeros((int(index.max()) + 1, *counts.shape[1:]), np.float64)
    np.add.at(per_world, index, counts)
    drawn = generator.multinomial(len(per_world), np.full(len(per_world), 1 / len(per_world)), resamples)
    sums = (drawn.astype(np.float64) @ per_world.reshape(len(per_world), -1)).reshape(resamples, *counts.shape[1:])
    return miou_of_true_classes(sums)


def interval_95(values: NDArray[np.float64] | None) -> list[float] | None:
    """The middle 95 % of the draws that are known; None if there are none."""
    known = None if values is None else values[np.isfinite(values)]
    if known is None or not len(known):
        return None
    return [round(float(v), 5) for v in np.percentile(known, (2.5, 97.5))]


def _per_class(counts: NDArray[np.int64]) -> dict[str, float | None]:
    hits, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {
        name: round(float(hits[i] / (true[i] + predicted[i] - hits[i])), 5) if true[i] else None
        for i, name in enumerate(CLASSES)
    }
