"""DeepInteraction++: two streams, side by side, from cameras and LiDAR to 3-D boxes.

Zeyu Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving" (arXiv:2408.05075), and
"DeepInteraction: 3D Object Detection via Modality Interaction" (NeurIPS 2022, arXiv:2208.11112). Keys and shapes of
variant `full` with voxels and Swin-T are those of the published model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mm_perception.core.detector import PILLAR_FEATURES, POINT_FEATURES, DetectorVariant
from mm_perception.core.errors import ModelError
from mm_perception.models.deepinteraction.decoder import Decoded, Decoder
from mm_perception.models.deepinteraction.encoder import Encoder, InteractionMaps, Streams
from mm_perception.models.deepinteraction.necks import BevBackbone, BevNeck, ImagePyramid
from mm_perception.models.deepinteraction.pillars import PillarFrontEnd
from mm_perception.models.deepinteraction.resnet import ResNetBackbone
from mm_perception.models.deepinteraction.sparse import SparseEncoder
from mm_perception.models.deepinteraction.swin import SwinBackbone


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
        streams = self.streams(images, bev, maps)
        return self.pts_bbox_head(streams.image, streams.lidar, streams.fused, lidar2img)

    def streams(self, images: Tensor, bev: Tensor, maps: InteractionMaps) -> Streams:
        """Both streams, before and after they met."""
        lidar, lidar_levels = self.pts_neck(self.pts_backbone(bev))
        image_levels = self.img_neck(self.img_backbone(images), start=0 if self.variant.stride == 4 else 1)
        return self.imgpts_neck(image_levels, lidar, lidar_levels[:2], maps)

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


RARE = -2.19
"""Bias of a heatmap that begins by saying 0.1 everywhere (Lin et al., arXiv:1708.02002, section 3.3)."""


def untrained_detector(
    variant: DetectorVariant, classes: int, seed: int, published_decoder_quirk: bool = False
) -> DeepInteraction:
    """Seeded random weights that begin with rare objects, and with boxes where their queries stand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeepInteraction(variant, classes, published_decoder_quirk)
    head = network.pts_bbox_head
    for heat in (head.heatmap_head, head.heatmap_head_img):
        nn.init.constant_(heat[1].bias, RARE)
    for box in head.pred_head:
        nn.init.zeros_(box.center[1].weight)
        nn.init.zeros_(box.center[1].bias)
    return network


def heatmap_layer(dim: int, classes: int) -> nn.Conv2d:
    """A 1 x 1 convolution to heatmaps that begin with rare objects."""
    layer = nn.Conv2d(dim, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, RARE)
    return layer
