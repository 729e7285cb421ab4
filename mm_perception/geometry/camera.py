"""The pinhole camera with lens distortion, as sensor_msgs/CameraInfo describes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError

_MODELS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "": (0,)}
Optics = tuple[int, int, str, bytes, bytes]
_ROUND_TRIP_PX = 0.05
_RAYS_KEPT = 8
_ITERATIONS = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-10)
_NO_TURN, _UNIT = np.zeros(3), np.eye(3)


@dataclass(frozen=True, slots=True, eq=False)
class CameraModel:
    """Intrinsics of one camera.

    Attributes:
        width, height: image size [px].
        intrinsics: (3, 3) float64 camera matrix K [px]; pixel centres lie at integer coordinates.
        distortion: (D,) float64 coefficients of `distortion_model`, in OpenCV's order; 12 of rational_polynomial are
            with thin prisms, 14 with a tilted sensor, too.
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
        return self.optics == other.optics and self.frame_id == other.frame_id

    @property
    def optics(self) -> Optics:
        """Everything but the frame, to know a camera by that says the same again."""
        numbers = self.intrinsics.tobytes(), self.distortion.tobytes()
        return self.width, self.height, self.distortion_model, *numbers

    def rays(self) -> NDArray[np.float32]:
        """Where each pixel looks: (H, W, 2) float32 x / z and y / z, NaN where no direction falls on the pixel.

        Computed once for a camera, and not to be written to.
        """
        return _rays(self.optics)

    def rays_through(self, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) x / z and y / z of the directions that `project` takes to pixels (N, 2); NaN where there is none."""
        bent = self._off_the_grid(np.asarray(pixels, np.float64).reshape(-1, 2))
        if not self.has_distortion or not len(bent):
            return bent
        if self.distortion_model == "equidistant":
            straight = cv2.fisheye.undistortPoints(bent[:, None], _UNIT, self.distortion, criteria=_ITERATIONS)
        else:
            # Until OpenCV 5 the way with a limit on its iterations had a name of its own.
            lens: Any = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
            straight = lens(bent[:, None], _UNIT, self.distortion, R=_UNIT, P=_UNIT, criteria=_ITERATIONS)
        found = np.asarray(straight, np.float64).reshape(-1, 2)
        # The search ends somewhere for pixels that no direction falls on, too.
        again, _ = self.project(np.concatenate([found, np.ones((len(found), 1))], axis=1))
        with np.errstate(invalid="ignore"):
            found[~(np.abs(again - pixels).max(axis=1) <= _ROUND_TRIP_PX)] = np.nan
        return found

    def _off_the_grid(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """K^-1 of pixels, as (x, y) at a distance of 1."""
        k = self.intrinsics
        y = (pixels[:, 1] - k[1, 2]) / k[1, 1]
        return np.stack([(pixels[:, 0] - k[0, 2] - k[0, 1] * y) / k[0, 0], y], axis=1)

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
        x, y = p[:, 0] / p[:, 2], p[:, 1] / p[:, 2]
        if self.has_distortion:
            # By a camera matrix of 1: OpenCV knows no skew.
            lens = cv2.fisheye.projectPoints if self.distortion_model == "equidistant" else cv2.projectPoints
            bent = lens(p[:, None], _NO_TURN, _NO_TURN, _UNIT, self.distortion)[0]
            x, y = np.asarray(bent, dtype=np.float64).reshape(-1, 2).T
        k = self.intrinsics
        return np.stack([k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2]], axis=1)

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
        d = np.zeros(8)  # prisms and tilt are small, and not radial
        d[: min(8, len(self.distortion))] = self.distortion[:8]
        r = np.linspace(0.0, 10.0, 2001)
        r2 = r * r
        denominator = 1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7]))
        bent = r * (1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))) / denominator
        falls = np.nonzero(np.diff(bent) <= 0)[0]
        return float(r[falls[0]]) if len(falls) else float("inf")


def camera_of(optics: Optics) -> CameraModel:
    """The camera that `CameraModel.optics` stands for, without a frame."""
    width, height, model, k, distortion = optics
    return CameraModel(width, height, np.frombuffer(k).reshape(3, 3), np.frombuffer(distortion), model, "")


@lru_cache(maxsize=_RAYS_KEPT)
def _rays(optics: Optics) -> NDArray[np.float32]:
    width, height = optics[:2]
    v, u = np.mgrid[0:height, 0:width]
    rays = camera_of(optics).rays_through(np.stack([u.reshape(-1), v.reshape(-1)], axis=1)).astype(np.float32)
    rays = rays.reshape(height, width, 2)
    rays.setflags(write=False)
    return rays
