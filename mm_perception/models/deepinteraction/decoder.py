"""The predictive interaction decoder: queries from heatmaps, refined in turn by the image and the bird's-eye view.

Yang et al., DeepInteraction (arXiv:2208.11112, section III-C) and DeepInteraction++ (arXiv:2408.05075); the first layer
is that of Bai et al., TransFusion (CVPR 2022, arXiv:2203.11496).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.core.detector import Plane
from mm_perception.models.deepinteraction.attention import MASKED, Attention
from mm_perception.models.deepinteraction.blocks import ConvBlock, FeedForward
from mm_perception.models.deepinteraction.boxes import (
    RawBoxes,
    bev_regions,
    image_regions,
    middle_and_size,
    project,
)
from mm_perception.models.deepinteraction.interaction import DecoderLayer
from mm_perception.models.deepinteraction.roi import DynamicConv, roi_align

BRANCHES = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


class Decoded(NamedTuple):
    """What the decoder says of N queries.

    Attributes:
        first: boxes from the LiDAR alone.
        layers: the boxes after each refining layer, the last ones are the answer.
        kept: (1, N) for each layer, False where a query has left all images and keeps its first answer.
        prior: (1, K, N) value of the heatmaps at each query's cell, 0 for classes that have no peak there.
        labels: (1, N) int64, class of each query.
        heatmap_lidar, heatmap_fused: (1, K, rows, columns) logits.
    """

    first: RawBoxes
    layers: list[RawBoxes]
    kept: list[Tensor]
    prior: Tensor
    labels: Tensor
    heatmap_lidar: Tensor
    heatmap_fused: Tensor


class Queries(NamedTuple):
    """N places to look at: features (1, N, C), position (1, N, 2) in cells, class (1, N), prior (1, K, N)."""

    features: Tensor
    position: Tensor
    labels: Tensor
    prior: Tensor


class Decoder(nn.Module):
    """The whole of it; keys and shapes are those of the published `pts_bbox_head`.

    Attributes:
        flat_classes: those whose heatmap peaks need not be larger than their neighbours (small things).
        image_size: height and width of the network's images [px], to tell what is within the image.
    """

    def __init__(
        self, plane: Plane, image_size: tuple[int, int], *, dim: int = 128, classes: int = 10, queries: int = 200,
        layers: int = 4, hidden: int = 512, stride: int = 4, inner: int | None = None,
        flat_classes: tuple[int, ...] = (8, 9), published_decoder_quirk: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.plane, self.image_size, self.queries, self.classes = plane, image_size, queries, classes
        self.flat_classes = flat_classes
        self.heatmap_head = _heatmap_head(dim, classes)
        self.heatmap_head_img = _heatmap_head(dim, classes)
        self.class_encoding = nn.Conv1d(classes, dim, 1)
        self.decoder = nn.ModuleList([QueryLayer(dim, 8, 2 * dim)])
        self.prediction_heads = nn.ModuleList([BoxHead(dim, classes)])
        blocks = [
            (ImageBlock if i % 2 == 0 else BevBlock)(dim, hidden, stride, inner, published_decoder_quirk)
            for i in range(layers)
        ]
        self.decode_head = nn.ModuleList(blocks)
        self.pred_head = nn.ModuleList([BoxHead(dim, classes) for _ in range(layers)])

    def forward(self, image: Tensor, lidar: Tensor, fused: Tensor, lidar2img: Tensor) -> Decoded:
        """Args:
        image: (V, C, h, w) fused image features.
        lidar, fused: (1, C, rows, columns) before and after fusion.
        lidar2img: (V, 4, 4) to the network's images.
        """
        heatmap_lidar, heatmap_fused = self.heatmap_head(lidar), self.heatmap_head_img(fused)
        start = self.propose(lidar, (heatmap_lidar.sigmoid() + heatmap_fused.sigmoid()) / 2)
        query, first = self.look(start, lidar)
        layers, kept = self.refine(query, first, image, fused, lidar2img)
        return Decoded(first, layers, kept, start.prior, start.labels, heatmap_lidar, heatmap_fused)

    def lidar_alone(self, lidar: Tensor) -> Decoded:
        """What the LiDAR says without any image; `layers` is empty."""
        heatmap = self.heatmap_head(lidar)
        start = self.propose(lidar, heatmap.sigmoid())
        _, first = self.look(start, lidar)
        return Decoded(first, [], [], start.prior, start.labels, heatmap, heatmap)

    def look(self, start: Queries, lidar: Tensor) -> tuple[Tensor, RawBoxes]:
        """Queries after they saw the LiDAR map, and their boxes."""
        query = self.decoder[0](start.features, start.position, lidar)
        first = self.prediction_heads[0](query)
        return query, first._replace(center=first.center + start.position.transpose(1, 2))

    def propose(self, lidar: Tensor, heat: Tensor) -> Queries:
        """The strongest peaks of (1, K, rows, columns) heat, as queries with the features of their cell and class."""
        _, classes, rows, columns = heat.shape
        heat = peaks(heat, self.flat_classes).flatten(2)
        _, order = heat.flatten(1).topk(self.queries, dim=1)
        labels = torch.div(order, rows * columns, rounding_mode="floor")
        cell = order - labels * (rows * columns)
        features = lidar.flatten(2).transpose(1, 2)[0].index_select(0, cell[0])[None]
        prior = heat[0].transpose(0, 1).index_select(0, cell[0]).transpose(0, 1)[None]
        one_hot = torch.eye(classes, dtype=heat.dtype, device=heat.device).index_select(0, labels[0])
        features = features + self.class_encoding(one_hot.transpose(0, 1)[None]).transpose(1, 2)
        row = torch.div(cell, columns, rounding_mode="floor")
        position = torch.stack([cell - row * columns, row], dim=-1).to(heat.dtype) + 0.5
        return Queries(features, position, labels, prior)

    def refine(
        self, query: Tensor, first: RawBoxes, image: Tensor, fused: Tensor, lidar2img: Tensor
    ) -> tuple[list[RawBoxes], list[Tensor]]:
        """Boxes of all layers, and which queries' are new; centres look forward twice (DINO, arXiv:2203.03605).

        A query whose box left all images in one of the image layers keeps its first answer from there on.
        """
        previous, layers, masks = first, [], []
        refined, anchor = first.center, first.center
        kept = torch.ones_like(first.height, dtype=torch.bool)
        for i, block in enumerate(self.decode_head):
            boxes = middle_and_size(previous, self.plane)
            if i % 2 == 0:
                query, on_image = block(query, image, boxes, lidar2img, self.image_size)
                kept = kept & on_image[:, None]
            else:
                query = block(query, fused, boxes, self.plane)
            raw = self.pred_head[i](query)
            refined, anchor = raw.center + anchor, raw.center + refined
            raw = raw._replace(center=refined)
            previous = RawBoxes(*(torch.where(kept, new, old) for new, old in zip(raw, first, strict=True)))
            layers.append(previous)
            masks.append(kept[:, 0])
        return layers, masks


def peaks(heat: Tensor, flat_classes: tuple[int, ...]) -> Tensor:
    """(1, K, H, W) heat where it is the largest among its 3 x 3 neighbours, else 0; all of it for `flat_classes`.

    Cells at the map's rim have no whole neighbourhood and are never peaks.
    """
    inner = F.max_pool2d(heat, 3, stride=1)
    largest = F.pad(inner, (1, 1, 1, 1))
    flat = torch.tensor([k in flat_classes for k in range(heat.shape[1])], device=heat.device)
    largest = torch.where(flat.view(1, -1, 1, 1), heat, largest)
    return heat * (heat == largest)


def _heatmap_head(dim: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBlock(nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)),
        nn.Conv2d(dim, classes, 3, padding=1),
    )


class BoxHead(nn.Module):
    """One small branch per property of a box."""

    def __init__(self, dim: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        for name, channels in (BRANCHES | {"heatmap": classes}).items():
            block = ConvBlock(nn.Conv1d(dim, hidden, 1, bias=False), nn.BatchNorm1d(hidden))
            self.add_module(name, nn.Sequential(block, nn.Conv1d(hidden, channels, 1)))

    def forward(self, query: Tensor) -> RawBoxes:
        """(1, N, C) queries; centres are offsets."""
        features = query.transpose(1, 2)
        return RawBoxes(*(getattr(self, name)(features) for name in RawBoxes._fields))


class PositionEncoding(nn.Module):
    """(B, N, 2) places in cells to (B, N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, dim, 1), nn.BatchNorm1d(dim), nn.ReLU(), nn.Conv1d(dim, dim, 1)
        )

    def forward(self, position: Tensor) -> Tensor:
        return self.position_embedding_head(position.transpose(1, 2)).transpose(1, 2)


