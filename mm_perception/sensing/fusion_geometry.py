"""Where image features and bird's-eye-view cells meet: the maps that a fusion network samples by.

They depend on calibration and points, not on weights, so they are computed outside of the network, in numpy; the
network gets them as inputs of fixed shapes. After Yang et al., "DeepInteraction++" (arXiv:2408.05075), section III.

Sampling coordinates are those of `torch.nn.functional.grid_sample(align_corners=False)`: -1 and 1 are the outer edges
of the first and last pixel. The bird's-eye view has x to the right (columns) and y downwards (rows), both growing with
the LiDAR frame's x and y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
NEAREST_M = 1e-5
"""Points must lie farther than this before a camera."""


@dataclass(frozen=True, slots=True)
class FusionGrid:
    """The two planes that a network fuses.

    Attributes:
        range_m: x, y, z of the lower and of the upper corner, in the LiDAR's frame.
        bev_cells: rows (y) and columns (x).
        image_size: height and width of the network's images [px].
        stride: pixels per cell of the image feature map.
        radii: number of polar bins, `radius_step_m` apart; the first lies at 1.5 steps.
        heights: samples in z by which a cell is projected into the images.
    """

    range_m: tuple[float, float, float, float, float, float]
    bev_cells: tuple[int, int]
    image_size: tuple[int, int]
    stride: int = 4
    radii: int = 60
    radius_step_m: float = 1.0
    heights: int = 10

    def __post_init__(self) -> None:
        low, high = np.array(self.range_m[:3]), np.array(self.range_m[3:])
        if not (high > low).all() or min(*self.bev_cells, *self.image_size, self.stride, self.radii, self.heights) < 1:
            raise ConfigError(f"fusion grid: expected rising ranges and positive sizes, got {self}")
        if self.image_size[0] % self.stride or self.image_size[1] % self.stride:
            raise ConfigError(f"fusion grid: image size {self.image_size} is no multiple of the stride {self.stride}")

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the image feature map."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def cell_m(self) -> tuple[float, float]:
        """Size of a cell along x and y."""
        x0, y0, _, x1, y1, _ = self.range_m
        return (x1 - x0) / self.bev_cells[1], (y1 - y0) / self.bev_cells[0]

    def normalised(self, xy_m: F64) -> F64:
        """(..., 2) metres to sampling coordinates of the bird's-eye view."""
        low, high = np.array(self.range_m[:2]), np.array(self.range_m[3:5])
        return np.asarray(2.0 * (xy_m - low) / (high - low) - 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class PointKeys:
    """Image places of the points of P pillars, K * S each: in an atlas of all views, see `atlas_coordinates`.

    Attributes:
        grid: (P, K * S, 2) sampling coordinates.
        valid: (P, K * S) whether there is a point that the camera sees.
        lost: points that more than S cameras see, once per camera that was left out.
    """

    grid: F32
    valid: NDArray[np.bool_]
    lost: int


def point_keys(
    points: F32,
    present: NDArray[np.bool_],
    lidar2img: F64,
    grid: FusionGrid,
    views_per_point: int = 2,
    lidar_from_bev: F64 | None = None,
) -> PointKeys:
    """Projects the points of pillars into the cameras that see them.

    Args:
        points: (P, K, 3) [m]. `present`: (P, K).
        lidar2img: (V, 4, 4) to homogeneous pixels of the network's images.
        views_per_point: S; cameras in their order.
        lidar_from_bev: (4, 4), where the points were augmented; None: not.
    """
    count, most = points.shape[:2]
    views = len(lidar2img)
    flat = moved(points.reshape(-1, 3).astype(np.float64), lidar_from_bev)
    uv, seen = project(flat, lidar2img, grid.image_size)
    seen &= present.reshape(1, -1)
    rank = np.cumsum(seen, axis=0) - 1
    places = np.zeros((count * most, views_per_point, 2), np.float32)
    valid = np.zeros((count * most, views_per_point), bool)
    view, point = np.nonzero(seen & (rank < views_per_point))
    slot = rank[view, point]
    places[point, slot] = atlas_coordinates(uv[view, point], view, views, grid.map_size)
    valid[point, slot] = True
    lost = int(np.count_nonzero(seen & (rank >= views_per_point)))
    shape = (count, most * views_per_point)
    return PointKeys(places.reshape(*shape, 2), valid.reshape(shape), lost)


def project(points: F64, lidar2img: F64, image_size: tuple[int, int]) -> tuple[F64, NDArray[np.bool_]]:
    """(V, N, 2) sampling coordinates of (N, 3) points in V images, and (V, N) whether each is within the image."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    image = np.einsum("vij,nj->vni", lidar2img[:, :3], homogeneous)
    z = image[..., 2]
    height, width = image_size
    uv = image[..., :2] / np.maximum(z, NEAREST_M)[..., None] / (width, height) * 2.0 - 1.0
    with np.errstate(invalid="ignore"):
        seen = (z > NEAREST_M) & (np.abs(uv) < 1.0).all(axis=-1)
    return uv, seen


def atlas_coordinates(uv: F64, view: NDArray[np.integer], views: int, map_size: tuple[int, int]) -> F32:
    """(N, 2) coordinates in one image to those in the atlas.

    The atlas holds the feature maps of all views below each other, with a row of zeros below each, so that one sampling
    serves all views and meets zeros beyond each map's edges, as sampling in the map itself would.
    """
    height, _ = map_size
    row = (uv[:, 1] + 1.0) / 2.0 * height + view * (height + 1.0)
    return np.stack([uv[:, 0], 2.0 * row / (views * (height + 1.0)) - 1.0], axis=-1).astype(np.float32)


def warp_map(
    depth_m: F32, img2lidar: F64, grid: FusionGrid, bev_from_lidar: F64 | None = None
) -> tuple[F32, NDArray[np.bool_]]:
    """Where each image cell's depth puts it in the bird's-eye view.

    Cells without depth (0) land at the camera's centre, as in the published network.

    Args:
        depth_m: (V, h, w) completed depth.
        img2lidar: (V, 4, 4) from homogeneous pixels.

    Returns:
        (V, h, w, 2) sampling coordinates and (V, h, w) whether the place is within the range in x, y and z.
    """
    height, width = grid.map_size
    u = np.linspace(0.0, grid.image_size[1] - 1.0, width)
    v = np.linspace(0.0, grid.image_size[0] - 1.0, height)
    uu, vv = np.meshgrid(u, v)
    z = depth_m.astype(np.float64)
    pixels = np.stack([uu * z, vv * z, z, np.ones_like(z)], axis=-1)
    points = np.einsum("vij,vhwj->vhwi", img2lidar[:, :3], pixels)
    points = moved(points.reshape(-1, 3), bev_from_lidar).reshape(points.shape)
    low, high = np.array(grid.range_m[:3]), np.array(grid.range_m[3:])
    inside = ((points > low) & (points < high)).all(axis=-1)
    return grid.normalised(points[..., :2]).astype(np.float32), inside


@dataclass(frozen=True, slots=True, eq=False)
class PolarMaps:
    """How image columns and rays over the ground correspond, for V views.

    Attributes:
        rays: (V, w, R, 2) where each column's ray meets each radius, as sampling coordinates of the bird's-eye view.
        back: (V, rows, columns, 2) where each cell of the bird's-eye view lies in the (R, w) polar map.
        seen: (V, rows, columns) whether the view sees any height of the cell.
    """

    rays: F32
    back: F32
    seen: NDArray[np.bool_]


def polar_maps(lidar2img: F64, img2lidar: F64, grid: FusionGrid, bev_from_lidar: F64 | None = None) -> PolarMaps:
    """Args: see `point_keys` and `warp_map`; the result depends on the calibration alone."""
    lidar_from_bev = None if bev_from_lidar is None else np.asarray(np.linalg.inv(bev_from_lidar), np.float64)
    radii = (np.arange(grid.radii) + 1.5) * grid.radius_step_m
    directions = _column_directions(img2lidar, grid)
    rays = directions[:, :, None] * radii[:, None]
    rays = np.concatenate([rays, np.zeros((*rays.shape[:-1], 1))], axis=-1)
    rays = moved(rays.reshape(-1, 3), bev_from_lidar).reshape(rays.shape)
    cells = moved(_cell_centres(grid).reshape(-1, 3), lidar_from_bev)
    uv, seen = project(cells, lidar2img, grid.image_size)
    rows, columns = grid.bev_cells
    shape = (len(lidar2img), rows, columns, grid.heights)
    seen = seen.reshape(shape)
    across = uv[..., 0].reshape(shape).mean(axis=-1)
    camera = img2lidar[:, :2, 3]
    distance = np.linalg.norm(
        cells.reshape(rows, columns, grid.heights, 3)[:, :, 0, :2] - camera[:, None, None], axis=-1
    )
    reach = grid.radii * grid.radius_step_m
    along = np.clip(2.0 * (distance - grid.radius_step_m) / reach - 1.0, -1.0, 1.0)
    back = np.stack([across, along], axis=-1).astype(np.float32)
    return PolarMaps(grid.normalised(rays[..., :2]).astype(np.float32), back, np.asarray(seen.any(axis=-1)))


def _column_directions(img2lidar: F64, grid: FusionGrid) -> F64:
    """(V, w, 2) unit directions over the ground of the rays through each column's middle row."""
    height, width = grid.map_size
    u = (np.arange(width) + 0.5) * grid.stride
    v = np.full(width, float(height // 2) * grid.stride)
    pixels = np.stack([u, v, np.ones(width)], axis=-1)
    ahead = np.einsum("vij,wj->vwi", img2lidar[:, :2, :3], pixels)
    return np.asarray(ahead / np.linalg.norm(ahead, axis=-1, keepdims=True))


def _cell_centres(grid: FusionGrid) -> F64:
    """(rows, columns, heights, 3) points [m]."""
    x0, y0, z0, x1, y1, z1 = grid.range_m

    def middles(low: float, high: float, count: int) -> F64:
        return np.asarray(low + (np.arange(count) + 0.5) * (high - low) / count)

    y, x, z = np.meshgrid(
        middles(y0, y1, grid.bev_cells[0]), middles(x0, x1, grid.bev_cells[1]), middles(z0, z1, grid.heights),
        indexing="ij",
    )  # fmt: skip
    return np.stack([x, y, z], axis=-1)


def moved(points: F64, transform: F64 | None) -> F64:
    """(N, 3) points after an affine (4, 4) transform; None: none."""
    return points if transform is None else points @ transform[:3, :3].T + transform[:3, 3]
