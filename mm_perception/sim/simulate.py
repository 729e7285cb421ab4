"""A drive through a world, written as a standard bag with everything that the sensors measure and the truth.

Topics besides the rig's (see config/rigs/sim.yaml): /tf_static, /tf and /odom (nav_msgs/Odometry); and below
`<camera topic's first two names>/truth/`: `class` (mono8 png, ids of `surfaces.CLASSES`, 255 none) and `instance`
(mono16 png, the objects' ids, 0 none) of every camera; /sim/truth/objects (Detection3DArray in base_link; `id` is the
instance, velocities are not part of that message) and /sim/truth/object_states (PointCloud2, one point per object in
the same order: id, x, y, z, length, width, height, yaw, vx, vy, visibility, lidar_points, pixels).

A bundle's messages follow each other in the order: odometry and events since the last bundle, the sweep that ends now,
pictures, truth; within a topic, stamps rise. Frames are rendered by several processes; what depends on the frame before
(events) is done in order. Bags of equal file names are equal byte for byte, whatever the number of processes. (A bag's
metadata holds its name.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.detections import encode_detections, state_columns
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_columns,
    encode_events_evt3,
    encode_image,
    encode_label_info,
    encode_odometry,
    encode_point_cloud,
    encode_transforms,
    wrap_compressed,
)
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import Detections3D, PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.frames import jpeg_of, millimetres
from mm_perception.sim.rig import SimCamera, simulated_rig, truth_topics
from mm_perception.sim.scenario import Scenario
from mm_perception.sim.sensors import SWEEP_NS, CameraFrame, Sensors, boxes_from, visible_shares
from mm_perception.sim.surfaces import CLASSES
from mm_perception.sim.workers import worker_pool
from mm_perception.sim.world import ObjectState, World

START_NS = 1_700_000_000_000_000_000
STEP_NS = 25_000_000
"""Objects, events and odometry move in steps of this."""

OBJECTS_TOPIC, STATES_TOPIC = "/sim/truth/objects", "/sim/truth/object_states"

Encoded = tuple[str, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Drive:
    """What is simulated: `frames` bundles, one each `period_ns`."""

    scenario: Scenario
    rig: RigConfig
    frames: int
    period_ns: int = 100_000_000

    @property
    def duration_s(self) -> float:
        return self.frames * self.period_ns * 1e-9 + 1.0

    def stamp_ns(self, frame: int) -> int:
        return START_NS + frame * self.period_ns


@dataclass(frozen=True, slots=True, eq=False)
class TruthRow:
    """The objects of one frame in base_link: the boxes, and (N,) what the sensors saw of each."""

    boxes: Detections3D
    ids: NDArray[np.uint32]
    visibility: NDArray[np.float32]
    lidar_points: NDArray[np.uint32]
    pixels: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """One rendered frame, ready to be written.

    Attributes:
        pictures: by topic, a format and an encoded file.
        luminance: by event sensor, (T, H, W) float16 of the steps since the last frame, oldest first, with `steps_ns`.
        clouds: by LiDAR.
    """

    stamp_ns: int
    pictures: dict[str, Encoded]
    luminance: dict[str, NDArray[np.float16]]
    steps_ns: list[int]
    clouds: dict[str, PointCloud]
    truth: TruthRow


def simulate(
    scenario: Scenario,
    rig: RigConfig,
    seconds: float,
    out: Path,
    *,
    rate_hz: float = 10.0,
    workers: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes a bag of a drive.

    Args:
        rate_hz: bundles per second: 40 / n with a whole n, from 1; at most 10 with a LiDAR, whose turn takes 100 ms.
        workers: rendering processes; None: one per core.
        on_progress: is told the frames done and the frames in all.

    Raises:
        ConfigError: the scenario or the rig cannot be simulated, or seconds or rate are out of range.
        BagError: the bag exists (unless `overwrite`) or cannot be written; nothing half-written is left.
    """
    if not 0 < seconds <= 3600:
        raise ConfigError(f"expected seconds in (0, 3600], got {seconds}")
    if workers is not None and workers < 1:
        raise ConfigError(f"expected at least one worker, got {workers}")
    period_ns = _period_ns(rate_hz, bool(rig.of_kind("lidar")))
    drive = Drive(scenario, rig, max(1, round(seconds * 1e9 / period_ns)), period_ns)
    world = World(scenario, drive.duration_s)  # raises before anything is written
    sim_rig = simulated_rig(rig)
    events = {c.others["events"].name: c for c in sim_rig.cameras if "events" in c.others}
    sensors = Sensors(world, sim_rig, scenario.seed)
    with BagWriter(out, overwrite) as bag:
        writer = _DriveWriter(bag, world, sensors, events)
        for i, bundle in enumerate(_bundles(drive, workers or os.cpu_count() or 1)):
            writer.write(bundle)
            if on_progress is not None:
                on_progress(i + 1, drive.frames)


