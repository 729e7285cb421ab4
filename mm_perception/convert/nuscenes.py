"""nuScenes to a bag: a scene of the data set's own tables, or one key frame of mmdetection3d's infos.

H. Caesar et al., nuScenes: A multimodal dataset for autonomous driving, CVPR 2020. Read are the folder as it is
downloaded (v1.0-mini/, samples/, sweeps/; see `datasets.nuscenes`), and a `frame.json` (an info of mmdetection3d,
version 1.1, as JSON, with the files beside it).

Topics: /cam_*/image_raw/compressed (the files' bytes) and /cam_*/camera_info, /lidar_top/points, /tf_static
(base_link to sensors), /tf (map to base_link at the stamp of each sensor), /ground_truth/detections (in the LiDAR's
frame; a Detection3D has no velocity, so that is left out; objects of ignored classes are left out).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.detections import encode_detections
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_point_cloud,
    encode_transforms,
    wrap_compressed,
)
from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D, PointCloud
from mm_perception.datasets.files import read_bytes, read_json, read_points, require_folder
from mm_perception.datasets.nuscenes import NuScenesTables, Recording, has_tables
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

BASE, MAP, LIDAR = "base_link", "map", "lidar_top"
POSE_AHEAD_NS = 1000


def convert_nuscenes(
    source: Path, out: Path, overwrite: bool = False, scene: str | None = None, notes: list[str] | None = None
) -> int:
    """Writes the bag; returns the number of reference frames (images of CAM_FRONT).

    Args:
        scene: which scene of the tables; None: the only one.
        notes: is given a line for what was left out.

    Raises:
        DataError: a file is missing or not as expected, or there are several scenes and none was named.
        BagError: the bag exists or cannot be written.
    """
    require_folder(source)
    if has_tables(source):
        return _convert_tables(source, out, overwrite, scene, [] if notes is None else notes)
    if not (source / "frame.json").is_file():
        raise DataError(
            f"{source}: expected the tables of nuScenes (v1.0-mini/*.json beside samples/), or frame.json, an info of "
            "mmdetection3d as JSON; it holds neither"
        )
    info = read_json(source / "frame.json")
    try:
        frames = info["data_list"]
        categories = {label: name for name, label in info["metainfo"]["categories"].items()}
        with BagWriter(out, overwrite) as bag:
            for frame in frames:
                _write_frame(bag, source, frame, categories)
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(f"{source / 'frame.json'}: not as expected, {type(error).__name__} {error}") from error
    return len(frames)


def _convert_tables(source: Path, out: Path, overwrite: bool, scene: str | None, notes: list[str]) -> int:
    tables = NuScenesTables(source)
    try:
        recordings, missing = tables.recordings(tables.scene(scene))
        if missing:
            notes.append(f"{missing} files that the tables name are not there and were left out")
        with BagWriter(out, overwrite) as bag:
            static = {one.frame_id: one.base_from_sensor for one in recordings}
            first_ns = recordings[0].stamp_ns - POSE_AHEAD_NS
            bag.write(
                "/tf_static", encode_transforms(bag.factory, list(static.values()), first_ns), first_ns, latched=True
            )
            for one in recordings:
                _write_recording(bag, tables, one)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{source}: tables not as expected, {type(error).__name__} {error}") from error
    references = sum(one.frame_id == "cam_front" for one in recordings)
    return references or sum(one.modality == "lidar" for one in recordings)


def _write_recording(bag: BagWriter, tables: NuScenesTables, one: Recording) -> None:
    pose = encode_transforms(bag.factory, [one.map_from_base], one.stamp_ns)
    # A recording holds what is needed before the data that needs it.
    bag.write("/tf", pose, one.stamp_ns - POSE_AHEAD_NS)
    if one.modality == "camera":
        _write_camera(bag, one.stamp_ns, one.frame_id, one.path, one.intrinsics)
        return
    _write_lidar(bag, one.path, one.stamp_ns, one.frame_id)
    if one.sample is not None and tables.has_truth:
        truth = encode_detections(bag.factory, tables.objects(one))
        bag.write("/ground_truth/detections", truth, one.stamp_ns)


def _write_frame(bag: BagWriter, source: Path, frame: dict[str, Any], categories: dict[int, str]) -> None:
    lidar_ns = _nanoseconds(frame["timestamp"])
    map_from_base = _transform(MAP, BASE, frame["ego2global"])
    base_from_lidar = _transform(BASE, LIDAR, frame["lidar_points"]["lidar2ego"])
    static, moving = [base_from_lidar], [(lidar_ns, map_from_base)]
    cameras = []
    for name, camera in frame["images"].items():
        frame_id, stamp_ns = name.lower(), _nanoseconds(camera["timestamp"])
        base_from_camera = _transform(BASE, frame_id, camera["cam2ego"])
        camera_from_lidar = _transform(frame_id, LIDAR, camera["lidar2cam"])
        # lidar2cam already goes through the vehicle's motion between the two stamps; solved for the pose then.
        moved = (map_from_base @ base_from_lidar @ camera_from_lidar.inverse()) @ base_from_camera.inverse()
        static.append(base_from_camera)
        moving.append((stamp_ns, moved))
        cameras.append((stamp_ns, frame_id, source / camera["img_path"], camera["cam2img"]))
    moving.sort(key=lambda item: item[0])
    first_ns = min(moving[0][0], lidar_ns)
    bag.write("/tf_static", encode_transforms(bag.factory, static, first_ns), first_ns, latched=True)
    for stamp_ns, pose in moving:
        # All poses are logged first: a recording holds what is needed before the data that needs it.
        bag.write("/tf", encode_transforms(bag.factory, [pose], stamp_ns), first_ns)
    for stamp_ns, frame_id, path, matrix in sorted(cameras, key=lambda item: item[0]):
        _write_camera(bag, stamp_ns, frame_id, path, matrix)
    _write_lidar(bag, source / frame["lidar_points"]["lidar_path"], lidar_ns)
    truth = _ground_truth(frame["instances"], categories, lidar_ns)
    bag.write("/ground_truth/detections", encode_detections(bag.factory, truth), lidar_ns)


def _write_camera(bag: BagWriter, stamp_ns: int, frame_id: str, path: Path, matrix: Any) -> None:
    data = read_bytes(path)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{path}: no image")
    height, width = pixels.shape[:2]
    camera = CameraModel(width, height, np.array(matrix, np.float64), np.zeros(0), "", frame_id)
    bag.write(f"/{frame_id}/camera_info", encode_camera_info(bag.factory, camera, stamp_ns), stamp_ns)
    message = wrap_compressed(bag.factory, data, "jpeg", stamp_ns, frame_id)
    bag.write(f"/{frame_id}/image_raw/compressed", message, stamp_ns)


def _write_lidar(bag: BagWriter, path: Path, stamp_ns: int, frame_id: str = LIDAR) -> None:
    points = read_points(path, 5)
    cloud = PointCloud(
        np.ascontiguousarray(points[:, :3]),
        stamp_ns,
        frame_id,
        intensity=np.ascontiguousarray(points[:, 3]),
        ring=points[:, 4].astype(np.uint16),
    )
    bag.write(f"/{frame_id}/points", encode_point_cloud(bag.factory, cloud), stamp_ns)


def _ground_truth(instances: list[dict[str, Any]], categories: dict[int, str], stamp_ns: int) -> Detections3D:
    classes = tuple(categories[label] for label in sorted(categories))
    kept = [instance for instance in instances if instance["bbox_label_3d"] in categories]
    boxes = np.array([instance["bbox_3d"] for instance in kept], np.float32).reshape(-1, 7)
    order = sorted(categories)
    return Detections3D(
        centers=boxes[:, :3].copy(),
        sizes_lwh=boxes[:, 3:6].copy(),
        yaw_rad=boxes[:, 6].copy(),
        velocity=np.array([i["velocity"] for i in kept], np.float32).reshape(-1, 2),
        scores=np.ones(len(kept), np.float32),
        labels=np.array([order.index(i["bbox_label_3d"]) for i in kept], np.int32),
        classes=classes,
        frame_id=LIDAR,
        stamp_ns=stamp_ns,
    )


def _nanoseconds(seconds: float) -> int:
    # The recording counts microseconds; a double holds those of today's epochs exactly.
    return round(seconds * 1e6) * 1000


def _transform(dst: str, src: str, matrix: list[list[float]]) -> RigidTransform:
    m: NDArray[np.float64] = np.array(matrix, np.float64)
    return RigidTransform.from_matrix(dst, src, m)
