"""`sensing.pillars` in torch: points into cells of fixed capacity, in the order of the points.

Shapes depend on the grid alone, never on how many cells are taken: the host need not wait to know.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mm_perception.gpu.transfer import constant
from mm_perception.sensing.pillars import CellGrid


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCells:
    """`sensing.pillars.Cells` followed by empty cells, C = the grid's `max_cells` in all.

    Attributes:
        points: (C, K, F) float32, zeros where a cell has fewer than K points.
        number: (C,) int64 points of each cell, 0..K.
        places: (C, 3) int64 z, y, x; zeros of empty cells.
        lost: (3,) int64 points out of range, beyond a cell's capacity, and in cells beyond the grid's.
    """

    points: Tensor
    number: Tensor
    places: Tensor
    lost: Tensor

    @property
    def present(self) -> Tensor:
        """(C, K) bool, which entries are points."""
        return torch.arange(self.points.shape[1], device=self.points.device) < self.number[:, None]


def gather_cells(points: Tensor, grid: CellGrid) -> DeviceCells:
    """Sorts (M, F) float32 points, whose first three columns are x, y, z [m], into cells."""
    places, inside = _places(points, grid)
    depth, height, width = grid.shape
    key = (places[:, 0] * height + places[:, 1]) * width + places[:, 2]
    key, order = torch.where(inside, key, depth * height * width).sort(stable=True)
    inside = inside[order]
    first_of_cell, slot = _runs(key)
    # Cells are numbered by their first points, which `order` has spread over the sorted ones.
    begins = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    begins[order] = (slot == 0) & inside
    cell = (begins.cumsum(0) - 1)[order[first_of_cell]]
    fits = inside & (cell < grid.max_cells)
    kept = fits & (slot < grid.max_points)
    table = _scattered(points[order], cell * grid.max_points + slot, kept, grid.max_cells * grid.max_points)
    number = _scattered(slot + 1, cell, kept, grid.max_cells, "amax")
    where = _scattered(places[order], cell, fits & (slot == 0), grid.max_cells)
    lost = torch.stack([(~inside).sum(), (fits & ~kept).sum(), (inside & ~fits).sum()])
    return DeviceCells(table.reshape(grid.max_cells, grid.max_points, points.shape[1]), number, where, lost)


def _places(points: Tensor, grid: CellGrid) -> tuple[Tensor, Tensor]:
    """(M, 3) int64 z, y, x of each point's cell, and (M,) whether it lies within the grid."""
    low, size = (constant(v, torch.float32, points.device) for v in (grid.range_m[:3], grid.size_m))
    steps = ((points[:, :3] - low) / size).floor()
    inside = ((steps >= 0) & (steps < constant(grid.shape[::-1], torch.float32, points.device))).all(dim=1)
    return torch.where(inside[:, None], steps, 0.0).flip(1).long(), inside


def _runs(key: Tensor) -> tuple[Tensor, Tensor]:
    """Of (M,) sorted keys: (M,) where the run of equal keys begins, and (M,) the place within it."""
    place = torch.arange(len(key), device=key.device)
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = key[1:] != key[:-1]
    begin = torch.where(new, place, 0).cummax(0).values if len(key) else place
    return begin, place - begin


def _scattered(values: Tensor, index: Tensor, chosen: Tensor, size: int, reduce: str = "") -> Tensor:
    """(size, ...) zeros with `values[i]` at `index[i]` for those that are chosen; the rest goes into a row beyond."""
    out = torch.zeros((size + 1, *values.shape[1:]), dtype=values.dtype, device=values.device)
    index = torch.where(chosen, index, size)
    if reduce:
        return out.scatter_reduce_(0, index, values, reduce)[:size]
    out[index] = values
    return out[:size]


def decorated(cells: DeviceCells, grid: CellGrid) -> Tensor:
    """(C, K, F + 5) points, their offsets from the cell's mean (x, y, z) and from its middle (x, y); padding is 0."""
    device = cells.points.device
    low, size = (constant(v, torch.float64, device) for v in (grid.range_m[:2], grid.size_m[:2]))
    middle = (low + (cells.places[:, [2, 1]] + 0.5) * size).float()
    mean = cells.points[..., :3].sum(dim=1) / cells.number.clamp(min=1)[:, None]
    from_mean = cells.points[..., :3] - mean[:, None]
    from_middle = cells.points[..., :2] - middle[:, None]
    return torch.cat([cells.points, from_mean, from_middle], dim=-1) * cells.present[..., None]


def cell_index(cells: DeviceCells, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How pillars and cells of the ground refer to each other; see `sensing.pillars.cell_index`.

    Args:
        cells: of a grid that is one cell high: no two have one place.

    Returns:
        (C,) int64 flat cell of each pillar, 0 for empty ones; (rows * columns,) pillar in each cell, C for none.
    """
    count, device = len(cells.number), cells.number.device
    flat = cells.places[:, 1] * shape[1] + cells.places[:, 2]
    taken = torch.where(cells.number > 0, flat, shape[0] * shape[1])
    pillar_in = torch.full((shape[0] * shape[1] + 1,), count, dtype=torch.int64, device=device)
    pillar_in[taken] = torch.arange(count, device=device)
    return flat, pillar_in[:-1]
