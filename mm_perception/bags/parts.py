"""Which files a bag consists of, however it was handed over: a file, a folder with metadata.yaml, or one without."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from mm_perception.bags.damage import DamageLog
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.limits import MAX_METADATA_BYTES, MAX_METADATA_NODES
from mm_perception.core.yaml_file import parse_yaml, read_text

METADATA = "metadata.yaml"
KINDS = (".mcap", ".db3", ".bag")
PACKED = (".zstd", ".zst")
_UNFINISHED = (".active",)
_LISTED = 5


@dataclass(frozen=True, slots=True)
class _Metadata:
    """What of a metadata.yaml matters here: the files say the rest themselves."""

    names: tuple[str, ...]
    compression: str


def find_parts(path: Path, damage: DamageLog) -> list[Path]:
    """The files of a bag, in order.

    Args:
        damage: is told what of the bag is not as it should be, and yet no obstacle.

    Raises:
        BagError: the path does not exist, or there is no bag in the folder.
    """
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    if not path.is_dir():
        return [path]
    there = sorted((one for one in path.iterdir() if is_bag_file(one)), key=_natural)
    listed = _listed(path, there, damage)
    if listed is not None:
        return listed
    if not there:
        raise BagError(f"{path}: {_why_empty(path)}")
    return _without_doubles(path, there, damage)


def is_bag_file(path: Path) -> bool:
    """By its name; hidden files are what some program has not finished."""
    return bare_name(path).endswith(KINDS) and not path.name.startswith(".") and path.is_file()


def bare_name(path: Path) -> str:
    """Without the endings of packed and of unfinished files."""
    name = path.name
    for ending in (*PACKED, *_UNFINISHED):
        name = name.removesuffix(ending)
    return name


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts bag_2 before bag_10."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"([0-9]{1,18})", path.name)]


def _listed(folder: Path, there: list[Path], damage: DamageLog) -> list[Path] | None:
    """The files that metadata.yaml names; None where it does not say which."""
    try:
        metadata = _read_metadata(folder / METADATA)
    except ConfigError as error:
        damage.note(f"{error}: the files in the folder are read without it (`ros2 bag reindex` writes a new one)")
        return None
    if metadata is None:
        damage.note(f"{folder}: has no {METADATA}: its files are read without it (`ros2 bag reindex` writes one)")
        return None
    if metadata.compression not in ("", "zstd"):
        raise BagError(
            f"{folder}: is compressed with {metadata.compression!r}, expected zstd; `ros2 bag convert` it where that"
            " plugin is installed"
        )
    found = {name: _beside(folder, name) for name in metadata.names}
    missing = [name for name, place in found.items() if place is None]
    if missing and not there:
        raise BagError(f"{folder}: {METADATA} names {_some(missing)}, and there is no bag file in the folder")
    if missing:
        damage.note(f"{folder}: {METADATA} names {_some(missing)}, not there: what is in the folder is read")
        return None
    parts = list(dict.fromkeys(place for place in found.values() if place is not None))
    if not parts:
        return None
    named = {bare_name(one) for one in parts}
    if others := [one.name for one in there if bare_name(one) not in named]:
        damage.note(f"{folder}: {_some(others)} not read: {METADATA} does not name it; give its path to read it, too")
    return parts


def _beside(folder: Path, listed: str) -> Path | None:
    """A listed file where it is, packed or not; old versions list it with a folder in front."""
    name = PurePath(listed).name
    bare = bare_name(Path(name))
    for candidate in (name, bare, *(bare + ending for ending in PACKED)):
        if candidate not in ("", ".", "..") and (folder / candidate).is_file():
            return folder / candidate
    return None


def _read_metadata(path: Path) -> _Metadata | None:
    """None: there is none. Raises ConfigError if it cannot be used."""
    if not path.exists():
        return None
    content: Any = parse_yaml(read_text(path, MAX_METADATA_BYTES), str(path), MAX_METADATA_NODES)
    try:
        about = content["rosbag2_bagfile_information"]
        names = about["relative_file_paths"]
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"{path}: is not the {METADATA} of a bag ({type(error).__name__})") from error
    if not isinstance(about, Mapping) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ConfigError(f"{path}: is not the {METADATA} of a bag (relative_file_paths)")
    mode = str(about.get("compression_mode") or "").lower()
    return _Metadata(tuple(names), str(about.get("compression_format") or "") if mode not in ("", "none") else "")


def _without_doubles(folder: Path, there: list[Path], damage: DamageLog) -> list[Path]:
    """Of a recording that is there twice, unpacked beside packed or in two formats, one."""
    chosen: dict[str, Path] = {}
    left_out = []
    for one in sorted(there, key=lambda p: (KINDS.index(Path(bare_name(p)).suffix), p.name.endswith(PACKED))):
        stem = Path(bare_name(one)).stem
        if stem in chosen:
            left_out.append(one.name)
        chosen.setdefault(stem, one)
    if left_out:
        damage.note(f"{folder}: {_some(left_out)} not read: the same recording is there in another form")
    parts = sorted(chosen.values(), key=_natural)
    if len({re.sub(r"\d+", "", stem) for stem in chosen}) > 1:
        names = _some([one.name for one in parts])
        damage.note(
            f"{folder}: {len(parts)} recordings of different names ({names}) are read as one, by their times; give the"
            " path of one to read only that"
        )
    return parts


def _why_empty(folder: Path) -> str:
    inner = sorted(
        one.name for one in folder.iterdir() if one.is_dir() and any(is_bag_file(file) for file in one.iterdir())
    )
    if inner:
        return f"there is no bag file in this folder, but in {_some(inner)}: give one or several of those"
    names = sorted(one.name for one in folder.iterdir())
    what = f"it holds {_some(names)}" if names else "it is empty"
    return f"is no bag: expected {', '.join(KINDS)} files (or those with {' or '.join(PACKED)}) in it, {what}"


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(name[:200] for name in names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
