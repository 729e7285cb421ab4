"""Reading bags: topics, types and messages in the order of their log times."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from mm_perception.bags.typestore import typestore
from mm_perception.core.errors import BagError, DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_RENAMED = {"event_array_msgs/msg/EventArray": "event_camera_msgs/msg/EventPacket"}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One recorded message.

    Attributes:
        cdr: its bytes as on the wire (encapsulation header and body).
        log_ns: when it was recorded.
    """

    topic: str
    type_name: str
    cdr: bytes
    log_ns: int


class BagReader:
    """An open bag: a folder with metadata.yaml, a single .mcap or .db3 file.

    Messages that were compressed one by one are decompressed, in single files too.

    Raises:
        BagError: the bag does not exist, cannot be opened, or turns out to be damaged while it is read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag")
        try:
            self._reader = AnyReader([self.path], default_typestore=typestore())
            self._reader.open()
        except Exception as error:  # the library lets parser errors of damaged files through
            raise BagError(f"{self.path}: cannot be opened as a bag ({_reason(error)})") from error
        self._recorded_names = {_full_name(c.msgtype): c.msgtype for c in self._reader.connections}

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    @property
    def topics(self) -> Mapping[str, str]:
        """Message type by topic."""
        return {c.topic: _full_name(c.msgtype) for c in self._reader.connections}

    @property
    def message_count(self) -> int:
        return int(self._reader.message_count)

    @property
    def duration_s(self) -> float:
        return float(self._reader.duration) * 1e-9

    def count(self, topic: str) -> int:
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)

    def qos_durability_transient(self, topic: str) -> bool:
        """Whether the topic was recorded from a transient-local (latched) publisher."""
        for connection in self._reader.connections:
            for qos in getattr(connection.ext, "offered_qos_profiles", ()) or ():
                if connection.topic == topic and "TRANSIENT" in str(getattr(qos, "durability", "")):
                    return True
        return False

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """The messages of all or the given topics, by log time."""
        connections: list[Connection] = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        stream = self._reader.messages(connections=connections)
        while True:
            try:
                connection, log_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise BagError(f"{self.path}: damaged while reading ({_reason(error)})") from error
            yield BagMessage(connection.topic, _full_name(connection.msgtype), self._decompress(data), log_ns)

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS fields.

        Raises:
            DataError: the bytes are no message of its type.
        """
        try:
            return self._reader.deserialize(message.cdr, self._known_name(message.type_name))
        except Exception as error:
            raise DataError(
                f"{message.topic}: {len(message.cdr)} bytes are no {message.type_name} ({_reason(error)})"
            ) from error

    def _known_name(self, type_name: str) -> str:
        """The name under which the bag's own definitions know the type."""
        recorded = self._recorded_names.get(type_name, type_name)
        return recorded if recorded in self._reader.typestore.fielddefs else type_name

    def _decompress(self, data: bytes) -> bytes:
        # CDR starts with 0x00; so a zstd frame can't be mistaken for a message.
        if bytes(data[:4]) != _ZSTD_MAGIC:
            return data
        try:
            return bytes(zstd.decompress(data))
        except Exception as error:
            raise BagError(f"{self.path}: damaged message compression ({_reason(error)})") from error


def _full_name(type_name: str) -> str:
    """Today's package/msg/Name; some recorders left the middle part out, some types were renamed."""
    name = type_name if type_name.count("/") == 2 else type_name.replace("/", "/msg/", 1)
    return _RENAMED.get(name, name)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
