"""One training frame, and what the numbers of its X image mean."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import IGNORE_LABEL
from mm_perception.engines.card import Colour, ModelCard
from mm_perception.sensing.image import Placement, to_tensor

EVENT_STEP = 1.0 / 32.0
EVENT_ZERO = 128


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One frame.

    Attributes:
        rgb: (H, W, 3) uint8, red first.
        x: (H, W, 3) uint8, the X image in steps of its `XFormat`; of modality rgb the image itself.
        labels: (H, W) uint8 class ids, 255 where the loss does not look.
        condition: under which it was taken ("night"); empty if unknown.
    """

    rgb: NDArray[np.uint8]
    x: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    condition: str = ""

    def __post_init__(self) -> None:
        size = self.labels.shape
        for what, pixels, shape in (
            ("rgb", self.rgb, (*size, 3)),
            ("x", self.x, (*size, 3)),
            ("labels", self.labels, size),
        ):
            if pixels.dtype != np.uint8 or pixels.shape != shape or len(size) != 2 or pixels.size == 0:
                raise DataError(f"sample {what}: expected uint8 of shape {shape}, got {pixels.dtype} {pixels.shape}")


class SampleSource(Protocol):
    """Frames by index. `classes` are the meaning of the labels; `description` goes into the card's provenance."""

    classes: tuple[str, ...]
    palette: tuple[Colour, ...] | None
    description: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class MemorySource:
    """Samples in a list."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: tuple[str, ...],
        description: str,
        palette: tuple[Colour, ...] | None = None,
    ) -> None:
        self.classes, self.palette, self.description = classes, palette, description
        self._samples = list(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


@dataclass(frozen=True, slots=True)
class XFormat:
    """How 8 bits hold an X image: value = gain * byte + offset.

    Attributes:
        empty: the byte where nothing was measured.
        nearest: whether scaling takes the nearest pixel: mixing "nothing" with a range invents ranges.
        is_rgb: whether the X image is the RGB image again.
    """

    gain: float
    offset: float
    empty: int
    nearest: bool
    is_rgb: bool

    def quantise(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """(H, W, 3) X image as `SegmentationPipeline.x_image` gives it to bytes; values out of range are cut."""
        steps = (np.asarray(image, np.float32) - np.float32(self.offset)) / np.float32(self.gain)
        return np.asarray(np.clip(np.rint(steps), 0, 255), np.uint8)


def x_format(modality: str) -> XFormat:
    """The format of a modality's X images.

    All are 0..1 in 255 steps with 0 for "not measured", except event voxels: they are signed with deviation 1, so
    128 is 0 and a step is 1/32 (-4..3.97).
    """
    if modality == "events":
        return XFormat(EVENT_STEP, -EVENT_ZERO * EVENT_STEP, EVENT_ZERO, False, False)
    return XFormat(1.0 / 255.0, 0.0, 0, modality in ("depth", "lidar"), modality == "rgb")


def check_labels(labels: NDArray[np.uint8], num_classes: int, where: str) -> None:
    """Raises DataError, naming `where` and the values, if a label is neither a class nor 255."""
    found = np.nonzero(np.bincount(labels.reshape(-1), minlength=256))[0]
    wrong = found[(found >= num_classes) & (found != IGNORE_LABEL)]
    if len(wrong):
        values = ", ".join(map(str, wrong[:5].tolist()))
        raise DataError(f"{where}: label {values}: expected ids below {num_classes}, or {IGNORE_LABEL} to ignore")


def to_input(sample: Sample, card: ModelCard) -> tuple[Sample, Placement]:
    """The sample at the card's input size, as the pipeline would place it; labels nearest, their border ignored."""
    height, width = sample.labels.shape
    placement = Placement.fit(width, height, card.input_width, card.input_height, card.resize)
    form = x_format(card.modality)
    rgb = placement.resize(sample.rgb, border=rgb_border(card))
    x = rgb if form.is_rgb else placement.resize(sample.x, nearest=form.nearest, border=form.empty)
    labels = placement.resize(sample.labels, nearest=True, border=IGNORE_LABEL)
    return replace(sample, rgb=rgb, x=x, labels=labels), placement


def rgb_border(card: ModelCard) -> int:
    """The grey around images, as in the pipeline: the mean colour says least."""
    return int(255.0 * float(np.mean(card.rgb_mean)))


def input_tensors(sample: Sample, card: ModelCard) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two (1, 3, H, W) inputs of one sample by the pipeline's own `to_tensor`: the obvious way."""
    form = x_format(card.modality)
    bgr = card.channel_order == "bgr"
    rgb = to_tensor(sample.rgb, card.rgb_mean, card.rgb_std, bgr)
    if form.is_rgb or form.offset == 0.0:
        return rgb, to_tensor(sample.x, card.x_mean, card.x_std, bgr and form.is_rgb)
    x = np.asarray(sample.x * np.float32(form.gain) + np.float32(form.offset), np.float32)
    return rgb, to_tensor(x, card.x_mean, card.x_std)


def source_digest(source: SampleSource) -> str:
    """Sixteen hex digits that stand for a source: its classes, its length and up to 16 of its frames."""
    digest = hashlib.sha256(repr((source.classes, len(source))).encode())
    for index in np.unique(np.linspace(0, len(source) - 1, 16).astype(int)).tolist() if len(source) else []:
        sample = source[index]
        digest.update(sample.condition.encode())
        for pixels in (sample.rgb, sample.x, sample.labels):
            digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:16]
