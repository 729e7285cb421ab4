"""MCAP with its checksums (https://mcap.dev/spec): written into our bags, and checked in any.

Beneath stands the `rosbags` library. Its writer leaves the checksums out, and its reader gives a bag up at the first
damaged chunk and unpacks whatever a chunk says.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from heapq import merge
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zlib import crc32

from lz4.frame import LZ4FrameDecompressor
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader, McapWriter, Statistics

from mm_perception.bags.compression import unpacked_zstd
from mm_perception.bags.damage import DamageLog
from mm_perception.core.limits import MAX_CHUNK_BYTES, MAX_CHUNK_MESSAGES, MAX_OPEN_CHUNK_BYTES

if TYPE_CHECKING:
    from rosbags.interfaces.typing import RPath

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F
_FOOTER = struct.Struct("<BQQQI8s")
_RECORD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_CHUNK_CRC_AT = _RECORD.size + 24
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_BLOCK = 1 << 22
_FOREVER = 2**63 - 1

_Item = tuple[int, int, Connection, bytes]
"""Log time, position of the chunk, connection, message."""


class ChecksummedMcapWriter(McapWriter):
    """The library's writer, with the checksum of each chunk."""

    def close_chunk(self) -> None:
        start, checksum = self.bio.tell(), crc32(self.chunk.bio.getbuffer())
        super().close_chunk()
        end = self.bio.tell()
        self.bio.seek(start + _CHUNK_CRC_AT)
        self.bio.write(struct.pack("<I", checksum))
        self.bio.seek(end)


def write_section_checksums(path: Path) -> None:
    """Fills in the checksums of the data section and of the summary of a finished file."""
    with path.open("r+b") as file:
        file.seek(-_FOOTER.size, 2)
        end = file.tell()
        summary_start = _FOOTER.unpack(file.read(_FOOTER.size))[2]
        data_end = summary_start - _RECORD.size - 4
        checksum = _checksum(file, 0, data_end)
        file.seek(data_end + _RECORD.size)
        file.write(struct.pack("<I", checksum))
        checksum = _checksum(file, summary_start, end + _FOOTER.size - 12)
        file.seek(end + _FOOTER.size - 12)
        file.write(struct.pack("<I", checksum))


def _checksum(file: BinaryIO, start: int, stop: int) -> int:
    file.seek(start)
    checksum = 0
    while start < stop:
        block = file.read(min(_BLOCK, stop - start))
        if not block:
            raise ReaderError("file ends within a section")
        checksum, start = crc32(block, checksum), start + len(block)
    return checksum


