"""Frames for the detector's training: the same encoding as the pipeline's, with varied geometry and light.

Bird's-eye view and images are varied apart, each with its geometry: the ground is turned, mirrored, scaled and shifted
together with points and boxes; each image is mirrored together with its projection. Differs from the published
training, which says that images were mirrored and does not mirror them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.models.deepinteraction.encoder import InteractionMaps
from mm_perception.models.deepinteraction.model import LidarInput
from mm_perception.replay.frame_view import frame_view
from mm_perception.sensing.detector_inputs import DetectorEncoder, DetectorView
from mm_perception.sensing.fusion_geometry import moved, project
from mm_perception.sim.detection_frames import DetectionFrame
from mm_perception.training.detection_targets import TruthBoxes

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Variation:
    """How much frames are varied; the defaults vary nothing.

    Attributes:
        turn_rad, shift_m: largest turn, deviation of the shift. scale: smallest and largest.
        mirror: whether the ground's axes and the images are mirrored at random.
        brightness: share by which an image may be made darker or brighter.
        drop_camera: chance that a camera is missing.
    """

    turn_rad: float = 0.0
    shift_m: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    mirror: bool = False
    brightness: float = 0.0
    drop_camera: float = 0.0


USUAL = Variation(turn_rad=0.785, shift_m=0.5, scale=(0.93, 1.07), mirror=True, brightness=0.2, drop_camera=0.05)


@dataclass(frozen=True, slots=True, eq=False)
class DetectionSample:
    """One frame as the network and its loss take it.

    Attributes:
        truth: boxes on the map that have a return or are well visible.
        places: (V, M, 2) sampling coordinates of the boxes' middles in the images, NaN where they are not seen.
    """

    tensors: dict[str, NDArray[Any]]
    truth: TruthBoxes
    places: F64
    condition: str


def truth_of(frame: DetectionFrame, least_visible: float = 0.3) -> TruthBoxes:
    """The boxes that a detector can be asked for: with a LiDAR return, or visible to a camera."""
    b = frame.boxes
    asked = (frame.lidar_points > 0) | (frame.visibility > least_visible)
    return TruthBoxes(
        b.centers.astype(np.float64), b.sizes_lwh.astype(np.float64), b.yaw_rad.astype(np.float64),
        b.velocity.astype(np.float64), b.labels.astype(np.int64),
    ).take(asked)  # fmt: skip


def sample_of(
    frame: DetectionFrame, encoder: DetectorEncoder, variation: Variation, generator: np.random.Generator
) -> DetectionSample:
    """One frame, varied."""
    view, truth = frame_view(frame), truth_of(frame)
    view = _varied_images(view, variation, generator)
    places = _image_places(truth.centers, view, encoder.variant.image_size)
    transform = _draw_transform(variation, generator)
    if transform is not None:
        view = replace(view, points=_moved_points(view.points, transform), bev_from_lidar=transform)
        truth = moved_boxes(truth, transform)
    low, high = np.array(encoder.variant.range_m[:3]), np.array(encoder.variant.range_m[3:])
    on_map = np.asarray(((truth.centers > low) & (truth.centers < high)).all(axis=1))
    return DetectionSample(encoder.encode(view).tensors, truth.take(on_map), places[:, on_map], frame.condition)


def _draw_transform(v: Variation, generator: np.random.Generator) -> F64 | None:
    if v == Variation():
        return None
    angle, scale = generator.uniform(-v.turn_rad, v.turn_rad), generator.uniform(*v.scale)
    cos, sin = np.cos(angle), np.sin(angle)
    out = np.eye(4)
    out[:2, :2] = [[cos, -sin], [sin, cos]]
    out[:3, :3] *= scale
    out[:2, 3] = generator.normal(0.0, v.shift_m, 2) if v.shift_m else 0.0
    if v.mirror:
        out[:2] *= generator.choice([-1.0, 1.0], 2)[:, None]
    return out


def _moved_points(points: NDArray[np.float32], transform: F64) -> NDArray[np.float32]:
    out = points.copy()
    out[:, :3] = points[:, :3] @ transform[:3, :3].T.astype(np.float32) + transform[:3, 3].astype(np.float32)
    return np.asarray(out, np.float32)


def moved_boxes(boxes: TruthBoxes, transform: F64) -> TruthBoxes:
    """Boxes after a turn, mirror, even scale and shift of the ground."""
    linear = transform[:3, :3]
    scale = float(np.cbrt(abs(np.linalg.det(linear))))
    heading = np.stack([np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad)], axis=1) @ linear[:2, :2].T
    return TruthBoxes(
        moved(boxes.centers, transform), boxes.sizes_lwh * scale, np.arctan2(heading[:, 1], heading[:, 0]),
        boxes.velocity @ linear[:2, :2].T, boxes.labels,
    )  # fmt: skip


def _varied_images(view: DetectorView, v: Variation, generator: np.random.Generator) -> DetectorView:
    if v == Variation():
        return view
    images, lidar2img = view.images.copy(), view.lidar2img.copy()
    present = view.present & (generator.random(len(images)) >= v.drop_camera)
    width = images.shape[2]
    for i in range(len(images)):
        if v.mirror and generator.random() < 0.5:
            images[i] = images[i, :, ::-1]
            lidar2img[i, 0] = (width - 1.0) * lidar2img[i, 2] - lidar2img[i, 0]
        if v.brightness:
            factor = 1.0 + generator.uniform(-v.brightness, v.brightness)
            images[i] = np.clip(images[i] * np.float32(factor), 0, 255).astype(np.uint8)
    return replace(view, images=images, lidar2img=lidar2img, present=present)


def _image_places(centers: F64, view: DetectorView, image_size: tuple[int, int]) -> F64:
    uv, seen = project(centers, view.lidar2img, image_size)
    return np.where((seen & view.present[:, None])[..., None], uv, np.nan)


def network_inputs(sample: DetectionSample, device: torch.device) -> tuple[Tensor, Tensor, LidarInput, InteractionMaps]:
    """Images, projections, points and maps as tensors."""
    t = {name: torch.from_numpy(np.ascontiguousarray(a)).to(device) for name, a in sample.tensors.items()}
    lidar = LidarInput(t["points"], t["point_mask"], t["lidar_cell_pillar"])
    return t["images"], t["lidar2img"], lidar, InteractionMaps(*(t[name] for name in InteractionMaps._fields))
