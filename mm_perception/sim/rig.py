"""The simulator's view of a rig: cameras with their intrinsics, and which sensors share a camera's view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import Mount, RigConfig, SensorConfig
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.mesh import pitch_matrix, yaw_matrix
from mm_perception.sim.world import BASE_FRAME

_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
SHARING = ("depth", "thermal", "events")


@dataclass(frozen=True, slots=True, eq=False)
class SimCamera:
    """An RGB camera and the depth, thermal and event sensors that look through the same lens.

    Attributes:
        sensor: the RGB sensor.
        others: by kind, the sensors with the same mount.
    """

    sensor: SensorConfig
    model: CameraModel
    base_from_camera: RigidTransform
    others: dict[str, SensorConfig]


@dataclass(frozen=True, slots=True, eq=False)
class SimLidar:
    """A LiDAR and where it sits."""

    sensor: SensorConfig
    base_from_lidar: RigidTransform


@dataclass(frozen=True, slots=True, eq=False)
class SimRig:
    """All simulated sensors; the camera of the rig's reference comes first."""

    config: RigConfig
    cameras: tuple[SimCamera, ...]
    lidars: tuple[SimLidar, ...]

    @property
    def transforms(self) -> list[RigidTransform]:
        """The static transforms, one per frame."""
        return [c.base_from_camera for c in self.cameras] + [lidar.base_from_lidar for lidar in self.lidars]


def truth_topics(sensor: SensorConfig) -> tuple[str, str]:
    """Topics of a camera's true classes and instances: below the first two names of its image's topic."""
    base = "/".join(sensor.input_topic.split("/")[:3])
    return f"{base}/truth/class", f"{base}/truth/instance"


def simulated_rig(config: RigConfig) -> SimRig:
    """Checks that the simulator can drive a rig.

    Raises:
        ConfigError: a sensor has no mount, a camera no intrinsics, two cameras would share truth topics, or a depth,
            thermal or event sensor has a mount that is no RGB camera's; all problems are named.
    """
    problems: list[str] = []
    cameras: list[SimCamera] = []
    for sensor in sorted(config.of_kind("rgb"), key=lambda s: s.name != config.reference):
        mount = _camera_mount(sensor, problems)
        if mount is not None:
            cameras.append(SimCamera(sensor, _camera(mount), _base_from(mount, _OPTICAL), {}))
    by_frame = {camera.model.frame_id: camera for camera in cameras}
    if len(by_frame) < len(cameras):
        problems.append("two RGB cameras have the same mount.frame_id")
    by_truth: dict[str, str] = {}
    for camera in cameras:
        topic = truth_topics(camera.sensor)[0]
        if topic in by_truth:
            problems.append(
                f"{camera.sensor.name}: its truth topic {topic} is that of {by_truth[topic]} too; "
                "the first two names of their image topics must differ"
            )
        by_truth.setdefault(topic, camera.sensor.name)
    for sensor in config.sensors:
        if sensor.kind not in SHARING:
            continue
        shared = by_frame.get(sensor.mount.frame_id) if sensor.mount else None
        if shared is None or sensor.mount != shared.sensor.mount:
            problems.append(
                f"{sensor.name}: a simulated {sensor.kind} sensor needs the mount of an RGB camera, line by line"
            )
        elif sensor.kind in shared.others:
            problems.append(f"{sensor.name}: camera {shared.sensor.name} has a {sensor.kind} sensor already")
        else:
            shared.others[sensor.kind] = sensor
    lidars = []
    for sensor in config.of_kind("lidar"):
        if sensor.mount is None:
            problems.append(f"{sensor.name}: no mount")
        else:
            lidars.append(SimLidar(sensor, _base_from(sensor.mount, np.eye(3))))
    if problems:
        raise ConfigError(f"rig {config.name} cannot be simulated:\n  " + "\n  ".join(problems))
    return SimRig(config, tuple(cameras), tuple(lidars))


def _camera_mount(sensor: SensorConfig, problems: list[str]) -> Mount | None:
    mount = sensor.mount
    if mount is None:
        problems.append(f"{sensor.name}: no mount")
        return None
    if min(mount.width_px, mount.height_px) < 16 or mount.focal_px <= 0:
        problems.append(
            f"{sensor.name}: no intrinsics: mount needs width_px and height_px of at least 16, and focal_px"
        )
        return None
    return mount


def _camera(mount: Mount) -> CameraModel:
    k = np.array(
        [[mount.focal_px, 0, (mount.width_px - 1) / 2], [0, mount.focal_px, (mount.height_px - 1) / 2], [0, 0, 1]]
    )
    return CameraModel(mount.width_px, mount.height_px, k, np.zeros(0), "", mount.frame_id)


def _base_from(mount: Mount, axes: np.ndarray) -> RigidTransform:
    turn = yaw_matrix(np.radians(mount.yaw_deg)) @ pitch_matrix(np.radians(mount.pitch_deg)) @ axes
    return RigidTransform(BASE_FRAME, mount.frame_id, turn, np.array(mount.xyz_m))
