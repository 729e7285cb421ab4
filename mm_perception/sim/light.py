"""Light: the luminance that comes back along rays, before a camera sees it.

Matt surfaces follow Lambert's law, L = albedo E / pi; glass and wet ground add a mirror image of the sky with Schlick's
approximation of Fresnel's term (Schlick, Computer Graphics Forum 1994); fog and rain follow Koschmieder's law,
L = L0 exp(-b d) + La (1 - exp(-b d)). One bounce of the sun's light off the ground is a constant. Street lamps and
other vehicles' headlights cast no shadows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32, Appearance, Hits, Scene, dot
from mm_perception.sim.surfaces import SKY_SURFACE

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
        beam, retro = _headlights(scene, near, env)
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
    """(M, 3) light of sky, ground, sun and street lamps that falls on M hits [lux]."""
    n = hits.normals
    ground = 0.12 * (env.sky_lux + np.maximum(env.sun_direction[2], 0.0) * env.sun_lux)
    open_sky = _open_sky(scene, hits)
    light = (open_sky * (0.5 + 0.5 * n[:, 2]))[:, None] * env.sky_lux.astype(np.float32)
    light += (0.5 - 0.5 * n[:, 2])[:, None] * ground.astype(np.float32)
    if env.sun_lux.max() > 0:
        light += sunlit[:, None] * env.sun_lux.astype(np.float32)
    if env.lamps_on:
        _add_lamps(scene, hits, light)
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


def _add_lamps(scene: Scene, hits: Hits, light: F32) -> None:
    """Adds E = I cos(a) cos(b) / r2 of the street lamps within reach, in place."""
    px, py, pz = (np.ascontiguousarray(column) for column in hits.points.T)
    for lamp in scene.snapshot.lamps:
        x, y, z = (np.float32(v) for v in lamp.position)
        square = np.square(px - x) + np.square(py - y)
        near = np.nonzero(square < _LAMP_REACH_M**2)[0]
        if len(near) == 0:
            continue
        to_lamp = np.stack([x - px[near], y - py[near], z - pz[near]], axis=1)
        r2 = np.maximum(dot(to_lamp, to_lamp), 0.25)
        r = np.sqrt(r2)
        facing = np.clip(dot(hits.normals[near], to_lamp) / r, 0.0, 1.0)
        level = facing * np.clip(to_lamp[:, 2] / r, 0.0, 1.0) ** 0.7 * np.float32(lamp.candela) / r2
        light[near] += level[:, None] * np.asarray(lamp.colour, np.float32)


def _headlights(scene: Scene, hits: Hits, env: Environment) -> tuple[F32, F32]:
    """Light of the nearest headlights [lux]: (M, 3) on matt surfaces, (M,) the ego vehicle's share for reflectors."""
    light = np.zeros((len(hits.range_m), 3), np.float32)
    retro = np.zeros(len(hits.range_m), np.float32)
    sources = scene.snapshot.headlights
    distance = np.hypot(*(sources[:, :2] - sources[0, :2]).T)
    for row in np.argsort(distance, kind="stable")[:4]:
        if distance[row] > _OTHERS_NEAR_M:
            break
        x, y, yaw, own = sources[row]
        cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
        dx, dy = hits.points[:, 0] - np.float32(x), hits.points[:, 1] - np.float32(y)
        ahead = dx * cos + dy * sin
        lit = np.nonzero((ahead > 0.3) & (dx * dx + dy * dy < _HEADLIGHT_REACH_M**2))[0]
        if len(lit) == 0:
            continue
        ahead, left = ahead[lit], dy[lit] * cos - dx[lit] * sin
        up = hits.points[lit, 2] - np.float32(HEADLIGHT_HEIGHT_M)
        r2 = np.maximum(np.square(ahead) + np.square(left) + np.square(up), 0.5)
        r = np.sqrt(r2)
        level = HEADLIGHT_CANDELA / r2 * low_beam(np.arctan2(left, ahead), up / ahead)
        level *= np.exp(-np.float32(env.extinction_1pm) * r)
        n = hits.normals[lit]
        facing = np.clip(-(n[:, 0] * dx[lit] + n[:, 1] * dy[lit] + n[:, 2] * up) / r, 0.0, 1.0)
        light[lit] += (level * facing)[:, None] * np.array([1.0, 0.95, 0.85], np.float32)
        if own:
            retro[lit] += level
    return light, retro


def low_beam(azimuth_rad: F32, slope: F32) -> F32:
    """Share 0..1 of the full intensity in a direction; `slope` is the tangent of the elevation.

    A low beam after ECE R112's idea: bright below the horizontal cut-off, 3 % stray light above it.
    """
    above = slope - np.float32(_CUTOFF_RAD)
    below = 1.0 / (1.0 + np.exp(np.clip(above / 0.006, -30.0, 30.0)))
    reach = np.exp(-np.square(np.minimum(above, 0.0) / 0.075))
    return np.asarray(np.exp(-np.square(azimuth_rad / 0.55)) * (0.03 + 0.97 * below * reach), np.float32)


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
