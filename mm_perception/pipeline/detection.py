"""3D detection of one observation: cameras and LiDAR turns in, boxes out.

Z. Yang et al., DeepInteraction++ (arXiv:2408.05075). What is missing (a camera, its calibration, LiDAR turns) costs
quality and is named; only an observation of which no LiDAR is known at all has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError, ConfigError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import Detections3D
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Engine
from mm_perception.geometry.boxes import transformed_boxes
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.detection_boxes import boxes_of
from mm_perception.pipeline.detection_inputs import DetectorEncoder
from mm_perception.pipeline.detection_view import SceneBuilder
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarView


@dataclass(frozen=True, slots=True, eq=False)
class SeenPicture:
    """What the detector saw of one camera, for those who draw.

    Attributes:
        image: (H, W, 3) uint8 RGB on the network's grid.
        image_from_output: (4, 4) from the output frame to homogeneous pixels.
    """

    image: NDArray[np.uint8]
    image_from_output: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DetectionOutcome:
    """Boxes, and what was lacking.

    Attributes:
        detections: in the output frame, at the bundle's stamp.
        degraded: what was lacking, by a short name such as "cam_back.missing", in words; empty if all was there.
        lost: numbers of points that were lost, by reason.
        pictures: by camera that was used.
        table: (M, 5) points of all turns, in the LiDAR's frame; see `geometry.sweeps.turns_table`.
        output_from_lidar: at the bundle's stamp.
        trained: False where the weights are random and the boxes mean nothing.
    """

    detections: Detections3D
    degraded: dict[str, str]
    lost: dict[str, int]
    pictures: dict[str, SeenPicture]
    table: NDArray[np.float32]
    output_from_lidar: RigidTransform
    trained: bool = True

    @property
    def points(self) -> NDArray[np.float32]:
        """(M, 3) [m] in the output frame; computed for those who draw."""
        return self.output_from_lidar.apply(self.table[:, :3])


STEEPEST_COS = 0.87  # 30 degrees
FARTHEST_M = 1e5
"""Coordinates are float32, whose steps are 8 mm this far from the origin."""


def _upright(seen: LidarView) -> RigidTransform:
    """From the LiDAR to the output frame.

    Raises:
        CalibrationError: it is not known, the frame is steep (boxes turn about its z axis), or its origin too far away.
    """
    transform = seen.output_from_lidar
    if transform is None:
        raise CalibrationError(f"detector: output frame: {seen.problems['output']}")
    if transform.rotation[2, 2] < STEEPEST_COS:
        raise CalibrationError(f"detector: output frame {transform.dst}: expected its z axis to point upwards")
    if float(np.abs(transform.translation).max()) > FARTHEST_M:
        raise CalibrationError(f"detector: output frame {transform.dst}: its origin is more than 100 km away")
    return transform


def detector_taps(card: DetectorCard, rig: RigConfig, output_frame: str = "") -> DetectorTaps:
    """The sensors that a detector listens to on a rig.

    Raises:
        ConfigError: there is no LiDAR, or there are no cameras or more than the network has views.
    """
    lidars = [sensor.name for sensor in rig.of_kind("lidar")]
    if not lidars:
        raise ConfigError(f"detector {card.name} needs a LiDAR, rig {rig.name} has none")
    cameras = rig.detector_cameras or tuple(s.name for s in rig.of_kind("rgb") if s.camera_info)
    blind = [name for name in cameras if not rig.sensor(name).camera_info]
    if blind or not cameras:
        raise ConfigError(
            f"detector {card.name}: rig {rig.name} names no camera_info of {', '.join(blind) or 'any camera'}"
        )
    views = card.sizes.views
    if len(cameras) > views:
        raise ConfigError(
            f"detector {card.name} has {views} views, rig {rig.name} has {len(cameras)} cameras: name those that it "
            f"shall use in the rig's detector_cameras"
        )
    if card.sizes.front_end != "pillars":
        raise ConfigError(f"detector {card.name}: front end {card.sizes.front_end!r} does not run in the node")
    return DetectorTaps(rig.detector_lidar or lidars[0], cameras, card.sizes.sweeps, output_frame)


class DetectionPipeline:
    """Pre-processing, network and post-processing of one detector on one rig."""

    def __init__(self, card: DetectorCard, engine: Engine, taps: DetectorTaps) -> None:
        self.card, self.engine, self.taps = card, engine, taps
        self.encoder = DetectorEncoder(card.sizes, card.image_mean, card.image_std)
        self._scenes = SceneBuilder(card.sizes, taps)

    def step(self, observation: Observation, clock: StageClock) -> DetectionOutcome:
        """Finds the boxes of one instant.

        Raises:
            DataError: no LiDAR turn has come yet.
            CalibrationError: the output frame is not known at the bundle's stamp, or not fit for boxes.
            EngineError: the engine failed or gave values that are not finite.
        """
        card, stamp_ns = self.card, observation.bundle.stamp_ns
        with clock.measure("detection.preprocess"):
            scene = self._scenes.build(observation)
            seen = observation.lidar_view
            assert seen is not None  # or there is no scene
            output_from_lidar = _upright(seen)
            view = scene.view
            if card.channel_order == "bgr":
                view = replace(view, images=view.images[..., ::-1])
            inputs = self.encoder.encode(view)
        degraded = dict(scene.degraded)
        for what in ("over_pillars", "over_cells"):
            if inputs.lost[what]:
                degraded[f"capacity.{what}"] = f"{inputs.lost[what]} points were lost"
        with clock.measure("detection.inference"):
            outputs = self.engine.run(inputs.tensors)
        with clock.measure("detection.postprocess"):
            found = boxes_of(outputs, card.sizes, card.classes, seen.frame_id, stamp_ns, card.min_score)
            found = transformed_boxes(found, output_from_lidar)
            lidar_from_output = output_from_lidar.inverse().matrix
            pictures = {
                name: SeenPicture(scene.view.images[i], scene.view.lidar2img[i] @ lidar_from_output)
                for name, i in scene.slots.items()
            }
        lost, table = dict(inputs.lost), scene.view.points
        return DetectionOutcome(found, degraded, lost, pictures, table, output_from_lidar, card.trained)
