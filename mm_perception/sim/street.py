"""What stands still: ground, markings, buildings, plants, poles, lamps, signs, signals, fences and walls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mm_perception.sim.mesh import Mesh, Point, box, ellipsoid, loft, merge, quad, tube, yaw_matrix
from mm_perception.sim.road import Road
from mm_perception.sim.scenario import Style
from mm_perception.sim.surfaces import BRICK, FACADE, NOISE, Colour, Surface, SurfaceTable, class_id

LANE_M = 3.3
CURB_M = 0.15
CROSS_HALF_M = 3.6
CROSS_REACH_M = 70.0
LAMP_CANDELA = 900.0

PLASTERS: tuple[Colour, ...] = (
    (0.55, 0.5, 0.4), (0.62, 0.6, 0.56), (0.4, 0.38, 0.36), (0.5, 0.36, 0.24), (0.3, 0.3, 0.32), (0.6, 0.52, 0.3),
    (0.36, 0.42, 0.45), (0.48, 0.28, 0.2),
)  # fmt: skip
BRICKS: tuple[Colour, ...] = ((0.33, 0.13, 0.08), (0.28, 0.16, 0.11), (0.42, 0.3, 0.2))


@dataclass(frozen=True, slots=True)
class Profile:
    """The street's cross-section, half widths from the centre line outwards.

    Attributes:
        lanes: per direction.
        parking_m, sidewalk_m, setback_m: widths of the parking strip, the sidewalk, and the ground before houses.
        crossings: s of the middle of each crossing street [m].
    """

    style: Style
    lanes: int
    parking_m: float
    sidewalk_m: float
    setback_m: float
    crossings: tuple[float, ...]

    @property
    def curb_m(self) -> float:
        return self.lanes * LANE_M + self.parking_m

    @property
    def edge_m(self) -> float:
        """Where the sidewalk ends."""
        return self.curb_m + self.sidewalk_m

    def near_crossing(self, s_m: float, margin_m: float) -> bool:
        return any(abs(s_m - c) < CROSS_HALF_M + margin_m for c in self.crossings)


@dataclass(frozen=True, slots=True)
class Lamp:
    """A street lamp that shines downwards."""

    position: Point
    candela: float
    colour: Colour


@dataclass(slots=True, eq=False)
class Static:
    """Pieces of the street: meshes with where they are, and the lamps."""

    pieces: list[tuple[Mesh, float, float]] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)


def draw_profile(style: Style, road: Road, generator: np.random.Generator) -> Profile:
    """Draws lanes, widths and crossings of a style."""
    crossings = []
    s = float(generator.uniform(25, 80))
    while s < road.length_m - 20 and style != "rural":
        crossings.append(s)
        s += float(generator.uniform(65, 130))
    if style == "urban":
        lanes = int(generator.choice([1, 2], p=[0.6, 0.4]))
        return Profile(
            style, lanes, 2.2, float(generator.uniform(2.2, 4.0)), float(generator.uniform(0.0, 1.0)), tuple(crossings)
        )
    if style == "residential":
        return Profile(
            style,
            1,
            float(generator.choice([0.4, 2.2])),
            float(generator.uniform(1.6, 2.4)),
            float(generator.uniform(3.5, 7.0)),
            tuple(crossings),
        )
    return Profile(style, 1, 0.6, 0.0, float(generator.uniform(12, 30)), ())


class StreetBuilder:
    """Builds the static part of one world."""

    def __init__(self, road: Road, profile: Profile, table: SurfaceTable, generator: np.random.Generator) -> None:
        self.road, self.profile, self.table, self.generator = road, profile, table, generator
        self.static = Static()
        self._surfaces: dict[str, int] = {}

    def build(self) -> Static:
        self._ground()
        self._markings()
        self._roadside()
        for side in (-1, 1):
            self._lamps(side)
            self._plants(side)
            if self.profile.style == "rural":
                self._fields(side)
            else:
                self._blocks(side)
            self._signs(side)
        for s in self.profile.crossings:
            self._crossing(s)
        return self.static

    # Ground

    def _ground(self) -> None:
        p, end = self.profile, self.road.length_m
        asphalt = self._surface(
            "asphalt",
            Surface(
                class_id("road"),
                self._grey(0.07, 0.13),
                pattern=NOISE,
                pattern_depth=0.25,
                emissivity=0.95,
                sun_gain_k=24,
                laser=0.14,
                heat_k=1.5,
                gloss=0.25,
            ),
        )
        paving_level = self.generator.uniform(0.2, 0.38)
        warm = self.generator.uniform(0.85, 1.0)
        paving = self._surface(
            "paving",
            Surface(
                class_id("sidewalk"),
                (paving_level, paving_level * (0.5 + warm / 2), paving_level * warm),
                pattern=BRICK,
                pattern_depth=0.18,
                emissivity=0.94,
                sun_gain_k=16,
                laser=0.3,
                heat_k=0.8,
            ),
        )
        grass = self._surface(
            "grass",
            Surface(
                class_id("terrain"),
                (0.09, 0.13, 0.04),
                pattern=NOISE,
                pattern_depth=0.5,
                emissivity=0.97,
                sun_gain_k=7,
                laser=0.45,
                heat_k=-2.0,
            ),
        )
        curb = self._surface(
            "curb", Surface(class_id("sidewalk"), (0.35, 0.34, 0.33), sun_gain_k=14, laser=0.35, heat_k=0.8)
        )
        (x0, y0), (x1, y1) = self.road.bounds(margin_m=400.0)
        self._add([quad([(x0, y0, -0.05), (x1, y0, -0.05), (x1, y1, -0.05), (x0, y1, -0.05)], grass)], None)
        self._strip(-95, end, -p.curb_m, p.curb_m, 0.0, asphalt)
        for s0, s1 in self._blocks_between(CROSS_HALF_M):
            for side in (-1, 1):
                if p.sidewalk_m == 0:
                    continue
                self._strip(s0, s1, side * p.curb_m, side * p.edge_m, CURB_M, paving)
                self._curb(s0, s1, side * p.curb_m, curb)
                if p.style == "urban":  # paved up to the houses
                    self._strip(s0, s1, side * p.edge_m, side * (p.edge_m + p.setback_m + 1.0), CURB_M - 0.01, paving)
        for s in p.crossings:
            for side in (-1, 1):
                self._strip(s - CROSS_HALF_M, s + CROSS_HALF_M, side * p.curb_m, side * CROSS_REACH_M, 0.0, asphalt)
                for a, b in ((-CROSS_HALF_M - 2.2, -CROSS_HALF_M), (CROSS_HALF_M, CROSS_HALF_M + 2.2)):
                    self._strip(s + a, s + b, side * p.edge_m, side * CROSS_REACH_M, CURB_M, paving)

    def _blocks_between(self, margin: float) -> list[tuple[float, float]]:
        """Stretches (s0, s1) between the crossings."""
        edges = [-95.0, *(c for s in self.profile.crossings for c in (s - margin, s + margin)), self.road.length_m]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 2.0]

    def _strip(self, s0: float, s1: float, d0: float, d1: float, z: float, surface: int) -> None:
        """A band of ground in pieces of at most 40 m."""
        for a in np.arange(s0, s1, 40.0):
            b = min(a + 40.0, s1)
            s = np.linspace(a, b, max(2, int(np.ceil((b - a) / 5.0)) + 1))
            low, high = self.road.places(s, np.full(len(s), d0)), self.road.places(s, np.full(len(s), d1))
            vertices = np.concatenate([np.c_[low, np.full(len(s), z)], np.c_[high, np.full(len(s), z)]])
            i, n = np.arange(len(s) - 1), len(s)
            triangles = np.concatenate([np.stack([i, i + 1, n + i + 1], 1), np.stack([i, n + i + 1, n + i], 1)])
            self._add(
                [
                    Mesh(
                        vertices.astype(np.float32),
                        triangles.astype(np.uint32),
                        np.full(len(triangles), surface, np.int32),
                    )
                ],
                None,
            )

    def _curb(self, s0: float, s1: float, d: float, surface: int) -> None:
        s = np.arange(s0, s1 + 2.5, 5.0).clip(s0, s1)
        xy = self.road.places(s, np.full(len(s), d))
        meshes = [
            quad([(*xy[i], 0.0), (*xy[i + 1], 0.0), (*xy[i + 1], CURB_M), (*xy[i], CURB_M)], surface)
            for i in range(len(s) - 1)
        ]
        self._add(meshes, None)

    def _markings(self) -> None:
        p, end = self.profile, self.road.length_m
        white = self._surface(
            "white",
            Surface(
                class_id("road"),
                (0.6, 0.6, 0.58),
                pattern=NOISE,
                pattern_depth=0.3,
                emissivity=0.92,
                sun_gain_k=17,
                laser=0.75,
                retro=6.0,
                heat_k=0.8,
            ),
        )
        z = 0.008
        dash, gap = (3.0, 6.0) if p.style == "urban" else (4.0, 8.0)
        for s in np.arange(-90.0, end - dash, dash + gap):
            if p.near_crossing(s + dash / 2, dash):
                continue
            self._strip(s, s + dash, -0.06, 0.06, z, white)
            for lane in range(1, p.lanes):
                for side in (-1, 1):
                    self._strip(s, s + dash, side * lane * LANE_M - 0.06, side * lane * LANE_M + 0.06, z, white)
        for s0, s1 in self._blocks_between(CROSS_HALF_M + 1.0):
            for side in (-1, 1):
                d = side * (p.lanes * LANE_M + 0.05)
                self._strip(s0, s1, d - 0.06, d + 0.06, z, white)
        for s in p.crossings:
            for offset in (-CROSS_HALF_M - 2.6, CROSS_HALF_M + 0.6):
                for d in np.arange(-p.curb_m + 0.4, p.curb_m - 0.4, 1.0):
                    self._strip(s + offset, s + offset + 2.0, d, d + 0.5, z, white)
            self._strip(s - CROSS_HALF_M - 3.5, s - CROSS_HALF_M - 3.1, -p.lanes * LANE_M, 0.0, z, white)
            self._strip(s + CROSS_HALF_M + 3.1, s + CROSS_HALF_M + 3.5, 0.0, p.lanes * LANE_M, z, white)

    # Buildings and what lies before them

    def _blocks(self, side: int) -> None:
        g, p = self.generator, self.profile
        for s0, s1 in self._blocks_between(CROSS_HALF_M + 2.6):
            s = s0
            while s < s1 - 7.0:
                width = min(float(g.uniform(9, 22) if p.style == "urban" else g.uniform(8, 13)), s1 - s)
                front = p.edge_m + p.setback_m + float(g.uniform(0, 1.5))
                self._building(s + width / 2, side, front, width)
                gap = (
                    (0.0 if g.random() < 0.75 else float(g.uniform(2, 6)))
                    if p.style == "urban"
                    else float(g.uniform(2.5, 9))
                )
                self._boundary(s, min(s + width + gap, s1), side)
                if p.style == "urban" and gap > 0 and s + width + gap < s1:
                    self._wall(s + width, s + width + gap, side * (front + 0.4), float(g.uniform(1.6, 2.6)))
                s += width + gap

    def _building(self, s: float, side: int, front: float, width: float) -> None:
        g, urban = self.generator, self.profile.style == "urban"
        depth, storeys = float(g.uniform(8, 13)), int(g.integers(3, 7) if urban else g.integers(1, 3))
        height = 3.1 * storeys + 0.6
        brick = g.random() < 0.35
        colour = (BRICKS if brick else PLASTERS)[g.integers(len(BRICKS if brick else PLASTERS))]
        wall = self.table.add(
            Surface(
                class_id("building"),
                self._vary(colour),
                pattern=FACADE,
                pattern_depth=0.3 if brick else 0.12,
                emissivity=0.93,
                sun_gain_k=15,
                heat_k=float(g.uniform(0.5, 3.0)),
                laser=0.4,
            )
        )
        roof = self.table.add(
            Surface(
                class_id("building"),
                self._vary((0.22, 0.1, 0.07) if g.random() < 0.6 else (0.12, 0.12, 0.13)),
                pattern=BRICK,
                pattern_depth=0.3,
                emissivity=0.92,
                sun_gain_k=22,
                heat_k=-1.0,
                laser=0.25,
            )
        )
        meshes = [box((0, 0, height / 2), (width, depth, height), wall)]
        if urban and g.random() < 0.6:
            meshes += self._shop_front(width, depth, height)
            meshes.append(box((0, 0, height + 0.3), (width, depth, 0.6), wall))
        elif g.random() < 0.75:
            ridge = float(g.uniform(1.8, 3.5))
            gable = [
                np.array([(x, -depth / 2 - 0.4, height), (x, depth / 2 + 0.4, height), (x, 0, height + ridge)])
                for x in (-width / 2 - 0.2, width / 2 + 0.2)
            ]
            meshes += [loft(gable, roof), box((width * 0.25, 1.0, height + ridge * 0.8), (0.6, 0.6, 1.6), wall)]
        door = self.table.add(Surface(class_id("building"), self._vary((0.12, 0.08, 0.06)), heat_k=1.0))
        meshes.append(box((float(g.uniform(-0.3, 0.3)) * width, -depth / 2, 1.05), (1.1, 0.1, 2.1), door))
        self._put(merge(meshes), s, side * (front + depth / 2), 0.0 if side > 0 else np.pi, z=CURB_M if urban else 0.0)

    def _shop_front(self, width: float, depth: float, height: float) -> list[Mesh]:
        """A ground floor of glass under a sign band; faces -y."""
        g = self.generator
        level = float(g.uniform(15, 120)) if g.random() < 0.7 else 0.0
        glass = self.table.add(
            Surface(
                class_id("building"),
                (0.06, 0.06, 0.07),
                gloss=0.8,
                emissivity=0.87,
                heat_k=4.0,
                glow=(level, level * 0.85, level * 0.65),
                laser=0.06,
            )
        )
        band_colour = tuple(g.uniform(0.03, 0.5, 3))
        band = self.table.add(
            Surface(class_id("building"), band_colour, glow=tuple(np.array(band_colour) * float(g.uniform(0, 120))))
        )
        awning = self.table.add(Surface(class_id("building"), self._vary((0.4, 0.1, 0.1)), sun_gain_k=10))
        y = -depth / 2
        meshes = [box((0, y, 3.1), (width * 0.96, 0.16, 0.6), band)]
        panes = max(1, int(width // 3.2))
        for i in range(panes):
            x = (i + 0.5) * width * 0.94 / panes - width * 0.47
            meshes.append(box((x, y, 1.5), (width * 0.94 / panes - 0.35, 0.08, 2.3), glass))
        if g.random() < 0.3:
            meshes.append(
                quad(
                    [
                        (-width * 0.4, y, 2.9),
                        (width * 0.4, y, 2.9),
                        (width * 0.4, y - 1.2, 2.5),
                        (-width * 0.4, y - 1.2, 2.5),
                    ],
                    awning,
                )
            )
        if g.random() < 0.5:  # balconies
            rail = self.table.add(Surface(class_id("building"), self._vary((0.25, 0.25, 0.25)), laser=0.3))
            for z in np.arange(3.9, height - 1.5, 3.1):
                meshes.append(box((float(g.uniform(-0.25, 0.25)) * width, y - 0.5, z + 0.5), (2.4, 1.0, 1.0), rail))
        return meshes

    def _boundary(self, s0: float, s1: float, side: int) -> None:
        """Hedge, wall, fence or nothing between sidewalk and garden."""
        g, p = self.generator, self.profile
        if p.style != "residential" or s1 - s0 < 3:
            return
        kind = g.choice(["hedge", "wall", "fence", "none"], p=[0.27, 0.3, 0.33, 0.1])
        d = side * (p.edge_m + 0.25)
        if kind == "hedge":
            self._hedge(s0, s1 - 1.5, d, float(g.uniform(0.8, 1.6)))
        elif kind == "wall":
            self._wall(s0, s1 - 1.5, d, float(g.uniform(0.6, 1.5)))
        elif kind == "fence":
            self._fence(s0, s1 - 1.5, d, float(g.uniform(0.9, 1.4)))

    def _hedge(self, s0: float, s1: float, d: float, height: float) -> None:
        leaf = self._leaf()
        for s in np.arange(s0, s1, 1.4):
            mesh = ellipsoid(
                (0, 0, height * 0.48), (0.95, 0.5, height * 0.55), leaf, self.generator, 0.12, rings=5, sides=8
            )
            self._put(mesh, s + 0.7, d, 0.0)

    def _wall(self, s0: float, s1: float, d: float, height: float) -> None:
        brick = self.generator.random() < 0.5
        colour = self._vary(BRICKS[0] if brick else (0.45, 0.43, 0.4))
        surface = self.table.add(
            Surface(class_id("wall"), colour, pattern=BRICK, pattern_depth=0.3, sun_gain_k=15, heat_k=0.3, laser=0.4)
        )
        for a in np.arange(s0, s1, 6.0):
            length = min(6.0, s1 - a)
            self._put(box((0, 0, height / 2), (length, 0.24, height), surface), a + length / 2, d, 0.0)

    def _fence(self, s0: float, s1: float, d: float, height: float) -> None:
        g = self.generator
        colours: tuple[Colour, ...] = ((0.3, 0.2, 0.12), (0.65, 0.65, 0.62), (0.1, 0.12, 0.1))
        surface = self.table.add(
            Surface(class_id("fence"), colours[g.integers(3)], emissivity=0.9, sun_gain_k=9, heat_k=-0.5, laser=0.4)
        )
        for a in np.arange(s0, s1, 4.0):
            length = min(4.0, s1 - a)
            meshes = [box((0, 0, z * height), (length, 0.05, 0.09), surface) for z in (0.25, 0.85)]
            for x in np.arange(-length / 2 + 0.1, length / 2, 0.22):
                meshes.append(box((x, 0.03, height / 2), (0.1, 0.025, height), surface))
            self._put(merge(meshes), a + length / 2, d, 0.0)

    # Plants

    def _plants(self, side: int) -> None:
        g, p = self.generator, self.profile
        spacing = {"urban": 13.0, "residential": 16.0, "rural": 11.0}[p.style]
        if p.style == "urban" and g.random() < 0.25:
            return
        for s in np.arange(-80.0, self.road.length_m, spacing):
            s = s + float(g.uniform(-3, 3))
            if p.near_crossing(s, 5.0) or g.random() < 0.2:
                continue
            if p.style == "urban":
                d = p.curb_m + 0.7
            elif p.style == "residential":
                d = p.edge_m + float(g.uniform(1.5, 3.0))
            else:
                d = p.edge_m + float(g.uniform(3, 22))
            self._tree(s, side * d)

    def _tree(self, s: float, d: float) -> None:
        g = self.generator
        leaf = self._leaf()
        bark = self._surface(
            "bark",
            Surface(
                class_id("vegetation"),
                (0.11, 0.08, 0.05),
                pattern=NOISE,
                pattern_depth=0.3,
                heat_k=0.5,
                sun_gain_k=9,
                laser=0.3,
            ),
        )
        height, spread = float(g.uniform(4.5, 9.0)), float(g.uniform(1.4, 2.6))
        trunk = float(g.uniform(2.0, 3.0))
        meshes = [tube((0, 0, 0), (0, 0, height * 0.7), 0.17, bark, 7, 0.06)]
        if g.random() < 0.2:  # a conifer
            meshes.append(tube((0, 0, 0.8), (0, 0, height * 1.1), spread * 0.8, leaf, 9, 0.05))
        else:
            middle = trunk + (height - trunk) * 0.55
            crown = (spread, spread, (height - trunk) * 0.5)
            meshes.append(
                ellipsoid((0, 0, middle), (crown[0] * 0.8, crown[1] * 0.8, crown[2]), leaf, g, 0.2, rings=7, sides=10)
            )
            for angle in np.arange(6) * 1.05 + g.uniform(0, 1):
                x, y = 0.6 * spread * np.cos(angle), 0.6 * spread * np.sin(angle)
                radius = spread * g.uniform(0.45, 0.65)
                z = middle + float(g.uniform(-0.6, 0.5)) * crown[2]
                meshes.append(ellipsoid((x, y, z), (radius, radius, radius * 0.85), leaf, g, 0.25, rings=6, sides=9))
        self._put(merge(meshes), s, d, float(g.uniform(0, 6)))

    def _leaf(self) -> int:
        g = self.generator
        autumn = g.random() < 0.08
        base = (0.2, 0.11, 0.03) if autumn else (0.055, 0.1, 0.03)
        return self.table.add(
            Surface(
                class_id("vegetation"),
                self._vary(base, 0.25),
                pattern=NOISE,
                pattern_depth=0.75,
                emissivity=0.97,
                sun_gain_k=5,
                heat_k=-0.5,
                laser=0.55,
            )
        )

    def _fields(self, side: int) -> None:
        """Bushes, guard rails, walls and single houses along a country road."""
        g, p = self.generator, self.profile
        for s in np.arange(-80.0, self.road.length_m, 45.0):
            kind = g.choice(
                ["house", "bushes", "rail", "fence", "wall", "none"], p=[0.14, 0.22, 0.24, 0.16, 0.16, 0.08]
            )
            at = p.curb_m + 1.0
            if kind == "house":
                self._building(s + 15, side, p.setback_m, float(g.uniform(9, 15)))
            elif kind == "bushes":
                self._hedge(s, s + 25, side * (at + float(g.uniform(1.5, 5))), float(g.uniform(1.0, 2.4)))
            elif kind == "rail":
                self._guard_rail(s, s + 40, side * at)
            elif kind == "fence":
                self._fence(s, s + 30, side * (at + 2.0), 1.2)
            elif kind == "wall":
                self._wall(s, s + 24, side * (at + 1.5), 1.0)

    def _guard_rail(self, s0: float, s1: float, d: float) -> None:
        steel = self._surface(
            "steel", Surface(class_id("fence"), (0.45, 0.46, 0.47), gloss=0.3, emissivity=0.6, sun_gain_k=12, laser=0.6)
        )
        for s in np.arange(s0, s1, 4.0):
            meshes = [
                box((0, 0, 0.62), (4.02, 0.08, 0.3), steel),
                tube((-1.9, 0.08, 0), (-1.9, 0.08, 0.7), 0.06, steel),
            ]
            self._put(merge(meshes), s + 2, d, 0.0)

    # Lamps, signs, signals

    def _lamps(self, side: int) -> None:
        g, p = self.generator, self.profile
        if p.style == "rural" or (p.style == "residential" and side > 0):
            return
        warm = g.random() < 0.5
        colour: Colour = (1.0, 0.62, 0.25) if warm else (1.0, 0.95, 0.85)
        metal = self._surface(
            "metal",
            Surface(class_id("pole"), (0.2, 0.21, 0.22), emissivity=0.75, heat_k=-0.8, sun_gain_k=10, laser=0.45),
        )
        level = 9000.0
        glow = self._surface(
            f"lamp{warm}",
            Surface(
                class_id("pole"),
                (0.6, 0.6, 0.6),
                glow=(colour[0] * level, colour[1] * level, colour[2] * level),
                heat_k=4.0,
            ),
        )
        height, reach = float(g.uniform(6.0, 8.5)), 1.8
        for s in np.arange(-90.0 + (15 if side > 0 else 0), self.road.length_m, 30.0):
            if p.near_crossing(s, 1.0):
                continue
            d = p.curb_m + 0.4
            meshes = [
                tube((0, 0, 0), (0, 0, height), 0.09, metal, 7, 0.06),
                tube((0, 0, height), (0, -reach, height + 0.25), 0.05, metal, 5),
                box((0, -reach, height + 0.24), (0.22, 0.6, 0.12), metal),
                box((0, -reach, height + 0.16), (0.18, 0.5, 0.05), glow),
            ]
            self._put(merge(meshes), s, side * d, 0.0 if side > 0 else np.pi)
            x, y = self.road.place(s, side * (d - reach))
            self.static.lamps.append(Lamp((x, y, height + 0.1), LAMP_CANDELA * height / 7, colour))

    def _signs(self, side: int) -> None:
        g, p = self.generator, self.profile
        for s in np.arange(-60.0, self.road.length_m, 22.0):
            s = s + float(g.uniform(-6, 6))
            if g.random() < 0.35 or p.near_crossing(s, 0.5):
                continue
            self._sign(s, side)

    def _sign(self, s: float, side: int) -> None:
        g = self.generator
        metal = self._surface(
            "metal",
            Surface(class_id("pole"), (0.2, 0.21, 0.22), emissivity=0.75, heat_k=-0.8, sun_gain_k=10, laser=0.45),
        )
        sides, outer, inner, turn = (
            (14, (0.6, 0.02, 0.02), (0.75, 0.75, 0.75), 0.0), (3, (0.6, 0.02, 0.02), (0.75, 0.75, 0.75), 0.0),
            (4, (0.02, 0.1, 0.45), (0.05, 0.15, 0.5), np.pi / 4), (8, (0.75, 0.75, 0.75), (0.6, 0.02, 0.02), np.pi / 8),
            (4, (0.75, 0.75, 0.75), (0.75, 0.5, 0.02), 0.0), (14, (0.02, 0.1, 0.45), (0.75, 0.75, 0.75), 0.0),
        )[g.integers(6)]  # fmt: skip
        height, radius = float(g.uniform(2.2, 2.9)), float(g.uniform(0.34, 0.5))
        back = self._surface(
            "sign back", Surface(class_id("traffic sign"), (0.3, 0.3, 0.3), emissivity=0.7, heat_k=-0.8, laser=0.5)
        )
        meshes = [tube((0, 0, 0), (0, 0, height + 0.2), 0.035, metal, 5)]
        for radius_i, x, surface in (
            (radius, -0.03, back),
            (radius, -0.05, self._plate(outer)),
            (radius * 0.74, -0.06, self._plate(inner)),
        ):
            angle = np.pi / 2 + turn + np.arange(sides) * 2 * np.pi / sides
            ring = np.stack([np.full(sides, x), radius_i * np.cos(angle), height + radius_i * np.sin(angle)], axis=1)
            meshes.append(loft([ring, ring - (0.008, 0, 0)], surface))
        if g.random() < 0.3:
            meshes.append(box((-0.05, 0, height - radius - 0.18), (0.02, 0.6, 0.24), self._plate((0.75, 0.75, 0.75))))
        d = side * (self.profile.curb_m + (0.45 if self.profile.sidewalk_m else 1.2))
        self._put(merge(meshes), s, d, 0.0 if side < 0 else np.pi)

    def _plate(self, colour: Colour) -> int:
        key = f"plate{colour}"
        return self._surface(
            key,
            Surface(
                class_id("traffic sign"), colour, emissivity=0.88, retro=60.0, laser=0.95, heat_k=-0.8, sun_gain_k=10
            ),
        )

    def _roadside(self) -> None:
        """Bollards along some urban curbs."""
        g, p = self.generator, self.profile
        if p.style != "urban" or g.random() < 0.5:
            return
        iron = self._surface("iron", Surface(class_id("pole"), (0.05, 0.05, 0.055), laser=0.2, heat_k=-0.5))
        side = int(g.choice([-1, 1]))
        start = float(g.uniform(0, 60))
        for s in np.arange(start, start + 30, 1.8):
            if not p.near_crossing(s, 2.0):
                self._put(tube((0, 0, 0), (0, 0, 0.95), 0.06, iron, 6), s, side * (p.curb_m + 0.25), 0.0)

    def _crossing(self, s: float) -> None:
        """Signals at the corners, and a building that closes the view along the crossing street."""
        g, p = self.generator, self.profile
        green = bool(g.random() < 0.6)
        if p.style == "urban" or g.random() < 0.3:
            for offset, side, yaw in ((-CROSS_HALF_M - 3.4, -1, 0.0), (CROSS_HALF_M + 3.4, 1, np.pi)):
                self._signal(s + offset, side * (p.curb_m + 0.4), yaw, green, overhead=bool(g.random() < 0.4))
                self._signal(s - offset, side * (p.curb_m + 0.4), yaw, green, overhead=False)
        for side in (-1, 1):
            self._building(s, side, CROSS_REACH_M - 4.0, 26.0)

    def _signal(self, s: float, d: float, yaw: float, green: bool, overhead: bool) -> None:
        """A traffic light whose lenses face -x in its own frame."""
        metal = self._surface(
            "metal",
            Surface(class_id("pole"), (0.2, 0.21, 0.22), emissivity=0.75, heat_k=-0.8, sun_gain_k=10, laser=0.45),
        )
        case = self._surface(
            "signal case", Surface(class_id("traffic light"), (0.03, 0.03, 0.03), heat_k=1.0, laser=0.1)
        )
        level = 2500.0
        lenses = (
            ("red", (0.25, 0.01, 0.01), (level, 0.04 * level, 0.02 * level), not green),
            ("amber", (0.25, 0.15, 0.01), (level, 0.5 * level, 0.0), False),
            ("green", (0.01, 0.2, 0.08), (0.02 * level, level, 0.5 * level), green),
        )
        heads: list[Point] = [(0.0, 0.0, 2.6)]
        meshes = [tube((0, 0, 0), (0, 0, 3.1 if not overhead else 5.9), 0.08, metal, 7)]
        if overhead:
            meshes.append(tube((0, 0, 5.8), (0, 3.6, 5.9), 0.06, metal, 5))
            heads.append((0.0, 3.5, 5.5))
        for x, y, z in heads:
            meshes.append(box((x - 0.12, y, z), (0.22, 0.36, 1.05), case))
            for i, (name, albedo, glow, lit) in enumerate(lenses):
                lens = self._surface(
                    f"{name}{lit}",
                    Surface(
                        class_id("traffic light"),
                        albedo,
                        glow=glow if lit else (0.0, 0.0, 0.0),
                        always_on=1.0,
                        heat_k=3.0 if lit else 1.0,
                    ),
                )
                zi = z + 0.34 - 0.34 * i
                meshes.append(tube((x - 0.23, y, zi), (x - 0.25, y, zi), 0.125, lens, 10))
        self._put(merge(meshes), s, d, yaw)

    # Helpers

    def _put(self, mesh: Mesh, s: float, d: float, yaw: float, z: float | None = None) -> None:
        """Stands a mesh on the ground at (s, d), turned with the road."""
        x, y = self.road.place(s, d)
        outer = self.profile.edge_m + (self.profile.setback_m if self.profile.style == "urban" else 0)
        raised = self.profile.sidewalk_m > 0 and self.profile.curb_m < abs(d) < outer
        level = (CURB_M if raised else 0.0) if z is None else z
        placed = mesh.moved(yaw_matrix(self.road.heading(s) + yaw), (x, y, level))
        self.static.pieces.append((placed, x, y))

    def _add(self, meshes: Sequence[Mesh], where: tuple[float, float] | None) -> None:
        mesh = merge(list(meshes))
        x, y = mesh.vertices[:, :2].mean(axis=0) if where is None else where
        self.static.pieces.append((mesh, float(x), float(y)))

    def _surface(self, key: str, surface: Surface) -> int:
        """A row that all users of `key` share."""
        if key not in self._surfaces:
            self._surfaces[key] = self.table.add(surface)
        return self._surfaces[key]

    def _vary(self, colour: Colour, share: float = 0.15) -> Colour:
        red, green, blue = (
            float(c * k) for c, k in zip(colour, self.generator.uniform(1 - share, 1 + share, 3), strict=True)
        )
        return red, green, blue

    def _grey(self, low: float, high: float) -> Colour:
        level = float(self.generator.uniform(low, high))
        return level, level, level * 1.02
