"""A street with its traffic, as it stands at any time.

World frame: x along the street's first metre, y left, z up, the road at z = 0. The ego vehicle's base_link lies on
the road under its rear axle's middle (REP 105); it is not drawn itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
from mm_perception.geometry.boxes import wrapped_rad
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.actors import MAKERS, Kind, Shape
from mm_perception.sim.conditions import Environment, make_environment
from mm_perception.sim.mesh import Mesh, merge, yaw_matrix
from mm_perception.sim.road import Road
from mm_perception.sim.scenario import PlacedObject, Scenario
from mm_perception.sim.street import CURB_M, LANE_M, Lamp, Profile, StreetBuilder, draw_profile
from mm_perception.sim.surfaces import SurfaceTable

EGO_LENGTH_M, EGO_WIDTH_M = 4.6, 1.9
EGO_CENTRE_M = 1.3  # the vehicle's middle, ahead of its rear axle
ODOM_FRAME, BASE_FRAME = "odom", "base_link"
VIEW_M = 120.0
_CELL_M = 20.0


@dataclass(frozen=True, slots=True)
class Course:
    """Straight on along and across the road.

    Attributes:
        s_m, d_m: place at time 0.
        along_mps, across_mps: speeds.
        facing_rad: heading relative to the road's.
        z_m: height of the ground under it.
    """

    s_m: float
    d_m: float
    along_mps: float = 0.0
    across_mps: float = 0.0
    facing_rad: float = 0.0
    z_m: float = 0.0

    def at(self, time_s: float) -> tuple[float, float]:
        """(s, d) at a time."""
        return self.s_m + self.along_mps * time_s, self.d_m + self.across_mps * time_s


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """One object with its course; `instance` is its id in every picture and table."""

    instance: int
    shape: Shape
    course: Course

    @property
    def speed_mps(self) -> float:
        return float(np.hypot(self.course.along_mps, self.course.across_mps))


@dataclass(frozen=True, slots=True, eq=False)
class ObjectState:
    """An actor at one instant, in the world frame; `center` is the middle of its box."""

    instance: int
    kind: Kind
    center: NDArray[np.float64]
    size_lwh: tuple[float, float, float]
    yaw_rad: float
    velocity: NDArray[np.float64]
    skin: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that the sensors can see at one instant.

    Attributes:
        headlights: (N, 4) float64: x, y of the front's middle [m], yaw [rad] and 1 for the ego vehicle's.
        lamps: street lamps near the ego vehicle, the nearest first.
    """

    time_s: float
    mesh: Mesh
    objects: tuple[ObjectState, ...]
    headlights: NDArray[np.float64]
    lamps: tuple[Lamp, ...]


