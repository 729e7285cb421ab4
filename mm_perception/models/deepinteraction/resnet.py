"""ResNet-50 image backbone.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; strides in the 3 x 3 convolutions. Keys and shapes
are the ones that torchvision and mmdetection share.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResNetBackbone(nn.Module):
    """Four stages of bottlenecks at strides 4, 8, 16, 32.

    Attributes:
        channels: of the four outputs.
    """

    def __init__(self, depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(width * 4 * 2**i for i in range(len(depths)))
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for i, depth in enumerate(depths):
            inner = width * 2**i
            blocks = [Bottleneck(inputs, inner, stride=1 if i == 0 else 2)]
            inputs = inner * 4
            blocks += [Bottleneck(inputs, inner) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(V, 3, H, W) to (V, Ci, H / 2^(i + 2), W / 2^(i + 2))."""
        x = F.max_pool2d(self.bn1(self.conv1(images)).relu(), 3, stride=2, padding=1)
        outputs = []
        for i in range(len(self.channels)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            outputs.append(x)
        return outputs


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a way round them."""

    def __init__(self, inputs: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, inner * 4, 1, bias=False), nn.BatchNorm2d(inner * 4)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != inner * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, inner * 4, 1, stride=stride, bias=False), nn.BatchNorm2d(inner * 4)
            )

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + around).relu()
