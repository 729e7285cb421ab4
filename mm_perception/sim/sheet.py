"""One picture of all modalities in all conditions, for people."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.rig import load_rig
from mm_perception.core.types import EventPacket, PointCloud
from mm_perception.sim.conditions import CONDITIONS
from mm_perception.sim.rig import simulated_rig
from mm_perception.sim.scenario import Scenario, Style
from mm_perception.sim.sensors import SWEEP_NS, Sensors
from mm_perception.sim.simulate import STEP_NS
from mm_perception.sim.surfaces import PALETTE
from mm_perception.sim.world import World

Picture = NDArray[np.uint8]
COLUMNS = ("RGB", "true classes", "depth", "thermal", "events, 50 ms", "LiDAR")


def draw_sheet(seed: int = 0, style: Style = "urban", time_s: float = 1.0, scale: float = 0.5) -> Picture:
    """(H, W, 3) uint8 RGB: a row per condition of one street, a column per modality of the front head.

    Args:
        scale: size of each cell against the cameras' 640x480.
    """
    rows = [_row(Scenario(seed=seed, style=style, condition=c), time_s, scale) for c in CONDITIONS]
    head = np.full((24, rows[0].shape[1], 3), 32, np.uint8)
    for i, name in enumerate(COLUMNS):
        _text(head, name, (6 + i * rows[0].shape[1] // len(COLUMNS), 17))
    for row, condition in zip(rows, CONDITIONS, strict=True):
        _text(row, condition.replace("_", " "), (6, 17))
    return np.concatenate([head, *rows])


def _row(scenario: Scenario, time_s: float, scale: float) -> Picture:
    world = World(scenario, time_s + 1.0)
    sensors = Sensors(world, simulated_rig(load_rig("demo")), scenario.seed)
    camera, lidar = sensors.rig.cameras[0], sensors.rig.lidars[0]
    parts = SWEEP_NS // STEP_NS
    scenes = [sensors.scene(time_s - (parts - 1 - i) * STEP_NS * 1e-9) for i in range(parts)]
    frame = sensors.frame(scenes[-1], sensors.view(scenes[-1], camera), 0)
    assert frame.depth_m is not None and frame.thermal is not None
    events = sensors.event_camera(camera)
    packets = [
        events.expose(sensors.event_luminance(s, camera).astype(np.float32), i * STEP_NS) for i, s in enumerate(scenes)
    ]
    cloud, _ = sensors.sweep(lidar, scenes, 0, time_s - SWEEP_NS * 1e-9, 0)
    points = (camera.base_from_camera.inverse() @ lidar.base_from_lidar).apply(cloud.xyz)
    pixels, depth = camera.model.project(points)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(PALETTE)] = PALETTE
    cells = [
        frame.rgb,
        colors[frame.class_ids],
        _ramp(frame.depth_m, 60.0),
        _stretched(frame.thermal.astype(np.float32)),
        _events(packets[-2:], frame.rgb.shape[:2]),
        _points(cloud, pixels, depth, frame.rgb.shape[:2]),
    ]
    return np.concatenate([_resized(cell, scale) for cell in cells], axis=1)


def _resized(cell: Picture, scale: float) -> Picture:
    return np.asarray(cv2.resize(cell, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _ramp(depth_m: NDArray[Any], far_m: float) -> Picture:
    """Near blue, far red, nothing black."""
    level = (255 * np.sqrt(np.clip(np.nan_to_num(depth_m) / far_m, 0, 1))).astype(np.uint8)
    colored = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return np.asarray(colored * np.isfinite(depth_m)[..., None], np.uint8)


def _stretched(values: NDArray[np.float32]) -> Picture:
    low, high = np.percentile(values, (1, 99.5))
    grey = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _events(packets: list[EventPacket], size: tuple[int, int]) -> Picture:
    """Rising red, falling blue, on white."""
    picture = np.full((*size, 3), 255, np.uint8)
    for packet in packets:
        picture[packet.y, packet.x] = np.where(packet.polarity[:, None], (220, 30, 30), (30, 60, 220))
    return picture


def _points(
    cloud: PointCloud, pixels: NDArray[np.float64], depth: NDArray[np.float64], size: tuple[int, int]
) -> Picture:
    """The points in the camera's view, by intensity."""
    height, width = size
    picture = np.zeros((height, width, 3), np.uint8)
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (pixels >= 0).all(axis=1) & (pixels < (width - 1, height - 1)).all(axis=1)
    chosen = np.nonzero(inside)[0]
    chosen = chosen[np.argsort(-depth[chosen])]
    assert cloud.intensity is not None
    level = np.clip(60 + 1.6 * cloud.intensity[chosen], 0, 255).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(level[:, None], cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)[:, 0]
    for (u, v), color in zip(pixels[chosen], colors, strict=True):
        cv2.circle(picture, (round(u), round(v)), 2, [int(c) for c in color], -1)
    return picture


def _text(picture: Picture, text: str, at: tuple[int, int]) -> None:
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, thickness, cv2.LINE_AA)
