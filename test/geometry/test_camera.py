from __future__ import annotations

import cv2
import numpy as np
import pytest

from mm_perception.core.errors import CalibrationError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import box_corners, count_points_inside
from mm_perception.geometry.camera import CameraModel

K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])


def camera(k=K, distortion=(), model="", width=640, height=480):
    return CameraModel(width, height, np.array(k, np.float64), np.array(distortion, np.float64), model, "cam")


def test_axis_projects_to_the_principal_point_and_behind_is_nan():
    pixels, depth = camera().project(np.array([[0, 0, 5.0], [1, 0, 5], [0, 0, -5], [0, 0, 0]]))
    np.testing.assert_allclose(pixels[:2], [[319.5, 239.5], [419.5, 239.5]])
    assert np.isnan(pixels[2:]).all()
    np.testing.assert_allclose(depth, [5, 5, -5, 0])


def test_no_points():
    pixels, depth = camera().project(np.zeros((0, 3)))
    assert pixels.shape == (0, 2)
    assert depth.shape == (0,)


def test_resized_model_projects_to_the_resized_pixel():
    points = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 5), (50, 3))
    small = camera().resized(320, 120)
    u, v = camera().project(points)[0].T
    np.testing.assert_allclose(small.project(points)[0], np.stack([(u + 0.5) / 2 - 0.5, (v + 0.5) / 4 - 0.5], 1))


def test_cropped_model_shifts():
    points = np.array([[0.3, 0.1, 2.0]])
    np.testing.assert_allclose(
        camera().cropped(10, -20, 100, 100).project(points)[0], camera().project(points)[0] - (10, -20)
    )


def test_distortion_is_opencvs():
    distortion = (-0.28, 0.07, 1e-4, -2e-4, 0.01)
    points = np.random.default_rng(1).uniform((-1, -1, 3), (1, 1, 5), (50, 3))
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(distortion))[0].reshape(-1, 2)
    np.testing.assert_allclose(camera(distortion=distortion, model="plumb_bob").project(points)[0], expected)


def test_points_far_outside_do_not_fold_back_into_the_image():
    # With k1 = -0.4 the polynomial turns at r = sqrt(1 / 1.2); a point beyond would land near the centre.
    lens = camera(distortion=(-0.4, 0, 0, 0), model="plumb_bob")
    pixels, _ = lens.project(np.array([[3.0, 0, 2.0], [0.5, 0, 1.0]]))
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


def test_equidistant_model():
    lens = camera(distortion=(0.01, 0.001, 0.0, 0.0), model="equidistant")
    theta = np.arctan2(1.0, 2.0)
    radius = theta * (1 + 0.01 * theta**2 + 0.001 * theta**4)
    np.testing.assert_allclose(lens.project(np.array([[1.0, 0, 2.0]]))[0], [[319.5 + 500 * radius, 239.5]], rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"k": np.zeros((3, 3))},
        {"k": np.full((3, 3), np.nan)},
        {"k": np.eye(4)},
        {"width": 0},
        {"distortion": (1.0,), "model": "plumb_bob"},
        {"distortion": (0.0,) * 4, "model": "fisheye9000"},
        {"distortion": (np.inf, 0, 0, 0), "model": "plumb_bob"},
    ],
)
def test_unusable_models_are_refused(arguments):
    with pytest.raises(CalibrationError, match="cam"):
        camera(**arguments)


def boxes(center, size, yaw):
    return Detections3D(
        np.array([center], np.float32),
        np.array([size], np.float32),
        np.array([yaw], np.float32),
        np.zeros((1, 2), np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int32),
        ("car",),
        "base",
        1,
    )


def test_corners_of_a_turned_box():
    corners = box_corners(np.array([[1.0, 2, 3]]), np.array([[4.0, 2, 1]]), np.array([np.pi / 2]))
    np.testing.assert_allclose(corners[0].min(axis=0), (0, 0, 2.5), atol=1e-12)
    np.testing.assert_allclose(corners[0].max(axis=0), (2, 4, 3.5), atol=1e-12)


def test_points_are_counted_in_the_boxs_own_axes():
    points = np.array([[0, 1.9, 0], [1.9, 0, 0], [0, 0, 0.6], [0, 0, 0]])
    assert count_points_inside(points, boxes((0, 0, 0), (4, 2, 1), np.pi / 2)).tolist() == [2]
    assert count_points_inside(np.zeros((0, 3)), boxes((0, 0, 0), (4, 2, 1), 0)).tolist() == [0]
