"""Decompression with limits: a frame of a few bytes can unpack to gigabytes."""

from __future__ import annotations

import bz2
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from mm_perception.bags.damage import DamagedError
from mm_perception.core.errors import BagError
from mm_perception.core.limits import MAX_BAG_RATIO, MAX_UNPACKED_BAG_BYTES, MIN_FREE_DISK_BYTES

_BLOCK = 1 << 22
_SMALL = 2**28
"""A packed file may unpack to this much, however small it is."""


def unpacked_zstd(data: bytes, max_bytes: int) -> bytes:
    """What the frames of `data` hold.

    Raises:
        ValueError: it is cut off, or more than `max_bytes`. zstd has an error of its own for damaged data.
    """
    pieces: list[bytes] = []
    held = 0
    while data:
        frame = zstd.ZstdDecompressor()
        piece = frame.decompress(data, max_length=max_bytes - held + 1)
        held += len(piece)
        if held > max_bytes:
            raise DamagedError(f"unpacks to more than {max_bytes} bytes")
        if not frame.eof:
            raise DamagedError("cut off")
        pieces.append(piece)
        data = frame.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


KNOWN = ("", "none", "zstd", "lz4", "bz2")
"""Compressions of chunks; the empty name is MCAP's for none, "none" that of ROS 1."""


def unpacked_chunk(data: bytes, compression: str, size: int, cut: bool = False) -> bytes:
    """A chunk of exactly `size` bytes, never more.

    Args:
        cut: `data` ends too early; what its beginning holds is given.

    Raises:
        DamagedError: the compression is unknown, or the size another. Decompressors have errors of their own.
    """
    if compression in ("", "none"):
        raw = data
    elif compression == "zstd":
        raw = zstd.ZstdDecompressor().decompress(data, max_length=size) if cut else unpacked_zstd(data, size)
    elif compression == "lz4":
        raw = LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    elif compression == "bz2":
        raw = bz2.BZ2Decompressor().decompress(data, max_length=size + 1)
    else:
        raise DamagedError(f"unknown chunk compression {compression!r}")
    if len(raw) != size and not (cut and len(raw) < size):
        raise DamagedError("chunk of another size than it says")
    return raw


def unpack_file(packed: Path, target: Path) -> bool:
    """Unpacks a .zstd file; returns whether it was whole: of one that is cut off, the beginning is there.

    Raises:
        BagError: it is no zstd, is damaged, or unpacks to more than a bag may be or the disk holds.
    """
    size = packed.stat().st_size
    limit = min(MAX_UNPACKED_BAG_BYTES, max(_SMALL, MAX_BAG_RATIO * size))
    free = shutil.disk_usage(target.parent).free - MIN_FREE_DISK_BYTES
    with packed.open("rb") as source, target.open("wb") as out:
        try:
            return _unpack_stream(source, out, limit, free, target.parent)
        except zstd.ZstdError as error:
            raise BagError(f"{packed}: damaged zstd file ({error}); try `zstd -d` for what can be saved") from error
        except DamagedError as error:
            raise BagError(f"{packed}: {error}") from error


def _unpack_stream(source: BinaryIO, out: BinaryIO, limit: int, free: int, folder: Path) -> bool:
    frame, written, data = zstd.ZstdDecompressor(), 0, b""
    while True:
        if frame.eof:
            data = frame.unused_data or source.read(_BLOCK)
            if not data:
                return True
            frame = zstd.ZstdDecompressor()
        elif frame.needs_input:
            data = source.read(_BLOCK)
            if not data:
                return False
        else:
            data = b""
        piece = frame.decompress(data, max_length=_BLOCK)
        written += len(piece)
        if written > limit:
            raise DamagedError(f"unpacks to more than {limit} bytes: no bag does; unpack it by hand if it is one")
        if written > free:
            raise DamagedError(f"does not fit {folder} unpacked; let TMPDIR name a larger folder, or `zstd -d` it")
        out.write(piece)
