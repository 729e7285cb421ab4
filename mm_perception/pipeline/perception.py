"""Everything that is computed from one observation, and how it is put together from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from mm_perception.core.errors import ConfigError, MmPerceptionError, SightError
from mm_perception.core.progress import Caution
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import OFF, FusionSettings
from mm_perception.core.types import SegmentationMap
from mm_perception.engines.card import WeightsCard, find_card, knows_simulation_alone
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.engines.engine import device_of
from mm_perception.engines.load import load_engine
from mm_perception.engines.reference import made_inputs
from mm_perception.engines.tensorrt.settings import TensorRtSettings
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.detection import DetectionOutcome, DetectionPipeline, PreparedDetection, detector_taps
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.segmentation import PreparedSegmentation, SegmentationPipeline, choose_x_sensor
from mm_perception.pipeline.sight import (
    Sight,
    detection_sight,
    ground_coverage,
    in_words,
    segmentation_sight,
    unseen_by_the_network,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PerceptionResult:
    """What one step gave.

    Attributes:
        sight: what the sensors could see, and so how far the results may be believed.
        segmentation, detection: None where the task is switched off or failed.
        failures: by task ("segmentation", "detection"), why there is no result.
        stage_ms: wall time by stage [ms].
    """

    segmentation: SegmentationMap | None = None
    detection: DetectionOutcome | None = None
    failures: Mapping[str, MmPerceptionError] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)
    sight: Sight | None = None


@dataclass(slots=True, eq=False)
class PreparedObservation:
    """What `Perception.finish` goes on with.

    Attributes:
        segmentation, detection: None where the task is switched off or failed.
        failures: by task.
        clock: of the stages so far.
        sight: what the sensors could see.
    """

    sight: Sight
    segmentation: PreparedSegmentation | None = None
    detection: PreparedDetection | None = None
    failures: dict[str, MmPerceptionError] = field(default_factory=dict)
    clock: StageClock = field(default_factory=StageClock)


class Perception:
    """All models of one rig; `step` is called with one observation after the other.

    So are its halves: one thread may `prepare` an observation while another is in `finish` with an earlier one.
    """

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
    def used_sensors(self) -> frozenset[str]:
        """Those that some model listens to; bundles wait for no others."""
        names = {self.rig.reference}
        if self.segmentation is not None:
            names.add(self.segmentation.x_sensor)
        if self.detection is not None:
            names |= {self.detection.taps.lidar, *self.detection.taps.cameras}
        return frozenset(names)

    def sight(self, observation: Observation) -> Sight:
        """What the sensors of an observation could see; the tasks may find more that is missing."""
        tasks, coverage = {}, None
        if self.segmentation is not None:
            tasks["segmentation"] = segmentation_sight(observation, self.segmentation.x_sensor)
        if self.detection is not None:
            tasks["detection"] = detection_sight(observation, self.detection.taps, self.rig)
            coverage = ground_coverage(observation, self.detection.taps)
        return Sight(observation.bundle.stamp_ns, tasks, coverage, observation.bundle.missing)

    @property
    def cards(self) -> tuple[WeightsCard, ...]:
        """Of the models that run."""
        return tuple(task.card for task in (self.segmentation, self.detection) if task is not None)

    @property
    def engine_name(self) -> str:
        """The runtimes that run the networks; one name where it is the same."""
        names = [task.engine.name for task in (self.segmentation, self.detection) if task is not None]
        return ", ".join(dict.fromkeys(names))

    @property
    def overlaps(self) -> bool:
        """Whether some network leaves the CPU free, so that the next observation can be prepared meanwhile."""
        return any(device_of(task.engine) != "cpu" for task in (self.segmentation, self.detection) if task is not None)

    def step(self, observation: Observation) -> PerceptionResult:
        """Runs every task; one that fails does not take the other's result with it.

        Raises:
            DataError, CalibrationError, EngineError, SightError: no task gave a result; the observation is then
                dropped.
        """
        return self.finish(self.prepare(observation))

    def prepare(self, observation: Observation) -> PreparedObservation:
        """The first half of `step`: the inputs of every network.

        Raises:
            DataError, CalibrationError, EngineError, SightError: no task can go on.
        """
        prepared = PreparedObservation(self.sight(observation))
        clock, failures = prepared.clock, prepared.failures
        if self.segmentation is not None:
            prepare = partial(self.segmentation.prepare, observation, clock)
            prepared.segmentation = _tried("segmentation", prepare, failures)
        if self.detection is not None:
            if blind := prepared.sight.tasks["detection"].blind:
                failures["detection"] = SightError(f"detector: {in_words(blind)}")
            else:
                prepared.detection = _tried("detection", partial(self.detection.prepare, observation, clock), failures)
        if prepared.segmentation is None and prepared.detection is None:
            raise _in_order(failures)[0][1]
        return prepared

    def finish(self, prepared: PreparedObservation) -> PerceptionResult:
        """The second half of `step`: the networks, and what their outputs mean.

        Raises:
            DataError, CalibrationError, EngineError, SightError: no task gave a result.
        """
        clock, failures, sight = prepared.clock, dict(prepared.failures), prepared.sight
        segmentation, detection = None, None
        if self.segmentation is not None and prepared.segmentation is not None:
            finish = partial(self.segmentation.finish, prepared.segmentation, clock)
            segmentation = _tried("segmentation", finish, failures)
        if self.detection is not None and prepared.detection is not None:
            detection = _tried("detection", partial(self._finish_detection, prepared, clock), failures)
        if segmentation is None and detection is None:
            raise _in_order(failures)[0][1]
        if detection is not None:
            sight = sight.with_task("detection", sight.tasks["detection"].also(detection.degraded))
        for task, failure in failures.items():
            sight = sight.with_task(task, sight.tasks[task].failed(str(failure)))
        return PerceptionResult(segmentation, detection, dict(_in_order(failures)), clock.stage_ms, sight)

    def _finish_detection(self, prepared: PreparedObservation, clock: StageClock) -> DetectionOutcome:
        """Raises SightError where there are no boxes, and the LiDAR did not see enough for that to mean anything."""
        assert self.detection is not None and prepared.detection is not None
        outcome = self.detection.finish(prepared.detection, clock)
        task = prepared.sight.tasks["detection"]
        unseen = unseen_by_the_network(outcome.degraded, outcome.lost, len(outcome.table), self.detection.taps.lidar)
        if not len(outcome.detections) and (unseen or not task.no_boxes_means_free):
            raise SightError(f"detector: no boxes, which says nothing: {in_words({**task.degraded, **unseen})}")
        return outcome

    def warm_up(self) -> None:
        """Runs every network once, on made inputs: the first run of most runtimes takes many times longer.

        Raises:
            EngineError: a network cannot run.
        """
        for task in (self.segmentation, self.detection):
            if task is not None:
                task.engine.run(made_inputs(task.card)[0])

    def close(self) -> None:
        for task in (self.segmentation, self.detection):
            if task is not None:
                task.engine.close()


def _tried(task: str, action: Callable[[], T], failures: dict[str, MmPerceptionError]) -> T | None:
    """The action's result; None where it failed, which is noted."""
    try:
        return action()
    except MmPerceptionError as error:
        failures[task] = error
        return None


def _in_order(failures: Mapping[str, MmPerceptionError]) -> list[tuple[str, MmPerceptionError]]:
    """By task in the tasks' order, whichever failed first."""
    return [(task, failures[task]) for task in ("segmentation", "detection") if task in failures]


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
    threads, tensorrt = (
        settings.threads or None,
        TensorRtSettings(settings.precision, adopt=True, stale=settings.stale_engines),
    )
    segmentation = detection = None
    if card is not None:
        engine = load_engine(card, settings.engine, threads=threads, on_progress=on_progress, tensorrt=tensorrt)
        segmentation = SegmentationPipeline(card, engine, rig, settings.x_sensor)
    if detector is not None and taps is not None:
        engine = load_engine(detector, settings.engine, threads=threads, on_progress=on_progress, tensorrt=tensorrt)
        detection = DetectionPipeline(detector, engine, taps)
    perception = Perception(rig, segmentation, detection)
    for one in perception.cards:
        if on_progress is not None and one.trained and not rig.is_simulated and knows_simulation_alone(one.provenance):
            on_progress(
                Caution(f"the weights of {one.name} know simulated scenes alone: of real ones they prove nothing")
            )
    return perception
