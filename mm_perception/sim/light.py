"""Light: the luminance that comes back along rays, before a camera sees it.

Matt surfaces follow Lambert's law, L = albedo E / pi; glass and wet ground add a mirror image of the sky with Schlick's
approximation of Fresnel's term (Schlick, Computer Graphics Forum 1994); fog and rain follow Koschmieder's law,
L = L0 exp(-b d) + La (1 - exp(-b d)). One bounce of the sun's light off the ground is a constant. Street lamps and
other vehicles' headlights cast no shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32, Appearance, Hits, Scene, dot
from mm_perception.sim.surfaces import SKY_SURFACE, Colour

HEADLIGHT_CANDELA = 18_000.0
HEADLIGHT_HEIGHT_M = 0.68
_CUTOFF_RAD = np.radians(-0.6)  # low beam: dark above this
_LAMP_REACH_M, _HEADLIGHT_REACH_M = 32.0, 75.0
_OTHERS_NEAR_M = 55.0


def luminance(
    scene: Scene, hits: Hits, solid: NDArray[np.int64], near: Hits, look: Appearance, sunlit: F32, env: Environment
) -> F32:
    """(N, 3) float32 luminance of linear red, green, blue [cd/m2] along each ray.

    Args:
        hits: of N rays.
        solid: (M,) indices of those that hit something; `near` holds them, `look` is their appearance.
        sunlit: (M,) from `sunlight`.
    """
    picture = np.empty((len(hits.range_m), 3), np.float32)
    sky = np.nonzero(hits.surface == SKY_SURFACE)[0]
    picture[sky] = sky_luminance(hits.directions[sky], env)
    if len(near.range_m) == 0:
        return picture
    light = illuminance(scene, near, sunlit, env)
    retro = None
    if env.lamps_on:
        columns = _Columns.of(near)
        _add_lamps(scene, columns, light)
        beam, retro = _headlights(scene, columns, env)
        light += beam
    surface = look.albedo * light * np.float32(1.0 / np.pi)
    if env.wetness > 0:  # a film of water darkens the ground
        ground = (near.normals[:, 2] > 0.9) & (near.points[:, 2] < 0.3)
        surface[ground] *= np.float32(1.0 - 0.45 * env.wetness)
    surface += _mirror(near, look, env)
    on = look.always_on if not env.lamps_on else np.ones_like(look.always_on)
    surface += look.glow * on[:, None]
    if retro is not None:
        surface += look.albedo * (look.retro * retro)[:, None] * np.float32(1.0 / np.pi)
    if env.extinction_1pm > 0:
        kept = np.exp(-np.float32(env.extinction_1pm) * near.range_m)[:, None]
        surface = surface * kept + env.airlight.astype(np.float32) * (1.0 - kept)
    picture[solid] = surface
    return picture


def sky_luminance(directions: F32, env: Environment) -> F32:
    """(N, 3) luminance of the sky along N directions: a gradient, clouds, the glow around the sun and its disc."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    share = np.sqrt(up)[:, None]
    sky = env.horizon.astype(np.float32) * (1.0 - share) + env.zenith.astype(np.float32) * share
    if 0.0 < env.cloud_cover < 0.9:
        sky *= _clouds(directions, env.cloud_cover)[:, None]
    if env.sun_lux.max() > 0:
        _add_sun(np.asarray(sky, np.float32), directions @ env.sun_direction.astype(np.float32), env)
    if env.extinction_1pm > 0:  # the sky is behind endless fog, or a long way of rain
        depth = env.extinction_1pm * 3000.0 / (1.0 + 20.0 * up)
        kept = np.exp(-depth)[:, None].astype(np.float32)
        sky = sky * kept + env.airlight.astype(np.float32) * (1.0 - kept)
    return np.asarray(sky, np.float32)


def _add_sun(sky: F32, cos: F32, env: Environment) -> None:
    """Adds the glow around the sun and its disc, in place; `cos` (N,) is of the angle from the sun."""
    wide = np.square(np.square(np.square(np.clip(cos, 0.0, 1.0))))
    halo = np.float32(0.35) * wide
    close = np.nonzero(cos > 0.93)[0]
    if len(close):
        narrow = np.clip(cos[close], 0.0, 1.0)
        halo[close] += 2.2 * narrow**90 + 30.0 * narrow**2500
        halo[close] += np.where(narrow > np.cos(0.008), np.float32(60.0 / 0.09), np.float32(0.0))
    sky += halo[:, None] * (np.float32(0.09) * env.sun_lux.astype(np.float32))


