"""Cells on a device against those of numpy: the same order, the same capacities, the same losses."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.sensing import pillars as host
from mm_perception.sensing.pillars import CellGrid

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.cells import cell_index, decorated, gather_cells  # noqa: E402
from mm_perception.gpu.transfer import upload  # noqa: E402

PILLARS = CellGrid((-4.0, -3.0, -1.0, 4.0, 3.0, 1.0), (1.0, 0.5, 2.0), 3, 20)
ROOMY = CellGrid((-4.0, -3.0, -1.0, 4.0, 3.0, 1.0), (1.0, 0.5, 2.0), 200, 300)
VOXELS = CellGrid((-4.0, -3.0, -1.0, 4.0, 3.0, 1.0), (1.0, 0.5, 0.4), 2, 100)


def random_points(count, features=5):
    return np.random.default_rng(count).uniform(-5, 5, (count, features)).astype(np.float32)


def assert_same(points, grid, device):
    got, expected = gather_cells(upload(points, device), grid), host.gather_cells(points, grid)
    for name in ("points", "number", "places"):
        value = getattr(got, name).cpu().numpy()
        np.testing.assert_array_equal(value, host.padded(getattr(expected, name), grid.max_cells), name)
    assert got.lost.tolist() == [expected.out_of_range, expected.over_points, expected.over_cells]
    np.testing.assert_array_equal(got.present.cpu().numpy(), host.padded(expected.present, grid.max_cells))
    return got, expected


@pytest.mark.parametrize("grid", [PILLARS, ROOMY, VOXELS])
@pytest.mark.parametrize("count", [0, 1, 40, 6000])
def test_cells_are_those_of_the_host(device, count, grid):
    got, expected = assert_same(random_points(count), grid, device)
    if count == 6000 and grid is PILLARS:
        assert min(got.lost.tolist()) > 0, "the example loses points in each way"
    assert len(expected) <= grid.max_cells


def test_tables_of_three_columns_and_points_that_are_not_finite(device):
    assert_same(random_points(100, 3), PILLARS, device)
    points = random_points(30)
    points[::3, 1], points[1::7, 0], points[5, 2] = np.nan, np.inf, -np.inf
    assert_same(points, PILLARS, device)
    assert_same(np.full((7, 5), np.nan, np.float32), PILLARS, device)
    assert_same(np.full((7, 5), 1e30, np.float32), PILLARS, device)


def test_points_on_borders_of_cells(device):
    steps = np.arange(-4, 4.5, 0.5, np.float32)
    x, y = np.meshgrid(steps, steps)
    assert_same(np.stack([x.ravel(), y.ravel(), np.zeros(x.size, np.float32)], axis=1), ROOMY, device)


def test_one_crowded_cell(device):
    got, _ = assert_same(np.full((500, 5), 0.3, np.float32), PILLARS, device)
    assert got.lost.tolist() == [0, 497, 0] and got.number.tolist() == [3] + [0] * 19


@pytest.mark.parametrize("count", [0, 40, 6000])
def test_decoration_is_that_of_the_host(device, count):
    points = random_points(count)
    got = decorated(gather_cells(upload(points, device), PILLARS), PILLARS).cpu().numpy()
    expected = host.padded(host.decorated(host.gather_cells(points, PILLARS), PILLARS), PILLARS.max_cells)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(got == 0, expected == 0)


@pytest.mark.parametrize("count", [0, 40, 6000])
def test_indices_are_those_of_the_host(device, count):
    points = random_points(count)
    got = cell_index(gather_cells(upload(points, device), PILLARS), (12, 8))
    expected = host.cell_index(host.gather_cells(points, PILLARS), (12, 8), PILLARS.max_cells)
    for there, here in zip(got, expected, strict=True):
        assert there.dtype == torch.int64
        np.testing.assert_array_equal(there.cpu().numpy(), here)
