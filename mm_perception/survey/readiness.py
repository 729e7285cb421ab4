"""Whether a rig is ready for what comes: everything that the pipeline does before its networks, and what was missing.

The messages go through the rig's own `Intake`: what is said here is what a node or a replay would meet.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.pipeline.intake import InputTopic, Intake, Observation
from mm_perception.survey.facts import CloudContent, EventContent, ImageContent, SurveyFacts, TopicFacts
from mm_perception.survey.survey import Survey
from mm_perception.survey.timing import Phase, phase, rhythm

MATCHED_SHARE = 0.8
"""Of the frames that a sensor's rate allows; with fewer it is out of sync."""
RATE_SHARE = 0.8
REJECTED_SHARE = 0.05
_NEAR = 0.55


@dataclass(frozen=True, slots=True, eq=False)
class SensorReadiness:
    """One sensor of the rig.

    Attributes:
        messages: that came; rate_hz: 0 where it is not known.
        form: size and encoding, or points.
        transform, camera_info: ok, or what is wrong; empty where none is needed.
        matched: share of the frames that hold it.
        skew_ms: median and p95 of the distance to its target, over the frames that hold it.
        rejected: messages that could not be used, by reason.
        reasons: why it is not ready, each with what to do; empty: it is. remarks: worth knowing.
    """

    name: str
    kind: str
    topic: str
    type_name: str
    required: bool
    messages: int = 0
    rate_hz: float = 0.0
    form: str = ""
    message_bytes: int = 0
    frame: str = ""
    transform: str = ""
    camera_info: str = ""
    matched: float = 0.0
    skew_ms: tuple[float, float] = (0.0, 0.0)
    rejected: Mapping[str, int] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True, eq=False)
class Readiness:
    """A rig against a recording or a running vehicle.

    Attributes:
        frames: messages of the reference. bundles: observations made of them. complete: those that hold every sensor
            with its transform.
        others: reasons that are of no single sensor.
    """

    rig: str
    source: str
    sensors: tuple[SensorReadiness, ...]
    frames: int
    bundles: int
    complete: int
    others: tuple[str, ...] = ()

    def is_ready(self, required_only: bool = False) -> bool:
        """Whether nothing is missing; `required_only`: of the sensors without which there is no frame."""
        return not self.others and all(s.is_ready for s in self.sensors if s.required or not required_only)

    def usable(self, kind: str) -> tuple[str, ...]:
        """Sensors of a kind that are ready."""
        return tuple(one.name for one in self.sensors if one.kind == kind and one.is_ready)


