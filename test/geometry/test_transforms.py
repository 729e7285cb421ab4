from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_perception.core.errors import CalibrationError
from mm_perception.geometry import transform_tree
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import (
    RigidTransform,
    angle_between,
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


@pytest.mark.parametrize("static", [True, False])
def test_a_loop_is_refused_by_name_and_what_was_known_stays(static):
    tree = TransformTree()
    store = tree.set_static if static else lambda transform: tree.add(transform, 7)
    for dst, src in (("map", "odom"), ("odom", "base"), ("base", "mast")):
        store(about_z(dst, src, 10))
    for dst, src in (("mast", "map"), ("base", "map")):
        with pytest.raises(CalibrationError, match=rf"{dst} <- {src} would close a loop \({src} <- .*{dst} is known"):
            store(about_z(dst, src, 0))
    assert tree.lookup("map", "mast", 7).rotation[0, 0] == pytest.approx(np.cos(np.radians(30)))


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


# What a broken sender must not do

S = 1_000_000_000


def moving(tree: TransformTree, first_s: float, last_s: float, step_s: float = 0.1) -> None:
    """The base at 1 m/s along x, in `map`."""
    for t in np.arange(first_s, last_s + step_s / 2, step_s):
        tree.add(RigidTransform("map", "base", np.eye(3), np.array([t, 0.0, 0.0])), round(t * S))


def at(tree: TransformTree, t: float) -> float:
    return float(tree.lookup("map", "base", round(t * S)).translation[0])


WRONG = RigidTransform("map", "base", np.eye(3), np.array([-1e4, 0.0, 0.0]))


@pytest.mark.parametrize("ahead_s", [1.5, 5.0, 9.0, 3600.0, 1e9])
@pytest.mark.parametrize("count", [1, 2])
def test_stamps_far_ahead_are_not_used_and_push_nothing_out(ahead_s, count):
    tree = TransformTree()
    moving(tree, 100, 108)
    for k in range(count):
        tree.add(WRONG, round((108 + ahead_s + 0.01 * k) * S))
    with pytest.raises(CalibrationError, match="is known for"):
        at(tree, 108.05)
    assert at(tree, 100.05) == pytest.approx(100.05)
    moving(tree, 108.1, 108.1 + ahead_s if ahead_s < 60 else 112)
    assert at(tree, 107.95) == pytest.approx(107.95) and at(tree, 108.07) == pytest.approx(108.07)
    if ahead_s < 60:
        assert at(tree, 108 + ahead_s - 0.05) == pytest.approx(108 + ahead_s - 0.05), "it is forgotten when time comes"


def test_a_wrong_stamp_at_the_start_is_forgotten():
    tree = TransformTree()
    tree.add(WRONG, 105 * S)
    moving(tree, 100, 106)
    assert [at(tree, t) for t in (100.05, 104.95, 105.05)] == pytest.approx([100.05, 104.95, 105.05])


def test_wrong_stamps_among_right_ones_are_never_believed():
    tree = TransformTree()
    for k in range(100):
        t = 100 + 0.1 * k
        moving(tree, t, t)
        tree.add(WRONG, round((t + 4) * S))
    assert at(tree, 105.05) == pytest.approx(105.05) and at(tree, 109.85) == pytest.approx(109.85)


def test_a_jump_of_time_is_believed_after_some_samples():
    tree = TransformTree()
    moving(tree, 100, 101)
    moving(tree, 500, 501)
    assert at(tree, 500.05) == pytest.approx(500.05)
    with pytest.raises(CalibrationError, match="is known for"):
        at(tree, 100.5)


def test_gaps_are_not_interpolated_over_and_named():
    tree = TransformTree()
    moving(tree, 100, 102)
    moving(tree, 104.5, 106)
    with pytest.raises(CalibrationError, match=r"a gap of 2\.5 s, expected at most 1 s"):
        at(tree, 103)
    moving(tree, 200, 202, 1.0)
    assert at(tree, 201.5) == pytest.approx(201.5)


def test_slow_links_are_known_at_their_stamps():
    tree = TransformTree(keep_ns=100 * S)
    for k in range(8):
        moving(tree, 100 + 3 * k, 100 + 3 * k)
        assert at(tree, 100 + 3 * k) == 100 + 3 * k


def test_frames_are_bounded_and_known_ones_still_updated():
    tree = TransformTree()
    moving(tree, 100, 101)
    tree.set_static(about_z("base", "camera", 90))
    for k in range(transform_tree.MOST_FRAMES - 2):
        (tree.set_static if k % 2 else lambda t: tree.add(t, 1))(about_z("base", f"junk{k}", 0))  # type: ignore[operator]
    for refuse in (tree.set_static, lambda t: tree.add(t, 5)):
        with pytest.raises(CalibrationError, match="transform base <- one_more: refused, 1000 frames"):
            refuse(about_z("base", "one_more", 0))
    moving(tree, 101.1, 102)
    tree.set_static(about_z("base", "camera", 45))
    assert at(tree, 101.95) == pytest.approx(101.95)
    assert len(tree.frames()) <= transform_tree.MOST_FRAMES + 1


def test_long_names_are_refused():
    tree = TransformTree()
    for dst, src in (("a" * 10_000, "b"), ("a", "b" * 300)):
        with pytest.raises(CalibrationError, match="at most 256 letters") as error:
            tree.add(about_z(dst, src, 0), 1)
        assert len(str(error.value)) < 300
    assert tree.frames() == ()


def test_samples_are_bounded_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(transform_tree, "MOST_SAMPLES", 50)
    monkeypatch.setattr(transform_tree, "MOST_IN_ALL", 120)
    tree = TransformTree()
    frames = [f"child{k}" for k in range(10)]
    for k in range(200):
        for frame in frames:
            tree.add(about_z("map", frame, k), k)
    assert sum(len(edge.stamps_ns) for edge in tree._edges.values()) <= 120 + 2 * len(frames)
    assert tree.lookup("map", "child0", 199).src == "child0" and tree.lookup("map", "child0", 190).src == "child0"
    assert tree.lookup("map", "child9", 199).src == "child9"


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=40))
def test_any_order_of_stamps_keeps_the_samples_sorted(steps):
    tree = TransformTree()
    t_ns = 100 * S
    for step in steps:
        t_ns += step * S // 4
        tree.add(RigidTransform("map", "base", np.eye(3), np.array([t_ns / S, 0.0, 0.0])), t_ns)
    edge = tree._edges["base"]
    assert edge.stamps_ns == sorted(set(edge.stamps_ns)) and len(edge.stamps_ns) == len(edge.transforms)
    assert at(tree, t_ns / S) == pytest.approx(t_ns / S)


