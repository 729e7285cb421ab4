"""Varied frames: what is moved together stays together."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.core.detector import VARIANTS
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import count_points_inside
from mm_perception.replay.frame_view import frame_view
from mm_perception.sensing.detector_inputs import DetectorEncoder
from mm_perception.training.detection_samples import (
    USUAL,
    Variation,
    _draw_transform,
    _moved_points,
    _varied_images,
    moved_boxes,
    sample_of,
    truth_of,
)

TINY = VARIANTS["tiny"]


def test_objects_that_no_sensor_sees_are_not_asked_for(frame):
    assert len(truth_of(frame)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_points_stay_in_their_boxes(frame, seed):
    transform = _draw_transform(USUAL, np.random.default_rng(seed))
    truth = moved_boxes(truth_of(frame), transform)
    moved = Detections3D(
        truth.centers.astype(np.float32), (truth.sizes_lwh * 1.001).astype(np.float32),
        truth.yaw_rad.astype(np.float32), truth.velocity.astype(np.float32), np.ones(2, np.float32),
        np.zeros(2, np.int32), ("car",), "lidar", 0,
    )  # fmt: skip
    assert count_points_inside(_moved_points(frame.points, transform)[:, :3], moved).tolist() == [200, 200]
    speed = np.linalg.norm(truth.velocity, axis=1) / np.hypot(3.0, 1.0)
    np.testing.assert_allclose(speed, np.cbrt(abs(np.linalg.det(transform[:3, :3]))), rtol=1e-6)


def test_mirrored_images_keep_what_is_projected_into_them(frame):
    """The left half is bright: a point there stays on the bright half, wherever that is now."""
    point = np.array([10.0, 2.0, 0.0, 1.0])
    mirrored = 0
    for seed in range(6):
        view = _varied_images(frame_view(frame), Variation(mirror=True), np.random.default_rng(seed))
        for image, matrix in zip(view.images, view.lidar2img, strict=True):
            u, v, z = (matrix @ point)[:3]
            assert image[round(v / z), round(u / z)].mean() > 150
            mirrored += image[0, 0].mean() < 100
    assert 6 < mirrored < 30


def test_an_unvaried_sample_is_what_the_pipeline_sees(frame):
    encoder = DetectorEncoder(TINY, (0.5,) * 3, (0.25,) * 3)
    sample = sample_of(frame, encoder, Variation(), np.random.default_rng(0))
    for name, tensor in encoder.encode(frame_view(frame)).tensors.items():
        np.testing.assert_array_equal(sample.tensors[name], tensor)
    assert len(sample.truth) == 2 and sample.places.shape == (6, 2, 2)
    assert np.isfinite(sample.places[0, 0]).all() and np.isnan(sample.places[0, 1]).all(), "one is behind the cameras"


def test_the_same_seed_gives_the_same_sample(frame):
    encoder = DetectorEncoder(TINY, (0.5,) * 3, (0.25,) * 3)
    first, again = (sample_of(frame, encoder, USUAL, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.tensors["points"], again.tensors["points"])
    np.testing.assert_array_equal(first.truth.centers, again.truth.centers)
