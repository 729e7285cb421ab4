"""Each fault does to a stream what its name says, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages, serialize
from mm_perception.codec.decoders import make_decoder
from mm_perception.codec.encode import (
    encode_columns,
    encode_compressed,
    encode_events_evt3,
    encode_image,
    encode_transforms,
)
from mm_perception.codec.transforms import decode_transform
from mm_perception.core.errors import ConfigError, MmPerceptionError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import EventPacket, Measurement
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sensing.health import HealthMonitor, condition, cover
from mm_perception.sim.faults import (
    CLOCK_TOPIC,
    KINDS,
    ONE_IN,
    VEHICLE,
    Fault,
    FaultyStream,
    Sent,
    draw_faults,
    targets,
)

FACTORY = BagMessages()
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 250_000_000
JPEG = "sensor_msgs/msg/CompressedImage"
RIG = RigConfig(
    sensors=(
        SensorConfig("rgb", "rgb", topic="/rgb", type=JPEG, camera_info="/rgb/info"),
        SensorConfig("raw", "rgb", topic="/raw"),
        SensorConfig("depth", "depth", topic="/depth", type=JPEG),
        SensorConfig("raw_depth", "depth", topic="/raw_depth"),
        SensorConfig("thermal", "thermal", topic="/thermal", type=JPEG),
        SensorConfig("raw_thermal", "thermal", topic="/raw_thermal"),
        SensorConfig("events", "events", topic="/events"),
        SensorConfig("lidar", "lidar", topic="/lidar"),
    ),
    reference="rgb",
    fixed_frame="odom",
)
SENSORS = [sensor.name for sensor in RIG.sensors]
EVERY = [(kind, name) for kind in KINDS for name in targets(kind, RIG) if name in SENSORS]


def message(name: str, i: int) -> Any:
    """The i-th of a sensor that lives: noise differs from one to the next."""
    rng, stamp_ns, sensor = np.random.default_rng(i), START_NS + i * PERIOD_NS, RIG.sensor(name)
    if sensor.kind == "events":
        t_ns = np.sort(rng.integers(0, 20_000_000, 300)) // 1000 * 1000 + stamp_ns
        x, y = (rng.integers(0, n, 300).astype(np.uint16) for n in (64, 48))
        packet = EventPacket(x, y, rng.random(300) > 0.5, t_ns, 64, 48, stamp_ns, "cam")
        return encode_events_evt3(FACTORY, packet, i)
    if sensor.kind == "lidar":
        angle = rng.uniform(-np.pi, np.pi, 2000)
        columns = {"x": ("f4", 20 * np.cos(angle)), "y": ("f4", 20 * np.sin(angle)), "z": ("f4", np.zeros(2000))}
        return encode_columns(FACTORY, columns | {"intensity": ("f4", np.ones(2000))}, stamp_ns, "lidar")
    if sensor.kind == "rgb":
        pixels, raw, fmt = rng.integers(0, 200, (48, 64, 3)).astype(np.uint8), "rgb8", "jpeg"
    else:
        pixels, raw, fmt = rng.integers(1000, 9000, (48, 64)).astype(np.uint16), "16UC1", "png"
    if sensor.message_type == JPEG:
        return encode_compressed(FACTORY, pixels, fmt, stamp_ns, "cam")
    return encode_image(FACTORY, pixels, raw, stamp_ns, "cam")


def sent(name: str, i: int) -> Sent:
    return Sent(RIG.sensor(name).input_topic, message(name, i), START_NS + i * PERIOD_NS)


def through(kind: str, name: str, count: int = 8, seconds: float = 60.0, seed: int = 5) -> list[Sent]:
    stream = FaultyStream(RIG, [Fault(kind, name, 0.0, seconds, seed)], START_NS)
    return [after for i in range(count) for after in stream.send(sent(name, i))]


def stamp_ns(one: Any) -> int:
    return one.header.stamp.sec * 1_000_000_000 + one.header.stamp.nanosec


def shifts_ns(kind: str, name: str, seed: int = 5) -> list[int]:
    """By how much stamps are off."""
    return [stamp_ns(one.message) - one.at_ns for one in through(kind, name, seed=seed)]


def decoded(name: str, found: list[Sent]) -> list[Measurement | None]:
    """None where a message is refused."""
    decode, results = make_decoder(RIG.sensor(name)), list[Measurement | None]()
    for one in found:
        try:
            results.append(decode(one.message))
        except MmPerceptionError:
            results.append(None)
    return results


def of_kind(*kinds: str) -> list[str]:
    return [sensor.name for sensor in RIG.sensors if sensor.kind in kinds]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_fault_holds_for_its_time_alone_and_leaves_its_input_as_it_was(kind, name):
    def wire(one: Sent) -> tuple[str, bytes, int]:
        return one.topic, serialize(one.message, RIG.sensor(name).message_type), one.at_ns

    inputs = [sent(name, i) for i in range(12)]
    before = [wire(one) for one in inputs]
    stream = FaultyStream(RIG, [Fault(kind, name, 1.0, 1.0, 5)], START_NS)
    found = [[wire(after) for after in stream.send(one)] for one in inputs]
    assert [i for i in range(12) if found[i] != [before[i]] and not 4 <= i < 8] == []
    assert [i for i in range(4, 8) if found[i] != [before[i]]], "nothing happened"
    assert [wire(one) for one in inputs] == before


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_fault_leaves_the_other_sensors_alone(kind, name):
    stream = FaultyStream(RIG, [Fault(kind, name, 0.0, 9.0, 5)], START_NS)
    for other in SENSORS:
        if other != name:
            one = sent(other, 3)
            assert stream.send(one) == [one]


@pytest.mark.parametrize("name", SENSORS)
def test_dead_sensor_sends_nothing(name):
    assert through("die", name) == []


@pytest.mark.parametrize("name", SENSORS)
def test_frozen_sensor_repeats_its_content_under_new_stamps(name):
    found = through("freeze", name)
    assert [stamp_ns(one.message) for one in found] == [START_NS + i * PERIOD_NS for i in range(8)]
    monitor, decode = HealthMonitor(), make_decoder(RIG.sensor(name))
    assert monitor.look(decode(found[0].message)).problem == ""
    health = [monitor.look(decode(one.message)) for one in found[1:]]
    assert health[-1].problem == "frozen" and health[-1].repeats == 7


@pytest.mark.parametrize("name", SENSORS)
def test_repeated_message_keeps_its_stamp(name):
    found = through("repeat", name)
    assert len(found) == 8 and {stamp_ns(one.message) for one in found} == {START_NS}


@pytest.mark.parametrize("name", SENSORS)
def test_stutter_sends_everything_in_order_in_bursts(name):
    found = through("stutter", name, 24)
    assert [stamp_ns(one.message) for one in found] == [START_NS + i * PERIOD_NS for i in range(24)]
    times = [one.at_ns for one in found]
    assert times == sorted(times)
    waits_s = [(one.at_ns - stamp_ns(one.message)) * 1e-9 for one in found]
    assert min(waits_s) >= 0 and 0.8 < max(waits_s) <= 1.6
    assert len(set(times)) <= 6, "they come in bursts"


@pytest.mark.parametrize("name", SENSORS)
def test_slow_sensor_sends_one_in_some(name):
    assert len(through("rate", name, 4 * ONE_IN)) == 4


@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize(("kind", "least_s", "most_s"), [("clock_jump", 2.0, 8.0), ("clock_skew", 0.35, 0.9)])
def test_clock_is_off_by_a_constant_of_either_sign(kind, least_s, most_s, name):
    signs = set()
    for seed in range(8):
        (shift_ns,) = set(shifts_ns(kind, name, seed))
        assert least_s <= abs(shift_ns) * 1e-9 <= most_s
        signs.add(shift_ns > 0)
    assert signs == {True, False}


def test_clock_drifts_by_a_third():
    found = np.abs(shifts_ns("clock_drift", "lidar"))
    np.testing.assert_array_equal(found, np.arange(8) * PERIOD_NS // 3)


@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize("kind", ["no_stamp", "cut"])
def test_what_cannot_be_used_is_refused_by_the_decoder(kind, name):
    assert decoded(name, through(kind, name)) == [None] * 8


@pytest.mark.parametrize("name", SENSORS)
def test_frame_is_another(name):
    assert {one.message.header.frame_id for one in through("frame", name)} == {"nowhere"}


@pytest.mark.parametrize("name", of_kind("rgb", "depth", "thermal", "events"))
def test_resolution_is_half(name):
    sizes = set()
    for one in decoded(name, through("resolution", name)):
        if isinstance(one, EventPacket):
            sizes.add((one.height, one.width))
        else:
            pixels = next(getattr(one, k) for k in ("image", "depth_m", "values") if hasattr(one, k))
            sizes.add(pixels.shape[:2])
    assert sizes == {(24, 32)}


@pytest.mark.parametrize("name", SENSORS)
def test_encoding_is_another(name):
    def form(one: Any) -> tuple[str, ...]:
        fields = tuple(f.name for f in getattr(one, "fields", ()))
        return (str(getattr(one, "encoding", getattr(one, "format", ""))), *fields)

    assert all(form(one.message) != form(message(name, 0)) for one in through("encoding", name))


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [("black", n, "black") for n in of_kind("rgb")]
    + [("saturated", n, "blank") for n in of_kind("rgb")]  # all alike, which is worse than too bright
    + [(k, n, "blank") for k in ("black", "saturated") for n in of_kind("thermal")]
    + [("black", n, "empty") for n in of_kind("depth")]
    + [("empty", n, "empty") for n in of_kind("lidar")],
)
def test_what_shows_nothing_is_seen_as_such(kind, name, expected):
    found = decoded(name, through(kind, name))
    assert [None if one is None else condition(one) for one in found] == [expected] * 8


def test_sector_is_a_third_of_the_circle():
    for one in decoded("lidar", through("sector", "lidar")):
        assert 110 <= cover(one.xyz).covered_deg <= 140
        assert 500 < len(one) < 900


def transforms(i: int) -> Sent:
    moved = RigidTransform("odom", "base_link", np.eye(3), np.array([float(i), 0.0, 0.0]))
    at_ns = START_NS + i * PERIOD_NS
    return Sent("/tf", encode_transforms(FACTORY, [moved], at_ns), at_ns)


def test_vehicle_jump_shifts_all_stamps_alike():
    stream = FaultyStream(RIG, [Fault("vehicle_jump", VEHICLE, 0.0, 9.0, 2)], START_NS)
    found = {stamp_ns(stream.send(sent(name, 2))[0].message) for name in SENSORS}
    (moved,) = stream.send(transforms(2))
    found.add(decode_transform(moved.message.transforms[0])[1])
    (at_ns,) = found
    assert 2.0 <= abs(at_ns - START_NS - 2 * PERIOD_NS) * 1e-9 <= 8.0


@pytest.mark.parametrize(
    ("kind", "target"), [("tf_gone", "/tf"), ("camera_info_gone", "/rgb/info"), ("clock_dies", CLOCK_TOPIC)]
)
def test_topic_is_gone_and_no_other(kind, target):
    assert targets(kind, RIG) == (target,)
    stream = FaultyStream(RIG, [Fault(kind, target, 0.0, 9.0)], START_NS)
    one = transforms(1)
    assert stream.send(replace(one, topic=target)) == []
    assert stream.send(replace(one, topic="/other")) == [replace(one, topic="/other")]


def test_overlapping_faults_of_one_sensor_both_hold():
    faults = [Fault("frame", "lidar", 0.0, 9.0), Fault("empty", "lidar", 0.0, 9.0)]
    (one,) = FaultyStream(RIG, faults, START_NS).send(sent("lidar", 1))
    assert (one.message.header.frame_id, one.message.width) == ("nowhere", 0)


@pytest.mark.parametrize(
    ("kind", "target"), [("explode", "rgb"), ("empty", "rgb"), ("black", "lidar"), ("die", "radar"), ("tf_gone", "/x")]
)
def test_impossible_faults_are_refused(kind, target):
    with pytest.raises(ConfigError, match=kind):
        FaultyStream(RIG, [Fault(kind, target, 0.0, 1.0)], START_NS)


def test_drawing_repeats_with_the_seed_and_not_otherwise():
    kinds = list(KINDS)
    first, again, other = (draw_faults(RIG, kinds, (5.0, 600.0), np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again != other


def test_drawn_faults_keep_their_pauses_and_every_kind_comes():
    faults = draw_faults(RIG, list(KINDS), (5.0, 900.0), np.random.default_rng(1), pause_s=6.0)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert faults[0].start_s == 5.0 and max(fault.end_s for fault in faults) <= 894.0
    pairs, end_s, target = 0, -1.0, ""
    for fault in faults:
        assert 4.0 <= fault.duration_s <= 6.0
        if fault.start_s < end_s:
            pairs += 1
            assert VEHICLE not in (fault.target, target) and fault.target != target
        elif end_s > 0:
            assert fault.start_s == pytest.approx(end_s + 6.0, abs=0.02)
        end_s, target = max(end_s, fault.end_s), fault.target
        assert fault.target in targets(fault.kind, RIG)
    assert pairs > 3


def test_nothing_is_drawn_of_what_the_rig_has_not():
    blind = RigConfig(sensors=(SensorConfig("rgb", "rgb"),), reference="rgb")
    assert targets("tf_gone", blind) == targets("empty", blind) == targets("camera_info_gone", blind) == ()
    assert draw_faults(blind, ["tf_gone", "empty"], (0.0, 100.0), np.random.default_rng(1)) == []


def test_messages_are_cut_at_any_length():
    assert len({len(one.message.data) for one in through("cut", "lidar", 20)}) > 10
