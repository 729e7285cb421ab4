"""Everything that is computed from one observation, and how it is put together from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mm_perception.core.errors import ConfigError, MmPerceptionError
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import OFF, FusionSettings
from mm_perception.core.types import SegmentationMap
from mm_perception.engines.card import WeightsCard, find_card
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.engines.load import load_engine
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.detection import DetectionOutcome, DetectionPipeline, detector_taps
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.segmentation import SegmentationPipeline, choose_x_sensor


@dataclass(frozen=True, slots=True, eq=False)
class PerceptionResult:
    """What one step gave.

    Attributes:
        segmentation, detection: None where the task is switched off or failed.
        failures: by task ("segmentation", "detection"), why there is no result.
        stage_ms: wall time by stage [ms].
    """

    segmentation: SegmentationMap | None = None
    detection: DetectionOutcome | None = None
    failures: Mapping[str, MmPerceptionError] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)


class Perception:
    """All models of one rig; `step` is called with one observation after the other."""

    def __init__(
        self,
        rig: RigConfig,
        segmentation: SegmentationPipeline | None = None,
        detection: DetectionPipeline | None = None,
    ) -> None:
        """Raises ConfigError if there is nothing to do."""
        if segmentation is None and detection is None:
            raise ConfigError("neither a segmentation model nor a detector was given")
        self.rig = rig
        self.segmentation = segmentation
        self.detection = detection

    @property
    def taps(self) -> DetectorTaps | None:
        """What the intake must gather for the detector."""
        return None if self.detection is None else self.detection.taps

    @property
    def cards(self) -> tuple[WeightsCard, ...]:
        """Of the models that run."""
        return tuple(task.card for task in (self.segmentation, self.detection) if task is not None)

    @property
    def engine_name(self) -> str:
        return next(task.engine.name for task in (self.segmentation, self.detection) if task is not None)

    def step(self, observation: Observation) -> PerceptionResult:
        """Runs every task; one that fails does not take the other's result with it.

        Raises:
            DataError, CalibrationError, EngineError: no task gave a result; the observation is then dropped.
        """
        clock = StageClock()
        failures: dict[str, MmPerceptionError] = {}
        segmentation, detection = None, None
        if self.segmentation is not None:
            try:
                segmentation = self.segmentation.step(observation, clock)
            except MmPerceptionError as error:
                failures["segmentation"] = error
        if self.detection is not None:
            try:
                detection = self.detection.step(observation, clock)
            except MmPerceptionError as error:
                failures["detection"] = error
        if segmentation is None and detection is None:
            raise next(iter(failures.values()))
        return PerceptionResult(segmentation, detection, failures, clock.stage_ms)

    def close(self) -> None:
        for task in (self.segmentation, self.detection):
            if task is not None:
                task.engine.close()


def build_perception(settings: FusionSettings, on_progress: Callable[[str], None] | None = None) -> Perception:
    """Loads rig, model cards and engines, and checks that they fit.

    Raises:
        ConfigError, ModelError, EngineError: with everything that the user has to know.
    """
    rig = load_rig(settings.rig)
    if settings.max_wait_ms >= 0:
        rig = rig.with_max_wait_ms(settings.max_wait_ms)
    card = find_card(settings.model) if settings.model not in OFF else None
    detector = find_detector_card(settings.detector) if settings.detector not in OFF else None
    # What does not fit is said before engines are built, which may take long.
    if card is not None:
        choose_x_sensor(card, rig, settings.x_sensor)
    taps = None if detector is None else detector_taps(detector, rig, settings.output_frame)
    threads = settings.threads or None
    segmentation = detection = None
    if card is not None:
        engine = load_engine(card, settings.engine, threads=threads, on_progress=on_progress)
        segmentation = SegmentationPipeline(card, engine, rig, settings.x_sensor)
    if detector is not None and taps is not None:
        engine = load_engine(detector, settings.engine, threads=threads, on_progress=on_progress)
        detection = DetectionPipeline(detector, engine, taps)
    return Perception(rig, segmentation, detection)