def _period_ns(rate_hz: float, with_lidar: bool) -> int:
    fastest = 10.0 if with_lidar else 40.0
    steps = 1e9 / STEP_NS / rate_hz if 1 <= rate_hz <= fastest else 0.0
    if not steps or abs(steps - round(steps)) > 1e-6:
        raise ConfigError(
            f"expected a rate of 40 / n Hz from 1 to {fastest:g} (such as 10, 8, 5, 4, 2 or 1), got {rate_hz:g}"
        )
    return round(steps) * STEP_NS


def _bundles(drive: Drive, workers: int) -> Iterator[Bundle]:
    if workers == 1:
        renderer = _Renderer(drive)
        yield from (renderer.bundle(i) for i in range(drive.frames))
        return
    with worker_pool(workers, _prepare, drive) as pool:
        pending = []
        for i in range(drive.frames):
            pending.append(pool.submit(_work, i))
            if len(pending) > 2 * workers:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


_renderer: _Renderer | None = None


def _prepare(drive: Drive) -> None:
    global _renderer
    _renderer = _Renderer(drive)


def _work(frame: int) -> Bundle:
    assert _renderer is not None
    return _renderer.bundle(frame)


class _Renderer:
    """Renders any frame of a drive."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._world = World(drive.scenario, drive.duration_s)
        self._sensors = Sensors(self._world, simulated_rig(drive.rig), drive.scenario.seed)

    def bundle(self, frame: int) -> Bundle:
        """All sensors at one frame; the sweep and the events since the frame before end with it."""
        drive, sensors = self._drive, self._sensors
        stamp_ns = drive.stamp_ns(frame)
        steps = drive.period_ns // STEP_NS if frame else 1
        steps_ns = [stamp_ns - (steps - 1 - i) * STEP_NS for i in range(steps)]
        parts = SWEEP_NS // STEP_NS
        sweep_ns = [stamp_ns - (parts - 1 - i) * STEP_NS for i in range(parts)]
        scenes = {t: sensors.scene((t - START_NS) * 1e-9) for t in sorted({*steps_ns, *sweep_ns})}
        scene = scenes[stamp_ns]
        views = {c.sensor.name: sensors.view(scene, c) for c in sensors.rig.cameras}
        frames = {name: sensors.frame(scene, view, frame) for name, view in views.items()}
        luminance = {}
        for camera in sensors.rig.cameras:
            if "events" in camera.others:
                greys = [sensors.event_luminance(scenes[t], camera) for t in steps_ns]
                luminance[camera.others["events"].name] = np.stack(greys)
        clouds, hit_ids = {}, [np.zeros(0, np.uint16)]
        for lidar in sensors.rig.lidars:
            start_ns = stamp_ns - SWEEP_NS
            start_s = (start_ns - START_NS) * 1e-9
            cloud, ids = sensors.sweep(lidar, [scenes[t] for t in sweep_ns], start_ns, start_s, frame)
            clouds[lidar.sensor.name] = cloud
            hit_ids.append(ids)
        pictures = {}
        for camera in sensors.rig.cameras:
            pictures.update(_pictures(camera, frames[camera.sensor.name]))
        base = self._world.ego_pose((stamp_ns - START_NS) * 1e-9)
        shares = visible_shares(scene, sensors.rig.cameras, base, scene.snapshot.objects)
        truth = _truth(scene.snapshot.objects, base, shares, np.concatenate(hit_ids), list(frames.values()), stamp_ns)
        return Bundle(stamp_ns, pictures, luminance, steps_ns, clouds, truth)


def _pictures(camera: SimCamera, frame: CameraFrame) -> dict[str, Encoded]:
    pictures = {camera.sensor.input_topic: _encode(camera.sensor, frame.rgb)}
    if frame.depth_m is not None:
        sensor = camera.others["depth"]
        pictures[sensor.input_topic] = _encode(sensor, millimetres(frame.depth_m))
    if frame.thermal is not None:
        sensor = camera.others["thermal"]
        pictures[sensor.input_topic] = _encode(sensor, frame.thermal)
    class_topic, instance_topic = truth_topics(camera.sensor)
    pictures[class_topic] = ("png", _png(frame.class_ids))
    pictures[instance_topic] = ("png", _png(frame.instances))
    return pictures


def _encode(sensor: SensorConfig, pixels: NDArray[Any]) -> Encoded:
    """An encoded file for CompressedImage, the plain pixels ("") for Image."""
    if not sensor.message_type.endswith("CompressedImage"):
        return "", pixels
    if pixels.ndim == 2:
        return "png", _png(pixels)
    return "jpeg", jpeg_of(pixels)


def _png(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].reshape(-1)


def _truth(
    objects: tuple[ObjectState, ...], odom_from_base: RigidTransform, visibility: NDArray[np.float32],
    hit_ids: NDArray[np.uint16], frames: list[CameraFrame], stamp_ns: int,
) -> TruthRow:  # fmt: skip
    ids = np.array([o.instance for o in objects], np.int64)
    boxes = boxes_from(objects, odom_from_base, stamp_ns)
    most = int(ids.max(initial=0)) + 1
    points = np.bincount(hit_ids, minlength=most)
    pixels = np.sum([np.bincount(f.instances.reshape(-1), minlength=most)[:most] for f in frames], axis=0)
    return TruthRow(
        boxes, ids.astype(np.uint32), visibility, points[ids].astype(np.uint32), pixels[ids].astype(np.uint32)
    )


class _DriveWriter:
    """Turns bundles into messages, in the order of time."""

    def __init__(self, bag: BagWriter, world: World, sensors: Sensors, events: dict[str, SimCamera]) -> None:
        self._bag, self._world, self._sensors = bag, world, sensors
        self._cameras = {name: sensors.event_camera(camera) for name, camera in events.items()}
        self._seq = dict.fromkeys(events, 0)
        before_ns = START_NS - SWEEP_NS
        bag.write(
            sensors.rig.config.tf_static,
            encode_transforms(bag.factory, sensors.rig.transforms, before_ns),
            before_ns,
            latched=True,
        )
        for camera in sensors.rig.cameras:
            topic = truth_topics(camera.sensor)[0] + "/label_info"
            message = encode_label_info(bag.factory, CLASSES, before_ns, camera.model.frame_id)
            bag.write(topic, message, before_ns, latched=True)
        self._odometry_ns = before_ns - STEP_NS

    def write(self, bundle: Bundle) -> None:
        """Everything up to a frame: odometry, events, the sweep that ends with it, pictures and truth."""
        bag, make = self._bag, self._bag.factory
        while self._odometry_ns + STEP_NS <= bundle.stamp_ns:
            self._odometry_ns += STEP_NS
            self._write_odometry(self._odometry_ns)
        for name, greys in bundle.luminance.items():
            topic = self._sensors.rig.config.sensor(name).input_topic
            for grey, step_ns in zip(greys, bundle.steps_ns, strict=True):
                packet = self._cameras[name].expose(grey.astype(np.float32), step_ns)
                bag.write(topic, encode_events_evt3(make, packet, self._seq[name]), packet.stamp_ns)
                self._seq[name] += 1
        for name, cloud in bundle.clouds.items():
            topic = self._sensors.rig.config.sensor(name).input_topic
            bag.write(topic, encode_point_cloud(make, cloud), bundle.stamp_ns)
        for camera in self._sensors.rig.cameras:
            sensors = (camera.sensor, *camera.others.values())
            for topic in dict.fromkeys(sensor.camera_info for sensor in sensors if sensor.camera_info):
                bag.write(topic, encode_camera_info(make, camera.model, bundle.stamp_ns), bundle.stamp_ns)
        frames = self._frames()
        for topic, (fmt, data) in bundle.pictures.items():
            bag.write(topic, self._image(fmt, data, bundle.stamp_ns, frames[topic]), bundle.stamp_ns)
        self._write_truth(bundle)

    def _frames(self) -> dict[str, str]:
        frames = {}
        for camera in self._sensors.rig.cameras:
            topics = [camera.sensor.input_topic, *truth_topics(camera.sensor)]
            topics += [sensor.input_topic for sensor in camera.others.values()]
            frames.update(dict.fromkeys(topics, camera.model.frame_id))
        return frames

    def _image(self, fmt: str, data: NDArray[Any], stamp_ns: int, frame_id: str) -> Any:
        if fmt:
            return wrap_compressed(self._bag.factory, data, fmt, stamp_ns, frame_id)
        encoding = "rgb8" if data.ndim == 3 else "16UC1"
        return encode_image(self._bag.factory, data, encoding, stamp_ns, frame_id)

    def _write_odometry(self, stamp_ns: int) -> None:
        time_s = (stamp_ns - START_NS) * 1e-9
        pose = self._world.ego_pose(time_s)
        speed, yaw_rate = self._world.ego_velocity(time_s)
        make = self._bag.factory
        self._bag.write(self._sensors.rig.config.tf, encode_transforms(make, [pose], stamp_ns), stamp_ns)
        self._bag.write("/odom", encode_odometry(make, pose, speed, yaw_rate, stamp_ns), stamp_ns)

    def _write_truth(self, bundle: Bundle) -> None:
        truth, make = bundle.truth, self._bag.factory
        boxes = truth.boxes
        message = encode_detections(make, boxes, [str(i) for i in truth.ids])
        self._bag.write(OBJECTS_TOPIC, message, bundle.stamp_ns)
        columns = state_columns(boxes, truth.ids) | {
            "visibility": ("f4", truth.visibility), "lidar_points": ("u4", truth.lidar_points),
            "pixels": ("u4", truth.pixels),
        }  # fmt: skip
        self._bag.write(STATES_TOPIC, encode_columns(make, columns, bundle.stamp_ns, boxes.frame_id), bundle.stamp_ns)
