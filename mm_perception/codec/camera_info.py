"""sensor_msgs/CameraInfo, in the dialects of drivers, to a camera model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame
from mm_perception.codec.guard import refusing
from mm_perception.core.errors import CalibrationError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.geometry.camera import CameraModel

_BROWN = (
    "plumb_bob",
    "rational_polynomial",
    "radtan",
    "radial_tangential",
    "brown",
    "brown_conrady",
    "opencv",
    "rational",
    "thin_prism",
)
_FISHEYE = ("equidistant", "fisheye", "kannala_brandt", "kannala_brandt4", "kb4", "equi", "opencv_fisheye")
_NONE = ("none", "null", "pinhole", "perfect", "ideal", "rectilinear", "undistorted")
_OTHERS = {
    "omnidirectional": "the unified model", "omni": "the unified model", "mei": "the unified model",
    "unified": "the unified model", "double_sphere": "the double sphere model", "ds": "the double sphere model",
    "fov": "the FOV model", "atan": "the FOV model", "eucm": "the enhanced unified model",
    "inverse_brown_conrady": "the inverse of Brown's model", "ftheta": "the f-theta model",
}  # fmt: skip
_BROWN_COUNTS = (4, 5, 8, 12, 14)
_FISHEYE_COUNT = 4


@refusing("CameraInfo", CalibrationError)
def decode_camera_info(msg: Any, max_pixels: int = MAX_PIXELS, rectified: bool = False) -> CameraModel:
    """The camera model of the images that are sent with the message.

    Region of interest and binning are applied as image_geometry does it: first the offset, then the division.

    Args:
        max_pixels: the largest image that is believed; the sensor's limit in the rig.
        rectified: the images are rectified: the left part of P holds for them, and no distortion.

    Raises:
        CalibrationError: larger than allowed, uncalibrated (K is zero), singular, or a distortion that cannot be had.
    """
    frame_id = decode_frame(msg.header)
    width, height = int(msg.width), int(msg.height)
    if width * height > max_pixels:
        raise CalibrationError(
            f"camera {frame_id!r}: {width}x{height} pixels, expected at most {max_pixels} in all "
            "(max_pixels of the sensor in the rig)"
        )
    intrinsics = _matrix(msg.p if rectified else msg.k, "projection" if rectified else "camera", frame_id)
    if not intrinsics.any():
        raise CalibrationError(
            f"camera {frame_id!r} is uncalibrated ({'P' if rectified else 'K'} is zero): calibrate it "
            "(camera_calibration), and give the file to its driver"
        )
    model, distortion = ("", np.zeros(0))
    if not rectified:
        model, distortion = lens_of(str(msg.distortion_model), np.asarray(msg.d, np.float64).reshape(-1), frame_id)
    camera = CameraModel(width, height, intrinsics, distortion, model, frame_id)
    return _binned(_window(camera, msg.roi), int(msg.binning_x), int(msg.binning_y))


def _matrix(values: Any, what: str, frame_id: str) -> NDArray[np.float64]:
    """(3, 3) of K (9 numbers) or the left part of P (12)."""
    count = 12 if what == "projection" else 9
    if len(values) != count:
        raise CalibrationError(f"camera {frame_id!r}: expected a {what} matrix of {count} numbers, got {len(values)}")
    return np.array(values, dtype=np.float64).reshape(3, -1)[:, :3]


def lens_of(name: str, coefficients: NDArray[np.float64], frame_id: str = "") -> tuple[str, NDArray[np.float64]]:
    """Model and coefficients as `CameraModel` has them, of what a driver or a calibration tool wrote.

    OpenCV's order is meant: (k1 k2 p1 p2 k3 | k4 k5 k6 | s1 s2 s3 s4 | tx ty) of Brown's model and of those that extend
    it, however many there are, and (k1 k2 k3 k4) of the fisheye. All zeros mean none, whatever the name.

    Raises:
        CalibrationError: not finite, a model that is not known, or more coefficients than it has.
    """
    what, plain = f"camera {frame_id!r}", name.strip(" \0").lower().replace("-", "_").replace(" ", "_")
    if not np.isfinite(coefficients).all():
        raise CalibrationError(f"{what}: the distortion coefficients are not finite: {coefficients.tolist()}")
    used = np.trim_zeros(coefficients, "b")
    if not len(used):
        return "", np.zeros(0)
    if plain in _FISHEYE:
        if len(used) > _FISHEYE_COUNT:
            raise CalibrationError(f"{what}: expected at most {_FISHEYE_COUNT} coefficients of {name}, got {len(used)}")
        return "equidistant", np.pad(used, (0, _FISHEYE_COUNT - len(used)))
    if plain and plain not in _BROWN:
        if plain in _NONE:
            raise CalibrationError(
                f"{what}: distortion_model {name!r} with coefficients {used.tolist()}: name their model, such as "
                "plumb_bob, or leave them out"
            )
        model = f" ({_OTHERS[plain]})" if plain in _OTHERS else ""
        raise CalibrationError(
            f"{what}: distortion model {name!r}{model} is not supported: expected plumb_bob, rational_polynomial or "
            "equidistant; calibrate with one of these, or send rectified images and set rectified: true in the rig"
        )
    size = next((count for count in _BROWN_COUNTS if len(used) <= count), None)
    if size is None:
        raise CalibrationError(
            f"{what}: expected at most {_BROWN_COUNTS[-1]} coefficients of {name!r}, got {len(used)}"
        )
    return "plumb_bob" if size <= 5 else "rational_polynomial", np.pad(used, (0, size - len(used)))


def _window(camera: CameraModel, roi: Any) -> CameraModel:
    """A region of no width or height means the whole image."""
    left, top, width, height = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
    if not (width and height):
        return camera
    if left + width > camera.width or top + height > camera.height:
        raise CalibrationError(
            f"camera {camera.frame_id!r}: region of interest of {width}x{height} at ({left}, {top}) goes beyond "
            f"{camera.width}x{camera.height}"
        )
    return camera.cropped(left, top, width, height)


def _binned(camera: CameraModel, by_x: int, by_y: int) -> CameraModel:
    by_x, by_y = max(1, by_x), max(1, by_y)  # 0 means 1, says the message's definition
    if (by_x, by_y) == (1, 1):
        return camera
    if by_x > camera.width or by_y > camera.height:
        raise CalibrationError(
            f"camera {camera.frame_id!r}: binning {by_x}x{by_y} of {camera.width}x{camera.height} leaves nothing"
        )
    intrinsics = camera.intrinsics / np.array([[by_x], [by_y], [1.0]])
    return CameraModel(
        camera.width // by_x, camera.height // by_y, intrinsics, camera.distortion, camera.distortion_model,
        camera.frame_id,
    )  # fmt: skip
