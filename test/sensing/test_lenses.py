"""Depth, thermal and events of cameras whose images are not rectified, against analytic scenes."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sensing.depth import back_project, hha_image, register_depth
from mm_perception.sensing.image import warp_by_rotation

W, H = 160, 120
K = np.array([[110.0, 0, 79.5], [0, 112.0, 59.5], [0, 0, 1]])
LENSES = {
    "plumb_bob": (-0.22, 0.05, 1e-3, -5e-4, 0.0),
    "rational_polynomial": (0.1, -0.05, 5e-4, 3e-4, 0.01, 0.3, -0.02, 0.01),
    "equidistant": (0.03, -0.01, 0.003, 0.0),
}


def camera(model: str = "", frame: str = "cam", k=K) -> CameraModel:
    return CameraModel(W, H, np.array(k), np.array(LENSES.get(model, ()), np.float64), model, frame)


def turned(yaw_rad: float, pitch_rad: float, xyz=(0.0, 0.0, 0.0)) -> RigidTransform:
    cy, sy, cp, sp = np.cos(yaw_rad), np.sin(yaw_rad), np.cos(pitch_rad), np.sin(pitch_rad)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return RigidTransform("target", "cam", about_x @ about_y, np.array(xyz))


@pytest.mark.parametrize("model", ["", *LENSES])
def test_rays_are_the_inverse_of_projection(model):
    lens = camera(model)
    rays = lens.rays()
    assert rays.shape == (H, W, 2)
    points = np.concatenate([rays.reshape(-1, 2), np.ones((H * W, 1))], 1)
    pixels = lens.project(points)[0].reshape(H, W, 2)
    v, u = np.mgrid[0:H, 0:W]
    np.testing.assert_allclose(pixels, np.stack([u, v], -1), atol=2e-3)


def test_pixels_on_which_a_lens_brings_nothing_have_no_ray():
    # r (1 - 0.4 r^2) has its largest value 0.609 at r = 0.913: what lies beyond 0.609 f from the middle is dark.
    lens = CameraModel(W, H, np.array([[60.0, 0, 79.5], [0, 60.0, 59.5], [0, 0, 1]]), np.array([-0.4, 0, 0, 0.0]),
                       "plumb_bob", "cam")  # fmt: skip
    rays = lens.rays()
    v, u = np.mgrid[0:H, 0:W]
    reach = np.hypot(u - 79.5, v - 59.5) / 60.0
    assert np.isnan(rays[reach > 0.62]).all()
    assert np.isfinite(rays[reach < 0.58]).all()


def plane_depth(lens: CameraModel, normal: np.ndarray, distance_m: float) -> np.ndarray:
    """Depth of n . p = d along each pixel's ray."""
    rays = lens.rays().astype(np.float64)
    return (distance_m / (rays[..., 0] * normal[0] + rays[..., 1] * normal[1] + normal[2])).astype(np.float32)


@pytest.mark.parametrize("model", list(LENSES))
def test_points_of_a_plane_lie_in_it(model):
    normal, lens = np.array([0.2, -0.3, 1.0]), camera(model)
    points = back_project(plane_depth(lens, normal, 7.0), lens)
    np.testing.assert_allclose(points @ normal, 7.0, atol=1e-4)


@pytest.mark.parametrize("source", ["", *LENSES])
@pytest.mark.parametrize("target", ["", *LENSES])
def test_depth_of_a_plane_registered_onto_another_camera_is_that_planes(source, target):
    normal, distance_m = np.array([0.05, 0.1, 1.0]), 6.0
    moved = turned(0.03, -0.02, (0.1, 0.02, -0.05))
    lens, seen = camera(source), camera(target, "target")
    got = register_depth(plane_depth(lens, normal, distance_m), lens, seen, moved)
    # n . p = d becomes n' . p' = d + n' . t with n' = R n.
    turned_normal = moved.rotation @ normal
    expected = plane_depth(seen, turned_normal, distance_m + float(turned_normal @ moved.translation))
    both = np.isfinite(got)
    assert both[20:-20, 25:-25].mean() > 0.9
    assert np.abs(got - expected)[both].max() < 0.06  # half a pixel's slope of the plane


def pattern(directions: np.ndarray) -> np.ndarray:
    """A smooth picture of the sky: (..., 3) directions to values."""
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    return 128 + 60 * np.sin(6 * unit[..., 0]) + 50 * np.cos(7 * unit[..., 1])


def sky(lens: CameraModel, rotation: np.ndarray) -> np.ndarray:
    rays = np.concatenate([lens.rays(), np.ones((H, W, 1), np.float32)], -1).astype(np.float64)
    return pattern(rays @ rotation)


@pytest.mark.parametrize("source", ["", *LENSES])
@pytest.mark.parametrize("target", ["", *LENSES])
def test_a_picture_of_the_sky_is_seen_alike_by_any_two_lenses(source, target):
    rotation = turned(0.06, 0.04)
    lens, seen = camera(source), camera(target, "target")
    got = warp_by_rotation(sky(lens, np.eye(3)), lens, seen, rotation)
    expected = sky(seen, rotation.rotation)
    inside = warp_by_rotation(np.ones((H, W)), lens, seen, rotation) > 0.999
    assert inside.mean() > 0.6
    assert np.abs(got - expected)[inside].max() < 0.5  # of 256 grey levels


@pytest.mark.parametrize("model", list(LENSES))
def test_hha_of_a_floor_does_not_depend_on_the_lens(model):
    down, height_m = np.array([0.0, 1.0, 0.0]), 1.5

    def floor(lens: CameraModel) -> np.ndarray:
        y = lens.rays()[..., 1].astype(np.float64)
        with np.errstate(divide="ignore"):
            return np.where(y > 0.05, height_m / y, np.nan).astype(np.float32)

    lens = camera(model)
    depth_m = floor(lens)
    hha = hha_image(depth_m, lens, down)
    known = np.isfinite(depth_m)
    np.testing.assert_allclose(hha[..., 0][known], np.clip(310 / depth_m[known] / 255, 0, 1), atol=1e-3)
    assert np.abs(hha[..., 1][known]).max() < 0.02  # the floor is at height 0
    inner = np.zeros_like(known)
    inner[70:-6, 6:-6] = True
    np.testing.assert_allclose(hha[..., 2][known & inner], 38 / 255, atol=2 / 255)  # level
