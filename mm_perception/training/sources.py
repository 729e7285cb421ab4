"""Where training frames come from: folders of arrays, folders of images, bags."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.rig import RigConfig
from mm_perception.engines.card import Colour, ModelCard
from mm_perception.training.bag_source import collect_bag
from mm_perception.training.samples import MemorySource, Sample, SampleSource, check_labels

Split = Literal["train", "val", "all"]

VAL_EVERY = 5
"""Every fifth frame is held out where nothing says which; neighbours of a drive are alike, so it flatters."""

_MFNET_NAME = re.compile(r"\d+([DN])(_flip)?")
_MFNET_CONDITION = {"D": "day", "N": "night"}


def open_source(
    path: Path,
    card: ModelCard,
    split: Split,
    *,
    rig: RigConfig | None = None,
    val_every: int = VAL_EVERY,
) -> SampleSource:
    """The frames at `path`: a folder of arrays (meta.json), a folder of images, or a bag (with its rig).

    Raises:
        DataError: the path holds none of these, or does not fit the card.
        BagError: a bag cannot be read.
    """
    if (path / "meta.json").is_file():
        return ArraySource(path, card.modality, split, encoding=card.encoding, val_every=val_every)
    if any((path / name).is_dir() for layout in _LAYOUTS for name in layout[:1]):
        return FolderSource(path, split, card, val_every=val_every)
    if not path.exists() or rig is None:
        known = "a folder with meta.json, with images/ and labels/, with RGB/, Modal/ and Label/, or a bag"
        raise DataError(f"{path}: expected {known}" + ("" if path.exists() else "; it does not exist"))
    samples = collect_bag(path, rig, card)
    kept = [samples[i] for i in split_frames(len(samples), split, val_every)]
    description = f"bag {path.name} (rig {rig.name}, {_share(split, val_every)})"
    return MemorySource(kept, card.classes, description, card.palette)


def separate_split(path: Path, wanted: Split) -> Split:
    """What to take of `path` when other frames stand beside it: its own split where it names one, else all."""
    lists = ("train.txt",) if wanted == "train" else ("val.txt", "test.txt")
    named = any((path / name).is_file() for name in lists)
    if (path / "meta.json").is_file():
        named = "splits" in _read_meta(path)
    return wanted if named else "all"


def split_frames(count: int, split: Split, val_every: int) -> list[int]:
    """Indices of a split: every `val_every`-th frame, the last of each group, is held out.

    Raises:
        DataError: `val_every` is below 2.
    """
    if split == "all":
        return list(range(count))
    if val_every < 2:
        raise DataError(f"val_every: expected at least 2, got {val_every}")
    return [i for i in range(count) if (i % val_every == val_every - 1) == (split == "val")]


def _share(split: Split, val_every: int) -> str:
    return {"all": "all frames", "val": f"every {val_every}th frame", "train": f"without every {val_every}th frame"}[
        split
    ]


class ArraySource:
    """A folder of arrays: rgb.npy (N, H, W, 3), labels.npy (N, H, W), one .npy per modality, and meta.json.

    The X arrays are (N, H, W) or (N, H, W, 3) uint8 in the steps of `samples.x_format`. meta.json holds classes,
    palette, conditions (one per frame), encodings (by modality), description and complete; `splits` ("train" or
    "val" per frame) is optional. Files are mapped, not read.
    """

    def __init__(
        self,
        folder: Path,
        modality: str,
        split: Split,
        *,
        encoding: str | None = None,
        val_every: int = VAL_EVERY,
        frames: Sequence[int] | None = None,
    ) -> None:
        """Args:
            encoding: that the X images must have; None: any.
            frames: the indices of the split, instead of what meta.json or `val_every` say.

        Raises:
            DataError: files are absent or differ in size, meta.json is incomplete, or the encoding is another.
        """
        meta = _read_meta(folder)
        self.classes: tuple[str, ...] = tuple(map(str, meta["classes"]))
        self.palette: tuple[Colour, ...] | None = _palette(meta.get("palette"))
        self._folder = folder
        self._rgb = _map_array(folder, "rgb")
        self._labels = _map_array(folder, "labels")
        self._x = self._rgb if modality == "rgb" else _map_array(folder, modality)
        self._conditions = [str(c) for c in meta["conditions"]]
        self._check(modality, meta, encoding)
        self._frames = self._choose(meta, split, val_every, frames)
        chosen = "chosen frames" if frames is not None or "splits" in meta else _share(split, val_every)
        self.description = f"{meta.get('description') or folder.name} ({chosen})"

    def _check(self, modality: str, meta: dict[str, Any], encoding: str | None) -> None:
        count, *size = self._labels.shape
        problems = [
            f"{name}.npy: expected shape {wanted} uint8, got {array.shape} {array.dtype}"
            for name, array, wanted in (
                ("labels", self._labels, ("N", "H", "W")),
                ("rgb", self._rgb, (count, *size, 3)),
                (modality, self._x, (count, *size) if self._x.ndim == 3 else (count, *size, 3)),
            )
            if array.dtype != np.uint8 or array.ndim != len(wanted) or (name != "labels" and array.shape != wanted)
        ]
        if len(self._conditions) != count:
            problems.append(f"meta.json conditions: expected {count}, got {len(self._conditions)}")
        got = dict(meta.get("encodings") or {}).get(modality)
        if encoding is not None and modality != "rgb" and got != encoding:
            problems.append(f"encoding of {modality}: expected {encoding!r}, got {got!r}")
        if problems:
            raise DataError(f"{self._folder}: " + "; ".join(problems))

    def _choose(self, meta: dict[str, Any], split: Split, val_every: int, frames: Sequence[int] | None) -> list[int]:
        count = len(self._labels)
        if frames is not None:
            wrong = [i for i in frames if not 0 <= i < count]
            if wrong:
                raise DataError(f"{self._folder}: frame {wrong[0]}: expected 0 to {count - 1}")
            return list(frames)
        if "splits" not in meta or split == "all":
            return split_frames(count, split, val_every)
        if len(meta["splits"]) != count:
            raise DataError(f"{self._folder}: meta.json splits: expected {count}, got {len(meta['splits'])}")
        return [i for i, name in enumerate(meta["splits"]) if name == split]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self._frames[index]
        labels = np.array(self._labels[frame])
        check_labels(labels, len(self.classes), f"{self._folder / 'labels.npy'} frame {frame}")
        rgb = np.array(self._rgb[frame])
        x = rgb if self._x is self._rgb else _three_channels(np.array(self._x[frame]))
        return Sample(rgb, x, labels, self._conditions[frame])


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("complete") is not True:
        raise DataError(
            f"{folder}: is not complete (meta.json does not say complete: true): writing it was interrupted"
        )
    missing = [key for key in ("classes", "conditions") if not isinstance(meta.get(key), list)]
    if missing:
        raise DataError(f"{path}: no list of {', '.join(missing)}")
    return meta


def _palette(value: Any) -> tuple[Colour, ...] | None:
    return tuple((int(r), int(g), int(b)) for r, g, b in value) if value else None


def _map_array(folder: Path, name: str) -> NDArray[np.uint8]:
    path = folder / f"{name}.npy"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.npy"))) or "none"
        raise DataError(f"{folder}: no {path.name} (arrays there: {known})")
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: is damaged or no array ({error})") from error


def _three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


# Folders of image, X image and labels; None: the X image is the image's fourth channel.
_LAYOUTS: tuple[tuple[str, str | None, str], ...] = (
    ("images", None, "labels"),
    ("image", None, "labels"),
    ("RGB", "Modal", "Label"),
    ("rgb", "x", "labels"),
)
_SUFFIXES = (".png", ".jpg", ".jpeg")


class FolderSource:
    """A folder of images in the layouts of MFNet (four channels) and of the published CMX code (three folders).

    `images/NAME.png` with thermal as fourth channel, or `RGB/NAME.(png|jpg)` and `Modal/NAME.(png|jpg)` (`rgb`,
    `x` in lower case); `labels/NAME.png` or `Label/NAME.png`. X images are 8 bits in the card's encoding; colour
    files keep their channels in the order red, green, blue. Names come from train.txt and val.txt (or test.txt);
    without these every `val_every`-th image is held out. Names like MFNet's tell day from night.
    """

    def __init__(self, folder: Path, split: Split, card: ModelCard, *, val_every: int = VAL_EVERY) -> None:
        """Raises DataError if the layout is another one or lists no images."""
        found = [layout for layout in _LAYOUTS if all((folder / name).is_dir() for name in layout if name)]
        if not found:
            wanted = "; ".join(", ".join(f"{name}/" for name in layout if name) for layout in _LAYOUTS)
            raise DataError(f"{folder}: expected the folders {wanted}")
        self._image, self._modal, self._label = found[0]
        if self._modal is None and (card.modality, card.encoding) not in (("thermal", "agc"), ("rgb", "rgb")):
            raise DataError(
                f"{folder}: the fourth channel is an 8-bit thermal picture (encoding agc), "
                f"model {card.name} wants {card.modality} {card.encoding}"
            )
        self.classes, self.palette = card.classes, card.palette
        self._folder, self._is_rgb = folder, card.modality == "rgb"
        self._names = _listed_names(folder, self._image, split, val_every)
        if not self._names:
            raise DataError(f"{folder}: no images for {split}")
        self.description = f"{folder.name} ({split})"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = self._find(self._image, name)
        pixels = _read(path)
        rgb = _red_first(pixels, path)
        if self._is_rgb:
            x = rgb
        elif self._modal is None:
            if pixels.ndim != 3 or pixels.shape[2] != 4:
                raise DataError(f"{path}: expected four channels, got shape {pixels.shape}")
            x = _three_channels(np.ascontiguousarray(pixels[..., 3]))
        else:
            modal = self._find(self._modal, name)
            x = _red_first(_read(modal), modal)
        where = self._find(self._label, name)
        labels = _read(where)
        if labels.ndim != 2:
            raise DataError(f"{where}: expected a grey image of class ids, got shape {labels.shape}")
        check_labels(labels, len(self.classes), str(where))
        if not rgb.shape[:2] == x.shape[:2] == labels.shape:
            raise DataError(f"{name}: rgb {rgb.shape[:2]}, x {x.shape[:2]}, labels {labels.shape}: they do not align")
        match = _MFNET_NAME.fullmatch(name)
        return Sample(rgb, x, labels, _MFNET_CONDITION[match.group(1)] if match else "")

    def _find(self, part: str, name: str) -> Path:
        for suffix in _SUFFIXES:
            path = self._folder / part / (name + suffix)
            if path.is_file():
                return path
        raise DataError(f"{self._folder / part}: no {name}.png or .jpg")


def _listed_names(folder: Path, images: str, split: Split, val_every: int) -> list[str]:
    lists = {"train": ("train.txt",), "val": ("val.txt", "test.txt"), "all": ()}[split]
    for name in lists:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").split("\n")
            return [re.sub(r"\.(png|jpe?g)$", "", Path(line.split()[0]).name) for line in lines if line.strip()]
    names = sorted({p.stem for p in (folder / images).iterdir() if p.suffix in _SUFFIXES})
    if split != "all" and any((folder / f).is_file() for f in ("train.txt", "val.txt", "test.txt")):
        raise DataError(f"{folder}: no {' or '.join(lists)}")
    return [names[i] for i in split_frames(len(names), split, val_every)]


def _read(path: Path) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint8:
        raise DataError(f"{path}: expected an image of 8 bits, got {'none' if pixels is None else pixels.dtype}")
    return np.asarray(pixels, np.uint8)


def _red_first(pixels: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        return _three_channels(pixels)
    if pixels.shape[2] not in (3, 4):
        raise DataError(f"{path}: expected 1, 3 or 4 channels, got {pixels.shape[2]}")
    return np.ascontiguousarray(pixels[..., 2::-1])
