"""Things that move: vehicles, cyclists, motorcyclists, pedestrians; and the small obstacles of road works.

Shapes stand at the origin of their own frame: x forward, y left, z up, the ground at z = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm_perception.sim.mesh import (
    Mesh,
    Point,
    box,
    ellipsoid,
    extrude,
    frustum,
    loft,
    merge,
    pitch_matrix,
    quad,
    tube,
)
from mm_perception.sim.surfaces import Colour, Surface, SurfaceTable, class_id

Kind = Literal["car", "truck", "bus", "motorcycle", "bicycle", "pedestrian", "traffic_cone", "barrier"]

DETECTION_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip
"""The ten classes of nuScenes' detection task; the world has neither trailers nor construction vehicles."""

PAINTS: tuple[Colour, ...] = (
    (0.72, 0.72, 0.70), (0.75, 0.75, 0.75), (0.03, 0.03, 0.03), (0.06, 0.06, 0.07), (0.30, 0.31, 0.32),
    (0.45, 0.46, 0.47), (0.14, 0.15, 0.17), (0.45, 0.03, 0.03), (0.04, 0.09, 0.30), (0.10, 0.20, 0.40),
    (0.05, 0.17, 0.08), (0.55, 0.38, 0.05), (0.35, 0.25, 0.16),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((0.55, 0.37, 0.28), (0.42, 0.26, 0.18), (0.22, 0.12, 0.08), (0.60, 0.43, 0.35))
HEADLIGHT_CDM2 = 6000.0
TAIL_LIGHT_CDM2 = 150.0
STRIDE_M = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Limb:
    """A part that swings about the y axis through `pivot` as its owner walks."""

    mesh: Mesh
    pivot: Point
    amplitude_rad: float
    phase_rad: float


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """The geometry of one actor.

    Attributes:
        size_lwh: the box around it [m], standing on the ground about the origin.
        skin: (K, 3) float32 points on its surface, evenly by area; what visibility is judged by.
        headlights: whether it carries lit headlights.
    """

    kind: Kind
    size_lwh: Point
    body: Mesh
    limbs: tuple[Limb, ...] = ()
    skin: NDArray[np.float32] | None = None
    headlights: bool = False

    def posed(self, walked_m: float) -> Mesh:
        """The mesh after a walk of so many metres."""
        swing = 2 * np.pi * walked_m / STRIDE_M
        meshes = [self.body]
        for limb in self.limbs:
            rotation = pitch_matrix(limb.amplitude_rad * np.sin(swing + limb.phase_rad))
            pivot = np.asarray(limb.pivot)
            meshes.append(limb.mesh.moved(np.eye(3), -pivot).moved(rotation, pivot))
        return merge(meshes)


class _Paint:
    """Adds the surfaces of one object."""

    def __init__(self, table: SurfaceTable, instance: int, segment: str) -> None:
        self._table, self._base = table, Surface(class_id(segment), (0.5, 0.5, 0.5), instance)

    def __call__(self, albedo: Colour, **other: object) -> int:
        return self._table.add(replace(self._base, albedo=albedo, **other))  # type: ignore[arg-type]

    def of(self, segment: str) -> _Paint:
        return _Paint(self._table, self._base.instance, segment)


def _rubber(paint: _Paint, warm: bool) -> int:
    return paint((0.03, 0.03, 0.03), emissivity=0.95, heat_k=14.0 if warm else 0.5, laser=0.08, sun_gain_k=10)


def _glass(paint: _Paint, warm: float = 0.0) -> int:
    return paint((0.03, 0.035, 0.04), gloss=1.0, emissivity=0.87, heat_k=warm, laser=0.05, sun_gain_k=8)


def _lamp(paint: _Paint, colour: Colour, luminance: float) -> int:
    red, green, blue = (c * luminance for c in colour)
    return paint(colour, glow=(red, green, blue), gloss=0.3, retro=8.0, laser=0.8, heat_k=3.0)


def _plate(paint: _Paint) -> int:
    return paint((0.7, 0.7, 0.65), retro=30.0, laser=0.95)


def _wheels(paint: _Paint, axles_x: tuple[float, ...], width: float, radius: float, warm: bool) -> list[Mesh]:
    rubber, hub = _rubber(paint, warm), paint((0.4, 0.4, 0.42), emissivity=0.45, heat_k=16.0 if warm else 0.5)
    wheels = []
    for x in axles_x:
        for side in (-1, 1):
            y = side * (width / 2 - 0.12)
            wheels.append(tube((x, y - 0.12, radius), (x, y + 0.12, radius), radius, rubber, sides=12))
            hub_y = y + side * 0.1
            wheels.append(tube((x, hub_y, radius), (x, hub_y + side * 0.03, radius), radius * 0.6, hub, sides=8))
    return wheels


def _vehicle_lights(paint: _Paint, length: float, width: float, height: float, lit: bool) -> list[Mesh]:
    front = _lamp(paint, (0.9, 0.9, 0.8), HEADLIGHT_CDM2 if lit else 0.0)
    rear = _lamp(paint, (0.6, 0.02, 0.02), TAIL_LIGHT_CDM2 if lit else 0.0)
    meshes = [box((-length / 2 - 0.005, 0.0, height - 0.25), (0.02, 0.5, 0.12), _plate(paint))]
    for side in (-1, 1):
        y = side * (width / 2 - 0.24)
        meshes.append(box((length / 2 - 0.03, y, height), (0.1, 0.34, 0.13), front))
        meshes.append(box((-length / 2 + 0.02, y, height + 0.1), (0.08, 0.3, 0.16), rear))
    return meshes


def _rim(front_x: float, back_x: float, half_width: float, z: float) -> NDArray[np.float64]:
    """(4, 3) corners of a level rectangle, round its edge."""
    return np.array([(x, y * half_width, z) for x, y in ((front_x, 1), (front_x, -1), (back_x, -1), (back_x, 1))])


def _rim_between(x0: float, z0: float, x1: float, z1: float, half_width: float) -> list[Point]:
    """Corners of a sloping rectangle, round its edge."""
    return [(x0, -half_width, z0), (x0, half_width, z0), (x1, half_width, z1), (x1, -half_width, z1)]


def make_car(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """Saloon, hatchback, SUV or van."""
    paint = _Paint(table, instance, "car")
    style = generator.choice(["saloon", "hatch", "suv", "van"], p=[0.35, 0.3, 0.25, 0.1])
    length, width, height = {
        "saloon": (4.7, 1.82, 1.45), "hatch": (4.1, 1.76, 1.5), "suv": (4.6, 1.88, 1.7), "van": (5.1, 1.95, 2.0),
    }[str(style)]  # fmt: skip
    length *= generator.uniform(0.94, 1.06)
    warm = bool(moving or generator.random() < 0.2)
    body = paint(PAINTS[generator.integers(len(PAINTS))], gloss=0.6, emissivity=0.92, laser=0.5, sun_gain_k=18)
    hood = paint(PAINTS[0] if style == "van" else (0.2, 0.2, 0.2), gloss=0.5, heat_k=16.0 if warm else 0.0)
    dark = paint((0.02, 0.02, 0.02), heat_k=10.0 if warm else 0.0, laser=0.1)
    sill, belt, half = 0.28, height * (0.58 if style != "van" else 0.5), width / 2
    nose = 0.24 * length if style != "van" else 0.36 * length
    back = {"saloon": -0.36, "hatch": -0.49, "suv": -0.49, "van": -0.495}[str(style)] * length
    hull = [
        (-0.5 * length, sill + 0.08), (-0.5 * length, belt - 0.12), (-0.485 * length, belt), (nose, belt),
        (0.44 * length, belt - 0.14), (0.5 * length, belt - 0.26), (0.5 * length, sill),
    ]  # fmt: skip
    widths = [half * w for w in (0.95, 0.98, 0.93, 0.93, 0.92, 0.9, 0.94)]
    roof_front, roof_back = (nose - 0.32 * height), back + (0.2 * height if style == "saloon" else 0.1 * height)
    cabin = [_rim(nose + 0.02, back, half * 0.86, belt), _rim(roof_front, roof_back, half * 0.66, height - 0.04)]
    roof_middle, roof_length = (roof_front + roof_back) / 2, abs(roof_front - roof_back)
    meshes = [
        extrude(hull, widths, body),
        loft(cabin, _glass(paint, 3.0 if warm else 0.0)),
        box((roof_middle, 0.0, height - 0.03), (roof_length, width * 0.67, 0.06), body),
        quad(_rim_between(nose + 0.05, belt + 0.006, 0.43 * length, belt - 0.128, half * 0.8), hood if warm else body),
        box((0.0, 0.0, sill), (length * 0.9, width * 0.8, 0.1), dark),
        *_wheels(paint, (-0.3 * length, 0.31 * length), width, 0.33, moving),
        *_vehicle_lights(paint, length, width, belt - 0.18, moving),
    ]  # fmt: skip
    for side in (-1, 1):  # the pillars between the windows
        y0, y1 = side * half * 0.87, side * half * 0.67
        for low, high in ((nose, roof_front), ((nose + back) / 2, roof_middle), (back, roof_back)):
            meshes.append(tube((low, y0, belt), (high, y1, height - 0.02), 0.045, body, sides=4))
    if warm:
        pipe = paint((0.1, 0.1, 0.1), heat_k=45.0)
        meshes.append(tube((-0.5 * length - 0.04, 0.45, 0.3), (-0.46 * length, 0.45, 0.3), 0.05, pipe))
    return _finished("car", (length, width, height), merge(meshes), generator, headlights=moving)


def make_truck(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A rigid lorry: cab, chassis and box."""
    paint = _Paint(table, instance, "truck")
    length, width, height = generator.uniform(6.5, 9.5), 2.4, generator.uniform(3.0, 3.7)
    cab_colour = PAINTS[generator.integers(len(PAINTS))]
    cab = paint(cab_colour, gloss=0.5, laser=0.5, heat_k=4.0 if moving else 0.0)
    cargo = paint(((0.75, 0.75, 0.73), (0.6, 0.62, 0.66), cab_colour)[generator.integers(3)], laser=0.6, sun_gain_k=10)
    grille = paint((0.05, 0.05, 0.05), heat_k=22.0 if moving else 0.0)
    front, cab_length = length / 2, 1.9
    glass, middle = _glass(paint, 2.0), front - cab_length / 2
    meshes = [
        frustum((middle, 0, 0.5), (cab_length, width * 0.96), (cab_length * 0.86, width * 0.9), 2.1, cab, -0.12),
        box((middle - 0.1, 0, 1.95), (cab_length * 0.55, width * 0.955, 0.6), glass),
        frustum((front - 0.22, 0, 1.6), (0.42, width * 0.82), (0.2, width * 0.8), 0.85, glass, -0.1),
        box((front, 0, 0.95), (0.04, width * 0.6, 0.5), grille),
        box((-cab_length / 2 - 0.05, 0, (height + 0.95) / 2), (length - cab_length - 0.1, width, height - 0.95), cargo),
        box((-0.3, 0, 0.75), (length - 1.2, 0.9, 0.3), paint((0.03, 0.03, 0.03), heat_k=6.0 if moving else 0.0)),
        *_wheels(paint, (front - 1.1, -front + 1.3, -front + 2.4), width, 0.48, moving),
        *_vehicle_lights(paint, length, width, 0.8, moving),
    ]  # fmt: skip
    return _finished("truck", (length, width, height), merge(meshes), generator, headlights=moving)


def make_bus(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A city bus with a band of windows, lit from within."""
    paint = _Paint(table, instance, "bus")
    length, width, height = generator.uniform(10.5, 12.2), 2.55, 3.1
    colours: tuple[Colour, ...] = (
        (0.6, 0.05, 0.04),
        (0.65, 0.45, 0.04),
        (0.7, 0.7, 0.7),
        (0.06, 0.2, 0.45),
        (0.1, 0.4, 0.2),
    )
    body = paint(colours[generator.integers(len(colours))], gloss=0.4, laser=0.5)
    lit = (14.0, 14.0, 12.0) if moving else (0.0, 0.0, 0.0)
    glass = paint((0.03, 0.035, 0.04), gloss=0.9, emissivity=0.87, heat_k=5.0 if moving else 0.0, laser=0.06, glow=lit)
    engine = paint((0.06, 0.06, 0.06), heat_k=20.0 if moving else 0.0)
    sign = paint((0.02, 0.02, 0.02), glow=(60.0, 35.0, 4.0))
    meshes = [
        frustum((0, 0, 0.35), (length, width), (length, width), height - 0.5, body),
        frustum((0, 0, height - 0.15), (length, width), (length - 0.4, width - 0.4), 0.15, body),
        box((length / 2, 0, 1.75), (0.03, width * 0.86, 1.3), glass),
        box((length / 2, 0, 2.68), (0.05, width * 0.6, 0.3), sign),
        box((-length / 2, 0, 2.0), (0.03, width * 0.8, 0.8), glass),
        box((-length / 2, 0, 0.95), (0.04, width * 0.7, 0.6), engine),
        *_wheels(paint, (length / 2 - 2.6, -length / 2 + 3.0), width, 0.48, moving),
        *_vehicle_lights(paint, length, width, 0.75, moving),
    ]
    windows = int(length // 1.5)
    for i in range(windows):
        x = (i + 0.5 - windows / 2) * (length - 0.5) / windows
        meshes.append(box((x, 0, 1.95), ((length - 0.5) / windows - 0.15, width + 0.02, 1.0), glass))
    return _finished("bus", (length, width, height), merge(meshes), generator, headlights=moving)


def _person_surfaces(paint: _Paint, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Coat, trousers, skin, hair."""
    coat: Colour = tuple(generator.uniform(0.02, 0.45, 3) ** 1.3)
    trousers: Colour = tuple(np.repeat(generator.uniform(0.02, 0.25), 3) * generator.uniform(0.8, 1.2, 3))
    warmth = generator.uniform(0.3, 0.5)
    retro = 12.0 if generator.random() < 0.12 else 0.0
    return (
        paint(coat, emissivity=0.96, body=warmth, sun_gain_k=5, laser=0.45, retro=retro),
        paint(trousers, emissivity=0.96, body=warmth * 0.9, sun_gain_k=5, laser=0.35),
        paint(SKINS[generator.integers(len(SKINS))], emissivity=0.98, body=0.78, sun_gain_k=2, laser=0.5),
        paint((0.04, 0.03, 0.02), emissivity=0.97, body=0.55, sun_gain_k=4, laser=0.2),
    )


def _head(x: float, z: float, height: float, skin: int, hair: int) -> list[Mesh]:
    radius = 0.065 * height
    return [
        ellipsoid((x, 0, z), (radius * 1.05, radius * 0.85, radius * 1.25), skin, rings=5, sides=7),
        ellipsoid(
            (x - 0.02, 0, z + 0.3 * radius), (radius * 1.08, radius * 0.95, radius * 1.05), hair, rings=4, sides=7
        ),
        tube((x, 0, z - 2.1 * radius), (x, 0, z - 0.6 * radius), 0.05, skin, sides=5),
    ]


def make_pedestrian(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A person on foot, whose arms and legs swing when walking; one in six is a child."""
    paint = _Paint(table, instance, "person")
    h = generator.uniform(1.1, 1.45) if generator.random() < 0.16 else generator.uniform(1.55, 1.92)
    coat, trousers, skin, hair = _person_surfaces(paint, generator)
    shoulder, hip, broad = 0.82 * h, 0.5 * h, generator.uniform(0.9, 1.15)
    torso = [
        np.array(
            [
                (0.1 * np.cos(a) * w * h / 1.7, 0.19 * np.sin(a) * w * broad * h / 1.7, z)
                for a in np.arange(8) * np.pi / 4
            ]
        )
        for z, w in ((hip - 0.04, 0.85), (0.62 * h, 0.85), (0.76 * h, 1.05), (shoulder, 0.95), (shoulder + 0.05, 0.4))
    ]
    meshes = [loft(torso, coat), *_head(0.01, 0.92 * h, h, skin, hair)]
    if generator.random() < 0.35:  # a rucksack or bag
        bag = paint((0.08, 0.08, 0.12), body=0.1, laser=0.3)
        meshes.append(box((-0.16, 0, 0.7 * h), (0.16, 0.28, 0.36), bag))
    reach = 0.5 if moving else 0.06
    limbs = []
    for side, phase in ((-1, 0.0), (1, np.pi)):
        y = side * 0.09 * h / 1.7
        leg = merge([
            tube((0, y, hip), (0, y, 0.27 * h), 0.085 * h / 1.7, trousers, 6, 0.065 * h / 1.7),
            tube((0, y, 0.27 * h), (-0.01, y, 0.05), 0.062 * h / 1.7, trousers, 6, 0.05 * h / 1.7),
            box((0.05, y, 0.04), (0.26, 0.09, 0.08), hair),
        ])  # fmt: skip
        limbs.append(Limb(leg, (0, y, hip), reach, phase))
        ya = side * 0.235 * broad * h / 1.7
        arm = merge([
            tube((0, ya, shoulder), (0.01, ya, 0.62 * h), 0.055 * h / 1.7, coat, 6, 0.045 * h / 1.7),
            tube((0.01, ya, 0.62 * h), (0.06, ya, 0.46 * h), 0.045 * h / 1.7, coat, 6, 0.035 * h / 1.7),
            ellipsoid((0.07, ya, 0.44 * h), (0.04, 0.035, 0.06), skin, rings=3, sides=5),
        ])  # fmt: skip
        limbs.append(Limb(arm, (0, ya, shoulder), reach * 0.8, phase + np.pi))
    return _finished("pedestrian", (0.6, 0.6 * broad, h), merge(meshes), generator, tuple(limbs))


def _rider(paint: _Paint, generator: np.random.Generator, seat: float, grip: Point, pedal: Point) -> list[Mesh]:
    """A person who sits at height `seat`, with hands at `grip` and feet at `pedal` (right side; left mirrored)."""
    coat, trousers, skin, hair = _person_surfaces(paint, generator)
    neck: Point = (0.12 + 0.25 * grip[0], 0.0, seat + 0.56)
    meshes = [
        tube((-0.22, 0, seat), neck, 0.17, coat, 7, 0.15),
        *_head(neck[0] + 0.06, neck[2] + 0.24, 1.75, skin, hair),
    ]
    helmet = paint(PAINTS[generator.integers(len(PAINTS))], gloss=0.4, body=0.15)
    meshes.append(ellipsoid((neck[0] + 0.03, 0, neck[2] + 0.3), (0.15, 0.12, 0.11), helmet, rings=4, sides=7))
    for side in (-1, 1):
        knee: Point = (0.22, side * 0.14, (seat + pedal[2]) / 2 + 0.12)
        foot: Point = (pedal[0] + side * 0.1, side * 0.12, pedal[2] + side * 0.08)
        meshes += [
            tube((-0.2, side * 0.1, seat), knee, 0.085, trousers, 6, 0.065),
            tube(knee, foot, 0.06, trousers, 6, 0.045),
            tube((neck[0], side * 0.19, neck[2] - 0.06), (grip[0], side * 0.24, grip[2]), 0.05, coat, 6, 0.04),
        ]
    return meshes


def make_bicycle(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A bicycle; with a rider when it moves."""
    paint = _Paint(table, instance, "bicycle")
    frame = paint(PAINTS[generator.integers(len(PAINTS))], gloss=0.3, emissivity=0.85, laser=0.4)
    tyre = paint((0.03, 0.03, 0.03), laser=0.1, retro=4.0)
    meshes = []
    for x in (-0.52, 0.52):
        angle = np.arange(11) * (2 * np.pi / 10)
        rim = [(x + 0.33 * float(np.cos(a)), 0.0, 0.34 + 0.33 * float(np.sin(a))) for a in angle]
        meshes += [tube(p, q, 0.025, tyre, 4) for p, q in pairwise(rim)]
    joints: dict[str, Point] = {
        "rear": (-0.52, 0, 0.34), "front": (0.52, 0, 0.34), "crank": (-0.02, 0, 0.3), "seat": (-0.2, 0, 0.88),
        "head": (0.38, 0, 0.86), "bar": (0.4, 0, 1.02),
    }  # fmt: skip
    for a, b in (
        ("rear", "crank"),
        ("rear", "seat"),
        ("crank", "seat"),
        ("crank", "head"),
        ("seat", "head"),
        ("head", "front"),
        ("head", "bar"),
    ):
        meshes.append(tube(joints[a], joints[b], 0.022, frame, 4))
    meshes += [
        tube((0.4, -0.28, 1.03), (0.4, 0.28, 1.03), 0.018, frame, 4),
        box((-0.2, 0, 0.92), (0.24, 0.14, 0.06), tyre),
        box((-0.5, 0, 0.72), (0.04, 0.06, 0.06), _lamp(paint, (0.6, 0.02, 0.02), 60.0 if moving else 0.0)),
    ]
    height = 1.08
    if moving:
        meshes += _rider(paint.of("rider"), generator, 0.95, (0.38, 0.24, 1.04), (0.0, 0.12, 0.32))
        height = 1.92
    return _finished("bicycle", (1.75, 0.62, height), merge(meshes), generator)


def make_motorcycle(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A motorcycle or scooter; with a rider when it moves."""
    paint = _Paint(table, instance, "motorcycle")
    body = paint(PAINTS[generator.integers(len(PAINTS))], gloss=0.5, laser=0.45)
    engine = paint((0.15, 0.15, 0.15), heat_k=35.0 if moving else 0.0, emissivity=0.7)
    rubber = _rubber(paint, moving)
    meshes = [tube((x, -0.07, 0.31), (x, 0.07, 0.31), 0.31, rubber, 12) for x in (-0.68, 0.7)]
    meshes += [
        ellipsoid((0.12, 0, 0.8), (0.34, 0.17, 0.16), body, rings=5),
        box((0.0, 0, 0.45), (0.45, 0.3, 0.3), engine),
        frustum((-0.45, 0, 0.68), (0.75, 0.26), (0.6, 0.2), 0.12, paint((0.03, 0.03, 0.03))),
        tube((0.7, 0, 0.31), (0.42, 0, 0.95), 0.05, body, 5),
        tube((0.38, -0.36, 1.02), (0.38, 0.36, 1.02), 0.025, rubber, 5),
        tube((-0.75, 0.2, 0.4), (-0.1, 0.2, 0.35), 0.06, engine, 6),
        tube((-0.68, 0, 0.31), (-0.1, 0, 0.5), 0.05, body, 5),
        box((0.6, 0, 0.88), (0.1, 0.2, 0.18), _lamp(paint, (0.9, 0.9, 0.8), HEADLIGHT_CDM2 if moving else 0.0)),
        box((-0.85, 0, 0.75), (0.06, 0.2, 0.1), _lamp(paint, (0.6, 0.02, 0.02), TAIL_LIGHT_CDM2 if moving else 0.0)),
    ]
    height = 1.15
    if moving:
        meshes += _rider(paint.of("rider"), generator, 0.84, (0.36, 0.3, 1.02), (-0.02, 0.14, 0.36))
        height = 1.86
    return _finished("motorcycle", (2.05, 0.8, height), merge(meshes), generator)


def make_cone(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A traffic cone with a reflecting band; it has no class in the label images."""
    paint = _Paint(table, instance, "")
    orange, white = paint((0.75, 0.2, 0.02), laser=0.5), paint((0.8, 0.8, 0.8), retro=25.0, laser=0.95)
    meshes = [
        box((0, 0, 0.02), (0.36, 0.36, 0.04), orange),
        tube((0, 0, 0.04), (0, 0, 0.3), 0.14, orange, 8, 0.09),
        tube((0, 0, 0.3), (0, 0, 0.48), 0.09, white, 8, 0.06),
        tube((0, 0, 0.48), (0, 0, 0.7), 0.06, orange, 8, 0.025),
    ]
    return _finished("traffic_cone", (0.36, 0.36, 0.7), merge(meshes), generator)


def make_barrier(table: SurfaceTable, instance: int, generator: np.random.Generator, moving: bool) -> Shape:
    """A striped barrier of road works; in label images it is a fence."""
    paint = _Paint(table, instance, "fence")
    red, white = paint((0.6, 0.04, 0.03), retro=15.0, laser=0.6), paint((0.8, 0.8, 0.8), retro=15.0, laser=0.9)
    foot = paint((0.06, 0.06, 0.06), laser=0.1)
    meshes = [box((0, (i - 2.5) * 0.33, 0.85), (0.05, 0.33, 0.28), red if i % 2 else white) for i in range(6)]
    meshes += [box((0, y, 0.36), (0.06, 0.08, 0.72), foot) for y in (-0.8, 0.8)]
    meshes += [box((0, y, 0.05), (0.6, 0.3, 0.1), foot) for y in (-0.8, 0.8)]
    return _finished("barrier", (0.6, 2.0, 1.0), merge(meshes), generator)


MAKERS: dict[Kind, Callable[[SurfaceTable, int, np.random.Generator, bool], Shape]] = {
    "car": make_car,
    "truck": make_truck,
    "bus": make_bus,
    "motorcycle": make_motorcycle,
    "bicycle": make_bicycle,
    "pedestrian": make_pedestrian,
    "traffic_cone": make_cone,
    "barrier": make_barrier,
}

_SKIN_POINTS = 96


def _finished(
    kind: Kind,
    size_lwh: Point,
    body: Mesh,
    generator: np.random.Generator,
    limbs: tuple[Limb, ...] = (),
    headlights: bool = False,
) -> Shape:
    everything = merge([body, *(limb.mesh for limb in limbs)])
    return Shape(kind, size_lwh, body, limbs, sample_surface(everything, _SKIN_POINTS, generator), headlights)


def sample_surface(mesh: Mesh, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """(count, 3) random points on a mesh, evenly by area."""
    corners = mesh.vertices[mesh.triangles].astype(np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    chosen = generator.choice(len(area), count, p=area / area.sum())
    a, b = generator.random((2, count))
    a, b = np.where(a + b > 1, 1 - a, a), np.where(a + b > 1, 1 - b, b)
    points = corners[chosen, 0] + a[:, None] * edges[chosen, 0] + b[:, None] * edges[chosen, 1]
    return np.asarray(points, np.float32)