# Senders that contradict each other


def test_a_static_transform_is_not_displaced_by_the_same_one_on_tf():
    """As ROS 1's static_transform_publisher, or a relay, sends it at 10 Hz; after rounding, too."""
    tree = TransformTree()
    tree.set_static(about_z("mast", "flir", 30, (0.1, 0.2, 0.3)))
    for k in range(5):
        tree.add(about_z("mast", "flir", 30.05, (0.1001, 0.2, 0.3)), 100 * S + k * S // 10)
    for stamp_ns in (1, 100 * S, 500 * S):
        np.testing.assert_array_equal(tree.lookup("mast", "flir", stamp_ns).translation, (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("degrees", "x", "text"), [(30, 0.5, r"0\.400 m and 0\.0 deg"), (75, 0.1, r"0\.000 m and 45\.0")]
)
def test_a_static_transform_that_moves_on_tf_is_named_and_used(degrees, x, text):
    tree = TransformTree()
    tree.set_static(about_z("mast", "flir", 30, (0.1, 0, 0)))
    with pytest.raises(CalibrationError, match=rf"mast <- flir is static, and /tf has it elsewhere \(by {text}"):
        tree.add(about_z("mast", "flir", degrees, (x, 0, 0)), S)
    assert tree.lookup("mast", "flir", S).translation[0] == 0.1


def test_a_static_transform_comes_after_the_moving_one_and_may_be_sent_anew():
    tree = TransformTree()
    tree.add(about_z("mast", "flir", 0), S)
    tree.set_static(about_z("mast", "flir", 0, (1, 0, 0)))
    tree.set_static(about_z("mast", "flir", 0, (2, 0, 0)))
    assert tree.lookup("mast", "flir", 99 * S).translation[0] == 2


@pytest.mark.parametrize("first_static", [True, False])
@pytest.mark.parametrize("second_static", [True, False])
def test_a_child_with_two_parents_is_named_with_both_and_static_wins(first_static, second_static):
    tree = TransformTree()
    sent = ((first_static, "chassis"), (second_static, "mast"))

    def store(static: bool, parent: str) -> None:
        one = about_z(parent, "flir", 0)
        tree.set_static(one) if static else tree.add(one, S)

    store(*sent[0])
    if second_static and not first_static:
        store(*sent[1])
        sent = sent[::-1]
    with pytest.raises(CalibrationError, match=r"frame flir has two parents, (chassis and mast|mast and chassis)"):
        store(*sent[1])
    assert tree.lookup(sent[0][1], "flir", S).src == "flir"
    with pytest.raises(CalibrationError, match="no transform"):
        tree.lookup(sent[1][1], "flir", S)


def test_two_senders_in_turn_do_not_displace_each_other():
    """The odometry's odom <- base at 50 Hz, and a localisation that says map <- base at 10 Hz."""
    tree, refused = TransformTree(), 0
    for k in range(500):
        t_ns = 100 * S + k * S // 50
        tree.add(RigidTransform("odom", "base", np.eye(3), np.array([k / 50, 0, 0])), t_ns)
        if k % 5 == 0:
            with pytest.raises(CalibrationError, match="base has two parents, odom and map"):
                tree.add(about_z("map", "base", 0), t_ns)
            refused += 1
    assert refused == 100 and tree.lookup("odom", "base", 105 * S).translation[0] == pytest.approx(5)


def test_a_frame_hangs_on_another_parent_once_the_first_has_ended():
    """A gripper takes a box; one wrong stamp is no reason."""
    tree = TransformTree()
    for k in range(10):
        tree.add(about_z("table", "box", 0), 100 * S + k * S // 10)
    with pytest.raises(CalibrationError, match="two parents"):
        tree.add(about_z("hand", "box", 0), 10**18)
    tree.add(about_z("table", "box", 0), 101 * S)
    taken = []
    for k in range(30):
        try:
            tree.add(about_z("hand", "box", k), 101 * S + k * S // 10)
            taken.append(k)
        except CalibrationError as error:
            assert "two parents" in str(error)
    assert taken == list(range(11, 30))
    assert tree.lookup("hand", "box", 103 * S).src == "box"


def test_frames_without_a_name_are_no_common_frame():
    tree = TransformTree()
    for dst, src in (("", ""), ("cam", ""), ("", "lidar")):
        with pytest.raises(CalibrationError, match="name no frame: set frame_id of the sensor in the rig"):
            tree.lookup(dst, src, 1)


@pytest.mark.parametrize("degrees", [0.0, 1e-4, 3.0, 90.0, 179.9, -45.0])
def test_angle_between_is_that_of_the_turn(degrees):
    a = about_z("a", "b", 20)
    assert angle_between(a, about_z("a", "b", 20 + degrees)) == pytest.approx(np.radians(abs(degrees)), abs=1e-9)
