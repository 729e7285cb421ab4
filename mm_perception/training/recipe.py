"""How a network is trained: everything that shapes the result beside the card and the frames.

The published recipe (CMX, arXiv:2203.04838, section IV): AdamW with 6e-5 and 0.01, poly 0.9 after 10 epochs of
warm-up, batch 8, flips, random scales and crops, cross entropy. The defaults are those of the paper except where a
comment says so.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from mm_perception.core.config import setting, to_mapping
from mm_perception.core.errors import ConfigError
from mm_perception.engines.card import MIN_SIDE_PX

PUBLISHED_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of one training run."""

    epochs: int = setting(100, "passes over the training frames", minimum=1, maximum=100_000)
    minutes: float | None = setting(
        None,
        "instead of epochs a budget of wall time: the learning rate follows the share of it that is used, so the "
        "run ends on time and the number of steps depends on the machine",
        minimum=0.0,
        maximum=1e5,
    )
    batch_size: int = setting(8, "frames per step", minimum=1, maximum=4096)
    crop_height: int = setting(0, "height of the training crops [px]; 0: the card's input", minimum=0, maximum=8192)
    crop_width: int = setting(0, "width of the training crops [px]; 0: the card's input", minimum=0, maximum=8192)
    # Differs from the paper: 6e-5 there, for ImageNet weights of the encoder; from random weights that is too slow.
    learning_rate: float = setting(1e-3, "of AdamW, at its peak", minimum=1e-9, maximum=1.0)
    weight_decay: float = setting(0.01, "of AdamW; none on biases and norms", minimum=0.0, maximum=1.0)
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW", minimum=0.0, maximum=0.999999)
    poly_power: float = setting(0.9, "the rate falls as (1 - share of the run) to this power", minimum=0.0, maximum=9.0)
    # Differs from the paper: 10 of 500 epochs there; a share of the run serves short runs as well.
    warmup: float = setting(0.02, "share of the run in which the rate rises from 0", minimum=0.0, maximum=1.0)
    warmup_epochs: float | None = setting(None, "instead of `warmup`: in epochs of `epochs`", minimum=0.0, maximum=1e5)
    scales: tuple[float, ...] = setting(PUBLISHED_SCALES, "one is drawn per frame", minimum=0.05, maximum=20.0)
    flip: bool = setting(True, "mirror every other frame, drawn at random")
    brightness: float = setting(0.0, "rgb is made up to this share brighter or darker", minimum=0.0, maximum=1.0)
    contrast: float = setting(0.0, "contrast of rgb is changed by up to this share", minimum=0.0, maximum=1.0)
    class_weights: Literal["none", "sqrt_inverse"] = setting("none", "weight of a class in the loss, by its frequency")
    label_smoothing: float = setting(0.0, "of the cross entropy", minimum=0.0, maximum=0.9)
    clip_norm: float = setting(0.0, "longest gradient; 0: any", minimum=0.0, maximum=1e6)
    ema_decay: float = setting(
        0.0, "of the moving average of weights that is kept; 0: none", minimum=0.0, maximum=0.99999
    )
    val_every: int = setting(1, "epochs between validations", minimum=1, maximum=100_000)
    seed: int = setting(0, "of order, augmentation and dropout", minimum=0, maximum=2**31 - 1)

    def __post_init__(self) -> None:
        problems = []
        for side in ("crop_height", "crop_width"):
            if 0 < getattr(self, side) < MIN_SIDE_PX:
                problems.append(f"{side}: expected 0 or at least {MIN_SIDE_PX} px, got {getattr(self, side)}")
        if not self.scales:
            problems.append("scales: expected at least one")
        if self.minutes is not None and self.minutes <= 0.0:
            problems.append(f"minutes: expected more than 0, got {self.minutes}")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            problems.append(f"warmup_epochs: expected at most {self.epochs} epochs, got {self.warmup_epochs}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def warmup_share(self) -> float:
        """The warm-up as a share of the run."""
        return self.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs

    def digest(self) -> str:
        """Twelve hex digits that stand for all settings."""
        return hashlib.sha256(json.dumps(to_mapping(self), sort_keys=True).encode()).hexdigest()[:12]


def learning_rate(recipe: Recipe, share: float) -> float:
    """The rate when `share` (0..1) of the run is done.

    A linear rise over the warm-up times (1 - share)^power. Differs from the published code, which applies the
    power only after the warm-up: the product has no jump there.
    """
    rise = 1.0 if recipe.warmup_share == 0.0 else min(1.0, share / recipe.warmup_share)
    fall = float((1.0 - min(share, 1.0)) ** recipe.poly_power)
    return recipe.learning_rate * rise * fall
