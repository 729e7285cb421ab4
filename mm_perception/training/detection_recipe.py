"""How a detector is trained: everything that shapes the result beside the frames.

After DeepInteraction (arXiv:2208.11112, section IV): AdamW; first the LiDAR's stream by itself, then, with that frozen,
what fuses. Differs from the paper: the image backbone learns with the fusion, helped by hills of projected centres,
because there are no pretrained weights to begin with.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

from mm_perception.core.config import setting, to_mapping
from mm_perception.training.detection_samples import Variation

Stage = Literal["lidar", "fusion"]
STAGES: tuple[Stage, ...] = ("lidar", "fusion")


@dataclass(frozen=True, slots=True)
class DetectorRecipe:
    """The settings of one training run."""

    lidar_steps: int = setting(6000, "steps of the LiDAR's stream by itself", minimum=0, maximum=10_000_000)
    fusion_steps: int = setting(6000, "steps of what fuses", minimum=0, maximum=10_000_000)
    batch_size: int = setting(2, "frames per step", minimum=1, maximum=1024)
    lidar_rate: float = setting(2e-3, "learning rate of AdamW at its peak, first stage", minimum=1e-9, maximum=1.0)
    fusion_rate: float = setting(1e-3, "the same, second stage", minimum=1e-9, maximum=1.0)
    warmup: int = setting(200, "steps in which the rate rises from 0; it falls as a cosine", minimum=0, maximum=100_000)
    weight_decay: float = setting(0.01, "of AdamW; none on biases and norms", minimum=0.0, maximum=1.0)
    clip_norm: float = setting(5.0, "longest gradient", minimum=1e-6, maximum=1e6)
    image_hills: float = setting(0.5, "weight of the hills of centres in the images", minimum=0.0, maximum=100.0)
    turn_rad: float = setting(0.785, "largest turn of the ground", minimum=0.0, maximum=math.pi)
    shift_m: float = setting(0.5, "deviation of the ground's shift", minimum=0.0, maximum=10.0)
    scale: float = setting(0.07, "the ground is scaled by up to this share", minimum=0.0, maximum=0.5)
    mirror: bool = setting(True, "mirror ground and images at random")
    brightness: float = setting(0.2, "images become up to this share brighter or darker", minimum=0.0, maximum=1.0)
    drop_camera: float = setting(0.05, "chance that a camera is missing", minimum=0.0, maximum=1.0)
    precision: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "of the image and fusion streams in the second stage; sums, boxes and losses are float32"
    )
    val_every: int = setting(1000, "steps between validations", minimum=1, maximum=10_000_000)
    seed: int = setting(0, "of weights, order and variation", minimum=0, maximum=2**31 - 1)

    @property
    def variation(self) -> Variation:
        """How frames are varied."""
        return Variation(
            self.turn_rad, self.shift_m, (1.0 - self.scale, 1.0 + self.scale), self.mirror, self.brightness,
            self.drop_camera,
        )  # fmt: skip

    def steps(self, stage: Stage) -> int:
        return self.lidar_steps if stage == "lidar" else self.fusion_steps

    def rate(self, stage: Stage, step: int) -> float:
        """The learning rate of the coming step of a stage."""
        peak = self.lidar_rate if stage == "lidar" else self.fusion_rate
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return peak * rise * 0.5 * (1.0 + math.cos(math.pi * step / max(self.steps(stage), 1)))

    def digest(self) -> str:
        """Twelve hex digits that stand for all settings."""
        return hashlib.sha256(json.dumps(to_mapping(self), sort_keys=True).encode()).hexdigest()[:12]
