"""The whole pipeline on the observations of a bag: how long each stage takes, and how many bundles a second it does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mm_perception.bags.reader import BagReader
from mm_perception.bench.gpu_table import Bench, reason_of
from mm_perception.bench.rows import PipelineRow
from mm_perception.core.errors import BagError, EngineError
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import OFF
from mm_perception.engines.card import ModelCard, WeightsCard, find_card
from mm_perception.engines.detector_card import DetectorCard, find_detector_card
from mm_perception.engines.engine import Engine
from mm_perception.engines.load import load_engine
from mm_perception.engines.torch_engine import TorchEngine
from mm_perception.pipeline.detection import DetectionPipeline, detector_taps
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.perception import Perception
from mm_perception.pipeline.segmentation import SegmentationPipeline
from mm_perception.replay.replay import observations

MOST_OBSERVATIONS = 16
"""That are kept in memory and run in turns."""


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """What the pipeline runs on: a bag's rig, its models and its first observations."""

    rig: RigConfig
    segmentation: ModelCard | None
    detection: DetectorCard | None
    taps: DetectorTaps | None
    seen: list[Observation]

    @property
    def models(self) -> str:
        return " + ".join(card.name for card in (self.segmentation, self.detection) if card is not None)


def load_drive(bag: Path, rig_name: str, model: str, detector: str) -> Drive:
    """Decodes a bag's first observations.

    Args:
        model, detector: names of cards, or none.

    Raises:
        ConfigError, ModelError, BagError: something is missing or does not fit.
    """
    rig = load_rig(rig_name)
    segmentation = None if model in OFF else find_card(model)
    detection = None if detector in OFF else find_detector_card(detector)
    taps = None if detection is None else detector_taps(detection, rig)
    with BagReader(bag) as reader:
        seen = list(islice(observations(reader, Intake(rig.with_types(reader.topics), taps=taps)), MOST_OBSERVATIONS))
    if not seen:
        raise BagError(f"{bag}: no observation for rig {rig.name}")
    return Drive(rig, segmentation, detection, taps, seen)


def pipeline_row(drive: Drive, engine: str, bench: Bench) -> PipelineRow:
    """Measures the pipeline with one engine, whatever happens."""
    if bench.budget.is_spent:
        return PipelineRow(engine, drive.models, "not run", str(bench.budget))
    bench.tell(f"pipeline: {engine} …")
    try:
        perception = _perception(drive, engine, bench)
        try:
            return measured_pipeline(perception, drive, engine, bench.rounds, bench.warmup)
        finally:
            perception.close()
    except Exception as error:  # a row that fails is a row with its reason
        return PipelineRow(engine, drive.models, "failed", reason_of(error))


def measured_pipeline(perception: Perception, drive: Drive, engine: str, rounds: int, warmup: int) -> PipelineRow:
    """Runs the observations in turns, first one after the other, then with two threads."""
    turns = [drive.seen[i % len(drive.seen)] for i in range(rounds)]
    for observation in islice(turns * (warmup + 1), warmup):
        perception.step(observation)
    stages: dict[str, list[float]] = defaultdict(list)
    started = time.perf_counter()
    for observation in turns:
        result = perception.step(observation)
        if result.failures:
            raise next(iter(result.failures.values()))
        for stage, duration in result.stage_ms.items():
            stages[stage].append(duration)
    step_per_s = rounds / (time.perf_counter() - started)
    started = time.perf_counter()
    _overlapped(perception, turns)
    overlapped_per_s = rounds / (time.perf_counter() - started)
    ends = {stage: np.percentile(values, (50, 99)) for stage, values in stages.items()}
    named = {stage: (float(median), float(p99)) for stage, (median, p99) in ends.items()}
    return PipelineRow(engine, drive.models, "ok", "", rounds, named, step_per_s, overlapped_per_s)


def _overlapped(perception: Perception, turns: Sequence[Observation]) -> None:
    """While one bundle is finished, the next one is prepared in a second thread."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(perception.prepare, turns[0])
        for following in [*turns[1:], None]:
            prepared = coming.result()
            if following is not None:
                coming = pool.submit(perception.prepare, following)
            perception.finish(prepared)


def _perception(drive: Drive, engine: str, bench: Bench) -> Perception:
    segmentation = detection = None
    if drive.segmentation is not None:
        segmentation = SegmentationPipeline(drive.segmentation, _engine(drive.segmentation, engine, bench), drive.rig)
    if drive.detection is not None and drive.taps is not None:
        detection = DetectionPipeline(drive.detection, _engine(drive.detection, engine, bench), drive.taps)
    return Perception(drive.rig, segmentation, detection)


def _engine(card: WeightsCard, engine: str, bench: Bench) -> Engine:
    if engine == "torch":
        return TorchEngine.from_card(card, device=str(bench.device.torch_device))
    if not bench.device.is_gpu:
        raise EngineError("TensorRT needs an NVIDIA GPU")
    return load_engine(card, engine, cache_dir=bench.cache, on_progress=bench.tell)
