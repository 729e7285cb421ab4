from __future__ import annotations

import numpy as np
import pytest

from mm_perception.survey.cameras import group_twins, name_sensors
from mm_perception.survey.content import covered_deg
from mm_perception.survey.facts import CloudContent, ImageContent, TopicFacts
from mm_perception.survey.kinds import judge
from mm_perception.survey.units import depth_unit, full_scale, thermal_scale

NONE = np.zeros(0, np.int64)
COLOUR, GREY = ImageContent(64, 48, "bgr8", 3, 8), ImageContent(64, 48, "mono8", 1, 8, low=2, median=90, high=250)
MM = ImageContent(64, 48, "16UC1", 1, 16, low=400, median=3000, high=9000, zero_share=0.2)
METRES = ImageContent(64, 48, "32FC1", 1, 32, True, 0.4, 3.0, 9.0, 0.2)
HEAT = ImageContent(64, 48, "mono16", 1, 16, low=28_900, median=29_400, high=31_000)
HEAT_CV = ImageContent(64, 48, "16UC1", 1, 16, low=28_900, median=29_400, high=31_000)


def topic(name: str, content, frame: str = "", type_name: str = "sensor_msgs/msg/Image", problem: str = ""):
    if isinstance(content, CloudContent):
        type_name = "sensor_msgs/msg/PointCloud2"
    return TopicFacts(name, type_name, 9, NONE, NONE, 0, (frame,), content, problem)


@pytest.mark.parametrize(
    ("name", "content", "role"),
    [
        ("/camera/color/image_raw", COLOUR, "rgb"),
        ("/image_rect_color", COLOUR, "rgb"),
        ("/stereo/left/image_raw", GREY, "rgb"),
        ("/cam_front/image/compressed", COLOUR, "rgb"),
        ("/firefly/image_raw", COLOUR, "rgb"),
        ("/camera/depth/image_rect_raw", MM, "depth"),
        ("/camera/aligned_depth_to_color/image_raw", MM, "depth"),
        ("/zed/zed_node/depth/depth_registered", METRES, "depth"),
        ("/camera/image", MM, "depth"),
        ("/depth/colormap", COLOUR, ""),
        ("/camera/depth/preview", COLOUR, ""),
        ("/stereo/disparity", METRES, ""),
        ("/flir_boson/image_raw", HEAT, "thermal"),
        ("/lwir/image_raw", GREY, "thermal"),
        ("/thermal_left/image", COLOUR, "thermal"),
        ("/optris/thermal_image", HEAT_CV, "thermal"),
        ("/rig/ir/image", GREY, "thermal"),
        ("/sensors/cam3/image_raw", HEAT, "thermal"),
        ("/camera/infra1/image_rect_raw", GREY, ""),
        ("/camera/infra2/image_rect_raw/compressed", GREY, ""),
        ("/camera/left_infra/image", GREY, ""),
        ("/cam/semantic/labels", GREY, "labels"),
        ("/cam/segmentation", COLOUR, ""),
        ("/truth/instance", HEAT, ""),
        ("/detector/overlay", COLOUR, ""),
        ("/velodyne_points", CloudContent(("x", "y", "z", "intensity"), 900), "lidar"),
        ("/ouster/points", CloudContent(("x", "y", "z", "t"), 900), "lidar"),
        ("/camera/depth/color/points", CloudContent(("x", "y", "z", "rgb"), 900), ""),
        ("/front_radar/points", CloudContent(("x", "y", "z"), 60), ""),
        ("/targets", CloudContent(("x", "y", "z", "rcs"), 60), ""),
        ("/gt/states", CloudContent(("vx", "vy", "lidar_points"), 4), "object_states"),
    ],
)
def test_kinds_by_name_encoding_and_content(name, content, role):
    verdict = judge(topic(name, content))
    assert verdict.role == role
    assert verdict.reason


def test_infrared_beside_a_depth_camera_is_no_heat():
    depth, infrared = topic("/k4a/depth/image_raw", MM), topic("/k4a/ir/image_raw", HEAT)
    assert judge(infrared, [depth, infrared]).role == ""
    assert judge(infrared, [infrared]).role == "thermal"


