"""What the node says about itself on /diagnostics: rate, age, skew and drops per sensor, and the pipeline."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping

from mm_perception.metrics.latency import LatencySummary
from mm_perception.pipeline.intake import Intake
from mm_perception.pipeline.perception import Perception
from mm_perception.ros.subscriptions import AdaptiveSubscription

OK, WARN, ERROR, STALE = 0, 1, 2, 3
Status = tuple[str, int, str, Mapping[str, str]]


class SensorWatch:
    """Arrivals and skews per sensor."""

    def __init__(self, intake: Intake, subscriptions: Mapping[str, AdaptiveSubscription]) -> None:
        """Args:
        subscriptions: by the topic as in the rig.
        """
        self._intake = intake
        self._subscriptions = subscriptions
        self._arrivals: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._skew_ns: dict[str, int] = {}

    def arrived(self, sensor: str) -> None:
        self._arrivals[sensor].append(time.monotonic())

    def matched(self, skew_ns: Mapping[str, int]) -> None:
        self._skew_ns.update(skew_ns)

    def statuses(self, prefix: str, clock_ns: int, stale_after_s: float) -> list[Status]:
        """Of every sensor, and of every other input."""
        sensors = self._intake.rig.sensors
        others = self._subscriptions.keys() - {sensor.input_topic for sensor in sensors}
        return [
            *(
                self._status(f"{prefix}: sensor {one.name}", one.name, one.input_topic, clock_ns, stale_after_s)
                for one in sensors
            ),
            *(input_status(f"{prefix}: input {topic}", self._subscriptions[topic]) for topic in sorted(others)),
        ]

    def _status(self, title: str, name: str, topic: str, clock_ns: int, stale_after_s: float) -> Status:
        stats, arrivals = self._intake.sync_stats, self._arrivals[name]
        dropped = {reason: n for (sensor, reason), n in stats.dropped.items() if sensor == name}
        rejected = {kind: n for (where, kind), n in self._intake.rejected.items() if where == topic}
        subscription = self._subscriptions[topic]
        values = {
            **_subscription_values(subscription),
            "topic": topic,
            "reference": str(name == self._intake.rig.reference).lower(),
            "received": str(stats.received[name]),
            "matched": str(stats.sets if name == self._intake.rig.reference else stats.matched[name]),
            "rate_hz": f"{_rate_hz(arrivals):.2f}",
            "skew_ms": f"{self._skew_ns.get(name, 0) / 1e6:.3f}",
        }
        if name in self._intake.newest_ns:
            values["age_ms"] = f"{(clock_ns - self._intake.newest_ns[name]) / 1e6:.1f}"
        values |= {f"dropped.{reason}": str(n) for reason, n in sorted(dropped.items())}
        values |= {f"rejected.{kind}": str(n) for kind, n in sorted(rejected.items())}
        if (problem := subscription.problem()) is not None:
            return title, WARN, problem, values
        if not arrivals:
            why = "no message yet" if values["publishers"] != "0" else "nobody publishes"
            return title, STALE, f"{why} on {topic}", values
        silent_s = time.monotonic() - arrivals[-1]
        if silent_s > stale_after_s:
            return title, STALE, f"no message for {silent_s:.1f} s", values
        if rejected:
            return title, WARN, f"{sum(rejected.values())} unusable message(s)", values
        return title, OK, "ok", values


def input_status(title: str, subscription: AdaptiveSubscription) -> Status:
    """Of an input that is no sensor: calibration, odometry, transforms."""
    values = _subscription_values(subscription) | {"received": str(subscription.received)}
    problem = subscription.problem()
    return title, WARN if problem else OK, problem or "ok", values


def pipeline_status(
    title: str,
    perception: Perception,
    counts: Mapping[str, int],
    latency: Mapping[str, LatencySummary],
    degraded: Mapping[str, str],
) -> Status:
    """The inference worker's state.

    Args:
        degraded: what the newest result lacked; names that end in "failed", or "result", are of what did not come.
    """
    segmentation, detection = perception.segmentation, perception.detection
    trained = all(card.trained for card in perception.cards)
    values = {"engine": perception.engine_name, "trained": str(trained).lower()}
    if segmentation is not None:
        values |= {"model": segmentation.card.name, "x_sensor": segmentation.x_sensor}
    if detection is not None:
        values |= {"detector": detection.card.name}
    values |= {key: str(n) for key, n in sorted(counts.items())}
    for stage, summary in latency.items():
        values[f"{stage}.median_ms"] = f"{summary.median_ms:.2f}"
        values[f"{stage}.p95_ms"] = f"{summary.p95_ms:.2f}"
    if degraded:
        failed = any(what == "result" or what.endswith(".failed") for what in degraded)
        lacking = "; ".join(f"{what}: {why}" for what, why in degraded.items())
        return title, ERROR if failed else WARN, f"{'failed' if failed else 'degraded'}: {lacking}", values
    if not trained:
        names = ", ".join(card.name for card in perception.cards if not card.trained)
        return title, WARN, f"untrained weights: what {names} gives means nothing", values
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


def _rate_hz(arrivals: deque[float]) -> float:
    if len(arrivals) < 2 or arrivals[-1] <= arrivals[0]:
        return 0.0
    return (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
