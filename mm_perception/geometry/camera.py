"""The pinhole camera with lens distortion, as sensor_msgs/CameraInfo describes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError

_MODELS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "equidistant": (4,), "": (0,)}


@dataclass(frozen=True, slots=True, eq=False)
class CameraModel:
    """Intrinsics of one camera.

    Attributes:
        width, height: image size [px].
        intrinsics: (3, 3) float64 camera matrix K [px]; pixel centres lie at integer coordinates.
        distortion: (D,) float64 coefficients of `distortion_model`.
        distortion_model: plumb_bob, rational_polynomial, equidistant, or empty for none.
        frame_id: optical frame (x right, y down, z forward).
    """

    width: int
    height: int
    intrinsics: NDArray[np.float64]
    distortion: NDArray[np.float64]
    distortion_model: str
    frame_id: str

    def __post_init__(self) -> None:
        what = f"camera {self.frame_id!r}"
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(f"{what}: expected a positive size, got {self.width}x{self.height}")
        k = self.intrinsics
        if k.shape != (3, 3) or not np.isfinite(k).all():
            raise CalibrationError(f"{what}: expected a finite 3x3 camera matrix, got {k.tolist()}")
        if k[0, 0] <= 0 or k[1, 1] <= 0 or not np.array_equal(k[2], (0, 0, 1)) or k[1, 0] != 0:
            raise CalibrationError(f"{what}: the camera matrix is uncalibrated or singular: {k.tolist()}")
        if self.distortion_model not in _MODELS:
            raise CalibrationError(
                f"{what}: distortion model {self.distortion_model!r} is not one of {', '.join(filter(None, _MODELS))}"
            )
        if len(self.distortion) not in _MODELS[self.distortion_model]:
            raise CalibrationError(f"{what}: {len(self.distortion)} coefficients do not fit {self.distortion_model!r}")
        if not np.isfinite(self.distortion).all():
            raise CalibrationError(f"{what}: the distortion coefficients are not finite")

    @property
    def has_distortion(self) -> bool:
        return bool(np.any(self.distortion != 0))

    def equals(self, other: CameraModel) -> bool:
        """Whether both describe the same camera to the bit."""
        own = (self.width, self.height, self.distortion_model, self.frame_id)
        return (
            own == (other.width, other.height, other.distortion_model, other.frame_id)
            and np.array_equal(self.intrinsics, other.intrinsics)
            and np.array_equal(self.distortion, other.distortion)
        )

    def resized(self, width: int, height: int) -> CameraModel:
        """The model of the same view on another pixel grid.

        Pixel centres are integers, so u' = (u + 0.5) s - 0.5 (as cv2.resize maps them).
        """
        scale = np.diag([width / self.width, height / self.height, 1.0])
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        k = np.linalg.inv(shift) @ scale @ shift @ self.intrinsics
        k[2] = (0, 0, 1)
        return replace(self, width=width, height=height, intrinsics=k)

    def cropped(self, left: int, top: int, width: int, height: int) -> CameraModel:
        """The model of a window of the image; negative `left`, `top` add a border."""
        k = self.intrinsics.copy()
        k[0, 2] -= left
        k[1, 2] -= top
        return replace(self, width=width, height=height, intrinsics=k)

    def project(self, points: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Projects points of the optical frame.

        Args:
            points: (N, 3) [m]; N may be 0.

        Returns:
            Pixel coordinates (N, 2) as (u, v), NaN where the point is not in front of the camera, and depths
            (N,) along the optical axis [m]. Points may fall outside of the image.
        """
        p = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        depth = p[:, 2]
        pixels = np.full((len(p), 2), np.nan)
        front = depth > 1e-6
        if self.has_distortion:
            front &= self._inside_monotone_range(p, front)
        if front.any():
            pixels[front] = self._project_front(p[front])
        return pixels, depth

    def _project_front(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.has_distortion:
            k = self.intrinsics
            x, y = p[:, 0] / p[:, 2], p[:, 1] / p[:, 2]
            return np.stack([k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2]], axis=1)
        zero = np.zeros(3)
        if self.distortion_model == "equidistant":
            uv = cv2.fisheye.projectPoints(p[:, None], zero, zero, self.intrinsics, self.distortion)[0]
        else:
            uv = cv2.projectPoints(p[:, None], zero, zero, self.intrinsics, self.distortion)[0]
        return np.asarray(uv, dtype=np.float64).reshape(-1, 2)

    def _inside_monotone_range(self, p: NDArray[np.float64], front: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """False where a polynomial lens model would fold points from far outside back into the image.

        The radial polynomial is only valid up to the radius at which its slope turns negative.
        """
        if self.distortion_model == "equidistant":
            return front
        radius = np.full(len(p), np.inf)
        radius[front] = np.hypot(p[front, 0], p[front, 1]) / p[front, 2]
        return front & (radius <= self._largest_monotone_radius())

    def _largest_monotone_radius(self) -> float:
        d = np.zeros(8)
        d[: len(self.distortion)] = self.distortion
        r = np.linspace(0.0, 10.0, 2001)
        r2 = r * r
        denominator = 1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7]))
        bent = r * (1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))) / denominator
        falls = np.nonzero(np.diff(bent) <= 0)[0]
        return float(r[falls[0]]) if len(falls) else float("inf")