class CheckedMcapReader(McapReader):
    """The library's reader, which leaves a damaged chunk out, names it, and goes on with the next.

    A chunk is damaged if its checksum (where there is one), its sizes or its place are not what it or the summary
    says. A summary that is damaged is made anew from the chunks.
    """

    def __init__(self, path: RPath, damage: DamageLog) -> None:
        super().__init__(path)
        self._damage = damage
        self._name = str(path)
        self._open_bytes = 0
        self._loose = False
        self._counts_hold = True

    def read_index(self) -> None:
        """Reads the summary, or scans the file where its checksum is not what it should be."""
        assert self.bio
        self.bio.seek(-_FOOTER.size, 2)
        end = self.bio.tell()
        expected = _FOOTER.unpack(self.bio.read(_FOOTER.size))[4]
        if expected and _checksum(self.bio, self.data_end, end + _FOOTER.size - 12) != expected:
            self._damage.add(self._name, self.data_end, "summary: checksum mismatch")
            self.meta_scan()
            return
        super().read_index()
        starts = Counter(chunk.chunk_start_offset for chunk in self.chunks)
        if any(times > 1 for times in starts.values()):
            raise ReaderError("the summary names a chunk twice")
        if self.statistics is not None:
            counted: Counter[int] = Counter()
            for chunk in self.chunks:
                counted.update(chunk.channel_count)
            self._counts_hold = +counted == +Counter(self.statistics.channel_message_counts)

    def meta_scan(self) -> None:
        """Makes a summary of what is in the file."""
        assert self.bio
        described, loose = BytesIO(), Counter[int]()
        chunks: list[ChunkInfo] = []
        first, last = _FOREVER, 0
        for position, op, size in self._records():
            if op in (_SCHEMA, _CHANNEL):
                described.write(_RECORD.pack(op, size) + self._exactly(size))
            elif op == _MESSAGE and size >= _MESSAGE_HEAD.size:
                channel, _, stamp_ns, _ = _MESSAGE_HEAD.unpack(self._exactly(_MESSAGE_HEAD.size))
                loose[channel] += 1
                first, last = min(first, stamp_ns), max(last, stamp_ns)
            elif op == _CHUNK:
                chunk = self._scan_chunk(position, size, described)
                if chunk is not None:
                    chunks.append(chunk)
        counted = Counter(loose)
        for chunk in chunks:
            counted.update(chunk.channel_count)
            first, last = min(first, chunk.message_start_time), max(last, chunk.message_end_time)
        self._read_described(described.getvalue())
        self.chunks[:] = chunks
        self._loose = bool(loose)
        self.statistics = Statistics(
            counted.total(), len(self.schemas), len(self.channels), 0, 0, len(chunks), first, last, dict(counted)
        )

    def _read_described(self, records: bytes) -> None:
        """Lets the library read schemas and channels as if they stood in a summary."""
        file, data_end = self.bio, self.data_end
        self.bio, self.data_end = BytesIO(records + b"\x02"), 0
        try:
            super().read_index()
        finally:
            self.bio, self.data_end = file, data_end

    def _records(self) -> Iterator[tuple[int, int, int]]:
        """Position, kind and size of each record of the data section; the file then stands at its content."""
        assert self.bio
        position = self.data_start
        while position + _RECORD.size <= self.data_end:
            self.bio.seek(position)
            op, size = _RECORD.unpack(self.bio.read(_RECORD.size))
            if op == _DATA_END:
                return
            if position + _RECORD.size + size > self.data_end:
                self._damage.add(self._name, position, "damaged record, and what follows it")
                return
            yield position, op, size
            position += _RECORD.size + size

    def _exactly(self, size: int) -> bytes:
        assert self.bio
        data = self.bio.read(size)
        if len(data) != size:
            raise ReaderError(f"file ends within a record of {size} bytes")
        return data

    def _scan_chunk(self, position: int, size: int, described: BytesIO) -> ChunkInfo | None:
        """The index entry of a chunk; its schemas and channels go to `described`. None if it is damaged."""
        try:
            start, end, unpacked, _ = _CHUNK_HEAD.unpack(self._exactly(_CHUNK_HEAD.size))
            (length,) = struct.unpack("<I", self._exactly(4))
            if length > 16:
                raise ReaderError("name of compression is too long")
            compression = self._exactly(length).decode()
            (packed,) = struct.unpack("<Q", self._exactly(8))
            chunk = ChunkInfo(start, end, position, _RECORD.size + size, {}, 0, compression, packed, unpacked, {})
            raw = self._unpacked(chunk)
            counted: Counter[int] = Counter()
            for op, at, length in _inner_records(raw):
                if op in (_SCHEMA, _CHANNEL):
                    described.write(_RECORD.pack(op, length) + raw[at : at + length])
                elif op == _MESSAGE:
                    counted[_MESSAGE_HEAD.unpack_from(raw, at)[0]] += 1
        except Exception as error:  # decompressors have errors of their own
            self._damage.add(self._name, position, _reason(error))
            return None
        chunk.channel_count.update(counted)
        return chunk

    def _unpacked(self, chunk: ChunkInfo) -> bytes:
        """The records of a chunk. Raises if it is damaged, is not what the index says, or too large."""
        assert self.bio
        if chunk.uncompressed_size > MAX_CHUNK_BYTES or chunk.compressed_size > self.data_end:
            raise ReaderError(f"chunk of more than {MAX_CHUNK_BYTES} bytes")
        name = chunk.compression.encode()
        self.bio.seek(chunk.chunk_start_offset)
        head = self._exactly(_RECORD.size + _CHUNK_HEAD.size + 4 + len(name) + 8)
        checksum = _CHUNK_HEAD.unpack_from(head, _RECORD.size)[3]
        expected = _RECORD.pack(_CHUNK, chunk.chunk_length - _RECORD.size) + _CHUNK_HEAD.pack(
            chunk.message_start_time, chunk.message_end_time, chunk.uncompressed_size, checksum
        )
        expected += struct.pack("<I", len(name)) + name + struct.pack("<Q", chunk.compressed_size)
        if head != expected:
            raise ReaderError("chunk is not the one of the index")
        raw = _decompressed(self._exactly(chunk.compressed_size), chunk.compression, chunk.uncompressed_size)
        if checksum and crc32(raw) != checksum:
            raise ReaderError("chunk checksum mismatch")
        return raw

    def messages(self, connections: Collection[Connection], start: int | None = None, stop: int | None = None) -> Any:
        """The messages of some connections by log time; see the library's reader."""
        wanted = {connection.id: connection for connection in connections}
        first, end = 0 if start is None else start, _FOREVER if stop is None else stop
        streams = [
            self._chunk_items(chunk, wanted, first, end)
            for chunk in self.chunks
            if chunk.message_end_time >= first
            and chunk.message_start_time < end
            and (not self._counts_hold or any(chunk.channel_count.get(number) for number in wanted))
        ]
        if self._loose or not self.chunks:
            streams.append(self._loose_items(wanted, first, end))
        for stamp_ns, _, connection, data in merge(*streams, key=itemgetter(0, 1)):
            if connection is not None:
                yield connection, stamp_ns, data

    def _chunk_items(self, chunk: ChunkInfo, wanted: dict[int, Connection], first: int, end: int) -> Iterator[Any]:
        """First a mark with the chunk's start, so that a merge opens it not before its time; then its messages."""
        yield chunk.message_start_time, 0, None, b""
        held = min(chunk.uncompressed_size, MAX_CHUNK_BYTES)
        self._open_bytes += held
        try:
            items = self._items(chunk, wanted, first, end)
        except Exception as error:  # decompressors have errors of their own
            topics = {number: channel.topic for number, channel in self.channels.items()}
            lost = {topics[number]: count for number, count in chunk.channel_count.items() if number in topics}
            self._damage.add(self._name, chunk.chunk_start_offset, _reason(error), lost)
            items = []
        try:
            yield from items
        finally:
            self._open_bytes -= held

    def _items(self, chunk: ChunkInfo, wanted: dict[int, Connection], first: int, end: int) -> list[_Item]:
        if self._open_bytes > MAX_OPEN_CHUNK_BYTES:
            raise ReaderError(f"chunks of more than {MAX_OPEN_CHUNK_BYTES} bytes overlap in time")
        raw = self._unpacked(chunk)
        items = []
        for op, at, size in _inner_records(raw):
            if op != _MESSAGE:
                continue
            channel, _, stamp_ns, _ = _MESSAGE_HEAD.unpack_from(raw, at)
            if not chunk.message_start_time <= stamp_ns <= chunk.message_end_time:
                raise ReaderError("message outside of its chunk's time")
            if channel in wanted and first <= stamp_ns < end:
                data = raw[at + _MESSAGE_HEAD.size : at + size]
                items.append((stamp_ns, chunk.chunk_start_offset, wanted[channel], data))
        items.sort(key=itemgetter(0))
        return items

    def _loose_items(self, wanted: dict[int, Connection], first: int, end: int) -> Iterator[Any]:
        """Messages that stand in no chunk."""
        newest = -1
        for position, op, size in self._records():
            if op != _MESSAGE or size < _MESSAGE_HEAD.size:
                continue
            channel, _, stamp_ns, _ = _MESSAGE_HEAD.unpack(self._exactly(_MESSAGE_HEAD.size))
            if channel not in wanted or not first <= stamp_ns < end:
                continue
            if stamp_ns < newest:
                raise ReaderError("messages without chunks are not in the order of their times")
            newest = stamp_ns
            yield stamp_ns, position, wanted[channel], self._exactly(size - _MESSAGE_HEAD.size)


