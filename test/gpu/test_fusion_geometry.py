"""Places in both planes on a device against those of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.sensing import fusion_geometry as host
from mm_perception.sensing.fusion_geometry import FusionGrid

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu import fusion_geometry as there  # noqa: E402
from mm_perception.gpu.transfer import upload  # noqa: E402

GRID = FusionGrid((-52.0, -52.0, -5.0, 52.0, 52.0, 3.0), (52, 48), (256, 448), stride=8, radii=20, heights=4)


def assert_places(got, expected):
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu().numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("views_per_point", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_keys_are_those_of_the_host(device, lidar2img, augmentation, count, views_per_point, moves):
    generator = np.random.default_rng(count)
    points = generator.uniform(-50, 50, (count, 8, 3)).astype(np.float32)
    points[..., 2] /= 20
    present = generator.random((count, 8)) < 0.7
    back = np.linalg.inv(augmentation) if moves else None
    cameras = np.concatenate([lidar2img, lidar2img[:2]])  # two of them see everything twice
    expected = host.point_keys(points, present, cameras, GRID, views_per_point, back)
    got = there.point_keys(
        upload(points, device), upload(present, device), upload(cameras, device), GRID, views_per_point,
        None if back is None else upload(back, device),
    )  # fmt: skip
    np.testing.assert_array_equal(got.valid.cpu().numpy(), expected.valid)
    assert_places(got.grid, expected.grid)
    assert int(got.lost) == expected.lost
    assert count < 300 or expected.lost > 0 or views_per_point > 2


@pytest.mark.parametrize("moves", [False, True])
def test_depth_takes_image_cells_where_the_host_puts_them(device, lidar2img, augmentation, moves):
    depth = np.random.default_rng(0).uniform(0, 70, (6, *GRID.map_size)).astype(np.float32)
    depth[:, :5] = 0.0
    forward = augmentation if moves else None
    grid, inside = host.warp_map(depth, np.linalg.inv(lidar2img), GRID, forward)
    got_grid, got_inside = there.warp_map(
        upload(depth, device), upload(np.linalg.inv(lidar2img), device), GRID,
        None if forward is None else upload(forward, device),
    )  # fmt: skip
    assert_places(got_grid, grid)
    np.testing.assert_array_equal(got_inside.cpu().numpy(), inside)
    assert 0 < inside.mean() < 1


@pytest.mark.parametrize("moves", [False, True])
def test_polar_maps_are_those_of_the_host(device, lidar2img, augmentation, moves):
    forward = augmentation if moves else None
    expected = host.polar_maps(lidar2img, np.linalg.inv(lidar2img), GRID, forward)
    matrices = (None, None) if forward is None else (upload(m, device) for m in (forward, np.linalg.inv(forward)))
    got = there.polar_maps(upload(lidar2img, device), upload(np.linalg.inv(lidar2img), device), GRID, *matrices)
    assert_places(got.rays, expected.rays)
    assert_places(got.back, expected.back)
    np.testing.assert_array_equal(got.seen.cpu().numpy(), expected.seen)
    assert 0 < expected.seen.mean() < 1
