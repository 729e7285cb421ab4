"""Several LiDAR turns as one cloud, with the vehicle's own motion taken out and each point's age as a channel.

After the nuScenes devkit's practice of ten turns (Caesar et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import PointCloud
from mm_perception.geometry.transforms import RigidTransform

F32 = NDArray[np.float32]
NO_INTENSITY = 0.0


@dataclass(frozen=True, slots=True)
class OwnBody:
    """A box round the own vehicle, in the LiDAR's frame [m]; points within it are returns from the vehicle itself."""

    half_length_m: float = 1.0
    half_width_m: float = 1.0
    radius_m: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One turn of a LiDAR that moved evenly between two instants.

    Attributes:
        cloud: points at their own times, in the LiDAR's frame of those times; the stamp may be that of the first point,
            the last, or any between.
        fixed_from_start: pose of the LiDAR at `start_ns`, in a frame that stands still.
        fixed_from_end: the same at `end_ns`.
    """

    cloud: PointCloud
    fixed_from_start: RigidTransform
    fixed_from_end: RigidTransform
    start_ns: int
    end_ns: int


def turn_span_ns(cloud: PointCloud) -> tuple[int, int]:
    """Times of the first and of the last point, at most and at least the stamp."""
    if cloud.offset_ns is None or not len(cloud):
        return cloud.stamp_ns, cloud.stamp_ns
    first, last = int(cloud.offset_ns.min()), int(cloud.offset_ns.max())
    return cloud.stamp_ns + min(0, first), cloud.stamp_ns + max(0, last)


def without_own_body(cloud: PointCloud, body: OwnBody) -> NDArray[np.bool_]:
    """(N,) which points are not the vehicle's own."""
    x, y = np.abs(cloud.xyz[:, 0]), np.abs(cloud.xyz[:, 1])
    near = np.square(cloud.xyz).sum(axis=1) < body.radius_m**2
    return np.asarray(~(((x < body.half_length_m) & (y < body.half_width_m)) | near))


def turns_table(
    turns: Sequence[Turn], lidar_from_fixed: RigidTransform, reference_ns: int, body: OwnBody | None = None
) -> F32:
    """All turns as seen from the LiDAR at one instant, without the own vehicle.

    Poses are chained before they meet points, so that a fixed frame may have its origin far away.

    Args:
        turns: the oldest first.
        lidar_from_fixed: at `reference_ns`.

    Returns:
        (M, 5) x, y, z [m], intensity 0..255, age [s] (positive: before `reference_ns`); the newest turn first.
    """
    rows = [np.zeros((0, 5), np.float32)]
    rows += [_rows(turn, lidar_from_fixed, reference_ns, body or OwnBody()) for turn in reversed(turns)]
    return np.concatenate(rows)


def _rows(turn: Turn, lidar_from_fixed: RigidTransform, reference_ns: int, body: OwnBody) -> F32:
    cloud = turn.cloud
    kept = without_own_body(cloud, body)
    out = np.empty((int(kept.sum()), 5), np.float32)
    xyz = cloud.xyz[kept]
    out[:, :3] = (lidar_from_fixed @ turn.fixed_from_start).apply(xyz)
    offset_ns = np.zeros(len(xyz), np.int64) if cloud.offset_ns is None else cloud.offset_ns[kept]
    span_ns = turn.end_ns - turn.start_ns
    if span_ns > 0 and cloud.offset_ns is not None:
        since_start = cloud.stamp_ns - turn.start_ns + offset_ns
        share = np.clip(since_start / span_ns, 0.0, 1.0).astype(np.float32)[:, None]
        out[:, :3] += share * ((lidar_from_fixed @ turn.fixed_from_end).apply(xyz) - out[:, :3])
    out[:, 3] = NO_INTENSITY if cloud.intensity is None else cloud.intensity[kept]
    out[:, 4] = (reference_ns - cloud.stamp_ns - offset_ns) * 1e-9
    return out
