"""A small drive as a driver would record it, of which tests change one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_image,
    encode_odometry,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.types import PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

START_NS = 1_720_000_000_000_000_000
MS = 1_000_000
WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Stream:
    """Messages of one topic.

    Attributes:
        make: what is sent: colour, grey, depth, depth_f, thermal16, thermal8, cloud, info, lens, labels, jpeg.
        clock_ms: its clock is ahead by this. late_ms: it arrives so long after its stamp.
    """

    make: str
    frame: str = "cam"
    period_ms: float = 100.0
    phase_ms: float = 0.0
    clock_ms: float = 0.0
    late_ms: float = 5.0
    count: int = 30
    jitter_ms: float = 0.0


STATIC = (("base_link", "cam"), ("base_link", "laser"))


@dataclass(frozen=True)
class Drive:
    streams: Mapping[str, Stream]
    static: tuple[tuple[str, str], ...] = STATIC
    moving: tuple[tuple[str, str], ...] = (("odom", "base_link"),)
    odometry: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tf_prefix: str = ""

    def write(self, path: Path) -> Path:
        rows: list[tuple[int, str, Any, bool]] = []
        with BagWriter(path) as bag:
            for topic, stream in self.streams.items():
                rows += [(*one, False) for one in messages(bag.factory, topic, stream)]
            for i in range(40):
                now = START_NS - 200 * MS + i * 100 * MS
                if self.moving:
                    links = [RigidTransform(p, c, np.eye(3), np.array([i * 0.1, 0, 0])) for p, c in self.moving]
                    rows.append((now, f"{self.tf_prefix}/tf", encode_transforms(bag.factory, links, now), False))
                for topic, (parent, child) in self.odometry.items():
                    pose = RigidTransform(parent, child, np.eye(3), np.array([i * 0.1, 0, 0]))
                    rows.append((now, topic, encode_odometry(bag.factory, pose, 1.0, 0.0, now), False))
            if self.static:
                links = [RigidTransform(p, c, np.eye(3), np.array([0.0, 0.1, 1.0])) for p, c in self.static]
                message = encode_transforms(bag.factory, links, START_NS)
                rows.append((START_NS, f"{self.tf_prefix}/tf_static", message, True))
            for log_ns, topic, message, latched in sorted(rows, key=lambda row: row[0]):
                bag.write(topic, message, log_ns, latched)
        return path


def messages(factory: Any, topic: str, stream: Stream) -> list[tuple[int, str, Any]]:
    generator = np.random.default_rng(len(topic))
    rows = []
    for i in range(stream.count):
        jitter = float(generator.uniform(-1, 1)) * stream.jitter_ms
        true_ns = START_NS + round((i * stream.period_ms + stream.phase_ms + jitter) * MS)
        stamp_ns = true_ns + round(stream.clock_ms * MS)
        rows.append((true_ns + round(stream.late_ms * MS), topic, make(factory, stream, stamp_ns, generator)))
    return rows


def make(factory: Any, stream: Stream, stamp_ns: int, generator: np.random.Generator) -> Any:
    shape, frame = (HEIGHT, WIDTH), stream.frame
    if stream.make in ("info", "lens"):
        k = np.array([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
        lens = np.array([-0.2, 0.03, 0, 0, 0]) if stream.make == "lens" else np.zeros(5)
        return encode_camera_info(factory, CameraModel(WIDTH, HEIGHT, k, lens, "plumb_bob", frame), stamp_ns)
    if stream.make == "cloud":
        azimuth = generator.uniform(-np.pi, np.pi, 3000)
        if stream.frame == "narrow":
            azimuth = generator.uniform(-1.0, 1.0, 3000)  # 115 degrees
        xyz = np.stack([10 * np.cos(azimuth), 10 * np.sin(azimuth), azimuth * 0], 1).astype(np.float32)
        cloud = PointCloud(xyz, stamp_ns, frame, generator.uniform(0, 0.9, 3000).astype(np.float32))
        return encode_point_cloud(factory, cloud)
    if stream.make == "jpeg":
        return encode_compressed(factory, generator.integers(0, 255, (*shape, 3), np.uint8), "jpeg", stamp_ns, frame)
    pixels, encoding = {
        "colour": lambda: (generator.integers(0, 255, (*shape, 3), np.uint8), "bgr8"),
        "grey": lambda: (generator.integers(0, 255, shape, np.uint8), "mono8"),
        "labels": lambda: (generator.integers(0, 5, shape, np.uint8), "mono8"),
        "depth": lambda: (generator.integers(0, 9000, shape).astype(np.uint16), "16UC1"),
        "depth_f": lambda: (generator.uniform(0.5, 9, shape).astype(np.float32), "32FC1"),
        "thermal16": lambda: (generator.integers(28_800, 30_500, shape).astype(np.uint16), "mono16"),
        "thermal8": lambda: (generator.integers(0, 255, shape, np.uint8), "mono8"),
    }[stream.make]()
    return encode_image(factory, pixels, encoding, stamp_ns, frame)
