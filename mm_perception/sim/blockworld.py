"""A street of boxes on a plane, ray-cast exactly: enough for a demo bag whose geometry is known to the millimetre.

World frame: x along the street, y left, z up, the road at z = 0. It is no model of appearance: materials have one
colour, temperature and reflectance each, with a printed pattern so that motion shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

CLASSES = ("unlabeled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")
"""MFNet's classes; the world has cars, persons, bikes, guardrails and cones."""

SKY, ROAD = -2, -1
_AMBIENT, _SUN = 0.45, np.array([0.35, 0.5, 0.79])


@dataclass(frozen=True, slots=True)
class Block:
    """A box that moves straight on.

    Attributes:
        center: (x, y, z) at time 0 [m].
        size_lwh: (length, width, height) [m].
        velocity: (vx, vy) [m/s].
        color: (r, g, b) in 0..1.
        temperature_k: of its surface [K].
        reflectance: of laser light, 0..1.
    """

    class_id: int
    center: tuple[float, float, float]
    size_lwh: tuple[float, float, float]
    yaw_rad: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    temperature_k: float = 288.0
    reflectance: float = 0.4

    def at(self, time_s: float) -> Block:
        x, y, z = self.center
        vx, vy = self.velocity
        return replace(self, center=(x + vx * time_s, y + vy * time_s, z))


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What N rays met.

    Attributes:
        range_m: (N,) float64, infinite where a ray meets nothing.
        surface: (N,) int64 index of the block, or ROAD, or SKY.
        points, normals: (N, 3) float64 in the world; undefined for SKY.
    """

    range_m: NDArray[np.float64]
    surface: NDArray[np.int64]
    points: NDArray[np.float64]
    normals: NDArray[np.float64]


def demo_street(generator: np.random.Generator) -> list[Block]:
    """Cars, persons, a bike, cones and a guardrail between two rows of houses."""
    blocks = []
    for i in range(8):
        for side in (-1, 1):
            height, tint = generator.uniform(6, 14), _tint(generator, 0.35, 0.75)
            center = (8 + 14 * i, side * (13 + generator.uniform(0, 2)), height / 2)
            blocks.append(Block(0, center, (12, 8, height), color=tint, temperature_k=generator.uniform(284, 290)))
    lanes = (
        (14, -1.8, 6.0, 0.0),
        (34, -1.8, 4.0, 0.0),
        (42, 1.8, -7.0, np.pi),
        (22, 5.2, 0.0, 0.0),
        (30, 5.2, 0, 0),
    )
    for x, y, speed, yaw in lanes:
        tint, engine = _tint(generator, 0.1, 0.9), 302.0 if speed else 289.0
        blocks.append(Block(1, (x, y, 0.62), (4.3, 1.8, 0.84), yaw, (speed, 0), tint, engine, 0.7))
        blocks.append(Block(1, (x - 0.2, y, 1.3), (2.2, 1.6, 0.55), yaw, (speed, 0), (0.1, 0.12, 0.15), 290.0, 0.3))
    for x, y, speed in ((10, -5.5, 1.2), (17, 3.2, -1.0), (26, -6.0, 1.4), (12, 4.2, 0.8)):
        tint = _tint(generator, 0.1, 0.8)
        blocks.append(Block(2, (x, y, 0.7), (0.35, 0.5, 1.4), 0, (0, speed), tint, 303.0, 0.5))
        blocks.append(Block(2, (x, y, 1.55), (0.22, 0.2, 0.26), 0, (0, speed), (0.8, 0.6, 0.5), 307.0, 0.5))
    blocks.append(Block(3, (19, -4.2, 0.65), (1.7, 0.5, 1.2), 0, (4.0, 0), (0.7, 0.1, 0.1), 293.0, 0.4))
    blocks.append(Block(6, (40, -8.2, 0.6), (40, 0.15, 0.35), 0, (0, 0), (0.75, 0.75, 0.78), 286.0, 0.8))
    for i in range(4):
        blocks.append(Block(7, (9 + 3 * i, 3.4, 0.35), (0.3, 0.3, 0.7), 0, (0, 0), (0.95, 0.4, 0.05), 288.0, 0.9))
    return blocks


def _tint(generator: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    red, green, blue = generator.uniform(low, high, 3).tolist()
    return red, green, blue


def cast(
    blocks: list[Block], origin: NDArray[np.float64], directions: NDArray[np.float64], far_m: float = 200.0
) -> Hits:
    """First surface along rays.

    Args:
        origin: (3,) or (N, 3) start of the rays in the world.
        directions: (N, 3), of any length but zero.
    """
    d = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    o = np.broadcast_to(origin, d.shape)
    nearest = np.full(len(d), np.inf)
    surface = np.full(len(d), SKY, np.int64)
    normals = np.zeros_like(d)
    with np.errstate(divide="ignore", invalid="ignore"):
        ground = np.where(d[:, 2] < 0, -o[:, 2] / d[:, 2], np.inf)
    on_road = ground < far_m
    nearest[on_road], surface[on_road], normals[on_road] = ground[on_road], ROAD, (0, 0, 1)
    for index, block in enumerate(blocks):
        near = np.nonzero(_may_hit(block, o, d))[0]
        distance, normal = _cast_block(block, o[near], d[near])
        closer = distance < nearest[near]
        hit = near[closer]
        nearest[hit], surface[hit], normals[hit] = distance[closer], index, normal[closer]
    far = nearest >= far_m
    nearest[far], surface[far] = np.inf, SKY
    points = o + d * np.where(np.isfinite(nearest), nearest, 0.0)[:, None]
    return Hits(nearest, surface, points, normals)


def _may_hit(block: Block, origins: NDArray[np.float64], d: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rays pass the sphere around the box (widened by how far the origins lie apart)."""
    middle = origins.mean(axis=0)
    radius = float(np.linalg.norm(block.size_lwh)) / 2 + float(np.abs(origins - middle).max()) * 2
    to_center = np.array(block.center) - middle
    distance = float(np.linalg.norm(to_center))
    if distance <= radius:
        return np.ones(len(d), bool)
    return np.asarray(d @ (to_center / distance) >= np.sqrt(1.0 - (radius / distance) ** 2))


