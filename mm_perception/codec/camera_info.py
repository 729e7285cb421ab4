"""sensor_msgs/CameraInfo to a camera model."""

from __future__ import annotations

from typing import Any

import numpy as np

from mm_perception.codec.fields import decode_frame
from mm_perception.codec.guard import refusing
from mm_perception.core.errors import CalibrationError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.geometry.camera import CameraModel


@refusing("CameraInfo", CalibrationError)
def decode_camera_info(msg: Any, max_pixels: int = MAX_PIXELS) -> CameraModel:
    """The camera model of the raw image that the message describes.

    Args:
        max_pixels: the largest image that is believed; the sensor's limit in the rig.

    Raises:
        CalibrationError: larger than allowed, uncalibrated (K is zero), singular, unknown distortion model, or
            binning or a region of interest, which the model does not hold.
    """
    frame_id = decode_frame(msg.header)
    if int(msg.binning_x) > 1 or int(msg.binning_y) > 1:
        raise CalibrationError(f"camera {frame_id!r}: binning {msg.binning_x}x{msg.binning_y} is not supported")
    roi = msg.roi
    if int(roi.width) not in (0, int(msg.width)) or int(roi.height) not in (0, int(msg.height)):
        raise CalibrationError(f"camera {frame_id!r}: a region of interest is not supported")
    if int(msg.width) * int(msg.height) > max_pixels:
        raise CalibrationError(
            f"camera {frame_id!r}: {msg.width}x{msg.height} pixels, expected at most {max_pixels} in all "
            "(max_pixels of the sensor in the rig)"
        )
    if len(msg.k) != 9:
        raise CalibrationError(f"camera {frame_id!r}: expected a camera matrix of 9 numbers, got {len(msg.k)}")
    intrinsics = np.asarray(msg.k, dtype=np.float64).reshape(3, 3)
    distortion = np.asarray(msg.d, dtype=np.float64).reshape(-1)
    model = str(msg.distortion_model) if len(distortion) else ""
    return CameraModel(int(msg.width), int(msg.height), intrinsics, distortion, model, frame_id)
