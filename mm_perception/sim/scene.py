"""Rays against a snapshot of the world (Open3D's RaycastingScene on Embree), and what the hit surfaces look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
from mm_perception.sim.surfaces import BRICK, FACADE, NOISE, SKY_SURFACE, SurfaceArrays
from mm_perception.sim.world import Snapshot

F32 = NDArray[np.float32]

WINDOW_CELL_M = (2.6, 3.1)
_WINDOW_U, _WINDOW_V = (0.26, 0.74), (0.32, 0.8)
_OFFSET_M = 2e-3  # shadow rays start this far off the surface, so that it does not shade itself


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """What N rays met first.

    Attributes:
        range_m: (N,) float32 distance along the unit ray; infinite for the sky.
        surface: (N,) int32 row of the surface table; SKY_SURFACE for the sky.
        points, normals: (N, 3) float32 in the world; normals face the ray's start. Undefined for the sky.
        directions: (N, 3) float32 unit rays.
    """

    range_m: F32
    surface: NDArray[np.int32]
    points: F32
    normals: F32
    directions: F32

    @property
    def solid(self) -> NDArray[np.int64]:
        """Indices of the rays that met something."""
        return np.nonzero(self.surface != SKY_SURFACE)[0]

    def part(self, start: int, stop: int) -> Hits:
        """Views of the rows from start to stop."""
        rows = slice(start, stop)
        return Hits(
            self.range_m[rows], self.surface[rows], self.points[rows], self.normals[rows], self.directions[rows]
        )

    def take(self, index: NDArray[np.int64]) -> Hits:
        return Hits(
            self.range_m[index], self.surface[index], self.points[index], self.normals[index], self.directions[index]
        )


class Scene:
    """One snapshot, ready for rays.

    Attributes:
        snapshot: what it was built from.
        surfaces: the columns of the surface table.
    """

    def __init__(self, snapshot: Snapshot, surfaces: SurfaceArrays) -> None:
        """Raises ConfigError if open3d is not installed."""
        o3d = _open3d()
        self.snapshot, self.surfaces = snapshot, surfaces
        self._tensor = o3d.core.Tensor
        self._scene = o3d.t.geometry.RaycastingScene()
        mesh = snapshot.mesh
        self._scene.add_triangles(self._tensor.from_numpy(mesh.vertices), self._tensor.from_numpy(mesh.triangles))
        self._of_triangle = mesh.surfaces

    def cast(self, origin: NDArray[np.floating], directions: F32) -> Hits:
        """First hits.

        Args:
            origin: (3,) or (N, 3) start in the world.
            directions: (N, 3) float32 unit vectors in the world.
        """
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        answer = self._scene.cast_rays(self._tensor.from_numpy(rays))
        range_m = answer["t_hit"].numpy()
        hit = np.isfinite(range_m)
        surface = self._of_triangle[np.minimum(answer["primitive_ids"].numpy(), len(self._of_triangle) - 1)]
        surface[~hit] = SKY_SURFACE
        normals = answer["primitive_normals"].numpy()
        normals *= -np.sign(dot(normals, directions))[:, None]
        points = directions * np.where(hit, range_m, np.float32(0.0))[:, None]
        points += rays[:, :3]
        return Hits(range_m, surface, points, normals, directions)

    def shaded(
        self, hits: Hits, index: NDArray[np.int64], towards: NDArray[np.floating], reach_m: float = np.inf
    ) -> NDArray[np.bool_]:
        """(K,) whether something stands within `reach_m` between the chosen hits and a light in direction (3,)."""
        rays = np.empty((len(index), 6), np.float32)
        rays[:, :3] = hits.points[index] + np.float32(_OFFSET_M) * hits.normals[index]
        rays[:, 3:] = towards
        return np.asarray(self._scene.test_occlusions(self._tensor.from_numpy(rays), 0.0, reach_m).numpy())


def dot(a: F32, b: F32) -> F32:
    """(N,) products of the rows of two (N, 3) arrays; three times as fast as einsum."""
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def _open3d() -> Any:
    try:
        import open3d
    except ImportError as error:
        raise ConfigError(f"the simulated world needs open3d ({error}): pip install open3d-cpu") from error
    return open3d


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """Properties of M hit points after patterns and windows: what light they give back.

    Attributes:
        albedo, glow: (M, 3) float32, as in `Surface`.
        gloss, retro, always_on: (M,) float32.
        panes: indices of the points that lie in windows.
    """

    albedo: F32
    gloss: F32
    retro: F32
    glow: F32
    always_on: F32
    panes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Warmth:
    """Thermal properties of M hit points, (M,) float32 each, as in `Surface`."""

    emissivity: F32
    heat_k: F32
    body: F32
    sun_gain_k: F32


def appearance(surfaces: SurfaceArrays, hits: Hits) -> Appearance:
    """Looks up the surfaces of hits (none of them sky) and draws their patterns."""
    rows = hits.surface
    albedo, gloss, glow = surfaces.albedo[rows], surfaces.gloss[rows], surfaces.glow[rows]
    panes = np.zeros(0, np.int64)
    patterned = np.nonzero(surfaces.pattern[rows])[0]
    if len(patterned):
        kind = surfaces.pattern[rows[patterned]]
        u, v = _on_surface(hits, patterned)
        depth = surfaces.pattern_depth[rows[patterned]]
        fade = 1.0 / (1.0 + hits.range_m[patterned] * np.float32(0.04))
        factor = np.ones(len(patterned), np.float32)
        for number, draw in ((NOISE, _noise), (BRICK, _bricks), (FACADE, _noise)):
            chosen = np.nonzero(kind == number)[0]
            factor[chosen] = 1.0 + depth[chosen] * draw(u[chosen], v[chosen], fade[chosen])
        albedo[patterned] *= factor[:, None]
        walls = np.nonzero(kind == FACADE)[0]
        window, level = _windows(u[walls], v[walls], rows[patterned[walls]], hits.normals[patterned[walls], 2])
        panes = patterned[walls[window]]
        albedo[panes], gloss[panes] = 0.035, 0.9
        glow[panes] = level[window, None] * np.array([1.0, 0.75, 0.45], np.float32)
    return Appearance(albedo, gloss, surfaces.retro[rows], glow, surfaces.always_on[rows], panes)


def warmth(surfaces: SurfaceArrays, hits: Hits, look: Appearance) -> Warmth:
    """Looks up the thermal side of hits whose appearance is `look`."""
    rows = hits.surface
    emissivity, heat = surfaces.emissivity[rows], surfaces.heat_k[rows]
    emissivity[look.panes] = 0.87
    heat[look.panes] += 1.5
    return Warmth(emissivity, heat, surfaces.body[rows], surfaces.sun_gain_k[rows])


def _on_surface(hits: Hits, index: NDArray[np.int64]) -> tuple[F32, F32]:
    """Two coordinates along each surface [m]: (x, y) on flat ground, else along the wall and up."""
    p, n = hits.points[index], hits.normals[index]
    flat = np.abs(n[:, 2]) > 0.7
    across = np.hypot(n[:, 0], n[:, 1]) + np.float32(1e-6)
    along = (p[:, 1] * n[:, 0] - p[:, 0] * n[:, 1]) / across
    return np.where(flat, p[:, 0], along), np.where(flat, p[:, 1], p[:, 2])


def _make_tile(size: int = 256) -> F32:
    """(size, size) noise in about -1..1 that repeats without a seam and has more power at low frequencies."""
    generator = np.random.default_rng(7)
    fx, fy = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))
    spectrum = np.fft.fft2(generator.normal(size=(size, size))) / np.maximum(np.hypot(fx, fy), 1.0 / size) ** 0.8
    tile = np.real(np.fft.ifft2(spectrum))
    tile -= tile.mean()
    return np.asarray(np.clip(tile / (2.0 * tile.std()), -1.0, 1.0), np.float32)


_TILE = _make_tile()


def _tile_at(u: F32, v: F32, per_metre: float) -> F32:
    i = (u * np.float32(per_metre)).astype(np.int32) & 255
    j = (v * np.float32(per_metre)).astype(np.int32) & 255
    return np.asarray(_TILE[i, j])


def _noise(u: F32, v: F32, fade: F32) -> F32:
    return np.asarray(0.6 * fade * _tile_at(u, v, 25.0) + 0.6 * _tile_at(u, v, 1.7), np.float32)


def _bricks(u: F32, v: F32, fade: F32) -> F32:
    row = np.floor(v * np.float32(5.0))
    column = u * np.float32(2.5) + 0.5 * np.mod(row, 2.0)
    mortar = (np.mod(v * np.float32(5.0), 1.0) < 0.09) | (np.mod(column, 1.0) < 0.045)
    tone = np.mod(np.floor(column) * np.float32(12.9898) + row * np.float32(78.233), 1.0) - 0.5
    return np.asarray(np.where(mortar, -1.0, 0.8 * tone) * fade + 0.4 * _tile_at(u, v, 1.1), np.float32)


def _windows(u: F32, v: F32, rows: NDArray[np.int32], normal_z: F32) -> tuple[NDArray[np.bool_], F32]:
    """Which points of walls lie in a window, and how bright that window is by night [cd/m2]."""
    cu, cv = u / np.float32(WINDOW_CELL_M[0]), (v - np.float32(0.5)) / np.float32(WINDOW_CELL_M[1])
    fu, fv = np.mod(cu, 1.0), np.mod(cv, 1.0)
    window = (fu > _WINDOW_U[0]) & (fu < _WINDOW_U[1]) & (fv > _WINDOW_V[0]) & (fv < _WINDOW_V[1])
    window &= (np.abs(normal_z) < 0.3) & (cv > 0)
    hashed = (np.floor(cu).astype(np.int64) * 73856093) ^ (np.floor(cv).astype(np.int64) * 19349663)
    hashed = (hashed ^ (rows.astype(np.int64) * 83492791)) & 1023
    level = np.where(hashed < 230, 5.0 + 0.12 * hashed, 0.0).astype(np.float32)
    return window, level
