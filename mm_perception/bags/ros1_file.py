"""Reading ROS 1 bags (http://wiki.ros.org/Bags/Format/2.0): by their index, or by what is whole where there is none.

Recorders that were killed leave a `.bag.active` without an index; it is read as far as it goes.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

from mm_perception.bags.channels import ROS1, Channel, Definition, RecordedQos
from mm_perception.bags.compression import KNOWN, unpacked_chunk
from mm_perception.bags.damage import DamagedError, DamageLog
from mm_perception.core.limits import (
    MAX_CHUNK_BYTES,
    MAX_CHUNK_MESSAGES,
    MAX_DEFINITION_BYTES,
    MAX_OPEN_CHUNK_BYTES,
    MAX_SUMMARY_RECORD_BYTES,
)

_MESSAGE, _BAG_HEADER, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 5, 6, 7
_MAX_HEADER_BYTES = 2**16
_U32 = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_LONGEST_MAGIC = 64


class _Header(dict[str, bytes]):
    """The fields of a record by name. Raises DamagedError where one is missing or of another size."""

    def number(self, name: str, form: str) -> int:
        value = self.get(name, b"")
        if len(value) != struct.calcsize(form):
            raise DamagedError(f"record without {name}")
        return int(struct.unpack(form, value)[0])

    def time_ns(self, name: str) -> int:
        value = self.get(name, b"")
        if len(value) != _PAIR.size:
            raise DamagedError(f"record without {name}")
        sec, nsec = _PAIR.unpack(value)
        return int(sec * 1_000_000_000 + nsec)

    def text(self, name: str) -> str:
        return self.get(name, b"").decode(errors="replace")

    @property
    def op(self) -> int:
        return self.number("op", "<B")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where a chunk lies, and what is in it by connection. cut: the file ends within it."""

    position: int
    start_ns: int
    end_ns: int
    compression: str
    unpacked: int
    packed: int
    data_at: int
    counts: Counter[int] = field(default_factory=Counter)
    cut: bool = False


