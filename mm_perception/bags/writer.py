"""Writing bags: a standard MCAP file (or a rosbag2 folder), whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from mm_perception.bags.mcap import ChecksummedMcapWriter, write_section_checksums
from mm_perception.bags.typestore import BagMessages, typestore
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.files import OVERWRITE, check_new_file, check_outputs, put_file
from mm_perception.core.scratch import make_scratch_folder

METADATA = "metadata.yaml"
_BESIDE_SQLITE = ("", "-journal", "-shm", "-wal")


class _ChecksummedWriter(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: ChecksummedMcapWriter}  # noqa: RUF012


class BagWriter:
    """Writes messages to `path`: a single file if it ends in .mcap, else a rosbag2 folder (sqlite3).

    MCAP files carry the checksums of their chunks, data and summary; sqlite3 has none.

    The bag appears under its name only when it was closed without an error; until then it lies beside it under a
    temporary name, and a bag that it replaces stays.

    Args:
        overwrite: replace a bag of the same form; anything else that exists is never replaced.
        sources: what is read meanwhile; the bag must not be any of that.

    Raises:
        BagError: the target exists (unless it may be replaced) or is a source, or writing fails.
    """

    def __init__(self, path: Path | str, overwrite: bool = False, sources: Iterable[Path | str] = ()) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._single = self.path.suffix == ".mcap"
        try:
            check_outputs({"bag": self.path}, sources)
            self._place = check_new_bag(self.path, overwrite)
            self._place.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = make_scratch_folder(self._place)
        except ConfigError as error:
            raise BagError(str(error)) from error
        except OSError as error:
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        plugin = StoragePlugin.MCAP if self._single else StoragePlugin.SQLITE3
        self._writer = _ChecksummedWriter(self._scratch / self.path.stem, version=9, storage_plugin=plugin)
        if self._single:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        try:
            self._writer.open()
        except OSError as error:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        self._connections: dict[str, Connection] = {}
        self.factory = BagMessages()

    def write(self, topic: str, message: Any, log_ns: int, latched: bool = False) -> None:
        """Appends a message made by `factory`; `latched` marks a transient-local topic."""
        type_name = message.__msgtype__
        try:
            connection = self._connections.get(topic)
            if connection is None:
                connection = self._writer.add_connection(
                    topic, type_name, typestore=typestore(), offered_qos_profiles=[_qos(latched)]
                )
                self._connections[topic] = connection
            self._writer.write(connection, log_ns, typestore().serialize_cdr(message, type_name))
        except OSError as error:
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def close(self) -> None:
        """Finishes the bag and gives it its name."""
        try:
            self._writer.close()
            source = self._scratch / self.path.stem
            if self._single:
                source = next(source.glob("*.mcap"))
            check_new_bag(self.path, self._overwrite)  # something may have come there meanwhile
            if self._single:
                write_section_checksums(source)
                put_file(source, self._place, self._overwrite)
            else:
                _put_folder(source, self._place)
        except ConfigError as error:
            raise BagError(str(error)) from error
        except OSError as error:
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def discard(self) -> None:
        """Throws the unfinished bag away."""
        self._writer.abort()
        shutil.rmtree(self._scratch, ignore_errors=True)


def check_new_bag(path: Path, overwrite: bool) -> Path:
    """The place of a bag that may be written: where `path` leads if it is a link.

    Raises:
        ConfigError: it exists and `overwrite` is not given, or it is no bag of the same form, or holds other files.
    """
    if path.suffix == ".mcap":
        return check_new_file(path, overwrite, "bag")
    place = Path(os.path.realpath(path))
    if not os.path.lexists(place):
        if path.is_symlink():
            raise ConfigError(f"{path}: is a link to nothing; remove it, or give another name")
        return place
    if not place.is_dir():
        raise ConfigError(f"{path}: exists already and is no rosbag2 folder; give another name")
    there = {entry.name for entry in place.iterdir()}
    if not there:
        return place
    own = _files_of_bag(place)
    if not own:
        raise ConfigError(f"{path}: exists already and is no bag; name a new or empty folder")
    if not overwrite:
        raise ConfigError(f"{path}: exists already; {OVERWRITE}")
    if strange := sorted(there - own):
        raise ConfigError(
            f"{path}: holds {strange[0]}, which is no part of the bag; move it away, or give another name"
        )
    return place


def _files_of_bag(folder: Path) -> set[str]:
    """Names of the files of a rosbag2 folder, by its metadata; none where it is no such folder."""
    try:
        metadata = yaml.safe_load((folder / METADATA).read_text(encoding="utf-8"))
        listed = [str(name) for name in metadata["rosbag2_bagfile_information"]["relative_file_paths"]]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return set()
    return {METADATA, *(name + more for name in listed for more in _BESIDE_SQLITE)}


def _put_folder(source: Path, place: Path) -> None:
    """Gives a finished bag its name; the one that it replaces is set aside until then. Raises OSError."""
    if not place.exists() or not any(place.iterdir()):
        source.replace(place)
        return
    aside = place.with_name(f".{place.name}.{os.getpid()}.old")
    place.rename(aside)
    try:
        source.replace(place)
    except OSError:
        aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _qos(latched: bool) -> Qos:
    forever = QosTime(sec=9223372036, nsec=854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
