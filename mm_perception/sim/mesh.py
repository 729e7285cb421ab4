"""Triangle meshes of simple solids, each triangle with the index of its surface (see `surfaces.SurfaceTable`).

Right-handed coordinates, z up; triangles are wound counter-clockwise seen from outside, but nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Triangles; T may be 0.

    Attributes:
        vertices: (V, 3) float32 [m].
        triangles: (T, 3) uint32 indices of vertices.
        surfaces: (T,) int32 index of each triangle's surface.
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.uint32]
    surfaces: NDArray[np.int32]

    def moved(self, rotation: NDArray[np.floating], translation: NDArray[np.floating] | Point) -> Mesh:
        """The mesh turned by a (3, 3) matrix, then shifted by (3,) [m]."""
        turned = self.vertices @ np.asarray(rotation, np.float32).T + np.asarray(translation, np.float32)
        return Mesh(turned, self.triangles, self.surfaces)

    def scaled(self, factors: Point) -> Mesh:
        return Mesh(self.vertices * np.asarray(factors, np.float32), self.triangles, self.surfaces)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """All triangles of several meshes; none of none."""
    if not meshes:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32), np.zeros(0, np.int32))
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + np.uint32(start) for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.surfaces for mesh in meshes]),
    )


def yaw_matrix(yaw_rad: float) -> NDArray[np.float64]:
    """(3, 3) rotation about +z."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def pitch_matrix(angle_rad: float) -> NDArray[np.float64]:
    """(3, 3) rotation about +y."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def quad(corners: Sequence[Point], surface: int) -> Mesh:
    """Two triangles between four corners that follow each other round the edge."""
    vertices = np.asarray(corners, np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.uint32), np.full(2, surface, np.int32))


def loft(sections: Sequence[NDArray[np.floating]], surface: int, closed_ends: bool = True) -> Mesh:
    """The skin through rings of equally many points, K each (K, 3); the ends are closed by fans."""
    rings = np.asarray(sections, np.float32)
    count, around = rings.shape[:2]
    here = np.arange(around)
    after = (here + 1) % around
    faces = []
    for i in range(count - 1):
        a, b = i * around, (i + 1) * around
        faces.append(np.stack([a + here, a + after, b + after], axis=1))
        faces.append(np.stack([a + here, b + after, b + here], axis=1))
    if closed_ends:
        for start in (0, (count - 1) * around):
            fan = np.arange(1, around - 1)
            faces.append(np.stack([np.full(len(fan), start), start + fan, start + fan + 1], axis=1))
    triangles = np.concatenate(faces).astype(np.uint32)
    return Mesh(rings.reshape(-1, 3), triangles, np.full(len(triangles), surface, np.int32))


def frustum(
    center: Point,
    bottom_lw: tuple[float, float],
    top_lw: tuple[float, float],
    height: float,
    surface: int,
    top_shift_x: float = 0.0,
) -> Mesh:
    """A box whose top face may differ from its bottom; `center` is the middle of the bottom face."""
    x, y, z = center
    rings = []
    for (length, width), level, shift in ((bottom_lw, z, 0.0), (top_lw, z + height, top_shift_x)):
        dx, dy = length / 2, width / 2
        ring = [(x + shift + sx * dx, y + sy * dy, level) for sx, sy in ((1, -1), (1, 1), (-1, 1), (-1, -1))]
        rings.append(np.array(ring))
    return loft(rings, surface)


def box(center: Point, size_lwh: Point, surface: int) -> Mesh:
    """A box around its centre."""
    x, y, z = center
    length, width, height = size_lwh
    return frustum((x, y, z - height / 2), (length, width), (length, width), height, surface)


def tube(
    start: Point, end: Point, radius: float, surface: int, sides: int = 6, end_radius: float | None = None
) -> Mesh:
    """A straight tube between two points, with closed ends; a cone where the radii differ."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
    helper = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 1.0, 0.0])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    angle = np.arange(sides) * (2 * np.pi / sides)
    circle = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    return loft([a + radius * circle, b + (radius if end_radius is None else end_radius) * circle], surface)


def ellipsoid(
    center: Point,
    radii: Point,
    surface: int,
    generator: np.random.Generator | None = None,
    roughness: float = 0.0,
    rings: int = 6,
    sides: int = 8,
) -> Mesh:
    """A closed ellipsoid; with `roughness` each vertex is moved in or out by up to that share of the radius."""
    polar = np.linspace(0.0, np.pi, rings + 1)[1:-1]
    angle = np.arange(sides) * (2 * np.pi / sides)
    unit = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.sin(polar)[:, None] * np.sin(angle),
            np.repeat(np.cos(polar)[:, None], sides, axis=1),
        ],
        axis=-1,
    )
    if generator is not None and roughness > 0:
        unit = unit * generator.uniform(1.0 - roughness, 1.0 + roughness, (*unit.shape[:2], 1))
    tip = np.zeros((1, sides, 3))
    pole = np.array([0.0, 0.0, 1.0])
    unit = np.concatenate([tip + pole, unit, tip - pole])
    return loft(list(unit * np.asarray(radii) + np.asarray(center)), surface, closed_ends=False)


def extrude(profile_xz: Sequence[tuple[float, float]], half_widths: Sequence[float], surface: int) -> Mesh:
    """A side profile drawn out across y: each corner (x, z) stands at plus and minus its own half width [m].

    The profile may be concave; its side faces are fans about the profile's middle.
    """
    profile = np.asarray(profile_xz, np.float64)
    widths = np.asarray(half_widths, np.float64)
    count = len(profile)
    left = np.stack([profile[:, 0], widths, profile[:, 1]], axis=1)
    right = left * (1.0, -1.0, 1.0)
    middle = np.array([profile[:, 0].mean(), widths.max(), profile[:, 1].mean()])
    vertices = np.concatenate([left, right, [middle, middle * (1.0, -1.0, 1.0)]]).astype(np.float32)
    here = np.arange(count)
    after = (here + 1) % count
    faces = [
        np.stack([here, after, count + after], axis=1),
        np.stack([here, count + after, count + here], axis=1),
        np.stack([np.full(count, 2 * count), here, after], axis=1),
        np.stack([np.full(count, 2 * count + 1), count + after, count + here], axis=1),
    ]
    triangles = np.concatenate(faces).astype(np.uint32)
    return Mesh(vertices, triangles, np.full(len(triangles), surface, np.int32))
