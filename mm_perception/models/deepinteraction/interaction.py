"""The interactions between the two streams: LiDAR-guided sampling, polar attention, and the warp into the images.

Yang et al., DeepInteraction (NeurIPS 2022, arXiv:2208.11112) and DeepInteraction++ (arXiv:2408.05075), section III.
The places of sampling come as inputs, see `sensing.fusion_geometry`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.models.deepinteraction.attention import MASKED, Attention, DeformableAttention


class GuidedSampling(nn.Module):
    """Cells of the bird's-eye view that hold points look at the image features at those points (one head).

    With one head, the key and value projections need not touch every sampled feature: q.(Wk f + bk) equals
    (Wk^T q).f but for a term that the softmax cancels, and sum(a (Wv f + bv)) equals Wv sum(a f) + bv.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.learnedAlign = Attention(dim, heads=1)

    def forward(
        self, bev: Tensor, image: Tensor, key_grid: Tensor, key_valid: Tensor, pillar_cell: Tensor, cell_pillar: Tensor
    ) -> Tensor:
        """What the images say to each cell; zero for cells without a point that a camera sees.

        Args:
            bev: (1, C, rows, columns). image: (V, C, h, w).
            key_grid, key_valid: (P, K, 2) and (P, K), places in the atlas of views.
            pillar_cell: (P,) int64, the flat cell of each pillar; any cell for pillars that pad.
            cell_pillar: (rows * columns,) int64, the pillar in each cell, P for none.
        """
        align, dim = self.learnedAlign, bev.shape[1]
        wq, wk, wv = align.in_proj_weight.chunk(3)
        bq, _, bv = align.in_proj_bias.chunk(3)
        query = bev.flatten(2)[0].transpose(0, 1).index_select(0, pillar_cell)
        query = F.linear(query, wq, bq) @ wk / math.sqrt(dim)
        sampled = F.grid_sample(atlas(image), key_grid[None], align_corners=False)[0].permute(1, 2, 0)
        logits = (sampled @ query[:, :, None])[..., 0] + (1.0 - key_valid) * MASKED
        mixed = (logits.softmax(dim=-1)[:, None] @ sampled)[:, 0]
        out = align.out_proj(F.linear(mixed, wv, bv)) * key_valid.amax(dim=-1, keepdim=True)
        out = torch.cat([out, out.new_zeros(1, dim)])
        return out.index_select(0, cell_pillar).transpose(0, 1).reshape(bev.shape)


def atlas(image: Tensor) -> Tensor:
    """(V, C, h, w) maps below each other, a row of zeros after each: (1, C, V * (h + 1), w)."""
    views, dim, height, width = image.shape
    padded = F.pad(image, (0, 0, 0, 1))
    return padded.transpose(0, 1).reshape(1, dim, views * (height + 1), width)


class WarpedAttention(nn.Module):
    """Image cells look at the bird's-eye view where their depth puts them, and around that place in the image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.Local = DeformableAttention(dim, levels=1, heads=8, points=4)

    def forward(self, image: Tensor, bev: Tensor, warp_grid: Tensor, warp_valid: Tensor) -> Tensor:
        """(V, C, h, w) image features with the answer added.

        Args:
            bev: (1, C, rows, columns).
            warp_grid, warp_valid: (V, h, w, 2) and (V, h, w).
        """
        return self.Local(image, [warp(bev, warp_grid, warp_valid)])


def warp(bev: Tensor, warp_grid: Tensor, warp_valid: Tensor) -> Tensor:
    """(V, C, h, w) features of the bird's-eye view at each image cell's place; zero where that is out of range."""
    source = bev.expand(warp_grid.shape[0], -1, -1, -1)
    return F.grid_sample(source, warp_grid, align_corners=False) * warp_valid[:, None]


class PolarAttention(nn.Module):
    """Each image column is matched with the ray over the ground that it looks along."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transformer_layers = _ColumnTransformer(dim)

    def forward(self, bev: Tensor, image: Tensor, rays: Tensor, back: Tensor, seen: Tensor) -> Tensor:
        """(1, C, rows, columns): the views' mean answer to each cell that any of them sees; zero elsewhere.

        Args:
            image: (V, C, h, w).
            rays, back, seen: as in `PolarMaps`, (V, w, R, 2), (V, rows, columns, 2), (V, rows, columns).
        """
        views, dim, height, width = image.shape
        radii = rays.shape[2]
        query = F.grid_sample(bev.expand(views, -1, -1, -1), rays, align_corners=False)  # (V, C, w, R)
        query = query.permute(0, 2, 3, 1).reshape(views * width, radii, dim)
        query = query + self._columns(sine_position(radii, width, dim, image), views)
        memory = image.permute(0, 3, 2, 1).reshape(views * width, height, dim)
        memory = memory + self._columns(sine_position(height, width, dim, image), views)
        answer = self.transformer_layers(query, memory)
        answer = answer.view(views, width, radii, dim).permute(0, 3, 2, 1)  # (V, C, R, w)
        mask = seen[:, None]
        spread = F.grid_sample(answer, back, align_corners=False) * mask
        return spread.sum(dim=0, keepdim=True) / mask.sum(dim=0, keepdim=True).clamp(min=1.0)

    @staticmethod
    def _columns(position: Tensor, views: int) -> Tensor:
        """(1, C, n, w) to (V * w, n, C)."""
        return position[0].permute(2, 1, 0).repeat(views, 1, 1)


class _ColumnTransformer(nn.Module):
    """An encoder without layers (its norm remains) and a decoder of one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList([DecoderLayer(dim, 8, 512)]), "norm": nn.LayerNorm(dim)})

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        memory = self.encoder["norm"](memory)
        for layer in self.decoder["layers"]:  # type: ignore[union-attr]
            query = layer(query, memory)
        return self.decoder["norm"](query)


class DecoderLayer(nn.Module):
    """A transformer's decoder layer, normalised after each step."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = Attention(dim, heads), Attention(dim, heads)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, query: Tensor, memory: Tensor, place: Tensor | None = None) -> Tensor:
        """(B, N, C) queries over a memory (B, M, C); `place` (B, N, C) is added to what looks and is looked at."""
        own = query if place is None else query + place
        query = self.norm1(query + self.self_attn(own, own, own))
        looking = query if place is None else query + place
        query = self.norm2(query + self.multihead_attn(looking, memory, memory))
        return self.norm3(query + self.linear2(self.linear1(query).relu()))


def sine_position(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """(1, C, H, W) sines and cosines of the row (first half of C) and the column, in wavelengths up to 1e4.

    Carion et al., DETR (ECCV 2020), with plain indices, not normalised ones.
    """
    half = dim // 2
    order = torch.arange(half, dtype=like.dtype, device=like.device)
    wavelength = 1e4 ** (2.0 * torch.div(order, 2, rounding_mode="floor") / half)

    def waves(count: int) -> Tensor:
        phase = torch.arange(count, dtype=like.dtype, device=like.device)[:, None] / wavelength
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

    rows = waves(height).transpose(0, 1)[:, :, None].expand(half, height, width)
    columns = waves(width).transpose(0, 1)[:, None].expand(half, height, width)
    return torch.cat([rows, columns])[None]
