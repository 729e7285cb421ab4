"""A KITTI raw sequence (image_02/, velodyne_points/, calib.txt) to a bag.

A. Geiger, P. Lenz, C. Stiller, R. Urtasun, Vision meets Robotics: The KITTI Dataset, IJRR 2013. The files hold no
stamps: frame i gets i / 10 s after a fixed start.

Topics: /cam_02/image_raw/compressed and /cam_02/camera_info, /velodyne/points, /tf_static (camera to LiDAR).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_camera_info, encode_point_cloud, encode_transforms, wrap_compressed
from mm_perception.convert.files import FIRST_NS, read_bytes, read_image, read_points, require_folder
from mm_perception.core.errors import DataError
from mm_perception.core.types import PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform

PERIOD_NS = 100_000_000
CAMERA, LIDAR = "cam_02", "velodyne"


def convert_kitti(source: Path, out: Path, overwrite: bool = False) -> int:
    """Writes the bag; returns the number of frames.

    Raises:
        DataError: a file is missing, images and sweeps do not pair, or the calibration lacks a matrix.
        BagError: the bag exists or cannot be written.
    """
    require_folder(source, "image_02", "velodyne_points", "calib.txt")
    images = {p.stem: p for p in sorted((source / "image_02").glob("*.png"))}
    sweeps = {p.stem: p for p in sorted((source / "velodyne_points").glob("*.bin"))}
    single = sorted(set(images) ^ set(sweeps))
    if single or not images:
        raise DataError(f"{source}: image and sweep do not pair for {', '.join(single[:5]) or 'any frame'}")
    calibration = _read_calibration(source / "calib.txt")
    camera_from_lidar = _camera_from_lidar(calibration)
    with BagWriter(out, overwrite) as bag:
        message = encode_transforms(bag.factory, [camera_from_lidar], FIRST_NS)
        bag.write("/tf_static", message, FIRST_NS, latched=True)
        for name, image in images.items():
            stamp_ns = FIRST_NS + int(name) * PERIOD_NS
            height, width = read_image(image).shape[:2]
            intrinsics = calibration["P2"][:, :3].copy()
            intrinsics[2] = (0, 0, 1)
            camera = CameraModel(width, height, intrinsics, np.zeros(0), "", CAMERA)
            bag.write("/cam_02/camera_info", encode_camera_info(bag.factory, camera, stamp_ns), stamp_ns)
            picture = wrap_compressed(bag.factory, read_bytes(image), "png", stamp_ns, CAMERA)
            bag.write("/cam_02/image_raw/compressed", picture, stamp_ns)
            points = read_points(sweeps[name], 4)
            xyz, reflectance = np.ascontiguousarray(points[:, :3]), points[:, 3] * np.float32(255)
            cloud = PointCloud(xyz, stamp_ns, LIDAR, intensity=reflectance)
            bag.write("/velodyne/points", encode_point_cloud(bag.factory, cloud), stamp_ns)
    return len(images)


def _read_calibration(path: Path) -> dict[str, NDArray[np.float64]]:
    shapes = {"P2": (3, 4), "R0_rect": (3, 3), "Tr_velo_to_cam": (3, 4)}
    matrices = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, numbers = line.partition(":")
        if name in shapes:
            try:
                matrices[name] = np.array(numbers.split(), np.float64).reshape(shapes[name])
            except ValueError as error:
                raise DataError(f"{path}: {name} is no {shapes[name]} matrix") from error
    missing = sorted(set(shapes) - set(matrices))
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}")
    return matrices


def _camera_from_lidar(calibration: dict[str, NDArray[np.float64]]) -> RigidTransform:
    """P2 R0_rect Tr_velo_to_cam, with P2's last column taken as the baseline K b to camera 0."""
    rectify = RigidTransform("cam_00", "cam_raw", _orthonormal(calibration["R0_rect"]), np.zeros(3))
    velo = calibration["Tr_velo_to_cam"]
    raw_from_lidar = RigidTransform("cam_raw", LIDAR, _orthonormal(velo[:, :3]), velo[:, 3])
    p2 = calibration["P2"]
    baseline = np.linalg.inv(p2[:, :3]) @ p2[:, 3]
    return RigidTransform(CAMERA, "cam_00", np.eye(3), baseline) @ rectify @ raw_from_lidar


def _orthonormal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rotation: the file has seven digits."""
    u, _, vt = np.linalg.svd(matrix)
    return np.asarray(u @ vt)
