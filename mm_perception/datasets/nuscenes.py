"""nuScenes as it is downloaded: the tables of v1.0-mini, -trainval or -test, with samples/ and sweeps/ beside them.

H. Caesar et al., nuScenes: A multimodal dataset for autonomous driving, CVPR 2020. Each table is a list of rows with
tokens that point to rows of others; quaternions are w, x, y, z, sizes width, length, height, times microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.datasets.classes import nearest
from mm_perception.datasets.files import read_json
from mm_perception.geometry.transforms import RigidTransform, heading_of_quat

BASE, MAP = "base_link", "map"
NEEDED = ("scene", "sample", "sample_data", "calibrated_sensor", "sensor", "ego_pose")
TRUTH = ("sample_annotation", "instance", "category")
DETECTION_CLASSES = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
}
"""The ten classes of the detection task; objects of other categories are left out."""
CLASSES = tuple(sorted(set(DETECTION_CLASSES.values())))

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One file of a scene.

    Attributes:
        frame_id: the sensor's channel in lower case ("cam_front", "lidar_top").
        map_from_base: the vehicle's pose at the file's stamp.
        intrinsics: (3, 3) of cameras [px], else empty.
        sample: the key frame that it is of; None for sweeps between.
    """

    stamp_ns: int
    frame_id: str
    modality: str
    path: Path
    base_from_sensor: RigidTransform
    map_from_base: RigidTransform
    intrinsics: Any
    sample: str | None


