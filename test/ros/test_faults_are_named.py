"""Every fault that the soak knows, of every kind of sensor, against the node's levels: in made-up time, without DDS.

The same as `mm-perception soak` sees of a live node, but for what a busy machine does to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_columns,
    encode_compressed,
    encode_events_evt3,
    encode_transforms,
)
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import EventPacket
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import InputTopic, Intake, make_synchronizer
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.sight import Sight, detection_sight, segmentation_sight
from mm_perception.ros.diagnostics import InputWatch, ResultWatch
from mm_perception.ros.soak_judge import Snapshot, Verdict, judge, seen_values
from mm_perception.sim.faults import KINDS, Fault, FaultyStream, Sent, targets

FACTORY = BagMessages()
START_NS = 1_700_000_000_000_000_000
JPEG = "sensor_msgs/msg/CompressedImage"
TAPS = DetectorTaps("lidar", ("cam",), 3)
RIG = RigConfig(
    sensors=(
        SensorConfig("rgb", "rgb", topic="/rgb", type=JPEG, camera_info="/rgb/info"),
        SensorConfig("depth", "depth", topic="/depth", type=JPEG, required=False),
        SensorConfig("thermal", "thermal", topic="/thermal", type=JPEG, required=False),
        SensorConfig("events", "events", topic="/events", required=False),
        SensorConfig("lidar", "lidar", topic="/lidar", required=False, offset_ms=-100, tolerance_ms=60),
        SensorConfig("cam", "rgb", topic="/cam", type=JPEG, camera_info="/cam/info", required=False),
    ),
    reference="rgb",
    fixed_frame="odom",
    max_wait_ms=200,
)
USED = {"rgb", "thermal", "lidar", "cam"}
CAMERA = CameraModel(32, 24, np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]]), np.zeros(0), "", "cam")
FIRST_S, FAULT_S, PAUSE_S = 12.0, 5.0, 6.0
TICK_S, REPORT_S = 0.025, 0.5
MOTION_HZ = 20.0
QUICK = ("freeze", "encoding", "cut", "clock_skew", "tf_gone", "vehicle_jump")
"""Kinds that are tried in every run; the others are slow together."""
OF_INPUTS = [kind for kind in KINDS if kind not in ("subscribers", "clock_dies")]


@dataclass(slots=True)
class _Subscription:
    """One that works."""

    topic: str
    publishers: int = 1
    received: int = 0
    lost: int = 0
    decided: str = "reliable"
    incompatible: dict[str, int] = field(default_factory=dict)

    def problem(self) -> None:
        return None


def measured(sensor: SensorConfig, stamp_ns: int, i: int) -> Any:
    rng = np.random.default_rng((i, len(sensor.name)))
    if sensor.kind == "events":
        t_ns = np.sort(rng.integers(0, 20_000_000, 50)) // 1000 * 1000 + stamp_ns
        x, y = (rng.integers(0, n, 50).astype(np.uint16) for n in (32, 24))
        return encode_events_evt3(FACTORY, EventPacket(x, y, rng.random(50) > 0.5, t_ns, 32, 24, stamp_ns, "head"), i)
    if sensor.kind == "lidar":
        angle = np.linspace(-np.pi, np.pi, 720) + rng.uniform(0, 0.01)
        columns = {"x": ("f4", 20 * np.cos(angle)), "y": ("f4", 20 * np.sin(angle)), "z": ("f4", np.zeros(720))}
        return encode_columns(FACTORY, columns | {"intensity": ("f4", np.ones(720))}, stamp_ns - 100_000_000, "lidar")
    if sensor.kind == "rgb":
        return encode_compressed(FACTORY, rng.integers(0, 200, (24, 32, 3)).astype(np.uint8), "jpeg", stamp_ns, "head")
    pixels = rng.integers(1000, 9000, (24, 32)).astype(np.uint16)
    return encode_compressed(FACTORY, pixels, "png", stamp_ns, "head")


@cache
def vehicle(set_hz: float, sensor_hz: float, seconds: float) -> tuple[Sent, ...]:
    """All messages of a drive, by time."""
    return tuple(_messages(set_hz, sensor_hz, seconds))


def _messages(set_hz: float, sensor_hz: float, seconds: float) -> Iterator[Sent]:
    for step in range(round(seconds * MOTION_HZ)):
        now_ns = START_NS + round(step * 1e9 / MOTION_HZ)
        here = RigidTransform("odom", "base_link", np.eye(3), np.array([0.1 * step, 0.0, 0.0]))
        yield Sent("/tf", encode_transforms(FACTORY, [here], now_ns), now_ns)
        for sensor in RIG.sensors:
            hz = MOTION_HZ if sensor.kind == "events" else set_hz if sensor.name == "rgb" else sensor_hz
            if step % round(MOTION_HZ / hz):
                continue
            if sensor.camera_info:
                yield Sent(sensor.camera_info, encode_camera_info(FACTORY, CAMERA, now_ns), now_ns)
            yield Sent(sensor.input_topic, measured(sensor, now_ns, step), now_ns)


class Node:
    """What a fusion node does with its inputs, but for DDS and networks."""

    def __init__(self) -> None:
        synchronizer = make_synchronizer(RIG, USED)
        self.now_s = 0.0
        self.intake = Intake(
            RIG,
            lambda where, error: self.watch.rejected(where, error, self.now_s),
            synchronizer,
            TAPS,
            USED,
            lambda sensor, text: self.watch.changed(sensor, text, self.now_s),
        )
        subscriptions: dict[str, Any] = {one.topic: _Subscription(one.topic) for one in self.intake.inputs}
        self.watch = InputWatch(self.intake, subscriptions, frozenset({"rgb", "lidar"}), 2.0, 0.5)
        self.results = ResultWatch(0.5, 0.0)
        mounts = [RigidTransform("base_link", one, np.eye(3), np.zeros(3)) for one in ("head", "lidar")]
        self.routes: dict[str, list[InputTopic]] = {}
        for route in self.intake.inputs:
            self.routes.setdefault(route.topic, []).append(route)
        self.intake.receive("/tf_static", encode_transforms(FACTORY, mounts, START_NS), START_NS)

    def receive(self, topic: str, message: Any, now_s: float) -> None:
        self.now_s, now_ns = now_s, START_NS + round(now_s * 1e9)
        route = self.routes[topic][0]
        self.watch.arrived(route, now_s)
        before = self.intake.newest_ns.get(route.sensor)
        self._see(self.intake.receive(topic, message, now_ns, expire=False))
        newest = self.intake.newest_ns.get(route.sensor)
        if route.role == "sensor" and newest is not None and newest != before:
            self.watch.decoded(route.sensor, newest, now_ns, now_s)

    def poll(self, now_s: float) -> None:
        self.now_s = now_s
        self._see(self.intake.poll(START_NS + round(now_s * 1e9)))

    def snapshot(self, now_s: float) -> Snapshot:
        statuses = {
            name.split(": ", 1)[1]: seen_values(level, text, values)
            for name, level, text, values in self.watch.statuses("node", now_s)
        }
        sight = self.results.worst(now_s)
        assert sight is not None
        words = "; ".join(
            f"{task} {one.mode}: {what}: {why}"
            for task, one in sight.tasks.items()
            for what, why in one.reasons.items()
        )
        statuses["pipeline"] = seen_values({"full": 0, "degraded": 1, "blind": 2}[sight.mode], words, {})
        return Snapshot(now_s, statuses)

    def _see(self, observations: list[Any]) -> None:
        for one in observations:
            self.watch.matched(one)
            tasks = {
                "segmentation": segmentation_sight(one, "thermal"), "detection": detection_sight(one, TAPS, RIG),
            }  # fmt: skip
            self.results.saw(Sight(one.bundle.stamp_ns, tasks, None, one.bundle.missing), self.now_s)


def live(
    faults: list[Fault],
    set_hz: float,
    sensor_hz: float,
    seconds: float,
    late_ns: Mapping[str, int] = MappingProxyType({}),
) -> list[Snapshot]:
    """What the node says twice a second. Args: late_ns: by topic, how much later it comes than it could."""
    node, stream, found = Node(), FaultyStream(RIG, faults, START_NS), list[Snapshot]()
    messages = [after for one in vehicle(set_hz, sensor_hz, seconds) for after in stream.send(one)]
    messages = [replace(one, at_ns=one.at_ns + late_ns.get(one.topic, 0)) for one in messages]
    waiting = iter(sorted(messages, key=lambda one: one.at_ns))
    one: Sent | None = next(waiting)
    for tick in range(round(seconds / TICK_S)):
        now_s = tick * TICK_S
        while one is not None and one.at_ns <= START_NS + now_s * 1e9:
            node.receive(one.topic, one.message, now_s)
            one = next(waiting, None)
        node.poll(now_s)
        if tick % round(REPORT_S / TICK_S) == 0 and now_s > FIRST_S / 2:
            found.append(node.snapshot(now_s))
    return found


def one_after_the_other(kind: str, seed: int) -> list[Fault]:
    return [
        Fault(kind, name, FIRST_S + i * (FAULT_S + PAUSE_S), FAULT_S, seed + i)
        for i, name in enumerate(targets(kind, RIG))
    ]


def verdicts(kind: str, seed: int, set_hz: float, sensor_hz: float) -> list[Verdict]:
    faults = one_after_the_other(kind, seed)
    history = live(faults, set_hz, sensor_hz, faults[-1].end_s + PAUSE_S)
    assert all(one.is_ok for one in history if FIRST_S - 4.0 < one.at_s < FIRST_S)
    found = []
    for fault in faults:
        around = [one for one in history if fault.start_s - PAUSE_S <= one.at_s < fault.end_s + PAUSE_S]
        found += judge([fault], around)
    return found


@pytest.mark.parametrize(("set_hz", "sensor_hz"), [(1.0, 4.0), (2.0, 4.0), (2.0, 2.0), (10.0, 10.0)])
def test_nothing_is_wrong_without_a_fault(set_hz, sensor_hz):
    history = live([], set_hz, sensor_hz, 20.0)
    assert [one.troubles() for one in history if not one.is_ok] == []


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in OF_INPUTS]
)
def test_fault_is_named_by_the_right_status_and_over_when_it_is_over(kind):
    check(kind, 7, 2.0, 4.0)


@pytest.mark.parametrize("late", ["depth", "thermal", "lidar"])
def test_a_sensor_may_be_later_than_the_others(late):
    """Used or not: sets do not wait for depth here."""
    history = live([], 2.0, 4.0, 20.0, {RIG.sensor(late).input_topic: 80_000_000})
    assert [one.troubles() for one in history if not one.is_ok] == []


def test_a_lidar_that_sees_a_sector_says_so_itself():
    """A node without a detector has nobody else to say it."""
    (verdict,) = verdicts("sector", 3, 2.0, 4.0)
    assert verdict.named_by.startswith("sensor lidar: returns from 1"), verdict.named_by


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["die", "rate", "stutter", "clock_drift"])
def test_fault_of_timing_is_named_at_the_rate_of_a_real_vehicle(kind):
    check(kind, 11, 10.0, 10.0)


def check(kind: str, seed: int, set_hz: float, sensor_hz: float) -> None:
    """All targets of a kind are named, and all levels fall back in time."""
    found = verdicts(kind, seed, set_hz, sensor_hz)
    assert [one.fault.target for one in found if not one.named_by] == [], "not named"
    late = [
        (one.fault.target, one.still) for one in found if one.recovered_after_s is None or one.recovered_after_s > 5.0
    ]
    assert late == []
