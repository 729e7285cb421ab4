"""`sensing.events` in torch: events to a voxel grid.

A. Zhu, L. Yuan, K. Chaney, K. Daniilidis, Unsupervised Event-based Learning of Optical Flow, Depth, and Egomotion,
CVPR 2019, Eq. (1)-(3).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mm_perception.core.errors import DataError
from mm_perception.core.types import EventPacket
from mm_perception.gpu.transfer import upload

_UNITS = float(2**32)
"""Shares of an event are counted in whole parts of it: a GPU adds in any order, and only whole numbers do not mind."""
_LEAST_SPREAD = 1e-6


def voxel_grid(events: EventPacket, start_ns: int, end_ns: int, device: torch.device, bins: int = 3) -> Tensor:
    """(bins, H, W) float32 signed voxel grid of the events in [start_ns, end_ns]; see `sensing.events.voxel_grid`.

    Raises:
        DataError: the window is empty or `bins` is less than 2.
    """
    if end_ns <= start_ns or bins < 2:
        raise DataError(f"voxel grid of {bins} bins over [{start_ns}, {end_ns}] ns makes no sense")
    first, last = np.searchsorted(events.t_ns, start_ns, side="left"), np.searchsorted(events.t_ns, end_ns, "right")
    chosen = slice(int(first), int(last))
    x, y = (upload(values[chosen], device).to(torch.int64) for values in (events.x, events.y))
    since_start = upload(events.t_ns[chosen], device) - start_ns
    position = since_start.double() * ((bins - 1) / (end_ns - start_ns))  # Eq. (1)
    lower = position.long().clamp(max=bins - 2)
    sign = upload(events.polarity[chosen], device).long() * 2 - 1
    later = ((position - lower) * _UNITS).round().long()
    pixels = events.height * events.width
    index = lower * pixels + y * events.width + x
    grid = torch.zeros(bins * pixels, dtype=torch.int64, device=device)
    grid.index_add_(0, index, sign * (int(_UNITS) - later))  # Eq. (2), (3)
    grid.index_add_(0, index + pixels, sign * later)
    return (grid.double() / _UNITS).float().reshape(bins, events.height, events.width)


def event_image(events: EventPacket, start_ns: int, end_ns: int, device: torch.device) -> Tensor:
    """(3, H, W) voxel grid whose non-zero cells have mean 0 and standard deviation 1; see `sensing.events`."""
    grid = voxel_grid(events, start_ns, end_ns, device)
    active = grid != 0
    count = active.sum().clamp(min=1)
    mean = grid.sum(dtype=torch.float64) / count
    centred = torch.where(active, grid - mean, 0.0)
    spread = (centred.square().sum() / count).sqrt()
    scaled = torch.where(spread > _LEAST_SPREAD, centred / spread.clamp(min=_LEAST_SPREAD), grid.sign())
    return torch.where(active, scaled, 0.0).float()
