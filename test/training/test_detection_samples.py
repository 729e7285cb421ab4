"""Varied frames: what is moved together stays together."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.core.detector import VARIANTS
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import count_points_inside
from mm_perception.pipeline.detection_inputs import DetectorEncoder
from mm_perception.sim.detection_frames import DetectionFrame, _jpeg
from mm_perception.training.detection_samples import (
    USUAL,
    Variation,
    _draw_transform,
    _moved_points,
    _varied_images,
    moved_boxes,
    sample_of,
    truth_of,
    view_of,
)

TINY = VARIANTS["tiny"]


@pytest.fixture
def frame():
    """Two cars full of points, before one camera and behind it; one that nothing sees."""
    generator = np.random.default_rng(0)
    centers = np.array([[12.0, 3.0, 0.0], [-15.0, -6.0, 0.2], [30.0, 30.0, 0.0]], np.float32)
    sizes, yaw = np.tile([4.4, 1.8, 1.5], (3, 1)).astype(np.float32), np.array([0.4, -2.0, 0.0], np.float32)
    local = generator.uniform(-0.5, 0.5, (2, 200, 3)) * sizes[:2, None]
    cos, sin = np.cos(yaw[:2, None]), np.sin(yaw[:2, None])
    xy = np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], axis=-1)
    xyz = np.concatenate([xy, local[..., 2:]], axis=-1) + centers[:2, None]
    points = np.c_[xyz.reshape(-1, 3), np.full((400, 2), 0.1)].astype(np.float32)
    picture = np.zeros((256, 448, 3), np.uint8)
    picture[:, :224] = 200
    ahead = np.array([[224.0, -355, 0, 0], [128.0, 0, -355, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    boxes = Detections3D(
        centers, sizes, yaw, np.tile([[3.0, 1.0]], (3, 1)).astype(np.float32), np.ones(3, np.float32),
        np.zeros(3, np.int32), ("car",), "lidar", 0,
    )  # fmt: skip
    return DetectionFrame(
        (_jpeg(picture),) * 6, np.stack([ahead] * 6), points, boxes, np.array([200, 200, 0]),
        np.array([1.0, 0.0, 0.1], np.float32), "day", 1,
    )  # fmt: skip


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
        view = _varied_images(view_of(frame), Variation(mirror=True), np.random.default_rng(seed))
        for image, matrix in zip(view.images, view.lidar2img, strict=True):
            u, v, z = (matrix @ point)[:3]
            assert image[round(v / z), round(u / z)].mean() > 150
            mirrored += image[0, 0].mean() < 100
    assert 6 < mirrored < 30


def test_an_unvaried_sample_is_what_the_pipeline_sees(frame):
    encoder = DetectorEncoder(TINY, (0.5,) * 3, (0.25,) * 3)
    sample = sample_of(frame, encoder, Variation(), np.random.default_rng(0))
    for name, tensor in encoder.encode(view_of(frame)).tensors.items():
        np.testing.assert_array_equal(sample.tensors[name], tensor)
    assert len(sample.truth) == 2 and sample.places.shape == (6, 2, 2)
    assert np.isfinite(sample.places[0, 0]).all() and np.isnan(sample.places[0, 1]).all(), "one is behind the cameras"


def test_the_same_seed_gives_the_same_sample(frame):
    encoder = DetectorEncoder(TINY, (0.5,) * 3, (0.25,) * 3)
    first, again = (sample_of(frame, encoder, USUAL, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.tensors["points"], again.tensors["points"])
    np.testing.assert_array_equal(first.truth.centers, again.truth.centers)