def _inner_records(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, start and size of the content of each record of a chunk. Raises if they do not fill it."""
    at, count = 0, 0
    while at < len(raw):
        if at + _RECORD.size > len(raw):
            raise ReaderError("chunk ends within a record")
        op, size = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        if at + size > len(raw) or (op == _MESSAGE and size < _MESSAGE_HEAD.size):
            raise ReaderError("chunk with a record of impossible size")
        count += 1
        if count > MAX_CHUNK_MESSAGES:
            raise ReaderError(f"chunk of more than {MAX_CHUNK_MESSAGES} records")
        yield op, at, size
        at += size


def _decompressed(data: bytes, compression: str, size: int) -> bytes:
    """Exactly `size` bytes, never more."""
    if compression == "":
        raw = data
    elif compression == "zstd":
        raw = unpacked_zstd(data, size)
    elif compression == "lz4":
        raw = LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    else:
        raise ReaderError(f"unknown chunk compression {compression!r}")
    if len(raw) != size:
        raise ReaderError("chunk of another size than it says")
    return raw


def _reason(error: Exception) -> str:
    """Without what differs from chunk to chunk, so that equal damage is counted together."""
    return f"damaged chunk ({error})" if isinstance(error, ReaderError) else f"damaged chunk ({type(error).__name__})"
