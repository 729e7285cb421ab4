"""Sizes of DeepInteraction++ detectors: what those who prepare inputs and those who build networks agree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ModelError

POINT_FEATURES = 5  # x, y, z, intensity, age
PILLAR_FEATURES = POINT_FEATURES + 5  # and offsets from the pillar's mean (3) and its middle (2)


class Plane(NamedTuple):
    """The bird's-eye view's corner and cell size [m], both (x, y)."""

    origin_m: tuple[float, float]
    cell_m: tuple[float, float]


@dataclass(frozen=True, slots=True)
class DetectorVariant:
    """Sizes of one network.

    Attributes:
        image_size: height and width of the images [px]; views: their number.
        stride: of the image feature map, 4 or 8.
        range_m: x, y, z of the lower and the upper corner, in the LiDAR's frame.
        front_end: "pillars" or "voxels"; pillar_m: side of a pillar or voxel.
        max_pillars, pillar_points: capacity of the front end.
        bev_cells: rows and columns of the fused map.
        max_cells, cell_points: capacity of the cells that look into the images.
        backbone: "swin_t", "resnet50" or "resnet_tiny".
        bev_*: stacks of the LiDAR backbone and strides of its neck.
        inner: width of the dynamic layers.
    """

    image_size: tuple[int, int] = (448, 800)
    stride: int = 4
    views: int = 6
    range_m: tuple[float, float, float, float, float, float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    front_end: str = "pillars"
    pillar_m: float = 0.2
    max_pillars: int = 30_000
    pillar_points: int = 20
    pillar_dim: int = 64
    bev_cells: tuple[int, int] = (180, 180)
    max_cells: int = 12_000
    cell_points: int = 20
    views_per_point: int = 2
    radii: int = 60
    radius_step_m: float = 1.0
    heights: int = 10
    backbone: str = "swin_t"
    pyramid_dim: int = 256
    bev_channels: tuple[int, ...] = (128, 256)
    bev_layers: tuple[int, ...] = (5, 5)
    bev_strides: tuple[int, ...] = (1, 2)
    neck_dim: int = 256
    neck_strides: tuple[float, ...] = (1.0, 2.0)
    dim: int = 128
    hidden: int = 512
    inner: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 4
    queries: int = 200
    sweeps: int = 10

    @property
    def pillar_cells(self) -> tuple[int, int]:
        """Rows and columns of the front end's map."""
        x0, y0, _, x1, y1, _ = self.range_m
        return round((y1 - y0) / self.pillar_m), round((x1 - x0) / self.pillar_m)

    @property
    def reach_m(self) -> float:
        """From the middle to the farthest edge of the ground."""
        return max(abs(value) for value in (*self.range_m[:2], *self.range_m[3:5]))

    @property
    def plane(self) -> Plane:
        x0, y0, _, x1, y1, _ = self.range_m
        return Plane((x0, y0), ((x1 - x0) / self.bev_cells[1], (y1 - y0) / self.bev_cells[0]))


FULL_PILLARS = DetectorVariant(
    range_m=(-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), bev_cells=(128, 128), bev_channels=(64, 128, 256),
    bev_layers=(3, 5, 5), bev_strides=(2, 2, 2), neck_dim=128, neck_strides=(0.5, 1.0, 2.0),
)  # fmt: skip
VARIANTS = {
    # The paper's PointPillars ablation; the grid after TransFusion's pillar configuration.
    "full": FULL_PILLARS,
    # As published: sparse voxels of 0.075 m.
    "full-voxels": DetectorVariant(front_end="voxels", pillar_m=0.075, max_pillars=160_000, pillar_points=10),
    # Our own, small enough to be trained on a CPU.
    "tiny": replace(
        FULL_PILLARS, image_size=(256, 448), stride=8, range_m=(-52.0, -52.0, -5.0, 52.0, 52.0, 3.0), pillar_m=0.5,
        max_pillars=8_000, pillar_points=16, pillar_dim=32, bev_cells=(104, 104), max_cells=4_000, cell_points=8,
        radii=50, heights=6, backbone="resnet_tiny", pyramid_dim=64, bev_channels=(48, 64, 96), bev_layers=(2, 2, 2),
        bev_strides=(2, 2, 2), neck_dim=48, neck_strides=(1.0, 2.0, 4.0), dim=64, hidden=128, inner=32,
        encoder_layers=1, decoder_layers=2, queries=100, sweeps=3,
    ),
}  # fmt: skip


def detector_variant(name: str) -> DetectorVariant:
    """Raises ModelError for an unknown name."""
    if name not in VARIANTS:
        raise ModelError(f"detector variant: expected one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]


def input_shapes(variant: DetectorVariant) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs by name, in the order in which the network takes them."""
    v = variant
    rows, columns = v.bev_cells
    height, width = v.image_size[0] // v.stride, v.image_size[1] // v.stride
    keys = v.cell_points * v.views_per_point
    if v.front_end == "voxels":
        lidar: dict[str, tuple[int, ...]] = {"lidar_map": (1, 256, rows, columns)}
    else:
        pillar_rows, pillar_columns = v.pillar_cells
        lidar = {
            "points": (v.max_pillars, v.pillar_points, PILLAR_FEATURES),
            "point_mask": (v.max_pillars, v.pillar_points),
            "lidar_cell_pillar": (pillar_rows * pillar_columns,),
        }
    return {
        "images": (v.views, 3, *v.image_size), "lidar2img": (v.views, 4, 4), **lidar,
        "key_grid": (v.max_cells, keys, 2), "key_valid": (v.max_cells, keys), "pillar_cell": (v.max_cells,),
        "cell_pillar": (rows * columns,), "warp_grid": (v.views, height, width, 2),
        "warp_valid": (v.views, height, width), "rays": (v.views, width, v.radii, 2),
        "back": (v.views, rows, columns, 2), "seen": (v.views, rows, columns),
    }  # fmt: skip


INDEX_INPUTS = ("lidar_cell_pillar", "pillar_cell", "cell_pillar")
"""Inputs of whole numbers; all others are float32."""


def output_shapes(variant: DetectorVariant, classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs by name, in their order: float32, but for `labels`, which are int64."""
    n = variant.queries
    return {
        "center": (1, 2, n), "height": (1, 1, n), "dim": (1, 3, n), "rot": (1, 2, n), "vel": (1, 2, n),
        "heatmap": (1, classes, n), "prior": (1, classes, n), "labels": (1, n),
    }  # fmt: skip


def query_scores(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """(N,) scores of the boxes: that of the box's head times the heatmap's at its query's cell.

    Args:
        outputs: heatmap (1, K, N) logits, prior (1, K, N), labels (1, N) in [0, K).
    """
    labels = outputs["labels"][0].astype(np.int64)
    column = np.arange(len(labels))
    certain = 1.0 / (1.0 + np.exp(-outputs["heatmap"][0].astype(np.float64)))
    return np.asarray(certain[labels, column] * outputs["prior"][0][labels, column], np.float64)
