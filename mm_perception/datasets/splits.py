"""Which frames of a folder are for what: lists of names, and folders named train, val and test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_YAML_BYTES
from mm_perception.core.yaml_file import read_text
from mm_perception.datasets.layouts import Frame

Split = Literal["train", "val", "all"]

VAL_EVERY = 5
"""Every fifth frame is held out where nothing says which; neighbours of a drive are alike, so it flatters."""

LISTS: dict[Split, tuple[str, ...]] = {"train": ("train.txt",), "val": ("val.txt", "test.txt"), "all": ()}
CONDITION_LISTS = {"day": ("test_day.txt", "val_day.txt"), "night": ("test_night.txt", "val_night.txt")}
_LARGEST_LIST = 64 * MAX_YAML_BYTES
_SUFFIX = re.compile(r"\.(png|jpe?g|bmp|tiff?)$", re.IGNORECASE)


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


def find_list(root: Path, name: str) -> Path | None:
    """A list in a folder, in ImageSets/ or splits/ of it; None where there is none."""
    for folder in (root, root / "ImageSets", root / "splits", root / "split"):
        if (folder / name).is_file():
            return folder / name
    return None


def names_split(root: Path, frames: Sequence[Frame], wanted: Split) -> bool:
    """Whether a folder itself says which of its frames are for `wanted`."""
    if any(find_list(root, name) for name in LISTS[wanted]):
        return True
    return any(frame.split == "train" if wanted == "train" else frame.split in ("val", "test") for frame in frames)


def choose_frames(root: Path, frames: Sequence[Frame], split: Split, val_every: int = VAL_EVERY) -> list[Frame]:
    """The frames of a split: as lists say, else as folders are named, else every so many are held out.

    Raises:
        DataError: lists are there, but none for the split; or a list names a frame that is not there.
    """
    for name in LISTS[split]:
        path = find_list(root, name)
        if path is not None:
            return listed_frames(path, root, frames)
    if split == "all":
        return list(frames)
    if any(find_list(root, name) for names in LISTS.values() for name in names):
        raise DataError(f"{root}: no {' or '.join(LISTS[split])}")
    by_folder = {name: [f for f in frames if f.split == name] for name in ("train", "val", "test")}
    if any(by_folder.values()):
        chosen = by_folder["train"] if split == "train" else by_folder["val"] or by_folder["test"]
        if not chosen:
            raise DataError(f"{root}: no folder for {split} beside {', '.join(k for k, v in by_folder.items() if v)}")
        return chosen
    return [frames[i] for i in split_frames(len(frames), split, val_every)]


def listed_frames(path: Path, root: Path, frames: Sequence[Frame]) -> list[Frame]:
    """The frames that a list names: names, file names, paths, or pairs of these divided by blanks or tabs.

    Raises:
        DataError: the list cannot be read, is empty, or names a frame that is not there or more than one.
    """
    by_key = {frame.key.lower(): frame for frame in frames}
    by_name: dict[str, list[Frame]] = {}
    for frame in frames:
        by_name.setdefault(frame.name.lower(), []).append(frame)
        for file in (frame.image, *frame.x.values(), *([frame.labels] if frame.labels else [])):
            by_key.setdefault(_SUFFIX.sub("", file.relative_to(root).as_posix()).lower(), frame)
            by_name_of_file = by_name.setdefault(file.stem.lower(), [])
            if frame not in by_name_of_file:
                by_name_of_file.append(frame)
    chosen = []
    for number, line in enumerate(read_text(path, _LARGEST_LIST).lstrip("\ufeff").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            chosen.append(_listed(line.strip(), by_key, by_name, f"{path} line {number}"))
    if not chosen:
        raise DataError(f"{path}: names no frame")
    return list(dict.fromkeys(chosen))


def _listed(line: str, by_key: dict[str, Frame], by_name: dict[str, list[Frame]], where: str) -> Frame:
    """The frame of a line; a name may hold blanks, so the whole line is tried beside its first word."""
    words = [re.split(r"\t|,|\s+", line)[0], line]
    texts = [_SUFFIX.sub("", word.replace("\\", "/").strip("/")).lower() for word in words]
    for text in texts:
        parts = text.split("/")
        for start in range(len(parts)):  # /SegNet/CamVid/train/1.png: somebody else's path
            if "/".join(parts[start:]) in by_key:
                return by_key["/".join(parts[start:])]
    for text in texts:
        found = by_name.get(text.rsplit("/", 1)[-1], [])
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(frame.key for frame in found[:3])
            raise DataError(f"{where}: {text!r} stands for {len(found)} frames ({shown}, …); name their folders, too")
    if texts[0].endswith("_flip"):
        plain = _listed(texts[0].removesuffix("_flip"), by_key, by_name, where)
        return replace(plain, key=f"{plain.key}_flip", mirrored=True)
    example = next(iter(by_key.values())).key if by_key else "none"
    raise DataError(f"{where}: no {words[0]} among the frames of the folder (one of them: {example})")
