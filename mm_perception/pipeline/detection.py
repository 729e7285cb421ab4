"""3D detection of one observation: cameras and LiDAR turns in, boxes out.

Z. Yang et al., DeepInteraction++ (arXiv:2408.05075). What is missing (a camera, its calibration, LiDAR turns) costs
quality and is named; only an observation of which no LiDAR is known at all has no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.detector import DetectorVariant
from mm_perception.core.errors import CalibrationError, ConfigError, DataError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import Detections3D, ImageFrame
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Engine
from mm_perception.geometry.boxes import transformed_boxes
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.sweeps import turns_table
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.detection_boxes import boxes_of
from mm_perception.pipeline.detection_inputs import DetectorEncoder, DetectorView
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarView
from mm_perception.sensing.image import Placement

BLANK_DEVIATION = 1.0
"""A picture whose values (0..255) deviate less from their mean shows nothing: a dead, covered or dazzled camera."""
WORST_CONDITION = 1e9
"""Of a camera's projection; beyond it no ray can be told from its pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class CameraView:
    """One camera's picture on the network's pixel grid.

    Attributes:
        image: (H, W, 3) uint8 RGB. camera: its intrinsics there, free of distortion.
    """

    image: NDArray[np.uint8]
    camera: CameraModel


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
        points: (M, 3) [m] in the output frame, all turns.
        trained: False where the weights are random and the boxes mean nothing.
    """

    detections: Detections3D
    degraded: dict[str, str]
    lost: dict[str, int]
    pictures: dict[str, SeenPicture]
    points: NDArray[np.float32]
    trained: bool = True


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
    if blind:
        raise ConfigError(f"detector {card.name}: rig {rig.name} names no camera_info of {', '.join(blind)}")
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
        self._straight: dict[str, _Straightener] = {}

    def step(self, observation: Observation, clock: StageClock) -> DetectionOutcome:
        """Finds the boxes of one instant.

        Raises:
            DataError: no LiDAR turn has come yet.
            CalibrationError: the output frame is not known at the bundle's stamp.
            EngineError: the engine failed or gave values that are not finite.
        """
        seen = observation.lidar_view
        if seen is None:
            raise DataError(f"detector: no turn of LiDAR {self.taps.lidar!r} has come yet")
        if seen.output_from_lidar is None:
            raise CalibrationError(f"detector: output frame: {seen.problems['output']}")
        stamp_ns = observation.bundle.stamp_ns
        with clock.measure("detection.preprocess"):
            degraded = self._lidar_problems(observation, seen)
            views = self._views(observation, seen, degraded)
            points = turns_table(seen.turns, seen.lidar_from_fixed, stamp_ns)
            if not len(points):
                degraded[f"{self.taps.lidar}.empty"] = "no point"
            view, used = self._detector_view(views, seen, points, degraded)
            inputs = self.encoder.encode(view)
            for what in ("over_pillars", "over_cells"):
                if inputs.lost[what]:
                    degraded[f"capacity.{what}"] = f"{inputs.lost[what]} points were lost"
        with clock.measure("detection.inference"):
            outputs = self.engine.run(inputs.tensors)
        with clock.measure("detection.postprocess"):
            card = self.card
            found = boxes_of(outputs, card.sizes, card.classes, seen.frame_id, stamp_ns, card.min_score)
            found = transformed_boxes(found, seen.output_from_lidar)
        lidar_from_output = seen.output_from_lidar.inverse().matrix
        pictures = {name: SeenPicture(views[name].image, matrix @ lidar_from_output) for name, matrix in used.items()}
        placed = seen.output_from_lidar.apply(points[:, :3])
        return DetectionOutcome(found, degraded, dict(inputs.lost), pictures, placed, card.trained)

    def _views(self, observation: Observation, seen: LidarView, degraded: dict[str, str]) -> dict[str, CameraView]:
        """What the cameras show on the network's grid; what is wrong with the others goes to `degraded`."""
        views: dict[str, CameraView] = {}
        for name in self.taps.cameras:
            measurement = observation.bundle.measurements.get(name)
            if not isinstance(measurement, ImageFrame):
                degraded[f"{name}.missing"] = "no image in the bundle"
                continue
            if name not in seen.camera_from_lidar:
                degraded[f"{name}.calibration"] = seen.problems[name]
                continue
            try:
                view = self._camera_view(name, measurement.image, observation.calibration.camera(name))
            except CalibrationError as error:
                degraded[f"{name}.calibration"] = str(error)
                continue
            if float(view.image.std()) < BLANK_DEVIATION:
                degraded[f"{name}.blank"] = "the image shows nothing"
                continue
            views[name] = view
        return views

    def _camera_view(self, name: str, image: NDArray[np.uint8], camera: CameraModel) -> CameraView:
        if camera.has_distortion:
            kept = self._straight.get(name)
            if kept is None or kept.camera is not camera:
                kept = self._straight[name] = _Straightener(camera)
            image, camera = kept(image), kept.straight
        return camera_view(image, camera, self.card.sizes.image_size)

    def _lidar_problems(self, observation: Observation, seen: LidarView) -> dict[str, str]:
        degraded = {}
        if self.taps.lidar not in observation.bundle.measurements:
            degraded[f"{self.taps.lidar}.missing"] = "no turn in the bundle"
        if "motion" in seen.problems:
            degraded["motion.unknown"] = seen.problems["motion"]
        return degraded

    def _detector_view(
        self, views: dict[str, CameraView], seen: LidarView, points: NDArray[np.float32], degraded: dict[str, str]
    ) -> tuple[DetectorView, dict[str, NDArray[np.float64]]]:
        """The network's view, and by camera the projection of the LiDAR's frame into its picture."""
        sizes: DetectorVariant = self.card.sizes
        images = np.zeros((sizes.views, *sizes.image_size, 3), np.uint8)
        present = np.zeros(sizes.views, np.bool_)
        lidar2img = np.tile(np.eye(4), (sizes.views, 1, 1))
        used = {}
        for i, name in enumerate(self.taps.cameras):
            if name not in views:
                continue
            matrix = np.eye(4)
            matrix[:3] = views[name].camera.intrinsics @ seen.camera_from_lidar[name].matrix[:3]
            if not float(np.linalg.cond(matrix)) < WORST_CONDITION:
                degraded[f"{name}.calibration"] = "the projection is singular"
                continue
            image = views[name].image
            images[i] = image[..., ::-1] if self.card.channel_order == "bgr" else image
            present[i], lidar2img[i] = True, matrix
            used[name] = matrix
        return DetectorView(images, present, lidar2img, points), used


