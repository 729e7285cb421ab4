"""Attention blocks: full attention over short sequences, and deformable attention over feature maps.

Ashish Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Xizhou Zhu et al., "Deformable DETR", ICLR 2021
(arXiv:2010.04159). Written with standard operators of fixed shapes, so that they export.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.models.deepinteraction.blocks import ConvBlock

MASKED = -1e4
"""Added to the logits of keys that must not be looked at; a finite number, so that a row of them gives no NaN."""


class Attention(nn.Module):
    """Multi-head attention with the parameters of `torch.nn.MultiheadAttention`, batch first.

    Attributes:
        heads: number of heads; divides `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, N, C) queries over (B, M, C) keys and values.

        Args:
            bias: added to the logits, broadcast to (B, heads, N, M).
        """
        wq, wk, wv = self.in_proj_weight.chunk(3)
        bq, bk, bv = self.in_proj_bias.chunk(3)
        q, k, v = F.linear(query, wq, bq), F.linear(key, wk, bk), F.linear(value, wv, bv)
        q, k, v = self._split(q), self._split(k), self._split(v)
        logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
        if bias is not None:
            logits = logits + bias
        mixed = logits.softmax(dim=-1) @ v
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        batch, count, dim = x.shape
        return x.view(batch, count, self.heads, dim // self.heads).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query looks at a few places around its own, in several feature maps; the result is added to the query."""

    def __init__(self, dim: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """The heads start by looking in directions round the circle, the points ever farther."""
        angle = torch.arange(self.heads) * (2.0 * math.pi / self.heads)
        ring = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ring = ring / ring.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        offsets = (ring.view(self.heads, 1, 1, 2) * steps).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, maps: list[Tensor]) -> Tensor:
        """One result per cell of the query map.

        Args:
            query: (B, C, H, W); its cells' middles are the reference points.
            maps: (B, C, Hl, Wl) of each level.

        Returns:
            (B, C, H, W) with the query added.
        """
        batch, dim, height, width = query.shape
        tokens = query.flatten(2).transpose(1, 2)
        shape = (batch, height * width, self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(tokens).view(*shape, 2)
        weights = self.attention_weights(tokens).view(*shape[:3], -1).softmax(dim=-1).view(shape)
        middle = cell_middles(height, width, query).view(1, height * width, 1, 1, 2)
        total: Tensor | None = None
        for level, features in enumerate(maps):
            rows, columns = features.shape[-2:]
            value = self.value_proj(features.flatten(2).transpose(1, 2))
            value = value.transpose(1, 2).reshape(batch * self.heads, dim // self.heads, rows, columns)
            size = torch.tensor([columns, rows], dtype=query.dtype, device=query.device)
            places = (middle + offsets[:, :, :, level] / size) * 2.0 - 1.0
            places = places.transpose(1, 2).reshape(batch * self.heads, height * width, self.points, 2)
            sampled = F.grid_sample(value, places, mode="bilinear", padding_mode="zeros", align_corners=False)
            share = weights[:, :, :, level].transpose(1, 2).reshape(batch * self.heads, 1, height * width, self.points)
            mixed = (sampled * share).sum(dim=-1)
            total = mixed if total is None else total + mixed
        assert total is not None
        out = self.output_proj(total.view(batch, dim, height * width).transpose(1, 2))
        return out.transpose(1, 2).view(batch, dim, height, width) + query


def cell_middles(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2) places x, y of the cells' middles, 0..1."""
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy], dim=-1)


class LocalAttention(nn.Module):
    """Each cell looks at the cells around it in another map (one head): the interaction of the first DeepInteraction.

    DeepInteraction++ replaced it by deformable attention. Neighbours beyond the map's edge take part in the softmax
    with logit 0 and value 0, as in the published network.
    """

    def __init__(self, dim: int, reach: int = 4) -> None:
        super().__init__()
        self.reach = reach
        self.query_project = nn.Sequential(_projection(dim), _projection(dim))
        self.key_project = nn.Sequential(_projection(dim), _projection(dim))
        self.value_project = _projection(dim)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """(B, C, H, W) of `target`'s shape; both maps have the same size."""
        query, key, value = self.query_project(target), self.key_project(source), self.value_project(source)
        scale = 1.0 / math.sqrt(target.shape[1])
        logits = [(query * around).sum(dim=1, keepdim=True) * scale for around in self._neighbours(key)]
        share = torch.cat(logits, dim=1).softmax(dim=1)
        around_value = self._neighbours(value)
        return torch.stack([share[:, i : i + 1] * v for i, v in enumerate(around_value)]).sum(dim=0)

    def _neighbours(self, features: Tensor) -> list[Tensor]:
        """The map shifted by each offset, row by row; zeros come in at the edges."""
        height, width = features.shape[-2:]
        side = 2 * self.reach + 1
        padded = F.pad(features, (self.reach,) * 4)
        return [padded[..., i : i + height, j : j + width] for i in range(side) for j in range(side)]


def _projection(dim: int) -> ConvBlock:
    return ConvBlock(nn.Conv2d(dim, dim, 1, bias=False), nn.BatchNorm2d(dim))
