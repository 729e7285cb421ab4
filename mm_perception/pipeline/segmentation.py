"""RGB-X segmentation of one observation.

J. Zhang, H. Liu, K. Yang, X. Hu, R. Liu, R. Stiefelhagen, CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation
with Transformers, IEEE T-ITS 2023 (arXiv 2203.04838), section IV-B for the input encodings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError, ConfigError, DataError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import (
    DepthFrame,
    EventPacket,
    ImageFrame,
    Measurement,
    PointCloud,
    SegmentationMap,
    ThermalFrame,
)
from mm_perception.engines.card import ModelCard
from mm_perception.engines.engine import Engine
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.intake import Calibration, Observation
from mm_perception.sensing.depth import hha_image, raw_depth_image, register_depth
from mm_perception.sensing.events import event_image
from mm_perception.sensing.image import Placement, to_tensor, warp_by_rotation
from mm_perception.sensing.lidar import lidar_image
from mm_perception.sensing.thermal import thermal_image


class InputEncoder:
    """From an observation to the two pictures that a model sees. The same code feeds the network and its training.

    Attributes:
        x_sensor: name of the sensor that feeds the X input; the reference itself for RGB-only models.
    """

    def __init__(self, card: ModelCard, rig: RigConfig, x_sensor: str = "") -> None:
        """Raises ConfigError if the rig has no sensor for the model's X input."""
        self.card, self.rig = card, rig
        self.x_sensor = choose_x_sensor(card, rig, x_sensor)
        self._window_ns = round(rig.sensor(self.x_sensor).window_ms * 1e6)

    def placement(self, reference: ImageFrame) -> Placement:
        """How the reference image lies in the model's input."""
        height, width = reference.image.shape[:2]
        card = self.card
        return Placement.fit(width, height, card.input_width, card.input_height, card.resize)

    def pictures(self, observation: Observation) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """The reference image and the X image on the model's pixel grid.

        Returns:
            (H, W, 3) uint8; and (H, W, 3), float32 in 0..1 or, for RGB-only models, uint8.

        Raises:
            DataError: the X measurement is missing or of the wrong kind.
            CalibrationError: a camera model or transform that the encoding needs is missing.
        """
        bundle, card = observation.bundle, self.card
        reference = bundle.measurements[bundle.reference]
        assert isinstance(reference, ImageFrame)
        if self.x_sensor not in bundle.measurements:
            raise DataError(f"no {card.modality} measurement of sensor {self.x_sensor!r} in the bundle")
        placement = self.placement(reference)
        # A border of the mean colour says least.
        rgb = placement.resize(reference.image, border=255.0 * float(np.mean(card.rgb_mean)))
        measurement = bundle.measurements[self.x_sensor]
        if isinstance(measurement, ImageFrame):
            return rgb, placement.resize(measurement.image, border=255.0 * float(np.mean(card.x_mean)))
        return rgb, self.x_image(measurement, reference, placement, observation.calibration)

    def tensors(self, observation: Observation) -> dict[str, NDArray[np.float32]]:
        """The model's inputs, (1, 3, H, W) each. Raises as `pictures` does."""
        card = self.card
        rgb, x = self.pictures(observation)
        reverse = card.channel_order == "bgr"
        return {
            "rgb": to_tensor(rgb, card.rgb_mean, card.rgb_std, reverse),
            "x": to_tensor(x, card.x_mean, card.x_std, reverse and card.modality == "rgb"),
        }

    def x_image(
        self, measurement: Measurement, reference: ImageFrame, placement: Placement, calibration: Calibration
    ) -> NDArray[np.float32]:
        """The X image of a measurement on the model's pixel grid, (H, W, 3) float32; see `sensing`."""
        if isinstance(measurement, DepthFrame):
            return self._depth(measurement, reference, placement, calibration)
        if isinstance(measurement, ThermalFrame):
            image = thermal_image(measurement, self.card.encoding)  # type: ignore[arg-type]  # card checked it
            return self._align(image, measurement, reference, placement, calibration)
        if isinstance(measurement, EventPacket):
            end_ns = measurement.stamp_ns
            image = event_image(measurement, end_ns - self._window_ns, end_ns)
            return self._align(image, measurement, reference, placement, calibration)
        if isinstance(measurement, PointCloud):
            camera = placement.camera(calibration.camera(self.rig.reference))
            return lidar_image(measurement, camera, calibration.transform_from(self.x_sensor))
        raise DataError(f"a {type(measurement).__name__} is no X input")

    def _depth(
        self, frame: DepthFrame, reference: ImageFrame, placement: Placement, calibration: Calibration
    ) -> NDArray[np.float32]:
        if frame.frame_id == reference.frame_id:
            depth_m = placement.resize(frame.depth_m, nearest=True, border=float("nan"))
        else:
            camera = placement.camera(calibration.camera(self.rig.reference))
            source, transform = calibration.camera(self.x_sensor), calibration.transform_from(self.x_sensor)
            depth_m = register_depth(frame.depth_m, source, camera, transform)
        if self.card.encoding == "hha":
            return hha_image(depth_m, placement.camera(calibration.camera(self.rig.reference)))
        return raw_depth_image(depth_m)

    def _align(
        self,
        image: NDArray[np.float32],
        measurement: ThermalFrame | EventPacket,
        reference: ImageFrame,
        placement: Placement,
        calibration: Calibration,
    ) -> NDArray[np.float32]:
        """One frame name means one view; else the image is turned into the reference camera's view."""
        if measurement.frame_id == reference.frame_id:
            return placement.resize(image)
        source = calibration.camera(self.x_sensor)
        if (source.height, source.width) != image.shape[:2]:
            raise CalibrationError(
                f"{self.x_sensor}: CameraInfo of {source.width}x{source.height}, "
                f"image of {image.shape[1]}x{image.shape[0]}"
            )
        target = placement.camera(calibration.camera(self.rig.reference))
        return warp_by_rotation(image, source, target, calibration.transform_from(self.x_sensor))


