"""Targets of bags: damaged files, opened, read to the end, and every message decoded."""

from __future__ import annotations

import contextlib
import tempfile
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_image, encode_label_info
from mm_perception.codec.image import decode_image
from mm_perception.core.errors import MmPerceptionError
from mm_perception.fuzz.mutate import mutated_bytes
from mm_perception.fuzz.targets import Target

_IMAGES = 6


def bag_targets() -> list[Target]:
    """A target per storage format."""
    return [
        Target("mcap", lambda rng: mutated_bytes(_bag("bag.mcap"), rng), lambda data: _read(data, ".mcap"), 4),
        Target("db3", lambda rng: mutated_bytes(_bag("bag"), rng), lambda data: _read(data, ".db3"), 3),
        Target("metadata", _make_metadata, _read_folder, 1),
    ]


@lru_cache(maxsize=2)
def _bag(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        _write(path)
        return (path if path.is_file() else path / "bag.db3").read_bytes()


def _write(path: Path) -> None:
    generator = np.random.default_rng(5)
    with BagWriter(path) as bag:
        for i in range(1, _IMAGES + 1):
            pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            bag.write("/image", encode_image(bag.factory, pixels, "rgb8", i, "cam"), i)
        bag.write("/labels", encode_label_info(bag.factory, ["road"], 9, ""), 9, latched=True)


def _read(data: bytes, suffix: str) -> None:
    _read_all(scratch_file(data, f"bag{suffix}"))


def _read_all(path: Path) -> None:
    with BagReader(path) as bag:
        for message in bag.messages():
            with contextlib.suppress(MmPerceptionError):
                decode_image(bag.decode(message))
        bag.dropped.total()


@lru_cache(maxsize=1)
def _folder() -> tuple[bytes, bytes]:
    """The two files of a rosbag2 folder: metadata and database."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        _write(path)
        return (path / "metadata.yaml").read_bytes(), (path / "bag.db3").read_bytes()


def _make_metadata(rng: Random) -> bytes:
    return mutated_bytes(_folder()[0], rng)


def _read_folder(data: bytes) -> None:
    scratch_file(_folder()[1], "folder/bag.db3")
    _read_all(scratch_file(data, "folder/metadata.yaml").parent)


def scratch_file(data: bytes, name: str) -> Path:
    """A file that holds `data` until the next of its name: a folder per input would cost more than reading it."""
    path = Path(_scratch().name) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mm_perception-fuzz-")
