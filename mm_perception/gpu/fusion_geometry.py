"""`sensing.fusion_geometry` in torch: the maps that a fusion network samples by.

Places are computed in float64, as there, and leave in float32. Matrices come inverted from the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mm_perception.gpu.transfer import constant
from mm_perception.sensing.fusion_geometry import NEAREST_M, FusionGrid


@dataclass(frozen=True, slots=True, eq=False)
class PointKeys:
    """`sensing.fusion_geometry.PointKeys`: grid (P, K * S, 2) float32, valid (P, K * S) bool, lost () int64."""

    grid: Tensor
    valid: Tensor
    lost: Tensor


def point_keys(
    points: Tensor,
    present: Tensor,
    lidar2img: Tensor,
    grid: FusionGrid,
    views_per_point: int = 2,
    lidar_from_bev: Tensor | None = None,
) -> PointKeys:
    """Projects the points of pillars into the cameras that see them.

    Args:
        points: (P, K, 3) [m]. `present`: (P, K).
        lidar2img: (V, 4, 4) float64 to homogeneous pixels of the network's images.
        views_per_point: S; cameras in their order.
        lidar_from_bev: (4, 4) float64, where the points were augmented; None: not.
    """
    count, most = points.shape[:2]
    flat = moved(points.reshape(-1, 3).double(), lidar_from_bev)
    uv, seen = project(flat, lidar2img, grid.image_size)
    seen = seen & present.reshape(1, -1)
    rank = seen.cumsum(0) - 1
    kept = seen & (rank < views_per_point)
    # Whoever is not kept is written into a place beyond the others.
    beyond = count * most * views_per_point
    point = torch.arange(count * most, device=points.device)
    slot = torch.where(kept, point * views_per_point + rank, beyond).reshape(-1)
    places = torch.zeros((beyond + 1, 2), dtype=torch.float32, device=points.device)
    places[slot] = atlas_coordinates(uv, grid.map_size).reshape(-1, 2)
    valid = torch.zeros(beyond + 1, dtype=torch.bool, device=points.device)
    valid[slot] = True
    shape = (count, most * views_per_point)
    return PointKeys(places[:-1].reshape(*shape, 2), valid[:-1].reshape(shape), (seen & ~kept).sum())


def project(points: Tensor, lidar2img: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(V, N, 2) sampling coordinates of (N, 3) points in V images, and (V, N) whether each is within the image."""
    image = points @ lidar2img[:, :3, :3].mT + lidar2img[:, None, :3, 3]
    z = image[..., 2]
    size = constant((image_size[1], image_size[0]), torch.float64, points.device)
    uv = image[..., :2] / z.clamp(min=NEAREST_M)[..., None] / size * 2.0 - 1.0
    return uv, (z > NEAREST_M) & (uv.abs() < 1.0).all(dim=-1)


def atlas_coordinates(uv: Tensor, map_size: tuple[int, int]) -> Tensor:
    """(V, N, 2) coordinates in each of V images to those in the atlas of all, float32."""
    views, height = len(uv), map_size[0]
    view = torch.arange(views, dtype=torch.float64, device=uv.device)[:, None]
    row = (uv[..., 1] + 1.0) / 2.0 * height + view * (height + 1.0)
    return torch.stack([uv[..., 0], 2.0 * row / (views * (height + 1.0)) - 1.0], dim=-1).float()