class World:
    """One scenario, built. The same scenario and duration give the same world.

    Attributes:
        surfaces: the table that the meshes' surface indices refer to.
    """

    def __init__(self, scenario: Scenario, duration_s: float = 10.0) -> None:
        """Raises ConfigError if objects of the scenario stand in each other or in the ego vehicle."""
        self.scenario = scenario
        streams = np.random.SeedSequence(scenario.seed).spawn(4)
        street, traffic, weather, course = (np.random.default_rng(stream) for stream in streams)
        end = scenario.ego.start_m + scenario.ego.speed_mps * duration_s + 180.0
        bend = float(course.uniform(-0.25, 0.25))
        self.road = Road(end, bend, float(course.uniform(250, 500)), float(course.uniform(0, 6)))
        self.profile: Profile = draw_profile(scenario.style, self.road, street)
        self.surfaces = SurfaceTable()
        self.static = StreetBuilder(self.road, self.profile, self.surfaces, street).build()
        lane = min(scenario.ego.lane, self.profile.lanes - 1)
        self.ego = Course(scenario.ego.start_m, -(lane + 0.5) * LANE_M, scenario.ego.speed_mps)
        self.environment: Environment = make_environment(
            scenario.condition, weather, self.road.heading(scenario.ego.start_m + 20.0), scenario.fog_visibility_m,
            scenario.rain_mm_h, scenario.air_c,
        )  # fmt: skip
        self.actors: list[Actor] = []
        self._duration_s = duration_s
        self._by_hand(traffic)
        _Population(self, traffic, duration_s).fill()
        self._cell: tuple[int, int] | None = None
        self._near: Mesh = merge([])

    # Poses

    def ego_pose(self, time_s: float) -> RigidTransform:
        """odom_from_base_link at a time."""
        s, d = self.ego.at(time_s)
        x, y = self.road.place(s, d)
        return RigidTransform(ODOM_FRAME, BASE_FRAME, yaw_matrix(self.road.heading(s)), np.array([x, y, 0.0]))

    def ego_velocity(self, time_s: float) -> tuple[float, float]:
        """Speed ahead [m/s] and yaw rate [rad/s] of base_link."""
        step = 0.05
        before, after = self.ego_pose(time_s - step), self.ego_pose(time_s + step)
        moved = after.translation - before.translation
        s0, s1 = self.ego.at(time_s - step)[0], self.ego.at(time_s + step)[0]
        turned = self.road.heading(s1) - self.road.heading(s0)
        return float(np.linalg.norm(moved) / (2 * step)), float(turned / (2 * step))

    def state(self, actor: Actor, time_s: float) -> ObjectState | None:
        """Where an actor is; None beyond the ends of the road."""
        s, d = actor.course.at(time_s)
        if not -90.0 < s < self.road.length_m - 2.0:
            return None
        heading = self.road.heading(s)
        x, y = self.road.place(s, d)
        yaw = heading + actor.course.facing_rad
        along, across = actor.course.along_mps, actor.course.across_mps
        cos, sin = np.cos(heading), np.sin(heading)
        velocity = np.array([cos * along - sin * across, sin * along + cos * across])
        center = np.array([x, y, actor.course.z_m + actor.shape.size_lwh[2] / 2])
        wrapped = float(wrapped_rad(yaw))
        assert actor.shape.skin is not None
        skin = actor.shape.skin @ yaw_matrix(yaw).T.astype(np.float32) + np.array([x, y, actor.course.z_m], np.float32)
        return ObjectState(actor.instance, actor.shape.kind, center, actor.shape.size_lwh, wrapped, velocity, skin)

    def snapshot(self, time_s: float) -> Snapshot:
        """Everything within VIEW_M of the ego vehicle."""
        ego = self.ego_pose(time_s)
        x, y = ego.translation[:2]
        meshes, objects = [self._static_near(x, y)], []
        lights = [
            (
                *(ego.translation[:2] + ego.rotation[:2, 0] * (EGO_CENTRE_M + EGO_LENGTH_M / 2)),
                self.road.heading(self.ego.at(time_s)[0]),
                1.0,
            )
        ]
        for actor in self.actors:
            state = self.state(actor, time_s)
            if state is None or float(np.hypot(state.center[0] - x, state.center[1] - y)) > VIEW_M:
                continue
            mesh = actor.shape.posed(actor.speed_mps * time_s + actor.instance)
            feet = (state.center[0], state.center[1], actor.course.z_m)
            meshes.append(mesh.moved(yaw_matrix(state.yaw_rad), feet))
            objects.append(state)
            if actor.shape.headlights:
                front = state.center[:2] + yaw_matrix(state.yaw_rad)[:2, 0] * actor.shape.size_lwh[0] / 2
                lights.append((front[0], front[1], state.yaw_rad, 0.0))
        lamps = sorted(self.static.lamps, key=lambda lamp: (lamp.position[0] - x) ** 2 + (lamp.position[1] - y) ** 2)
        return Snapshot(time_s, merge(meshes), tuple(objects), np.array(lights), tuple(lamps[:10]))

    def _static_near(self, x: float, y: float) -> Mesh:
        cell = (int(x // _CELL_M), int(y // _CELL_M))
        if cell != self._cell:
            middle = ((cell[0] + 0.5) * _CELL_M, (cell[1] + 0.5) * _CELL_M)
            reach = VIEW_M + _CELL_M
            whole = self.road.length_m / 2
            near = [
                mesh
                for mesh, mx, my in self.static.pieces
                if np.hypot(mx - middle[0], my - middle[1]) < reach
                or (len(mesh.triangles) == 2 and np.ptp(mesh.vertices[:, 0]) > whole)
            ]
            self._cell, self._near = cell, merge(near)
        return self._near

    # Objects

    def add(self, kind: Kind, course: Course, generator: np.random.Generator, moving: bool | None = None) -> Actor:
        """Adds an actor; with `moving` it has its driver, lights and warm engine."""
        instance = len(self.actors) + 1
        runs = bool(course.along_mps or course.across_mps) if moving is None else moving
        actor = Actor(instance, MAKERS[kind](self.surfaces, instance, generator, runs), course)
        self.actors.append(actor)
        return actor

    def _by_hand(self, generator: np.random.Generator) -> None:
        for placed in self.scenario.objects:
            self.add(placed.kind, self._course_of(placed), generator)
        footprints = [("the ego vehicle", self._ego_footprint())]
        footprints += [(f"objects[{i}] ({a.shape.kind})", self._footprint(a)) for i, a in enumerate(self.actors)]
        for i, (name, corners) in enumerate(footprints):
            for other, others in footprints[:i]:
                if overlap(corners, others):
                    raise ConfigError(f"scenario {self.scenario.name}: {name} stands in {other} at the start")

    def _course_of(self, placed: PlacedObject) -> Course:
        heading = np.radians(placed.heading_deg)
        p = self.profile
        raised = p.sidewalk_m > 0 and p.curb_m < abs(placed.d_m) < p.edge_m
        return Course(
            placed.s_m, placed.d_m, placed.speed_mps * float(np.cos(heading)),
            placed.speed_mps * float(np.sin(heading)), float(heading), CURB_M if raised else 0.0,
        )  # fmt: skip

    def _ego_footprint(self) -> NDArray[np.float64]:
        s, d = self.ego.at(0.0)
        return rectangle(s + EGO_CENTRE_M, d, EGO_LENGTH_M, EGO_WIDTH_M, 0.0)

    def _footprint(self, actor: Actor, time_s: float = 0.0) -> NDArray[np.float64]:
        """(4, 2) corners in (s, d)."""
        s, d = actor.course.at(time_s)
        length, width, _ = actor.shape.size_lwh
        return rectangle(s, d, length, width, actor.course.facing_rad)


def rectangle(x: float, y: float, length: float, width: float, yaw_rad: float) -> NDArray[np.float64]:
    """(4, 2) corners of a turned rectangle."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (length / 2, width / 2)
    return np.asarray(corners @ yaw_matrix(yaw_rad)[:2, :2].T + (x, y))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two convex quadrilaterals (4, 2) share area (separating axes)."""
    for corners in (a, b):
        edges = np.roll(corners, -1, axis=0) - corners
        for axis in np.stack([-edges[:, 1], edges[:, 0]], axis=1):
            pa, pb = a @ axis, b @ axis
            if pa.max() <= pb.min() or pb.max() <= pa.min():
                return False
    return True


class _Population:
    """Fills the street with traffic that keeps clear of itself for the whole drive."""

    def __init__(self, world: World, generator: np.random.Generator, duration_s: float) -> None:
        self._world, self._g, self._duration_s = world, generator, duration_s
        self._times = np.arange(0.0, duration_s + 0.5, 0.5)

    def fill(self) -> None:
        scenario = self._world.scenario
        self._lanes(scenario.traffic)
        self._parked(scenario.parked)
        self._works(scenario.parked)
        self._walkers(scenario.people)
        self._crossers(scenario.people)
        self._cyclists(scenario.people)

    def _lanes(self, amount: float) -> None:
        world, g, p = self._world, self._g, self._world.profile
        if amount == 0:
            return
        for direction in (1, -1):
            for lane in range(p.lanes):
                d = -direction * (lane + 0.5) * LANE_M
                own = direction > 0 and abs(d - world.ego.d_m) < 0.1
                speed = world.ego.along_mps if own else float(g.uniform(4, 13))
                if own and g.random() < 0.2:
                    speed = max(speed, 3.0)
                reach = world.road.length_m + (speed * self._duration_s if direction < 0 else 0.0)
                s = -90.0 - speed * self._duration_s * (direction > 0 and not own) + float(g.uniform(0, 30))
                while s < reach:
                    kind = self._vehicle_kind()
                    course = Course(
                        s, d + float(g.normal(0, 0.15)), direction * speed, 0.0, 0.0 if direction > 0 else np.pi
                    )
                    self._try(kind, course, gap_m=4.0)
                    s += 9.0 + float(g.exponential(22.0 / amount))

    def _vehicle_kind(self) -> Kind:
        kinds: tuple[Kind, ...] = ("car", "truck", "bus", "motorcycle")
        return kinds[self._g.choice(4, p=[0.68, 0.12, 0.09, 0.11])]

    def _parked(self, amount: float) -> None:
        world, g, p = self._world, self._g, self._world.profile
        if p.parking_m < 2.0 or amount == 0:
            return
        for side in (-1, 1):
            s = -85.0
            while s < world.road.length_m - 5:
                if not p.near_crossing(s, 8.0) and g.random() < 0.55 * min(amount, 1.6):
                    draw = g.random()
                    kind: Kind = "car" if draw < 0.82 else "truck" if draw < 0.9 else "motorcycle"
                    facing = 0.0 if side < 0 else np.pi
                    course = Course(s, side * (p.lanes * LANE_M + 1.08), facing_rad=facing + float(g.normal(0, 0.02)))
                    self._try(kind, course, gap_m=0.4, moving=False)
                    s += 9.5 if kind == "truck" else 2.6 if kind == "motorcycle" else 5.6
                else:
                    s += 3.0
        for _ in range(int(g.poisson(3 * amount)) if p.sidewalk_m > 0 else 0):  # bicycles left on the sidewalk
            s, side = float(g.uniform(-30, world.road.length_m - 30)), int(g.choice([-1, 1]))
            course = Course(s, side * (p.curb_m + 0.5), facing_rad=float(g.uniform(-3, 3)), z_m=CURB_M)
            self._try("bicycle", course, gap_m=0.1, moving=False)

    def _works(self, amount: float) -> None:
        """Now and then, road works at the right edge of the road: barriers behind cones."""
        world, g, p = self._world, self._g, self._world.profile
        if g.random() > 0.35 * min(amount, 1.0) or p.parking_m < 2.0:
            return
        s = float(g.uniform(15, 60)) + world.ego.s_m
        d = -(p.lanes * LANE_M + 0.9)
        for i in range(5):
            self._try("traffic_cone", Course(s + 2.2 * i, d + 0.15 * (4 - i)), gap_m=0.0)
        for i in range(3):
            self._try("barrier", Course(s + 12.0 + 2.4 * i, d, facing_rad=float(g.normal(0, 0.1))), gap_m=0.0)

    def _walkers(self, amount: float) -> None:
        world, g, p = self._world, self._g, self._world.profile
        per_metre = {"urban": 0.28, "residential": 0.09, "rural": 0.015}[p.style]
        for _ in range(int(g.poisson(amount * per_metre * (world.road.length_m + 60)))):
            side, direction = int(g.choice([-1, 1])), int(g.choice([-1, 1]))
            s = float(g.uniform(-60, world.road.length_m))
            d = side * (p.curb_m + float(g.uniform(0.7, max(0.9, p.sidewalk_m - 0.3))))
            speed = float(g.uniform(0.7, 1.7)) if g.random() < 0.8 else 0.0
            facing = (0.0 if direction > 0 else np.pi) if speed else float(g.uniform(-np.pi, np.pi))
            z = CURB_M if p.sidewalk_m else 0.0
            self._try("pedestrian", Course(s, d, direction * speed, 0.0, facing, z), gap_m=0.05)

    def _crossers(self, amount: float) -> None:
        """People on the zebra crossings (or anywhere on a country road) while the ego vehicle comes near."""
        world, g, p = self._world, self._g, self._world.profile
        places = list(p.crossings) + [float(v) for v in g.uniform(20, world.road.length_m - 60, 2)]
        for s in places:
            for _ in range(int(g.poisson(1.6 * amount))):
                direction = int(g.choice([-1, 1]))
                speed = float(g.uniform(0.9, 1.6))
                arrival = (s - world.ego.s_m - float(g.uniform(10, 40))) / max(world.ego.along_mps, 1.0)
                d_then = float(g.uniform(-p.curb_m, p.curb_m))
                at = (
                    s
                    + (CROSS_WALK_M if s in p.crossings else 0.0) * int(g.choice([-1, 1]))
                    + float(g.uniform(-0.6, 0.6))
                )
                course = Course(at, d_then - direction * speed * arrival, 0.0, direction * speed, direction * np.pi / 2)
                self._try("pedestrian", course, gap_m=0.6)

    def _cyclists(self, amount: float) -> None:
        world, g, p = self._world, self._g, self._world.profile
        for _ in range(int(g.poisson(amount * (4.0 + 0.035 * world.road.length_m)))):
            direction = int(g.choice([-1, 1]))
            d = -direction * (p.lanes * LANE_M - 0.25)
            speed = direction * float(g.uniform(3, 6.5))
            s = float(g.uniform(-40, world.road.length_m + (60 if direction < 0 else -20)))
            kind: Kind = "bicycle" if g.random() < 0.65 else "motorcycle"
            self._try(kind, Course(s, d, speed, 0.0, 0.0 if direction > 0 else np.pi), gap_m=0.3)

    def _try(self, kind: Kind, course: Course, gap_m: float, moving: bool | None = None) -> bool:
        """Adds an actor unless it would come into another or into the ego vehicle during the drive."""
        length, width = _NOMINAL_LW[kind]
        if self._meets(course, length + gap_m, width + gap_m / 4):
            return False
        self._world.add(kind, course, self._g, moving)
        return True

    def _meets(self, course: Course, length: float, width: float) -> bool:
        own = np.array([course.at(t) for t in self._times])
        half = np.array(_extent(length, width, course.facing_rad))
        ego = np.array([self._world.ego.at(t) for t in self._times]) + np.array([EGO_CENTRE_M, 0.0])
        others = [(ego, np.array([EGO_LENGTH_M / 2 + 1.0, EGO_WIDTH_M / 2 + 0.2]))]
        for actor in self._world.actors:
            path = np.array([actor.course.at(t) for t in (0.0, self._times[-1])])
            others.append((path, np.array(_extent(*actor.shape.size_lwh[:2], actor.course.facing_rad))))
        for path, extent in others:
            if len(path) == 2:
                path = path[0] + (path[1] - path[0]) * (self._times / max(self._times[-1], 1e-9))[:, None]
            apart = np.abs(path - own) >= half + extent
            if not bool(apart.any(axis=1).all()):
                return True
        return False


CROSS_WALK_M = 5.2

_NOMINAL_LW: dict[Kind, tuple[float, float]] = {
    "car": (5.1, 1.95), "truck": (9.5, 2.4), "bus": (12.2, 2.55), "motorcycle": (2.05, 0.8), "bicycle": (1.75, 0.62),
    "pedestrian": (0.6, 0.7), "traffic_cone": (0.36, 0.36), "barrier": (0.6, 2.0),
}  # fmt: skip


def _extent(length: float, width: float, yaw_rad: float) -> tuple[float, float]:
    """Half sizes along s and d of a turned rectangle."""
    cos, sin = abs(np.cos(yaw_rad)), abs(np.sin(yaw_rad))
    return (length * cos + width * sin) / 2, (length * sin + width * cos) / 2
