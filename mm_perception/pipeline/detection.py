"""3D detection of one observation: cameras and LiDAR turns in, boxes out.

Z. Yang et al., DeepInteraction++ (arXiv:2408.05075). What is missing (a camera, its calibration, LiDAR turns) costs
quality and is named; only an observation of which no LiDAR is known at all has no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

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
from mm_perception.pipeline.detection_view import DetectorScene, SceneBuilder
from mm_perception.pipeline.inference import Inference, Made
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarView
from mm_perception.sensing.detector_inputs import DetectorEncoder, DetectorView


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


def as_fed(card: DetectorCard, view: DetectorView) -> DetectorView:
    """The view with its channels in the order that the weights were trained with."""
    return replace(view, images=view.images[..., ::-1]) if card.channel_order == "bgr" else view


class EncodedView(Protocol):
    """Inputs by name, arrays or tensors, and what was lost on the way; see `sensing.detector_inputs`."""

    @property
    def tensors(self) -> Mapping[str, Any]: ...

    @property
    def lost(self) -> Mapping[str, int]: ...


class ViewEncoder(Protocol):
    """`DetectorEncoder`, on the host or on a device."""

    def encode(self, view: DetectorView) -> EncodedView: ...


@dataclass(frozen=True, slots=True, eq=False)
class PreparedDetection:
    """What `DetectionPipeline.finish` goes on with.

    Attributes:
        frame_id, stamp_ns: of the boxes that the network gives: the LiDAR's frame, the bundle's stamp.
        output_from_lidar: at the bundle's stamp.
    """

    scene: DetectorScene
    frame_id: str
    stamp_ns: int
    output_from_lidar: RigidTransform
    inputs: Made[EncodedView]


class DetectionPipeline:
    """Pre-processing, network and post-processing of one detector on one rig."""

    def __init__(self, card: DetectorCard, engine: Engine, taps: DetectorTaps, on_device: bool | None = None) -> None:
        """Args:
            on_device: whether inputs are computed on the engine's device; None: where that is not the CPU.

        Raises:
            ConfigError: the engine takes no tensors on a device.
        """
        self.card, self.engine, self.taps = card, engine, taps
        self._inference = Inference(engine, on_device)
        self._encoder = _encoder(card, self._inference)
        self._scenes = SceneBuilder(card.sizes, taps)

    def step(self, observation: Observation, clock: StageClock) -> DetectionOutcome:
        """Finds the boxes of one instant: `prepare` and `finish`, whose errors it raises."""
        return self.finish(self.prepare(observation, clock), clock)

    def prepare(self, observation: Observation, clock: StageClock) -> PreparedDetection:
        """Encodes the network's inputs.

        Raises:
            DataError: no LiDAR turn has come yet.
            CalibrationError: the output frame is not known at the bundle's stamp, or not fit for boxes.
            EngineError: the engine's device failed.
        """
        with clock.measure("detection.preprocess"):
            scene = self._scenes.build(observation)
            seen = observation.lidar_view
            assert seen is not None  # or there is no scene
            output_from_lidar = _upright(seen)
            view = as_fed(self.card, scene.view)
            inputs = self._inference.make(lambda: self._encoder.encode(view))
        return PreparedDetection(scene, seen.frame_id, observation.bundle.stamp_ns, output_from_lidar, inputs)

    def finish(self, prepared: PreparedDetection, clock: StageClock) -> DetectionOutcome:
        """Runs the network and turns its answer into boxes.

        Raises:
            EngineError: the engine or its device failed, or it gave values that are not finite or labels of no class.
        """
        card, scene, inputs = self.card, prepared.scene, prepared.inputs
        degraded, lost = dict(scene.degraded), dict(inputs.value.lost)
        for what in ("over_pillars", "over_cells"):
            if lost[what]:
                degraded[f"capacity.{what}"] = f"{lost[what]} points were lost"
        with clock.measure("detection.inference"):
            outputs = self._inference.run(inputs.value.tensors, inputs.wait)
        with clock.measure("detection.postprocess"):
            arrays, moved = self._inference.arrays(outputs), prepared.output_from_lidar
            found = boxes_of(arrays, card.sizes, card.classes, prepared.frame_id, prepared.stamp_ns, card.min_score)
            found = transformed_boxes(found, moved)
            lidar_from_output = moved.inverse().matrix
            pictures = {
                name: SeenPicture(scene.view.images[i], scene.view.lidar2img[i] @ lidar_from_output)
                for name, i in scene.slots.items()
            }
        return DetectionOutcome(found, degraded, lost, pictures, scene.view.points, moved, card.trained)


def _encoder(card: DetectorCard, inference: Inference) -> ViewEncoder:
    if inference.lane is None:
        return DetectorEncoder(card.sizes, card.image_mean, card.image_std)
    from mm_perception.gpu.detector_inputs import GpuDetectorEncoder

    return GpuDetectorEncoder(card.sizes, card.image_mean, card.image_std, inference.lane.device)
