"""Replays a bag through the pipeline, deterministically, and scores it where the bag holds the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mm_perception.bags.names import nearest_names
from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.codec.guard import MessageGuard
from mm_perception.core.driver_packets import way_out
from mm_perception.core.errors import BagError, CalibrationError, DataError
from mm_perception.core.rig import MESSAGE_TYPES
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import DetectionScores
from mm_perception.metrics.latency import LatencyLog, LatencySummary
from mm_perception.metrics.segmentation import SegmentationScores
from mm_perception.pipeline.intake import InputTopic, Intake, Observation
from mm_perception.pipeline.perception import Perception, PerceptionResult
from mm_perception.pipeline.sight import Sight
from mm_perception.replay.truth import DetectionTruth, SegmentationTruth

TF_TYPE = "tf2_msgs/msg/TFMessage"
OnResult = Callable[[Observation, PerceptionResult], None]
OnProblem = Callable[[str, Exception], None]


@dataclass(slots=True, eq=False)
class ReplayReport:
    """What a replay gave.

    Attributes:
        frames: messages of the reference sensor.
        bundles: observations that the intake gave.
        segmented, detected: results.
        dropped: what was lost, by "where: reason".
        latency: per stage; decoding included, reading the bag not.
        classes: of the segmentation.
        scores: None where no label image met a result.
        scored: label images that met a result.
        detection_scores: None where no true box met a result.
        detection_scored: frames of true boxes that met a result.
        degraded: frames in which something was missing or worth less, by what it was.
        modes: frames by task and mode, such as "detection blind"; see `pipeline.sight`.
        left_out: what of the messages was no measurement, such as points without a return, by "sensor: what".
        notes: what is worth saying of sensors whose messages could be used, and of clocks that differ, by sensor.
        trained, detector_trained: whether the weights are; True where there are none.
    """

    frames: int = 0
    bundles: int = 0
    segmented: int = 0
    detected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    latency: dict[str, LatencySummary] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    scores: SegmentationScores | None = None
    scored: int = 0
    detection_scores: DetectionScores | None = None
    detection_scored: int = 0
    degraded: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)
    trained: bool = True
    detector_trained: bool = True


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
        why = bag.why_missing(reference_topic, rig.sensor(rig.reference).message_type)
        raise BagError(f"{bag.name}: {why} (rig {rig.name}, sensor {rig.reference})")
    usable = {topic for topic, route in by_topic.items() if _is_of_its_type(bag, intake, route)}
    _look_for_transforms(bag, intake)
    _take_calibration_first(bag, intake, usable)
    for message in bag.messages(usable - {rig.tf_static}):
        yield from _receive(bag, intake, message)
    yield from intake.flush()


def missing_topics(bag: BagReader, intake: Intake) -> Iterator[tuple[str, BagError]]:
    """What the rig wants and the bag lacks: by whom it is wanted, and which topic may be meant.

    Transforms may be in the rig's frames alone, and truth is in few bags: such topics are named where one is near.
    """
    rig = intake.rig
    for route in intake.inputs:
        if route.topic in bag.topics or route.role not in ("sensor", "camera_info", "odometry"):
            continue
        if route.sensor != rig.reference or route.role != "sensor":  # without that one, `observations` ends
            who = f"{route.sensor} {route.role}".strip() if route.role != "sensor" else route.sensor
            yield who, BagError(f"{bag.name}: {bag.why_missing(route.topic, route.type_name)}")
    for what in ("labels", "objects", "object_states"):
        topic = getattr(rig, what)
        if topic and topic not in bag.topics and nearest_names(topic, bag.topics):
            yield what, BagError(f"{bag.name}: {bag.why_missing(topic)}")


def _is_of_its_type(bag: BagReader, intake: Intake, route: InputTopic) -> bool:
    """Whether the bag has the type that a topic needs; transforms and calibration of another type are done without.

    Raises:
        BagError: a sensor's topic has messages that it cannot send.
    """
    found, rig = bag.topics.get(route.topic, route.type_name), intake.rig
    if found == route.type_name:
        return True
    error = BagError(f"{bag.name}: topic {route.topic} has {found}, rig {rig.name} wants {route.type_name}")
    if route.role == "sensor":
        sensor = rig.sensor(route.sensor)
        kinds = (sensor.type,) if sensor.type else MESSAGE_TYPES[sensor.kind]
        cure = way_out(found) or "take away the type of the sensor in the rig, or name another topic"
        raise BagError(f"{error} ({sensor.kind} sensor {sensor.name}: {' or '.join(kinds)}): {cure}")
    intake.reject(route.topic, error)
    return False


def _look_for_transforms(bag: BagReader, intake: Intake) -> None:
    """Says where the bag has its transforms, if they are not where the rig looks for them."""
    rig = intake.rig
    others = sorted(topic for topic, kind in bag.topics.items() if kind == TF_TYPE)
    if others and rig.tf not in bag.topics and rig.tf_static not in bag.topics:
        names = f"no {rig.tf} nor {rig.tf_static}, but transforms on {', '.join(others)}"
        intake.reject(rig.tf, BagError(f"{bag.name}: {names}: set tf and tf_static of the rig {rig.name}"))


def _take_calibration_first(bag: BagReader, intake: Intake, usable: Collection[str]) -> None:
    infos = {route.topic for route in intake.inputs if route.role == "camera_info"} & set(usable)
    tf_static = intake.rig.tf_static
    for message in bag.messages((infos | {tf_static}) & set(usable)):
        if message.topic in infos:
            infos.discard(message.topic)
        elif message.topic != tf_static:
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
    path: Path | str | Sequence[Path | str],
    perception: Perception,
    on_result: OnResult | None = None,
    on_problem: OnProblem | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_truth: Callable[[Detections3D], None] | None = None,
    on_pose: Callable[[Detections3D, RigidTransform], None] | None = None,
    on_sight: Callable[[Sight], None] | None = None,
    on_change: Callable[[str, str], None] | None = None,
) -> ReplayReport:
    """Runs every observation of a bag, or of several as one timeline, through the pipeline.

    One observation that fails, in the pipeline or in `on_result` and its like, is dropped, counted and told of.

    Args:
        on_result: is given each observation with its result, in order.
        on_problem: is told of everything that was dropped.
        on_progress: is told the frames done and the frames in the bag.
        on_truth: is given the true boxes, in the frame of the found ones, before `on_result` is given those.
        on_pose: is given boxes and the transform that takes them to the rig's fixed frame.
        on_change: is told a sensor's name and what of its messages is new or odd; see `Intake`.
        on_sight: is told what each observation is worth, before `on_result`; also of those that gave no result.

    Raises:
        BagError: the bag cannot be read or lacks the reference topic.
        BagError, OSError: a callback cannot write its output.
    """
    report = ReplayReport()
    if perception.segmentation is not None:
        report.classes, report.trained = perception.segmentation.card.classes, perception.segmentation.card.trained
    if perception.detection is not None:
        report.detector_trained = perception.detection.card.trained
    rig = perception.rig
    latency = LatencyLog()

    def between(src: str, src_ns: int, dst: str, dst_ns: int) -> RigidTransform:
        return intake.transform(dst, dst_ns, src, src_ns)

    def drop(where: str, error: Exception) -> None:
        report.dropped[f"{where}: {type(error).__name__}"] += 1
        if on_problem is not None:
            on_problem(where, error)

    def judge(sight: Sight) -> None:
        report.modes.update(f"{name} {task.mode}" for name, task in sight.tasks.items())
        report.degraded.update({what for task in sight.tasks.values() for what in task.reasons if what != "result"})
        if on_sight is not None:
            on_sight(sight)

    def take(observation: Observation, result: PerceptionResult) -> None:
        if result.sight is not None:
            judge(result.sight)
        if result.segmentation is not None:
            report.segmented += 1
            labels.compare(result.segmentation)
        if result.detection is not None:
            report.detected += 1
            found, seen = result.detection.detections, observation.lidar_view
            if on_pose is not None:
                try:
                    on_pose(found, between(found.frame_id, found.stamp_ns, rig.fixed_frame, found.stamp_ns))
                except CalibrationError:
                    report.dropped["submission: CalibrationError"] += 1
            truth = objects.compare(found, between, (seen.frame_id, found.stamp_ns) if seen else None)
            if truth is not None and on_truth is not None:
                on_truth(truth)
        if on_result is not None:
            on_result(observation, result)

    with BagReader(path) as bag:
        # Nobody is in a hurry: all sensors are waited for.
        intake = Intake(rig.with_types(bag.topics), on_problem, taps=perception.taps, on_change=on_change)
        reference_topic = rig.sensor(rig.reference).input_topic
        limit, guard = rig.sensor(rig.reference).pixel_limit, MessageGuard(on_problem)
        labels = SegmentationTruth(bag, rig.labels, max(1, len(report.classes)), limit, guard)
        objects = DetectionTruth(bag, rig.objects, rig.object_states, guard)
        total = bag.count(reference_topic)
        if on_problem is not None:
            for note in bag.notes:
                on_problem("bag", BagError(note))
            for who, missing in missing_topics(bag, intake):
                on_problem(who, missing)
        for observation in observations(bag, intake):
            report.bundles += 1
            try:
                result = perception.step(observation)
            except Exception as error:  # one bad observation must not lose the report of all others
                drop("bundle", error)
                judge(perception.sight(observation).failed(f"{type(error).__name__}: {error}"))
                continue
            latency.add(result.stage_ms)
            for task, failure in result.failures.items():
                drop(task, failure)
            try:
                take(observation, result)
            except (BagError, OSError):  # outputs that cannot be written would be incomplete without saying so
                raise
            except Exception as error:  # as above
                drop("result", error)
            if on_progress is not None:
                on_progress(max(report.segmented, report.detected), total)
        report.dropped.update({f"{topic}: {kind}": count for (topic, kind), count in guard.dropped.items()})
        report.dropped.update(bag.dropped)
        report.scored = labels.scored
        report.scores = labels.confusion.scores() if labels.scored else None
        report.detection_scored, report.detection_scores = objects.scored, objects.scores()
        return _finish(report, intake, latency)


def _finish(report: ReplayReport, intake: Intake, latency: LatencyLog) -> ReplayReport:
    stats = intake.sync_stats
    report.frames = stats.received[intake.rig.reference]
    for (sensor, reason), count in stats.dropped.items():
        report.dropped[f"{sensor}: {reason}"] += count
    for (topic, kind), count in intake.rejected.items():
        report.dropped[f"{topic}: {kind}"] += count
    for sensor, losses in intake.losses().items():
        report.dropped.update({f"{sensor}: {what.replace('_', ' ')}": count for what, count in losses.items() if count})
    for sensor, counts in intake.left_out().items():
        report.left_out.update({f"{sensor}: {what}": count for what, count in counts.items() if count})
    report.notes = _notes(intake)
    report.latency = {**intake.latency.summary(), **latency.summary()}
    return report


def _notes(intake: Intake) -> dict[str, str]:
    """What is worth saying of the sensors: of their decoders, and why few of their messages met the reference's."""
    rig, stats, found = intake.rig, intake.sync_stats, {}
    for sensor in rig.sensors:
        name, texts = sensor.name, list(intake.notes().get(sensor.name, ()))
        seldom = 2 * stats.matched[name] < min(stats.received[name], stats.received[rig.reference])
        if name != rig.reference and seldom:
            tolerance_ns = round(sensor.tolerance_ms * 1e6)
            texts.append(
                intake.another_clock(name) or intake.clocks.out_of_tolerance(name, sensor.lag_ns, tolerance_ns)
            )
        if any(texts):
            found[name] = "; ".join(filter(None, texts))
    return found
