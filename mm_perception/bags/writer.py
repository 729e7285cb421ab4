"""Writing bags: a standard MCAP file (or a rosbag2 folder), whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

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
from mm_perception.core.errors import BagError


class _ChecksummedWriter(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: ChecksummedMcapWriter}  # noqa: RUF012


class BagWriter:
    """Writes messages to `path`: a single file if it ends in .mcap, else a rosbag2 folder (sqlite3).

    MCAP files carry the checksums of their chunks, data and summary; sqlite3 has none.

    The bag appears under its name only when it was closed without an error; until then it lies beside it
    under a temporary name.

    Raises:
        BagError: the target exists (unless `overwrite`), or writing fails.
    """

    def __init__(self, path: Path | str, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise BagError(f"{self.path}: exists already")
        self._single = self.path.suffix == ".mcap"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}-", dir=self.path.parent))
        except OSError as error:
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        plugin = StoragePlugin.MCAP if self._single else StoragePlugin.SQLITE3
        self._writer = _ChecksummedWriter(self._scratch / self.path.stem, version=9, storage_plugin=plugin)
        if self._single:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        self._connections: dict[str, Connection] = {}
        self.factory = BagMessages()

    def write(self, topic: str, message: Any, log_ns: int, latched: bool = False) -> None:
        """Appends a message made by `factory`; `latched` marks a transient-local topic."""
        type_name = message.__msgtype__
        connection = self._connections.get(topic)
        if connection is None:
            connection = self._writer.add_connection(
                topic, type_name, typestore=typestore(), offered_qos_profiles=[_qos(latched)]
            )
            self._connections[topic] = connection
        try:
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
                write_section_checksums(source)
            if self.path.is_dir():
                shutil.rmtree(self.path)
            source.replace(self.path)
        except OSError as error:
            raise BagError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def discard(self) -> None:
        """Throws the unfinished bag away."""
        self._writer.abort()
        shutil.rmtree(self._scratch, ignore_errors=True)


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
