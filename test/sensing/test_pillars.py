"""Cells against a slow reference, the published cells, and counts of what is lost."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.sensing.pillars import CellGrid, cell_index, decorated, gather_cells, means, padded

GRID = CellGrid((-4.0, -3.0, -1.0, 4.0, 3.0, 1.0), (1.0, 0.5, 2.0), 3, 20)


def slow_cells(points, grid):
    """Point by point, as the text says it."""
    cells: dict[tuple[int, int, int], list[np.ndarray]] = {}
    lost = [0, 0, 0]
    for p in points:
        place = np.floor((p[:3] - np.float32(grid.range_m[:3])) / np.float32(grid.size_m))
        if not np.isfinite(place).all() or (place < 0).any() or (place >= grid.shape[::-1]).any():
            lost[0] += 1
            continue
        key = tuple(place[::-1].astype(int))
        if key not in cells and len(cells) == grid.max_cells:
            lost[2] += 1
        elif len(cells.setdefault(key, [])) == grid.max_points:
            lost[1] += 1
        else:
            cells[key].append(p)
    return cells, lost


@pytest.mark.parametrize("count", [0, 1, 40, 6000])
def test_cells_equal_those_of_the_slow_way(count):
    points = np.random.default_rng(count).uniform(-5, 5, (count, 5)).astype(np.float32)
    got, (expected, lost) = gather_cells(points, GRID), slow_cells(points, GRID)
    assert [tuple(p) for p in got.places] == list(expected)
    assert (got.out_of_range, got.over_points, got.over_cells) == tuple(lost)
    for i, rows in enumerate(expected.values()):
        assert got.number[i] == len(rows)
        np.testing.assert_array_equal(got.points[i, : len(rows)], rows)
        assert (got.points[i, len(rows) :] == 0).all()
    if count == 6000:
        assert min(lost) > 0, "the example loses points in each way"


def test_points_that_are_not_finite_are_lost_and_counted():
    points = np.full((3, 5), np.nan, np.float32)
    points[1] = np.inf
    points[2] = 0.0
    got = gather_cells(points, GRID)
    assert len(got) == 1 and got.out_of_range == 2


def test_decoration_is_relative_to_mean_and_middle_and_zero_in_padding():
    points = np.array([[0.2, 0.1, 0, 9, 1], [0.6, 0.3, 0.4, 7, 2]], np.float32)
    cells = gather_cells(points, GRID)
    out = decorated(cells, GRID)
    assert out.shape == (1, 3, 10)
    np.testing.assert_allclose(means(cells)[0], [0.4, 0.2, 0.2, 8, 1.5], atol=1e-6)
    np.testing.assert_allclose(out[0, 0, 5:], [-0.2, -0.1, -0.2, -0.3, -0.15], atol=1e-6)
    assert (out[0, 2] == 0).all()


def test_pillars_and_cells_refer_to_each_other():
    points = np.array([[3.5, 2.9, 0], [-3.5, -2.9, 0]], np.float32)
    cells = gather_cells(points, GRID)
    cell_of, pillar_in = cell_index(cells, (12, 8), 5)
    assert cell_of.tolist() == [95, 0, 0, 0, 0]
    assert pillar_in[95] == 0 and pillar_in[0] == 1 and (np.delete(pillar_in, [0, 95]) == 5).all()
    assert padded(cells.number, 4).tolist() == [1, 1, 0, 0]


def test_wrong_grids_and_tables_are_refused():
    with pytest.raises(ConfigError, match="rising"):
        CellGrid((0.0, 0, 0, 0, 1, 1), (1.0, 1, 1), 1, 1)
    with pytest.raises(ConfigError, match="capacity"):
        CellGrid((0.0, 0, 0, 1, 1, 1), (1.0, 1, 1), 0, 1)
    with pytest.raises(DataError, match="expected"):
        gather_cells(np.zeros((4, 2), np.float32), GRID)


def test_pillars_equal_the_published_ones(shared_dir):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = shared_dir / "parity" / "deepinteraction" / "geometry.pt"
    if not path.is_file():
        pytest.skip(f"no DeepInteraction reference data in {path.parent}")
    data = torch.load(path, weights_only=True)
    got = gather_cells(data["points"].numpy(), CellGrid((-54.0, -54, -5, 54, 54, 3), (3.0, 3.0, 8.0), 20, 30_000))
    np.testing.assert_array_equal(got.places, data["pillar_coors"][:, 1:].numpy())
    np.testing.assert_array_equal(got.number, data["pillars_num_points"].numpy())
    np.testing.assert_array_equal(got.points, data["pillars"].numpy())


def test_recorded_turns_fill_the_known_number_of_voxels(shared_dir):
    file = next((shared_dir / "data" / "nuscenes_lidar_10sweep").glob("*.bin"))
    points = np.fromfile(file, np.float16).reshape(-1, 5).astype(np.float32)
    grid = CellGrid((-54.0, -54.0, -5.0, 54.0, 54.0, 3.0), (0.075, 0.075, 0.2), 10, 160_000)
    assert len(points) == 271_156 and len(gather_cells(points, grid)) == 105_086
