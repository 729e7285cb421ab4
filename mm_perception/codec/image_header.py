"""What the first bytes of a compressed image say of its size, before a decoder asks for the memory.

png: W3C PNG 3rd edition, sections 5 and 11.2.1; jpeg: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_SCAN_PIXELS

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 1000
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
"""Markers without a length: a stuffed zero, TEM, the restarts and the start of an image."""
_SCAN, _END = b"\xff\xda", 0xD9


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Size [px], bits per channel and channels as the file says them."""

    width: int
    height: int
    bits: int
    channels: int


def check_pixels(what: str, width: int, height: int, max_pixels: int) -> None:
    """Raises DataError for a size that is not positive, or beyond the limit."""
    if width <= 0 or height <= 0:
        raise DataError(f"{what} of zero size: {width}x{height}")
    if width * height > max_pixels:
        raise DataError(
            f"{what} of {width}x{height} pixels: expected at most {max_pixels} in all "
            "(max_pixels of the sensor in the rig)"
        )


def read_header(data: bytes, max_pixels: int) -> ImageHeader:
    """The header of a whole jpeg or png.

    Raises:
        DataError: it is neither, has no header, is animated, or names more pixels (or, in a progressive jpeg, more
            work) than is allowed.
    """
    if data.startswith(PNG_MAGIC):
        header = _png(data)
        check_pixels("png", header.width, header.height, max_pixels)
    elif data.startswith(JPEG_MAGIC):
        header, start = _jpeg(data)
        check_pixels("jpeg", header.width, header.height, max_pixels)
        scans = data.count(_SCAN, start)
        if scans * header.width * header.height > max(MAX_SCAN_PIXELS, 4 * max_pixels):
            raise DataError(f"jpeg of {header.width}x{header.height} pixels in {scans} scans: too much to decode")
    else:
        raise DataError(f"compressed image is neither jpeg nor png (starts with {data[:4].hex()})")
    return header


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise DataError("png without a header")
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(color)
    if channels is None:
        raise DataError(f"png of unknown color type {color}")
    _check_chunks(data)
    return ImageHeader(width, height, bits, channels)


def _check_chunks(data: bytes) -> None:
    """Raises DataError unless every chunk lies within the file: OpenCV asks for as much memory as a chunk says."""
    at, before_pixels, pixels = 8, 0, False
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data) or (kind == b"IHDR" and (at != 8 or size != 13)):
            raise DataError(f"png truncated or damaged: chunk {kind!r} of {size} bytes at byte {at}")
        if kind in (b"acTL", b"fcTL", b"fdAT"):
            raise DataError("png is animated: expected one image")
        if kind == b"IEND":
            break
        pixels = pixels or kind == b"IDAT"
        before_pixels += not pixels
        if before_pixels > _MOST_CHUNKS:
            raise DataError(f"png with more than {_MOST_CHUNKS} chunks before its pixels")
        at += 12 + size
    if not pixels:
        raise DataError("png without pixels")


def _jpeg(data: bytes) -> tuple[ImageHeader, int]:
    """The header, and where the first scan is to be looked for."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or data[at] != 0xFF:  # filling, or stray bytes: decoders skip them, too
            at = data.find(b"\xff", at + 1)
            if at < 0:
                break
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker in (_SCAN[1], _END):
            break
        size = struct.unpack_from(">H", data, at + 2)[0]
        if marker in _FRAMES:
            if at + 10 > len(data):
                break
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return ImageHeader(width, height, bits, channels), at + 2 + size
        if size < 2:
            break
        at += 2 + size
    raise DataError("jpeg without a header")