def camera_view(image: NDArray[np.uint8], camera: CameraModel, size: tuple[int, int]) -> CameraView:
    """A picture without distortion on a grid of (height, width), with its aspect kept.

    Raises:
        CalibrationError: the camera model is of another image size.
    """
    placement = Placement.fit(image.shape[1], image.shape[0], size[1], size[0], "letterbox")
    fitted = np.asarray(placement.resize(image, border=float(image.mean())), np.uint8)
    return CameraView(fitted, placement.camera(camera))


class _Straightener:
    """Takes lens distortion out of a camera's pictures; the view keeps size and intrinsics."""

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera
        self.straight = CameraModel(
            camera.width, camera.height, camera.intrinsics, np.zeros(0), "", camera.frame_id
        )  # fmt: skip
        k, size = camera.intrinsics, (camera.width, camera.height)
        lens: Callable[..., Any] = cv2.initUndistortRectifyMap
        if camera.distortion_model == "equidistant":
            lens = cv2.fisheye.initUndistortRectifyMap
        self._maps = lens(k, camera.distortion, np.eye(3), k, size, cv2.CV_16SC2)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise CalibrationError(
                f"calibrated for {self.camera.width}x{self.camera.height}, image of {image.shape[1]}x{image.shape[0]}"
            )
        return np.asarray(cv2.remap(image, self._maps[0], self._maps[1], cv2.INTER_LINEAR), np.uint8)
