"""zstd with a limit: a frame of a few bytes can unpack to gigabytes."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


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
            raise ValueError(f"unpacks to more than {max_bytes} bytes")
        if not frame.eof:
            raise ValueError("cut off")
        pieces.append(piece)
        data = frame.unused_data
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