def warp_map(
    depth_m: Tensor, img2lidar: Tensor, grid: FusionGrid, bev_from_lidar: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Where each image cell's depth puts it in the bird's-eye view; see `sensing.fusion_geometry.warp_map`.

    Args:
        depth_m: (V, h, w) completed depth.
        img2lidar: (V, 4, 4) float64 from homogeneous pixels.

    Returns:
        (V, h, w, 2) float32 sampling coordinates and (V, h, w) whether the place is within the range.
    """
    height, width = grid.map_size
    device, z = depth_m.device, depth_m.double()
    u = torch.arange(width, dtype=torch.float64, device=device) * ((grid.image_size[1] - 1.0) / max(width - 1, 1))
    v = torch.arange(height, dtype=torch.float64, device=device) * ((grid.image_size[0] - 1.0) / max(height - 1, 1))
    pixels = torch.stack([u * z, v[:, None] * z, z], dim=-1).reshape(len(z), -1, 3)
    points = pixels @ img2lidar[:, :3, :3].mT + img2lidar[:, None, :3, 3]
    points = moved(points, bev_from_lidar).reshape(*z.shape, 3)
    low, high = (constant(v, torch.float64, device) for v in (grid.range_m[:3], grid.range_m[3:]))
    inside = ((points > low) & (points < high)).all(dim=-1)
    return _normalised(points[..., :2], grid).float(), inside


@dataclass(frozen=True, slots=True, eq=False)
class PolarMaps:
    """`sensing.fusion_geometry.PolarMaps`: rays (V, w, R, 2) and back (V, rows, columns, 2) float32, seen bool."""

    rays: Tensor
    back: Tensor
    seen: Tensor


def polar_maps(
    lidar2img: Tensor,
    img2lidar: Tensor,
    grid: FusionGrid,
    bev_from_lidar: Tensor | None = None,
    lidar_from_bev: Tensor | None = None,
) -> PolarMaps:
    """How image columns and rays over the ground correspond. Args: see `point_keys` and `warp_map`."""
    device, views = lidar2img.device, len(lidar2img)
    radii = (torch.arange(grid.radii, dtype=torch.float64, device=device) + 1.5) * grid.radius_step_m
    rays = _column_directions(img2lidar, grid)[:, :, None] * radii[:, None]
    rays = moved(torch.nn.functional.pad(rays, (0, 1)), bev_from_lidar)
    rows, columns = grid.bev_cells
    cells = moved(_cell_centres(grid, device).reshape(-1, 3), lidar_from_bev)
    uv, seen = project(cells, lidar2img, grid.image_size)
    across = uv[..., 0].reshape(views, rows, columns, grid.heights).mean(dim=-1)
    ground = cells.reshape(rows, columns, grid.heights, 3)[:, :, 0, :2]
    distance = torch.linalg.vector_norm(ground - img2lidar[:, None, None, :2, 3], dim=-1)
    reach = grid.radii * grid.radius_step_m
    along = (2.0 * (distance - grid.radius_step_m) / reach - 1.0).clamp(-1.0, 1.0)
    back = torch.stack([across, along], dim=-1).float()
    seen = seen.reshape(views, rows, columns, grid.heights).any(dim=-1)
    return PolarMaps(_normalised(rays[..., :2], grid).float(), back, seen)


def _column_directions(img2lidar: Tensor, grid: FusionGrid) -> Tensor:
    """(V, w, 2) unit directions over the ground of the rays through each column's middle row."""
    height, width = grid.map_size
    u = (torch.arange(width, dtype=torch.float64, device=img2lidar.device) + 0.5) * grid.stride
    pixels = torch.stack([u, torch.full_like(u, height // 2 * grid.stride), torch.ones_like(u)], dim=-1)
    ahead = pixels @ img2lidar[:, :2, :3].mT
    unit: Tensor = ahead / torch.linalg.vector_norm(ahead, dim=-1, keepdim=True)
    return unit


def _cell_centres(grid: FusionGrid, device: torch.device) -> Tensor:
    """(rows, columns, heights, 3) points [m]."""
    x0, y0, z0, x1, y1, z1 = grid.range_m

    def middles(low: float, high: float, count: int) -> Tensor:
        return low + (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (high - low) / count

    y, x, z = torch.meshgrid(
        middles(y0, y1, grid.bev_cells[0]), middles(x0, x1, grid.bev_cells[1]), middles(z0, z1, grid.heights),
        indexing="ij",
    )  # fmt: skip
    return torch.stack([x, y, z], dim=-1)


def _normalised(xy_m: Tensor, grid: FusionGrid) -> Tensor:
    """(..., 2) metres to sampling coordinates of the bird's-eye view."""
    low, high = (constant(v, torch.float64, xy_m.device) for v in (grid.range_m[:2], grid.range_m[3:5]))
    return 2.0 * (xy_m - low) / (high - low) - 1.0


def moved(points: Tensor, transform: Tensor | None) -> Tensor:
    """(..., 3) points after an affine (4, 4) transform; None: none."""
    return points if transform is None else points @ transform[:3, :3].T + transform[:3, 3]
