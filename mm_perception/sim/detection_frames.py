"""Frames for detection in many small worlds: six cameras round the car, LiDAR turns, and the boxes that are there.

Frame i of a seed is the same wherever it is made; worlds are those of `sim.frames`, training and judging apart.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.rig import load_rig
from mm_perception.core.types import Detections3D
from mm_perception.geometry.sweeps import Turn, turns_table
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.conditions import ConditionName
from mm_perception.sim.frames import (
    WORLD_VERSION,
    Split,
    cached_files,
    draw_world,
    frame_time_s,
    frames_of_worlds,
    jpeg_of,
    set_condition,
    write_arrays,
)
from mm_perception.sim.rig import SimLidar, SimRig, simulated_rig
from mm_perception.sim.sensors import SWEEP_NS, Sensors, boxes_from, visible_shares

CAMERAS = ("cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right")
"""In nuScenes' order."""
SWEEPS = 3
FARTHEST_M = 75.0


@dataclass(frozen=True, slots=True, eq=False)
class DetectionFrame:
    """One instant.

    Attributes:
        jpegs: one encoded image per camera of `CAMERAS`; a uniform one where a camera gave nothing.
        lidar2img: (V, 4, 4) from the LiDAR's frame to homogeneous pixels of the images.
        points: (M, 5) x, y, z [m], intensity 0..255, age [s], in the LiDAR's frame at the frame's time.
        boxes: within `FARTHEST_M`, in that frame.
        lidar_points: (N,) returns of the newest turn.
        visibility: (N,) share that the best camera sees; 0 if unknown.
        condition: one of the simulator's, or "recorded".
    """

    jpegs: tuple[NDArray[np.uint8], ...]
    lidar2img: NDArray[np.float64]
    points: NDArray[np.float32]
    boxes: Detections3D
    lidar_points: NDArray[np.int64]
    visibility: NDArray[np.float32]
    condition: str
    world_seed: int

    def images(self) -> list[NDArray[np.uint8]]:
        """(H, W, 3) RGB pictures."""
        return [_rgb(jpeg) for jpeg in self.jpegs]


def make_detection_frames(split: Split, seed: int, count: int, workers: int | None = None) -> Iterator[DetectionFrame]:
    """Makes frames in order; see `sim.frames.make_frames`."""
    yield from frames_of_worlds(_world_frames, split, seed, count, workers)


def detection_rig() -> SimRig:
    """Cameras round the simulated vehicle, in nuScenes' order, and its LiDAR."""
    rig = simulated_rig(load_rig("sim"))
    by_name = {camera.sensor.name: camera for camera in rig.cameras}
    return SimRig(rig.config, tuple(by_name[name] for name in CAMERAS), rig.lidars)


def _world_frames(
    split: Split, seed: int, index: int, conditions: Sequence[ConditionName], count: int
) -> list[DetectionFrame]:
    world, generator = draw_world(split, seed, index)
    sensors = Sensors(world, detection_rig(), world.scenario.seed)
    frames = []
    for i in range(count):
        condition, time_s = conditions[(i + index) % len(conditions)], frame_time_s(i)
        set_condition(world, condition, time_s, generator)
        frames.append(_frame(sensors, time_s, i, condition))
    return frames


def _frame(sensors: Sensors, time_s: float, number: int, condition: ConditionName) -> DetectionFrame:
    world, rig = sensors.world, sensors.rig
    lidar = rig.lidars[0]
    scene = sensors.scene(time_s)
    pictures = [sensors.frame(scene, sensors.view(scene, camera), number).rgb for camera in rig.cameras]
    points, hit_ids = _turns(sensors, lidar, time_s, number)
    base_from_lidar = lidar.base_from_lidar
    odom_from_lidar = world.ego_pose(time_s) @ base_from_lidar
    shares = visible_shares(scene, rig.cameras, world.ego_pose(time_s), scene.snapshot.objects)
    near = [
        i for i, o in enumerate(scene.snapshot.objects)
        if float(np.linalg.norm(o.center[:2] - odom_from_lidar.translation[:2])) < FARTHEST_M
    ]  # fmt: skip
    objects = [scene.snapshot.objects[i] for i in near]
    counts = np.bincount(hit_ids, minlength=1 + max((o.instance for o in objects), default=0))
    lidar2img = np.stack([_projection(c.model.intrinsics, c.base_from_camera, base_from_lidar) for c in rig.cameras])
    return DetectionFrame(
        tuple(jpeg_of(p) for p in pictures), lidar2img, points, boxes_from(objects, odom_from_lidar, 0),
        counts[[o.instance for o in objects]].astype(np.int64), shares[near], condition, world.scenario.seed,
    )  # fmt: skip


