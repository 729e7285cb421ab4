"""Small parts that the blocks share."""

from __future__ import annotations

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two layers, added to the input."""

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(dim, hidden), activation()), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return x + self.layers(x)


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()
