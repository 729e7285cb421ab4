"""Whose frame counts, however it is spelt, and what is said where none is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_image,
    encode_odometry,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.errors import CalibrationError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import Intake, Observation

MAKE, T = BagMessages(), 10**18
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
K = np.array([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]])
XYZ = np.array([[0.0, 0, 5], [1, 1, 5]], np.float32)
RIG = RigConfig(
    (SensorConfig("rgb", "rgb", "/rgb", camera_info="/info"), SensorConfig("lidar", "lidar", "/points")), "rgb"
)


def named(message: Any, frame_id: str, child: str = "") -> Any:
    """As a driver writes it: the encoders would spell it in our way."""
    message = replace(message, header=replace(message.header, frame_id=frame_id))
    return replace(message, child_frame_id=child) if child else message


def observe(
    rig: RigConfig, camera: str, cloud: str, static: tuple[str, str] | None = None, info: str = "", **more: Any
) -> Observation:
    """One bundle; frames are written as given."""
    intake = Intake(rig, **more)
    if static is not None:
        message = encode_transforms(MAKE, [RigidTransform("a", "b", np.eye(3), np.array([1.0, 2, 3]))], T)
        sent = replace(message, transforms=[named(message.transforms[0], *static)])
        intake.receive("/tf_static", sent, 0)
    model = CameraModel(4, 4, K, np.zeros(0), "", "x")
    intake.receive("/info", named(encode_camera_info(MAKE, model, T), info), 0)
    intake.receive("/points", named(encode_point_cloud(MAKE, PointCloud(XYZ, T, "x")), cloud), 0)
    found = intake.receive("/rgb", named(encode_image(MAKE, PIXELS, "rgb8", T, "x"), camera), 0)
    (seen,) = found or intake.flush()
    return seen


@pytest.mark.parametrize("camera", ["/stereo/left", "stereo/left", " stereo//left/"])
@pytest.mark.parametrize("cloud", ["/os1_lidar", "os1_lidar", "os1_lidar\0"])
@pytest.mark.parametrize("static", [("/stereo/left", "/os1_lidar"), ("stereo/left", "os1_lidar")])
def test_however_it_is_spelt_it_is_one_frame(camera, cloud, static):
    seen = observe(RIG, camera, cloud, static, info="/stereo/left")
    assert seen.calibration.problems == {}
    assert seen.bundle.measurements["lidar"].frame_id == "os1_lidar"
    assert seen.calibration.transform_from("lidar").translation.tolist() == [1, 2, 3]
    assert seen.calibration.camera("rgb").frame_id == "stereo/left"


@pytest.mark.parametrize(("info", "told"), [("left_link", True), ("/left", False), ("", False)])
def test_the_images_frame_counts_and_that_of_its_camera_info_is_told_once(info, told):
    said: list[str] = []
    intake = Intake(RIG, on_change=lambda sensor, text: said.append(f"{sensor}: {text}"))
    model = CameraModel(4, 4, K, np.zeros(0), "", "x")
    cameras = []
    for t_ns in (T, T + 10**8, T + 2 * 10**8):
        intake.receive("/info", named(encode_camera_info(MAKE, model, t_ns), info), 0)
        intake.receive("/points", encode_point_cloud(MAKE, PointCloud(XYZ, t_ns, "left")), 0)
        (seen,) = intake.receive("/rgb", encode_image(MAKE, PIXELS, "rgb8", t_ns, "left"), 0)
        cameras.append(seen.calibration.camera("rgb"))
    assert {camera.frame_id for camera in cameras} == {"left"}
    assert cameras[0] is cameras[2], "who keeps something for a camera knows by identity that nothing has changed"
    text = ["rgb: CameraInfo is in frame left_link, the measurements are in left: theirs is used"]
    assert [one for one in said if "CameraInfo" in one] == (text if told else [])


@pytest.mark.parametrize(("camera", "cloud"), [("", ""), ("/", "lidar"), ("left", " ")])
def test_where_no_frame_is_named_geometry_fails_with_the_advice(camera, cloud):
    seen = observe(RIG, camera, cloud, ("left", "lidar"), info="left")
    with pytest.raises(CalibrationError, match="name no frame: set frame_id of the sensor in the rig"):
        seen.calibration.transform_from("lidar")


def test_the_rig_names_the_frame_of_a_driver_that_names_none_or_a_wrong_one():
    sensors = (replace(RIG.sensors[0], frame_id="/left"), replace(RIG.sensors[1], frame_id="lidar"))
    seen = observe(replace(RIG, sensors=sensors), "", "base_link", ("left", "lidar"), info="camera")
    assert seen.calibration.problems == {} and seen.calibration.camera("rgb").frame_id == "left"


@pytest.mark.parametrize("prefix", ["husky1", "/husky1/"])
@pytest.mark.parametrize("cloud", ["lidar", "/husky1/lidar"])
def test_drivers_without_the_prefix_of_tf(prefix, cloud):
    rig = replace(RIG, frame_prefix=prefix, odometry="/odom", fixed_frame="odom")
    intake = Intake(rig)
    static = [RigidTransform("husky1/base", f"husky1/{name}", np.eye(3), np.ones(3)) for name in ("left", "lidar")]
    intake.receive("/tf_static", encode_transforms(MAKE, static, T), 0)
    pose = RigidTransform("odom", "base", np.eye(3), np.zeros(3))
    for t_ns in (T - 1, T + 1):
        intake.receive("/odom", encode_odometry(MAKE, pose, 0.0, 0.0, t_ns), 0)
    intake.receive("/points", named(encode_point_cloud(MAKE, PointCloud(XYZ, T, "x")), cloud), 0)
    (seen,) = intake.receive("/rgb", encode_image(MAKE, PIXELS, "rgb8", T, "left"), 0)
    assert seen.calibration.problems == {}
    assert seen.calibration.transform_from("lidar").src == "husky1/lidar"


def test_a_message_is_written_in_the_same_spelling():
    assert encode_image(MAKE, PIXELS, "rgb8", T, "/left").header.frame_id == "left"
    sent = encode_transforms(MAKE, [RigidTransform("/map", "/base", np.eye(3), np.zeros(3))], T).transforms[0]
    assert (sent.header.frame_id, sent.child_frame_id) == ("map", "base")


def test_transforms_come_on_the_topics_that_the_rig_names():
    rig = replace(RIG, tf="/husky1/tf", tf_static="/husky1/tf_static")
    intake = Intake(rig)
    assert {one.topic: one.role for one in intake.inputs if one.role.startswith("tf")} == {
        "/husky1/tf": "tf", "/husky1/tf_static": "tf_static",
    }  # fmt: skip
