"""What the node says about itself on /diagnostics; docs/diagnostics.md is the contract: levels and thresholds."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mm_perception.codec.status import MODE_LEVELS
from mm_perception.core.rig import SensorConfig
from mm_perception.metrics.latency import LatencySummary
from mm_perception.pipeline.intake import InputTopic, Intake, Observation
from mm_perception.pipeline.perception import Perception
from mm_perception.pipeline.sight import MODES, WHOLE_SHARE, Sight, in_words
from mm_perception.ros.monitors import (
    JITTER_S,
    RECORDING_S,
    SKEW_S,
    WINDOW_S,
    ArrivalMonitor,
    Deadline,
    SteadyFrom,
    Troubles,
)
from mm_perception.ros.subscriptions import AdaptiveSubscription

OK, WARN, ERROR, STALE = 0, 1, 2, 3
Status = tuple[str, int, str, Mapping[str, str]]

MODE_WINDOW_S = 1.0
"""The worst mode of this long counts, so that a level does not flicker with every set."""
FEWEST_WITNESSES = 3
"""Sensors that must agree before the reference's clock is doubted."""
FEWEST_MESSAGES = 5
"""With which a sensor counts as one that never matches."""
_DROPPED_IN_WORDS = {
    "duplicate": "the same stamp came again: the sensor is frozen, or its driver repeats itself",
    "late": "came too late for the set it belongs to: raise max_wait_ms, or mend the latency",
    "time_jump": "its stamps jumped back",
    "overflow": "more waited than can be kept",
}


@dataclass(slots=True)
class _Finding:
    """The worst level, and all texts."""

    level: int = OK
    texts: list[str] = field(default_factory=list)

    def add(self, level: int, text: str) -> None:
        if text:
            self.level = max(self.level, level)
            self.texts.append(text)

    @property
    def message(self) -> str:
        return "; ".join(self.texts) or "ok"


