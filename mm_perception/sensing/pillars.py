"""Points into pillars and voxels of fixed capacity, without a loop over points.

Lang et al., "PointPillars", CVPR 2019 (arXiv:1812.05784); Zhou & Tuzel, "VoxelNet", CVPR 2018. The first points of a
cell and the first cells of a cloud are kept, in the order of the points; what is lost is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError, DataError

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CellGrid:
    """A grid of pillars (one cell high) or voxels.

    Attributes:
        range_m: x, y, z of the lower and of the upper corner.
        size_m: of a cell along x, y, z.
        max_points: kept per cell. max_cells: kept in all.
    """

    range_m: tuple[float, float, float, float, float, float]
    size_m: tuple[float, float, float]
    max_points: int
    max_cells: int

    def __post_init__(self) -> None:
        low, high = np.array(self.range_m[:3]), np.array(self.range_m[3:])
        if min(self.size_m) <= 0 or (high <= low).any():
            raise ConfigError(f"cell grid: expected positive sizes and rising ranges, got {self}")
        if min(self.max_points, self.max_cells) < 1:
            raise ConfigError(f"cell grid: expected a capacity of at least 1, got {self}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        low, high = np.array(self.range_m[:3]), np.array(self.range_m[3:])
        x, y, z = np.rint((high - low) / self.size_m).astype(int)
        return int(z), int(y), int(x)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """P occupied cells in the order of their first points.

    Attributes:
        points: (P, K, F), zeros where a cell has fewer than K points.
        number: (P,) int32 points of each cell, 1..K.
        places: (P, 3) int32 z, y, x.
        out_of_range, over_points, over_cells: points that were lost: beyond the range or not finite, beyond a cell's
            capacity, and in cells beyond the grid's.
    """

    points: F32
    number: NDArray[np.int32]
    places: NDArray[np.int32]
    out_of_range: int = 0
    over_points: int = 0
    over_cells: int = 0

    def __len__(self) -> int:
        return len(self.points)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(P, K) which entries are points."""
        return np.asarray(np.arange(self.points.shape[1])[None] < self.number[:, None])


def gather_cells(points: F32, grid: CellGrid) -> Cells:
    """Sorts (M, F) points, whose first three columns are x, y, z [m], into cells.

    Raises:
        DataError: the points are no (M, F) table with at least three columns.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"points: expected (M, 3 or more), got {points.shape}")
    places, inside = _places(points, grid)
    chosen = np.nonzero(inside)[0]
    _, height, width = grid.shape
    key = (places[chosen, 0] * height + places[chosen, 1]) * width + places[chosen, 2]
    order = np.argsort(key, kind="stable")
    starts = np.nonzero(np.diff(key[order], prepend=-1))[0]
    first_point = order[starts]
    rank_of_cell = np.empty(len(starts), np.int64)
    rank_of_cell[np.argsort(first_point, kind="stable")] = np.arange(len(starts))
    count = np.diff(starts, append=len(order))
    cell = np.repeat(rank_of_cell, count)
    slot = np.arange(len(order)) - np.repeat(starts, count)
    fits = cell < grid.max_cells
    kept = fits & (slot < grid.max_points)
    total = min(len(starts), grid.max_cells)
    out = np.zeros((total, grid.max_points, points.shape[1]), np.float32)
    out[cell[kept], slot[kept]] = points[chosen[order[kept]]]
    number = np.zeros(total, np.int32)
    stays = rank_of_cell < grid.max_cells
    number[rank_of_cell[stays]] = np.minimum(count[stays], grid.max_points)
    where = np.zeros((total, 3), np.int32)
    where[rank_of_cell[stays]] = places[chosen[first_point[stays]]]
    lost = (int(len(points) - len(chosen)), int((fits & ~kept).sum()), int((~fits).sum()))
    return Cells(out, number, where, *lost)


def _places(points: F32, grid: CellGrid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(M, 3) z, y, x of each point's cell, and whether it lies within the grid."""
    with np.errstate(invalid="ignore"):
        steps = np.floor(
            (points[:, :3] - np.asarray(grid.range_m[:3], np.float32)) / np.asarray(grid.size_m, np.float32)
        )
        limit = np.array(grid.shape[::-1])
        inside = ((steps >= 0) & (steps < limit)).all(axis=1)
        steps[~inside] = 0
    return steps[:, ::-1].astype(np.int64), np.asarray(inside)


def means(cells: Cells) -> F32:
    """(P, F) mean of each cell's points, the features of the published voxel front end."""
    total = cells.points.sum(axis=1)
    return np.asarray(total / np.maximum(cells.number, 1)[:, None], np.float32)


def decorated(cells: Cells, grid: CellGrid) -> F32:
    """(P, K, F + 5) points, their offsets from the cell's mean (x, y, z) and from its middle (x, y); padding is 0."""
    middle = np.asarray(grid.range_m[:2]) + (cells.places[:, [2, 1]] + 0.5) * np.asarray(grid.size_m[:2])
    from_mean = cells.points[..., :3] - means(cells)[:, None, :3]
    from_middle = cells.points[..., :2] - middle[:, None].astype(np.float32)
    out = np.concatenate([cells.points, from_mean, from_middle], axis=-1)
    return np.asarray(out * cells.present[..., None], np.float32)


def cell_index(cells: Cells, shape: tuple[int, int], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How pillars and cells of the ground refer to each other, padded to a fixed number of pillars.

    Args:
        shape: rows and columns of the ground's cells.

    Returns:
        (capacity,) flat cell of each pillar, 0 for padding; (rows * columns,) pillar in each cell, `capacity` for none.
    """
    flat = cells.places[:, 1].astype(np.int64) * shape[1] + cells.places[:, 2]
    cell_of = np.zeros(capacity, np.int64)
    cell_of[: len(flat)] = flat
    pillar_in = np.full(shape[0] * shape[1], capacity, np.int64)
    pillar_in[flat] = np.arange(len(flat))
    return cell_of, pillar_in


def padded(values: NDArray[np.generic], capacity: int) -> NDArray[np.generic]:
    """(P, ...) values with zeros up to `capacity` rows."""
    out = np.zeros((capacity, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
