"""Swin Transformer image backbone.

Liu et al., "Swin Transformer", ICCV 2021 (arXiv:2103.14030). Keys and shapes are those of mmdetection's backbone, which
differ from other libraries' in names and in the order of merged patches; the sizes of the maps are fixed at export, so
that windows and shifts are constants there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.models.deepinteraction.attention import MASKED
from mm_perception.models.deepinteraction.blocks import FeedForward


class SwinBackbone(nn.Module):
    """Four stages at strides 4, 8, 16, 32, each output with its own norm.

    Attributes:
        channels: of the four outputs.
    """

    def __init__(
        self, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = tuple(dim * 2**i for i in range(len(depths)))
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, dim, 4, stride=4)
        self.patch_embed.norm = nn.LayerNorm(dim)
        self.stages = nn.ModuleList()
        for i, (width, depth, count) in enumerate(zip(self.channels, depths, heads, strict=True)):
            self.stages.append(_Stage(width, depth, count, window, merge=i < len(depths) - 1))
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(V, 3, H, W), H and W multiples of 4, to (V, Ci, H / 2^(i + 2), W / 2^(i + 2)), rounded up."""
        x = self.patch_embed.projection(images).permute(0, 2, 3, 1)
        x = self.patch_embed.norm(x)
        outputs = []
        for i, stage in enumerate(self.stages):
            for block in stage.blocks:  # type: ignore[union-attr]
                x = block(x)
            outputs.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs


class _Stage(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, window: int, merge: bool) -> None:
        super().__init__()
        shifts = [0 if i % 2 == 0 else window // 2 for i in range(depth)]
        self.blocks = nn.ModuleList([_Block(dim, heads, window, shift) for shift in shifts])
        self.downsample = _Merge(dim) if merge else None


class _Merge(nn.Module):
    """Four neighbours become one with twice the channels.

    The channels of the four stand interleaved, as `torch.nn.Unfold` orders them: channel by channel, and in each the
    places row by row.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.view(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, dim)
        return self.reduction(self.norm(x.permute(0, 1, 3, 5, 2, 4).flatten(3)))


class _Block(nn.Module):
    """Attention within windows, every second time shifted by half a window."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.window, self.shift = window, shift
        self.attn = nn.Module()
        self.attn.w_msa = _WindowAttention(dim, heads, window)
        self.ffn = FeedForward(dim, 4 * dim, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(V, H, W, C) to the same shape."""
        x = x + self._windowed(self.norm1(x))
        return x + self.ffn.layers(self.norm2(x))  # normalised before, so the sum passes the norm by

    def _windowed(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        w = self.window
        down, right = -height % w, -width % w
        x = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = (height + down) // w, (width + right) // w
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = self._mask(rows, columns, x)
        x = x.view(batch, rows, w, columns, w, dim).transpose(2, 3).reshape(batch, rows * columns, w * w, dim)
        x = self.attn.w_msa(x, mask)
        x = x.view(batch, rows, columns, w, w, dim).transpose(2, 3).reshape(batch, rows * w, columns * w, dim)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """(rows * columns, w * w, w * w): what the shift brought together from opposite edges must not meet."""
        w = self.window

        def bands(count: int) -> Tensor:
            at = torch.arange(count * w, device=like.device)
            return (at >= count * w - w).to(like.dtype) + (at >= count * w - self.shift).to(like.dtype)

        region = bands(rows)[:, None] * 3 + bands(columns)[None]
        region = region.view(rows, w, columns, w).transpose(1, 2).reshape(rows * columns, w * w)
        return (region[:, None] != region[:, :, None]).to(like.dtype) * MASKED


class _WindowAttention(nn.Module):
    """Multi-head attention within windows, with a bias for each relative place."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_places(window))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(V, M, w * w, C) windows to the same shape."""
        views, windows, count, dim = x.shape
        qkv = self.qkv(x).view(views, windows, count, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        logits = (q * (dim // self.heads) ** -0.5) @ k.transpose(-1, -2)
        bias = self.relative_position_bias_table.index_select(0, self.relative_position_index.reshape(-1))
        logits = logits + bias.view(count, count, self.heads).permute(2, 0, 1)
        if mask is not None:
            logits = logits + mask[:, None]
        return self.proj((logits.softmax(dim=-1) @ v).transpose(2, 3).reshape(views, windows, count, dim))


def _relative_places(window: int) -> Tensor:
    """(w * w, w * w) row of the bias table for each pair of places, the farthest pair of one direction first."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return dy * (2 * window - 1) + dx
