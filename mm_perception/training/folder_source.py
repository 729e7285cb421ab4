"""Training frames out of a folder of images, in any layout that `datasets` knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import ThermalFrame
from mm_perception.datasets.folder import FrameFolder, FramePixels, has_second, open_folder, read_frame
from mm_perception.datasets.label_map import AS_FOUND, LabelOptions, LabelRule, learned_rule
from mm_perception.datasets.layouts import X_KINDS, Frame
from mm_perception.datasets.splits import VAL_EVERY, Split, choose_frames
from mm_perception.engines.card import ModelCard
from mm_perception.sensing.depth import raw_depth_image
from mm_perception.sensing.thermal import thermal_image
from mm_perception.training.samples import Sample, x_format

MILLIMETRES_M = 1e-3


class FolderSource:
    """A folder of images with labels; see `datasets.layouts` for what is found, `datasets.label_map` for labels.

    X images of 8 bits are in the card's encoding; colour files keep their channels in the order red, green, blue.
    Those of 16 bits are counts (thermal) or millimetres (depth, encoding raw).

    Attributes:
        assumption: what was taken for granted about the labels; empty if nothing was.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        card: ModelCard,
        *,
        val_every: int = VAL_EVERY,
        labels: LabelOptions = AS_FOUND,
        x_folder: str | None = None,
    ) -> None:
        """Raises:
        DataError: no images are found, none has a label file, or none a second image where the card needs one.
        ConfigError: the labels are other classes than the card's, and nothing says what counts as what.
        """
        found = open_folder(folder, x_folder)
        frames = [frame for frame in choose_frames(folder, found.frames, split, val_every) if frame.labels is not None]
        if not frames:
            raise DataError(f"{folder}: no images with label files for {split} among {len(found.frames)} images")
        rule = learned_rule(found.classes, labels, card.classes, str(folder))
        self._reader = FolderReader(found, frames, card, rule, x_folder)
        self.classes, self.palette = card.classes, card.palette
        self.assumption = rule.assumption
        self.description = f"{folder.name} ({split})"

    def __len__(self) -> int:
        return len(self._reader.frames)

    def __getitem__(self, index: int) -> Sample:
        return self._reader[index]


class FolderReader:
    """Given frames of a folder as samples, labels by a given rule."""

    def __init__(
        self,
        folder: FrameFolder,
        frames: Sequence[Frame],
        card: ModelCard,
        rule: LabelRule,
        x_folder: str | None = None,
    ) -> None:
        """Raises DataError if the card needs a second image that the frames do not have."""
        self._folder = folder
        self._rule, self._card = rule, card
        self._kinds = () if card.modality == "rgb" else X_KINDS[card.modality, card.encoding]
        if x_folder is not None and self._kinds:
            self._kinds = ("any",)
        self.frames = list(frames)
        self._check_second()

    def _check_second(self) -> None:
        """Whether what the first frame shows beside its image is what the card wants."""
        first = self.frames[0]
        if not self._kinds or has_second(self._folder, first, self._kinds):
            return
        there = ", ".join(sorted(kind for kind in first.x)) or "none"
        if (self._card.modality, self._card.encoding) != ("thermal", "agc"):
            raise DataError(
                f"{self._folder.root}: expected second images ({' or '.join(self._kinds)}), found {there}; a fourth "
                f"channel would be an 8-bit thermal image (encoding agc), model {self._card.name} wants "
                f"{self._card.modality} {self._card.encoding}; --x-folder NAME says where they are"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        pixels = read_frame(self._folder, frame, self._kinds)
        assert pixels.numbers is not None
        labels = self._rule.apply(pixels.numbers, str(frame.labels))
        return Sample(pixels.rgb, self._second(pixels, frame), labels, frame.condition)

    def _second(self, pixels: FramePixels, frame: Frame) -> NDArray[np.uint8]:
        if pixels.x is None:
            return pixels.rgb
        if pixels.x.dtype == np.uint8:
            return three_channels(np.asarray(pixels.x, np.uint8))
        return encode_sixteen_bits(pixels.x, self._card, f"second image of {frame.image}")


def encode_sixteen_bits(values: NDArray[Any], card: ModelCard, where: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 X image of 16-bit counts or millimetres.

    Raises:
        DataError: the card's encoding cannot be made of them.
    """
    if values.ndim == 2 and values.dtype == np.uint16:
        if card.modality == "thermal" and card.encoding in ("agc", "raw"):
            frame = ThermalFrame(values.astype(np.float32), "counts", 1, "thermal")
            return x_format("thermal").quantise(thermal_image(frame, card.encoding))  # type: ignore[arg-type]
        if card.modality == "depth" and card.encoding == "raw":
            depth_m = np.where(values > 0, values * np.float32(MILLIMETRES_M), np.float32("nan"))
            return x_format("depth").quantise(raw_depth_image(depth_m.astype(np.float32)))
    raise DataError(
        f"{where}: {values.dtype} of shape {values.shape} cannot become {card.modality} {card.encoding}: expected 8 "
        "bits in the card's encoding, or 16 bits in one channel as thermal counts or depth in millimetres (raw)"
    )


def three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) as (H, W, 3)."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
