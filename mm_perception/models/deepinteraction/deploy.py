"""The network as engines run it: flat tuples of named tensors of fixed shapes in and out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mm_perception.core.detector import DetectorVariant, input_shapes
from mm_perception.models.deepinteraction.boxes import RawBoxes
from mm_perception.models.deepinteraction.encoder import InteractionMaps
from mm_perception.models.deepinteraction.model import DeepInteraction, LidarInput

OUTPUTS = (*RawBoxes._fields, "prior", "labels")


class DeployedDetector(nn.Module):
    """Takes the tensors of `input_shapes` in their order, gives those of `OUTPUTS`.

    For a voxel front end, the dense map of the sparse encoder takes the place of the points.
    """

    def __init__(self, model: DeepInteraction) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor, lidar2img: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Args: as `input_shapes` names them."""
        if self.model.variant.front_end == "voxels":
            bev, maps = rest[0], InteractionMaps(*rest[1:])
            decoded = self.model.fuse(images, bev, maps, lidar2img)
        else:
            maps = InteractionMaps(*rest[3:])
            decoded = self.model(images, LidarInput(*rest[:3]), maps, lidar2img)
        return (*decoded.layers[-1], decoded.prior, decoded.labels)


def example_inputs(variant: DetectorVariant, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs that make sense: places within maps, indices within their tables."""
    generator = torch.Generator().manual_seed(seed)
    v = variant
    cells = v.bev_cells[0] * v.bev_cells[1]
    limits = {"pillar_cell": cells, "cell_pillar": v.max_cells + 1, "lidar_cell_pillar": v.max_pillars + 1}
    inputs = {}
    for name, shape in input_shapes(v).items():
        if name in limits:
            inputs[name] = torch.randint(limits[name], shape, generator=generator)
        elif name in ("key_valid", "warp_valid", "seen", "point_mask"):
            inputs[name] = (torch.rand(shape, generator=generator) > 0.4).float()
        elif name == "lidar2img":
            turned = torch.eye(4).repeat(v.views, 1, 1)
            focal = v.image_size[1] / 2
            for i in range(v.views):
                angle = torch.tensor(2 * torch.pi * i / v.views)
                c, s = angle.cos(), angle.sin()
                ahead, left, up = torch.stack([c, s, c * 0]), torch.stack([-s, c, c * 0]), torch.tensor([0.0, 0.0, 1.0])
                turned[i, 0, :3] = v.image_size[1] / 2 * ahead - focal * left
                turned[i, 1, :3] = v.image_size[0] / 2 * ahead - focal * up
                turned[i, 2, :3] = ahead
            inputs[name] = turned
        else:
            inputs[name] = torch.rand(shape, generator=generator) * 2 - 1
    return inputs
