"""Frames for detection: boxes, points and images of one world at one time."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.geometry.boxes import count_points_inside
from mm_perception.sim.detection_frames import (
    CAMERAS,
    SWEEPS,
    cached_detection_frames,
    load_detection_frame,
    make_detection_frames,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames")
    cached_detection_frames(path, "held-out", 2, 1)
    return path


@pytest.fixture
def frame(folder):
    return load_detection_frame(cached_detection_frames(folder, "held-out", 2, 1)[0])


def test_frames_are_made_once_and_the_same_wherever(folder, frame):
    again = next(iter(make_detection_frames("held-out", 2, 1, workers=1)))
    np.testing.assert_array_equal(again.points, frame.points)
    np.testing.assert_array_equal(again.boxes.centers, frame.boxes.centers)
    assert all((a == b).all() for a, b in zip(again.images(), frame.images(), strict=True))


def test_turns_have_ages_and_the_newest_is_counted_in_its_boxes(frame):
    ages = frame.points[:, 4]
    assert 0 <= ages.min() and SWEEPS * 0.1 - 0.01 < ages.max() <= SWEEPS * 0.1 + 1e-6
    newest = frame.points[ages <= 0.1 + 1e-6, :3]
    inside = count_points_inside(newest, frame.boxes)
    many = frame.lidar_points > 20
    assert many.any(), "the example has objects in sight"
    assert np.corrcoef(inside[many], frame.lidar_points[many])[0, 1] > 0.9


def test_objects_that_are_seen_lie_in_the_image_that_looks_there(frame):
    assert len(frame.images()) == len(CAMERAS) and frame.images()[0].shape == (256, 448, 3)
    seen = frame.visibility > 0.5
    centers = np.c_[frame.boxes.centers[seen], np.ones(seen.sum())]
    image = np.einsum("vij,nj->vni", frame.lidar2img, centers)
    uv = image[..., :2] / np.maximum(image[..., 2:3], 1e-6)
    within = (image[..., 2] > 0) & (uv > -30).all(axis=-1) & (uv < (478, 286)).all(axis=-1)
    assert seen.any() and within.any(axis=0).all()


def test_damaged_frames_are_named(folder):
    path = next(folder.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="remove it"):
        load_detection_frame(path)
