"""Reading MCAP files: closed ones by their summary, others by what is whole in them.

A chunk is damaged if its checksum (where there is one), its sizes or its place are not what it or the summary says; it
is left out and named. A summary that is missing, damaged or says too little is made anew from the chunks.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from mm_perception.bags.channels import Channel
from mm_perception.bags.compression import KNOWN, unpacked_chunk
from mm_perception.bags.damage import DamagedError, DamageLog
from mm_perception.bags.mcap import FOOTER, MAGIC, RECORD, checksum_of
from mm_perception.bags.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    CHUNK_INDEX,
    DATA_END,
    FOOTER_OP,
    FOREVER,
    MESSAGE,
    MESSAGE_HEAD,
    SCHEMA,
    STATISTICS,
    Chunk,
    Descriptions,
    Statistics,
    inner_records,
    parse_chunk_head,
    parse_chunk_index,
    parse_statistics,
)  # fmt: skip
from mm_perception.core.limits import MAX_CHUNK_BYTES, MAX_OPEN_CHUNK_BYTES, MAX_ROW_BYTES, MAX_SUMMARY_RECORD_BYTES

_HEAD_BYTES = 128


class McapFile:
    """An open MCAP file (see `channels.Storage`).

    Raises:
        DamagedError: it is no MCAP file, or nothing in it can be read.
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
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DamagedError("does not begin as an MCAP file does")
        self._data_start, self._data_end = len(MAGIC), self._size
        self._reset()
        if not self._read_summary():
            self._reset()
            self._scan()
        unknown = sorted({chunk.compression for chunk in self._chunks} - set(KNOWN))
        if unknown and all(chunk.compression in unknown for chunk in self._chunks):
            raise DamagedError(f"its chunks are compressed with {unknown[0]!r}: expected lz4, zstd or none")
        self.channels = self._counted()
        spans = [(chunk.start_ns, chunk.end_ns) for chunk in self._chunks if chunk.end_ns]
        spans += [(min(self._loose_ns), max(self._loose_ns))] if self._loose_ns else []
        self.span_ns = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    def _reset(self) -> None:
        self._descriptions, self._chunks = Descriptions(), list[Chunk]()
        self._loose_ns, self._loose_at = array("q"), array("q")
        self._counts = Counter[int]()
        self._counts_hold = True

    def _counted(self) -> tuple[Channel, ...]:
        return tuple(replace(one, count=self._counts[one.number]) for one in self._descriptions.channels())

    # ---- the summary

    def _read_summary(self) -> bool:
        """Whether the file has a summary that says all that is needed."""
        if self._size < self._data_start + FOOTER.size:
            return False
        end = self._file.seek(-FOOTER.size, 2)
        op, size, start, _, checksum, magic = FOOTER.unpack(self._file.read(FOOTER.size))
        if (op, size, magic) != (FOOTER_OP, 20, MAGIC):
            return False
        self._data_end = end
        if not start:
            return False
        if not self._data_start <= start <= end:
            self._damage.add(self._name, end, "summary: impossible place")
            return False
        self._data_end = start
        if checksum and checksum_of(self._file, start, end + FOOTER.size - 12) != checksum:
            self._damage.add(self._name, start, "summary: checksum mismatch")
            return False
        try:
            return self._take_summary(start, end)
        except (DamagedError, struct.error) as error:
            self._damage.add(self._name, start, f"summary: {error}")
            return False

    def _take_summary(self, start: int, end: int) -> bool:
        statistics: Statistics | None = None
        for _, op, size in self._walk(start, end):
            if op not in (SCHEMA, CHANNEL, CHUNK_INDEX, STATISTICS):
                continue
            if size > MAX_SUMMARY_RECORD_BYTES:
                raise DamagedError(f"record of {size} bytes")
            data = self._exactly(size)
            if op == STATISTICS:
                statistics = parse_statistics(data)
            elif op == CHUNK_INDEX:
                self._chunks.append(parse_chunk_index(data))
            else:
                self._descriptions.take(op, data)
        if statistics is None or not self._is_complete(statistics):
            return False
        for chunk in self._chunks:
            self._counts.update(chunk.counts)
        self._counts_hold = +self._counts == +statistics.counts
        if not self._counts_hold:  # no index of messages, or messages outside of chunks
            self._counts = statistics.counts
            self._find_loose()
        return True

    def _is_complete(self, statistics: Statistics) -> bool:
        """Whether the summary repeats what is needed: writers may leave any part of it out."""
        starts = {chunk.position for chunk in self._chunks}
        described = len(self._descriptions.channels()), self._descriptions.schema_count, len(starts)
        said = statistics.channels, statistics.schemas, statistics.chunks
        return described == said and len(starts) == len(self._chunks) and bool(starts or not statistics.messages)

    def _find_loose(self) -> None:
        for position, op, size in self._records():
            if op == MESSAGE and size >= MESSAGE_HEAD.size:
                self._take_loose(position)

    # ---- without a summary

    def _scan(self) -> None:
        """Makes a summary of what is in the file."""
        for position, op, size in self._records(told=True):
            if op in (SCHEMA, CHANNEL) and size <= MAX_SUMMARY_RECORD_BYTES:
                self._describe(op, self._exactly(size), position)
            elif op == MESSAGE and size >= MESSAGE_HEAD.size:
                self._counts[self._take_loose(position)] += 1
            elif op == CHUNK:
                self._scan_chunk(position, size)
        for chunk in self._chunks:
            self._counts.update(chunk.counts)

    def _describe(self, op: int, data: bytes, position: int) -> None:
        try:
            self._descriptions.take(op, data)
        except (DamagedError, struct.error) as error:
            self._damage.add(self._name, position, f"damaged description of a topic ({error})")

    def _take_loose(self, position: int) -> int:
        """Notes a message outside of chunks; the file stands at its head. Returns its channel."""
        channel, _, stamp_ns, _ = MESSAGE_HEAD.unpack(self._exactly(MESSAGE_HEAD.size))
        if stamp_ns <= FOREVER:
            self._loose_ns.append(stamp_ns)
            self._loose_at.append(position)
        return int(channel)

    def _scan_chunk(self, position: int, size: int) -> None:
        try:
            cut = position + RECORD.size + size > self._data_end
            chunk = parse_chunk_head(self._file.read(min(size, _HEAD_BYTES)), position, size, cut)
            if chunk.compression not in KNOWN:
                self._chunks.append(chunk)  # so that it is named
                return
            raw = self._unpacked(chunk)
            for op, at, length in inner_records(raw, cut):
                if op in (SCHEMA, CHANNEL):
                    self._describe(op, raw[at : at + length], position)
                elif op == MESSAGE:
                    chunk.counts[MESSAGE_HEAD.unpack_from(raw, at)[0]] += 1
        except Exception as error:  # decompressors have errors of their own
            if not cut:
                self._damage.add(self._name, position, _reason(error))
            return
        self._chunks.append(chunk)

    def _records(self, told: bool = False) -> Iterator[tuple[int, int, int]]:
        """The records of the data section, see `_walk`; a last one that is cut comes, too, if it is a chunk.

        Args:
            told: say how the file ends if it is not as it should.
        """
        position = self._data_start
        for position, op, size in self._walk(self._data_start, self._data_end):
            if op in (DATA_END, FOOTER_OP):
                if told and self._data_end == self._size:
                    self._damage.note(
                        f"{self._name}: its last bytes (index and end mark) are missing; the messages are whole"
                    )
                return
            yield position, op, size
            position += RECORD.size + size
        self._file.seek(position)
        head = self._file.read(RECORD.size)
        if len(head) == RECORD.size and head[0] == CHUNK and self._data_end == self._size:
            yield position, CHUNK, RECORD.unpack(head)[1]
        if told:
            self._tell_of_end(position)

    def _walk(self, position: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Position, kind and size of each whole record; the file then stands at its content."""
        while position + RECORD.size <= end:
            self._file.seek(position)
            op, size = RECORD.unpack(self._exactly(RECORD.size))
            if op == 0 or position + RECORD.size + size > end:
                return
            yield position, op, size
            position += RECORD.size + size

    def _tell_of_end(self, position: int) -> None:
        """Says that the file ends too early, at a record that is not whole."""
        if self._data_end != self._size:  # there is a footer: it was closed, and something in it is damaged
            if position < self._data_end:
                self._damage.add(self._name, position, "damaged record, and what follows it")
            return
        self._file.seek(position)
        zeros = position < self._size and not any(self._file.read(min(self._size - position, 4096)))
        how = f"only zeros from byte {position} on" if zeros else f"truncated in a record at byte {position}"
        if position == self._size:
            how = f"it ends at byte {position} without a footer"
        if not self._chunks and not self._loose_ns:
            raise DamagedError(f"not closed, {how}: no message in it is whole, nor would `mcap recover` find one")
        self._damage.add(self._name, position, "file was not closed: its end is missing")
        self._damage.note(
            f"{self._name}: not closed, {how} (power cut, full disk, killed recorder, unfinished copy?): what is whole"
            f" is read; `mcap recover {self._name} -o whole.mcap` makes a closed file of it"
        )

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise DamagedError(f"file ends within a record of {size} bytes")
        return data

    # ---- messages

    def _unpacked(self, chunk: Chunk) -> bytes:
        """The records of a chunk. Raises if it is damaged, is not what the index says, or too large."""
        if max(chunk.packed, chunk.unpacked) > MAX_CHUNK_BYTES:
            raise DamagedError(f"chunk of more than {MAX_CHUNK_BYTES} bytes")
        self._file.seek(chunk.position)
        head = self._exactly(len(chunk.head(0)))
        checksum = CHUNK_HEAD.unpack_from(head, RECORD.size)[3]
        if head != chunk.head(checksum):
            raise DamagedError("chunk is not the one of the index")
        left = self._data_end - chunk.position - len(head)
        packed = self._exactly(min(chunk.packed, left) if chunk.cut else chunk.packed)
        raw = unpacked_chunk(packed, chunk.compression, chunk.unpacked, chunk.cut)
        if checksum and not chunk.cut and crc32(raw) != checksum:
            raise DamagedError("chunk checksum mismatch")
        return raw

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `channels.Storage`."""
        wanted = frozenset(numbers)
        streams = [
            self._chunk_items(chunk, wanted)
            for chunk in self._chunks
            if chunk.start_ns < FOREVER and (not self._counts_hold or any(chunk.counts[number] for number in wanted))
        ]
        if self._loose_ns:
            streams.append(self._loose_items(wanted))
        for stamp_ns, _, channel, data in merge(*streams, key=itemgetter(0, 1)):
            if channel >= 0:
                yield stamp_ns, channel, data

    def _chunk_items(self, chunk: Chunk, wanted: frozenset[int]) -> Iterator[Any]:
        """First a mark with the chunk's start, so that a merge opens it not before its time; then its messages."""
        yield chunk.start_ns, 0, -1, b""
        held = min(chunk.unpacked, MAX_CHUNK_BYTES)
        self._open_bytes += held
        try:
            items = self._items(chunk, wanted)
        except Exception as error:  # decompressors have errors of their own
            topics = {channel.number: channel.topic for channel in self.channels}
            lost = {topics[number]: count for number, count in chunk.counts.items() if number in topics}
            self._damage.add(self._name, chunk.position, _reason(error), lost)
            items = []
        try:
            yield from items
        finally:
            self._open_bytes -= held

    def _items(self, chunk: Chunk, wanted: frozenset[int]) -> list[tuple[int, int, int, bytes]]:
        if self._open_bytes > MAX_OPEN_CHUNK_BYTES:
            raise DamagedError(f"chunks of more than {MAX_OPEN_CHUNK_BYTES} bytes overlap in time")
        raw = self._unpacked(chunk)
        items = []
        for op, at, size in inner_records(raw, chunk.cut):
            if op != MESSAGE:
                continue
            channel, _, stamp_ns, _ = MESSAGE_HEAD.unpack_from(raw, at)
            if not chunk.start_ns <= stamp_ns <= chunk.end_ns:
                raise DamagedError("message outside of its chunk's time")
            if channel in wanted and stamp_ns < FOREVER:
                items.append((stamp_ns, chunk.position, channel, raw[at + MESSAGE_HEAD.size : at + size]))
        items.sort(key=itemgetter(0))
        return items

    def _loose_items(self, wanted: frozenset[int]) -> Iterator[Any]:
        """Messages that stand in no chunk, by time whatever their order in the file."""
        for i in np.argsort(np.frombuffer(self._loose_ns, np.int64), kind="stable"):
            position = self._loose_at[int(i)]
            self._file.seek(position)
            size = RECORD.unpack(self._exactly(RECORD.size))[1]
            channel = MESSAGE_HEAD.unpack(self._exactly(MESSAGE_HEAD.size))[0]
            if channel not in wanted:
                continue
            if size > MAX_ROW_BYTES:
                self._damage.add(self._name, position, f"message of more than {MAX_ROW_BYTES} bytes")
                continue
            yield self._loose_ns[int(i)], position, channel, self._exactly(size - MESSAGE_HEAD.size)


def _reason(error: Exception) -> str:
    """Without what differs from chunk to chunk, so that equal damage is counted together."""
    return f"damaged chunk ({error})" if isinstance(error, DamagedError) else f"damaged chunk ({type(error).__name__})"
