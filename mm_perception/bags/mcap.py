"""The checksums of MCAP files (https://mcap.dev/spec), which the `rosbags` library's writer leaves out."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from rosbags.rosbag2.storage_mcap import McapWriter

from mm_perception.bags.damage import DamagedError

MAGIC = b"\x89MCAP0\r\n"
FOOTER = struct.Struct("<BQQQI8s")
RECORD = struct.Struct("<BQ")
_CHUNK_CRC_AT = RECORD.size + 24
_BLOCK = 1 << 22


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
        file.seek(-FOOTER.size, 2)
        end = file.tell()
        summary_start = FOOTER.unpack(file.read(FOOTER.size))[2]
        data_end = summary_start - RECORD.size - 4
        checksum = checksum_of(file, 0, data_end)
        file.seek(data_end + RECORD.size)
        file.write(struct.pack("<I", checksum))
        checksum = checksum_of(file, summary_start, end + FOOTER.size - 12)
        file.seek(end + FOOTER.size - 12)
        file.write(struct.pack("<I", checksum))


def checksum_of(file: BinaryIO, start: int, stop: int) -> int:
    """CRC32 of a part of a file. Raises DamagedError if the file is shorter."""
    file.seek(start)
    checksum = 0
    while start < stop:
        block = file.read(min(_BLOCK, stop - start))
        if not block:
            raise DamagedError("file ends within a section")
        checksum, start = crc32(block, checksum), start + len(block)
    return checksum
