"""The records of an MCAP file, as bytes and as what they say (https://mcap.dev/spec)."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mm_perception.bags.channels import Channel, Definition, RecordedQos, parse_qos
from mm_perception.bags.damage import DamagedError
from mm_perception.bags.mcap import RECORD
from mm_perception.core.limits import MAX_CHUNK_BYTES, MAX_CHUNK_MESSAGES, MAX_DEFINITION_BYTES

FOOTER_OP, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence number, log time, publish time."""
CHUNK_HEAD = struct.Struct("<QQQI")
FOREVER = 2**63 - 1
_INDEX_HEAD = struct.Struct("<QQQQ")
_INDEX_ENTRY_BYTES, _INDEX_EXTRA_BYTES = 16, 15
_LONGEST_NAME = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk lies and what it should be.

    Attributes:
        length: of the whole record, head included.
        packed, unpacked: sizes of its content [bytes].
        counts: messages by channel, as far as they are known.
        cut: the file ends within it.
    """

    start_ns: int
    end_ns: int
    position: int
    length: int
    compression: str
    packed: int
    unpacked: int
    counts: Counter[int] = field(default_factory=Counter)
    cut: bool = False

    def head(self, checksum: int) -> bytes:
        """The bytes with which it must begin in the file."""
        name = self.compression.encode()
        return (
            RECORD.pack(CHUNK, self.length - RECORD.size)
            + CHUNK_HEAD.pack(self.start_ns, self.end_ns, self.unpacked, checksum)
            + struct.pack("<I", len(name))
            + name
            + struct.pack("<Q", self.packed)
        )


class _Cursor:
    """Reads what stands in a record, one value after the other. Raises DamagedError at its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def octets(self, size: int) -> bytes:
        if size > self.left:
            raise DamagedError("record ends within a value")
        self._at += size
        return self._data[self._at - size : self._at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.octets(struct.calcsize(f"<{form}")))

    def sized(self) -> bytes:
        return self.octets(self.numbers("I")[0])

    def text(self) -> str:
        return self.sized().decode(errors="replace")


class Descriptions:
    """Schemas and channels, in the order in which they come.

    A channel may be described again and again, in each chunk and in the summary; the first time counts.
    """

    def __init__(self) -> None:
        self.schema_count = 0
        self._schemas: dict[int, tuple[str, Definition]] = {}
        self._channels: dict[int, Channel] = {}

    def take(self, op: int, data: bytes) -> None:
        """Takes a record of kind `SCHEMA` or `CHANNEL`. Raises DamagedError."""
        cursor = _Cursor(data)
        if op == SCHEMA:
            (number,) = cursor.numbers("H")
            name, form, text = cursor.text(), cursor.text(), cursor.sized()
            # A binary schema (protobuf's descriptors) is none that is parsed, nor is one of a megabyte.
            readable = form.startswith("ros") or form == "omgidl"
            kept = text.decode(errors="replace") if readable and len(text) <= MAX_DEFINITION_BYTES else ""
            self._schemas.setdefault(number, (name, Definition(form, kept)))
            self.schema_count = len(self._schemas)
            return
        number, schema = cursor.numbers("HH")
        topic, encoding, metadata = cursor.text(), cursor.text(), _Cursor(cursor.sized())
        type_name, definition = self._schemas.get(schema, ("", Definition()))
        qos: tuple[RecordedQos, ...] = ()
        while metadata.left:
            key, value = metadata.text(), metadata.text()
            if key == "offered_qos_profiles":
                qos = parse_qos(value)
        self._channels.setdefault(number, Channel(number, topic, type_name, encoding, definition, 0, qos))

    def channels(self) -> tuple[Channel, ...]:
        return tuple(self._channels.values())


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the summary says that the file holds; counts: messages by channel."""

    messages: int
    schemas: int
    channels: int
    chunks: int
    counts: Counter[int]


def parse_statistics(data: bytes) -> Statistics:
    """Raises DamagedError."""
    cursor = _Cursor(data)
    messages, schemas, channels, _, _, chunks, _, _ = cursor.numbers("QHIIIIQQ")
    pairs = cursor.sized()
    counts = Counter(dict(struct.iter_unpack("<HQ", pairs[: len(pairs) // 10 * 10])))
    return Statistics(messages, schemas, channels, chunks, counts)


def parse_chunk_index(data: bytes) -> Chunk:
    """Raises DamagedError."""
    cursor = _Cursor(data)
    start_ns, end_ns, position, length = cursor.numbers(_INDEX_HEAD.format[1:])
    pairs = cursor.sized()
    (index_length,) = cursor.numbers("Q")
    compression = cursor.text()
    packed, unpacked = cursor.numbers("QQ")
    # How long the index of a channel's messages is says how many there are.
    starts = sorted((at, number) for number, at in struct.iter_unpack("<HQ", pairs[: len(pairs) // 10 * 10]))
    ends = [at for at, _ in starts[1:]] + [position + length + index_length]
    counts = {
        number: (end - at - _INDEX_EXTRA_BYTES) // _INDEX_ENTRY_BYTES
        for (at, number), end in zip(starts, ends, strict=False)
    }
    return Chunk(start_ns, end_ns, position, length, compression, packed, unpacked, Counter(counts))


def parse_chunk_head(data: bytes, position: int, size: int, cut: bool) -> Chunk:
    """A chunk by the beginning of its own record's content, 128 bytes of it or more. Raises DamagedError."""
    cursor = _Cursor(data)
    start_ns, end_ns, unpacked, _ = cursor.numbers(CHUNK_HEAD.format[1:])
    (length,) = cursor.numbers("I")
    if length > _LONGEST_NAME:
        raise DamagedError("name of compression is too long")
    compression = cursor.octets(length).decode(errors="replace")
    (packed,) = cursor.numbers("Q")
    return Chunk(start_ns, end_ns, position, RECORD.size + size, compression, packed, unpacked, Counter(), cut)


def inner_records(raw: bytes, cut: bool = False) -> Iterator[tuple[int, int, int]]:
    """Kind, start and size of the content of each record of a chunk.

    Args:
        cut: the chunk ends too early: its last record may be incomplete, and is left out.

    Raises:
        DamagedError: they do not fill it.
    """
    assert len(raw) <= MAX_CHUNK_BYTES
    at, count = 0, 0
    while at < len(raw):
        if at + RECORD.size > len(raw):
            if cut:
                return
            raise DamagedError("chunk ends within a record")
        op, size = RECORD.unpack_from(raw, at)
        at += RECORD.size
        if cut and at + size > len(raw):
            return
        if at + size > len(raw) or (op == MESSAGE and size < MESSAGE_HEAD.size):
            raise DamagedError("chunk with a record of impossible size")
        count += 1
        if count > MAX_CHUNK_MESSAGES:
            raise DamagedError(f"chunk of more than {MAX_CHUNK_MESSAGES} records")
        yield op, at, size
        at += size
