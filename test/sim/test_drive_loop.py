"""A short recording goes on for ever, without a jump."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_events_mono, encode_image, encode_odometry, encode_transforms
from mm_perception.codec.transforms import decode_odometry, decode_transform
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.types import EventPacket
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.drive_loop import DriveLoop

REC_NS, LIVE_NS, STEP_NS, FRAMES = 10**18, 17 * 10**17, 50_000_000, 4
TOPICS = {"/image", "/events", "/tf", "/tf_static", "/odom"}


def pose(step: int) -> RigidTransform:
    """A bend to the left, by steps of 50 ms."""
    angle = 0.02 * step
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return RigidTransform("odom", "base_link", turned, np.array([np.sin(angle), 1 - np.cos(angle), 0]) * 25.0)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Four frames of 5 Hz, the motion at 20 Hz from before the first frame on."""
    path = tmp_path_factory.mktemp("loop") / "drive.mcap"
    with BagWriter(path) as bag:
        make = bag.factory
        mount = RigidTransform("base_link", "cam", np.eye(3), np.array([1.0, 0, 0]))
        bag.write("/tf_static", encode_transforms(make, [mount], REC_NS), REC_NS - 2 * STEP_NS, latched=True)
        for step in range(-2, 4 * (FRAMES - 1) + 1):
            now_ns = REC_NS + step * STEP_NS
            bag.write("/tf", encode_transforms(make, [pose(step)], now_ns), now_ns)
            bag.write("/odom", encode_odometry(make, pose(step), 10.0, 0.4, now_ns), now_ns)
            none = np.zeros(0, np.uint16)
            packet = EventPacket(none, none, none.astype(bool), none.astype(np.int64), 64, 48, now_ns, "cam")
            bag.write("/events", encode_events_mono(make, packet, step + 2), now_ns)
            if step >= 0 and step % 4 == 0:
                pixels = np.full((4, 4, 3), step, np.uint8)
                bag.write("/image", encode_image(make, pixels, "rgb8", now_ns, "cam"), now_ns)
    return path


def laps(path: Path, count: float = 3, every: dict[str, int] | None = None):
    loop = DriveLoop(path, TOPICS, "/image", "odom", every)
    assert loop.lap_ns == 4 * (FRAMES - 1) * STEP_NS
    found = []
    for one in loop.play(LIVE_NS):
        if one.at_ns > LIVE_NS + count * loop.lap_ns:
            return found
        found.append(one)
    raise AssertionError("it ended")


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_stamps_are_live_and_evenly_spaced_over_the_laps(recording):
    found = laps(recording)
    for topic, step_ns in (("/image", 4 * STEP_NS), ("/events", STEP_NS), ("/odom", STEP_NS)):
        stamps = [stamp_ns(one.message) for one in found if one.topic == topic]
        assert stamps == list(range(LIVE_NS + step_ns, LIVE_NS + 36 * STEP_NS + 1, step_ns))
        assert [one.at_ns for one in found if one.topic == topic] == stamps


def test_motion_goes_on_over_the_laps(recording):
    found = laps(recording)
    for topic, decode in (
        ("/tf", lambda m: decode_transform(m.transforms[0])),
        ("/odom", decode_odometry),
    ):
        for step, one in enumerate((one for one in found if one.topic == topic), start=1):
            here, at_ns = decode(one.message)
            assert at_ns == LIVE_NS + step * STEP_NS
            np.testing.assert_allclose(here.matrix, pose(step).matrix, atol=1e-9)


def test_sequence_numbers_go_on_and_static_transforms_are_apart(recording):
    found = laps(recording)
    numbers = [one.message.seq for one in found if one.topic == "/events"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert not [one for one in found if one.topic == "/tf_static"]
    latched = DriveLoop(recording, TOPICS, "/image", "odom").latched
    assert [topic for topic, _ in latched] == ["/tf_static"]


def test_a_topic_can_be_thinned_out_over_the_laps(recording):
    found = laps(recording, 4, {"/image": 2})
    stamps = [stamp_ns(one.message) for one in found if one.topic == "/image"]
    assert stamps == list(range(LIVE_NS + 8 * STEP_NS, LIVE_NS + 48 * STEP_NS + 1, 8 * STEP_NS))
    shown = [int(one.message.data[0]) for one in found if one.topic == "/image"]
    assert all(a != b for a, b in pairwise(shown)), "no frame follows itself"


@pytest.mark.parametrize("every", [0, 3, 6])
def test_a_stream_of_one_frame_is_refused(recording, every):
    with pytest.raises(ConfigError, match="/image"):
        DriveLoop(recording, TOPICS, "/image", "odom", {"/image": every})


def test_vehicle_without_a_fixed_frame_stays_as_recorded(recording):
    loop = DriveLoop(recording, TOPICS, "/image", "")
    first = [one for one in islice(loop.play(LIVE_NS), 200) if one.topic == "/tf"]
    again = decode_transform(first[12].message.transforms[0])[0]
    np.testing.assert_allclose(again.matrix, pose(1).matrix, atol=1e-12)


def test_too_short_a_recording_is_refused(tmp_path):
    path = tmp_path / "short.mcap"
    with BagWriter(path) as bag:
        pixels = np.zeros((4, 4, 3), np.uint8)
        bag.write("/image", encode_image(bag.factory, pixels, "rgb8", REC_NS, "cam"), REC_NS)
    with pytest.raises(BagError, match="at least 3"):
        DriveLoop(path, TOPICS, "/image", "odom")
