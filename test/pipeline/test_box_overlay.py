"""Pictures of boxes: lines lie where geometry says, and nothing is drawn of what no camera sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import box_corners
from mm_perception.pipeline.box_overlay import detection_colors, draw_birds_eye, draw_boxes, white_for

CLASSES = ("car", "pedestrian")
RED_GREEN = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
BLACK = np.zeros((200, 300, 3), np.uint8)
# x ahead, y left, z up to pixels of a camera at the origin that looks ahead: focal length 100 px, middle (150, 100).
AHEAD = np.array([[150.0, -100, 0, 0], [100.0, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def boxes(*places, size=(4.0, 2.0, 1.5), yaw=0.0, label=0):
    n = len(places)
    return Detections3D(
        np.array(places, np.float32).reshape(n, 3), np.tile(size, (n, 1)).astype(np.float32).reshape(n, 3),
        np.full(n, yaw, np.float32), np.zeros((n, 2), np.float32), np.full(n, 0.5, np.float32),
        np.full(n, label, np.int32), CLASSES, "lidar", 0,
    )  # fmt: skip


def test_edges_run_between_projected_corners():
    one = boxes((10.0, 1.0, 0.0), yaw=0.3)
    picture = draw_boxes(BLACK, one, AHEAD, RED_GREEN, thickness=1, scores=False)
    corners = box_corners(one.centers, one.sizes_lwh, one.yaw_rad)[0]
    for a, b in ((0, 1), (4, 7), (2, 6)):
        for share in (0.0, 0.3, 1.0):
            x, y, z = corners[a] + share * (corners[b] - corners[a])
            column, row = round(150 - 100 * y / x), round(100 - 100 * z / x)
            assert picture[row - 1 : row + 2, column - 1 : column + 2, 0].max() > 100
    drawn = np.nonzero(picture.any(axis=2))
    u, v = 150 - 100 * corners[:, 1] / corners[:, 0], 100 - 100 * corners[:, 2] / corners[:, 0]
    assert (drawn[1].min(), drawn[1].max()) == pytest.approx((u.min(), u.max()), abs=2)
    assert (drawn[0].min(), drawn[0].max()) == pytest.approx((v.min(), v.max()), abs=2)
    assert not picture[..., 1:].any() and not BLACK.any(), "in the class's colour, on a copy"


@pytest.mark.parametrize("place", [(-10.0, 0.0, 0.0), (-2.05, 0.0, 0.0), (10.0, 80.0, 0.0), (3.0, 0.0, 90.0)])
def test_boxes_behind_or_beside_the_image_draw_nothing(place):
    np.testing.assert_array_equal(draw_boxes(BLACK, boxes(place), AHEAD, RED_GREEN), BLACK)


def test_a_box_through_the_camera_is_cut_at_its_plane():
    """The camera stands inside: edges of the far end show, and none comes back mirrored from behind."""
    picture = draw_boxes(BLACK, boxes((3.0, 0.0, 0.0), size=(10.0, 2.0, 1.5)), AHEAD, RED_GREEN, scores=False)
    lit = picture[..., 0] > 100
    far = 100 / 8
    assert lit[round(100 - 0.75 * far), 150], "upper edge of the far end, 8 m ahead"
    assert lit[round(100 - 0.75 * 100 / 2), round(150 - 100 / 2)], "the upper left edge, where it is 2 m ahead"
    inside = np.s_[round(100 - 0.75 * far) + 3 : round(100 + 0.75 * far) - 3, round(150 - far) + 3 : 147]
    assert not lit[inside].any(), "nothing within the far end"


def test_near_boxes_lie_over_far_ones_and_scores_are_written():
    two = replace(boxes((8.0, 0.0, 0.0), (16.0, 0.0, 0.0)), labels=np.array([0, 1], np.int32))
    plain = draw_boxes(BLACK, two, AHEAD, RED_GREEN, scores=False)
    swapped = replace(boxes((16.0, 0.0, 0.0), (8.0, 0.0, 0.0)), labels=np.array([1, 0], np.int32))
    np.testing.assert_array_equal(plain, draw_boxes(BLACK, swapped, AHEAD, RED_GREEN, scores=False))
    assert (draw_boxes(BLACK, two, AHEAD, RED_GREEN) != plain).any()


def test_from_above_ahead_is_up_and_left_is_left():
    picture = draw_birds_eye(np.zeros((0, 3)), boxes((20.0, 10.0, 0.0)), RED_GREEN, 200, 40.0)
    rows, columns = np.nonzero((picture[..., 0] > 180) & (picture[..., 1] < 100))
    assert rows.mean() == pytest.approx(99.5 - 20 * 2.5, abs=2) and columns.mean() == pytest.approx(74.5, abs=2)
    assert np.ptp(rows) == pytest.approx(4 * 2.5, abs=2) and np.ptp(columns) == pytest.approx(2 * 2.5, abs=2)


def test_from_above_shows_points_truth_and_what_lies_outside_not():
    points = np.array([[30.0, -20.0, 1.0, 9.0], [500.0, 0, 0, 0], [np.nan, 0, 0, 0], [-40.1, 0, 0, 0]])
    empty = draw_birds_eye(np.zeros((0, 3)), boxes(), RED_GREEN, 200, 40.0)
    shown = draw_birds_eye(points, boxes(), RED_GREEN, 200, 40.0, boxes((10.0, 0.0, 0.0), (90.0, 0.0, 0.0)))
    changed = (shown != empty).any(axis=2)
    assert changed[round(99.5 - 30 * 2.5), round(99.5 + 20 * 2.5)]
    white = (shown > 150).all(axis=2) & (empty < 150).all(axis=2)
    white[round(99.5 - 30 * 2.5), round(99.5 + 20 * 2.5)] = False
    rows, columns = np.nonzero(white)
    assert rows.mean() == pytest.approx(99.5 - 25, abs=2) and columns.mean() == pytest.approx(99.5, abs=2)
    assert changed.sum() < 2 * white.sum() + 60, "one point, one box and its softened edges"


def test_each_class_has_its_own_bright_colour():
    colors = detection_colors(tuple("abcdefghij"))
    assert colors.shape == (10, 3) and colors.dtype == np.uint8
    apart = np.abs(colors[:, None].astype(int) - colors[None].astype(int)).sum(axis=-1) + 1000 * np.eye(10)
    assert apart.min() > 60 and colors.max(axis=1).min() == 255
    assert detection_colors(()).shape == (0, 3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_boxes(BLACK, boxes(), AHEAD[:3], RED_GREEN),
        lambda: draw_boxes(BLACK, boxes(), AHEAD, RED_GREEN[:1]),
        lambda: draw_birds_eye(np.zeros((0, 3)), boxes(), RED_GREEN[:1], 10, 1.0),
        lambda: draw_birds_eye(np.zeros((0, 3)), boxes(), RED_GREEN, 0, 1.0),
        lambda: draw_birds_eye(np.zeros((0, 3)), boxes(), RED_GREEN, 10, float("nan")),
    ],
)
def test_impossible_input_is_refused(draw):
    with pytest.raises(DataError, match="expected"):
        draw()


def test_no_boxes_draw_nothing():
    np.testing.assert_array_equal(draw_boxes(BLACK, boxes(), AHEAD, white_for(boxes())), BLACK)
