"""Livox: a message of points with times that count from its timebase."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.codec.streams import LidarDecoder
from mm_perception.core.errors import DataError
from mm_perception.core.rig import SensorConfig

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS, header

SENSOR = SensorConfig("lidar", "lidar")


def custom(package="livox_ros_driver2", timebase=STAMP_NS, n=30, step_ns=3_000_000, zeros=()):
    points = [
        FACTORY.make(
            f"{package}/msg/CustomPoint", offset_time=i * step_ns, x=0.0 if i in zeros else 5.0 + i, y=0.0, z=0.0,
            reflectivity=3 * i, tag=16, line=i % 6,
        )
        for i in range(n)
    ]  # fmt: skip
    return FACTORY.make(
        f"{package}/msg/CustomMsg", header=header(frame_id="livox"), timebase=timebase, point_num=n, lidar_id=0,
        rsvd=np.zeros(3, np.uint8), points=points,
    )  # fmt: skip


@pytest.mark.parametrize("package", ["livox_ros_driver", "livox_ros_driver2", "livox_interfaces"])
@pytest.mark.parametrize(
    ("timebase", "first_ns"), [(STAMP_NS, 0), (STAMP_NS - 100_000_000, -100_000_000), (987_654_321, 0), (0, 0)]
)
def test_points_with_their_times_lines_and_reflectivities(package, timebase, first_ns):
    cloud = LidarDecoder(SENSOR)(custom(package, timebase))
    np.testing.assert_allclose(cloud.xyz[:, 0], 5 + np.arange(30))
    assert cloud.offset_ns.tolist() == (first_ns + np.arange(30) * 3_000_000).tolist()
    assert cloud.ring.tolist() == (np.arange(30) % 6).tolist()
    assert cloud.intensity.tolist() == (3 * np.arange(30)).tolist()
    assert (cloud.stamp_ns, cloud.frame_id) == (STAMP_NS, "livox")


def test_no_returns_are_left_out_and_counted():
    decoder = LidarDecoder(SENSOR)
    assert len(decoder(custom(zeros=(0, 7)))) == 28
    assert sum(decoder.left_out.values()) == 2


def test_times_of_seconds_are_no_sweep():
    assert LidarDecoder(SENSOR)(custom(step_ns=100_000_000)).offset_ns is None


def test_empty_and_too_large():
    assert len(LidarDecoder(SENSOR)(custom(n=0))) == 0
    with pytest.raises(DataError, match="max_points"):
        LidarDecoder(SensorConfig("lidar", "lidar", max_points=29))(custom())
