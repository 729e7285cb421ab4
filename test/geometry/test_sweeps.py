"""Turns of a moving LiDAR against a world that stands still."""

from __future__ import annotations

import numpy as np

from mm_perception.core.types import PointCloud
from mm_perception.geometry.sweeps import OwnBody, Turn, turn_span_ns, turns_table, without_own_body
from mm_perception.geometry.transforms import RigidTransform

TURN_NS = 100_000_000
WALL = np.stack([np.full(50, 20.0), np.linspace(-10, 10, 50), np.linspace(-1, 2, 50)], axis=1)


def pose(t_ns, speed=10.0):
    """A vehicle that drives along x."""
    return RigidTransform("odom", "lidar", np.eye(3), np.array([speed * t_ns * 1e-9, 0.0, 0.0]))


def turn(start_ns, with_times=True):
    """The wall as a LiDAR sees it that passes along it, each point at its own time."""
    offset = np.linspace(0, TURN_NS - 1, len(WALL)).astype(np.int64)
    place = np.array([pose(start_ns + o).translation for o in (offset if with_times else np.zeros_like(offset))])
    xyz = (WALL - place).astype(np.float32)
    intensity = np.full(len(WALL), 7.0, np.float32)
    return PointCloud(xyz, start_ns, "lidar", intensity, None, offset if with_times else None)


def moving_turn(start_ns, with_times=True):
    end_ns = start_ns + TURN_NS
    return Turn(turn(start_ns, with_times), pose(start_ns), pose(end_ns), start_ns, end_ns)


def test_a_wall_seen_from_a_moving_vehicle_lies_at_one_place():
    reference_ns = 4 * TURN_NS
    table = turns_table([moving_turn(k * TURN_NS) for k in (1, 2, 3)], pose(reference_ns).inverse(), reference_ns)
    assert table.shape == (150, 5)
    np.testing.assert_allclose(table[:, 0], 20.0 - 4.0, atol=1e-4)
    assert (table[:, 3] == 7.0).all()
    np.testing.assert_allclose(table[:50, 4], 0.1 - np.linspace(0, 0.1, 50), atol=1e-6)
    assert 0.2 - 1e-6 < table[100:, 4].min() and table[:, 4].max() <= 0.3 + 1e-6, (
        "the newest turn first, ages in seconds"
    )


def test_an_origin_far_away_costs_no_precision():
    far = RigidTransform("map", "odom", np.eye(3), np.array([4.5e5, 5.4e6, 30.0]))
    one = moving_turn(0)
    distant = Turn(one.cloud, far @ one.fixed_from_start, far @ one.fixed_from_end, one.start_ns, one.end_ns)
    near = turns_table([one], pose(TURN_NS).inverse(), TURN_NS)
    np.testing.assert_allclose(turns_table([distant], (far @ pose(TURN_NS)).inverse(), TURN_NS), near, atol=1e-5)


def test_clouds_without_times_are_taken_at_their_stamp():
    table = turns_table([moving_turn(0, with_times=False)], pose(0).inverse(), 0)
    np.testing.assert_allclose(table[:, :3], WALL, atol=1e-5)
    assert (table[:, 4] == 0).all()


def test_a_turn_ends_with_its_last_point():
    assert turn_span_ns(turn(5)) == (5, 5 + TURN_NS - 1)
    assert turn_span_ns(turn(5, with_times=False)) == (5, 5)


def test_a_turn_that_is_stamped_at_its_end_is_straightened_alike():
    one = turn(0)
    assert one.offset_ns is not None
    late = PointCloud(one.xyz, TURN_NS, "lidar", one.intensity, None, one.offset_ns - TURN_NS)
    assert turn_span_ns(late) == (0, TURN_NS)
    table = turns_table([Turn(late, pose(0), pose(TURN_NS), *turn_span_ns(late))], pose(TURN_NS).inverse(), TURN_NS)
    expected = turns_table([moving_turn(0)], pose(TURN_NS).inverse(), TURN_NS)
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert np.ptp(table[:, 0]) < 1e-4 < np.ptp(late.xyz[:, 0])


def test_points_on_the_own_vehicle_are_taken_off():
    cloud = PointCloud(np.array([[0.5, 0.5, -1], [3, 0, 0], [0, 1.5, 0]], np.float32), 0, "lidar")
    assert without_own_body(cloud, OwnBody()).tolist() == [False, True, True]
    assert without_own_body(cloud, OwnBody(0, 0, 2.0)).tolist() == [False, True, False]


def test_no_turn_and_an_empty_turn_have_no_points():
    assert turns_table([], pose(0), 0).shape == (0, 5)
    empty = PointCloud(np.zeros((0, 3), np.float32), 5, "lidar", np.zeros(0, np.float32), None, np.zeros(0, np.int64))
    assert turns_table([Turn(empty, pose(0), pose(TURN_NS), 0, TURN_NS)], pose(0).inverse(), 0).shape == (0, 5)
    assert turn_span_ns(empty) == (5, 5)
