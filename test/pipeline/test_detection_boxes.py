"""Outputs of the network to boxes in metres."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.detector import VARIANTS
from mm_perception.core.errors import EngineError
from mm_perception.pipeline.detection_boxes import boxes_of

TINY = VARIANTS["tiny"]
CLASSES = tuple("abcdefghij")


def outputs(count=3):
    """Queries at the middle of the map, of class 2, whose scores fall from 0.9 * 0.5."""
    heat = np.full((1, 10, count), -20.0, np.float32)
    heat[0, 2] = np.log(9.0)
    prior = np.zeros((1, 10, count), np.float32)
    prior[0, 2] = np.linspace(0.3, 0.5, count)
    return {
        "center": np.full((1, 2, count), 52.0, np.float32), "height": np.full((1, 1, count), -1.0, np.float32),
        "dim": np.log(np.tile([[[2.0], [4.0], [1.5]]], (1, 1, count))).astype(np.float32),
        "rot": np.tile([[[-1.0], [0.0]]], (1, 1, count)).astype(np.float32),
        "vel": np.zeros((1, 2, count), np.float32), "heatmap": heat, "prior": prior,
        "labels": np.full((1, count), 2),
    }  # fmt: skip


def test_boxes_are_in_metres_by_their_own_heading_and_ranked():
    boxes = boxes_of(outputs(), TINY, CLASSES, "lidar", 7)
    np.testing.assert_allclose(boxes.centers, np.tile([0.0, 0.0, -1.0], (3, 1)), atol=1e-5)
    np.testing.assert_allclose(boxes.sizes_lwh, np.tile([4.0, 2.0, 1.5], (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(boxes.yaw_rad, 0.0, atol=1e-6)
    np.testing.assert_allclose(boxes.scores, [0.45, 0.36, 0.27], atol=1e-5)
    assert boxes.labels.tolist() == [2, 2, 2] and (boxes.frame_id, boxes.stamp_ns) == ("lidar", 7)


@pytest.mark.parametrize(
    ("name", "value"), [("center", np.nan), ("center", 500.0), ("vel", np.inf), ("height", np.nan), ("heatmap", -20.0)]
)
def test_boxes_that_are_no_answer_are_left_out(name, value):
    wrong = outputs()
    wrong[name][0, :, 1] = value
    assert len(boxes_of(wrong, TINY, CLASSES, "lidar", 0)) == 2


@pytest.mark.parametrize("strange", [2**31 - 1, len(CLASSES), -1])
def test_labels_of_no_class_are_refused(strange):
    wrong = outputs()
    wrong["labels"][0, 1] = strange
    with pytest.raises(EngineError, match=rf"expected 0 to 9.* got {strange} \(1 of 3 queries"):
        boxes_of(wrong, TINY, CLASSES, "lidar", 0)


def test_no_box_is_likely():
    assert len(boxes_of(outputs(), TINY, CLASSES, "lidar", 0, min_score=0.9)) == 0
