"""RGB-X segmentation of one observation.

J. Zhang, H. Liu, K. Yang, X. Hu, R. Liu, R. Stiefelhagen, CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation
with Transformers, IEEE T-ITS 2023 (arXiv 2203.04838), section IV-B for the input encodings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from mm_perception.engines.engine import DeviceTensor, Engine
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.inference import Inference, Made
from mm_perception.pipeline.intake import Calibration, Observation
from mm_perception.sensing.depth import hha_image, raw_depth_image, register_depth
from mm_perception.sensing.events import event_image
from mm_perception.sensing.image import GREY_LEVELS, Placement, to_tensor, warp_by_rotation
from mm_perception.sensing.lidar import lidar_image
from mm_perception.sensing.thermal import thermal_image

if TYPE_CHECKING:
    from mm_perception.gpu.transfer import Lane


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
        reference, measurement = self._measurements(observation)
        placement = self.placement(reference)
        rgb = placement.resize(reference.image, border=_grey_of(self.card.rgb_mean))
        if isinstance(measurement, ImageFrame):
            return rgb, placement.resize(measurement.image, border=_grey_of(self.card.x_mean))
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

    def device_tensors(self, observation: Observation, lane: Lane) -> dict[str, DeviceTensor]:
        """`tensors` as torch tensors on a lane's device, of which pictures are at most a grey level off.

        Pictures are resized and events of the reference camera's view are gathered there. Depth, thermal and LiDAR
        images and events of other views are made on the host, as in `x_image`, and uploaded. Raises as `pictures`
        does.
        """
        from mm_perception.gpu.events import event_image as device_event_image
        from mm_perception.gpu.images import normalised, resized, upload_picture

        reference, measurement = self._measurements(observation)
        card, placement, device = self.card, self.placement(reference), lane.device
        reverse, full_scale = card.channel_order == "bgr", 1.0
        picture = upload_picture(reference.image, device)
        rgb = resized(picture, placement, _grey_of(card.rgb_mean))
        if isinstance(measurement, ImageFrame):
            seen = picture if measurement is reference else upload_picture(measurement.image, device)
            x, full_scale = resized(seen, placement, _grey_of(card.x_mean)), GREY_LEVELS
        elif isinstance(measurement, EventPacket) and shares_frame(measurement, reference):
            end_ns = measurement.stamp_ns
            x = resized(device_event_image(measurement, end_ns - self._window_ns, end_ns, device), placement)
        else:
            x_image = self.x_image(measurement, reference, placement, observation.calibration)
            x = upload_picture(x_image, device)
        return {
            "rgb": normalised(rgb, GREY_LEVELS, card.rgb_mean, card.rgb_std, reverse),
            "x": normalised(x, full_scale, card.x_mean, card.x_std, reverse and card.modality == "rgb"),
        }

    def _measurements(self, observation: Observation) -> tuple[ImageFrame, Measurement]:
        """The reference image and what feeds the X input. Raises DataError if the latter is missing."""
        bundle = observation.bundle
        reference = bundle.measurements[bundle.reference]
        assert isinstance(reference, ImageFrame)
        if self.x_sensor not in bundle.measurements:
            raise DataError(f"no {self.card.modality} measurement of sensor {self.x_sensor!r} in the bundle")
        return reference, bundle.measurements[self.x_sensor]

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
        if shares_frame(frame, reference):
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
        if shares_frame(measurement, reference):
            return placement.resize(image)
        source = calibration.camera(self.x_sensor)
        if (source.height, source.width) != image.shape[:2]:
            raise CalibrationError(
                f"{self.x_sensor}: CameraInfo of {source.width}x{source.height}, "
                f"image of {image.shape[1]}x{image.shape[0]}"
            )
        target = placement.camera(calibration.camera(self.rig.reference))
        return warp_by_rotation(image, source, target, calibration.transform_from(self.x_sensor))


def shares_frame(measurement: Measurement, reference: Measurement) -> bool:
    """Whether two sensors see through one lens. Two that name no frame are not known to."""
    return bool(reference.frame_id) and measurement.frame_id == reference.frame_id


def _grey_of(mean: tuple[float, float, float]) -> float:
    """The border of a letterboxed image, 0..255: one of the mean colour says least."""
    return GREY_LEVELS * float(np.mean(mean))


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSegmentation:
    """What `SegmentationPipeline.finish` goes on with: the reference image, and the network's inputs by name."""

    reference: ImageFrame
    inputs: Made[Mapping[str, Any]]


class SegmentationPipeline:
    """Pre-processing, network and post-processing of one model on one rig."""

    def __init__(
        self, card: ModelCard, engine: Engine, rig: RigConfig, x_sensor: str = "", on_device: bool | None = None
    ) -> None:
        """Args:
            on_device: whether inputs and labels are computed on the engine's device; None: where that is not the CPU.

        Raises:
            ConfigError: the rig has no sensor for the model's X input, or the engine takes no tensors on a device.
        """
        self.card, self.engine = card, engine
        self.encoder = InputEncoder(card, rig, x_sensor)
        self._inference = Inference(engine, on_device)
        self._labels: Callable[[Any], NDArray[np.uint8]] = most_likely
        if self._inference.lane is not None:
            from mm_perception.gpu.labels import most_likely as device_most_likely

            self._labels = device_most_likely

    @property
    def x_sensor(self) -> str:
        """Name of the sensor that feeds the X input."""
        return self.encoder.x_sensor

    def step(self, observation: Observation, clock: StageClock) -> SegmentationMap:
        """Segments the reference image: `prepare` and `finish`, whose errors it raises.

        Returns:
            Class ids with the reference image's size, stamp and frame.
        """
        return self.finish(self.prepare(observation, clock), clock)

    def prepare(self, observation: Observation, clock: StageClock) -> PreparedSegmentation:
        """Encodes the network's inputs.

        Raises:
            DataError: the X measurement is missing or of the wrong kind.
            CalibrationError: a camera model or transform that the encoding needs is missing.
            EngineError: the engine's device failed.
        """
        bundle = observation.bundle
        reference = bundle.measurements[bundle.reference]
        assert isinstance(reference, ImageFrame)
        with clock.measure("preprocess"):
            inputs = self._inference.make(lambda: self._encode(observation))
        return PreparedSegmentation(reference, inputs)

    def _encode(self, observation: Observation) -> Mapping[str, Any]:
        lane = self._inference.lane
        return self.encoder.tensors(observation) if lane is None else self.encoder.device_tensors(observation, lane)

    def finish(self, prepared: PreparedSegmentation, clock: StageClock) -> SegmentationMap:
        """Runs the network and gives each pixel its likeliest class.

        Raises:
            EngineError: the engine or its device failed, or it gave values that are not finite.
        """
        card, reference = self.card, prepared.reference
        with clock.measure("inference"):
            logits = self._inference.run(prepared.inputs.value, prepared.inputs.wait)["logits"]
        with clock.measure("postprocess"):
            labels = self._inference.fetch(lambda: self._labels(logits))
            class_ids = self.encoder.placement(reference).restore(labels)
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
