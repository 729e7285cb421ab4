"""What a replay says of sensors on other clocks, and which message types it takes or refuses with a way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import BagMessages
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_image, encode_point_cloud
from mm_perception.codec.fields import make_header, make_time
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import PointCloud
from mm_perception.metrics.latency import LatencyLog
from mm_perception.pipeline.intake import Intake
from mm_perception.replay.replay import ReplayReport, _finish, observations

BAG = BagMessages()
S, MS = 1_000_000_000, 1_000_000
T0 = 1_722_222_222 * S
N = 8
RGB, LIDAR = SensorConfig("rgb", "rgb", topic="/rgb"), SensorConfig("lidar", "lidar", topic="/lidar")


def rig(*sensors: SensorConfig) -> RigConfig:
    return RigConfig((RGB, *sensors), "rgb")


def cloud(ns: int, zeros: int = 0):
    xyz = np.random.default_rng(0).uniform(1, 9, (60, 3)).astype(np.float32)
    xyz[:zeros] = 0
    return encode_point_cloud(BAG, PointCloud(xyz, ns, "cam", offset_ns=np.linspace(0, 90 * MS, 60).astype(int)))


def write(path: Path, topic: str, make, ahead_ns: int = 0) -> Path:
    with BagWriter(path) as bag:
        for i in range(N):
            ns = T0 + i * 100 * MS
            bag.write("/rgb", encode_image(BAG, np.full((8, 8, 3), 90, np.uint8), "rgb8", ns, "cam"), ns)
            bag.write(topic, make(ns + ahead_ns), ns + 3 * MS)
    return path


def report_of(path: Path, config: RigConfig) -> tuple[ReplayReport, list]:
    with BagReader(path) as bag:
        intake = Intake(config.with_types(bag.topics))
        found = list(observations(bag, intake))
    return _finish(ReplayReport(), intake, LatencyLog()), found


@pytest.mark.parametrize(
    ("ahead_s", "said", "proposed_ms"),
    [(-18, "GPS", -18_000), (7200, "time zone", 7_200_000), (55, "54.997 s", 54_997)],
)
def test_a_sensor_that_never_matches_is_named_with_its_figure_and_the_offset_mends_it(
    tmp_path, ahead_s, said, proposed_ms
):
    path = write(tmp_path / "a.mcap", "/lidar", cloud, ahead_s * S)
    report, found = report_of(path, rig(LIDAR))
    assert found == [] and said in report.notes["lidar"] and f"offset_ms: {proposed_ms} " in report.notes["lidar"]
    report, found = report_of(path, rig(replace(LIDAR, offset_ms=float(proposed_ms))))
    assert len(found) == N and report.notes == {}


def test_stamps_that_fall_between_are_named_with_their_distance(tmp_path):
    path = write(tmp_path / "a.mcap", "/lidar", cloud, -40 * MS)
    report, _ = report_of(path, rig(replace(LIDAR, tolerance_ms=10.0)))
    assert "-40.0 ms off" in report.notes["lidar"]


def test_a_sensor_in_time_is_not_blamed_for_sets_that_another_is_missing_in(tmp_path):
    path = write(tmp_path / "a.mcap", "/lidar", cloud)
    report, found = report_of(path, rig(LIDAR, SensorConfig("thermal", "thermal", topic="/thermal")))
    assert found == [] and report.notes == {}


def test_no_returns_are_in_the_report(tmp_path):
    report, _ = report_of(write(tmp_path / "a.mcap", "/lidar", lambda ns: cloud(ns, zeros=9)), rig(LIDAR))
    assert report.left_out == {"lidar: points at the origin (no return)": 9 * N} and not report.dropped


def custom(ns: int):
    point = BAG.make(
        "livox_interfaces/msg/CustomPoint", offset_time=5, x=1.0, y=2.0, z=3.0, reflectivity=1, tag=0, line=3
    )
    return BAG.make(
        "livox_interfaces/msg/CustomMsg", header=make_header(BAG, ns, "cam"), timebase=ns, point_num=1, lidar_id=0,
        rsvd=np.zeros(3, np.uint8), points=[point],
    )  # fmt: skip


def events(ns: int):
    event = BAG.make("prophesee_event_msgs/msg/Event", x=3, y=4, ts=make_time(BAG, ns - MS), polarity=True)
    head = make_header(BAG, ns - MS, "cam")
    return BAG.make("prophesee_event_msgs/msg/EventArray", header=head, height=48, width=64, events=[event])


@pytest.mark.parametrize(
    ("sensor", "make", "package"),
    [(LIDAR, custom, "livox_interfaces/msg/CustomMsg"),
     (SensorConfig("ev", "events", topic="/ev"), events, "prophesee_event_msgs/msg/EventArray")],
)  # fmt: skip
@pytest.mark.parametrize("is_named", [False, True])
def test_whatever_its_kind_sends_is_read_and_a_type_that_the_rig_names_is_checked(
    tmp_path, sensor, make, package, is_named
):
    path = write(tmp_path / "a.mcap", sensor.topic, make)
    _, found = report_of(path, rig(replace(sensor, type=package if is_named else "")))
    assert len(found) == N
    assert all(len(one.bundle.measurements[sensor.name]) == 1 for one in found)
    other = "sensor_msgs/msg/PointCloud2"
    with pytest.raises(BagError, match=package):
        report_of(path, rig(replace(sensor, type=other)))


@pytest.mark.parametrize(
    ("type_name", "said"),
    [
        ("velodyne_msgs/msg/VelodyneScan", "velodyne_pointcloud"),
        ("ouster_sensor_msgs/msg/PacketMsg", "os_cloud"),
        ("ouster_ros/msg/PacketMsg", "os_cloud"),
        ("livox_ros_driver3/msg/CustomMsg", "xfer_format: 0"),
        ("rslidar_msg/msg/RslidarPacket", "rslidar_sdk"),
        ("hesai_ros_driver/msg/UdpFrame", "hesai_ros_driver"),
        ("pandar_msgs/msg/PandarScan", "Hesai"),
        ("nebula_msgs/msg/NebulaPackets", "nebula"),
        ("sensor_msgs/msg/LaserScan", "laser_geometry"),
    ],
)
def test_packets_of_drivers_are_refused_with_the_node_that_converts_them(type_name, said):
    with pytest.raises(ConfigError, match=said) as error:
        SensorConfig("lidar", "lidar", type=type_name)
    assert type_name in str(error.value)


def test_a_bag_with_another_type_is_refused_with_a_way_out(tmp_path):
    def scan(ns: int):
        nothing = np.zeros(0, np.float32)
        return BAG.make(
            "sensor_msgs/msg/LaserScan", header=make_header(BAG, ns, "cam"), angle_min=0.0, angle_max=0.0,
            angle_increment=0.0, time_increment=0.0, scan_time=0.0, range_min=0.0, range_max=0.0, ranges=nothing,
            intensities=nothing,
        )  # fmt: skip

    with pytest.raises(BagError, match=r"LaserScan, .* laser_geometry"):
        report_of(write(tmp_path / "a.mcap", "/lidar", scan), rig(LIDAR))
