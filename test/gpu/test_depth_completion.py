"""Sparse and completed depth on a device against those of numpy and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.sensing import depth_completion as host

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.depth_completion import complete_depth, sparse_depth  # noqa: E402
from mm_perception.gpu.transfer import upload  # noqa: E402

IMAGE, MAP = (256, 448), (32, 56)


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_sparse_depth_is_that_of_the_host(device, lidar2img, points_of, count):
    points = points_of(count)[:, :3].astype(np.float64)
    points[3::50, 1], points[4::50, 2], points[5::50, 0] = np.nan, np.inf, 1e30
    expected = host.sparse_depth(points, lidar2img, IMAGE, MAP)
    got = sparse_depth(upload(points, device), upload(lidar2img, device), IMAGE, MAP)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu().numpy(), expected, rtol=1e-6)
    assert count < 20_000 or (expected > 0).mean() > 0.1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.6, 1.0])
def test_completed_depth_is_that_of_the_host(device, share):
    """Exactly, but for the last filter, whose exponentials OpenCV takes to fewer digits."""
    generator = np.random.default_rng(round(share * 100))
    maps = generator.uniform(0.2, 99, (3, 40, 60)).astype(np.float32)
    maps[1] = 20 + np.linspace(0, 30, 40)[:, None]
    maps[2] = generator.choice([5.0, 15.0, 30.0, 90.0], (40, 60))
    maps[generator.random(maps.shape) >= share] = 0.0
    got = complete_depth(upload(maps, device)).cpu().numpy()
    expected = host.complete_depth(maps)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    np.testing.assert_array_equal(got == 0, expected == 0)


def test_no_view_and_the_smallest_maps(device):
    assert complete_depth(torch.zeros((0, 20, 30), device=device)).shape == (0, 20, 30)
    small = np.random.default_rng(0).uniform(1, 50, (2, 3, 4)).astype(np.float32)
    got = complete_depth(upload(small, device)).cpu().numpy()
    np.testing.assert_allclose(got, host.complete_depth(small), atol=1e-4)


def test_maps_from_a_street_are_completed_as_on_the_host(device, lidar2img, points_of):
    sparse = host.sparse_depth(points_of(8000)[:, :3], lidar2img, IMAGE, MAP)
    got = complete_depth(upload(sparse, device)).cpu().numpy()
    np.testing.assert_allclose(got, host.complete_depth(sparse), atol=1e-4)
