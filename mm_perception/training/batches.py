"""Samples to batches of tensors, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.engines.card import ModelCard, Triple
from mm_perception.training.augment import augment
from mm_perception.training.recipe import Recipe
from mm_perception.training.samples import Sample, SampleSource, rgb_border, to_input, x_format

_ORDER, _FRAME = 0, 1  # streams of random numbers of one epoch


def epoch_order(count: int, recipe: Recipe, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of an epoch as indices into the source.

    The last, smaller batch is left out where there are others: batch norm would take its statistics from few frames.
    """
    order = np.random.default_rng((recipe.seed, epoch, _ORDER)).permutation(count)
    full = count // recipe.batch_size
    if full == 0:
        return [order]
    return list(order[: full * recipe.batch_size].reshape(full, recipe.batch_size))


def crop_size(card: ModelCard, recipe: Recipe) -> tuple[int, int]:
    """(height, width) of training crops [px]."""
    return recipe.crop_height or card.input_height, recipe.crop_width or card.input_width


def varied_sample(source: SampleSource, index: int, card: ModelCard, recipe: Recipe, epoch: int) -> Sample:
    """Frame `index` as it is shown in `epoch`: a function of the arguments alone, so a run can go on anywhere."""
    generator = np.random.default_rng((recipe.seed, epoch, _FRAME, index))
    sample, _ = to_input(source[index], card)
    return augment(sample, recipe, crop_size(card, recipe), x_format(card.modality), rgb_border(card), generator)


def stack(samples: Sequence[Sample], card: ModelCard, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """B samples of one size to rgb and x (B, 3, H, W) float32, normalised, and labels (B, H, W) int64."""
    form = x_format(card.modality)
    bgr = card.channel_order == "bgr"
    rgb, x, labels = (
        torch.from_numpy(np.stack([getattr(sample, part) for sample in samples])).to(device)
        for part in ("rgb", "x", "labels")
    )
    return (
        normalise(rgb, card.rgb_mean, card.rgb_std, bgr),
        normalise(x, card.x_mean, card.x_std, bgr and form.is_rgb, form.gain, form.offset),
        labels.long(),
    )


def normalise(
    images: Tensor, mean: Triple, std: Triple, reverse_channels: bool, gain: float = 1.0 / 255.0, offset: float = 0.0
) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32: what `sensing.image.to_tensor` does, for a batch.

    Args:
        gain, offset: value = gain * byte + offset, see `XFormat`.
    """
    if reverse_channels:
        images = images.flip(-1)
    spread = np.asarray(std, np.float32)
    # The pipeline divides by 255 * std in float32, and equal inputs should be equal to the last bit.
    scale = 1.0 / (spread * np.float32(1.0 / gain))
    shift = np.asarray(mean, np.float32) / spread - np.float32(offset) / spread
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    parts = (torch.from_numpy(np.asarray(part, np.float32)).to(images.device)[:, None, None] for part in (scale, shift))
    factor, subtrahend = parts
    return planes * factor - subtrahend
