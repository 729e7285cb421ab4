"""DeepInteraction++: two streams, side by side, from cameras and LiDAR to 3-D boxes.

Zeyu Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving" (arXiv:2408.05075), and
"DeepInteraction: 3D Object Detection via Modality Interaction" (NeurIPS 2022, arXiv:2208.11112). Keys and shapes of
variant `full` with voxels and Swin-T are those of the published model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from mm_perception.core.errors import ModelError
from mm_perception.models.deepinteraction.boxes import Plane
from mm_perception.models.deepinteraction.decoder import Decoded, Decoder
from mm_perception.models.deepinteraction.encoder import Encoder, InteractionMaps
from mm_perception.models.deepinteraction.necks import BevBackbone, BevNeck, ImagePyramid
from mm_perception.models.deepinteraction.pillars import PillarFrontEnd
from mm_perception.models.deepinteraction.resnet import ResNetBackbone
from mm_perception.models.deepinteraction.sparse import SparseEncoder
from mm_perception.models.deepinteraction.swin import SwinBackbone

POINT_FEATURES = 5  # x, y, z, intensity, age
PILLAR_FEATURES = POINT_FEATURES + 5  # and offsets from the pillar's mean (3) and its middle (2)


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


class LidarInput(NamedTuple):
    """What the pillar front end takes; see `PillarFrontEnd`."""

    points: Tensor
    point_mask: Tensor
    cell_pillar: Tensor


class DeepInteraction(nn.Module):
    """The whole network.

    Attributes:
        variant: its sizes.
    """

    def __init__(self, variant: DetectorVariant, classes: int = 10, published_decoder_quirk: bool = False) -> None:
        """Raises ModelError for an unknown front end or backbone."""
        super().__init__()
        self.variant = v = variant
        self.img_backbone, image_channels = _image_backbone(v.backbone)
        self.img_neck = ImagePyramid(image_channels, v.pyramid_dim)
        if v.front_end == "voxels":
            side = v.pillar_cells
            self.pts_middle_encoder: nn.Module = SparseEncoder(POINT_FEATURES, (41, *side))
            front_dim = 256
        elif v.front_end == "pillars":
            self.pts_middle_encoder = PillarFrontEnd(PILLAR_FEATURES, v.pillar_dim, v.pillar_cells)
            front_dim = v.pillar_dim
        else:
            raise ModelError(f"LiDAR front end: expected pillars or voxels, got {v.front_end!r}")
        self.pts_backbone = BevBackbone(front_dim, v.bev_channels, v.bev_layers, v.bev_strides)
        self.pts_neck = BevNeck(v.bev_channels, v.neck_dim, v.neck_strides)
        self.imgpts_neck = Encoder(
            v.pyramid_dim, v.neck_dim * len(v.bev_channels), v.neck_dim, v.dim, v.encoder_layers, v.hidden
        )
        self.pts_bbox_head = Decoder(
            v.plane, v.image_size, dim=v.dim, classes=classes, queries=v.queries, layers=v.decoder_layers,
            hidden=v.hidden, stride=v.stride, inner=v.inner, published_decoder_quirk=published_decoder_quirk,
        )  # fmt: skip

    def forward(self, images: Tensor, lidar: LidarInput, maps: InteractionMaps, lidar2img: Tensor) -> Decoded:
        """From images and pillars.

        Args:
            images: (V, 3, H, W), normalised.
            lidar2img: (V, 4, 4) to pixels of the images.
        """
        return self.fuse(images, self.pts_middle_encoder(*lidar), maps, lidar2img)

    def fuse(self, images: Tensor, bev: Tensor, maps: InteractionMaps, lidar2img: Tensor) -> Decoded:
        """From images and the front end's map (1, C, rows, columns); what follows a voxel front end."""
        lidar, lidar_levels = self.pts_neck(self.pts_backbone(bev))
        image_levels = self.img_neck(self.img_backbone(images), start=0 if self.variant.stride == 4 else 1)
        streams = self.imgpts_neck(image_levels, lidar, lidar_levels[:2], maps)
        return self.pts_bbox_head(streams.image, streams.lidar, streams.fused, lidar2img)

    def lidar_alone(self, lidar: LidarInput) -> Decoded:
        """The answer of the LiDAR's stream by itself, as its first stage of training makes it."""
        features, _ = self.pts_neck(self.pts_backbone(self.pts_middle_encoder(*lidar)))
        return self.pts_bbox_head.lidar_alone(self.imgpts_neck.shared_conv_pts(features))


def _image_backbone(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name == "swin_t":
        swin = SwinBackbone()
        return swin, swin.channels
    if name == "resnet50":
        resnet = ResNetBackbone()
        return resnet, resnet.channels
    if name == "resnet_tiny":
        resnet = ResNetBackbone((1, 1, 1, 1), width=16)
        return resnet, resnet.channels
    raise ModelError(f"image backbone: expected swin_t, resnet50 or resnet_tiny, got {name!r}")


def detector_variant(name: str) -> DetectorVariant:
    """Raises ModelError for an unknown name."""
    if name not in VARIANTS:
        raise ModelError(f"detector variant: expected one of {', '.join(VARIANTS)}, got {name!r}")
    return VARIANTS[name]
