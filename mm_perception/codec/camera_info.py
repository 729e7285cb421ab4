"""sensor_msgs/CameraInfo to a camera model."""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_perception.core.errors import CalibrationError
from mm_perception.geometry.camera import CameraModel


def decode_camera_info(msg: Any) -> CameraModel:
    """The camera model of the raw image that the message describes.

    Raises:
        CalibrationError: uncalibrated (K is zero), singular, unknown distortion model, or binning or a region
            of interest, which the model does not hold.
    """
    frame_id = str(msg.header.frame_id)
    if int(msg.binning_x) > 1 or int(msg.binning_y) > 1:
        raise CalibrationError(f"camera {frame_id!r}: binning {msg.binning_x}x{msg.binning_y} is not supported")
    roi = msg.roi
    if int(roi.width) not in (0, int(msg.width)) or int(roi.height) not in (0, int(msg.height)):
        raise CalibrationError(f"camera {frame_id!r}: a region of interest is not supported")
    intrinsics = np.asarray(msg.k, dtype=np.float64).reshape(3, 3)
    distortion = np.asarray(msg.d, dtype=np.float64).reshape(-1)
    model = str(msg.distortion_model) if len(distortion) else ""
    return CameraModel(int(msg.width), int(msg.height), intrinsics, distortion, model, frame_id)