class ReadinessCheck:
    """Takes messages one by one; `finish` tells. Static transforms and CameraInfo may be given first."""

    def __init__(self, rig: RigConfig, topics: Mapping[str, str], counts: Mapping[str, int] | None = None) -> None:
        """Args:
        topics: message type by topic, of everything that is there.
        counts: messages by topic, where that is known beforehand.
        """
        self.rig = rig = rig.with_types(topics)
        self._topics = dict(topics)
        self._errors: dict[str, Counter[str]] = defaultdict(Counter)
        self._intake = Intake(rig, on_problem=self._note)
        self._survey = Survey()
        for topic, type_name in topics.items():
            self._survey.announce(topic, type_name, (counts or {}).get(topic, 0))
        self._bundles = self._complete = 0
        self._matched: Counter[str] = Counter()
        self._skews: dict[str, list[float]] = defaultdict(list)
        self._problems: dict[str, Counter[str]] = defaultdict(Counter)
        self._cameras: set[str] = set()
        self.inputs = {
            route.topic: route for route in self._intake.inputs if topics.get(route.topic) == route.type_name
        }

    def take(self, topic: str, cdr: bytes, log_ns: int, decode: Callable[[], Any], first: bool = False) -> None:
        """One message of a topic in `inputs`; `first`: it is given ahead of its time, and comes again."""
        known: list[Any] = []

        def once() -> Any:
            if not known:
                known.append(decode())
            return known[0]

        if not first:
            self._survey.take(topic, self._topics[topic], cdr, log_ns, once)
        try:
            msg = once()
        except Exception as error:
            self._intake.reject(topic, error)
            return
        for observation in self._intake.receive(topic, msg, log_ns):
            self._look(observation)

    def finish(self, source: str) -> Readiness:
        """What came of it."""
        for observation in self._intake.flush():
            self._look(observation)
        facts = self._survey.facts(source)
        reference = facts.topics.get(self.rig.sensor(self.rig.reference).input_topic)
        sensors = tuple(self._judge(sensor, facts, reference) for sensor in self.rig.sensors)
        return Readiness(
            self.rig.name, source, sensors, len(reference.stamps_ns) if reference else 0, self._bundles,
            self._complete, tuple(self._judge_rest(facts)),
        )  # fmt: skip

    def _note(self, topic: str, error: Exception) -> None:
        self._errors[topic][str(error)] += 1

    def _look(self, observation: Observation) -> None:
        self._bundles += 1
        bundle, calibration = observation.bundle, observation.calibration
        self._complete += not bundle.missing and not calibration.problems
        self._cameras |= set(calibration.cameras)
        self._matched.update(list(bundle.measurements))
        for name, skew_ns in bundle.skew_ns.items():
            self._skews[name].append(skew_ns * 1e-6)
        for name, problem in calibration.problems.items():
            self._problems[name][problem] += 1

    def _judge(self, sensor: SensorConfig, facts: SurveyFacts, reference: TopicFacts | None) -> SensorReadiness:
        topic, wanted = sensor.input_topic, sensor.message_type
        found = self._topics.get(topic)
        one = facts.topics.get(topic)
        head = (sensor.name, sensor.kind, topic, found or wanted, sensor.required or sensor.name == self.rig.reference)
        if found is None or one is None:
            return SensorReadiness(*head, reasons=(self._missing(topic, wanted),))
        if found != wanted:
            return SensorReadiness(*head, reasons=(f"{topic} is a {found}, the rig expects {wanted}: set type",))
        if not len(one.stamps_ns) and not self._errors[topic]:
            return SensorReadiness(*head, reasons=(f"no message came on {topic}: is its driver running?",))
        beat, skews = (
            rhythm(one.stamps_ns),
            np.abs(self._skews[sensor.name]) if self._skews[sensor.name] else np.zeros(1),
        )
        hint = phase(reference, one) if reference is not None and sensor.name != self.rig.reference else None
        matched = self._matched[sensor.name] / self._bundles if self._bundles else 0.0
        transform, info = self._transform(sensor), self._camera_info(sensor)
        reasons = [
            *self._decoding(sensor, one), *_rate(sensor, beat.rate_hz if beat else 0.0),
            *self._sync(sensor, one, reference, hint, matched), *_late(sensor, one, reference, self.rig.max_wait_ms),
        ]  # fmt: skip
        if transform not in ("", "ok"):
            reasons.append(transform)
        if info not in ("", "ok"):
            reasons.append(info)
        return SensorReadiness(
            *head, len(one.stamps_ns), beat.rate_hz if beat else 0.0, _form(one), one.message_bytes, one.frame,
            transform, info, matched, (float(np.median(skews)), float(np.percentile(skews, 95))),
            dict(self._errors[topic]), tuple(reasons), tuple(self._remarks(sensor, one, hint)),
        )  # fmt: skip

    def _missing(self, topic: str, wanted: str) -> str:
        near = nearest_topics(topic, self._topics, wanted)
        return f"no topic {topic}" + (f"; did you mean {' or '.join(near)}?" if near else f", and no other {wanted}")

    def _decoding(self, sensor: SensorConfig, one: TopicFacts) -> list[str]:
        errors = self._errors[sensor.input_topic]
        if errors.total() <= REJECTED_SHARE * max(1, len(one.stamps_ns)):
            return []
        text, count = errors.most_common(1)[0]
        return [f"{errors.total()} of {max(one.count, errors.total())} messages cannot be used: {text} ({count} times)"]

    def _sync(
        self, sensor: SensorConfig, one: TopicFacts, reference: TopicFacts | None, hint: Phase | None, matched: float
    ) -> list[str]:
        if sensor.name == self.rig.reference or reference is None or not len(reference.stamps_ns):
            return []
        if not self._bundles:
            return [] if not sensor.required else ["out of sync: no frame was complete" + self._advice(sensor, hint)]
        ours, theirs = rhythm(reference.stamps_ns), rhythm(one.stamps_ns)
        possible = min(1.0, theirs.rate_hz / ours.rate_hz) if ours and theirs and sensor.kind != "events" else 1.0
        if matched >= MATCHED_SHARE * possible:
            return []
        return [f"out of sync: {matched:.0%} of the frames have it" + self._advice(sensor, hint)]

    def _advice(self, sensor: SensorConfig, hint: Phase | None) -> str:
        if hint is None:
            return ""
        if hint.clock_ms:
            name = f" ({hint.clock_name})" if hint.clock_name else ""
            side = "ahead of" if hint.clock_ms > 0 else "behind"
            return (
                f"; its clock is {abs(hint.clock_ms) * 1e-3:.3f} s {side} the reference's{name}: set its clock, or "
                f"offset_ms: {hint.offset_ms:g}"
            )
        lag = f"; its stamps lie {hint.lag_ms:+.1f} ms from the nearest of the reference, +-{hint.spread_ms:.1f}"
        wanted = f"offset_ms: {hint.offset_ms:g} and " if hint.is_steady else ""
        return f"{lag}: try {wanted}tolerance_ms: {hint.tolerance_ms:g}"

    def _transform(self, sensor: SensorConfig) -> str:
        if sensor.name == self.rig.reference or not self._matched[sensor.name]:
            return ""
        problems = self._problems[sensor.name]
        if not problems:
            return "ok"
        text, _ = problems.most_common(1)[0]
        share = problems.total() / self._matched[sensor.name]
        if share < 1 - MATCHED_SHARE:
            return "ok"
        hint = "publish the link (static_transform_publisher), and record /tf_static"
        return f"no transform to the reference in {share:.0%} of the frames: {text}: {hint}"

    def _camera_info(self, sensor: SensorConfig) -> str:
        if sensor.kind == "lidar" or not sensor.camera_info:
            return ""
        if sensor.name in self._cameras:
            return "ok"
        topic, wanted = sensor.camera_info, "sensor_msgs/msg/CameraInfo"
        if self._topics.get(topic) is None:
            return f"camera_info: {self._missing(topic, wanted)}"
        if self._topics[topic] != wanted:
            return f"camera_info: {topic} is a {self._topics[topic]}, expected {wanted}"
        errors = self._errors[topic]
        if errors:
            return f"camera_info: {errors.most_common(1)[0][0]}"
        return f"camera_info: no message of {topic} came before the last frame" if self._bundles else ""

    def _remarks(self, sensor: SensorConfig, one: TopicFacts, hint: Phase | None) -> list[str]:
        remarks, beat = [], rhythm(one.stamps_ns)
        if beat is not None and sensor.kind != "events" and beat.longest_gap_ms > 5 * beat.period_ms:
            remarks.append(f"a gap of {beat.longest_gap_ms:.0f} ms, its period is {beat.period_ms:.0f} ms")
        off_ms = abs(hint.offset_ms - sensor.offset_ms) if hint is not None and not hint.clock_ms else 0.0
        if hint is not None and hint.is_steady and sensor.kind != "events" and off_ms > 0.5 * sensor.tolerance_ms:
            lag = f"its stamps lie {hint.lag_ms:+.1f} ms from the reference's"
            remarks.append(f"{lag}; offset_ms is {sensor.offset_ms:g}")
        if sensor.kind == "rgb" and not sensor.camera_info and self.rig.of_kind("lidar"):
            remarks.append("no camera_info in the rig: LiDAR and boxes cannot be projected into it")
        errors = self._errors[sensor.input_topic]
        if errors and not self._decoding(sensor, one):
            remarks.append(f"{errors.total()} message(s) dropped: {errors.most_common(1)[0][0]}")
        return remarks

    def _judge_rest(self, facts: SurveyFacts) -> list[str]:
        reasons = []
        if self.rig.odometry and self._topics.get(self.rig.odometry) != "nav_msgs/msg/Odometry":
            reasons.append(f"odometry: {self._missing(self.rig.odometry, 'nav_msgs/msg/Odometry')}")
        if (
            self.rig.fixed_frame
            and self.rig.fixed_frame.lstrip("/") not in facts.frames.names
            and not self.rig.odometry
        ):
            known = ", ".join(sorted(facts.frames.names)[:12]) or "none"
            reasons.append(f"fixed_frame {self.rig.fixed_frame} is in no transform (frames: {known})")
        for role in ("labels", "objects", "object_states"):
            topic = getattr(self.rig, role)
            if topic and topic not in self._topics and counts_truth(self._topics):
                reasons.append(f"{role}: {self._missing(topic, '')}")
        return reasons


