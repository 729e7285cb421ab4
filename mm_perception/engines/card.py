"""The model card: everything about a weights file that its shapes do not tell.

One YAML file beside (or instead of) the weights. Classes, input encoding, normalisation and channel order are
properties of the weights: no other part of the package assumes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from mm_perception.core.config import load_yaml, setting, to_mapping
from mm_perception.core.errors import ConfigError, ModelError
from mm_perception.core.files import replace_file
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.core.resources import find_config
from mm_perception.engines.engine import TensorSpec, segmentation_specs

ENCODINGS: dict[str, tuple[str, ...]] = {
    "rgb": ("rgb",),
    "depth": ("raw", "hha"),
    "thermal": ("raw", "kelvin", "agc"),
    "events": ("voxel",),
    "lidar": ("range_height_intensity",),
}
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx")
MIN_SIDE_PX = 29  # the smallest image that the encoder takes
MAX_CLASSES = 255  # labels are stored in 8 bits and 255 means "ignore"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RANDOM = re.compile(r"random:([0-9]{1,18})")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Triple = tuple[float, float, float]
Colour = tuple[int, int, int]


class WeightsCard:
    """What cards of all kinds say of their weights."""

    __slots__ = ()
    name: str
    architecture: str
    weights: str
    weights_sha256: str | None
    trained: bool
    provenance: str

    @property
    def random_seed(self) -> int | None:
        """The seed of `random:<seed>` weights, None for a file."""
        match = _RANDOM.fullmatch(self.weights)
        return int(match.group(1)) if match else None

    @property
    def weights_path(self) -> Path | None:
        """The weights file, None for random weights. Absolute in a card that was read from a file."""
        return None if self.random_seed is not None else Path(self.weights)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's images [px]."""
        raise NotImplementedError

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of the network."""
        raise NotImplementedError

    def content_sha256(self) -> str:
        """Hash of every field, independent of where the card lies."""
        mapping = to_mapping(replace(self, weights=self._weights_name()))  # type: ignore[type-var]
        return hashlib.sha256(json.dumps(mapping, sort_keys=True).encode()).hexdigest()

    def _weights_name(self) -> str:
        return self.weights if self.weights_path is None else self.weights_path.name


CardT = TypeVar("CardT", bound=WeightsCard)


@dataclass(frozen=True, slots=True)
class ModelCard(WeightsCard):
    """One set of weights: what it is, what goes in and what comes out."""

    name: str = setting(description="short name; letters, digits, '.', '_' and '-'")
    variant: str = setting(description="MiT size of both encoder branches: tiny, or b0 to b5")
    classes: tuple[str, ...] = setting(description="class names; the index is the label")
    modality: Literal["rgb", "depth", "thermal", "events", "lidar"] = setting(
        description="what the second input shows; rgb: the image again"
    )
    encoding: str = setting(description="how the measurement becomes three channels; choices depend on modality")
    input_height: int = setting(description="height of both inputs [px]", minimum=MIN_SIDE_PX, maximum=8192)
    input_width: int = setting(description="width of both inputs [px]", minimum=MIN_SIDE_PX, maximum=8192)
    channel_order: Literal["rgb", "bgr"] = setting(description="channel order that the weights were trained with")
    trained: bool = setting(description="false: the labels mean nothing")
    weights: str = setting(description="random:<seed>, or a .pth, .safetensors or .onnx file beside the card")
    weights_sha256: str | None = setting(None, "of the weights file; required for .onnx")
    task: Literal["segmentation"] = setting("segmentation", "what comes out")
    architecture: Literal["cmx"] = setting("cmx", "the network")
    decoder_dim: int = setting(512, "width of the decoder", minimum=1, maximum=4096)
    palette: tuple[Colour, ...] | None = setting(None, "one RGB colour per class, 0..255")
    resize: Literal["stretch", "letterbox"] = setting("stretch", "how images reach the input size")
    rgb_mean: Triple = setting(IMAGENET_MEAN, "subtracted from rgb / 255, per channel as fed")
    rgb_std: Triple = setting(IMAGENET_STD, "divides rgb afterwards")
    x_mean: Triple = setting(IMAGENET_MEAN, "subtracted from x / 255, per channel as fed")
    x_std: Triple = setting(IMAGENET_STD, "divides x afterwards")
    provenance: str = setting("", "where the weights come from, and their licence")
    published: dict[str, float] | None = setting(None, "published figures by name, e.g. miou_percent")
    measured: dict[str, float] | None = setting(
        None, "figures measured by the training command on validation frames, e.g. miou.night as a fraction"
    )

    def __post_init__(self) -> None:
        problems = [*identity_problems(self.name, self.classes), *_variant_problems(self)]
        problems += [*_input_problems(self), *weights_problems(self)]
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.input_height, self.input_width

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return segmentation_specs(self.num_classes, self.input_height, self.input_width)


def identity_problems(name: str, classes: tuple[str, ...]) -> list[str]:
    """What is wrong with a card's name and classes."""
    problems = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        problems.append(f"name: expected letters, digits, '.', '_' and '-', got {name!r}")
    if not 1 <= len(classes) <= MAX_CLASSES:
        problems.append(f"classes: expected 1 to {MAX_CLASSES} names, got {len(classes)}")
    double = sorted(one for one, times in Counter(classes).items() if times > 1)
    if double or "" in classes:
        problems.append(f"classes: expected distinct, non-empty names, got {', '.join(double) or 'an empty one'} twice")
    return problems


