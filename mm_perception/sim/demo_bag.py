"""The demo bag: a drive down the block street, seen by all five kinds of sensors, with true labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_events_evt3,
    encode_image,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.types import EventPacket, PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.blockworld import (
    Block,
    Hits,
    cast,
    class_ids,
    demo_street,
    reflectances,
    shade,
    temperatures_k,
)

START_NS = 1_700_000_000_000_000_000
FRAME_NS = 100_000_000
EVENT_STEP_NS = 12_500_000
LIDAR_DELAY_NS = 8_000_000
EGO_SPEED_MPS = 6.0
CAMERA_FRAME, LIDAR_FRAME, BASE_FRAME = "front_camera_optical_frame", "lidar", "base_link"
WIDTH, HEIGHT = 640, 480
CONTRAST_THRESHOLD = 0.2

_OPTICAL_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
BASE_FROM_CAMERA = RigidTransform(BASE_FRAME, CAMERA_FRAME, _OPTICAL_AXES, np.array([1.6, 0.0, 1.5]))
BASE_FROM_LIDAR = RigidTransform(BASE_FRAME, LIDAR_FRAME, np.eye(3), np.array([1.0, 0.0, 1.9]))
CAMERA = CameraModel(
    WIDTH,
    HEIGHT,
    np.array([[480.0, 0, (WIDTH - 1) / 2], [0, 480.0, (HEIGHT - 1) / 2], [0, 0, 1]]),
    np.zeros(0),
    "",
    CAMERA_FRAME,
)


def write_demo_bag(
    path: Path, frames: int = 24, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes `frames` frames at 10 Hz; the same arguments give the same messages.

    Topics and message types are those of config/rigs/demo.yaml, and /tf_static.

    Raises:
        BagError: the file cannot be written.
    """
    generator = np.random.default_rng(seed)
    blocks = demo_street(generator)
    events = _EventCamera(blocks)
    with BagWriter(path, overwrite=True) as bag:
        extrinsics = [BASE_FROM_CAMERA, BASE_FROM_LIDAR]
        message = encode_transforms(bag.factory, extrinsics, START_NS)
        bag.write("/tf_static", message, START_NS - FRAME_NS, latched=True)
        for i in range(frames):
            stamp_ns = START_NS + i * FRAME_NS
            events.write(bag, stamp_ns)
            _write_camera(bag, blocks, stamp_ns, generator)
            _write_lidar(bag, blocks, stamp_ns + LIDAR_DELAY_NS, generator)
            if on_progress is not None:
                on_progress(i + 1, frames)
        events.write(bag, START_NS + frames * FRAME_NS - FRAME_NS + 2 * EVENT_STEP_NS)


def pose_at(stamp_ns: int) -> NDArray[np.float64]:
    """(3,) position of base_link in the world; it looks along x."""
    return np.array([EGO_SPEED_MPS * (stamp_ns - START_NS) * 1e-9, -1.8 - 1e-9, 0.0])


def look(blocks: list[Block], camera: CameraModel, stamp_ns: int) -> tuple[list[Block], Hits]:
    """What each pixel of the camera sees, row by row, and the blocks as they stand then."""
    k = camera.intrinsics
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)], axis=-1)
    origin = pose_at(stamp_ns) + BASE_FROM_CAMERA.translation
    now = [block.at((stamp_ns - START_NS) * 1e-9) for block in blocks]
    return now, cast(now, origin, rays.reshape(-1, 3) @ BASE_FROM_CAMERA.rotation.T)


def _write_camera(bag: BagWriter, blocks: list[Block], stamp_ns: int, generator: np.random.Generator) -> None:
    now, hits = look(blocks, CAMERA, stamp_ns)
    shape = (HEIGHT, WIDTH)
    noise = generator.normal(0.0, 2.0, (*shape, 3))
    rgb = np.clip(shade(now, hits).reshape(*shape, 3) * 255 + noise, 0, 255).astype(np.uint8)
    forward = (hits.points - pose_at(stamp_ns) - BASE_FROM_CAMERA.translation)[:, 0].reshape(shape)
    seen = np.isfinite(hits.range_m).reshape(shape) & (forward < 60.0)
    depth_mm = np.where(seen, np.rint(forward * 1000), 0).astype(np.uint16)
    kelvin = temperatures_k(now, hits).reshape(shape)[::2, ::2]
    kelvin = kelvin + generator.normal(0.0, 0.05, kelvin.shape)
    labels = class_ids(now, hits).reshape(shape)
    make, frame = bag.factory, CAMERA_FRAME
    bag.write("/demo/rgb/camera_info", encode_camera_info(make, CAMERA, stamp_ns), stamp_ns)
    for topic, message in (
        ("/demo/depth/image_raw/compressed", encode_compressed(make, depth_mm, "png", stamp_ns, frame)),
        (
            "/demo/thermal/image_raw",
            encode_image(make, np.rint(kelvin * 100).astype(np.uint16), "mono16", stamp_ns, frame),
        ),
        ("/demo/ground_truth/segmentation", encode_compressed(make, labels, "png", stamp_ns, frame)),
        ("/demo/rgb/image_raw/compressed", encode_compressed(make, rgb, "jpeg", stamp_ns, frame)),
    ):
        bag.write(topic, message, stamp_ns)