def _clouds(directions: F32, cover: float) -> F32:
    """(N,) brightness factor of a few layers of sine waves, flattened towards the horizon."""
    height = np.maximum(directions[:, 2], 0.05)
    x, y = directions[:, 0] / height, directions[:, 1] / height
    wave = np.sin(1.3 * x + 0.7 * y) + np.sin(2.1 * y - 0.9 * x + 1.0) + 0.6 * np.sin(3.7 * x + 4.1 * y + 2.0)
    return np.asarray(1.0 + 0.45 * cover * np.clip(wave + 1.5 * cover, 0.0, 1.5), np.float32)


def sunlight(scene: Scene, hits: Hits, env: Environment) -> F32:
    """(M,) cosine of the sun's angle on M hits, 0 in shade."""
    facing = np.clip(hits.normals @ env.sun_direction.astype(np.float32), 0.0, 1.0)
    if env.sun_lux.max() <= 0:
        return np.zeros_like(facing)
    lit = np.nonzero(facing > 0)[0]
    facing[lit[scene.shaded(hits, lit, env.sun_direction)]] = 0.0
    return np.asarray(facing)


def illuminance(scene: Scene, hits: Hits, sunlit: F32, env: Environment) -> F32:
    """(M, 3) light of sky, ground and sun that falls on M hits [lux]."""
    n = hits.normals
    ground = 0.12 * (env.sky_lux + np.maximum(env.sun_direction[2], 0.0) * env.sun_lux)
    open_sky = _open_sky(scene, hits)
    light = (open_sky * (0.5 + 0.5 * n[:, 2]))[:, None] * env.sky_lux.astype(np.float32)
    light += (0.5 - 0.5 * n[:, 2])[:, None] * ground.astype(np.float32)
    if env.sun_lux.max() > 0:
        light += sunlit[:, None] * env.sun_lux.astype(np.float32)
    return light


def _open_sky(scene: Scene, hits: Hits) -> F32:
    """(M,) share of the sky that M hits see: less under vehicles and near the foot of things."""
    share = np.full(len(hits.range_m), 0.8, np.float32)
    low = hits.points[:, 2]
    share *= np.where(np.abs(hits.normals[:, 2]) < 0.7, 0.6 + 0.4 * np.clip(low / 1.2, 0.0, 1.0), 1.0)
    ground = np.nonzero((hits.normals[:, 2] > 0.95) & (low < 0.3) & (hits.range_m < 60.0))[0]
    covered = ground[scene.shaded(hits, ground, np.array([0.0, 0.0, 1.0]), 2.2)]
    share[covered] *= 0.25
    return share


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Points and normals of M hits, axis by axis: arithmetic on whole columns is three times as fast."""

    x: F32
    y: F32
    z: F32
    nx: F32
    ny: F32
    nz: F32

    @classmethod
    def of(cls, hits: Hits) -> _Columns:
        columns = (*hits.points.T, *hits.normals.T)
        return cls(*(np.ascontiguousarray(column) for column in columns))

    def within(self, x: float, y: float, reach_m: float) -> NDArray[np.int64]:
        """Indices of the points at most `reach_m` from (x, y), seen from above."""
        if not self._may_be_within(x, y, reach_m):
            return np.zeros(0, np.int64)
        square = np.square(self.x - np.float32(x)) + np.square(self.y - np.float32(y))
        return np.nonzero(square < reach_m**2)[0]

    def _may_be_within(self, x: float, y: float, reach_m: float) -> bool:
        low_x, high_x, low_y, high_y = self.x.min(), self.x.max(), self.y.min(), self.y.max()
        return bool(low_x - reach_m < x < high_x + reach_m and low_y - reach_m < y < high_y + reach_m)


def _add_lamps(scene: Scene, columns: _Columns, light: F32) -> None:
    """Adds E = I cos(a) cos(b) / r2 of the street lamps within reach, in place."""
    by_colour: dict[Colour, F32] = {}
    for lamp in scene.snapshot.lamps:
        x, y, z = lamp.position
        near = columns.within(x, y, _LAMP_REACH_M)
        if len(near) == 0:
            continue
        dx, dy, dz = np.float32(x) - columns.x[near], np.float32(y) - columns.y[near], np.float32(z) - columns.z[near]
        r2 = np.maximum(dx * dx + dy * dy + dz * dz, np.float32(0.25))
        along = columns.nx[near] * dx + columns.ny[near] * dy + columns.nz[near] * dz
        r = np.sqrt(r2)
        down = np.maximum(dz, np.float32(0.0)) / r
        lobe = np.float32(0.55) * down + np.float32(0.45) * np.sqrt(down)
        level = np.maximum(along, np.float32(0.0)) * lobe * (np.float32(lamp.candela) / (r2 * r))
        if lamp.colour not in by_colour:
            by_colour[lamp.colour] = np.zeros(len(columns.x), np.float32)
        by_colour[lamp.colour][near] += level
    for colour, total in by_colour.items():
        light += total[:, None] * np.asarray(colour, np.float32)


def _headlights(scene: Scene, columns: _Columns, env: Environment) -> tuple[F32, F32]:
    """Light of the nearest headlights [lux]: (M, 3) on matt surfaces, (M,) the ego vehicle's share for reflectors."""
    white = np.zeros(len(columns.x), np.float32)
    retro = np.zeros(len(columns.x), np.float32)
    sources = scene.snapshot.headlights
    distance = np.hypot(*(sources[:, :2] - sources[0, :2]).T)
    for row in np.argsort(distance, kind="stable")[:4]:
        if distance[row] > _OTHERS_NEAR_M:
            break
        x, y, yaw, own = sources[row]
        near = columns.within(x, y, _HEADLIGHT_REACH_M)
        dx, dy = columns.x[near] - np.float32(x), columns.y[near] - np.float32(y)
        cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
        ahead = dx * cos + dy * sin
        lit = np.nonzero(ahead > 0.3)[0]
        if len(lit) == 0:
            continue
        near, ahead, dx, dy = near[lit], ahead[lit], dx[lit], dy[lit]
        up = columns.z[near] - np.float32(HEADLIGHT_HEIGHT_M)
        r2 = np.maximum(dx * dx + dy * dy + up * up, np.float32(0.5))
        r = np.sqrt(r2)
        level = np.float32(HEADLIGHT_CANDELA) / r2 * low_beam((dy * cos - dx * sin) / ahead, up / ahead)
        if env.extinction_1pm > 0:
            level *= np.exp(-np.float32(env.extinction_1pm) * r)
        facing = -(columns.nx[near] * dx + columns.ny[near] * dy + columns.nz[near] * up) / r
        white[near] += level * np.maximum(facing, np.float32(0.0))
        if own:
            retro[near] += level
    return white[:, None] * np.array([1.0, 0.95, 0.85], np.float32), retro


