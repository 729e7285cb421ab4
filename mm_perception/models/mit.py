"""Mix Transformer (MiT), the encoder of SegFormer.

E. Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, arXiv:2105.15203.

Tokens are (B, N, C) with N = H * W in row-major order; maps are (B, C, H, W). A map made from tokens is a
view in channels-last layout, so convolutions and linear layers alternate without copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.core.errors import ModelError


@dataclass(frozen=True, slots=True)
class MitVariant:
    """Widths, depths, attention heads and key/value reductions of the four stages."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)


_WIDE = (64, 128, 320, 512)
MIT_VARIANTS: dict[str, MitVariant] = {
    "b0": MitVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": MitVariant(_WIDE, (2, 2, 2, 2)),
    "b2": MitVariant(_WIDE, (3, 4, 6, 3)),
    "b3": MitVariant(_WIDE, (3, 4, 18, 3)),
    "b4": MitVariant(_WIDE, (3, 8, 27, 3)),
    "b5": MitVariant(_WIDE, (3, 6, 40, 3)),
    # Differs from the paper: "tiny" is our own, half of B0 and less, because it can be trained on a CPU.
    "tiny": MitVariant((16, 32, 64, 96), (2, 2, 2, 1), (1, 2, 4, 6)),
}
STAGES = (1, 2, 3, 4)
MIN_INPUT_PX = 29  # below, stage 1 is narrower than its 8x8 key/value reduction

BLOCK_NORM_EPS = 1e-6  # norm1 and norm2 of blocks and the norm after each stage
INNER_NORM_EPS = 1e-5  # norms inside patch embedding and key/value reduction


def mit_variant(name: str) -> MitVariant:
    """The sizes of "tiny" and "b0" to "b5".

    Raises:
        ModelError: another name.
    """
    if name not in MIT_VARIANTS:
        raise ModelError(f"MiT variant: expected one of {', '.join(MIT_VARIANTS)}, got {name!r}")
    return MIT_VARIANTS[name]


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a channels-last view of contiguous tokens."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def map_to_tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), a view where the map is channels-last."""
    return features.flatten(2).transpose(1, 2)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(B, heads, N, C / heads) -> (B, N, C), the inverse of `split_heads`."""
    return tokens.transpose(1, 2).flatten(2)


class OverlapPatchEmbed(nn.Module):
    """Overlapped patch merging: a strided convolution and a LayerNorm over channels."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim, eps=INNER_NORM_EPS)

    def forward(self, features: Tensor) -> tuple[Tensor, int, int]:
        """(B, C_in, H, W) -> tokens (B, H'*W', C), H', W'."""
        features = self.proj(features)
        height, width = features.shape[2:]
        return self.norm(map_to_tokens(features)), height, width


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced `reduction` times per axis (Eq. 1, 2)."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            # Differs from the paper: Eq. 2 reshapes and projects; the released weights hold the equivalent
            # strided convolution, which drops the rows and columns that do not fill a window.
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim, eps=INNER_NORM_EPS)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        source = tokens
        if self.reduction > 1:
            source = self.norm(map_to_tokens(self.sr(tokens_to_map(tokens, height, width))))
        key, value = self.kv(source).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(  # Eq. (1)
            split_heads(self.q(tokens), self.heads),
            split_heads(key, self.heads),
            split_heads(value, self.heads),
        )
        return self.proj(merge_heads(attended))


class DepthwiseConv(nn.Module):
    """The 3x3 depthwise convolution inside Mix-FFN; it gives the tokens their position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        return map_to_tokens(self.dwconv(tokens_to_map(tokens, height, width)))


class MixFfn(nn.Module):
    """Feed-forward with a depthwise convolution before the activation (Eq. 3, without its residual)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(tokens), height, width)))  # Eq. (3)


class MitBlock(nn.Module):
    """Efficient attention and Mix-FFN, each normalised before and residual, with stochastic depth."""

    def __init__(self, dim: int, heads: int, reduction: int, drop_path: float, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.attn = EfficientAttention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = MixFfn(dim, mlp_ratio * dim)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self._drop(self.attn(self.norm1(tokens), height, width))
        return tokens + self._drop(self.mlp(self.norm2(tokens), height, width))

    def _drop(self, branch: Tensor) -> Tensor:
        """While training, drops the branch of whole samples and scales the others to keep the mean."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        mask = torch.empty(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device)
        return branch * mask.bernoulli_(keep) / keep


def drop_path_rates(depths: tuple[int, ...], maximum: float) -> list[list[float]]:
    """Stochastic depth per stage and block: evenly spaced from 0 to `maximum` over all blocks."""
    total = sum(depths)
    rates = [maximum * i / max(total - 1, 1) for i in range(total)]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths, strict=True)]


def add_mit_stages(parent: nn.Module, variant: MitVariant, prefix: str, drop_path: float) -> None:
    """Registers one MiT on `parent`: `<prefix>patch_embedS`, `<prefix>blockS`, `<prefix>normS`, S = 1..4."""
    rates = drop_path_rates(variant.depths, drop_path)
    for i, stage in enumerate(STAGES):
        dim = variant.dims[i]
        in_channels = 3 if i == 0 else variant.dims[i - 1]
        kernel, stride = (7, 4) if i == 0 else (3, 2)
        blocks = [MitBlock(dim, variant.heads[i], variant.reductions[i], rate) for rate in rates[i]]
        parent.add_module(f"{prefix}patch_embed{stage}", OverlapPatchEmbed(in_channels, dim, kernel, stride))
        parent.add_module(f"{prefix}block{stage}", nn.ModuleList(blocks))
        parent.add_module(f"{prefix}norm{stage}", nn.LayerNorm(dim, eps=BLOCK_NORM_EPS))


def run_mit_stage(parent: nn.Module, prefix: str, stage: int, features: Tensor) -> Tensor:
    """One stage of one MiT on `parent`: (B, C_in, H, W) -> (B, C, H', W')."""
    tokens, height, width = getattr(parent, f"{prefix}patch_embed{stage}")(features)
    for block in getattr(parent, f"{prefix}block{stage}"):
        tokens = block(tokens, height, width)
    return tokens_to_map(getattr(parent, f"{prefix}norm{stage}")(tokens), height, width)
