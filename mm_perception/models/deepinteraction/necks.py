"""Pyramids: of image features from above (FPN), of LiDAR features to one size (SECOND and its neck).

Lin et al., "Feature Pyramid Networks", CVPR 2017 (arXiv:1612.03144); Yan et al., "SECOND", Sensors 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BN = {"eps": 1e-3, "momentum": 0.01}


class ImagePyramid(nn.Module):
    """Every level learns from the coarser ones; the levels keep their sizes."""

    def __init__(self, channels: tuple[int, ...], dim: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList([_Named(nn.Conv2d(c, dim, 1)) for c in channels])
        self.fpn_convs = nn.ModuleList([_Named(nn.Conv2d(dim, dim, 3, padding=1)) for _ in channels])

    def forward(self, features: list[Tensor], start: int = 0, levels: int = 2) -> list[Tensor]:
        """`levels` of (V, Ci, Hi, Wi) maps from the finest or a coarser `start` on, (V, dim, Hi, Wi) each."""
        sides = [lateral(x) for lateral, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(sides) - 1, 0, -1):
            sides[i - 1] = sides[i - 1] + F.interpolate(sides[i], size=sides[i - 1].shape[-2:], mode="nearest")
        chosen = slice(start, start + levels)
        return [conv(x) for conv, x in zip(list(self.fpn_convs)[chosen], sides[chosen], strict=True)]


class _Named(nn.Module):
    """A convolution under the name `conv`, as published files have it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class BevBackbone(nn.Module):
    """Stacks of 3 x 3 convolutions over the bird's-eye view, each at half the size of the one before, or the same."""

    def __init__(
        self, inputs: int, channels: tuple[int, ...], layers: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for width, count, stride in zip(channels, layers, strides, strict=True):
            steps: list[nn.Module] = []
            for i in range(count + 1):
                conv = nn.Conv2d(inputs, width, 3, stride=stride if i == 0 else 1, padding=1, bias=False)
                steps += [conv, nn.BatchNorm2d(width, **_BN), nn.ReLU()]
                inputs = width
            self.blocks.append(nn.Sequential(*steps))

    def forward(self, bev: Tensor) -> list[Tensor]:
        """(1, C, rows, columns) to one map per stack."""
        outputs = []
        for block in self.blocks:
            bev = block(bev)
            outputs.append(bev)
        return outputs


class BevNeck(nn.Module):
    """Brings the stacks' maps to one size and the same width."""

    def __init__(self, channels: tuple[int, ...], dim: int, strides: tuple[float, ...]) -> None:
        """Args:
        strides: how much larger each map becomes; below 1, smaller.
        """
        super().__init__()
        self.deblocks = nn.ModuleList()
        for width, stride in zip(channels, strides, strict=True):
            self.deblocks.append(nn.Sequential(_resizing(width, dim, stride), nn.BatchNorm2d(dim, **_BN), nn.ReLU()))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All levels concatenated (1, levels * dim, rows, columns), and the levels apart."""
        levels = [block(x) for block, x in zip(self.deblocks, features, strict=True)]
        return torch.cat(levels, dim=1), levels


def _resizing(inputs: int, dim: int, stride: float) -> nn.Module:
    if stride > 1:
        step = round(stride)
        return nn.ConvTranspose2d(inputs, dim, step, stride=step, bias=False)
    step = round(1 / stride)
    return nn.Conv2d(inputs, dim, step, stride=step, bias=False)
