"""How long bundles wait for transforms that move, and which they do not wait for: in virtual time."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import encode_image, encode_transforms
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import Intake, Observation

MS, S = 1_000_000, 1_000_000_000
MAKE = BagMessages()
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
Sent = tuple[int, str, Any]
"""When it arrives [ns], its topic, and the message."""


def rig(fixed_frame: str = "", max_wait_ms: float = 100.0) -> RigConfig:
    sensors = (SensorConfig("rgb", "rgb", "/rgb"), SensorConfig("side", "rgb", "/side"))
    return RigConfig(sensors, "rgb", max_wait_ms=max_wait_ms, fixed_frame=fixed_frame)


def images(count: int, late_ms: int = 2) -> list[Sent]:
    """Of both cameras, at 20 Hz from 1 s on."""
    stamps = [S + i * 50 * MS + 7 * MS for i in range(count)]
    return [
        (stamp_ns + late_ms * MS, f"/{name}", encode_image(MAKE, PIXELS, "rgb8", stamp_ns, name))
        for stamp_ns in stamps
        for name in ("rgb", "side")
    ]


def poses(first_ms: int, last_ms: int, period_ms: int, late_ms: int, dst: str = "rgb", src: str = "side") -> list[Sent]:
    """A camera that pans by 1 m/s, in milliseconds after 1 s."""
    found = []
    for at_ms in range(first_ms, last_ms, period_ms):
        here = RigidTransform(dst, src, np.eye(3), np.array([at_ms / 1000, 0.0, 0.0]))
        stamp_ns = S + at_ms * MS
        found.append((stamp_ns + late_ms * MS, "/tf", encode_transforms(MAKE, [here], stamp_ns)))
    return found


def run(intake: Intake, sent: list[Sent], period_ns: int = 5 * MS) -> list[tuple[Observation, int]]:
    """Observations with the time [ns] at which they came out; the clock ticks, and nothing sleeps."""
    queue = [(at_ns, i, topic, message) for i, (at_ns, topic, message) in enumerate(sent)]
    heapq.heapify(queue)
    out: list[tuple[Observation, int]] = []
    now_ns = queue[0][0]
    while queue or intake.next_deadline_ns is not None:
        while queue and queue[0][0] <= now_ns:
            at_ns, _, topic, message = heapq.heappop(queue)
            out += [(one, now_ns) for one in intake.receive(topic, message, at_ns, expire=False)]
        out += [(one, now_ns) for one in intake.poll(now_ns)]
        now_ns += period_ns
    return out


def waited_ms(out: list[tuple[Observation, int]]) -> list[float]:
    return [(now_ns - one.bundle.stamp_ns) / MS for one, now_ns in out]


@pytest.mark.parametrize("fixed_frame", ["", "odom"])
@pytest.mark.parametrize(("period_ms", "late_ms"), [(20, 10), (33, 5), (100, 0), (50, 40)])
def test_extrinsics_that_move_are_waited_for_and_interpolated(fixed_frame, period_ms, late_ms):
    intake = Intake(rig(fixed_frame))
    sent = images(20) + poses(-100, 1300, period_ms, late_ms)
    if fixed_frame:
        sent += poses(-100, 1300, 20, 3, "odom", "rgb")
    out = run(intake, sent)
    assert len(out) == 20 and not any(one.calibration.problems for one, _ in out)
    assert max(waited_ms(out)) <= period_ms + late_ms + 15
    for one, _ in out:
        x = one.calibration.reference_from["side"].translation[0]
        assert x == pytest.approx((one.bundle.stamp_ns - S) / S, abs=1e-6)


def test_at_a_start_the_first_bundles_wait_for_tf_to_begin():
    out = run(Intake(rig()), images(10) + poses(0, 800, 20, 60))
    assert len(out) == 10 and not out[0][0].calibration.problems


@pytest.mark.parametrize("fixed_frame", ["", "map"])
def test_a_rig_without_transforms_waits_once(fixed_frame):
    out = run(Intake(rig(fixed_frame)), images(40))
    assert len(out) == 40 and all("side" in one.calibration.problems for one, _ in out)
    waited = waited_ms(out)
    assert waited[0] >= 100, "TF might have begun"
    # Those that stood behind the first one share its wait.
    assert max(waited[3:]) <= 10


def test_transforms_that_end_cost_one_wait_and_come_back_by_themselves():
    sent = images(60) + poses(-20, 1000, 20, 10) + poses(2000, 3200, 20, 10)
    out = run(Intake(rig()), sent)
    complete = [not one.calibration.problems for one, _ in out]
    waited = waited_ms(out)
    assert sum(complete) >= 37 and len(out) == 60
    lacking = [wait for wait, whole in zip(waited, complete, strict=True) if not whole]
    assert lacking[0] >= 100 and max(lacking[3:]) <= 15
    assert all(complete[45:]), "the next sample is worth waiting for again"


def test_instants_before_the_first_sample_are_not_waited_for():
    first = poses(500, 1000, 20, 0)
    sent = [(S - 1, topic, message) for _, topic, message in first[:5]] + images(5)
    assert max(waited_ms(run(Intake(rig()), sent))) <= 10


def test_no_wait_where_the_rig_allows_none():
    out = run(Intake(rig(max_wait_ms=0.0)), images(10) + poses(-100, 700, 20, 10))
    assert len(out) == 10 and max(waited_ms(out)) <= 10


def test_static_extrinsics_cost_no_wait():
    static = RigidTransform("rgb", "side", np.eye(3), np.ones(3))
    sent = [(S - 10 * MS, "/tf_static", encode_transforms(MAKE, [static], S)), *images(10), *poses(0, 500, 100, 90)]
    out = run(Intake(rig()), sent)
    assert not any(one.calibration.problems for one, _ in out) and max(waited_ms(out)) <= 10
