"""`sensing.depth_completion` in torch: sparse depth of LiDAR points in camera images, and dense depth from it.

J. Ku, A. Harakeh, S. Waslander, "In Defense of Classical Image Processing: Fast Depth Completion on the CPU", CRV 2018
(arXiv:1802.00036). Growing and shrinking are maxima and minima over windows, which know nothing beyond the borders.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from mm_perception.gpu.transfer import constant
from mm_perception.sensing.depth_completion import EMPTY, MAX_DEPTH_M, MIDDLE_M, NEAR_M, SPREADS
from mm_perception.sensing.fusion_geometry import NEAREST_M

_SIGMA_M, _SIGMA_PX, _RADIUS_PX = 0.5, 2.0, 2  # of the bilateral filter


def sparse_depth(points: Tensor, lidar2img: Tensor, image_size: tuple[int, int], map_size: tuple[int, int]) -> Tensor:
    """(V, h, w) float32 depth along each camera's axis [m], 0 where no point falls.

    Of several points in one place the nearest stays. Points that are not finite, behind a camera or beyond its image
    are left out.

    Args:
        points: (N, 3) float64 in the LiDAR's frame.
        lidar2img: (V, 4, 4) float64 to homogeneous pixels of images of `image_size` (height, width).
        map_size: height and width of the maps.
    """
    height, width = map_size
    image = points @ lidar2img[:, :3, :3].mT + lidar2img[:, None, :3, 3]
    z = image[..., 2]
    size = constant((image_size[1], image_size[0]), torch.float64, points.device)
    cell = constant((width, height), torch.float64, points.device)
    place = (image[..., :2] / z[..., None] / size * cell).floor()
    known = points.isfinite().all(dim=1) & (z > NEAREST_M) & ((place >= 0) & (place < cell)).all(dim=-1)
    # Whoever is left out falls into a cell beyond the map.
    index = torch.where(known, place[..., 1] * width + place[..., 0], height * width).long()
    maps = torch.full((len(lidar2img), height * width + 1), torch.inf, dtype=torch.float64, device=points.device)
    maps = maps.scatter_reduce_(1, index, torch.where(known, z, torch.inf), "amin")[:, :-1]
    return torch.where(maps.isfinite(), maps, 0.0).reshape(-1, height, width).float()


def complete_depth(maps: Tensor) -> Tensor:
    """(V, h, w) sparse depth [m], 0 for none, to dense depth; 0 stays above the topmost depth of each column.

    Args:
        maps: finite and not negative; not checked, for the host would have to wait. h and w are 3 at least.
    """
    if not len(maps):
        return maps
    filled = _grown_by_distance(maps)
    filled = -_dilated(-_dilated(filled, 5), 5)
    filled = torch.where(filled > EMPTY, _median5(filled), filled)
    filled = torch.where((filled <= EMPTY) & _below_top(filled), _dilated(filled, 9), filled)
    below = _below_top(filled)
    for _ in range(SPREADS):
        filled = torch.where((filled < EMPTY) & below, _dilated(filled, 5), filled)
    known = (filled > EMPTY) & below
    filled = torch.where(known, _median5(filled), filled)
    filled = torch.where(known, _bilateral(filled), filled)
    return torch.where(filled > EMPTY, MAX_DEPTH_M - filled, filled)


def _grown_by_distance(depth: Tensor) -> Tensor:
    """Turned depth, each point grown by a cross that is larger for near points; near ones win."""
    turned = torch.where(depth > EMPTY, MAX_DEPTH_M - depth, depth)
    out = turned
    for low, high, size in ((MIDDLE_M, math.inf, 3), (NEAR_M, MIDDLE_M, 5), (EMPTY, NEAR_M, 7)):
        chosen = torch.where((depth > low) & (depth <= high), turned, 0.0)
        grown = torch.maximum(_dilated(chosen, (size, 1)), _dilated(chosen, (1, size)))
        out = torch.where(grown > EMPTY, grown, out)
    return out


def _dilated(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The largest value in a window of `size` (both sides, or rows and columns) round each place."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return max_pool2d(maps[:, None], (rows, columns), 1, (rows // 2, columns // 2))[:, 0]


def _median5(maps: Tensor) -> Tensor:
    """Median of 5 x 5 values; beyond the borders lie those of the border."""
    padded = pad(maps[:, None], (2, 2, 2, 2), mode="replicate")[:, 0]
    return padded.unfold(1, 5, 1).unfold(2, 5, 1).flatten(-2).sort(dim=-1).values[..., 12]


def _bilateral(maps: Tensor) -> Tensor:
    """Bilateral filter over a disc; beyond the borders the values are mirrored."""
    height, width = maps.shape[1:]
    r = _RADIUS_PX
    padded = pad(maps[:, None], (r, r, r, r), mode="reflect")[:, 0]
    total, weights = torch.zeros_like(maps), torch.zeros_like(maps)
    for i in range(-r, r + 1):
        for j in range(-r, r + 1):
            if math.hypot(i, j) > r:
                continue
            other = padded[:, r + i : r + i + height, r + j : r + j + width]
            exponent = (other - maps).square() * (-0.5 / _SIGMA_M**2) - (i * i + j * j) * (0.5 / _SIGMA_PX**2)
            weight = exponent.exp()
            total, weights = total + weight * other, weights + weight
    return total / weights


def _below_top(filled: Tensor) -> Tensor:
    """(V, h, w) what does not lie above the topmost depth of its column; all of a column without any."""
    known = filled > EMPTY
    return (known.cumsum(dim=1) > 0) | ~known.any(dim=1, keepdim=True)