def _write_lidar(bag: BagWriter, blocks: list[Block], stamp_ns: int, generator: np.random.Generator) -> None:
    """One turn of 32 beams, clockwise from behind, in 100 ms; the ego motion within it is in the points."""
    rings, columns = 32, 720
    elevation = np.radians(np.linspace(-25.0, 10.0, rings))
    azimuth = np.pi - np.arange(columns) * (2 * np.pi / columns)
    az, el = np.meshgrid(azimuth, elevation)
    rays = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1).reshape(-1, 3)
    offset_ns = np.tile((np.arange(columns) * (FRAME_NS // columns)).astype(np.int64), rings)
    drive = np.outer(offset_ns * 1e-9, (EGO_SPEED_MPS, 0.0, 0.0))
    origins = pose_at(stamp_ns) + BASE_FROM_LIDAR.translation + drive
    now = [block.at((stamp_ns - START_NS) * 1e-9) for block in blocks]
    hits = cast(now, origins, rays, far_m=100.0)
    kept = np.isfinite(hits.range_m) & (generator.random(len(rays)) > 0.02)
    measured = hits.range_m[kept] + generator.normal(0.0, 0.02, int(kept.sum()))
    cloud = PointCloud(
        (rays[kept] * measured[:, None]).astype(np.float32),
        stamp_ns,
        LIDAR_FRAME,
        intensity=(255 * reflectances(now, hits)[kept]).astype(np.float32),
        ring=np.repeat(np.arange(rings, dtype=np.uint16), columns)[kept],
        offset_ns=offset_ns[kept],
    )
    bag.write("/demo/lidar/points", encode_point_cloud(bag.factory, cloud), stamp_ns)


class _EventCamera:
    """Crossings of log-intensity thresholds between frames 12.5 ms apart, at half resolution."""

    def __init__(self, blocks: list[Block]) -> None:
        self._blocks = blocks
        self._camera = CAMERA.resized(WIDTH // 2, HEIGHT // 2)
        self._stamp_ns = START_NS - FRAME_NS
        self._log = self._render(self._stamp_ns)
        self._reference = self._log.copy()
        self._seq = 0

    def write(self, bag: BagWriter, until_ns: int) -> None:
        """Writes one packet per step up to a time."""
        while self._stamp_ns + EVENT_STEP_NS <= until_ns:
            packet = self._step()
            message = encode_events_evt3(bag.factory, packet, self._seq)
            bag.write("/demo/events", message, packet.stamp_ns)
            self._seq += 1

    def _render(self, stamp_ns: int) -> NDArray[np.float64]:
        now, hits = look(self._blocks, self._camera, stamp_ns)
        grey = (shade(now, hits) * 255).reshape(self._camera.height, self._camera.width, 3)
        luma = cv2.cvtColor(grey.astype(np.float32), cv2.COLOR_RGB2GRAY)
        return np.log(luma.astype(np.float64) + 5.0)

    def _step(self) -> EventPacket:
        start_ns, self._stamp_ns = self._stamp_ns, self._stamp_ns + EVENT_STEP_NS
        before, self._log = self._log, self._render(self._stamp_ns)
        steps = np.trunc((self._log - self._reference) / CONTRAST_THRESHOLD).astype(np.int64)
        y, x = np.nonzero(steps)
        count = np.abs(steps[y, x])
        pixel = np.repeat(np.arange(len(y)), count)
        number = np.arange(len(pixel)) - np.repeat(np.cumsum(count) - count, count) + 1
        sign = np.sign(steps[y, x])[pixel]
        level = self._reference[y, x][pixel] + sign * number * CONTRAST_THRESHOLD
        change = (self._log - before)[y, x][pixel]
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction = np.clip((level - before[y, x][pixel]) / change, 0.0, 1.0)
        t_ns = start_ns + (np.nan_to_num(fraction) * (EVENT_STEP_NS - 1000)).astype(np.int64)
        self._reference += steps * CONTRAST_THRESHOLD
        order = np.argsort(t_ns, kind="stable")
        # The decoder anchors a packet's first event to its stamp.
        stamp_ns = int(t_ns[order[0]]) if len(order) else start_ns
        return EventPacket(
            x[pixel][order].astype(np.uint16),
            y[pixel][order].astype(np.uint16),
            sign[order] > 0,
            t_ns[order],
            self._camera.width,
            self._camera.height,
            stamp_ns,
            CAMERA_FRAME,
        )
