"""Replays a bag through the pipeline, deterministically, and scores it where the bag holds the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.codec.image import decode_labels
from mm_perception.core.errors import BagError, DataError, MmPerceptionError
from mm_perception.core.types import LabelImage
from mm_perception.metrics.latency import LatencyLog, LatencySummary
from mm_perception.metrics.segmentation import ConfusionMatrix, SegmentationScores
from mm_perception.pipeline.intake import TF_STATIC_TOPIC, Intake, Observation
from mm_perception.pipeline.perception import Perception, PerceptionResult

_KEPT_FOR_LABELS = 32

OnResult = Callable[[Observation, PerceptionResult], None]
OnProblem = Callable[[str, Exception], None]


@dataclass(slots=True, eq=False)
class ReplayReport:
    """What a replay gave.

    Attributes:
        frames: messages of the reference sensor.
        bundles: observations that the intake gave.
        segmented: results.
        dropped: what was lost, by "where: reason".
        latency: per stage; decoding included, reading the bag not.
        scores: None where no label image met a result.
        scored: label images that met a result.
        trained: whether the weights are.
    """

    frames: int = 0
    bundles: int = 0
    segmented: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    latency: dict[str, LatencySummary] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    scores: SegmentationScores | None = None
    scored: int = 0
    trained: bool = True


def observations(bag: BagReader, intake: Intake) -> Iterator[Observation]:
    """All observations of a bag, in order.

    Static transforms and each camera's first CameraInfo are taken first, wherever they lie in the bag: live they
    are latched or have come before the first image that counts. The clock is the bag's log time.

    Raises:
        BagError: the bag has no message of the rig's reference sensor, or is damaged.
    """
    rig = intake.rig
    by_topic = {route.topic: route for route in intake.inputs}
    reference_topic = rig.sensor(rig.reference).input_topic
    if reference_topic not in bag.topics:
        known = ", ".join(sorted(bag.topics)) or "none"
        raise BagError(
            f"{bag.path}: no topic {reference_topic} (rig {rig.name}, sensor {rig.reference}); topics: {known}"
        )
    for topic, route in by_topic.items():
        found = bag.topics.get(topic, route.type_name)
        if found != route.type_name:
            raise BagError(f"{bag.path}: topic {topic} has {found}, rig {rig.name} wants {route.type_name}")
    _take_calibration_first(bag, intake)
    for message in bag.messages(set(by_topic)):
        if message.topic == TF_STATIC_TOPIC:
            continue
        yield from _receive(bag, intake, message)
    yield from intake.flush()


def _take_calibration_first(bag: BagReader, intake: Intake) -> None:
    wanted = {route.topic for route in intake.inputs if route.role in ("camera_info", "tf_static")}
    infos = {route.topic for route in intake.inputs if route.role == "camera_info"}
    for message in bag.messages(wanted):
        if message.topic in infos:
            infos.discard(message.topic)
        elif message.topic != TF_STATIC_TOPIC:
            continue
        _receive(bag, intake, message)


def _receive(bag: BagReader, intake: Intake, message: BagMessage) -> list[Observation]:
    try:
        decoded = bag.decode(message)
    except DataError as error:
        intake.reject(message.topic, error)
        return []
    return intake.receive(message.topic, decoded, message.log_ns)


def replay_bag(
    path: Path | str,
    perception: Perception,
    on_result: OnResult | None = None,
    on_problem: OnProblem | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Runs every observation of the bag through the pipeline.

    Args:
        on_result: is given each observation with its result, in order.
        on_problem: is told of everything that was dropped.
        on_progress: is told the frames done and the frames in the bag.

    Raises:
        BagError: the bag cannot be read or lacks the reference topic.
    """
    report = ReplayReport(classes=perception.card.classes, trained=perception.card.trained)
    intake = Intake(perception.rig, on_problem)
    latency = LatencyLog()
    with BagReader(path) as bag:
        reference_topic = perception.rig.sensor(perception.rig.reference).input_topic
        truth = _TruthMatcher(bag, perception.rig.labels, len(perception.card.classes))
        total = bag.count(reference_topic)
        for observation in observations(bag, intake):
            report.bundles += 1
            try:
                result = perception.step(observation)
            except MmPerceptionError as error:
                report.dropped[f"bundle: {type(error).__name__}"] += 1
                if on_problem is not None:
                    on_problem("bundle", error)
                continue
            report.segmented += 1
            latency.add(result.stage_ms)
            truth.compare(result)
            if on_result is not None:
                on_result(observation, result)
            if on_progress is not None:
                on_progress(report.segmented, total)
    return _finish(report, intake, latency, truth)


def _finish(report: ReplayReport, intake: Intake, latency: LatencyLog, truth: _TruthMatcher) -> ReplayReport:
    stats = intake.sync_stats
    report.frames = stats.received[intake.rig.reference]
    for (sensor, reason), count in stats.dropped.items():
        report.dropped[f"{sensor}: {reason}"] += count
    for (topic, kind), count in intake.rejected.items():
        report.dropped[f"{topic}: {kind}"] += count
    report.dropped.update(truth.dropped)
    report.latency = {**intake.latency.summary(), **latency.summary()}
    report.scored = truth.scored
    report.scores = truth.confusion.scores() if truth.scored else None
    return report


class _TruthMatcher:
    """Compares results with the label images of the same stamp; labels are read alongside, a few at a time."""

    def __init__(self, bag: BagReader, topic: str, num_classes: int) -> None:
        self.confusion = ConfusionMatrix(num_classes)
        self.scored = 0
        self.dropped: Counter[str] = Counter()
        self._bag, self._topic = bag, topic
        self._labels: dict[int, LabelImage] = {}
        self._stream = bag.messages({topic}) if topic in bag.topics else iter(())

    def compare(self, result: PerceptionResult) -> None:
        segmentation = result.segmentation
        label = self._find(segmentation.stamp_ns)
        if label is None:
            return
        try:
            self.confusion.add(label.class_ids, segmentation.class_ids)
        except DataError as error:
            self.dropped[f"{self._topic}: {type(error).__name__}: {error}"] += 1
            return
        self.scored += 1

    def _find(self, stamp_ns: int) -> LabelImage | None:
        while stamp_ns not in self._labels and len(self._labels) < _KEPT_FOR_LABELS:
            message = next(self._stream, None)
            if message is None:
                return None
            try:
                label = decode_labels(self._bag.decode(message))
            except DataError as error:
                self.dropped[f"{self._topic}: {type(error).__name__}"] += 1
                continue
            if label.stamp_ns >= stamp_ns:
                self._labels[label.stamp_ns] = label
        for old in [stamp for stamp in self._labels if stamp < stamp_ns]:
            del self._labels[old]
        return self._labels.pop(stamp_ns, None)
