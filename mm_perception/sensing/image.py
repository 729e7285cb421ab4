"""Fitting images to the model's input size, with the camera model alike, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.geometry.camera import CameraModel, Optics, camera_of
from mm_perception.geometry.transforms import RigidTransform

ResizeMode = Literal["stretch", "letterbox"]
GREY_LEVELS = 255.0
"""Full scale of uint8 images."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image of one size lies in the model's input.

    Attributes:
        src_width, src_height: the image [px].
        dst_width, dst_height: the model's input [px].
        left, top, width, height: the part of the input that the resized image fills; the rest is border.
    """

    src_width: int
    src_height: int
    dst_width: int
    dst_height: int
    left: int
    top: int
    width: int
    height: int

    @classmethod
    def fit(cls, src_width: int, src_height: int, dst_width: int, dst_height: int, mode: ResizeMode) -> Placement:
        """`stretch` fills the input; `letterbox` keeps the aspect ratio and centres the image.

        Raises:
            DataError: a size is not positive.
        """
        if min(src_width, src_height, dst_width, dst_height) <= 0:
            raise DataError(f"cannot fit {src_width}x{src_height} into {dst_width}x{dst_height}")
        if mode == "stretch":
            return cls(src_width, src_height, dst_width, dst_height, 0, 0, dst_width, dst_height)
        scale = min(dst_width / src_width, dst_height / src_height)
        width = min(dst_width, max(1, round(src_width * scale)))
        height = min(dst_height, max(1, round(src_height * scale)))
        left, top = (dst_width - width) // 2, (dst_height - height) // 2
        return cls(src_width, src_height, dst_width, dst_height, left, top, width, height)

    def resize(self, image: NDArray[Any], *, nearest: bool = False, border: float = 0.0) -> NDArray[Any]:
        """Resizes an image of the same view into the input.

        Args:
            image: (H, W) or (H, W, C) of any size: another sensor with the same view may have more or fewer
                pixels.
            nearest: take the nearest pixel instead of mixing (depth, class ids).
            border: value around a letterboxed image.
        """
        method = cv2.INTER_NEAREST_EXACT if nearest else self.interpolation(image.shape[1])
        inner = image
        if image.shape[:2] != (self.height, self.width):
            inner = cv2.resize(image, (self.width, self.height), interpolation=method)
        if (self.width, self.height) == (self.dst_width, self.dst_height):
            return inner
        outer = np.full((self.dst_height, self.dst_width, *image.shape[2:]), border, image.dtype)
        outer[self.top : self.top + self.height, self.left : self.left + self.width] = inner
        return outer

    def interpolation(self, width: int) -> int:
        """OpenCV's method by which images of a width [px] are mixed: means where they shrink, else between pixels."""
        return cv2.INTER_AREA if width > self.width else cv2.INTER_LINEAR

    def restore(self, class_ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(dst_height, dst_width) class ids back to the image's size; the border is cut off."""
        inner = class_ids[self.top : self.top + self.height, self.left : self.left + self.width]
        if inner.shape == (self.src_height, self.src_width):
            return np.ascontiguousarray(inner)
        size = (self.src_width, self.src_height)
        return np.asarray(cv2.resize(inner, size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)

    def camera(self, camera: CameraModel) -> CameraModel:
        """The camera model of the input.

        Raises:
            CalibrationError: the camera model is of another image size.
        """
        if (camera.width, camera.height) != (self.src_width, self.src_height):
            raise CalibrationError(
                f"camera {camera.frame_id!r} is calibrated for {camera.width}x{camera.height}, "
                f"its image has {self.src_width}x{self.src_height}"
            )
        inner = camera.resized(self.width, self.height)
        return inner.cropped(-self.left, -self.top, self.dst_width, self.dst_height)


def to_tensor(
    image: NDArray[Any],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool = False,
) -> NDArray[np.float32]:
    """(H, W, 3) uint8 (0..255) or float32 (0..1) to a normalised (1, 3, H, W) float32 tensor.

    Args:
        mean, std: applied to the channels in the order in which they leave: position 0 belongs to the first
            channel of the tensor.
        reverse_channels: for weights that expect blue, green, red.
    """
    if reverse_channels:
        image = image[..., ::-1]
    scale, shift = scale_and_shift(mean, std, GREY_LEVELS if image.dtype == np.uint8 else 1.0)
    tensor = np.empty((1, 3, *image.shape[:2]), np.float32)
    for channel in range(3):
        np.multiply(image[..., channel], scale[channel], out=tensor[0, channel], casting="unsafe")
        tensor[0, channel] -= shift[channel]
    return tensor


def scale_and_shift(
    mean: tuple[float, float, float], std: tuple[float, float, float], full_scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(3,) float32 each: values of 0..full_scale times the first minus the second are normalised."""
    deviation = np.asarray(std, np.float32)
    scale = np.float32(1.0) / (deviation * np.float32(full_scale))
    return np.asarray(scale, np.float32), np.asarray(np.asarray(mean, np.float32) / deviation, np.float32)


def warp_by_rotation(
    image: NDArray[Any], camera: CameraModel, target: CameraModel, target_from_camera: RigidTransform
) -> NDArray[np.float32]:
    """Brings an image onto another camera's pixel grid as if everything were far away.

    Without distortion by the homography K_target R K_camera^-1, else by the direction of each pixel of the target, once
    for a pair of cameras and a rotation. The baseline b is ignored: a point at depth z lands about f b / z pixels off.

    Returns:
        (target.height, target.width) or (..., C) float32, 0 outside of the source.
    """
    pixels, rotation = image.astype(np.float32), target_from_camera.rotation
    if camera.has_distortion or target.has_distortion:
        maps = _warp_maps(camera.optics, target.optics, rotation.tobytes())
        return np.asarray(cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.float32)
    homography = target.intrinsics @ rotation @ np.linalg.inv(camera.intrinsics)
    return np.asarray(cv2.warpPerspective(pixels, homography, (target.width, target.height)), np.float32)


_OUTSIDE = -1e4


@lru_cache(maxsize=8)
def _warp_maps(camera: Optics, target: Optics, rotation: bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in the camera's image each pixel of the target lies: (H, W) columns and rows."""
    rays = camera_of(target).rays().reshape(-1, 2).astype(np.float64)
    directions = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    turned = directions @ np.frombuffer(rotation).reshape(3, 3)
    pixels, _ = camera_of(camera).project(np.nan_to_num(turned, nan=-1.0))
    maps = np.nan_to_num(pixels, nan=_OUTSIDE).astype(np.float32).reshape(target[1], target[0], 2)
    return np.ascontiguousarray(maps[..., 0]), np.ascontiguousarray(maps[..., 1])
