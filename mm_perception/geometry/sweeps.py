"""Several LiDAR turns as one cloud, with the vehicle's own motion taken out and each point's age as a channel.

After the nuScenes devkit's practice of ten turns (Caesar et al., CVPR 2020).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
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
class Sweep:
    """One turn in a frame that stands still.

    Attributes:
        xyz: (N, 3) float64 [m]. intensity: (N,) 0..255. t_ns: (N,) time of each point.
        stamp_ns: of the cloud.
    """

    xyz: NDArray[np.float64]
    intensity: F32
    t_ns: NDArray[np.int64]
    stamp_ns: int


def without_own_body(cloud: PointCloud, body: OwnBody) -> NDArray[np.bool_]:
    """(N,) which points are not the vehicle's own."""
    x, y = np.abs(cloud.xyz[:, 0]), np.abs(cloud.xyz[:, 1])
    near = np.square(cloud.xyz).sum(axis=1) < body.radius_m**2
    return np.asarray(~(((x < body.half_length_m) & (y < body.half_width_m)) | near))


def still_sweep(
    cloud: PointCloud, fixed_from_start: RigidTransform, fixed_from_end: RigidTransform, end_ns: int, body: OwnBody
) -> Sweep:
    """Takes a turn's points into a frame that stands still; the vehicle moved evenly between two instants.

    Args:
        cloud: points at their own times, in the LiDAR's frame of those times.
        fixed_from_start: pose of the LiDAR at the cloud's stamp. fixed_from_end: at `end_ns`.
    """
    kept = without_own_body(cloud, body)
    xyz = cloud.xyz[kept].astype(np.float64)
    offset_ns = np.zeros(len(xyz), np.int64) if cloud.offset_ns is None else cloud.offset_ns[kept]
    still = np.asarray(fixed_from_start.apply(xyz), np.float64)
    span_ns = end_ns - cloud.stamp_ns
    if span_ns > 0 and cloud.offset_ns is not None:
        share = np.clip(offset_ns / span_ns, 0.0, 1.0)[:, None]
        still = still * (1.0 - share) + fixed_from_end.apply(xyz) * share
    intensity = np.full(len(xyz), NO_INTENSITY, np.float32) if cloud.intensity is None else cloud.intensity[kept]
    return Sweep(still, intensity, cloud.stamp_ns + offset_ns, cloud.stamp_ns)


class SweepBuffer:
    """The last turns.

    Attributes:
        count: how many are kept.
        longest_ns: older ones are left out.
    """

    def __init__(self, count: int, longest_ns: int = 1_000_000_000) -> None:
        """Raises ConfigError if no turn would be kept."""
        if count < 1:
            raise ConfigError(f"sweeps: expected at least 1, got {count}")
        self.count, self.longest_ns = count, longest_ns
        self._sweeps: deque[Sweep] = deque(maxlen=count)

    def add(self, sweep: Sweep) -> None:
        """Takes the newest turn. After a jump back in time, what was known belongs to another time and is forgotten."""
        if self._sweeps and sweep.stamp_ns <= self._sweeps[-1].stamp_ns:
            self._sweeps.clear()
        self._sweeps.append(sweep)

    def __len__(self) -> int:
        return len(self._sweeps)

    def table(self, lidar_from_fixed: RigidTransform, reference_ns: int) -> F32:
        """All turns as seen from the LiDAR at one instant.

        Returns:
            (M, 5) x, y, z [m], intensity 0..255, age [s] (positive: before `reference_ns`); the newest turn first.
        """
        rows = [np.zeros((0, 5), np.float32)]
        for sweep in reversed(self._sweeps):
            if reference_ns - sweep.stamp_ns > self.longest_ns:
                continue
            age = (reference_ns - sweep.t_ns) * 1e-9
            xyz = lidar_from_fixed.apply(sweep.xyz)
            rows.append(np.column_stack([xyz, sweep.intensity, age]).astype(np.float32))
        return np.concatenate(rows)