def _variant_problems(card: ModelCard) -> list[str]:
    problems = []
    if not re.fullmatch(r"tiny|b[0-5]", card.variant):
        problems.append(f"variant: expected tiny or b0 to b5, got {card.variant!r}")
    if card.palette is not None and len(card.palette) != len(card.classes):
        problems.append(f"palette: expected {len(card.classes)} colours, got {len(card.palette)}")
    wrong = [c for c in card.palette or () if not all(0 <= v <= 255 for v in c)]
    if wrong:
        problems.append(f"palette: expected values in [0, 255], got {wrong[0]}")
    return problems


def _input_problems(card: ModelCard) -> list[str]:
    problems = []
    encodings = ENCODINGS.get(card.modality, ())
    if card.encoding not in encodings:
        known = ", ".join(encodings) or f"a modality of {', '.join(ENCODINGS)}"
        problems.append(f"encoding of {card.modality}: expected {known}, got {card.encoding!r}")
    for side in ("input_height", "input_width"):
        if getattr(card, side) < MIN_SIDE_PX:
            problems.append(f"{side}: expected at least {MIN_SIDE_PX} px, got {getattr(card, side)}")
    pixels = card.input_height * card.input_width
    if pixels > MAX_PIXELS:
        problems.append(f"input: expected at most {MAX_PIXELS} pixels in all, got {pixels}")
    for field in ("rgb_std", "x_std"):
        if not all(value > 0.0 for value in getattr(card, field)):
            problems.append(f"{field}: expected values > 0, got {getattr(card, field)}")
    return problems


def weights_problems(card: WeightsCard) -> list[str]:
    """What is wrong with a card's weights."""
    problems = []
    path = card.weights_path
    if path is not None and path.suffix not in WEIGHT_SUFFIXES:
        kinds = ", ".join(WEIGHT_SUFFIXES)
        problems.append(f"weights: expected random:<seed> or a file ({kinds}), got {card.weights!r}")
    if card.weights_sha256 is not None and not _SHA256.fullmatch(card.weights_sha256):
        problems.append(f"weights_sha256: expected 64 lower-case hex digits, got {card.weights_sha256!r}")
    if path is not None and path.suffix == ".onnx" and card.weights_sha256 is None:
        problems.append("weights_sha256: required for an .onnx file")
    if path is None and (card.trained or card.weights_sha256 is not None):
        problems.append("weights: random weights are neither trained nor hashed")
    return problems


def load_card(path: Path | str) -> ModelCard:
    """Reads a card; relative weights are taken from the card's folder.

    Raises:
        ModelError: the file is missing or has unknown, missing or impossible values (all are named).
    """
    return read_card(Path(path), ModelCard)


def read_card(path: Path, kind: type[CardT]) -> CardT:
    """A card of one kind; see `load_card`."""
    try:
        card = load_yaml(path, kind)
    except ConfigError as error:
        raise ModelError(f"model card {error}") from error
    if card.weights_path is None:
        return card
    try:
        weights = str(path.resolve().parent / card.weights_path.expanduser())
    except (OSError, RuntimeError, ValueError) as error:  # the home of nobody, links in a circle
        raise ModelError(f"model card {path}: weights {card.weights!r} are no name of a file ({error})") from error
    return replace(card, weights=weights)  # type: ignore[type-var]


def save_card(card: WeightsCard, path: Path | str) -> None:
    """Writes a card, atomically; weights in or below its folder are written relative to it."""
    path = Path(path)
    mapping: dict[str, Any] = {k: v for k, v in to_mapping(card).items() if v is not None}
    if card.weights_path is not None:
        weights, folder = card.weights_path.resolve(), path.resolve().parent
        mapping["weights"] = str(weights.relative_to(folder) if weights.is_relative_to(folder) else weights)
    text = yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    replace_file(path, text.encode())


def knows_simulation_alone(provenance: str) -> bool:
    """Whether a card says of its weights that this package's training made them of simulated frames, and of no others.

    The first clause tells on what they were trained; weights of other origin say what their author wrote.
    """
    trained_on = provenance.partition(";")[0]
    return trained_on.startswith("trained by `mm-perception") and "the simulated world" in trained_on


def find_card(name_or_path: str | Path) -> ModelCard:
    """The card of a shipped model by name ("cmx-b0-thermal-untrained") or of any card file by path.

    Raises:
        ModelError: neither exists (the message lists the known names) or the card is wrong.
    """
    return load_card(card_path(name_or_path))


def card_path(name_or_path: str | Path) -> Path:
    """Where a card lies; raises ModelError if it does not exist."""
    try:
        return find_config("models", str(name_or_path))
    except ConfigError as error:
        raise ModelError(str(error)) from error
