from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_diagnostics,
    encode_label_info,
    encode_transforms,
)
from mm_perception.codec.transforms import feed_transforms
from mm_perception.core.errors import CalibrationError
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import RigidTransform

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS

K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
LENS = CameraModel(640, 480, K, np.array([-0.2, 0.1, 0, 0, 0.01]), "plumb_bob", "cam")


def test_camera_info_comes_back():
    back = decode_camera_info(encode_camera_info(FACTORY, LENS, STAMP_NS))
    np.testing.assert_array_equal(back.intrinsics, K)
    np.testing.assert_array_equal(back.distortion, LENS.distortion)
    assert (back.width, back.height, back.distortion_model, back.frame_id) == (640, 480, "plumb_bob", "cam")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("k", np.zeros(9), "uncalibrated"),
        ("binning_x", 2000, "binning"),
        ("width", 0, "size"),
        ("distortion_model", "unheard_of", "unheard_of"),
    ],
)
def test_unusable_camera_info_is_refused(field, value, expected):
    message = encode_camera_info(FACTORY, LENS, STAMP_NS)
    setattr(message, field, value)
    with pytest.raises(CalibrationError, match=expected):
        decode_camera_info(message)


def test_region_of_interest_beyond_the_image_is_refused():
    message = encode_camera_info(FACTORY, LENS, STAMP_NS)
    message.roi.width, message.roi.height = 1000, 100
    with pytest.raises(CalibrationError, match="region"):
        decode_camera_info(message)


def test_transforms_come_back_and_bad_ones_are_named():
    turn = RigidTransform.from_quaternion("base", "cam", np.array([0.5, -0.5, 0.5, -0.5]), np.array([1.0, 2, 3]))
    message = encode_transforms(FACTORY, [turn, turn], STAMP_NS)
    message.transforms[1].transform.rotation.x = message.transforms[1].transform.rotation.y = 0.0
    message.transforms[1].transform.rotation.z = message.transforms[1].transform.rotation.w = 0.0
    tree = TransformTree()
    refused = feed_transforms(tree, message, static=True)
    assert len(refused) == 1
    np.testing.assert_allclose(tree.lookup("base", "cam", 1).matrix, turn.matrix, atol=1e-12)
    message.transforms[0].child_frame_id = "base"
    assert len(feed_transforms(TransformTree(), message, static=False)) == 2


def test_label_info_names_the_unlabeled():
    info = encode_label_info(FACTORY, ["road", "car"], STAMP_NS, "cam")
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, "road"), (1, "car"), (255, "unlabeled")]


def test_diagnostics():
    message = encode_diagnostics(FACTORY, STAMP_NS, [("node: x", 1, "late", {"rate_hz": "3"})], "rig")
    (status,) = message.status
    assert (status.name, status.level, status.hardware_id, status.values[0].value) == ("node: x", 1, "rig", "3")
