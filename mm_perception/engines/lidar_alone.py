"""A detector's LiDAR stream by itself, run by torch: what fusion is compared with."""

from __future__ import annotations

from mm_perception.core.errors import ModelError
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.stamp import weights_identity
from mm_perception.engines.torch_engine import TorchEngine, load_detector_network
from mm_perception.models.deepinteraction.lidar_alone import LidarAlone

LIDAR_INPUTS = ("points", "point_mask", "lidar_cell_pillar")


def lidar_engine(card: DetectorCard, threads: int | None = None) -> TorchEngine:
    """Runs `DeepInteraction.lidar_alone`: takes `LIDAR_INPUTS` of the card's inputs, gives all of its outputs.

    Raises:
        ModelError: the weights are missing, are not the card's or an ONNX file, or the front end takes voxels.
    """
    if card.sizes.front_end != "pillars":
        raise ModelError(f"model {card.name}: its LiDAR stream cannot run alone, expected a front end of pillars")
    weights_identity(card)
    inputs, outputs = card.specs()
    taken = tuple(spec for spec in inputs if spec.name in LIDAR_INPUTS)
    return TorchEngine(LidarAlone(load_detector_network(card)), taken, outputs, threads=threads)