def _turns(
    sensors: Sensors, lidar: SimLidar, time_s: float, number: int
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """The last turns as one table, and which object each return of the newest met."""
    world, ids = sensors.world, np.zeros(0, np.uint16)
    turns: list[Turn] = []
    zero_ns = 1_000_000_000
    for k in reversed(range(SWEEPS)):
        end_s = time_s - k * SWEEP_NS * 1e-9
        start_s = end_s - SWEEP_NS * 1e-9
        start_ns = zero_ns + round(start_s * 1e9)
        scene = sensors.scene(end_s - SWEEP_NS * 0.5e-9)
        cloud, ids = sensors.sweep(lidar, [scene], start_ns, start_s, number * SWEEPS + k)
        first, last = (world.ego_pose(t) @ lidar.base_from_lidar for t in (start_s, end_s))
        turns.append(Turn(cloud, first, last, start_ns, start_ns + SWEEP_NS))
    reference = (world.ego_pose(time_s) @ lidar.base_from_lidar).inverse()
    return turns_table(turns, reference, zero_ns + round(time_s * 1e9)), ids


def _projection(
    intrinsics: NDArray[np.float64], base_from_camera: RigidTransform, base_from_lidar: RigidTransform
) -> NDArray[np.float64]:
    camera_from_lidar = base_from_camera.inverse() @ base_from_lidar
    out = np.eye(4)
    out[:3, :3] = intrinsics @ camera_from_lidar.rotation
    out[:3, 3] = intrinsics @ camera_from_lidar.translation
    return out


def _rgb(jpeg: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError("frame: a picture cannot be decoded")
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def save_detection_frame(frame: DetectionFrame, path: Path) -> None:
    """Writes one frame without loss; the file appears whole or not at all."""
    b = frame.boxes
    arrays: dict[str, Any] = {f"jpeg{i}": j for i, j in enumerate(frame.jpegs)}
    arrays |= {
        "lidar2img": frame.lidar2img, "points": frame.points, "centers": b.centers, "sizes": b.sizes_lwh,
        "yaw": b.yaw_rad, "velocity": b.velocity, "labels": b.labels, "lidar_points": frame.lidar_points,
        "visibility": frame.visibility, "condition": np.array(frame.condition),
        "world_seed": np.array(frame.world_seed),
    }  # fmt: skip
    write_arrays(path, **arrays)


def load_detection_frame(path: Path) -> DetectionFrame:
    """Reads what `save_detection_frame` wrote.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(path) as f:
            count = len(f["labels"])
            boxes = Detections3D(
                f["centers"], f["sizes"], f["yaw"], f["velocity"], np.ones(count, np.float32), f["labels"],
                DETECTION_CLASSES, "lidar", 0,
            )  # fmt: skip
            jpegs = tuple(f[f"jpeg{i}"] for i in range(len(CAMERAS)))
            return DetectionFrame(
                jpegs, f["lidar2img"], f["points"], boxes, f["lidar_points"], f["visibility"],
                str(f["condition"]), int(f["world_seed"]),
            )  # fmt: skip
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no frame ({error}); remove it") from error


def cached_detection_frames(
    folder: Path, split: Split, seed: int, count: int, on_progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Paths of frames; those that do not lie in `folder` yet are made."""
    place = folder / f"detection-{split}-{seed}-{WORLD_VERSION}"
    return cached_files(
        place, count, lambda: make_detection_frames(split, seed, count), save_detection_frame, on_progress
    )
