"""Features of regions: RoIAlign by grid sampling, and the layer whose weights depend on the query.

He et al., Mask R-CNN (ICCV 2017); Sun et al., Sparse R-CNN (CVPR 2021, arXiv:2011.12450).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROI_CELLS = 7
_SAMPLES = 2  # per cell along each axis


def roi_align(features: Tensor, regions: Tensor, view: Tensor, scale: float) -> Tensor:
    """Averages of 2 x 2 samples in each of 7 x 7 cells of a region ("aligned": the half pixel is taken off).

    A sample more than a pixel outside of the map counts as zero, one at the rim takes the rim's value.

    Args:
        features: (V, C, H, W).
        regions: (N, 4) x0, y0, x1, y1 in units of `1 / scale` cells.
        view: (N,) int64, the map that each region lies in.

    Returns:
        (N, 49, C), row by row.
    """
    views, dim, height, width = features.shape
    count = regions.shape[0]
    x, x_inside = _samples(regions[:, 0] * scale - 0.5, regions[:, 2] * scale - 0.5, width)
    y, y_inside = _samples(regions[:, 1] * scale - 0.5, regions[:, 3] * scale - 0.5, height)
    # All maps below each other; clamped places never mix two maps.
    row = y + (view * height).to(y.dtype)[:, None]
    grid_x = (2.0 * x + 1.0) / width - 1.0
    grid_y = (2.0 * row + 1.0) / (views * height) - 1.0
    side = ROI_CELLS * _SAMPLES
    grid = torch.stack(
        [grid_x[:, None].expand(count, side, side), grid_y[:, :, None].expand(count, side, side)], dim=-1
    )
    stacked = features.transpose(0, 1).reshape(1, dim, views * height, width)
    sampled = F.grid_sample(stacked, grid.reshape(1, count * side, side, 2), padding_mode="border", align_corners=False)
    inside = (y_inside[:, :, None] & x_inside[:, None]).to(sampled.dtype)
    sampled = sampled.view(dim, count, side, side) * inside
    pooled = F.avg_pool2d(sampled.transpose(0, 1), _SAMPLES)
    return pooled.flatten(2).transpose(1, 2)


def _samples(start: Tensor, stop: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(N, 14) places along one axis, clamped to the map, and whether they are (nearly) on it."""
    side = ROI_CELLS * _SAMPLES
    step = (torch.arange(side, dtype=start.dtype, device=start.device) + 0.5) / side
    place = start[:, None] + (stop - start)[:, None] * step
    return place.clamp(0.0, size - 1.0), (place >= -1.0) & (place <= size)


class DynamicConv(nn.Module):
    """Two linear layers over a region's cells, with weights that the query makes."""

    def __init__(self, dim: int, inner: int | None = None) -> None:
        super().__init__()
        self.dim, self.inner = dim, inner or dim
        self.dynamic_layer = nn.Linear(dim, 2 * dim * self.inner)
        self.norm1, self.norm2 = nn.LayerNorm(self.inner), nn.LayerNorm(dim)
        self.out_layer = nn.Linear(dim * ROI_CELLS**2, dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, query: Tensor, region: Tensor) -> Tensor:
        """(N, C) queries with (N, 49, C) features of their regions to (N, C)."""
        first, second = self.dynamic_layer(query).chunk(2, dim=-1)
        first = first.view(-1, self.dim, self.inner)
        second = second.view(-1, self.inner, self.dim)
        x = self.norm1(region @ first).relu()
        x = self.norm2(x @ second).relu()
        return self.norm3(self.out_layer(x.flatten(1))).relu()
