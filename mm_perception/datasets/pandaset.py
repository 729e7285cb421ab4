"""A sequence of PandaSet as it is downloaded, or a compact part of one.

P. Xiao et al., PandaSet: Advanced Sensor Suite Dataset for Autonomous Driving, ITSC 2021.

    download   lidar/{00.pkl.gz,poses.json,timestamps.json}, camera/NAME/{00.jpg,intrinsics.json,poses.json,
               timestamps.json}, annotations/{cuboids/00.pkl.gz,semseg/{00.pkl.gz,classes.json}}
    compact    frames.json with calibration, poses and boxes; lidar/00.npz (xyz_cm, intensity, cls), camera/NAME/00.jpg

Points and boxes of the download are in the world's axes; here they are in those of the LiDAR's pose. Only the
360-degree LiDAR is read (`d` is 0), and boxes that are not its siblings' doubles. A sweep is already free of the
vehicle's motion, so no time per point is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.datasets.files import read_json, require_folder
from mm_perception.datasets.table_pickle import read_table
from mm_perception.geometry.transforms import RigidTransform

MAP, LIDAR = "map", "pandar64"
_POSITION = ("position.x", "position.y", "position.z")
_SIZE_LWH = ("dimensions.y", "dimensions.x", "dimensions.z")


@dataclass(frozen=True, slots=True, eq=False)
class PandaCamera:
    """Files of a camera; its frame is called by its name.

    Attributes:
        intrinsics: (3, 3) [px] of the files' size.
        frames: (stamp_ns, file, map_from_camera) in order.
    """

    name: str
    intrinsics: NDArray[np.float64]
    frames: list[tuple[int, Path, RigidTransform]]


@dataclass(frozen=True, slots=True, eq=False)
class PandaSweep:
    """One sweep, in the LiDAR's frame at its pose.

    Attributes:
        xyz: (N, 3) float32 [m].
        intensity: (N,) float32, 0..255.
        labels: (N,) uint16 class of each point; None where there is none.
        objects: the true boxes; None where there are none.
    """

    stamp_ns: int
    map_from_lidar: RigidTransform
    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    labels: NDArray[np.uint16] | None
    objects: Detections3D | None


class PandaSequence:
    """One sequence. Attributes: cameras; stems, the names of the sweeps that are there ("00", …)."""

    def __init__(self, source: Path) -> None:
        """Raises DataError if there is no sequence, or several, or files are missing."""
        self.root = _one_sequence(require_folder(source))
        compact = (self.root / "frames.json").is_file()
        self._compact: Any = read_json(self.root / "frames.json") if compact else None
        suffix = ".npz" if self._compact else ".pkl.gz"
        self.stems = sorted(p.name[: -len(suffix)] for p in (self.root / "lidar").glob(f"*{suffix}"))
        if not self.stems:
            raise DataError(f"{self.root / 'lidar'}: no sweeps (*{suffix})")
        try:
            self.cameras = self._compact_cameras() if self._compact else self._downloaded_cameras()
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise DataError(f"{self.root}: not as expected, {type(error).__name__} {error}") from error

    def sweep(self, stem: str) -> PandaSweep:
        """Reads one sweep with its truth."""
        try:
            return self._compact_sweep(stem) if self._compact else self._downloaded_sweep(stem)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise DataError(f"{self.root}: sweep {stem} not as expected, {type(error).__name__} {error}") from error

    def _downloaded_cameras(self) -> list[PandaCamera]:
        cameras = []
        for folder in sorted(p for p in (self.root / "camera").glob("*") if p.is_dir()):
            k = read_json(folder / "intrinsics.json")
            poses, stamps = read_json(folder / "poses.json"), read_json(folder / "timestamps.json")
            frames = [
                (_nanoseconds(stamps[int(path.stem)]), path, _pose(folder.name, poses[int(path.stem)]))
                for path in sorted(folder.glob("*.jpg"))
            ]
            cameras.append(PandaCamera(folder.name, _intrinsics(k), frames))
        return cameras

    def _compact_cameras(self) -> list[PandaCamera]:
        content = self._compact
        cameras = []
        for name, camera in content["cameras"].items():
            frames = []
            for i, frame in enumerate(content["frames"]):
                path = self.root / "camera" / name / f"{i:02d}.jpg"
                if path.is_file():
                    seen = frame["cameras"][name]
                    frames.append((_nanoseconds(seen["stamp_s"]), path, _pose(name, seen["pose"])))
            cameras.append(PandaCamera(name, _intrinsics(camera["K"]), frames))
        return cameras

    def _downloaded_sweep(self, stem: str) -> PandaSweep:
        number = int(stem)
        stamp_ns = _nanoseconds(read_json(self.root / "lidar" / "timestamps.json")[number])
        map_from_lidar = _pose(LIDAR, read_json(self.root / "lidar" / "poses.json")[number])
        table = read_table(self.root / "lidar" / f"{stem}.pkl.gz")
        around = np.asarray(table["d"]) == 0 if "d" in table else np.ones(len(table["x"]), bool)
        world = np.stack([np.asarray(table[axis], np.float64) for axis in "xyz"], axis=1)[around]
        classes = self.root / "annotations" / "semseg" / f"{stem}.pkl.gz"
        labels = None
        if classes.is_file():
            labels = np.asarray(read_table(classes)["class"]).astype(np.uint16)
            if len(labels) != len(around):
                raise ValueError(f"{len(around)} points, {len(labels)} point classes")
            labels = labels[around]
        boxes = self.root / "annotations" / "cuboids" / f"{stem}.pkl.gz"
        return PandaSweep(
            stamp_ns,
            map_from_lidar,
            map_from_lidar.inverse().apply(world),
            np.asarray(table["i"], np.float32)[around],
            labels,
            _downloaded_boxes(read_table(boxes), map_from_lidar, stamp_ns) if boxes.is_file() else None,
        )

    def _compact_sweep(self, stem: str) -> PandaSweep:
        frame = self._compact["frames"][int(stem)]
        stamp_ns, map_from_lidar = _nanoseconds(frame["lidar_stamp_s"]), _pose(LIDAR, frame["lidar_pose"])
        with np.load(self.root / "lidar" / f"{stem}.npz") as arrays:
            xyz = arrays["xyz_cm"].astype(np.float32) * np.float32(0.01)
            intensity, labels = arrays["intensity"].astype(np.float32), arrays["cls"].astype(np.uint16)
        boxes = frame["boxes"]
        objects = _objects(
            np.array([_position(box["pos"]) for box in boxes], np.float64).reshape(-1, 3),
            np.array([_dimensions(box["dim"]) for box in boxes], np.float64).reshape(-1, 3),
            np.array([box["yaw"] for box in boxes], np.float64),
            [str(box["label"]) for box in boxes],
            map_from_lidar,
            stamp_ns,
        )
        return PandaSweep(stamp_ns, map_from_lidar, xyz, intensity, labels, objects)


def _downloaded_boxes(table: Mapping[str, Any], map_from_lidar: RigidTransform, stamp_ns: int) -> Detections3D:
    keep = np.ones(len(table["yaw"]), bool)
    if "cuboids.sensor_id" in table:  # 1: seen by the forward LiDAR, and again by the other
        keep = np.asarray(table["cuboids.sensor_id"], np.int64) != 1
    columns = {name: np.asarray(table[name], np.float64)[keep] for name in (*_POSITION, *_SIZE_LWH, "yaw")}
    return _objects(
        np.stack([columns[name] for name in _POSITION], axis=1),
        np.stack([columns[name] for name in _SIZE_LWH], axis=1),
        columns["yaw"],
        [str(label) for label in np.asarray(table["label"])[keep]],
        map_from_lidar,
        stamp_ns,
    )


def _objects(
    centers: NDArray[np.float64],
    sizes_lwh: NDArray[np.float64],
    yaw_rad: NDArray[np.float64],
    names: list[str],
    map_from_lidar: RigidTransform,
    stamp_ns: int,
) -> Detections3D:
    """Boxes in the world's axes, whose length lies along +y at yaw 0, in the LiDAR's frame."""
    lidar_from_map = map_from_lidar.inverse()
    ahead = yaw_rad + math.pi / 2
    direction = np.stack([np.cos(ahead), np.sin(ahead), np.zeros(len(ahead))], axis=1) @ lidar_from_map.rotation.T
    classes = tuple(sorted(set(names)))
    return Detections3D(
        lidar_from_map.apply(centers),
        sizes_lwh.astype(np.float32),
        np.arctan2(direction[:, 1], direction[:, 0]).astype(np.float32),
        np.full((len(names), 2), np.nan, np.float32),
        np.ones(len(names), np.float32),
        np.array([classes.index(name) for name in names], np.int32),
        classes,
        LIDAR,
        stamp_ns,
    )


def _one_sequence(source: Path) -> Path:
    found = [source] if (source / "lidar").is_dir() else sorted(p.parent for p in source.glob("*/lidar") if p.is_dir())
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found[:8])
        raise DataError(f"{source}: {len(found)} sequences ({names}, …): name one of them as SRC")
    if not found or not (found[0] / "camera").is_dir():
        there = ", ".join(sorted(p.name for p in source.iterdir())[:12]) or "nothing"
        raise DataError(f"{source}: expected the folders lidar/ and camera/ of a PandaSet sequence, found {there}")
    return found[0]


def _intrinsics(k: Mapping[str, float]) -> NDArray[np.float64]:
    return np.array([[k["fx"], 0, k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]], np.float64)


def _pose(src: str, pose: Mapping[str, Any]) -> RigidTransform:
    heading = pose["heading"]
    quat = np.array([heading[axis] for axis in "xyzw"], np.float64)
    return RigidTransform.from_quaternion(MAP, src, quat, np.array(_position(pose["position"]), np.float64))


def _position(value: Any) -> tuple[float, ...]:
    """x, y, z of a mapping or a list."""
    if isinstance(value, Mapping):
        return tuple(float(value[axis]) for axis in "xyz")
    return tuple(float(v) for v in value)


def _dimensions(value: Any) -> tuple[float, float, float]:
    """Length, width, height of what is kept as width, length, height."""
    width, length, height = _position(value)
    return length, width, height


def _nanoseconds(seconds: float) -> int:
    # Microseconds are as much as a double of today's epoch holds.
    return round(float(seconds) * 1e6) * 1000