def counts_truth(topics: Mapping[str, str]) -> bool:
    """Whether a recording says anything of truth; a vehicle's does not, and need not."""
    return any("truth" in topic for topic in topics)


def nearest_topics(topic: str, topics: Mapping[str, str], type_name: str = "", most: int = 3) -> list[str]:
    """Topics that may be meant: those of the type by likeness of their names, then others that are alike."""
    same = [name for name, kind in topics.items() if kind == type_name]
    close = difflib.get_close_matches(topic, same, most, 0.3)
    close += difflib.get_close_matches(topic, [name for name in topics if name not in same], most, _NEAR)
    return close[:most]


def _rate(sensor: SensorConfig, rate_hz: float) -> list[str]:
    if not sensor.rate_hz or not rate_hz or rate_hz >= RATE_SHARE * sensor.rate_hz:
        return []
    return [f"too slow: {rate_hz:.3g} messages per second, the rig expects {sensor.rate_hz:g}"]


def _late(sensor: SensorConfig, one: TopicFacts, reference: TopicFacts | None, max_wait_ms: float) -> list[str]:
    """Whether it arrives later after the reference's message than a frame waits."""
    if reference is None or reference is one or not len(one.stamps_ns) or not len(reference.stamps_ns):
        return []
    hint = phase(reference, one)
    if hint is None or hint.clock_ms:
        return []
    late = float(np.percentile(one.logs_ns - one.stamps_ns, 90)) * 1e-6
    late += sensor.offset_ms - float(np.median(reference.logs_ns - reference.stamps_ns)) * 1e-6
    if late <= max_wait_ms:
        return []
    return [
        f"late: it comes {late:.0f} ms after the reference's message of the same instant, a frame waits "
        f"{max_wait_ms:g} ms: set max_wait_ms, or make its driver faster"
    ]


def _form(one: TopicFacts) -> str:
    content = one.content
    if isinstance(content, (ImageContent, EventContent)):
        return f"{content.width}x{content.height} {content.encoding}"
    return f"{content.points} points" if isinstance(content, CloudContent) else ""


def is_calibration(route: InputTopic) -> bool:
    """Whether messages of a route are calibration, which a recording's reader gives first."""
    return route.role in ("camera_info", "tf_static")
