"""A sensor whose clock is off: matched, transformed and aged by its corrected stamp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import encode_events_mono, encode_image, encode_point_cloud, encode_transforms
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import EventPacket, PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import Intake
from mm_perception.pipeline.lidar_view import DetectorTaps

BAG = BagMessages()
S, MS = 1_000_000_000, 1_000_000
T0 = 1_722_222_222 * S
SPEED_M_S = 10.0
RIG = RigConfig(
    (SensorConfig("rgb", "rgb", topic="/rgb"), SensorConfig("lidar", "lidar", topic="/lidar")),
    "rgb",
    fixed_frame="odom",
    max_wait_ms=1000.0,
)


def rig_with(offset_ms: float) -> RigConfig:
    return replace(RIG, sensors=(RIG.sensors[0], replace(RIG.sensors[1], offset_ms=offset_ms)))


def image(stamp_ns):
    return encode_image(BAG, np.full((8, 8, 3), 90, np.uint8), "rgb8", stamp_ns, "cam")


def sweep(stamp_ns):
    xyz = np.random.default_rng(0).uniform(1, 9, (50, 3)).astype(np.float32)
    return encode_point_cloud(
        BAG, PointCloud(xyz, stamp_ns, "lidar", offset_ns=np.linspace(0, 90 * MS, 50).astype(int))
    )


def drive(intake: Intake, ahead_ns: int, n: int = 6) -> list:
    """A vehicle at a constant speed, whose LiDAR stamps are ahead."""
    found = []
    frames = [RigidTransform("base", child, np.eye(3), np.zeros(3)) for child in ("cam", "lidar")]
    found += intake.receive("/tf_static", encode_transforms(BAG, frames, T0), T0)
    for i in range(-2, n + 2):
        ns = T0 + i * 100 * MS
        moved = RigidTransform("odom", "base", np.eye(3), np.array([SPEED_M_S * (ns - T0) / S, 0, 0]))
        found += intake.receive("/tf", encode_transforms(BAG, [moved], ns), ns)
        if 0 <= i < n:
            found += intake.receive("/rgb", image(ns), ns + MS)
            found += intake.receive("/lidar", sweep(ns + 20 * MS + ahead_ns), ns + 25 * MS)
    return found + intake.flush()


@pytest.mark.parametrize("ahead_s", [37, -3600, 86_400 * 30, -(T0 // S - 1000), 2])
def test_it_is_matched_transformed_and_aged_as_if_its_clock_was_right(ahead_s):
    taps = DetectorTaps("lidar", ("rgb",), 2)
    right = drive(Intake(rig_with(0.0), taps=taps), 0)
    found = drive(Intake(rig_with(ahead_s * 1000.0), taps=taps), ahead_s * S)
    assert len(found) == len(right) == 6
    for a, b in zip(found, right, strict=True):
        assert a.bundle.missing == () and a.bundle.skew_ns == b.bundle.skew_ns
        assert a.bundle.measurements["lidar"].stamp_ns == b.bundle.measurements["lidar"].stamp_ns
        shift = a.calibration.transform_from("lidar").translation
        np.testing.assert_allclose(shift, [SPEED_M_S * 0.02, 0, 0], atol=1e-6)
        np.testing.assert_allclose(shift, b.calibration.transform_from("lidar").translation)
        assert a.is_complete and [t.start_ns for t in a.lidar_view.turns] == [t.start_ns for t in b.lidar_view.turns]


def test_a_short_offset_is_a_time_between_measurements_and_stays_in_the_stamps():
    found = drive(Intake(rig_with(-500.0)), -500 * MS)
    assert len(found) == 6
    for one in found:
        assert one.bundle.measurements["lidar"].stamp_ns == one.bundle.stamp_ns - 480 * MS
        assert one.bundle.skew_ns["lidar"] == 20 * MS


def test_without_the_offset_the_figure_is_named_and_with_it_nothing_is_left_to_say():
    intake = Intake(rig_with(0.0))
    drive(intake, 37 * S)
    assert "TAI" in intake.another_clock("lidar") and "offset_ms: 37000" in intake.another_clock("lidar")
    intake = Intake(rig_with(37_000.0))
    drive(intake, 37 * S)
    assert intake.another_clock("lidar") == ""


def test_events_are_gathered_by_their_corrected_times():
    sensors = (RIG.sensors[0], SensorConfig("ev", "events", topic="/ev", offset_ms=18_000.0))
    intake = Intake(replace(RIG, sensors=sensors, fixed_frame=""))
    t_ns = T0 + 18 * S + np.arange(40) * MS
    n = len(t_ns)
    packet = EventPacket(
        np.zeros(n, np.uint16), np.zeros(n, np.uint16), np.ones(n, bool), t_ns, 64, 48, int(t_ns[0]), "cam"
    )
    intake.receive("/ev", encode_events_mono(BAG, packet, 0), T0)
    found = intake.receive("/rgb", image(T0 + 30 * MS), T0 + 31 * MS) + intake.flush()
    events = found[0].bundle.measurements["ev"]
    assert (len(events), int(events.t_ns[0])) == (31, T0)


def test_a_stamp_before_its_own_offset_is_refused_with_the_figure():
    problems = []
    intake = Intake(rig_with(37_000.0), lambda topic, error: problems.append(str(error)))
    intake.receive("/lidar", sweep(20 * S), T0)
    assert problems == ["lidar: its stamp, corrected by offset_ms 37000, is -17.000 s"]


def test_the_reference_has_no_offset():
    with pytest.raises(ConfigError, match="is the reference"):
        RigConfig((SensorConfig("rgb", "rgb", offset_ms=5.0),), "rgb")


def test_what_a_decoder_has_to_say_is_said_once():
    said = []
    intake = Intake(rig_with(0.0), on_note=lambda name, text: said.append((name, text)))
    message = sweep(T0)
    times = np.frombuffer(message.data, np.uint8).reshape(50, -1).copy()
    field = next(f for f in message.fields if f.name == "t")
    field.datatype = 7
    absolute = np.float32(T0 * 1e-9 + np.zeros(50)).view(np.uint8).reshape(50, 4)
    times[:, field.offset : field.offset + 4] = absolute
    message.data = times.reshape(-1)
    for i in range(3):
        message.header.stamp.sec += 1
        intake.receive("/lidar", message, T0 + i * S)
    assert len(said) == 1 and said[0][0] == "lidar" and "float32" in said[0][1]
    assert intake.notes() == {"lidar": (said[0][1],)}
