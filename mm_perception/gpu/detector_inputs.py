"""`sensing.detector_inputs` in torch: the tensors that a detector takes, made where it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.core.detector import DetectorVariant
from mm_perception.gpu.cells import DeviceCells, cell_index, decorated, gather_cells
from mm_perception.gpu.depth_completion import complete_depth, sparse_depth
from mm_perception.gpu.fusion_geometry import PointKeys, moved, point_keys, polar_maps, warp_map
from mm_perception.gpu.images import normalised_views
from mm_perception.gpu.transfer import constant, upload
from mm_perception.sensing.detector_inputs import (
    FEATURE_SCALES,
    DetectorView,
    check_view,
    detector_grids,
    hidden_where_missing,
)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceDetectorTensors:
    """`sensing.detector_inputs.DetectorTensors` with torch tensors on the device."""

    tensors: dict[str, Tensor]
    lost: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Geometry:
    """Matrices on the device, float64: (V, 4, 4) projections both ways, and (4, 4) of the augmentation or None."""

    lidar2img: Tensor
    img2lidar: Tensor
    bev_from_lidar: Tensor | None
    lidar_from_bev: Tensor | None

    @classmethod
    def of(cls, lidar2img: NDArray[np.float64], view: DetectorView, device: torch.device) -> _Geometry:
        """Inverted on the host, where such small matrices cost nothing and their solver waits for nobody."""
        forward, back = _both_ways(lidar2img, device)
        if view.bev_from_lidar is None:
            return cls(forward, back, None, None)
        return cls(forward, back, *_both_ways(view.bev_from_lidar, device))


class GpuDetectorEncoder:
    """Prepares the inputs of one variant on a device, as `DetectorEncoder` does on the host.

    Indices and counts equal those of the host, and so do features to the rounding of float32 and completed depth to
    1e-4 m. Of points that lie within the rounding of float64 from a border, the two may decide differently.

    Attributes:
        grid: where the fusion's two planes lie.
    """

    def __init__(
        self, variant: DetectorVariant, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        """Args:
        mean, std: of RGB / 255, per channel.
        """
        self.variant, self._device = variant, device
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.grid, self._pillars, self._cells = detector_grids(variant)
        self._polar: tuple[bytes, dict[str, Tensor]] = (b"", {})

    def encode(self, view: DetectorView) -> DeviceDetectorTensors:
        """All inputs, in the order in which the network takes them; waits for the counts of what was lost.

        Raises:
            DataError: images or calibration have other shapes than the variant.
        """
        check_view(self.variant, view)
        lidar2img = hidden_where_missing(view.lidar2img, view.present)
        geometry = _Geometry.of(lidar2img, view, self._device)
        points = upload(view.points, self._device)
        pillars, cells = gather_cells(points, self._pillars), gather_cells(points, self._cells)
        keys = self._keys(cells, geometry)
        tensors = {
            "images": normalised_views(view.images, view.present, self._mean, self._std, self._device),
            "lidar2img": geometry.lidar2img.float(),
            **self._front_end(pillars),
            **self._key_inputs(keys, cells),
            **self._warp(points, upload(view.present, self._device), geometry),
            **self._rays(lidar2img, view, geometry),
        }
        counts = torch.cat([pillars.lost, cells.lost[2:], keys.lost[None]]).tolist()
        names = ("out_of_range", "over_pillar", "over_pillars", "over_cells", "seen_too_often")
        return DeviceDetectorTensors(tensors, dict(zip(names, counts, strict=True)))

    def _front_end(self, pillars: DeviceCells) -> dict[str, Tensor]:
        _, pillar_in = cell_index(pillars, self.variant.pillar_cells)
        return {
            "points": decorated(pillars, self._pillars) * constant(FEATURE_SCALES, torch.float32, self._device),
            "point_mask": pillars.present.float(),
            "lidar_cell_pillar": pillar_in,
        }

    def _keys(self, cells: DeviceCells, geometry: _Geometry) -> PointKeys:
        places, views_per_point = cells.points[..., :3], self.variant.views_per_point
        return point_keys(
            places, cells.present, geometry.lidar2img, self.grid, views_per_point, geometry.lidar_from_bev
        )

    def _key_inputs(self, keys: PointKeys, cells: DeviceCells) -> dict[str, Tensor]:
        cell_of, pillar_in = cell_index(cells, self.variant.bev_cells)
        return {
            "key_grid": keys.grid,
            "key_valid": keys.valid.float(),
            "pillar_cell": cell_of,
            "cell_pillar": pillar_in,
        }

    def _warp(self, points: Tensor, present: Tensor, geometry: _Geometry) -> dict[str, Tensor]:
        places = moved(points[:, :3].double(), geometry.lidar_from_bev)
        sparse = sparse_depth(places, geometry.lidar2img, self.variant.image_size, self.grid.map_size)
        grid, inside = warp_map(complete_depth(sparse), geometry.img2lidar, self.grid, geometry.bev_from_lidar)
        return {"warp_grid": grid, "warp_valid": (inside & present[:, None, None]).float()}

    def _rays(self, lidar2img: NDArray[np.float64], view: DetectorView, geometry: _Geometry) -> dict[str, Tensor]:
        """Depends on the calibration alone, which seldom changes: the last result is kept."""
        key = lidar2img.tobytes() + (b"" if view.bev_from_lidar is None else view.bev_from_lidar.tobytes())
        if self._polar[0] != key:
            g = geometry
            maps = polar_maps(g.lidar2img, g.img2lidar, self.grid, g.bev_from_lidar, g.lidar_from_bev)
            self._polar = (key, {"rays": maps.rays, "back": maps.back, "seen": maps.seen.float()})
        return self._polar[1]


def _both_ways(matrices: NDArray[np.float64], device: torch.device) -> tuple[Tensor, Tensor]:
    """(..., 4, 4) float64 matrices and their inverses."""
    forward, back = upload(np.stack([matrices, np.linalg.inv(matrices)]).astype(np.float64), device)
    return forward, back
