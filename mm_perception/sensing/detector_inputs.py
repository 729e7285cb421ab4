"""From images, points and calibration to the tensors that a detector takes; node, replay and training use the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.detector import PILLAR_FEATURES, DetectorVariant
from mm_perception.core.errors import DataError
from mm_perception.sensing.depth_completion import complete_depth, sparse_depth
from mm_perception.sensing.fusion_geometry import FusionGrid, moved, point_keys, polar_maps, warp_map
from mm_perception.sensing.pillars import CellGrid, Cells, cell_index, decorated, gather_cells, padded

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
INTENSITY_SCALE = 1.0 / 255.0
LENGTH_SCALE = 1.0 / 50.0
FEATURE_SCALES = (LENGTH_SCALE, LENGTH_SCALE, 1.0, INTENSITY_SCALE, *(1.0,) * (PILLAR_FEATURES - 4))
"""Coordinates and intensities enter the pillar front end in steps of about 1."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorView:
    """What the detector sees at one instant.

    Attributes:
        images: (V, H, W, 3) uint8 RGB of the network's size; what stands where a camera is missing does not matter.
        present: (V,) which cameras are there.
        lidar2img: (V, 4, 4) from the LiDAR's frame to homogeneous pixels of `images`.
        points: (M, 5) x, y, z [m], intensity 0..255, age [s], in the frame of the bird's-eye view.
        bev_from_lidar: (4, 4), where the points were augmented; None: not.
    """

    images: NDArray[np.uint8]
    present: NDArray[np.bool_]
    lidar2img: F64
    points: F32
    bev_from_lidar: F64 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DetectorTensors:
    """Named inputs, and what was lost on the way: points out of range, beyond capacity, seen by too many cameras."""

    tensors: dict[str, NDArray[Any]]
    lost: dict[str, int]


class DetectorEncoder:
    """Prepares the inputs of one variant.

    Attributes:
        grid: where its two planes lie.
    """

    def __init__(self, variant: DetectorVariant, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Args:
        mean, std: of RGB / 255, per channel.
        """
        self.variant = variant
        self._mean, self._std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.grid, self._pillars, self._cells = detector_grids(variant)
        self._polar: tuple[bytes, dict[str, F32]] = (b"", {})

    def encode(self, view: DetectorView) -> DetectorTensors:
        """All inputs, in the order in which the network takes them.

        Raises:
            DataError: images or calibration have other shapes than the variant.
        """
        check_view(self.variant, view)
        lidar2img = hidden_where_missing(view.lidar2img, view.present)
        pillars, cells = gather_cells(view.points, self._pillars), gather_cells(view.points, self._cells)
        tensors: dict[str, NDArray[Any]] = {
            "images": self._images(view),
            "lidar2img": lidar2img.astype(np.float32),
            **self._front_end(pillars),
        }
        keys, lost_keys = self._keys(cells, lidar2img, view.bev_from_lidar)
        tensors |= keys | self._warp(view, lidar2img) | self._rays(view, lidar2img)
        lost = {
            "out_of_range": pillars.out_of_range, "over_pillar": pillars.over_points,
            "over_pillars": pillars.over_cells, "over_cells": cells.over_cells, "seen_too_often": lost_keys,
        }  # fmt: skip
        return DetectorTensors(tensors, lost)

    def _images(self, view: DetectorView) -> F32:
        scaled = (view.images.astype(np.float32) / 255.0 - self._mean) / self._std
        scaled *= view.present[:, None, None, None]
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def _front_end(self, pillars: Cells) -> dict[str, NDArray[Any]]:
        v = self.variant
        points = padded(decorated(pillars, self._pillars), v.max_pillars).astype(np.float32)
        _, pillar_in = cell_index(pillars, v.pillar_cells, v.max_pillars)
        return {
            "points": points * np.asarray(FEATURE_SCALES, np.float32),
            "point_mask": padded(pillars.present, v.max_pillars).astype(np.float32),
            "lidar_cell_pillar": pillar_in,
        }

    def _keys(self, cells: Cells, lidar2img: F64, bev_from_lidar: F64 | None) -> tuple[dict[str, NDArray[Any]], int]:
        v = self.variant
        back = None if bev_from_lidar is None else _inverse(bev_from_lidar)
        keys = point_keys(cells.points[..., :3], cells.present, lidar2img, self.grid, v.views_per_point, back)
        cell_of, pillar_in = cell_index(cells, v.bev_cells, v.max_cells)
        tensors: dict[str, NDArray[Any]] = {
            "key_grid": padded(keys.grid, v.max_cells),
            "key_valid": padded(keys.valid, v.max_cells).astype(np.float32),
            "pillar_cell": cell_of,
            "cell_pillar": pillar_in,
        }
        return tensors, keys.lost

    def _warp(self, view: DetectorView, lidar2img: F64) -> dict[str, NDArray[Any]]:
        back = None if view.bev_from_lidar is None else _inverse(view.bev_from_lidar)
        points = moved(view.points[:, :3].astype(np.float64), back)
        depth = complete_depth(sparse_depth(points, lidar2img, self.variant.image_size, self.grid.map_size))
        grid, inside = warp_map(depth, _inverse(lidar2img), self.grid, view.bev_from_lidar)
        return {"warp_grid": grid, "warp_valid": (inside & view.present[:, None, None]).astype(np.float32)}

    def _rays(self, view: DetectorView, lidar2img: F64) -> dict[str, F32]:
        """Depends on the calibration alone, which seldom changes: the last result is kept."""
        forward = view.bev_from_lidar
        key = lidar2img.tobytes() + (b"" if forward is None else forward.tobytes())
        if self._polar[0] != key:
            maps = polar_maps(lidar2img, _inverse(lidar2img), self.grid, forward)
            self._polar = (key, {"rays": maps.rays, "back": maps.back, "seen": maps.seen.astype(np.float32)})
        return self._polar[1]


def detector_grids(variant: DetectorVariant) -> tuple[FusionGrid, CellGrid, CellGrid]:
    """Where a variant's planes lie: of the fusion, of the front end's pillars, and of the cells that see images."""
    v = variant
    height_m = v.range_m[5] - v.range_m[2]
    return (
        FusionGrid(v.range_m, v.bev_cells, v.image_size, v.stride, v.radii, v.radius_step_m, v.heights),
        CellGrid(v.range_m, (v.pillar_m, v.pillar_m, height_m), v.pillar_points, v.max_pillars),
        CellGrid(v.range_m, (*v.plane.cell_m, height_m), v.cell_points, v.max_cells),
    )


def check_view(variant: DetectorVariant, view: DetectorView) -> None:
    """Raises DataError if images or calibration have other shapes than the variant."""
    v = variant
    expected = {"images": (v.views, *v.image_size, 3), "present": (v.views,), "lidar2img": (v.views, 4, 4)}
    for name, shape in expected.items():
        if getattr(view, name).shape != shape:
            raise DataError(f"detector {name}: expected {shape}, got {getattr(view, name).shape}")


def _inverse(matrices: F64) -> F64:
    return np.asarray(np.linalg.inv(matrices), np.float64)


def hidden_where_missing(lidar2img: F64, present: NDArray[np.bool_]) -> F64:
    """Projections of missing cameras replaced by one that sees nothing: all points lie behind it."""
    out = np.array(lidar2img, np.float64)
    out[~present] = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, -1.0], [0, 0, 1.0, 0]]
    return out