def _cast_block(
    block: Block, origins: NDArray[np.float64], d: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance to the box (infinite for a miss) and outward normals, by the slab method."""
    cos, sin = np.cos(block.yaw_rad), np.sin(block.yaw_rad)
    to_block = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    o = (origins - np.array(block.center)) @ to_block.T
    v = d @ to_block.T
    half = np.array(block.size_lwh) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        t1, t2 = (-half - o) / v, (half - o) / v
    enter, leave = np.fmin(t1, t2), np.fmax(t1, t2)
    axis = np.argmax(enter, axis=1) if len(v) else np.zeros(0, np.int64)
    t_in, t_out = enter.max(axis=1), leave.min(axis=1)
    distance = np.where((t_in < t_out) & (t_in > 0), t_in, np.inf)
    rows = np.arange(len(v))
    local = np.zeros_like(v)
    local[rows, axis] = -np.sign(v[rows, axis])
    return distance, local @ to_block


def shade(blocks: list[Block], hits: Hits) -> NDArray[np.float64]:
    """(N, 3) RGB in 0..1: one sun, ambient light, lane markings and a pattern of half-metre tiles."""
    albedo = np.array([(0.55, 0.7, 0.9), (0.3, 0.3, 0.32), *(block.color for block in blocks)])
    color = albedo[hits.surface + 2]
    x, y = hits.points[:, 0], hits.points[:, 1]
    tiles = np.floor(hits.points * 2.0 + 1e-6).sum(axis=1) % 2
    pattern = np.where(hits.surface == SKY, 1.0, np.where(hits.surface == ROAD, 0.94, 0.82))
    color = color * np.where(tiles > 0, pattern, 1.0)[:, None]
    dashes = (np.abs(np.abs(y) - 3.6) < 0.08) & ((x % 6.0) < 3.0)
    middle = (np.abs(y) < 0.06) & ((x % 4.0) < 2.0)
    color[(hits.surface == ROAD) & (dashes | middle)] = 0.9
    light = _AMBIENT + (1.0 - _AMBIENT) * np.clip(hits.normals @ _SUN, 0.0, 1.0)
    light[hits.surface == SKY] = 1.0
    return np.asarray(np.clip(color * light[:, None], 0.0, 1.0))


def temperatures_k(blocks: list[Block], hits: Hits) -> NDArray[np.float64]:
    """(N,) surface temperature [K]; the sky is cold, the road is 288 K."""
    return np.array([250.0, 288.0, *(block.temperature_k for block in blocks)])[hits.surface + 2]


def class_ids(blocks: list[Block], hits: Hits) -> NDArray[np.uint8]:
    """(N,) true class ids."""
    return np.array([0, 0, *(block.class_id for block in blocks)], np.uint8)[hits.surface + 2]


def reflectances(blocks: list[Block], hits: Hits) -> NDArray[np.float64]:
    """(N,) laser reflectance 0..1; 0 for the sky."""
    return np.array([0.0, 0.2, *(block.reflectance for block in blocks)])[hits.surface + 2]
