"""The RGB camera: from luminance to an 8-bit picture.

Physics: lens blur (Gaussian), veiling glare (a share of the light spread widely over the image, for dirt, drops and
the sun on the glass), motion blur along each pixel's own motion, exposure control that first lengthens the exposure
and then the gain, photon shot noise, read noise, saturation, and sRGB's transfer curve. Electrons per
pixel: N = K L t, with K = 2200 per cd/m2 and second (a 3 um pixel behind f/1.8, quantum efficiency 0.6).
Faults: noise and smear by night, saturation and glare against the light, rain streaks and drops on the glass.
Left out: rolling shutter, colour filter mosaic, lens distortion, HDR exposures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.geometry.camera import CameraModel
from mm_perception.sim.conditions import Environment
from mm_perception.sim.scene import F32

ELECTRONS_PER_CDM2_S = 2200.0
FULL_WELL = 10_000.0
READ_NOISE = 2.5
LONGEST_S, SHORTEST_S = 0.022, 2e-5
LARGEST_GAIN = 24.0
TARGET = 0.20  # of full scale, where the middle grey goes
_BLUR_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Exposure:
    """Exposure time [s] and gain of one picture."""

    time_s: float
    gain: float


def camera_rays(camera: CameraModel) -> F32:
    """(H * W, 3) unit rays of the pixel centres in the optical frame, row by row. The camera has no distortion."""
    k = camera.intrinsics
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones(u.shape)], axis=-1).reshape(-1, 3)
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True), np.float32)


def choose_exposure(luminance: F32) -> Exposure:
    """The exposure control of (H, W, 3) luminance: the lower part of the picture, where the road is, counts most."""
    grey = luminance[::4, ::4] @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    weight = np.linspace(0.5, 1.5, len(grey))[:, None] * np.ones_like(grey)
    middle = float(np.exp((np.log(grey + 1e-4) * weight).sum() / weight.sum()))
    bright = float(np.percentile(grey, 90))
    level = max(middle, 0.22 * bright)
    wanted = TARGET * FULL_WELL / (ELECTRONS_PER_CDM2_S * max(level, 1e-6))
    time_s = float(np.clip(wanted, SHORTEST_S, LONGEST_S))
    return Exposure(time_s, float(np.clip(wanted / time_s, 1.0, LARGEST_GAIN)))


def develop(
    luminance: F32, exposure: Exposure, env: Environment, generator: np.random.Generator, flow: F32 | None = None
) -> NDArray[np.uint8]:
    """The picture that the camera gives.

    Args:
        luminance: (H, W, 3) linear red, green, blue [cd/m2].
        flow: (H, W, 2) motion of each pixel's content [px/s]; None: nothing moves.

    Returns:
        (H, W, 3) uint8, sRGB.
    """
    light = np.asarray(cv2.GaussianBlur(luminance, (0, 0), 0.55), np.float32)
    light = _veil(light, env.lens_scatter)
    if env.rain_mm_h > 0:
        light = _rain(light, env, exposure, generator)
    if flow is not None:
        light = smear(light, flow * np.float32(exposure.time_s))
    electrons = light * np.float32(ELECTRONS_PER_CDM2_S * exposure.time_s)
    noise = generator.standard_normal(electrons.shape, np.float32)
    electrons += noise * np.sqrt(np.maximum(electrons, 0.0) + np.float32(READ_NOISE**2))
    signal = np.clip(electrons * np.float32(exposure.gain / FULL_WELL), 0.0, 1.0)
    return np.asarray(_SRGB[(signal * np.float32(4095.0)).astype(np.uint16)])


def _make_srgb() -> NDArray[np.uint8]:
    """Table of 12-bit linear values to 8-bit sRGB (IEC 61966-2-1)."""
    x = np.arange(4096) / 4095.0
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * curve).astype(np.uint8)


_SRGB = _make_srgb()


def _veil(light: F32, share: float) -> F32:
    """Spreads `share` of the light: a third close to its source, a third widely, a third over the whole image."""
    height, width = light.shape[:2]
    small = cv2.resize(light, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    bloom = cv2.GaussianBlur(small, (0, 0), 3.0)
    wide = cv2.GaussianBlur(small, (0, 0), height / 32.0)
    spread = cv2.resize(bloom + wide + small.mean(axis=(0, 1)), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(light * np.float32(1.0 - share) + spread * np.float32(share / 3.0), np.float32)


def smear(light: F32, motion_px: F32) -> F32:
    """Averages the picture along (H, W, 2) motion over the exposure; unchanged where it is below half a pixel."""
    if float(np.abs(motion_px).max()) < 0.5:
        return light
    height, width = light.shape[:2]
    u, v = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    motion = np.clip(motion_px, -24.0, 24.0)
    total = np.zeros_like(light)
    for share in np.linspace(-0.5, 0.5, _BLUR_SAMPLES, dtype=np.float32):
        total += cv2.remap(
            light,
            u + share * motion[..., 0],
            v + share * motion[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return np.asarray(total / _BLUR_SAMPLES, np.float32)


def _rain(light: F32, env: Environment, exposure: Exposure, generator: np.random.Generator) -> F32:
    """Streaks of falling drops, and drops on the glass that blur what is behind them."""
    height, width = light.shape[:2]
    mask = np.zeros((height, width), np.float32)
    count = int(6.0 * env.rain_mm_h * width * height / 307_200)
    x, y = generator.integers(0, width, count), generator.integers(-20, height, count)
    length = generator.uniform(4, 26, count) * (1.0 + min(exposure.time_s / 0.01, 2.0)) / 2
    slope, strength = generator.normal(0.06, 0.04, count), generator.uniform(0.02, 0.11, count)
    for i in range(count):
        end = (int(x[i] + slope[i] * length[i]), int(y[i] + length[i]))
        cv2.line(mask, (int(x[i]), int(y[i])), end, float(strength[i]), 1)
    sky = env.horizon.astype(np.float32)
    light = light * (1.0 - mask[..., None]) + mask[..., None] * sky
    drops = np.zeros((height, width), np.float32)
    for _ in range(int(generator.poisson(0.8 * env.rain_mm_h * width / 640))):
        center = (int(generator.integers(0, width)), int(generator.integers(0, height)))
        cv2.circle(drops, center, int(generator.integers(2, 9)), 1.0, -1, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(light, (0, 0), 6.0)
    return np.asarray(light * (1.0 - drops[..., None]) + blurred * drops[..., None], np.float32)
