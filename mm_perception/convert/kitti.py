"""A KITTI drive (raw, odometry, or a short extract; see `datasets.kitti`) to a bag.

Stamps are those of the files; where there are none, frame i gets i / 10 s after a fixed start.

Topics: /cam_02/image_raw/compressed and /cam_02/camera_info (and those of the other cameras that are there),
/velodyne/points (with the fields label and instance where there are SemanticKITTI's), /tf_static (camera to LiDAR).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_columns,
    encode_transforms,
    wrap_compressed,
)
from mm_perception.datasets.files import read_bytes, read_image
from mm_perception.datasets.kitti import LIDAR, KittiDrive, open_kitti, read_point_labels, read_sweep
from mm_perception.geometry.camera import CameraModel

FULL_SCALE = np.float32(255)


def convert_kitti(source: Path, out: Path, overwrite: bool = False) -> int:
    """Writes the bag; returns the number of frames: images of the left colour camera, or sweeps where there are none.

    Raises:
        DataError: a file is missing, images and sweeps do not pair, or the calibration lacks a matrix.
        BagError: the bag exists or cannot be written.
    """
    drive = open_kitti(source)
    steps = [(ns, camera, path) for camera, frames in drive.images.items() for ns, path in frames]
    steps += [(ns, LIDAR, path) for ns, path in drive.sweeps]
    steps.sort(key=lambda step: (step[0], step[1]))
    with BagWriter(out, overwrite) as bag:
        transforms = [drive.camera_transform(camera) for camera in drive.images]
        # Each camera hangs below the LiDAR: a frame may have one parent only.
        if transforms:
            static = encode_transforms(bag.factory, [t.inverse() for t in transforms], steps[0][0])
            bag.write("/tf_static", static, steps[0][0], latched=True)
        for stamp_ns, sensor, path in steps:
            if sensor == LIDAR:
                bag.write("/velodyne/points", _sweep(bag, drive, path, stamp_ns), stamp_ns)
            else:
                _write_image(bag, drive, sensor, path, stamp_ns)
    return len(drive.images.get("cam_02") or next(iter(drive.images.values()), drive.sweeps))


def _write_image(bag: BagWriter, drive: KittiDrive, name: str, path: Path, stamp_ns: int) -> None:
    height, width = read_image(path).shape[:2]
    camera = CameraModel(width, height, drive.intrinsics(name), np.zeros(0), "", name)
    bag.write(f"/{name}/camera_info", encode_camera_info(bag.factory, camera, stamp_ns), stamp_ns)
    fmt = "png" if path.suffix.lower() == ".png" else "jpeg"
    message = wrap_compressed(bag.factory, read_bytes(path), fmt, stamp_ns, name)
    bag.write(f"/{name}/image_raw/compressed", message, stamp_ns)


def _sweep(bag: BagWriter, drive: KittiDrive, path: Path, stamp_ns: int) -> Any:
    points = read_sweep(path)
    columns: dict[str, tuple[str, Any]] = {axis: ("f4", points[:, i]) for i, axis in enumerate("xyz")}
    columns["intensity"] = ("f4", points[:, 3] * FULL_SCALE)
    if path.stem in drive.labels:
        label, instance = read_point_labels(drive.labels[path.stem], len(points))
        columns |= {"label": ("u2", label), "instance": ("u2", instance)}
    return encode_columns(bag.factory, columns, stamp_ns, LIDAR)