def low_beam(sideways: F32, slope: F32) -> F32:
    """Share 0..1 of the full intensity in a direction, given by the tangents of azimuth and elevation.

    A low beam after ECE R112's idea: bright below the horizontal cut-off, 3 % stray light elsewhere.
    """
    above = slope - np.float32(_CUTOFF_RAD)
    below = 1.0 / (1.0 + np.exp(np.clip(above / 0.006, -30.0, 30.0)))
    reach = np.exp(-np.square(np.minimum(above, 0.0) / 0.075))
    return np.asarray(np.exp(-np.square(sideways / np.float32(0.58))) * (0.03 + 0.97 * below * reach), np.float32)


def _mirror(hits: Hits, look: Appearance, env: Environment) -> F32:
    """(M, 3) image of the sky in glossy and wet surfaces; what would mirror other things mirrors half a sky."""
    gloss = look.gloss.copy()
    if env.wetness > 0:
        ground = (hits.normals[:, 2] > 0.9) & (hits.points[:, 2] < 0.3)
        gloss[ground] = np.maximum(gloss[ground], 0.75 * env.wetness)
    else:
        gloss[hits.normals[:, 2] > 0.9] *= 0.15
    mirrored = np.zeros((len(gloss), 3), np.float32)
    shiny = np.nonzero(gloss > 0.04)[0]
    if len(shiny) == 0:
        return mirrored
    d, n = hits.directions[shiny], hits.normals[shiny]
    cos = np.clip(-dot(d, n), 0.0, 1.0)
    fresnel = 0.04 + 0.96 * (1.0 - cos) ** 5
    out = d + 2.0 * cos[:, None] * n
    seen = sky_luminance(np.asarray(out, np.float32), env)
    free = np.clip(0.35 + 2.0 * out[:, 2], 0.15, 1.0)  # low down, houses stand before the sky
    mirrored[shiny] = (gloss[shiny] * fresnel * free)[:, None] * np.minimum(
        seen, 20.0 * env.horizon.astype(np.float32) + 1.0
    )
    return mirrored