class InputWatch:
    """All inputs of a node that is active. Steady times are handed in [s]."""

    def __init__(
        self,
        intake: Intake,
        subscriptions: Mapping[str, AdaptiveSubscription],
        critical: frozenset[str],
        stale_after_s: float,
        deadline_s: float,
    ) -> None:
        """Args:
        subscriptions: by the topic as in the rig.
        critical: sensors without which a task is blind.
        """
        self.troubles = Troubles()
        self.stamps_off_s = 0.0
        self._intake, self._subscriptions, self._critical = intake, subscriptions, critical
        self._stale_after_s, self._deadline_s = stale_after_s, deadline_s
        self._sensors = {
            sensor.name: ArrivalMonitor(sensor.rate_hz, learns=sensor.kind != "events") for sensor in intake.rig.sensors
        }
        self._others = {one.topic: ArrivalMonitor() for one in intake.inputs if one.role != "sensor"}
        self._skew_ns: dict[str, int] = {}
        self._dropped_before: Counter[tuple[str, str]] = Counter()
        self._losses_before: dict[str, Counter[str]] = {}
        self._counts: deque[tuple[float, Counter[str], Counter[str]]] = deque(maxlen=100)

    def arrived(self, route: InputTopic, now_s: float) -> None:
        """A message of a route came."""
        monitor = self._sensors[route.sensor] if route.role == "sensor" else self._others[route.topic]
        monitor.arrived(now_s)

    def decoded(self, sensor: str, stamp_ns: int, clock_ns: int, now_s: float) -> None:
        """A sensor's message could be used. Args: clock_ns: the node's clock when it arrived."""
        self._sensors[sensor].decoded(now_s, stamp_ns, (clock_ns - stamp_ns) * 1e-9)
        if sensor == self._intake.rig.reference and (age_s := self._sensors[sensor].age_s(now_s)) is not None:
            self.stamps_off_s = age_s if abs(age_s) > RECORDING_S else 0.0

    def changed(self, sensor: str, text: str, now_s: float) -> None:
        """The form of a sensor's messages is another than before."""
        self.troubles.note(f"sensor {sensor}", "form", text, now_s)

    def rejected(self, where: str, error: Exception, now_s: float) -> None:
        """Something was dropped. Args: where: a topic, "bundle" or a task."""
        self.troubles.note(where, type(error).__name__, f"{type(error).__name__}: {error}", now_s)

    def matched(self, observation: Observation) -> None:
        self._skew_ns.update(observation.bundle.skew_ns)

    @property
    def is_recording(self) -> bool:
        """Whether stamps are of another day than the node's clock: then ages by it mean nothing."""
        return self.stamps_off_s != 0.0

    @property
    def set_period_s(self) -> float:
        """Expected time between two sets, by the reference; where it is not known yet, a third of `stale_after_s`."""
        monitor = self._sensors[self._intake.rig.reference]
        usual_s = monitor.usual_gap_s()
        return self._stale_after_s / 3 if usual_s is None else max(usual_s, monitor.period_s())

    def silence(self, now_s: float) -> str:
        """Why no set comes: the silent sensors without which there is none; "" if all send."""
        needed = {s.name for s in self._intake.rig.sensors if s.required} | {self._intake.rig.reference}
        texts = []
        for name in sorted(needed):
            silent_s = self._sensors[name].silent_s(now_s)
            if silent_s is None or silent_s > self._stale_after_s:
                texts.append(f"{name}: no message " + ("yet" if silent_s is None else f"for {silent_s:.1f} s"))
        return "; ".join(texts)

    def statuses(self, prefix: str, now_s: float) -> list[Status]:
        """Of every sensor, and of every other input; called about once a second."""
        self._note_counters(now_s)
        return [
            *(self._sensor_status(f"{prefix}: sensor {one.name}", one, now_s) for one in self._intake.rig.sensors),
            *(self._input_status(f"{prefix}: input {topic}", topic, now_s) for topic in sorted(self._others)),
        ]

    def _note_counters(self, now_s: float) -> None:
        """Turns what counters gained since the last look into troubles."""
        stats = self._intake.sync_stats
        gained = stats.dropped - self._dropped_before
        self._dropped_before = Counter(stats.dropped)
        for (sensor, reason), n in gained.items():
            if reason in _DROPPED_IN_WORDS:
                text = f"{n} message(s) {_DROPPED_IN_WORDS[reason]}"
                self.troubles.note(f"sensor {sensor}", f"dropped.{reason}", text, now_s)
        for sensor, losses in self._intake.losses().items():
            for what, n in (losses - self._losses_before.get(sensor, Counter())).items():
                self.troubles.note(f"sensor {sensor}", what, f"{n} {what.replace('_', ' ')}", now_s)
            self._losses_before[sensor] = losses
        self._counts.append((now_s, Counter(stats.received), Counter(stats.matched)))
        while len(self._counts) > 2 and now_s - self._counts[1][0] >= WINDOW_S:
            self._counts.popleft()

    def _sensor_status(self, title: str, sensor: SensorConfig, now_s: float) -> Status:
        name, topic, monitor = sensor.name, sensor.input_topic, self._sensors[sensor.name]
        subscription, found = self._subscriptions[topic], _Finding()
        if (problem := subscription.problem()) is not None:
            found.add(WARN, problem)
        silent_s = monitor.silent_s(now_s)
        if silent_s is None:
            why = "no message yet" if subscription.publishers else "nobody publishes"
            found.add(STALE, f"{why} on {subscription.topic}")
        elif silent_s > max(self._stale_after_s, 3 * (monitor.usual_gap_s() or 0.0)):
            # A still scene gives no events: a driver that is there is all that can be asked for.
            is_quiet = sensor.kind == "events" and subscription.publishers > 0
            found.add(OK if is_quiet else STALE, f"no message for {silent_s:.1f} s")
        else:
            self._judge_content(found, sensor, monitor, now_s)
        for where in (f"sensor {name}", topic):
            for text in self.troubles.recent(where, now_s):
                found.add(WARN, text)
        return title, found.level, found.message, self._sensor_values(sensor, monitor, subscription, now_s)

    def _judge_content(self, found: _Finding, sensor: SensorConfig, monitor: ArrivalMonitor, now_s: float) -> None:
        name = sensor.name
        health = self._intake.newest_health.get(name)
        if health is not None and health.problem:
            again = f": {health.repeats + 1} messages of the same content" if health.problem == "frozen" else ""
            found.add(ERROR if name in self._critical else WARN, f"what comes is {health.problem}{again}")
        coverage = None if health is None else health.coverage
        if coverage is not None and 0 < coverage.covered_deg < WHOLE_SHARE * sensor.coverage_deg:
            found.add(WARN, f"returns from {coverage.covered_deg} of {sensor.coverage_deg:g} degrees")
        found.add(WARN, monitor.slow(now_s))
        live = not self.is_recording
        age_s, jitter_s = monitor.age_s(now_s), monitor.jitter_s(now_s)
        skew = self._clock_skew(sensor, now_s)
        found.add(WARN, skew)
        if age_s is not None:
            age_s += sensor.lag_ns * 1e-9
        if live and age_s is not None and age_s > self._deadline_s:
            found.add(ERROR if name in self._critical else WARN, f"late: {age_s * 1e3:.0f} ms old on arrival")
        elif live and age_s is not None and age_s < -SKEW_S:
            found.add(WARN, f"stamped {-age_s:.3f} s ahead of the node's clock")
        if live and jitter_s is not None and jitter_s > max(JITTER_S, 1.5 * monitor.period_s()):
            found.add(WARN, f"stutters: ages on arrival spread over {jitter_s * 1e3:.0f} ms")
        found.add(WARN, self._never_matched(sensor))

    def _clock_skew(self, sensor: SensorConfig, now_s: float) -> str:
        """A constant offset between the sensor's clock and the reference's; of the reference, and most others'."""
        reference = self._intake.rig.reference
        own, others = self._sensors[sensor.name].age_s(now_s), self._sensors[reference].age_s(now_s)
        if sensor.name == reference:
            return self._reference_skew(own, now_s)
        if own is None or others is None:
            return ""
        return self._intake.another_clock(sensor.name, round((now_s - WINDOW_S) * 1e9))

    def _reference_skew(self, own_s: float | None, now_s: float) -> str:
        """Where the reference is off, all others look so: with three or more of one mind it is the reference."""
        ages = [
            age_s + one.lag_ns * 1e-9
            for one in self._intake.rig.sensors
            if one.name != self._intake.rig.reference and (age_s := self._sensors[one.name].age_s(now_s)) is not None
        ]
        if own_s is None or len(ages) < FEWEST_WITNESSES:
            return ""
        middle_s, spread_s = float(np.median(ages)), float(np.subtract(*np.percentile(ages, (75, 25))))
        if abs(own_s - middle_s) < SKEW_S or spread_s > SKEW_S / 2:
            return ""
        side = "ahead of" if own_s < middle_s else "behind"
        return f"its stamps are {abs(own_s - middle_s):.3f} s {side} those of most sensors on arrival"

    def _never_matched(self, sensor: SensorConfig) -> str:
        # Sets do not wait for the others: a sensor that is later than those that are used is in none of them.
        if len(self._counts) < 2 or sensor.name not in self._intake.awaited - {self._intake.rig.reference}:
            return ""
        (_, received, matched), (_, received_now, matched_now) = self._counts[0], self._counts[-1]
        gained = received_now - received
        if min(gained[sensor.name], gained[self._intake.rig.reference]) < FEWEST_MESSAGES:
            return ""
        if matched_now[sensor.name] > matched[sensor.name]:
            return ""
        tolerance_ns = round(sensor.tolerance_ms * 1e6)
        by_how_much = self._intake.clocks.out_of_tolerance(sensor.name, sensor.lag_ns, tolerance_ns)
        generally = f"no message in tolerance ({sensor.tolerance_ms:g} ms) of {self._intake.rig.reference}'s"
        return by_how_much or generally

    def _sensor_values(
        self, sensor: SensorConfig, monitor: ArrivalMonitor, subscription: AdaptiveSubscription, now_s: float
    ) -> dict[str, str]:
        name, stats = sensor.name, self._intake.sync_stats
        is_reference = name == self._intake.rig.reference
        values = {
            **_subscription_values(subscription),
            "reference": str(is_reference).lower(),
            "received": str(stats.received[name]),
            "matched": str(stats.sets if is_reference else stats.matched[name]),
            "waited_for": str(name not in self._intake.silent).lower(),
            "rate_hz": f"{monitor.rate_hz(now_s):.2f}",
            "expected_rate_hz": f"{monitor.expected_hz:.2f}",
            "skew_ms": f"{self._skew_ns.get(name, 0) / 1e6:.3f}",
        }
        for key, seconds in (("age_ms", monitor.age_s(now_s)), ("jitter_ms", monitor.jitter_s(now_s))):
            if seconds is not None:
                values[key] = f"{seconds * 1e3:.1f}"
        if health := self._intake.newest_health.get(name):
            values["health"] = health.problem or "ok"
        for (other, reason), n in sorted(stats.dropped.items()):
            if other == name:
                values[f"dropped.{reason}"] = str(n)
        values |= {f"decoder.{what}": str(n) for what, n in sorted(self._losses_before.get(name, {}).items())}
        left_out = self._intake.left_out().get(name, Counter())
        values |= {f"left_out.{what.replace(' ', '_')}": str(n) for what, n in sorted(left_out.items()) if n}
        if notes := self._intake.notes().get(name):
            values["notes"] = "; ".join(notes)
        return values | self._rejected_values(sensor.input_topic)

    def _input_status(self, title: str, topic: str, now_s: float) -> Status:
        """Of an input that is no sensor: calibration, odometry, transforms."""
        subscription, monitor, found = self._subscriptions[topic], self._others[topic], _Finding()
        if (problem := subscription.problem()) is not None:
            found.add(WARN, problem)
        silent_s, rate_hz = monitor.silent_s(now_s), monitor.rate_hz(now_s)
        # Latched topics and those that send on change have no rate; one that had sent steadily is missed.
        gap_s = None if "transient local" in subscription.decided else monitor.usual_gap_s()
        if silent_s is not None and gap_s is not None and silent_s > max(self._stale_after_s, 3 * gap_s):
            found.add(WARN, f"no message for {silent_s:.1f} s: the last ones are used as long as they are valid")
        for text in self.troubles.recent(topic, now_s):
            found.add(WARN, text)
        values = _subscription_values(subscription) | {
            "received": str(subscription.received),
            "rate_hz": f"{rate_hz:.2f}",
        }
        return title, found.level, found.message, values | self._rejected_values(topic)

    def _rejected_values(self, topic: str) -> dict[str, str]:
        rejected = {kind: n for (where, kind), n in self._intake.rejected.items() if where == topic}
        return {f"rejected.{kind}": str(n) for kind, n in sorted(rejected.items())}


