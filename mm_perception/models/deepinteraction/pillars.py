"""The pillar front end: points to a map of the ground, with standard operators only.

Lang et al., "PointPillars", CVPR 2019 (arXiv:1812.05784). Pillars and cells refer to each other by index in both
directions, so that neither scattering nor a variable number of pillars is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PillarFrontEnd(nn.Module):
    """One linear layer with batch norm per point, the maximum per pillar, and their places on the map."""

    def __init__(self, features: int, dim: int, bev_cells: tuple[int, int]) -> None:
        super().__init__()
        self.bev_cells = bev_cells
        self.linear = nn.Linear(features, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, mask: Tensor, cell_pillar: Tensor) -> Tensor:
        """(1, C, rows, columns), zero where there is no pillar.

        Args:
            points: (P, K, F) decorated points.
            mask: (P, K) 1 for points, 0 for padding.
            cell_pillar: (rows * columns,) int64, the pillar in each cell, P for none.
        """
        pillars, most, _ = points.shape
        x = self.norm(self.linear(points).flatten(0, 1)).relu().view(pillars, most, -1)
        x = (x * mask[:, :, None]).amax(dim=1)
        x = torch.cat([x, x.new_zeros(1, x.shape[1])])
        return x.index_select(0, cell_pillar).transpose(0, 1).reshape(1, -1, *self.bev_cells)
