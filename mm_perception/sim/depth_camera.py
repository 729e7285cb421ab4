"""The stereo depth camera.

A disparity of d = f B / z pixels is measured with noise s, which grows where the picture is dark or the air is thick;
so the depth's standard deviation follows s z^2 / (f B). Disparities come in sixteenths of a pixel. Holes: the sky, out
of range, mirrors and glass, the strip left of near edges that the right camera does not see, pixels too dark to match,
and random mismatches. It shares the RGB camera's view. Left out: the smoothing and fattening of block matchers.
"""

from __future__ import annotations

import numpy as np

from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32

BASELINE_M = 0.3
DISPARITY_NOISE_PX = 0.12
SUBPIXEL = 1.0 / 16.0
NEAREST_M, FARTHEST_M = 0.6, 65.0
MISMATCH_SHARE = 0.006
_DARK_ELECTRONS = 14.0


def disparity_noise(electrons: F32, z_m: F32, env: Environment) -> F32:
    """Standard deviation of the disparity [px]: the noise floor, more where few photons or much fog is."""
    dark = _DARK_ELECTRONS / np.maximum(electrons, 1.0)
    haze = np.exp(0.5 * np.float32(env.extinction_1pm) * np.nan_to_num(z_m, posinf=200.0)) - 1.0
    return np.asarray(DISPARITY_NOISE_PX * (1.0 + dark + haze), np.float32)


def measure_depth(
    z_m: F32, focal_px: float, electrons: F32, gloss: F32, env: Environment, generator: np.random.Generator
) -> F32:
    """What the camera reports.

    Args:
        z_m: (H, W) true depth along the optical axis [m]; infinite for the sky.
        electrons: (H, W) signal of the stereo cameras.
        gloss: (H, W) 0..1, of the surfaces.

    Returns:
        (H, W) float32 depth [m]; NaN in holes.
    """
    disparity = np.where(np.isfinite(z_m), focal_px * BASELINE_M / np.maximum(z_m, 1e-3), 0.0).astype(np.float32)
    sigma = disparity_noise(electrons, z_m, env)
    noisy = disparity + sigma * generator.standard_normal(z_m.shape, np.float32)
    noisy = np.rint(noisy / np.float32(SUBPIXEL)) * np.float32(SUBPIXEL)
    with np.errstate(divide="ignore", invalid="ignore"):
        measured = focal_px * BASELINE_M / noisy
    hole = ~np.isfinite(z_m) | ~(measured >= NEAREST_M) | (measured > FARTHEST_M)
    draw = generator.random(z_m.shape, np.float32)
    lost = MISMATCH_SHARE + 0.55 * (gloss > 0.7) + np.clip((sigma - 0.6) * 0.6, 0.0, 0.95)
    hole |= draw < lost
    hole |= _half_occluded(disparity)
    return np.asarray(np.where(hole, np.nan, measured), np.float32)


def _half_occluded(disparity: F32) -> np.ndarray:
    """(H, W) pixels that the right camera does not see: something to their right hides them there.

    A pixel u is at u - d in the right picture; it is hidden if one further right lands at or left of it.
    """
    place = np.arange(disparity.shape[1], dtype=np.float32) - disparity
    least_to_the_right = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(least_to_the_right < place - 0.75)
