"""Where training frames come from: folders of arrays, folders of images, bags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.rig import RigConfig
from mm_perception.datasets.label_map import AS_FOUND, LabelOptions
from mm_perception.datasets.layouts import find_frames
from mm_perception.datasets.splits import VAL_EVERY, Split, names_split, split_frames
from mm_perception.engines.card import Colour, ModelCard
from mm_perception.training.bag_source import collect_bag
from mm_perception.training.folder_source import FolderSource, three_channels
from mm_perception.training.samples import MemorySource, Sample, SampleSource, check_labels

__all__ = ["ArraySource", "FolderSource", "open_source", "separate_split"]

_KNOWN = "a folder with meta.json, with images and labels (see docs/inputs/datasets.md), or a bag"


def open_source(
    path: Path,
    card: ModelCard,
    split: Split,
    *,
    rig: RigConfig | None = None,
    val_every: int = VAL_EVERY,
    labels: LabelOptions = AS_FOUND,
    x_folder: str | None = None,
) -> SampleSource:
    """The frames at `path`: a folder of arrays (meta.json), a folder of images, or a bag (with its rig).

    Args:
        labels: what the user says about the label files of a folder of images.
        x_folder: name of the folder of second images, where it is another than the usual ones.

    Raises:
        DataError: the path holds none of these, or does not fit the card.
        ConfigError: the labels are other classes than the card's, and nothing says what counts as what.
        BagError: a bag cannot be read.
    """
    if (path / "meta.json").is_file():
        return ArraySource(path, card.modality, split, encoding=card.encoding, val_every=val_every)
    if not path.exists():
        raise DataError(f"{path}: expected {_KNOWN}; it does not exist")
    if path.is_dir() and not _is_bag(path):
        return FolderSource(path, split, card, val_every=val_every, labels=labels, x_folder=x_folder)
    if rig is None:
        raise DataError(f"{path}: expected {_KNOWN}")
    samples = collect_bag(path, rig, card)
    kept = [samples[i] for i in split_frames(len(samples), split, val_every)]
    description = f"bag {path.name} (rig {rig.name}, {_share(split, val_every)})"
    return MemorySource(kept, card.classes, description, card.palette)


def separate_split(path: Path, wanted: Split) -> Split:
    """What to take of `path` when other frames stand beside it: its own split where it names one, else all."""
    if (path / "meta.json").is_file():
        named = "splits" in _read_meta(path)
    else:
        named = path.is_dir() and not _is_bag(path) and names_split(path, find_frames(path)[0], wanted)
    return wanted if named else "all"


def _is_bag(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in ("metadata.yaml", "*.mcap", "*.db3"))


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
        x = rgb if self._x is self._rgb else three_channels(np.array(self._x[frame]))
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