class NuScenesTables:
    """The tables of one version.

    Attributes:
        root: the folder with samples/.
        version: name of the tables' folder.
    """

    def __init__(self, source: Path) -> None:
        """Raises DataError if there are no tables, several versions, or one that is not as expected."""
        folder = _tables_folder(source)
        self.root, self.version = (source if folder != source else source.parent), folder.name
        missing = [name for name in NEEDED if not (folder / f"{name}.json").is_file()]
        if missing:
            raise DataError(f"{folder}: no {', '.join(f'{name}.json' for name in missing)}: tables of nuScenes v1.0")
        self._folder = folder
        self._rows: dict[str, list[Row]] = {}
        self._by_token: dict[str, dict[str, Row]] = {}
        self._boxes: dict[str, list[Row]] | None = None

    def rows(self, table: str) -> list[Row]:
        if table not in self._rows:
            path = self._folder / f"{table}.json"
            rows = read_json(path) if path.is_file() else []
            if not isinstance(rows, list) or not all(isinstance(row, dict) and "token" in row for row in rows):
                raise DataError(f"{path}: expected a list of rows with tokens")
            self._rows[table] = rows
        return self._rows[table]

    def get(self, table: str, token: str) -> Row:
        if table not in self._by_token:
            self._by_token[table] = {row["token"]: row for row in self.rows(table)}
        try:
            return self._by_token[table][token]
        except KeyError:
            raise DataError(f"{self._folder / table}.json: no row {token!r}, which another table names") from None

    def scene(self, name: str | None) -> Row:
        """The scene of a name, or the only one.

        Raises:
            DataError: there is no such scene, or there are several and none was named.
        """
        scenes = {str(scene["name"]): scene for scene in self.rows("scene")}
        shown = ", ".join(list(scenes)[:12]) + (", …" if len(scenes) > 12 else "")
        if name is None and len(scenes) == 1:
            return next(iter(scenes.values()))
        if name is None:
            raise DataError(f"{self._folder}: {len(scenes)} scenes ({shown}): one bag holds one, say --scene NAME")
        if name not in scenes:
            raise DataError(f"{self._folder}: no scene {name!r}{nearest(name, scenes)} (there are {shown})")
        return scenes[name]

    def recordings(self, scene: Row) -> tuple[list[Recording], int]:
        """The camera and LiDAR files of a scene that are there, in the order of their stamps; and how many are not.

        Raises:
            DataError: none is there.
        """
        samples = {row["token"] for row in self.rows("sample") if row["scene_token"] == scene["token"]}
        found, missing = [], 0
        for row in self.rows("sample_data"):
            if row["sample_token"] not in samples:
                continue
            recording = self._recording(row)
            if recording is None:
                continue
            if recording.path.is_file():
                found.append(recording)
            else:
                missing += 1
        if not found:
            raise DataError(
                f"{self.root}: none of the {missing} files of {scene['name']} is there: expected samples/ and sweeps/ "
                f"beside {self.version}/"
            )
        return sorted(found, key=lambda one: (one.stamp_ns, one.frame_id)), missing

    def _recording(self, row: Row) -> Recording | None:
        calibrated = self.get("calibrated_sensor", row["calibrated_sensor_token"])
        sensor = self.get("sensor", calibrated["sensor_token"])
        if sensor["modality"] not in ("camera", "lidar"):
            return None
        frame_id = str(sensor["channel"]).lower()
        return Recording(
            int(row["timestamp"]) * 1000,
            frame_id,
            str(sensor["modality"]),
            self.root / row["filename"],
            _transform(BASE, frame_id, calibrated),
            _transform(MAP, BASE, self.get("ego_pose", row["ego_pose_token"])),
            np.array(calibrated.get("camera_intrinsic") or [], np.float64),
            str(row["sample_token"]) if row.get("is_key_frame", True) else None,
        )

    def objects(self, key_frame: Recording) -> Detections3D:
        """The true boxes of a key frame in the frame of one of its recordings; empty where there are no truth tables.

        Velocities are not known (NaN).
        """
        sensor_from_map = (key_frame.map_from_base @ key_frame.base_from_sensor).inverse()
        centers, sizes, yaws, labels = [], [], [], []
        for row in self._annotations().get(key_frame.sample or "", ()):
            category = self.get("category", self.get("instance", row["instance_token"])["category_token"])["name"]
            if category not in DETECTION_CLASSES:
                continue
            box = sensor_from_map @ _transform(MAP, "box", row)
            width, length, height = row["size"]
            centers.append(box.translation)
            sizes.append((length, width, height))
            yaws.append(float(heading_of_quat(box.quat_xyzw)))
            labels.append(CLASSES.index(DETECTION_CLASSES[category]))
        return Detections3D(
            np.array(centers, np.float32).reshape(-1, 3),
            np.array(sizes, np.float32).reshape(-1, 3),
            np.array(yaws, np.float32),
            np.full((len(labels), 2), np.nan, np.float32),
            np.ones(len(labels), np.float32),
            np.array(labels, np.int32),
            CLASSES,
            key_frame.frame_id,
            key_frame.stamp_ns,
        )

    @property
    def has_truth(self) -> bool:
        """Whether there are tables of true boxes (those of v1.0-test have none)."""
        return all((self._folder / f"{name}.json").is_file() for name in TRUTH) and bool(self.rows(TRUTH[0]))

    def _annotations(self) -> dict[str, list[Row]]:
        """Rows of true boxes by key frame."""
        if self._boxes is None:
            self._boxes = {}
            for row in self.rows("sample_annotation"):
                self._boxes.setdefault(row["sample_token"], []).append(row)
        return self._boxes


def has_tables(source: Path) -> bool:
    """Whether a folder holds tables, or a folder of them."""
    return (source / "sample_data.json").is_file() or any(
        (folder / "sample_data.json").is_file() for folder in source.glob("v1.0-*")
    )


def _tables_folder(source: Path) -> Path:
    if (source / "sample_data.json").is_file():
        return source
    versions = sorted(folder for folder in source.glob("v1.0-*") if (folder / "sample_data.json").is_file())
    if len(versions) > 1:
        names = ", ".join(folder.name for folder in versions)
        raise DataError(f"{source}: several versions ({names}): name one of these folders as SRC")
    if not versions:
        raise DataError(f"{source}: no tables of nuScenes (v1.0-mini/sample_data.json, …)")
    return versions[0]


def _transform(dst: str, src: str, row: Row) -> RigidTransform:
    w, x, y, z = (float(value) for value in row["rotation"])
    quat = np.array([x, y, z, w])
    return RigidTransform.from_quaternion(dst, src, quat, np.array(row["translation"], np.float64))
