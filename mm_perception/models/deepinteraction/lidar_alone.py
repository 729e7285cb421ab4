"""The LiDAR's stream by itself, as engines run networks."""

from __future__ import annotations

from torch import Tensor, nn

from mm_perception.models.deepinteraction.model import DeepInteraction, LidarInput


class LidarAlone(nn.Module):
    """What the first stage of training learned: no image is looked at. Gives the outputs of `deploy.OUTPUTS`."""

    def __init__(self, model: DeepInteraction) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, points: Tensor, point_mask: Tensor, lidar_cell_pillar: Tensor) -> tuple[Tensor, ...]:
        """Args: as `core.detector.input_shapes` names them."""
        decoded = self.model.lidar_alone(LidarInput(points, point_mask, lidar_cell_pillar))
        return (*decoded.first, decoded.prior, decoded.labels)