class QueryLayer(DecoderLayer):
    """Queries look at each other and at the whole LiDAR map; positions are part of values, too."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__(dim, heads, hidden)
        self.self_posembed, self.cross_posembed = PositionEncoding(dim), PositionEncoding(dim)

    def forward(self, query: Tensor, position: Tensor, bev: Tensor) -> Tensor:  # type: ignore[override]
        """(1, N, C) queries at (1, N, 2) over (1, C, rows, columns)."""
        memory = bev.flatten(2).transpose(1, 2) + self.cross_posembed(cell_positions(bev))
        return super().forward(query, memory, self.self_posembed(position))


def cell_positions(bev: Tensor) -> Tensor:
    """(1, rows * columns, 2) middles x, y of the cells, in cells."""
    rows, columns = bev.shape[-2:]
    y = torch.arange(rows, dtype=bev.dtype, device=bev.device) + 0.5
    x = torch.arange(columns, dtype=bev.dtype, device=bev.device) + 0.5
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy], dim=-1).reshape(1, rows * columns, 2)


class _Block(nn.Module):
    """What both refining blocks share; the parameters of one carry a suffix in the published files.

    Differs from the paper's published code: there, the branch of self-attention is added with its axes crossed, and
    every query of a view gets the feature of that view's first query. `published_quirk` does the same, for weights
    that were trained so; without it, each query gets its own.
    """

    suffix = ""

    def __init__(self, dim: int, hidden: int, stride: int, inner: int | None, published_quirk: bool) -> None:
        super().__init__()
        self.stride, self.published_quirk = stride, published_quirk
        self.scale, self.self_scale = nn.Parameter(torch.full((1,), 0.5)), nn.Parameter(torch.full((1,), 0.5))
        self.add_module("dyconv" + self.suffix, DynamicConv(dim, inner))
        self.add_module("dyconv_pre_self_attn" + self.suffix, Attention(dim, 8))
        for name in ("norm1", "norm2", "norm3", "self_norm"):
            self.add_module(name + self.suffix, nn.LayerNorm(dim))
        self.ffn, self.self_ffn = FeedForward(dim, hidden), FeedForward(dim, hidden)

    def _part(self, name: str) -> nn.Module:
        return self.get_submodule(name + self.suffix)

    def _attend(self, query: Tensor, everyone: Tensor, bias: Tensor | None) -> Tensor:
        """(1, M, C) queries that look at (1, N, C)."""
        attention = self._part("dyconv_pre_self_attn")
        return self._part("norm1")(query + attention(query, everyone, everyone, bias))

    def _finish(self, own: Tensor, shown: Tensor, region: Tensor) -> Tensor:
        """(1, N, C) from self-attention's result, the same as it is shown in the sum, and (N, 49, C) regions."""
        looked = self._part("norm2")(own + self._part("dyconv")(own[0], region)[None])
        answer = self._part("norm3")(self.ffn(looked)) * self.scale
        return answer + self._part("self_norm")(self.self_ffn(shown)) * self.self_scale


