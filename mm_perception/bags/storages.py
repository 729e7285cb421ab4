"""The library's reader of bags over storages that check what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.rosbag2.reader import DirectoryReader

from mm_perception.bags.damage import DamageLog
from mm_perception.bags.mcap import CheckedMcapReader
from mm_perception.bags.sqlite import CheckedSqlite3Reader
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.limits import MAX_METADATA_BYTES, MAX_METADATA_NODES
from mm_perception.core.yaml_file import check_yaml, read_text


def check_storages(reader: AnyReader, damage: DamageLog) -> None:
    """Gives a reader that is not open yet storages that check; what they leave out goes to `damage`."""
    mcap, sqlite3 = partial(CheckedMcapReader, damage=damage), partial(CheckedSqlite3Reader, damage=damage)
    readers: Any = reader.readers  # of ROS 1 bags, too, which have no storage
    for one in readers:
        path = one.path
        if path.is_dir():
            one.storage = _checked_folder({"mcap": mcap, "sqlite3": sqlite3})(path)
        elif path.suffix in (".mcap", ".db3"):
            one.storage = mcap(path) if path.suffix == ".mcap" else sqlite3(path)


def _checked_folder(plugins: Mapping[str, Callable[..., Any]]) -> type[DirectoryReader]:
    class CheckedDirectoryReader(DirectoryReader):
        STORAGE_PLUGINS = plugins  # type: ignore[assignment]

    return CheckedDirectoryReader


def check_metadata(path: Path) -> None:
    """Refuses a rosbag2 folder whose metadata.yaml is no file of sensible size and depth, or that is one large archive.

    Raises:
        BagError: with the reason.
    """
    metadata = path / "metadata.yaml"
    if not path.is_dir() or not metadata.exists():
        return
    try:
        check_yaml(read_text(metadata, MAX_METADATA_BYTES), str(metadata), MAX_METADATA_NODES)
    except ConfigError as error:
        raise BagError(str(error)) from error
