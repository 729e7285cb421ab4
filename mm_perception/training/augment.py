"""Random variations of a frame: the same place, size and mirror for image, X image and labels.

CMX (arXiv:2203.04838, section IV) flips, scales by 0.5 to 1.75 and crops. The jitter of the image's brightness and
contrast differs from the paper, where there is none; it is off unless a recipe asks for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.types import IGNORE_LABEL
from mm_perception.training.recipe import Recipe
from mm_perception.training.samples import Sample, XFormat


def augment(
    sample: Sample, recipe: Recipe, size: tuple[int, int], form: XFormat, border: int, generator: np.random.Generator
) -> Sample:
    """A random variation of `sample`.

    Args:
        size: (height, width) of the result [px].
        form: what the X image is.
        border: value of rgb where the crop leaves the image; X gets its own "nothing", labels get 255.
    """
    scale = float(generator.choice(recipe.scales))
    mirrored = recipe.flip and bool(generator.random() < 0.5)
    place = generator.random(2)
    brightness, contrast = generator.uniform(-1.0, 1.0, 2) * (recipe.brightness, recipe.contrast)
    varied = random_crop(rescale(sample, scale, form.nearest), size, form, border, (float(place[0]), float(place[1])))
    if mirrored:
        varied = flip(varied)
    if recipe.brightness or recipe.contrast:
        rgb = jitter(varied.rgb, 1.0 + float(brightness), 1.0 + float(contrast))
        varied = replace(varied, rgb=rgb, x=rgb if form.is_rgb else varied.x)
    return varied


def flip(sample: Sample) -> Sample:
    """Mirrors left and right."""
    rgb, x, labels = (np.ascontiguousarray(pixels[:, ::-1]) for pixels in (sample.rgb, sample.x, sample.labels))
    return replace(sample, rgb=rgb, x=x, labels=labels)


def rescale(sample: Sample, scale: float, x_nearest: bool) -> Sample:
    """Resizes both axes by `scale`; labels take the nearest pixel, and X too where `x_nearest`."""
    height, width = sample.labels.shape
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return sample
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    nearest = cv2.INTER_NEAREST_EXACT
    return replace(
        sample,
        rgb=_resize(sample.rgb, size, smooth),
        x=_resize(sample.x, size, nearest if x_nearest else smooth),
        labels=_resize(sample.labels, size, nearest),
    )


def random_crop(
    sample: Sample, size: tuple[int, int], form: XFormat, border: int, place: tuple[float, float]
) -> Sample:
    """Cuts `size` (height, width) out of the sample, padded at random sides where the sample is smaller.

    Args:
        place: down and across, each 0..1, where the window lies within its room.
    """
    height, width = sample.labels.shape
    top, left = (round(share * (have - want)) for share, have, want in zip(place, (height, width), size, strict=True))
    x_border = border if form.is_rgb else form.empty
    return replace(
        sample,
        rgb=_window(sample.rgb, top, left, size, border),
        x=_window(sample.x, top, left, size, x_border),
        labels=_window(sample.labels, top, left, size, IGNORE_LABEL),
    )


def jitter(rgb: NDArray[np.uint8], brightness: float, contrast: float) -> NDArray[np.uint8]:
    """Multiplies distances from the mean by `contrast`, then everything by `brightness`."""
    mean = float(rgb.mean())
    table = ((np.arange(256) - mean) * contrast + mean) * brightness
    return np.asarray(np.clip(np.rint(table), 0, 255).astype(np.uint8)[rgb], np.uint8)


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int], method: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8)


def _window(pixels: NDArray[np.uint8], top: int, left: int, size: tuple[int, int], border: int) -> NDArray[np.uint8]:
    """Rows from `top` and columns from `left`; both may be negative, the outside is `border`."""
    height, width = size
    out: NDArray[Any] = np.full((height, width, *pixels.shape[2:]), border, np.uint8)
    inner = pixels[max(0, top) : top + height, max(0, left) : left + width]
    row, column = max(0, -top), max(0, -left)
    out[row : row + inner.shape[0], column : column + inner.shape[1]] = inner
    return out
