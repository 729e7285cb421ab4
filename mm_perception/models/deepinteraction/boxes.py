"""Boxes as the network states them, and what follows from them: metres, corners, regions in both planes.

The network's boxes keep mmdetection3d's older convention, in which the published weights were trained: `dim` is the
logarithm of (w, l, h), w along the box's own x axis, and the box is turned about +z by -yaw with
yaw = atan2(sin, cos). The heading that this package uses elsewhere (along l, REP 103) is -yaw - pi / 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mm_perception.core.detector import Plane

NEAREST_M = 1e-5


class RawBoxes(NamedTuple):
    """What the heads say of B * N queries.

    Attributes:
        center: (B, 2, N) x, y in cells. height: (B, 1, N) z of the middle [m]. dim: (B, 3, N) log of w, l, h [m].
        rot: (B, 2, N) sine and cosine of the yaw. vel: (B, 2, N) [m/s]. heatmap: (B, K, N) logits of classes.
    """

    center: Tensor
    height: Tensor
    dim: Tensor
    rot: Tensor
    vel: Tensor
    heatmap: Tensor


def middle_and_size(raw: RawBoxes, plane: Plane) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3) middles [m], (B, N, 3) sizes w, l, h [m] and (B, N) yaws [rad] in the older convention."""
    origin = raw.center.new_tensor(plane.origin_m)
    cell = raw.center.new_tensor(plane.cell_m)
    xy = raw.center.transpose(1, 2) * cell + origin
    middle = torch.cat([xy, raw.height.transpose(1, 2)], dim=-1)
    return middle, raw.dim.transpose(1, 2).exp(), torch.atan2(raw.rot[:, 0], raw.rot[:, 1])


def corners(middle: Tensor, size: Tensor, yaw: Tensor) -> Tensor:
    """(..., 8, 3) corners of (..., 3) middles and sizes and (...) yaws: below and above in turn, round the box."""
    signs = middle.new_tensor(
        [[-1, -1, -1], [-1, -1, 1], [-1, 1, 1], [-1, 1, -1], [1, -1, -1], [1, -1, 1], [1, 1, 1], [1, 1, -1]]
    )
    offset = signs * 0.5 * size[..., None, :]
    sin, cos = yaw.sin()[..., None], yaw.cos()[..., None]
    x = cos * offset[..., 0] + sin * offset[..., 1]
    y = cos * offset[..., 1] - sin * offset[..., 0]
    return torch.stack([x, y, offset[..., 2]], dim=-1) + middle[..., None, :]


def bev_regions(middle: Tensor, size: Tensor, yaw: Tensor, plane: Plane, enlarged: float = 2.0) -> Tensor:
    """(B, N, 4) x0, y0, x1, y1 in cells: rectangles along the axes around boxes that were enlarged."""
    ground = corners(middle, size * enlarged, yaw)[..., :2]
    cells = (ground - ground.new_tensor(plane.origin_m)) / ground.new_tensor(plane.cell_m)
    return torch.cat([cells.amin(dim=-2), cells.amax(dim=-2)], dim=-1)


def project(points: Tensor, lidar2img: Tensor) -> Tensor:
    """(V, N, 2) pixels of (N, 3) points in V images; points behind a camera land somewhere far off."""
    rotation, shift = lidar2img[:, :3, :3], lidar2img[:, :3, 3]
    image = points @ rotation.transpose(1, 2) + shift[:, None]
    return image[..., :2] / image[..., 2:].clamp(min=NEAREST_M)


def image_regions(middle: Tensor, size: Tensor, yaw: Tensor, lidar2img: Tensor) -> Tensor:
    """(V, N, 4) x0, y0, x1, y1 [px] around the projected corners of N boxes; not cut at the image's edges."""
    around = corners(middle, size, yaw)
    pixels = project(around.reshape(-1, 3), lidar2img).view(len(lidar2img), -1, 8, 2)
    return torch.cat([pixels.amin(dim=2), pixels.amax(dim=2)], dim=-1)
