"""One nuScenes key frame (mmdetection3d's info, version 1.1, as JSON, with the files beside it) to a bag.

H. Caesar et al., nuScenes: A multimodal dataset for autonomous driving, CVPR 2020. A whole data set in the tables'
own layout is not read.

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
from mm_perception.convert.files import read_bytes, read_json, read_points
from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D, PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

BASE, MAP, LIDAR = "base_link", "map", "lidar_top"


def convert_nuscenes(source: Path, out: Path, overwrite: bool = False) -> int:
    """Writes the bag; returns the number of reference frames (images of CAM_FRONT).

    Raises:
        DataError: a file is missing or not as expected.
        BagError: the bag exists or cannot be written.
    """
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


def _write_camera(bag: BagWriter, stamp_ns: int, frame_id: str, path: Path, matrix: list[list[float]]) -> None:
    data = read_bytes(path)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{path}: no image")
    height, width = pixels.shape[:2]
    camera = CameraModel(width, height, np.array(matrix, np.float64), np.zeros(0), "", frame_id)
    bag.write(f"/{frame_id}/camera_info", encode_camera_info(bag.factory, camera, stamp_ns), stamp_ns)
    message = wrap_compressed(bag.factory, data, "jpeg", stamp_ns, frame_id)
    bag.write(f"/{frame_id}/image_raw/compressed", message, stamp_ns)


def _write_lidar(bag: BagWriter, path: Path, stamp_ns: int) -> None:
    points = read_points(path, 5)
    cloud = PointCloud(
        np.ascontiguousarray(points[:, :3]),
        stamp_ns,
        LIDAR,
        intensity=np.ascontiguousarray(points[:, 3]),
        ring=points[:, 4].astype(np.uint16),
    )
    bag.write("/lidar_top/points", encode_point_cloud(bag.factory, cloud), stamp_ns)


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
