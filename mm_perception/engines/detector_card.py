"""The card of a detector: everything about its weights that shapes do not tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mm_perception.core.config import setting
from mm_perception.core.detector import (
    INDEX_INPUTS,
    VARIANTS,
    DetectorVariant,
    detector_variant,
    input_shapes,
    output_shapes,
)
from mm_perception.core.errors import ConfigError, ModelError
from mm_perception.core.yaml_file import read_yaml
from mm_perception.engines.card import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelCard,
    Triple,
    WeightsCard,
    card_path,
    identity_problems,
    read_card,
    weights_problems,
)
from mm_perception.engines.engine import TensorSpec


@dataclass(frozen=True, slots=True)
class DetectorCard(WeightsCard):
    """One set of weights of DeepInteraction++."""

    name: str = setting(description="short name; letters, digits, '.', '_' and '-'")
    variant: str = setting(description="sizes of the network: " + ", ".join(VARIANTS))
    classes: tuple[str, ...] = setting(description="class names; the index is the label")
    channel_order: Literal["rgb", "bgr"] = setting(description="channel order that the weights were trained with")
    trained: bool = setting(description="false: the boxes mean nothing")
    weights: str = setting(description="random:<seed>, or a .pth, .safetensors or .onnx file beside the card")
    weights_sha256: str | None = setting(None, "of the weights file; required for .onnx")
    task: Literal["detection"] = setting("detection", "what comes out")
    architecture: Literal["deepinteraction"] = setting("deepinteraction", "the network")
    image_mean: Triple = setting(IMAGENET_MEAN, "subtracted from image / 255, per channel as fed")
    image_std: Triple = setting(IMAGENET_STD, "divides images afterwards")
    published_decoder_quirk: bool = setting(
        False,
        "mirror the published decoder's slip (see models/deepinteraction/decoder.py), for weights trained with it",
    )
    min_score: float = setting(0.1, "boxes below are not reported", minimum=0.0, maximum=1.0)
    provenance: str = setting("", "where the weights come from, and their licence")
    published: dict[str, float] | None = setting(None, "published figures by name")
    measured: dict[str, float] | None = setting(None, "figures measured on validation frames")
    position_deviation_m: dict[str, float] | None = setting(
        None, "by class: standard deviation of a found middle along each axis of the ground [m]", minimum=0.0
    )
    yaw_deviation_rad: dict[str, float] | None = setting(
        None, "by class: standard deviation of the heading [rad]", minimum=0.0
    )

    def __post_init__(self) -> None:
        problems = [*identity_problems(self.name, self.classes), *weights_problems(self)]
        if self.variant not in VARIANTS:
            problems.append(f"variant: expected one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if not all(value > 0.0 for value in self.image_std):
            problems.append(f"image_std: expected values > 0, got {self.image_std}")
        for field in ("position_deviation_m", "yaw_deviation_rad"):
            problems += _deviation_problems(field, getattr(self, field) or {}, self.classes)
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def deviations(self) -> dict[str, tuple[float, float]]:
        """By class, where known: of the position along each axis [m], and of the heading [rad], 0 if unknown."""
        yaw_rad = self.yaw_deviation_rad or {}
        return {name: (value, yaw_rad.get(name, 0.0)) for name, value in (self.position_deviation_m or {}).items()}

    @property
    def sizes(self) -> DetectorVariant:
        return detector_variant(self.variant)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.sizes.image_size

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        inputs = tuple(
            TensorSpec(name, shape, "int64" if name in INDEX_INPUTS else "float32")
            for name, shape in input_shapes(self.sizes).items()
        )
        outputs = tuple(
            TensorSpec(name, shape, "int64" if name == "labels" else "float32")
            for name, shape in output_shapes(self.sizes, len(self.classes)).items()
        )
        return inputs, outputs


def _deviation_problems(field: str, values: Mapping[str, float], classes: tuple[str, ...]) -> list[str]:
    """What is wrong with deviations by class; a class may be missing."""
    strange = [name for name in values if name not in classes]
    infinite = [name for name, value in values.items() if not math.isfinite(value)]
    return [f"{field}: {name} is no class of this card" for name in strange] + [
        f"{field}: expected a finite number, got {values[name]} for {name}" for name in infinite
    ]


def find_detector_card(name_or_path: str | Path) -> DetectorCard:
    """The card of a shipped detector by name, or of any card file by path.

    Raises:
        ModelError: it does not exist or is wrong.
    """
    return read_card(card_path(name_or_path), DetectorCard)


def find_any_card(name_or_path: str | Path) -> ModelCard | DetectorCard:
    """The card of a model of any task, by name or path.

    Raises:
        ModelError: it does not exist or is wrong.
    """
    path = card_path(name_or_path)
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise ModelError(f"model card {error}") from error
    detects = isinstance(content, Mapping) and content.get("task") == "detection"
    return read_card(path, DetectorCard) if detects else read_card(path, ModelCard)
