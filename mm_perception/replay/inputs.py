"""What a network is fed at moments of a bag: to calibrate engines and to try them on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mm_perception.bags.reader import BagReader
from mm_perception.core.errors import BagError, CalibrationError, DataError
from mm_perception.core.rig import RigConfig
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array
from mm_perception.pipeline.detection import as_fed, detector_taps
from mm_perception.pipeline.detection_view import SceneBuilder
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.segmentation import InputEncoder
from mm_perception.replay.replay import observations
from mm_perception.sensing.detector_inputs import DetectorEncoder

Encode = Callable[[Observation], dict[str, Array]]


def network_inputs(card: ModelCard | DetectorCard, path: Path, rig: RigConfig, count: int) -> list[dict[str, Array]]:
    """The inputs at `count` observations of a bag, spread evenly over it; all where it has fewer.

    Raises:
        ConfigError: the rig lacks what the network needs.
        BagError: the bag cannot be read, or has no observation of which inputs could be made.
    """
    taps = detector_taps(card, rig) if isinstance(card, DetectorCard) else None
    encode = _detection(card, taps) if isinstance(card, DetectorCard) and taps else _segmentation(card, rig)
    with BagReader(path) as bag:
        frames = max(1, bag.count(rig.sensor(rig.reference).input_topic))
        wanted = {round((i + 0.5) * frames / count) for i in range(count)}
        samples, problem = [], "no observation is complete"
        for i, observation in enumerate(observations(bag, Intake(rig.with_types(bag.topics), taps=taps))):
            if i not in wanted and frames > count:
                continue
            try:
                samples.append(encode(observation))
            except (DataError, CalibrationError) as error:
                problem = str(error)
    if not samples:
        raise BagError(f"{path}: no inputs for {card.name}: {problem}")
    return samples


def _segmentation(card: ModelCard | DetectorCard, rig: RigConfig) -> Encode:
    assert isinstance(card, ModelCard)
    encoder = InputEncoder(card, rig)
    return lambda observation: dict(encoder.tensors(observation))


def _detection(card: DetectorCard, taps: DetectorTaps) -> Encode:
    scenes, encoder = SceneBuilder(card.sizes, taps), DetectorEncoder(card.sizes, card.image_mean, card.image_std)
    return lambda observation: encoder.encode(as_fed(card, scenes.build(observation).view)).tensors
