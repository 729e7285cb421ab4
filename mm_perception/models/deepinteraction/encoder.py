"""The dual-stream encoder: image and LiDAR features keep their own maps and learn from each other, layer by layer.

Yang et al., DeepInteraction++ (arXiv:2408.05075), section III-B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm_perception.models.deepinteraction.attention import DeformableAttention
from mm_perception.models.deepinteraction.blocks import FeedForward
from mm_perception.models.deepinteraction.interaction import GuidedSampling, PolarAttention, WarpedAttention


class InteractionMaps(NamedTuple):
    """Where the two streams meet, as tensors; see `sensing.fusion_geometry` and the blocks of `interaction`."""

    key_grid: Tensor
    key_valid: Tensor
    pillar_cell: Tensor
    cell_pillar: Tensor
    warp_grid: Tensor
    warp_valid: Tensor
    rays: Tensor
    back: Tensor
    seen: Tensor


class Streams(NamedTuple):
    """What the encoder gives.

    Attributes:
        image_alone: (V, C, h, w) before fusion. image: after it.
        lidar: (1, C, rows, columns) before fusion.
        fused: (1, C, rows, columns) after fusion.
    """

    image_alone: Tensor
    image: Tensor
    lidar: Tensor
    fused: Tensor


class ImageLayer(nn.Module):
    """Self-attention over the images, then what the LiDAR has to say; both added."""

    def __init__(self, dim: int, levels: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.attentions = nn.ModuleList([DeformableAttention(dim, levels, 8, 4), WarpedAttention(dim)])
        self.ffns = nn.ModuleList([FeedForward(dim, hidden) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(4)])

    def forward(self, image: Tensor, levels: list[Tensor], bev: Tensor, maps: InteractionMaps) -> Tensor:
        """(V, C, h, w), of the same shape as `image`."""
        own = self.attentions[0](image, levels)
        other = over_channels(self.norms[0], own)
        other = self.attentions[1](other, bev, maps.warp_grid, maps.warp_valid)
        other = tokens(other)
        other = self.norms[2](self.ffns[0](self.norms[1](other)))
        out = self.norms[3](self.ffns[1](tokens(own))) + self.scale * other
        return as_map(out, image)


class LidarLayer(nn.Module):
    """Self-attention over the bird's-eye view, then what the images have to say along rays and at points."""

    def __init__(self, dim: int, levels: int, hidden: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.attentions = nn.ModuleList(
            [DeformableAttention(dim, levels, 8, 4), PolarAttention(dim), GuidedSampling(dim)]
        )
        self.ffns = nn.ModuleList([FeedForward(dim, hidden)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(4)])

    def forward(self, bev: Tensor, levels: list[Tensor], image: Tensor, maps: InteractionMaps) -> Tensor:
        """(1, C, rows, columns), of the same shape as `bev`."""
        own = self.attentions[0](bev, levels)
        other = over_channels(self.norms[0], own)
        other = other + self.attentions[1](other, image, maps.rays, maps.back, maps.seen)
        other = over_channels(self.norms[1], other)
        other = other + self.attentions[2](
            other, image, maps.key_grid, maps.key_valid, maps.pillar_cell, maps.cell_pillar
        )
        other = self.norms[2](tokens(other))
        return as_map(self.norms[3](self.ffns[0](tokens(own))) + self.scale * other, bev)


class Encoder(nn.Module):
    """The whole of it; keys and shapes are those of the published `imgpts_neck`."""

    def __init__(
        self, image_dim: int = 256, lidar_dim: int = 512, level_dim: int = 256, dim: int = 128, layers: int = 2,
        hidden: int = 512, levels: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shared_conv_pts = nn.Conv2d(lidar_dim, dim, 3, padding=1)
        self.multi_scale_conv_img = nn.Conv2d(image_dim, dim, 3, padding=1)
        self.multi_scale_conv_pts = nn.Conv2d(level_dim, dim, 3, padding=1)
        self.img_fusion_blocks = nn.ModuleList([ImageLayer(dim, levels, hidden) for _ in range(layers)])
        self.pts_fusion_blocks = nn.ModuleList([LidarLayer(dim, levels, hidden) for _ in range(layers)])

    def forward(
        self, images: list[Tensor], lidar: Tensor, lidar_levels: list[Tensor], maps: InteractionMaps
    ) -> Streams:
        """Args:
        images: feature maps of the pyramid, the finest first, (V, Ci, h, w), (V, Ci, h / 2, w / 2).
        lidar: (1, Cl, rows, columns), all levels of the neck concatenated.
        lidar_levels: the levels apart, (1, Cn, rows, columns) each.
        """
        image_levels = [self.multi_scale_conv_img(x) for x in images]
        bev_levels = [self.multi_scale_conv_pts(x) for x in lidar_levels]
        image, bev = image_levels[0], bev_levels[0]
        for image_layer, lidar_layer in zip(self.img_fusion_blocks, self.pts_fusion_blocks, strict=True):
            image, bev = image_layer(image, image_levels, bev, maps), lidar_layer(bev, bev_levels, image, maps)
        return Streams(image_levels[0], image, self.shared_conv_pts(lidar), bev)


def tokens(features: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


def as_map(sequence: Tensor, like: Tensor) -> Tensor:
    """The inverse of `tokens` for a map of `like`'s shape."""
    return sequence.transpose(1, 2).reshape(like.shape)


def over_channels(norm: nn.Module, features: Tensor) -> Tensor:
    """Layer norm over the channels of a map."""
    return as_map(norm(tokens(features)), features)
