"""From an observation to what a detector sees of it: pictures on its grid, projections, and points of several turns.

The node, the replay and the training on recordings use the same. What is missing is named, and the rest is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.detector import DetectorVariant
from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.core.types import ImageFrame
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.sweeps import turns_table
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarView
from mm_perception.sensing.detector_inputs import DetectorView
from mm_perception.sensing.health import BLANK_DEVIATION
from mm_perception.sensing.image import Placement

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
class DetectorScene:
    """What a detector sees of an observation.

    Attributes:
        view: images in RGB.
        slots: by camera that is used, its place among the views.
        degraded: what was lacking, by a short name such as "cam_back.missing", in words; empty if all was there.
    """

    view: DetectorView
    slots: dict[str, int]
    degraded: dict[str, str]


class SceneBuilder:
    """Builds the scenes of one rig for one size of network."""

    def __init__(self, sizes: DetectorVariant, taps: DetectorTaps) -> None:
        self._sizes, self._taps = sizes, taps
        self._straight: dict[str, _Straightener] = {}

    def build(self, observation: Observation) -> DetectorScene:
        """Raises DataError if no LiDAR turn has come yet."""
        seen = observation.lidar_view
        if seen is None:
            raise DataError(f"detector: no turn of LiDAR {self._taps.lidar!r} has come yet")
        degraded = self._lidar_problems(observation, seen)
        points = turns_table(seen.turns, seen.lidar_from_fixed, observation.bundle.stamp_ns)
        if not len(points):
            degraded[f"{self._taps.lidar}.empty"] = "no point"
        sizes = self._sizes
        images = np.zeros((sizes.views, *sizes.image_size, 3), np.uint8)
        lidar2img = np.tile(np.eye(4), (sizes.views, 1, 1))
        slots: dict[str, int] = {}
        for i, name in enumerate(self._taps.cameras):
            try:
                view, lidar2img[i] = self._camera(name, observation, seen)
            except _LackError as lack:
                degraded[f"{name}.{lack.kind}"] = str(lack)
                continue
            images[i], slots[name] = view.image, i
        present = np.isin(np.arange(sizes.views), list(slots.values()))
        return DetectorScene(DetectorView(images, present, lidar2img, points), slots, degraded)

    def _lidar_problems(self, observation: Observation, seen: LidarView) -> dict[str, str]:
        degraded = {}
        if self._taps.lidar not in observation.bundle.measurements:
            degraded[f"{self._taps.lidar}.missing"] = "no turn in the bundle"
        if "motion" in seen.problems:
            degraded["motion.unknown"] = seen.problems["motion"]
        if seen.turns_left_out:
            degraded[f"{self._taps.lidar}.turns"] = f"{len(seen.turns)} of {self._taps.turns} turns can be used"
        return degraded

    def _camera(self, name: str, observation: Observation, seen: LidarView) -> tuple[CameraView, NDArray[np.float64]]:
        """A camera's picture and its projection of the LiDAR's frame. Raises _LackError."""
        measurement = observation.bundle.measurements.get(name)
        if not isinstance(measurement, ImageFrame):
            raise _LackError("missing", "no image in the bundle")
        health = observation.health.get(name)
        if health is not None and health.problem == "frozen":
            raise _LackError("frozen", f"the image came {health.repeats + 1} times")
        if name not in seen.camera_from_lidar:
            raise _LackError("calibration", seen.problems[name])
        try:
            view = self._picture(name, measurement.image, observation.calibration.camera(name))
        except CalibrationError as error:
            raise _LackError("calibration", str(error)) from error
        if float(view.image.std()) < BLANK_DEVIATION:
            raise _LackError("blank", "the image shows nothing")
        matrix = np.eye(4)
        matrix[:3] = view.camera.intrinsics @ seen.camera_from_lidar[name].matrix[:3]
        if not float(np.linalg.cond(matrix)) < WORST_CONDITION:
            raise _LackError("calibration", "the projection is singular")
        return view, matrix

    def _picture(self, name: str, image: NDArray[np.uint8], camera: CameraModel) -> CameraView:
        if camera.has_distortion:
            kept = self._straight.get(name)
            if kept is None or kept.camera is not camera:
                kept = self._straight[name] = _Straightener(camera)
            image, camera = kept(image), kept.straight
        return camera_view(image, camera, self._sizes.image_size)


class _LackError(Exception):
    """A camera cannot be used."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


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
        self.straight = CameraModel(camera.width, camera.height, camera.intrinsics, np.zeros(0), "", camera.frame_id)
        self._maps: tuple[Any, Any] | None = None

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise CalibrationError(
                f"calibrated for {self.camera.width}x{self.camera.height}, image of {image.shape[1]}x{image.shape[0]}"
            )
        if self._maps is None:  # made for the first image of the right size: a CameraInfo may name any
            self._maps = _undistortion_maps(self.camera)
        return np.asarray(cv2.remap(image, self._maps[0], self._maps[1], cv2.INTER_LINEAR), np.uint8)


def _undistortion_maps(camera: CameraModel) -> tuple[Any, Any]:
    k, size = camera.intrinsics, (camera.width, camera.height)
    lens: Callable[..., Any] = cv2.initUndistortRectifyMap
    if camera.distortion_model == "equidistant":
        lens = cv2.fisheye.initUndistortRectifyMap
    maps = lens(k, camera.distortion, np.eye(3), k, size, cv2.CV_16SC2)
    return maps[0], maps[1]