class SegmentationPipeline:
    """Pre-processing, network and post-processing of one model on one rig."""

    def __init__(self, card: ModelCard, engine: Engine, rig: RigConfig, x_sensor: str = "") -> None:
        """Raises ConfigError if the rig has no sensor for the model's X input."""
        self.card, self.engine = card, engine
        self.encoder = InputEncoder(card, rig, x_sensor)

    @property
    def x_sensor(self) -> str:
        """Name of the sensor that feeds the X input."""
        return self.encoder.x_sensor

    def step(self, observation: Observation, clock: StageClock) -> SegmentationMap:
        """Segments the reference image.

        Returns:
            Class ids with the reference image's size, stamp and frame.

        Raises:
            DataError: the X measurement is missing or of the wrong kind.
            CalibrationError: a camera model or transform that the encoding needs is missing.
            EngineError: the engine failed or gave values that are not finite.
        """
        bundle = observation.bundle
        reference = bundle.measurements[bundle.reference]
        assert isinstance(reference, ImageFrame)
        with clock.measure("preprocess"):
            inputs = self.encoder.tensors(observation)
        with clock.measure("inference"):
            logits = self.engine.run(inputs)["logits"]
        with clock.measure("postprocess"):
            class_ids = self.encoder.placement(reference).restore(most_likely(logits))
        card = self.card
        return SegmentationMap(class_ids, card.classes, reference.stamp_ns, reference.frame_id, trained=card.trained)


def choose_x_sensor(card: ModelCard, rig: RigConfig, x_sensor: str = "") -> str:
    """The sensor for the model's X input.

    Raises:
        ConfigError: the rig has none of the model's modality, the named one is of another kind, or the encoding
            needs the reference camera's CameraInfo and the rig names no topic for it.
    """
    if card.modality == "rgb":
        if x_sensor not in ("", rig.reference):
            raise ConfigError(f"model {card.name} sees RGB only, x_sensor must be empty, got {x_sensor!r}")
        return rig.reference
    fitting = [sensor.name for sensor in rig.of_kind(card.modality)]
    if not fitting or (x_sensor and x_sensor not in fitting):
        raise ConfigError(
            f"model {card.name} needs a {card.modality} sensor, rig {rig.name} has "
            f"{', '.join(fitting) or 'none'}{f', not {x_sensor!r}' if x_sensor else ''}"
        )
    needs_camera = card.modality == "lidar" or card.encoding == "hha"
    if needs_camera and not rig.sensor(rig.reference).camera_info:
        raise ConfigError(
            f"model {card.name} needs the camera_info of sensor {rig.reference!r}: rig {rig.name} has none"
        )
    return x_sensor or fitting[0]


def most_likely(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(1, C, H, W) logits to (H, W) uint8 ids of the largest; the lowest id wins a tie.

    A running maximum touches memory once per class, several times faster than argmax over the outer axis.
    """
    scores = logits[0]
    best = scores[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for class_id in range(1, len(scores)):
        better = scores[class_id] > best
        ids[better] = class_id
        np.maximum(best, scores[class_id], out=best)
    return ids
