"""The LiDAR: 32 beams that turn once per sweep, with the vehicle's own motion in the points.

Each return's strength is S = rho cos(a) exp(-2 b r) / r^2 (Lambert's target, Beer's law both ways); a return is lost
where S, with speckle, is below the receiver's threshold, and at random. Range noise is Gaussian. Intensity is
reflectance after range correction, 0..255, retro-reflectors at the top. Faults: drop-out, loss on dark, slanted or
mirroring surfaces, and in fog and rain returns from the air in front of the target. Left out: multiple returns, beam
divergence, cross-talk. After the Velodyne HDL-32E's data sheet: +10.67 to -30.67 degrees; a turn takes 100 ms and has
1080 columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import PointCloud
from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32, Hits
from mm_perception.sim.surfaces import SurfaceArrays


@dataclass(frozen=True, slots=True)
class LidarModel:
    """How one LiDAR samples and errs."""

    rings: int = 32
    columns: int = 1080
    lowest_deg: float = -30.67
    highest_deg: float = 10.67
    range_noise_m: float = 0.02
    nearest_m: float = 0.9
    farthest_m: float = 100.0
    dropout: float = 0.015
    threshold: float = 8e-6
    """Weakest return: 10 % reflectance head-on is seen to about 110 m."""

    def rays(self) -> F32:
        """(rings * columns, 3) unit rays in the sensor's frame, ring by ring; columns run clockwise from behind."""
        elevation = np.radians(np.linspace(self.lowest_deg, self.highest_deg, self.rings))
        azimuth = np.pi - np.arange(self.columns) * (2 * np.pi / self.columns)
        az, el = np.meshgrid(azimuth, elevation)
        rays = np.stack([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)], axis=-1)
        return np.asarray(rays.reshape(-1, 3), np.float32)

    def offsets_ns(self, sweep_ns: int) -> NDArray[np.int64]:
        """(rings * columns,) time of each ray after the sweep's start."""
        return np.tile(np.arange(self.columns, dtype=np.int64) * sweep_ns // self.columns, self.rings)


def measure_sweep(
    model: LidarModel,
    rays: F32,
    hits: Hits,
    surfaces: SurfaceArrays,
    env: Environment,
    offset_ns: NDArray[np.int64],
    stamp_ns: int,
    frame_id: str,
    generator: np.random.Generator,
) -> tuple[PointCloud, NDArray[np.int64], NDArray[np.bool_]]:
    """What the sensor reports of a sweep.

    Args:
        rays: (N, 3) in the sensor's frame, `hits` what they met.

    Returns:
        The points in the sensor's frame at each point's own time, (P,) the ray of each point, and (P,) whether it
        came from fog or rain, not from what the ray met.
    """
    r = hits.range_m
    found = np.isfinite(r) & (r > model.nearest_m) & (r < model.farthest_m)
    safe = np.where(found, r, 1.0).astype(np.float32)
    rho = surfaces.laser[hits.surface] * (1.0 - 0.5 * env.wetness * (hits.points[:, 2] < 0.05))
    cos = np.abs(np.einsum("ij,ij->i", hits.normals, hits.directions))
    retro = surfaces.retro[hits.surface] > 10
    strength = rho * np.where(retro, 10.0, np.maximum(cos, 0.0)) * np.exp(-2 * env.extinction_1pm * safe) / safe**2
    speckle = generator.exponential(0.5, len(r)) + 0.5
    found &= strength * speckle > model.threshold
    found &= ~((surfaces.gloss[hits.surface] > 0.7) & (cos < 0.9))  # mirrored away
    found &= generator.random(len(r)) > model.dropout
    measured = safe + model.range_noise_m * generator.standard_normal(len(r), np.float32)
    intensity = np.where(retro, 255.0, 200.0 * rho * np.sqrt(np.maximum(cos, 0.05)))
    in_air, air_range = _air_returns(model, np.where(found, safe, model.farthest_m), env, generator)
    measured, found = np.where(in_air, air_range, measured), found | in_air
    intensity = np.where(in_air, generator.uniform(1, 12, len(r)), intensity * generator.normal(1.0, 0.06, len(r)))
    kept = np.nonzero(found)[0]
    cloud = PointCloud(
        (rays[kept] * measured[kept, None]).astype(np.float32),
        stamp_ns,
        frame_id,
        intensity=np.clip(np.rint(intensity[kept]), 0, 255).astype(np.float32),
        ring=(kept // model.columns).astype(np.uint16),
        offset_ns=offset_ns[kept],
    )
    return cloud, kept, in_air[kept]


def _air_returns(
    model: LidarModel, free_m: NDArray[np.floating], env: Environment, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(N,) which rays end in fog or rain before `free_m`, and where.

    The place of the first strong scatterer is exponential with a tenth of the extinction as its rate; beyond 20 m the
    echo of droplets is too weak.
    """
    if env.extinction_1pm <= 0:
        return np.zeros(len(free_m), bool), np.zeros(len(free_m))
    place = model.nearest_m + generator.exponential(10.0 / env.extinction_1pm, len(free_m))
    return (place < 20.0) & (place < free_m), place