class BevBlock(_Block):
    """Queries look at their enlarged boxes in the fused bird's-eye view."""

    suffix = "_pts"

    def forward(self, query: Tensor, fused: Tensor, boxes: tuple[Tensor, Tensor, Tensor], plane: Plane) -> Tensor:
        """(1, N, C) queries; `boxes` are middles, sizes and yaws of (1, N)."""
        regions = bev_regions(*(part[0] for part in boxes), plane=plane)
        view = torch.zeros(regions.shape[0], dtype=torch.int64, device=regions.device)
        own = self._attend(query, query, None)
        shown = own[:, :1].expand_as(own) if self.published_quirk else own
        return self._finish(own, shown, roi_align(fused, regions, view, 1.0))


class ImageBlock(_Block):
    """Queries look at their boxes in the image that shows them; those of one image look at each other.

    A query that two images show belongs to the later one, but others of the earlier one still see it. Images that show
    one query alone are left out.
    """

    def forward(
        self, query: Tensor, image: Tensor, boxes: tuple[Tensor, Tensor, Tensor], lidar2img: Tensor,
        image_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(1, N, C) queries, zero where no image shows the box, and (1, N) whether one does."""
        middle, size, yaw = (part[0] for part in boxes)
        member = on_image(middle, lidar2img, image_size)
        member = member * (member.sum(dim=1, keepdim=True) > 1)
        views = member.shape[0]
        order = torch.arange(1, views + 1, dtype=member.dtype, device=member.device)[:, None]
        last = (member * order).amax(dim=0)
        shown_at_all = last > 0
        view = (last - 1).clamp(min=0).to(torch.int64)
        regions = image_regions(middle, size, yaw, lidar2img)
        own_region = _of_view(regions, view)
        bias = (1.0 - member.index_select(0, view)) * MASKED
        own = self._attend(query, query, bias[None, None])
        shown = self._first_of_view(query, member).index_select(1, view) if self.published_quirk else own
        out = self._finish(own, shown, roi_align(image, own_region, view, 1.0 / self.stride))
        return out * shown_at_all[None, :, None], shown_at_all[None]

    def _first_of_view(self, query: Tensor, member: Tensor) -> Tensor:
        """(1, V, C) self-attention's result of each view's first member."""
        count = member.shape[1]
        order = torch.arange(count, 0, -1, dtype=member.dtype, device=member.device)
        first = (member * order).argmax(dim=1)
        return self._attend(query.index_select(1, first), query, ((1.0 - member) * MASKED)[None, None])


def on_image(middle: Tensor, lidar2img: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(V, N) 1 where the middle (N, 3) lies within the image, else 0."""
    pixels = project(middle, lidar2img)
    height, width = image_size
    x, y = pixels[..., 0], pixels[..., 1]
    return ((x > 0) & (x < width) & (y > 0) & (y < height)).to(middle.dtype)


def _of_view(values: Tensor, view: Tensor) -> Tensor:
    """(V, N, K) values and (N,) views to (N, K)."""
    index = view[None, :, None].expand(1, -1, values.shape[-1])
    return values.gather(0, index)[0]
