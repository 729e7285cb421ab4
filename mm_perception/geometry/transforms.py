"""Rigid transforms between named frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import CalibrationError


@dataclass(frozen=True, slots=True, eq=False)
class RigidTransform:
    """Maps coordinates in frame `src` to coordinates in frame `dst`: p_dst = R p_src + t.

    Attributes:
        dst, src: frame names.
        rotation: (3, 3) float64, orthonormal with determinant 1.
        translation: (3,) float64 [m].
    """

    dst: str
    src: str
    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.rotation.shape != (3, 3) or self.translation.shape != (3,):
            raise CalibrationError(
                f"transform {self.dst} <- {self.src}: expected a 3x3 rotation and 3 translations, "
                f"got {self.rotation.shape} and {self.translation.shape}"
            )
        finite = np.isfinite(self.rotation).all() and np.isfinite(self.translation).all()
        if not finite or not np.allclose(self.rotation @ self.rotation.T, np.eye(3), atol=1e-5):
            raise CalibrationError(f"transform {self.dst} <- {self.src}: the rotation is not orthonormal")
        if np.linalg.det(self.rotation) < 0:
            raise CalibrationError(f"transform {self.dst} <- {self.src}: the rotation mirrors")

    @classmethod
    def identity(cls, frame: str) -> RigidTransform:
        return cls(frame, frame, np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, dst: str, src: str, matrix: NDArray[np.floating]) -> RigidTransform:
        """From a homogeneous (4, 4) matrix."""
        m = np.asarray(matrix, dtype=np.float64)
        if m.shape != (4, 4):
            raise CalibrationError(f"transform {dst} <- {src}: expected a 4x4 matrix, got {m.shape}")
        return cls(dst, src, m[:3, :3].copy(), m[:3, 3].copy())

    @classmethod
    def from_quaternion(
        cls, dst: str, src: str, quat_xyzw: NDArray[np.floating], translation: NDArray[np.floating]
    ) -> RigidTransform:
        """From a quaternion (x, y, z, w), normalised here.

        Raises:
            CalibrationError: the quaternion is zero or not finite.
        """
        rotation = rotation_from_quat(np.asarray(quat_xyzw, dtype=np.float64), f"{dst} <- {src}")
        return cls(dst, src, rotation, np.asarray(translation, dtype=np.float64))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The homogeneous (4, 4) form."""
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = self.rotation, self.translation
        return m

    @property
    def quat_xyzw(self) -> NDArray[np.float64]:
        return quat_from_rotation(self.rotation)

    def inverse(self) -> RigidTransform:
        return RigidTransform(self.src, self.dst, self.rotation.T.copy(), -self.rotation.T @ self.translation)

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """`a_from_b @ b_from_c` is `a_from_c`.

        Raises:
            CalibrationError: the inner frames differ.
        """
        if self.src != other.dst:
            raise CalibrationError(
                f"cannot chain {self.dst} <- {self.src} with {other.dst} <- {other.src}: inner frames differ"
            )
        rotation = self.rotation @ other.rotation
        return RigidTransform(self.dst, other.src, rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """Maps (N, 3) points from `src` to `dst`; N may be 0. Returns (N, 3) float32."""
        mapped = np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation
        return np.asarray(mapped, dtype=np.float32)


def rotation_from_quat(quat_xyzw: NDArray[np.float64], where: str = "quaternion") -> NDArray[np.float64]:
    """The (3, 3) rotation of a quaternion (x, y, z, w) of any length but zero."""
    norm = float(np.linalg.norm(quat_xyzw))
    if quat_xyzw.shape != (4,) or not np.isfinite(norm) or norm < 1e-9:
        raise CalibrationError(f"{where}: expected a finite quaternion that is not zero, got {quat_xyzw}")
    x, y, z, w = quat_xyzw / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def heading_of_quat(quat_xyzw: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) heading of the turned x axis over the ground, of (N, 4) quaternions (x, y, z, w) of any length but zero."""
    x, y, z, w = np.asarray(quat_xyzw, np.float64).T
    return np.asarray(np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z))


def quat_from_rotation(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """The unit quaternion (x, y, z, w), w >= 0, of a (3, 3) rotation.

    It is the eigenvector to the largest eigenvalue of a symmetric 4x4 matrix (Bar-Itzhack, 2000), which has
    no special cases near half turns.
    """
    r = np.asarray(rotation, dtype=np.float64)
    k = np.empty((4, 4))
    k[:3, :3] = r + r.T - np.trace(r) * np.eye(3)
    k[3, :3] = k[:3, 3] = (r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1])
    k[3, 3] = np.trace(r)
    quat = np.linalg.eigh(k)[1][:, -1]
    return np.asarray(-quat if quat[3] < 0 else quat)


def interpolate(before: RigidTransform, after: RigidTransform, fraction: float) -> RigidTransform:
    """Between two transforms of the same frames: linear translation, spherical rotation; fraction in 0..1."""
    a, b = before.quat_xyzw, after.quat_xyzw
    dot = float(a @ b)
    if dot < 0:
        b, dot = -b, -dot
    if dot > 0.9995:
        quat = a + fraction * (b - a)
    else:
        angle = np.arccos(dot)
        quat = (np.sin((1 - fraction) * angle) * a + np.sin(fraction * angle) * b) / np.sin(angle)
    translation = (1 - fraction) * before.translation + fraction * after.translation
    return RigidTransform.from_quaternion(before.dst, before.src, quat, translation)


def angle_between(a: RigidTransform, b: RigidTransform) -> float:
    """The angle [rad] by which the rotations of two transforms differ, 0..pi."""
    # From the skew part as well as the trace: the trace alone loses small angles to rounding.
    between = a.rotation.T @ b.rotation
    skew = np.array([between[2, 1] - between[1, 2], between[0, 2] - between[2, 0], between[1, 0] - between[0, 1]])
    return float(np.arctan2(np.linalg.norm(skew) / 2, (np.trace(between) - 1) / 2))
