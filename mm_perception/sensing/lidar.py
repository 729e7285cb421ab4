"""LiDAR to an X image in the camera's plane."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError
from mm_perception.core.types import PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sensing.depth import splat_nearest

MAX_RANGE_M = 80.0
HEIGHT_RANGE_M = (-3.0, 5.0)
"""Along the LiDAR's z axis: from below the road of a roof-mounted sensor to the tops of trucks and signs."""


def lidar_image(
    cloud: PointCloud, camera: CameraModel, camera_from_lidar: RigidTransform, dilate_px: int = 1
) -> NDArray[np.float32]:
    """Projects a sweep into the image; in each pixel the nearest point wins.

    Args:
        camera: of the wanted pixel grid.
        dilate_px: each point also fills the pixels this near, so that sparse sweeps survive convolution
            strides; nearer points still win.

    Returns:
        (camera.height, camera.width, 3) float32 in 0..1: range [m] over 80, height along the LiDAR's z axis
        from -3 to 5 m, intensity over 255; 0 in all channels where no point is.

    Raises:
        CalibrationError: the transform is not from the cloud's frame to the camera's.
    """
    if camera_from_lidar.src != cloud.frame_id or camera_from_lidar.dst != camera.frame_id:
        raise CalibrationError(
            f"transform {camera_from_lidar.dst} <- {camera_from_lidar.src} does not bring cloud "
            f"{cloud.frame_id} to camera {camera.frame_id}"
        )
    image = np.zeros((camera.height * camera.width, 3), np.float32)
    pixels, depth = camera.project(camera_from_lidar.apply(cloud.xyz))
    index = _splat_dilated(pixels, depth, camera.width, camera.height, dilate_px)
    hit = index >= 0
    image[hit] = _point_features(cloud)[index[hit]]
    return image.reshape(camera.height, camera.width, 3)


def _point_features(cloud: PointCloud) -> NDArray[np.float32]:
    low, high = HEIGHT_RANGE_M
    features = np.zeros((len(cloud), 3), np.float32)
    features[:, 0] = np.linalg.norm(cloud.xyz, axis=1) / MAX_RANGE_M
    features[:, 1] = (cloud.xyz[:, 2] - low) / (high - low)
    if cloud.intensity is not None:
        features[:, 2] = cloud.intensity / 255.0
    return np.clip(features, 0.0, 1.0, out=features)


def _splat_dilated(
    pixels: NDArray[np.float64], depth_m: NDArray[np.float64], width: int, height: int, radius: int
) -> NDArray[np.int64]:
    index = splat_nearest(pixels, depth_m, width, height)
    if radius == 0 or len(depth_m) == 0:
        return index
    # The nearest of the neighbours is the one of least rank, and a minimum filter finds that for all pixels at once.
    order = np.argsort(depth_m, kind="stable")
    rank = np.empty(len(order) + 1, np.float32)  # ranks of millions of points are whole numbers in float32
    rank[order] = np.arange(len(order), dtype=np.float32)
    rank[-1] = len(order)  # where index is -1
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    least = np.asarray(cv2.erode(rank[index].reshape(height, width), kernel)).reshape(-1)
    hit = least < len(order)
    index = np.full(height * width, -1, np.int64)
    index[hit] = order[least[hit].astype(np.int64)]
    return index
