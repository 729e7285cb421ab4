"""CameraInfo in the dialects of drivers, against OpenCV and image_geometry's rules."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.camera_info import decode_camera_info, lens_of
from mm_perception.codec.fields import make_header
from mm_perception.core.errors import CalibrationError

FACTORY = BagMessages()
W, H = 800, 600
K = np.array([[420.0, 0, 405.5], [0, 425.0, 290.25], [0, 0, 1]])
P = np.random.default_rng(4).uniform((-1, -0.8, 2), (1, 0.8, 6), (60, 3))


def info(d=(), model="plumb_bob", k=K, binning=(0, 0), roi=(0, 0, 0, 0), p=None, size=(W, H)):
    region = FACTORY.make(
        "sensor_msgs/msg/RegionOfInterest", x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3],
        do_rectify=False,
    )  # fmt: skip
    projection = np.hstack([k, np.zeros((3, 1))]) if p is None else p
    return FACTORY.make(
        "sensor_msgs/msg/CameraInfo", header=make_header(FACTORY, 1, "cam"), width=size[0], height=size[1],
        distortion_model=model, d=np.array(d, np.float64), k=np.array(k).reshape(-1), r=np.eye(3).reshape(-1),
        p=np.array(projection, np.float64).reshape(-1), binning_x=binning[0], binning_y=binning[1], roi=region,
    )  # fmt: skip


def opencvs(d):
    return cv2.projectPoints(P, np.zeros(3), np.zeros(3), K, np.array(d))[0].reshape(-1, 2)


def fisheyes(d):
    return cv2.fisheye.projectPoints(P[:, None], np.zeros(3), np.zeros(3), K, np.array(d))[0].reshape(-1, 2)


BROWN = [-0.11, 0.02, 8e-4, -6e-4, 0.003, 0.05, -0.02, 0.001, 1e-3, -5e-4, 7e-4, 2e-4, 0.01, -0.015]


@pytest.mark.parametrize("model", ["plumb_bob", "Plumb_Bob", "rational_polynomial", "radtan", "brown-conrady", ""])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8, 12, 14])
def test_as_many_coefficients_of_browns_model_as_a_driver_sends(model, count):
    d = BROWN[:count]
    sizes = (4, 5, 8, 12, 14)
    padded = d + [0.0] * (next(s for s in sizes if s >= count) - count)
    np.testing.assert_allclose(decode_camera_info(info(d, model)).project(P)[0], opencvs(padded), atol=1e-6)
    longer = d + [0.0] * (14 - count)
    np.testing.assert_allclose(decode_camera_info(info(longer, model)).project(P)[0], opencvs(padded), atol=1e-6)


@pytest.mark.parametrize("model", ["equidistant", "fisheye", "Fisheye", "kannala_brandt", "KANNALA_BRANDT4", "equi"])
@pytest.mark.parametrize("d", [[0.05], [0.05, -0.01], [0.05, -0.01, 0.002, -1e-4], [0.05, -0.01, 0.002, -1e-4, 0, 0]])
def test_fisheyes(model, d):
    expected = fisheyes((d + [0.0] * 4)[:4])
    np.testing.assert_allclose(decode_camera_info(info(d, model)).project(P)[0], expected, atol=1e-6)


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "equidistant", "", "none", "None", "mei", "xyz"])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 14, 20])
def test_all_zeros_mean_no_lens_whatever_the_name(model, count):
    camera = decode_camera_info(info([0.0] * count, model))
    assert not camera.has_distortion
    np.testing.assert_allclose(camera.project(P)[0], opencvs([0.0] * 4), atol=1e-9)


@pytest.mark.parametrize("d", [(), BROWN[:5], BROWN])
def test_skew_counts_behind_a_lens_too(d):
    skewed = K.copy()
    skewed[0, 1] = 3.5
    plain = decode_camera_info(info(d)).project(P)[0]
    moved = decode_camera_info(info(d, k=skewed)).project(P)[0]
    y = (plain[:, 1] - K[1, 2]) / K[1, 1]
    np.testing.assert_allclose(moved, plain + np.stack([3.5 * y, 0 * y], 1), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "d", "words"),
    [
        ("plumb_bob", [0.1, np.nan, 0, 0], "not finite"),
        ("equidistant", [0.1, 0.1, 0, 0, 0.1], "at most 4"),
        ("plumb_bob", [0.1] * 15, "at most 14"),
        ("double_sphere", [0.1, 0.2], "double sphere model.*equidistant"),
        ("FOV", [0.9], "the FOV model.*rectified: true"),
        ("none", [0.1], "name their model"),
        ("banana", [0.1], "'banana' is not supported"),
    ],
)
def test_what_cannot_be_had_is_named_with_a_way_out(model, d, words):
    with pytest.raises(CalibrationError, match=words):
        decode_camera_info(info(d, model))


@pytest.mark.parametrize("binning", [(2, 2), (4, 2), (1, 3)])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (100, 60, 400, 300)])
@pytest.mark.parametrize("d", [(), BROWN[:5]])
def test_windows_and_binning_as_image_geometry_has_them(binning, roi, d):
    camera = decode_camera_info(info(d, binning=binning, roi=roi))
    width, height = roi[2] or W, roi[3] or H
    assert (camera.width, camera.height) == (width // binning[0], height // binning[1])
    full = decode_camera_info(info(d)).project(P)[0]
    np.testing.assert_allclose(camera.project(P)[0], (full - roi[:2]) / binning, atol=1e-6)


def test_windows_beyond_the_image_and_binning_to_nothing_are_refused():
    with pytest.raises(CalibrationError, match="goes beyond"):
        decode_camera_info(info(roi=(500, 0, 400, 300)))
    with pytest.raises(CalibrationError, match="leaves nothing"):
        decode_camera_info(info(binning=(1000, 1)))


def test_rectified_images_have_p_and_no_lens():
    p = np.array([[390.0, 0, 402, -40], [0, 390, 300, 0], [0, 0, 1, 0]])
    camera = decode_camera_info(info(BROWN[:5], p=p), rectified=True)
    assert not camera.has_distortion
    np.testing.assert_array_equal(camera.intrinsics, p[:, :3])


@pytest.mark.parametrize("rectified", [False, True])
def test_an_uncalibrated_camera_is_named(rectified):
    with pytest.raises(CalibrationError, match=r"uncalibrated.*camera_calibration"):
        decode_camera_info(info(k=np.zeros((3, 3))), rectified=rectified)


def test_names_of_models_are_those_of_the_camera():
    assert lens_of("radtan", np.array([0.1, 0, 0, 0]))[0] == "plumb_bob"
    assert lens_of("", np.array([0.1] * 8))[0] == "rational_polynomial"