@pytest.mark.parametrize(
    ("type_name", "role", "said"),
    [
        ("sensor_msgs/msg/LaserScan", "", "one row"),
        ("velodyne_msgs/msg/VelodyneScan", "", "velodyne_pointcloud"),
        ("vision_msgs/msg/Detection3DArray", "", "objects"),
        ("nav_msgs/msg/Odometry", "odometry", "Odometry"),
        ("acme_msgs/msg/Thing", "", "acme_msgs/msg/Thing"),
        ("sensor_msgs/msg/Imu", "", ""),
    ],
)
def test_types_that_are_no_sensor(type_name, role, said):
    verdict = judge(topic("/a", None, type_name=type_name))
    assert verdict.role == role and said in verdict.reason


def test_what_cannot_be_decoded_is_left_out_with_the_reason():
    verdict = judge(topic("/cam/image", ImageContent(0, 0, "acme12"), problem="image encoding 'acme12'"))
    assert verdict.role == "" and "acme12" in verdict.reason


@pytest.mark.parametrize(
    ("content", "scale"),
    [
        (GREY, "agc"),
        (COLOUR, "agc"),
        (HEAT, "centikelvin"),
        (ImageContent(9, 9, "mono16", 1, 16, low=2850, median=2930, high=3100), "decikelvin"),
        (ImageContent(9, 9, "mono16", 1, 16, low=7000, median=7600, high=9000), "counts"),
        (ImageContent(9, 9, "mono16", 1, 16, low=400, median=2930, high=9000), "counts"),
        (ImageContent(9, 9, "32FC1", 1, 32, True, 280, 295, 320), "kelvin"),
        (ImageContent(9, 9, "32FC1", 1, 32, True, 5, 21, 40), "counts"),
    ],
)
def test_thermal_scales(content, scale):
    assert thermal_scale(content)[0] == scale


@pytest.mark.parametrize(
    ("content", "unit_m"),
    [(MM, None), (METRES, None), (ImageContent(9, 9, "32FC1", 1, 32, True, 400, 3000, 9000), 0.001)],
)
def test_depth_units(content, unit_m):
    assert depth_unit(content)[0] == unit_m


@pytest.mark.parametrize(
    ("largest", "scale"),
    [(0.98, 1.0), (1.0, 1.0), (60.0, 255.0), (100.0, 100.0), (250.0, 255.0), (900.0, 1023.0), (4000.0, 4095.0),
     (30_000.0, 65_535.0)],
)  # fmt: skip
def test_intensity_scales(largest, scale):
    assert full_scale(largest) == scale


@pytest.mark.parametrize(
    ("first", "last", "covered"), [(-180, 180, 360), (-60, 60, 120), (120, 240, 120), (30, 330, 300)]
)
def test_coverage_is_the_circle_without_its_widest_gap(first, last, covered):
    azimuth = np.radians((np.linspace(first, last, 5000) + 180) % 360 - 180)
    assert covered_deg(azimuth) == pytest.approx(covered, abs=0.2)


def test_twins_are_one_sensor():
    names = ["/a/image_raw", "/a/image_raw/compressed", "/a/image_mono", "/a/image_rect_color", "/b/image_raw"]
    topics = {name: topic(name, GREY if name.endswith("mono") else COLOUR) for name in names}
    assert group_twins(dict.fromkeys(names, "rgb"), topics) == {
        "/a/image_raw": ("/a/image_raw/compressed", "/a/image_rect_color", "/a/image_mono"),
        "/b/image_raw": (),
    }


def test_names_tell_sensors_from_each_other():
    cameras = ["/sensing/camera/front/image_raw", "/sensing/camera/rear/image_raw/compressed", "/cam0/image_raw"]
    names = name_sensors({**dict.fromkeys(cameras, "rgb"), "/lidar/points": "lidar"})
    assert names["/lidar/points"] == "lidar"
    assert "front" in names[cameras[0]] and "rear" in names[cameras[1]] and names[cameras[2]] == "cam0"
    numbered = name_sensors({"/1/image": "rgb", "/2/image": "rgb", "/image": "rgb"})
    assert len(set(numbered.values())) == 3 and all(not name[0].isdigit() for name in numbered.values())