class Ros1File:
    """An open ROS 1 bag (see `channels.Storage`).

    Raises:
        DamagedError: it is no such bag, is encrypted or of another version, or nothing in it can be read.
    """

    def __init__(self, path: Path, shown: Path, damage: DamageLog) -> None:
        """Args: shown: how messages call the file."""
        self._name, self._damage = str(shown), damage
        self._open_bytes = 0
        self._file = path.open("rb")
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        self._size = self._file.seek(0, 2)
        self._file.seek(0)
        magic = self._file.readline(_LONGEST_MAGIC)
        version = re.fullmatch(rb"#ROSBAG V(\d+)\.(\d+)\n", magic)
        if not version:
            raise DamagedError("does not begin as a ROS 1 bag does")
        if version.groups() != (b"2", b"0"):
            number = b".".join(version.groups()).decode()
            raise DamagedError(f"is a ROS 1 bag of version {number}: expected 2.0; `rosbag fix` makes one of it")
        head, size = self._record_at(len(magic), self._size)
        if head.op != _BAG_HEADER:
            raise DamagedError("does not begin with the header of a ROS 1 bag")
        if head.text("encryptor"):
            raise DamagedError(f"is encrypted ({head.text('encryptor')[:80]}); decrypt it first")
        self._data_start = self._file.tell() + size
        self._reset()
        if not self._read_index(head):
            self._reset()
            self._scan()
        unknown = sorted({chunk.compression for chunk in self._chunks} - set(KNOWN))
        if unknown and all(chunk.compression in unknown for chunk in self._chunks):
            raise DamagedError(f"its chunks are compressed with {unknown[0]!r}: expected lz4, bz2 or none")
        counts = sum((chunk.counts for chunk in self._chunks), Counter[int]())
        self.channels: tuple[Channel, ...] = tuple(
            replace(one, count=counts[one.number]) for one in self._connections.values()
        )
        full = [chunk for chunk in self._chunks if chunk.counts]
        self.span_ns = (min(c.start_ns for c in full), max(c.end_ns for c in full)) if full else None

    def _reset(self) -> None:
        self._connections: dict[int, Channel] = {}
        self._chunks: list[_Chunk] = []

    # ---- records

    def _record_at(self, position: int, end: int) -> tuple[_Header, int]:
        """Header and size of the data of a record; the file then stands at its data."""
        self._file.seek(position)
        (length,) = _U32.unpack(self._exactly(4))
        if length > min(_MAX_HEADER_BYTES, end - position):
            raise DamagedError(f"record with a header of {length} bytes")
        header = _parse_header(self._exactly(length))
        return header, _U32.unpack(self._exactly(4))[0]

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise DamagedError(f"file ends within a record of {size} bytes")
        return data

    def _take_connection(self, header: _Header, data: bytes) -> None:
        if len(data) > MAX_SUMMARY_RECORD_BYTES:
            raise DamagedError("connection of impossible size")
        said, number, topic = _parse_header(data), header.number("conn", "<I"), header.text("topic")
        text = said.get("message_definition", b"")
        definition = Definition("ros1msg", text.decode(errors="replace") if len(text) <= MAX_DEFINITION_BYTES else "")
        latched = said.text("latching").lower() in ("1", "true")
        topic = "/" * topic.startswith("/") + "/".join(filter(None, topic.split("/")))
        channel = Channel(number, topic, said.text("type"), ROS1, definition, 0, (RecordedQos(latched=latched),))
        self._connections.setdefault(number, channel)

    # ---- opening

    def _read_index(self, head: _Header) -> bool:
        """Whether the bag has an index that says all that is needed."""
        position = head.number("index_pos", "<Q")
        connections, chunks = head.number("conn_count", "<I"), head.number("chunk_count", "<I")
        if not self._data_start <= position <= self._size or (chunks and position == self._size):
            return False
        try:
            for _ in range(connections + chunks):
                header, size = self._record_at(position, self._size)
                position = self._file.tell() + size
                if size > MAX_SUMMARY_RECORD_BYTES:
                    raise DamagedError(f"record of {size} bytes")
                if header.op == _CONNECTION:
                    self._take_connection(header, self._exactly(size))
                elif header.op == _CHUNK_INFO:
                    self._take_chunk_info(header, self._exactly(size))
        except (DamagedError, struct.error) as error:
            self._damage.add(self._name, position, f"index: {error}")
            return False
        starts = {chunk.position for chunk in self._chunks}
        return len(starts) == len(self._chunks) == chunks and len(self._connections) == connections

    def _take_chunk_info(self, header: _Header, data: bytes) -> None:
        counts = Counter(dict(_PAIR.iter_unpack(data[: len(data) // _PAIR.size * _PAIR.size])))
        start_ns, end_ns = (header.time_ns("start_time"), header.time_ns("end_time")) if counts else (0, 0)
        chunk = self._chunk_at(header.number("chunk_pos", "<Q"))
        self._chunks.append(replace(chunk, start_ns=start_ns, end_ns=end_ns, counts=counts))

    def _chunk_at(self, position: int) -> _Chunk:
        header, size = self._record_at(position, self._size)
        if header.op != _CHUNK:
            raise DamagedError("chunk is not where the index says")
        at = self._file.tell()
        cut = at + size > self._size
        return _Chunk(position, 0, 0, header.text("compression"), header.number("size", "<I"), size, at, Counter(), cut)

    def _scan(self) -> None:
        """Makes an index of what is in the file."""
        position, whole = self._data_start, True
        while position < self._size:
            try:
                header, size = self._record_at(position, self._size)
                after = self._file.tell() + size
                op = header.op
            except (DamagedError, struct.error):
                whole = False
                break
            if op == _CONNECTION and after <= self._size:
                self._try(position, self._take_connection, header, self._exactly(size))
            elif op == _CHUNK:
                self._try(position, self._scan_chunk, position)
            position, whole = after, after <= self._size
        self._damage.note(
            f"{self._name}: has no index"
            + ("" if whole else f" and is truncated at byte {min(position, self._size)}")
            + " (killed recorder?): what is whole is read; `rosbag reindex` makes a whole bag of it"
        )
        if not whole:
            self._damage.add(self._name, position, "file was not closed: its end is missing")

    def _try(self, position: int, take: Any, *arguments: Any) -> None:
        try:
            take(*arguments)
        except Exception as error:  # decompressors have errors of their own
            self._damage.add(self._name, position, _reason(error))

    def _scan_chunk(self, position: int) -> None:
        chunk, stamps, counts = self._chunk_at(position), list[int](), Counter[int]()
        if chunk.compression not in KNOWN:
            self._chunks.append(chunk)  # so that it is named
            return
        raw = self._unpacked(chunk)
        for header, at, size in _inner_records(raw, chunk.cut):
            if header.op == _CONNECTION:
                self._take_connection(header, raw[at : at + size])
            elif header.op == _MESSAGE:
                stamps.append(header.time_ns("time"))
                counts[header.number("conn", "<I")] += 1
        if stamps:
            self._chunks.append(replace(chunk, start_ns=min(stamps), end_ns=max(stamps), counts=counts))

    # ---- messages

    def _unpacked(self, chunk: _Chunk) -> bytes:
        if max(chunk.packed, chunk.unpacked) > MAX_CHUNK_BYTES:
            raise DamagedError(f"chunk of more than {MAX_CHUNK_BYTES} bytes")
        self._file.seek(chunk.data_at)
        packed = self._file.read(chunk.packed) if chunk.cut else self._exactly(chunk.packed)
        return unpacked_chunk(packed, chunk.compression, chunk.unpacked, chunk.cut)

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `channels.Storage`."""
        wanted = frozenset(numbers)
        streams = [self._chunk_items(c, wanted) for c in self._chunks if any(c.counts[number] for number in wanted)]
        for stamp_ns, _, number, data in merge(*streams, key=itemgetter(0, 1)):
            if number >= 0:
                yield stamp_ns, number, data

    def _chunk_items(self, chunk: _Chunk, wanted: frozenset[int]) -> Iterator[Any]:
        """First a mark with the chunk's start, so that a merge opens it not before its time; then its messages."""
        yield chunk.start_ns, 0, -1, b""
        held = min(chunk.unpacked, MAX_CHUNK_BYTES)
        self._open_bytes += held
        try:
            items = self._items(chunk, wanted)
        except Exception as error:  # decompressors have errors of their own
            lost = {self._connections[n].topic: count for n, count in chunk.counts.items() if n in self._connections}
            self._damage.add(self._name, chunk.position, _reason(error), lost)
            items = []
        try:
            yield from items
        finally:
            self._open_bytes -= held

    def _items(self, chunk: _Chunk, wanted: frozenset[int]) -> list[tuple[int, int, int, bytes]]:
        if self._open_bytes > MAX_OPEN_CHUNK_BYTES:
            raise DamagedError(f"chunks of more than {MAX_OPEN_CHUNK_BYTES} bytes overlap in time")
        raw = self._unpacked(chunk)
        items = []
        for header, at, size in _inner_records(raw, chunk.cut):
            if header.op != _MESSAGE:
                continue
            stamp_ns, number = header.time_ns("time"), header.number("conn", "<I")
            if number in wanted:
                items.append((max(stamp_ns, chunk.start_ns), chunk.position, number, raw[at : at + size]))
        items.sort(key=itemgetter(0))
        return items


def _parse_header(data: bytes) -> _Header:
    header, at = _Header(), 0
    while at < len(data):
        if at + 4 > len(data):
            raise DamagedError("header ends within a field")
        (size,) = _U32.unpack_from(data, at)
        name, equals, value = data[at + 4 : at + 4 + size].partition(b"=")
        if at + 4 + size > len(data) or not equals:
            raise DamagedError("header with an impossible field")
        header[name.decode(errors="replace")] = value
        at += 4 + size
    return header


def _inner_records(raw: bytes, cut: bool) -> Iterator[tuple[_Header, int, int]]:
    """Header, start and size of the data of each record of a chunk; of a cut one, those that are whole."""
    at, count = 0, 0
    while at < len(raw):
        try:
            (length,) = _U32.unpack_from(raw, at)
            (size,) = _U32.unpack_from(raw, at + 4 + length)
        except struct.error:
            length, size = 0, len(raw) + 1
        start = at + 8 + length
        if start + size > len(raw):
            if cut:
                return
            raise DamagedError("chunk with a record of impossible size")
        count += 1
        if count > MAX_CHUNK_MESSAGES:
            raise DamagedError(f"chunk of more than {MAX_CHUNK_MESSAGES} records")
        yield _parse_header(raw[at + 4 : at + 4 + length]), start, size
        at = start + size


def _reason(error: Exception) -> str:
    """Without what differs from chunk to chunk, so that equal damage is counted together."""
    return f"damaged chunk ({error})" if isinstance(error, DamagedError) else f"damaged chunk ({type(error).__name__})"
