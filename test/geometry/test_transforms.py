from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_perception.core.errors import CalibrationError
from mm_perception.geometry.transforms import (
    RigidTransform,
    TransformTree,
    interpolate,
    quat_from_rotation,
    rotation_from_quat,
)

QUATS = st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1)


def about_z(dst, src, degrees, translation=(0.0, 0.0, 0.0)):
    half = np.radians(degrees) / 2
    return RigidTransform.from_quaternion(dst, src, np.array([0, 0, np.sin(half), np.cos(half)]), np.array(translation))


@given(QUATS)
def test_quaternions_survive_the_way_through_matrices(quat):
    unit = np.array(quat) / np.linalg.norm(quat)
    back = quat_from_rotation(rotation_from_quat(np.array(quat)))
    assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-7


def test_rotation_about_z_turns_x_to_y():
    moved = about_z("a", "b", 90, (1, 2, 3)).apply(np.array([[1.0, 0, 0]]))
    np.testing.assert_allclose(moved, [[1, 3, 3]], atol=1e-6)


def test_inverse_and_chain_give_identity():
    transform = about_z("a", "b", 37, (1, -2, 3))
    both = transform @ transform.inverse()
    np.testing.assert_allclose(both.matrix, np.eye(4), atol=1e-12)
    assert (both.dst, both.src) == ("a", "a")


def test_chain_of_wrong_frames_is_refused():
    with pytest.raises(CalibrationError, match="inner frames"):
        about_z("a", "b", 1) @ about_z("c", "d", 1)


@pytest.mark.parametrize(
    "matrix", [np.diag([2.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]), np.full((4, 4), np.nan), np.eye(3)]
)
def test_matrices_that_are_no_rigid_motion_are_refused(matrix):
    with pytest.raises(CalibrationError):
        RigidTransform.from_matrix("a", "b", matrix)


def test_zero_quaternion_is_refused():
    with pytest.raises(CalibrationError, match="quaternion"):
        RigidTransform.from_quaternion("a", "b", np.zeros(4), np.zeros(3))


def test_apply_to_no_points():
    assert about_z("a", "b", 5).apply(np.zeros((0, 3))).shape == (0, 3)


def test_interpolation_is_half_way():
    middle = interpolate(about_z("a", "b", 10), about_z("a", "b", 50, (2, 0, 0)), 0.5)
    np.testing.assert_allclose(middle.matrix, about_z("a", "b", 30, (1, 0, 0)).matrix, atol=1e-9)


def test_tree_finds_the_way_over_branches_and_times():
    tree = TransformTree()
    tree.set_static(about_z("base", "camera", 90, (1, 0, 0)))
    tree.set_static(about_z("base", "lidar", 0, (0, 0, 2)))
    tree.add(about_z("map", "base", 0, (0, 0, 0)), 1000)
    tree.add(about_z("map", "base", 0, (10, 0, 0)), 2000)
    expected = (about_z("base", "camera", 90, (1, 0, 0)).inverse() @ about_z("base", "lidar", 0, (0, 0, 2))).matrix
    np.testing.assert_allclose(tree.lookup("camera", "lidar", 5).matrix, expected, atol=1e-12)
    np.testing.assert_allclose(tree.lookup("map", "base", 1500).translation, (5, 0, 0))
    moved = tree.lookup_between("lidar", 1000, "lidar", 2000, "map")
    np.testing.assert_allclose(moved.translation, (10, 0, 0), atol=1e-12)


@pytest.mark.parametrize("stamp_ns", [999, 2001])
def test_tree_does_not_extrapolate(stamp_ns):
    tree = TransformTree()
    tree.add(about_z("map", "base", 0), 1000)
    tree.add(about_z("map", "base", 0), 2000)
    with pytest.raises(CalibrationError, match="is known for"):
        tree.lookup("map", "base", stamp_ns)


def test_unknown_and_unconnected_frames_are_named():
    tree = TransformTree()
    tree.set_static(about_z("a", "b", 0))
    tree.set_static(about_z("c", "d", 0))
    with pytest.raises(CalibrationError, match=r"no transform a <- d \(known frames: a, b, c, d\)"):
        tree.lookup("a", "d", 1)
    assert tree.lookup("x", "x", 1).src == "x"


def test_loop_is_an_error_and_not_endless():
    tree = TransformTree()
    tree.set_static(about_z("a", "b", 0))
    tree.set_static(about_z("b", "a", 0))
    with pytest.raises(CalibrationError, match="loop"):
        tree.lookup("a", "c", 1)


def test_old_transforms_are_forgotten_and_a_jump_clears_the_moving_ones():
    tree = TransformTree(keep_ns=100)
    tree.set_static(about_z("base", "camera", 0))
    for stamp_ns in range(0, 1000, 10):
        tree.add(about_z("map", "base", 0), stamp_ns)
    with pytest.raises(CalibrationError):
        tree.lookup("map", "base", 800)
    tree.forget_after(950)
    assert tree.lookup("map", "base", 940).dst == "map"
    with pytest.raises(CalibrationError):
        tree.lookup("map", "base", 960)
    tree.forget_after(0)
    assert tree.frames() == ("base", "camera")


def test_transform_of_long_before_starts_the_link_anew():
    tree = TransformTree(keep_ns=100)
    tree.add(about_z("map", "base", 0), 1000)
    tree.add(about_z("map", "base", 90), 5)
    assert tree.lookup("map", "base", 5).rotation[0, 1] == pytest.approx(-1)
    with pytest.raises(CalibrationError):
        tree.lookup("map", "base", 500)