class ResultWatch:
    """The results of a node that is active: modes and ages. Thread-safe."""

    def __init__(self, deadline_s: float, now_s: float) -> None:
        self._lock = threading.Lock()
        self.deadline = Deadline(deadline_s)
        self._sights: deque[tuple[float, Sight]] = deque(maxlen=100)
        self._started_s = now_s

    def saw(self, sight: Sight, now_s: float) -> None:
        """What one set could see."""
        with self._lock:
            self._sights.append((now_s, sight))

    def quiet_s(self, now_s: float) -> float:
        """Since the last set, or since the start."""
        with self._lock:
            return now_s - (self._sights[-1][0] if self._sights else self._started_s)

    def worst(self, now_s: float) -> Sight | None:
        """Of the last second; the newest where several are alike."""
        with self._lock:
            sights = list(self._sights)
        recent = [sight for t, sight in sights if now_s - t <= MODE_WINDOW_S] or [s for _, s in sights[-1:]]
        return max(reversed(recent), key=lambda sight: MODES.index(sight.mode), default=None)


def pipeline_status(
    title: str,
    perception: Perception,
    facts: Mapping[str, str],
    counts: Mapping[str, int],
    latency: Mapping[str, LatencySummary],
    sight: Sight,
    deadline: tuple[int, str],
    troubles: list[str],
    stamps_off_s: float = 0.0,
) -> Status:
    """The state of all tasks together.

    Args:
        facts: of the start: precision, weights, what was said while engines were loaded.
        sight: the worst of the last second, or that there is none.
        deadline: `monitors.Deadline.verdict`.
        troubles: of sets and tasks, in words.
        stamps_off_s: how far the reference's stamps are off the node's clock, where that is days.
    """
    segmentation, detection = perception.segmentation, perception.detection
    trained = all(card.trained for card in perception.cards)
    values = {"engine": perception.engine_name, "trained": str(trained).lower(), "mode": sight.mode, **facts}
    if segmentation is not None:
        values |= {"model": segmentation.card.name, "x_sensor": segmentation.x_sensor}
    if detection is not None:
        values |= {"detector": detection.card.name}
    values |= {key: str(n) for key, n in sorted(counts.items())}
    for stage, summary in latency.items():
        values[f"{stage}.median_ms"] = f"{summary.median_ms:.2f}"
        values[f"{stage}.p95_ms"] = f"{summary.p95_ms:.2f}"
        values[f"{stage}.p99_ms"] = f"{summary.p99_ms:.2f}"
    found = _Finding()
    for task, seen in sight.tasks.items():
        reasons = in_words(seen.reasons)
        found.add(MODE_LEVELS[seen.mode], f"{task} {seen.mode}: {reasons}" if reasons else "")
    if stamps_off_s:
        found.add(
            WARN, f"stamps are {stamps_off_s:.0f} s off this node's clock: a recording, or a sensor without a clock"
        )
    late, text = deadline
    found.add(ERROR if late > 1 else WARN, text)
    for trouble in troubles:
        found.add(WARN, trouble)
    if not trained:
        names = ", ".join(card.name for card in perception.cards if not card.trained)
        found.add(WARN, f"untrained weights: what {names} gives means nothing")
    return title, found.level, found.message, values


def clock_status(title: str, clock: SteadyFrom, clock_ns: int, stale_after_s: float, now_s: float) -> Status:
    """Of a clock that is driven by /clock."""
    still_s = clock.look(clock_ns, now_s)
    values = {"time_s": f"{clock_ns * 1e-9:.3f}", "still_s": f"{still_s:.1f}"}
    if clock_ns == 0:
        return title, ERROR, "use_sim_time is set, and nothing came on /clock", values
    if still_s > stale_after_s:
        return title, ERROR, f"/clock stands still for {still_s:.1f} s: ages and stamps are not current", values
    return title, OK, "ok", values


def _subscription_values(subscription: AdaptiveSubscription) -> dict[str, str]:
    lost = "unknown" if subscription.lost is None else str(subscription.lost)
    values = {
        "topic": subscription.topic,
        "publishers": str(subscription.publishers),
        "qos": subscription.decided,
        "lost": lost,
    }
    return values | {f"incompatible_qos.{name}": str(n) for name, n in sorted(subscription.incompatible.items())}
