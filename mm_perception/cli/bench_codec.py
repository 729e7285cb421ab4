"""`mm-perception bench codec`: how long a message of vehicle size takes to decode and to encode."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from mm_perception.bags.typestore import BagMessages
from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.codec.encode import (
    encode_compressed,
    encode_events_evt3,
    encode_events_mono,
    encode_image,
    encode_point_cloud,
)
from mm_perception.codec.events import EventPacketDecoder
from mm_perception.codec.fields import MessageFactory
from mm_perception.codec.image import decode_depth, decode_image
from mm_perception.codec.point_cloud import decode_point_cloud
from mm_perception.core.files import write_json
from mm_perception.core.types import EventPacket, PointCloud

STAMP_NS = 1_700_000_000_000_000_000
Case = tuple[str, Callable[[], Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--rounds", type=numbers.count, default=30, help="repetitions of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints a table."""
    check_files(args, {"json": "json"})
    factories: list[tuple[str, MessageFactory]] = [("bag", BagMessages())]
    try:
        from mm_perception.ros.messages import RclpyMessages

        RclpyMessages().make("std_msgs/msg/Header")
        factories.append(("rclpy", RclpyMessages()))
    except Exception as error:  # without ROS the bag's messages are measured alone
        make_console(stderr=True).print(f"rclpy messages left out: {error}")
    figures: dict[str, dict[str, float]] = {}
    for kind, factory in factories:
        for name, action in _cases(factory):
            figures[f"{kind}: {name}"] = _measure(action, args.rounds)
    table = Table("message", "median [ms]", "min [ms]", "p95 [ms]", title="codec")
    for name, figure in figures.items():
        table.add_row(name, *(f"{figure[key]:.3f}" for key in ("median_ms", "min_ms", "p95_ms")))
    make_console().print(table)
    if args.json:
        write_json(args.json, figures, args.overwrite)
    return 0


def _measure(action: Callable[[], Any], rounds: int) -> dict[str, float]:
    action()
    durations = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        durations.append((time.perf_counter() - start) * 1e3)
    median, p95 = np.percentile(durations, (50, 95))
    return {"median_ms": float(median), "min_ms": min(durations), "p95_ms": float(p95)}


def _cases(factory: MessageFactory) -> list[Case]:
    generator = np.random.default_rng(0)
    picture = _picture(generator)
    depth = generator.integers(500, 60_000, (480, 640)).astype(np.uint16)
    cloud, events = _cloud(generator, 35_000), _events(generator, 100_000)
    rgb = encode_image(factory, picture, "rgb8", STAMP_NS, "camera")
    bgr = encode_image(factory, picture, "bgr8", STAMP_NS, "camera")
    jpeg = encode_compressed(factory, picture, "jpeg", STAMP_NS, "camera")
    png = encode_compressed(factory, depth, "png", STAMP_NS, "camera")
    points = encode_point_cloud(factory, cloud)
    evt3 = encode_events_evt3(factory, events, 0)
    mono = encode_events_mono(factory, events, 0)
    return [
        ("decode 1600x900 rgb8", lambda: decode_image(rgb)),
        ("decode 1600x900 bgr8", lambda: decode_image(bgr)),
        ("decode 1600x900 jpeg", lambda: decode_image(jpeg)),
        ("decode 640x480 16UC1 png depth", lambda: decode_depth(png)),
        ("decode 35,000-point cloud", lambda: decode_point_cloud(points)),
        ("decode 100,000 events evt3", lambda: EventPacketDecoder().decode(evt3)),
        ("decode 100,000 events mono", lambda: EventPacketDecoder().decode(mono)),
        ("encode 1600x900 mono8", lambda: encode_image(factory, picture[..., 0], "mono8", STAMP_NS, "camera")),
        ("encode 1600x900 rgb8", lambda: encode_image(factory, picture, "rgb8", STAMP_NS, "camera")),
        ("encode 35,000-point cloud", lambda: encode_point_cloud(factory, cloud)),
    ]


def _picture(generator: np.random.Generator) -> NDArray[np.uint8]:
    """(900, 1600, 3): surfaces, edges and sensor noise, so that a jpeg of it is as large as a photograph's."""
    blocks = generator.integers(40, 216, (57, 100, 3)).astype(np.float32)
    smooth = np.asarray(cv2.resize(blocks, (1600, 900), interpolation=cv2.INTER_CUBIC))
    noise = generator.normal(0.0, 5.0, smooth.shape).astype(np.float32)
    return np.asarray(np.clip(smooth + noise, 0, 255), np.uint8)


def _cloud(generator: np.random.Generator, n: int) -> PointCloud:
    return PointCloud(
        generator.normal(0, 20, (n, 3)).astype(np.float32),
        STAMP_NS,
        "lidar",
        intensity=generator.uniform(0, 255, n).astype(np.float32),
        ring=generator.integers(0, 32, n).astype(np.uint16),
        offset_ns=np.sort(generator.integers(0, 100_000_000, n)),
    )


def _events(generator: np.random.Generator, n: int) -> EventPacket:
    return EventPacket(
        generator.integers(0, 1280, n).astype(np.uint16),
        generator.integers(0, 720, n).astype(np.uint16),
        generator.random(n) > 0.5,
        STAMP_NS + np.sort(generator.integers(0, 20_000_000, n)),
        1280,
        720,
        STAMP_NS,
        "events",
    )
