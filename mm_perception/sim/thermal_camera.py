"""The thermal (LWIR, 8-14 um) camera: 14-bit counts of an uncooled microbolometer.

Band radiance is Planck's law integrated over the band, as the usual three-constant form W(T) = 1 / (exp(B / T) - 1)
with B = 1428 K; counts are OFFSET + RESPONSIVITY (W(T) - W(253 K)). What reaches a pixel (radiative transfer):

    W = t [e W(T_surface) + (1 - e) W(T_reflected)] + (1 - t) W(T_air),   t = exp(-extinction range)

Surface temperatures: air + warmth from within + sunshine absorbed now + what the day left; a body is on the way from
the air's temperature to 310 K. Faults: lens blur, temporal noise (NETD 50 mK), and what the last non-uniformity
correction (NUC) left: fixed offsets per pixel and column. Left out: drift between corrections, thermal lag (motion
blur of about 10 ms), spatial spread of heat.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32, Hits, Warmth, dot

PLANCK_B_K = 1428.0
COLD_K = 253.0
OFFSET = 1000.0
RESPONSIVITY = 550_000.0
FULL_SCALE = 16383
NETD_K = 0.05
NUC_PIXEL_K, NUC_COLUMN_K = 0.06, 0.08
BODY_K = 310.0


def band_radiance(kelvin: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """Radiance in 8-14 um, in units of the three-constant form's own scale."""
    return np.asarray(1.0 / (np.exp(PLANCK_B_K / np.asarray(kelvin)) - 1.0))


def counts_of(kelvin: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """Counts of a black body of that temperature, before noise and rounding."""
    return np.asarray(OFFSET + RESPONSIVITY * (band_radiance(kelvin) - band_radiance(COLD_K)))


def kelvin_of(counts: NDArray[np.floating] | float) -> NDArray[np.floating]:
    """The inverse of `counts_of`: the temperature of a black body [K]."""
    radiance = (np.asarray(counts) - OFFSET) / RESPONSIVITY + band_radiance(COLD_K)
    return np.asarray(PLANCK_B_K / np.log(1.0 / radiance + 1.0))


def surface_kelvin(hits: Hits, warmth: Warmth, sunlit: F32, env: Environment) -> F32:
    """(M,) temperature of surfaces [K].

    Args:
        sunlit: (M,) 0..1, cosine of the sun on each point, 0 in shade.
    """
    now = sunlit * np.float32(min(env.sun_lux.max() / 80_000.0, 1.0))
    warm = env.heating * warmth.sun_gain_k * (0.35 + 0.65 * now)
    # Under an open sky surfaces radiate their heat away; clouds, fog and rain keep them near the air's temperature.
    loss = np.clip(hits.normals[:, 2], 0.0, 1.0) * np.float32((env.air_k - env.sky_k) / 50.0 * 3.0)
    dry = np.float32(1.0 - 0.6 * env.wetness)
    kelvin = env.air_k + dry * warm - dry * loss + warmth.heat_k * np.float32(1.0 - 0.3 * env.wetness)
    return np.asarray(kelvin + warmth.body * (BODY_K - env.air_k), np.float32)


def sky_kelvin(directions: F32, env: Environment) -> F32:
    """(N,) apparent temperature of the sky: coldest at the zenith, the air's at the horizon."""
    up = np.clip(directions[:, 2], 0.0, 1.0)
    return np.asarray(env.air_k + (env.sky_k - env.air_k) * up**0.35, np.float32)


def sky_radiance(directions: F32, env: Environment) -> F32:
    """(N,) band radiance of the sky along N rays."""
    return np.asarray(band_radiance(sky_kelvin(directions, env)), np.float32)


def surface_radiance(hits: Hits, warmth: Warmth, sunlit: F32, env: Environment) -> F32:
    """(M,) band radiance that reaches the camera from M hits: emitted, reflected, and the air's between."""
    air = np.float32(band_radiance(env.air_k))
    d, n = hits.directions, hits.normals
    mirrored = d - 2.0 * dot(d, n)[:, None] * n
    own = band_radiance(surface_kelvin(hits, warmth, sunlit, env)).astype(np.float32)
    passed = np.exp(-np.float32(env.thermal_extinction_1pm) * hits.range_m)
    e = warmth.emissivity
    return np.asarray(passed * (e * own + (1.0 - e) * sky_radiance(mirrored, env)) + (1.0 - passed) * air, np.float32)


class ThermalCamera:
    """One camera with its own fixed pattern."""

    def __init__(self, width: int, height: int, generator: np.random.Generator) -> None:
        pixel = NUC_PIXEL_K * generator.standard_normal((height, width))
        column = NUC_COLUMN_K * generator.standard_normal((1, width))
        self._pattern_k = (pixel + column).astype(np.float32)

    def measure(self, radiance: F32, generator: np.random.Generator) -> NDArray[np.uint16]:
        """(H, W) band radiance to (H, W) uint16 counts in the low 14 bits."""
        blurred = cv2.GaussianBlur(radiance, (0, 0), 0.7)
        noise_k = self._pattern_k + np.float32(NETD_K) * generator.standard_normal(radiance.shape, np.float32)
        slope = RESPONSIVITY * (band_radiance(300.5) - band_radiance(299.5))  # counts per kelvin at 300 K
        counts = OFFSET + RESPONSIVITY * (blurred - band_radiance(COLD_K)) + slope * noise_k
        return np.asarray(np.clip(np.rint(counts), 0, FULL_SCALE), np.uint16)
