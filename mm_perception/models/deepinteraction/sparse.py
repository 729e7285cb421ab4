"""The published voxel front end: sparse 3-D convolutions, in plain torch.

Yan et al., "SECOND", Sensors 2018; Graham et al., "Submanifold Sparse Convolutional Networks" (arXiv:1711.10275). Keys
and shapes are those of mmdetection3d 0.17's `SparseEncoder` with `SparseBasicBlock`; kernels are stored as (kD, kH, kW,
Cin, Cout). It needs no CUDA extension and is slow: each place in the kernel is a gather, a matrix product and an
addition. It runs outside of the exported network, whose input is its dense result.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm_perception.core.errors import DataError

_BN = {"eps": 1e-3, "momentum": 0.01}
Triple = tuple[int, int, int]


class SparseTensor(NamedTuple):
    """N occupied voxels of a grid.

    Attributes:
        features: (N, C).
        places: (N, 3) int64 z, y, x, no two alike.
        shape: of the grid, z, y, x.
    """

    features: Tensor
    places: Tensor
    shape: Triple

    def dense(self) -> Tensor:
        """(1, C * D, H, W): heights become channels, channel * D + z."""
        depth, height, width = self.shape
        out = self.features.new_zeros(depth * height * width, self.features.shape[1])
        out[_keys(self.places, self.shape)] = self.features
        return out.view(depth, height, width, -1).permute(3, 0, 1, 2).reshape(1, -1, height, width)


def _keys(places: Tensor, shape: Triple) -> Tensor:
    return (places[:, 0] * shape[1] + places[:, 1]) * shape[2] + places[:, 2]


class SparseConv(nn.Module):
    """A sparse convolution without bias.

    With `submanifold`, outputs lie where inputs lie; else wherever the kernel reaches one.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1), padding: Triple = (0, 0, 0),
        submanifold: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel, self.stride, self.submanifold = kernel, stride, submanifold
        self.padding: Triple = tuple(k // 2 for k in kernel) if submanifold else padding  # type: ignore[assignment]
        self.weight = nn.Parameter(torch.empty(*kernel, inputs, outputs))
        nn.init.normal_(self.weight, std=(2.0 / (inputs * kernel[0] * kernel[1] * kernel[2])) ** 0.5)

    def forward(self, x: SparseTensor) -> SparseTensor:
        if self.submanifold:
            places, shape = x.places, x.shape
        else:
            places, shape = self._reached(x)
        keys, order = _keys(x.places, x.shape).sort()
        out = x.features.new_zeros(len(places), self.weight.shape[-1])
        step = places.new_tensor(self.stride)
        pad = places.new_tensor(self.padding)
        limit = places.new_tensor(x.shape)
        for offset in product(*(range(k) for k in self.kernel)):
            source = places * step + places.new_tensor(offset) - pad
            valid = ((source >= 0) & (source < limit)).all(dim=1)
            wanted = _keys(source, x.shape)
            at = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
            valid = valid & (keys[at] == wanted) if len(keys) else torch.zeros_like(valid)
            rows = valid.nonzero()[:, 0]
            if len(rows):
                out.index_add_(0, rows, x.features[order[at[rows]]] @ self.weight[offset])
        return SparseTensor(out, places, shape)

    def _reached(self, x: SparseTensor) -> tuple[Tensor, Triple]:
        sizes = zip(x.shape, self.kernel, self.stride, self.padding, strict=True)
        shape: Triple = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)  # type: ignore[assignment]
        step, pad = x.places.new_tensor(self.stride), x.places.new_tensor(self.padding)
        limit = x.places.new_tensor(shape)
        found = []
        for offset in product(*(range(k) for k in self.kernel)):
            shifted = x.places + pad - x.places.new_tensor(offset)
            target = torch.div(shifted, step, rounding_mode="floor")
            fits = ((shifted >= 0) & (target * step == shifted) & (target < limit)).all(dim=1)
            found.append(_keys(target[fits], shape))
        keys = torch.cat(found).unique()
        plane = shape[1] * shape[2]
        z = torch.div(keys, plane, rounding_mode="floor")
        rest = keys - z * plane
        y = torch.div(rest, shape[2], rounding_mode="floor")
        return torch.stack([z, y, rest - y * shape[2]], dim=1), shape


class _ConvNorm(nn.Sequential):
    """Sparse convolution, batch norm, ReLU."""

    def __init__(self, conv: SparseConv) -> None:
        super().__init__(conv, nn.BatchNorm1d(conv.weight.shape[-1], **_BN))

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        x = self[0](x)
        return x._replace(features=self[1](x.features).relu())


class _BasicBlock(nn.Module):
    """Two submanifold convolutions and a way round them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = SparseConv(dim, dim, (3, 3, 3), submanifold=True)
        self.bn1 = nn.BatchNorm1d(dim, **_BN)
        self.conv2 = SparseConv(dim, dim, (3, 3, 3), submanifold=True)
        self.bn2 = nn.BatchNorm1d(dim, **_BN)

    def forward(self, x: SparseTensor) -> SparseTensor:
        inner = self.conv1(x)
        inner = self.conv2(inner._replace(features=self.bn1(inner.features).relu()))
        return x._replace(features=(self.bn2(inner.features) + x.features).relu())


class SparseEncoder(nn.Module):
    """Voxel features to a map of the ground at an eighth of the voxels' resolution."""

    def __init__(self, inputs: int = 5, shape: Triple = (41, 1440, 1440), outputs: int = 128) -> None:
        super().__init__()
        self.shape = shape
        self.conv_input = _ConvNorm(SparseConv(inputs, 16, (3, 3, 3), submanifold=True))
        widths: tuple[tuple[int, int, Triple], ...] = ((16, 32, (1, 1, 1)), (32, 64, (1, 1, 1)), (64, 128, (0, 1, 1)))
        self.encoder_layers = nn.Module()
        for i, (dim, wider, padding) in enumerate(widths):
            down = _ConvNorm(SparseConv(dim, wider, (3, 3, 3), (2, 2, 2), padding))
            stage = nn.Sequential(_BasicBlock(dim), _BasicBlock(dim), down)
            self.encoder_layers.add_module(f"encoder_layer{i + 1}", stage)
        self.encoder_layers.add_module("encoder_layer4", nn.Sequential(_BasicBlock(128), _BasicBlock(128)))
        self.conv_out = _ConvNorm(SparseConv(128, outputs, (3, 1, 1), (2, 1, 1)))

    def forward(self, features: Tensor, places: Tensor) -> Tensor:
        """(N, 5) means of the points of N voxels at (N, 3) places z, y, x to (1, 256, rows, columns).

        Raises:
            DataError: a place is out of the grid.
        """
        limit = places.new_tensor(self.shape)
        if len(places) and bool(((places < 0) | (places >= limit)).any()):
            raise DataError(f"voxels: expected places within {self.shape}")
        x = self.conv_input(SparseTensor(features, places, self.shape))
        for i in range(4):
            x = self.encoder_layers.get_submodule(f"encoder_layer{i + 1}")(x)
        return self.conv_out(x).dense()
