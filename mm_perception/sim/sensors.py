"""All sensors of a rig at one instant of a world, with the truth that they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import Detections3D, PointCloud
from mm_perception.geometry.boxes import wrapped_rad
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.cameras import ELECTRONS_PER_CDM2_S, Exposure, camera_rays, choose_exposure, develop
from mm_perception.sim.conditions import Environment
from mm_perception.sim.depth_camera import measure_depth
from mm_perception.sim.event_camera import EventCamera
from mm_perception.sim.lidar_sensor import LidarModel, measure_sweep
from mm_perception.sim.light import luminance, sunlight
from mm_perception.sim.rig import SimCamera, SimLidar, SimRig
from mm_perception.sim.scene import F32, Appearance, Hits, Scene, appearance, warmth
from mm_perception.sim.surfaces import SKY_SURFACE
from mm_perception.sim.thermal_camera import ThermalCamera, sky_radiance, surface_radiance
from mm_perception.sim.world import ObjectState, World

T = TypeVar("T")

SWEEP_NS = 100_000_000
_GREY = np.array([0.2126, 0.7152, 0.0722], np.float32)
_PIECE = 16_384  # rays
_STILL_S = 0.002  # shorter exposures blur nothing


@dataclass(frozen=True, slots=True, eq=False)
class CameraFrame:
    """One camera's measurements and truth, (H, W) each.

    Attributes:
        rgb: (H, W, 3) uint8.
        class_ids: uint8, index into `surfaces.CLASSES`, 255: no class.
        instances: uint16, 0: no object.
        depth_m: float32 as the depth camera measured it, NaN in holes; None without one.
        thermal: uint16 counts; None without one.
        exposure: of the RGB picture.
    """

    rgb: NDArray[np.uint8]
    class_ids: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    exposure: Exposure
    depth_m: F32 | None = None
    thermal: NDArray[np.uint16] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The part of a view's rays that met something: where in the view, what, how it looks, and the sun on it."""

    solid: NDArray[np.int64]
    near: Hits
    look: Appearance
    sunlit: F32


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a camera's N rays met, kept for its sensors.

    Attributes:
        pieces: follow each other in the order of rays.
        light: (N, 3) luminance [cd/m2].
    """

    camera: SimCamera
    odom_from_camera: RigidTransform
    hits: Hits
    pieces: list[Piece]
    light: F32

    @property
    def solid(self) -> NDArray[np.int64]:
        return np.concatenate([piece.solid for piece in self.pieces])


@dataclass(slots=True, eq=False)
class Sensors:
    """The rig's sensors in one world; fixed patterns and the event cameras' memory belong to a drive.

    Every random number comes from (seed, sensor, frame), so frames may be made in any order, but for events.
    """

    world: World
    rig: SimRig
    seed: int
    lidar: LidarModel = field(default_factory=LidarModel)
    _rays: dict[str, F32] = field(default_factory=dict)
    _thermal: dict[str, ThermalCamera] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for camera in self.rig.cameras:
            self._rays[camera.sensor.name] = camera_rays(camera.model)
            if "thermal" in camera.others:
                generator = self.generator(camera.others["thermal"].name, -1)
                self._thermal[camera.sensor.name] = ThermalCamera(camera.model.width, camera.model.height, generator)

    def generator(self, sensor: str, frame: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, frame + 1, *sensor.encode()])

    def scene(self, time_s: float) -> Scene:
        return Scene(self.world.snapshot(time_s), self.world.surfaces.arrays)

    def event_camera(self, camera: SimCamera) -> EventCamera:
        sensor, model = camera.others["events"], camera.model
        return EventCamera(model.width, model.height, model.frame_id, self.generator(sensor.name, -1))

    def view(self, scene: Scene, camera: SimCamera) -> View:
        """Casts a camera's rays and lights what they meet."""
        return self._view(scene, camera, self._rays[camera.sensor.name])

    def _view(self, scene: Scene, camera: SimCamera, camera_rays: F32) -> View:
        odom_from_camera = self.world.ego_pose(scene.snapshot.time_s) @ camera.base_from_camera
        rays = camera_rays @ odom_from_camera.rotation.T.astype(np.float32)
        hits = scene.cast(odom_from_camera.translation, np.ascontiguousarray(rays))
        return View(camera, odom_from_camera, hits, *_light_up(scene, hits, self.world.environment))

    def event_luminance(self, scene: Scene, camera: SimCamera) -> NDArray[np.float16]:
        """(H, W) luminance for the event camera [cd/m2], lit at half the resolution and interpolated.

        Half precision keeps three digits: a thousandth, against thresholds of a third.
        """
        model = camera.model
        half = replace(camera, model=model.resized(model.width // 2, model.height // 2))
        name = f"{camera.sensor.name} at half size"
        if name not in self._rays:
            self._rays[name] = camera_rays(half.model)
        light = self._view(scene, half, self._rays[name]).light
        grey = np.minimum(light @ _GREY, np.float32(6e4)).reshape(half.model.height, half.model.width)
        grey = cv2.GaussianBlur(grey, (0, 0), 0.8)  # the lens; without it fine patterns flicker
        return np.asarray(cv2.resize(grey, (model.width, model.height), interpolation=cv2.INTER_LINEAR), np.float16)

    def frame(self, scene: Scene, view: View, number: int) -> CameraFrame:
        """Measures with all sensors of a camera but events."""
        camera, env, name = view.camera, self.world.environment, view.camera.sensor.name
        shape = (camera.model.height, camera.model.width)
        light = view.light.reshape(*shape, 3)
        exposure = choose_exposure(light)
        flow = self._flow(scene, view) if exposure.time_s > _STILL_S else None
        rgb = develop(light, exposure, env, self.generator(name, number), flow)
        rows = view.hits.surface
        depth = thermal = None
        if "depth" in camera.others:
            depth = self._depth(view, exposure, self.generator(camera.others["depth"].name, number))
        if "thermal" in camera.others:
            radiance = sky_radiance(view.hits.directions, env)
            for piece in view.pieces:
                warm = warmth(scene.surfaces, piece.near, piece.look)
                radiance[piece.solid] = surface_radiance(piece.near, warm, piece.sunlit, env)
            generator = self.generator(camera.others["thermal"].name, number)
            thermal = self._thermal[name].measure(radiance.reshape(shape), generator)
        return CameraFrame(
            rgb, scene.surfaces.class_id[rows].reshape(shape), scene.surfaces.instance[rows].reshape(shape), exposure,
            depth, thermal,
        )  # fmt: skip

    def _depth(self, view: View, exposure: Exposure, generator: np.random.Generator) -> F32:
        model = view.camera.model
        shape = (model.height, model.width)
        forward = self._rays[view.camera.sensor.name][:, 2]
        z = (view.hits.range_m * forward).reshape(shape)
        electrons = view.light @ (_GREY * np.float32(ELECTRONS_PER_CDM2_S * exposure.time_s))
        gloss = np.zeros(len(forward), np.float32)
        gloss[view.solid] = np.concatenate([piece.look.gloss for piece in view.pieces])
        focal = float(model.intrinsics[0, 0])
        return measure_depth(
            z, focal, electrons.reshape(shape), gloss.reshape(shape), self.world.environment, generator
        )

    def _flow(self, scene: Scene, view: View) -> F32:
        """(H, W, 2) motion of each pixel's content [px/s], by the vehicle's and the objects' motion.

        It is that of every second pixel in every second row, which tells blur well enough.
        """
        model, time_s = view.camera.model, scene.snapshot.time_s
        chosen = np.arange(len(view.hits.range_m)).reshape(model.height, model.width)[::2, ::2]
        flow = np.zeros((*chosen.shape, 2), np.float32)
        solid = np.nonzero(view.hits.surface[chosen] != SKY_SURFACE)
        ego = self.world.ego_pose(time_s)
        speed, yaw_rate = self.world.ego_velocity(time_s)
        near = view.hits.take(chosen[solid])
        velocity = np.zeros((int(scene.surfaces.instance.max()) + 1, 3), np.float32)
        for state in scene.snapshot.objects:
            velocity[state.instance, :2] = state.velocity
        moving = velocity[scene.surfaces.instance[near.surface]]
        arm = near.points - ego.translation.astype(np.float32)
        turning = np.stack([-yaw_rate * arm[:, 1], yaw_rate * arm[:, 0], np.zeros(len(arm))], axis=1)
        relative = moving - (speed * ego.rotation[:, 0]).astype(np.float32) - turning.astype(np.float32)
        to_camera = view.odom_from_camera.rotation.astype(np.float32)
        rate = relative @ to_camera
        place = (near.points - view.odom_from_camera.translation.astype(np.float32)) @ to_camera
        z = np.maximum(place[:, 2:], np.float32(0.1))
        focal = np.float32(model.intrinsics[0, 0])
        flow[solid] = focal * (rate[:, :2] * z - place[:, :2] * rate[:, 2:]) / z**2
        size = (model.width, model.height)
        return np.asarray(cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST), np.float32)

    def sweep(
        self, lidar: SimLidar, scenes: list[Scene], stamp_ns: int, start_s: float, number: int
    ) -> tuple[PointCloud, NDArray[np.uint16]]:
        """One turn of a LiDAR that starts at `start_s`; (P,) instance of each point, 0: no object (or from the air).

        The vehicle moves within the sweep column by column; the objects stand where the nearest in time of the
        `scenes` has them.
        """
        model, steps = self.lidar, 24  # the pose is held for one step of a turn
        rays, offset_ns = model.rays(), model.offsets_ns(SWEEP_NS)
        column = np.tile(np.arange(model.columns), model.rings)
        origins, turned = np.empty_like(rays), np.empty_like(rays)
        scene_s = np.array([scene.snapshot.time_s for scene in scenes])
        owner = np.empty(len(rays), np.int64)
        for step in range(steps):
            chosen = np.nonzero(column * steps // model.columns == step)[0]
            time_s = start_s + (step + 0.5) / steps * SWEEP_NS * 1e-9
            owner[chosen] = np.abs(scene_s - time_s).argmin()
            pose = self.world.ego_pose(time_s) @ lidar.base_from_lidar
            turned[chosen] = rays[chosen] @ pose.rotation.T.astype(np.float32)
            origins[chosen] = pose.translation
        parts = [np.nonzero(owner == i)[0] for i in range(len(scenes))]
        pieces = [scene.cast(origins[c], turned[c]) for scene, c in zip(scenes, parts, strict=True)]
        hits = _reordered(pieces, np.concatenate(parts))
        cloud, kept, in_air = measure_sweep(
            model, rays, hits, scenes[0].surfaces, self.world.environment, offset_ns, stamp_ns,
            lidar.base_from_lidar.src, self.generator(lidar.sensor.name, number),
        )  # fmt: skip
        instances = scenes[0].surfaces.instance[hits.surface[kept]]
        return cloud, np.where(in_air, np.uint16(0), instances)


def _light_up(scene: Scene, hits: Hits, env: Environment) -> tuple[list[Piece], F32]:
    """Appearance and light of all hits, in pieces that fit the processor's cache (three times as fast)."""
    light = np.empty((len(hits.range_m), 3), np.float32)
    pieces = []
    for start in range(0, len(light), _PIECE):
        part = hits.part(start, start + _PIECE)
        solid = part.solid
        near = part.take(solid)
        look = appearance(scene.surfaces, near)
        sunlit = sunlight(scene, near, env)
        light[start : start + _PIECE] = luminance(scene, part, solid, near, look, sunlit, env)
        pieces.append(Piece(solid + start, near, look, sunlit))
    return pieces, light


def joined(parts: Sequence[T]) -> T:
    """One dataclass of arrays from several, row after row."""
    kind = type(parts[0])
    return kind(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(kind)))  # type: ignore[arg-type]


def _reordered(pieces: list[Hits], order: NDArray[np.int64]) -> Hits:
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return joined(pieces).take(inverse)


def boxes_from(objects: Sequence[ObjectState], odom_from_frame: RigidTransform, stamp_ns: int) -> Detections3D:
    """The boxes of objects as seen from a frame that turns about z alone; velocities are over ground, in its axes."""
    count, turn = len(objects), odom_from_frame.rotation.T
    heading = float(np.arctan2(odom_from_frame.rotation[1, 0], odom_from_frame.rotation[0, 0]))
    centers = np.array([turn @ (o.center - odom_from_frame.translation) for o in objects]).reshape(count, 3)
    velocity = np.array([turn[:2, :2] @ o.velocity for o in objects]).reshape(count, 2)
    yaw = np.array([wrapped_rad(o.yaw_rad - heading) for o in objects])
    return Detections3D(
        centers.astype(np.float32),
        np.array([o.size_lwh for o in objects], np.float32).reshape(count, 3),
        yaw.astype(np.float32),
        velocity.astype(np.float32),
        np.ones(count, np.float32),
        np.array([DETECTION_CLASSES.index(o.kind) for o in objects], np.int32),
        DETECTION_CLASSES,
        odom_from_frame.src,
        stamp_ns,
    )


def visible_shares(
    scene: Scene, cameras: tuple[SimCamera, ...], base_pose: RigidTransform, objects: tuple[ObjectState, ...]
) -> NDArray[np.float32]:
    """(N,) share 0..1 of each object that any of the cameras sees.

    Rays go to the points of the object's skin; one counts if it lies within the image and the first thing that the
    ray meets is the object itself (its own far side is seen through its near side). The best camera counts.
    """
    best = np.zeros(len(objects), np.float32)
    if not objects:
        return best
    skins = np.concatenate([o.skin for o in objects])
    owner = np.repeat(np.arange(len(objects)), [len(o.skin) for o in objects])
    ids = np.array([o.instance for o in objects])
    for camera in cameras:
        pose = base_pose @ camera.base_from_camera
        share = _seen_share(scene, camera.model, pose, skins, owner, ids)
        best = np.maximum(best, share)
    return best


def _seen_share(
    scene: Scene, model: CameraModel, pose: RigidTransform, skins: F32, owner: NDArray[np.int64], ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    pixels, depth = model.project(pose.inverse().apply(skins))
    with np.errstate(invalid="ignore"):
        inside = (
            (depth > 0) & (pixels >= -0.5).all(axis=1) & (pixels < (model.width - 0.5, model.height - 0.5)).all(axis=1)
        )
    chosen = np.nonzero(inside)[0]
    if len(chosen) == 0:
        return np.zeros(len(ids), np.float32)
    rays = skins[chosen] - pose.translation.astype(np.float32)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hits = scene.cast(pose.translation, rays)
    seen = scene.surfaces.instance[hits.surface] == ids[owner[chosen]]
    total = np.bincount(owner, minlength=len(ids))
    return np.asarray(np.bincount(owner[chosen], weights=seen, minlength=len(ids)) / total, np.float32)
