"""Reading bags: topics, types and messages in the order of their log times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

from mm_perception.bags.compression import unpacked_zstd
from mm_perception.bags.damage import DamageLog
from mm_perception.bags.flat_arrays import FLAT_ARRAYS, ITEM_TYPES, FlatArray, read_flat_array
from mm_perception.bags.storages import check_metadata, check_storages
from mm_perception.bags.typestore import typestore
from mm_perception.core.errors import BagError, DataError
from mm_perception.core.limits import MAX_LIST_BYTES, MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES

_RENAMED = {"event_array_msgs/msg/EventArray": "event_camera_msgs/msg/EventPacket"}
_BULK = frozenset(
    f"{package}/msg/{name}"
    for package, name in (
        ("sensor_msgs", "Image"), ("sensor_msgs", "CompressedImage"), ("sensor_msgs", "PointCloud2"),
        ("event_camera_msgs", "EventPacket"),
    )
)  # fmt: skip
"""Messages whose bulk is one array of bytes, which costs no Python object per element."""
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

    Messages that were compressed one by one are decompressed, in single files too. A damaged chunk of an MCAP file
    and a row of a sqlite3 file that is no message are left out and counted in `dropped`.

    Raises:
        BagError: the bag does not exist, cannot be opened, or turns out to be damaged while it is read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag")
        self._damage = DamageLog()
        try:
            check_metadata(self.path)
            self._reader = AnyReader([self.path], default_typestore=typestore())
            check_storages(self._reader, self._damage)
            self._reader.open()
        except Exception as error:  # the library lets parser errors of damaged files through
            raise BagError(f"{self.path}: cannot be opened as a bag ({_reason(error)})") from error
        nameless = [
            c for c in self._reader.connections if not isinstance(c.topic, str) or not isinstance(c.msgtype, str)
        ]
        if nameless:
            self._reader.close()
            raise BagError(f"{self.path}: damaged: {len(nameless)} topic(s) without a name or type")
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

    @property
    def dropped(self) -> Counter[str]:
        """What was found damaged so far and left out: lost messages by "topic: reason"."""
        return self._damage.dropped()

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
            try:
                cdr = self._decompress(data)
            except Exception as error:  # zstd has an error of its own
                reason = f"damaged message compression ({type(error).__name__})"
                self._damage.add(connection.topic, log_ns, reason, {connection.topic: 1})
                continue
            yield BagMessage(connection.topic, _full_name(connection.msgtype), cdr, log_ns)

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS fields.

        Raises:
            DataError: the bytes are too many or no message of its type.
        """
        flat = self._flat(message.type_name)
        most = MAX_MESSAGE_BYTES if message.type_name in _BULK else MAX_SMALL_MESSAGE_BYTES
        if len(message.cdr) > (most if flat is None else MAX_LIST_BYTES):
            raise DataError(f"{message.topic}: {len(message.cdr)} bytes are too much for a {message.type_name}")
        try:
            if flat is not None:
                return read_flat_array(message.cdr, flat)
            return self._reader.deserialize(message.cdr, self._known_name(message.type_name))
        except Exception as error:
            raise DataError(
                f"{message.topic}: {len(message.cdr)} bytes are no {message.type_name} ({_reason(error)})"
            ) from error

    def _flat(self, type_name: str) -> FlatArray | None:
        """The layout of a message that is one long list, where the bag's own definitions are of it."""
        flat = FLAT_ARRAYS.get(type_name)
        if flat is None or not self._reader.is2:
            return None
        recorded, known = self._reader.typestore.fielddefs, typestore().fielddefs
        for name in (type_name, ITEM_TYPES[type_name]):
            if recorded.get(self._known_name(name), known[name]) != known[name]:
                return None
        return flat

    def _known_name(self, type_name: str) -> str:
        """The name under which the bag's own definitions know the type."""
        recorded = self._recorded_names.get(type_name, type_name)
        return recorded if recorded in self._reader.typestore.fielddefs else type_name

    @staticmethod
    def _decompress(data: bytes) -> bytes:
        # CDR starts with 0x00; so a zstd frame can't be mistaken for a message.
        if bytes(data[:4]) != _ZSTD_MAGIC:
            return data
        return unpacked_zstd(data, MAX_MESSAGE_BYTES)


def _full_name(type_name: str) -> str:
    """Today's package/msg/Name; some recorders left the middle part out, some types were renamed."""
    name = type_name if type_name.count("/") == 2 else type_name.replace("/", "/msg/", 1)
    return _RENAMED.get(name, name)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
