"""Rigid transforms between named frames, and the tree that TF messages build (REP 105)."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

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


MOST_FRAMES = 1000
"""A vehicle has tens of frames; more than this come from a sender that makes up new names."""
LONGEST_NAME = 256
MOST_SAMPLES, MOST_IN_ALL = 4_000, 200_000
"""Of one link (10 s at 400 Hz) and of all together; beyond that a link forgets its oldest for each new one."""
LONGEST_GAP_NS = 1_000_000_000
"""Between two samples of a link that are interpolated over: poses come at 2 Hz (nuScenes' keyframes) and more often."""
BELIEVED = 3
"""So many samples in a row that are further ahead are taken for a jump of time, fewer for wrong stamps."""


@dataclass(slots=True)
class _Edge:
    """The transforms parent <- child of one child frame over time, or one for all times.

    Attributes:
        stamps_ns, transforms: samples, in the order of their stamps.
        ahead: by stamp, the last samples to come, all stamped more than `LONGEST_GAP_NS` after the others. They are
            used at their very stamps alone, and push nothing out: the stamps may be wrong.
    """

    parent: str
    static: RigidTransform | None = None
    stamps_ns: list[int] = field(default_factory=list)
    transforms: list[RigidTransform] = field(default_factory=list)
    ahead: dict[int, RigidTransform] = field(default_factory=dict)

    def add(self, transform: RigidTransform, stamp_ns: int, most: int) -> None:
        """Stores a sample. One that is far ahead of all others waits in `ahead` until others confirm it."""
        if len(self.stamps_ns) == 1 and stamp_ns < self.stamps_ns[0] - LONGEST_GAP_NS:
            self._clear()  # one of the two has a wrong stamp, and the newer sample is the better guess
        if self.stamps_ns and stamp_ns > self.stamps_ns[-1] + LONGEST_GAP_NS:
            if any(stamp_ns <= before for before in self.ahead):
                self.ahead.clear()
            self.ahead[stamp_ns] = transform
            if len(self.ahead) < BELIEVED:
                return
            confirmed, self.ahead = self.ahead, {}
        else:
            confirmed = {stamp_ns: transform}
            self.ahead.clear()
        for when_ns, one in confirmed.items():
            i = bisect.bisect_left(self.stamps_ns, when_ns)
            if i < len(self.stamps_ns) and self.stamps_ns[i] == when_ns:
                self.transforms[i] = one
            else:
                self.stamps_ns.insert(i, when_ns)
                self.transforms.insert(i, one)
        self._drop_first(len(self.stamps_ns) - most)

    def forget_before(self, stamp_ns: int) -> None:
        self._drop_first(bisect.bisect_left(self.stamps_ns, stamp_ns))

    def forget_after(self, stamp_ns: int) -> None:
        first = bisect.bisect_right(self.stamps_ns, stamp_ns)
        del self.stamps_ns[first:], self.transforms[first:]
        self.ahead = {when_ns: one for when_ns, one in self.ahead.items() if when_ns <= stamp_ns}

    def _clear(self) -> None:
        self._drop_first(len(self.stamps_ns))
        self.ahead.clear()

    def _drop_first(self, count: int) -> None:
        if count > 0:
            del self.stamps_ns[:count], self.transforms[:count]

    def at(self, stamp_ns: int, child: str) -> RigidTransform:
        if self.static is not None:
            return self.static
        if stamp_ns in self.ahead:
            return self.ahead[stamp_ns]
        i = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if i < len(self.stamps_ns) and self.stamps_ns[i] == stamp_ns:
            return self.transforms[i]
        if i == 0 or i == len(self.stamps_ns):
            raise CalibrationError(
                f"transform {self.parent} <- {child} is known for {self.stamps_ns[0]}..{self.stamps_ns[-1]} ns, "
                f"not at {stamp_ns} ns"
            )
        t0, t1 = self.stamps_ns[i - 1], self.stamps_ns[i]
        if t1 - t0 > LONGEST_GAP_NS:
            raise CalibrationError(
                f"transform {self.parent} <- {child} is known at {t0} and {t1} ns, not at {stamp_ns} ns: a gap of "
                f"{(t1 - t0) * 1e-9:.1f} s, expected at most {LONGEST_GAP_NS * 1e-9:g} s"
            )
        return interpolate(self.transforms[i - 1], self.transforms[i], (stamp_ns - t0) / (t1 - t0))


class TransformTree:
    """Frames and how they hang together; fed by /tf and /tf_static, live or from a bag.

    Never waits and never guesses: a transform that is not known is a `CalibrationError`. Whatever is sent, memory is
    bounded: by frames, by the length of their names, and by samples.
    """

    def __init__(self, keep_ns: int = 10_000_000_000) -> None:
        """Args:
        keep_ns: how long transforms that change are kept behind the newest.
        """
        self._keep_ns = keep_ns
        self._edges: dict[str, _Edge] = {}

    def set_static(self, parent_from_child: RigidTransform) -> None:
        """Stores a transform that is valid at all times. Raises CalibrationError as `add`."""
        self._check_room(parent_from_child)
        self._edges[parent_from_child.src] = _Edge(parent_from_child.dst, static=parent_from_child)

    def add(self, parent_from_child: RigidTransform, stamp_ns: int) -> None:
        """Stores a transform that is valid at `stamp_ns`; older and newer ones may come in any order.

        Raises:
            CalibrationError: there are `MOST_FRAMES` other frames already, or a name is too long.
        """
        edge = self._edges.get(parent_from_child.src)
        if edge is None or edge.static is not None or edge.parent != parent_from_child.dst:
            self._check_room(parent_from_child)
            edge = self._edges[parent_from_child.src] = _Edge(parent_from_child.dst)
        if edge.stamps_ns and stamp_ns < edge.stamps_ns[-1] - self._keep_ns:
            # Older than anything that is kept: time jumped back, and what was known belongs to another time.
            edge.forget_after(stamp_ns)
        in_all = sum(len(other.stamps_ns) for other in self._edges.values())
        edge.add(parent_from_child, stamp_ns, MOST_SAMPLES if in_all < MOST_IN_ALL else max(2, len(edge.stamps_ns)))
        edge.forget_before(edge.stamps_ns[-1] - self._keep_ns)

    def _check_room(self, parent_from_child: RigidTransform) -> None:
        dst, src = parent_from_child.dst, parent_from_child.src
        if max(len(dst), len(src)) > LONGEST_NAME:
            raise CalibrationError(
                f"transform {dst[:40]}… <- {src[:40]}…: expected names of at most {LONGEST_NAME} letters, "
                f"got {len(dst)} and {len(src)}"
            )
        if src not in self._edges and len(self._edges) >= MOST_FRAMES:
            raise CalibrationError(
                f"transform {dst} <- {src}: refused, {MOST_FRAMES} frames are known already; "
                "a sender on /tf makes up new names"
            )

    def forget_after(self, stamp_ns: int) -> None:
        """Forgets what was known of later times (after a jump back to `stamp_ns`); static links stay."""
        for edge in self._edges.values():
            edge.forget_after(stamp_ns)
        self._edges = {c: e for c, e in self._edges.items() if e.static is not None or e.stamps_ns}

    def frames(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._edges) | {edge.parent for edge in self._edges.values()}))

    def lookup(self, dst: str, src: str, stamp_ns: int) -> RigidTransform:
        """`dst_from_src` at one instant.

        Raises:
            CalibrationError: a frame is unknown, the two are not connected, or a link is not known then.
        """
        if dst == src:
            return RigidTransform.identity(dst)
        up_dst, up_src = self._ancestors(dst), self._ancestors(src)
        common = next((frame for frame in up_src if frame in up_dst), None)
        if common is None:
            known = ", ".join(self.frames()) or "none"
            raise CalibrationError(f"no transform {dst} <- {src} (known frames: {known})")
        common_from_dst = self._climb(dst, common, stamp_ns)
        return common_from_dst.inverse() @ self._climb(src, common, stamp_ns)

    def lookup_between(self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int, fixed: str) -> RigidTransform:
        """`dst` at one instant from `src` at another, through a frame that does not move (odom, map).

        Raises:
            CalibrationError: as `lookup`.
        """
        fixed_from_dst = self.lookup(fixed, dst, dst_stamp_ns)
        return fixed_from_dst.inverse() @ self.lookup(fixed, src, src_stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._edges:
            parent = self._edges[chain[-1]].parent
            if parent in chain:
                raise CalibrationError(f"the transform tree has a loop at {parent}")
            chain.append(parent)
        return chain

    def _climb(self, frame: str, ancestor: str, stamp_ns: int) -> RigidTransform:
        result = RigidTransform.identity(frame)
        while frame != ancestor:
            edge = self._edges[frame]
            result = edge.at(stamp_ns, frame) @ result
            frame = edge.parent
        return result
