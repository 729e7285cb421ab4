"""Sparse and completed depth: known places, the published maps, and what may not happen."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.sensing.depth_completion import complete_depth, sparse_depth

LOOK_AHEAD = np.array([[16.0, -20.0, 0, 0], [12.0, 0, -20.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])[None]


def test_points_fall_into_their_cells_and_the_nearest_stays():
    points = np.array([[10.0, 0, 0], [5.0, 0, 0], [20.0, 0, 0], [-5.0, 0, 0], [10.0, 50.0, 0], [np.nan, 0, 0]])
    maps = sparse_depth(points, LOOK_AHEAD, (24, 32), (6, 8))
    assert maps.shape == (1, 6, 8)
    assert np.argwhere(maps[0] > 0).tolist() == [[3, 4]] and maps[0, 3, 4] == 5.0


def test_sparse_depth_equals_that_of_the_slow_way_in_any_order():
    generator = np.random.default_rng(4)
    points = generator.uniform((-5, -9, -9), (30, 9, 9), (3000, 3))
    slow = np.full((6, 8), np.inf)
    for p in points:
        x, y, z = (LOOK_AHEAD[0] @ (*p, 1.0))[:3]
        if z <= 1e-5:
            continue
        column, row = int(np.floor(x / z / 32 * 8)), int(np.floor(y / z / 24 * 6))
        if 0 <= column < 8 and 0 <= row < 6:
            slow[row, column] = min(slow[row, column], z)
    expected = np.where(np.isfinite(slow), slow, 0.0).astype(np.float32)
    for order in (np.arange(3000), generator.permutation(3000)):
        np.testing.assert_array_equal(sparse_depth(points[order], LOOK_AHEAD, (24, 32), (6, 8))[0], expected)


def test_maps_are_completed_each_for_itself():
    maps = np.random.default_rng(5).uniform(1, 80, (3, 24, 36)).astype(np.float32)
    maps[np.random.default_rng(6).random(maps.shape) > 0.1] = 0.0
    before = maps.copy()
    together = complete_depth(maps)
    np.testing.assert_array_equal(maps, before)
    for one, full in zip(maps, together, strict=True):
        np.testing.assert_array_equal(complete_depth(one[None])[0], full)


def test_no_points_and_no_cameras():
    assert (sparse_depth(np.zeros((0, 3)), LOOK_AHEAD, (24, 32), (6, 8)) == 0).all()
    assert (complete_depth(np.zeros((2, 20, 30), np.float32)) == 0).all()
    assert complete_depth(np.zeros((0, 20, 30), np.float32)).shape == (0, 20, 30)


def test_a_sparse_plane_becomes_a_whole_one_below_its_top():
    plane = np.zeros((1, 40, 60), np.float32)
    plane[0, 12::3, ::3] = 20.0
    full = complete_depth(plane)
    assert (full[0, 14:] > 0).all()
    np.testing.assert_allclose(full[0, 14:], 20.0, atol=1e-3)
    assert (full[0, :5] == 0).all(), "nothing is made up above"


def test_a_near_thing_stays_before_a_far_one():
    scene = np.full((1, 40, 60), 40.0, np.float32)
    scene[0, 10:30, 20:40] = 8.0
    full = complete_depth(scene)
    np.testing.assert_allclose(full[0, 14:26, 24:36], 8.0, atol=1e-3)
    np.testing.assert_allclose(full[0, :, :10], 40.0, atol=1e-3)


@pytest.mark.parametrize(
    "bad", [np.full((1, 4, 4), np.nan, np.float32), -np.ones((1, 4, 4), np.float32), np.ones((4, 4))]
)
def test_maps_that_are_none_are_refused(bad):
    with pytest.raises(DataError, match="depth maps"):
        complete_depth(bad)


def test_maps_equal_the_published_ones(shared_dir):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    folder = shared_dir / "parity" / "deepinteraction"
    if not folder.is_dir():
        pytest.skip(f"no DeepInteraction reference data in {folder}")
    maps, geometry = (torch.load(folder / f"{n}.pt", weights_only=True) for n in ("depth_completion", "geometry"))
    sparse = sparse_depth(geometry["points"][:, :3].numpy(), geometry["lidar2img"].numpy(), (112, 200), (28, 50))
    np.testing.assert_allclose(sparse, maps["sparse"].numpy(), atol=1e-4)
    np.testing.assert_allclose(complete_depth(maps["sparse"].numpy()), maps["filled"].numpy(), atol=1e-4)
