"""What the first bytes of a compressed image say of its size, before a decoder asks for the memory.

png: W3C PNG 3rd edition, sections 5 and 11.2.1; jpeg: ITU-T T.81, annex B; webp: RFC 9649, section 2; tiff: TIFF 6.0,
section 2; bmp: the BITMAPINFOHEADER of Windows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_SCAN_PIXELS

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
RIFF_MAGIC, WEBP_MAGIC, BMP_MAGIC = b"RIFF", b"WEBP", b"BM"
TIFF_MAGICS = (b"II*\0", b"MM\0*")
_OTHERS = (
    (b"\0\0\0\x0cjP  ", "jpeg 2000"), (b"\xff\x4f\xff\x51", "jpeg 2000"), (b"GIF8", "gif"),
    (b"\x76\x2f\x31\x01", "OpenEXR"), (b"II+\0", "BigTIFF"), (b"MM\0+", "BigTIFF"), (b"\0\0\0\x01", "h264 or h265"),
)  # fmt: skip
_MOST_ENTRIES = 1000
_MOST_CHUNKS = 1000
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
"""Markers without a length: a stuffed zero, TEM, the restarts and the start of an image."""
_SCAN, _END = b"\xff\xda", 0xD9
_IS_STRAY = np.isin(np.arange(256), (*range(0x01, 0xC4), *range(0xC5, 0xD0), 0xD8))
"""Markers that cannot stand within a scan: 0xff is stuffed there, so that one means that bytes were lost or changed."""


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
    """The header of a whole jpeg, png, webp, tiff or bmp.

    Raises:
        DataError: it is none of these, has no header, is animated, ends early, or names more pixels (or, in a
            progressive jpeg, more work) than is allowed.
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
        _check_scan(data, start)
    elif data.startswith(RIFF_MAGIC) and data[8:12] == WEBP_MAGIC:
        header = _webp(data)
        check_pixels("webp", header.width, header.height, max_pixels)
    elif data.startswith(TIFF_MAGICS):
        header = _tiff(data, max_pixels)
    elif data.startswith(BMP_MAGIC):
        header = _bmp(data)
        check_pixels("bmp", header.width, header.height, max_pixels)
    else:
        name = next((name for magic, name in _OTHERS if data.startswith(magic)), "of no kind that is known")
        name = "avif or heif" if data[4:8] == b"ftyp" else name
        raise DataError(
            f"compressed image is neither jpeg nor png, webp, tiff or bmp, but {name} (starts with {data[:4].hex()})"
        )
    return header


def _webp(data: bytes) -> ImageHeader:
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise DataError(f"webp truncated: {len(data)} bytes")
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 2:
            raise DataError("webp is animated: expected one image")
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        raise DataError("webp without a header")
    return ImageHeader(width, height, 8, 3)


def _bmp(data: bytes) -> ImageHeader:
    if len(data) < 54:
        raise DataError(f"bmp truncated: {len(data)} bytes")
    size, width, height, bits = struct.unpack("<I12xiixxH", data[2:30])
    if size > len(data):
        raise DataError(f"bmp truncated: {len(data)} of {size} bytes")
    return ImageHeader(width, abs(height), 8, 1 if bits <= 8 else 4 if bits == 32 else 3)


def _tiff(data: bytes, max_pixels: int) -> ImageHeader:
    """Of its first image, which is the one that is decoded."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack(order + "I", data[4:8].ljust(4, b"\0"))
    if at + 2 > len(data):
        raise DataError(f"tiff truncated: its directory would be at byte {at} of {len(data)}")
    (count,) = struct.unpack_from(order + "H", data, at)
    if count > _MOST_ENTRIES or at + 2 + 12 * count > len(data):
        raise DataError(f"tiff truncated or damaged: {count} entries at byte {at}")
    tags = {}
    for i in range(count):
        tag, kind, _ = struct.unpack_from(order + "HHI", data, at + 2 + 12 * i)
        tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 10 + 12 * i)[0]
    width, height, channels = tags.get(256, 0), tags.get(257, 0), tags.get(277, 1)
    check_pixels("tiff", width, height, max_pixels)
    if {322, 323} <= tags.keys():
        check_pixels("tile of a tiff", tags[322], tags[323], 4 * max_pixels)
    if channels > 4:
        raise DataError(f"tiff of {channels} channels: expected at most 4")
    # A field of several numbers holds where they are, unless two fit in.
    bits = tags.get(258, 1) if channels == 1 else 8
    return ImageHeader(width, height, bits, channels)


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


def _check_scan(data: bytes, at: int) -> None:
    """Raises DataError for a marker that cannot be where it is, or restarts out of order, in a jpeg of one scan."""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN[1]:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    if data[at : at + 2] != _SCAN or at + 6 > len(data):
        return
    begin = at + 4
    scan = np.frombuffer(data, np.uint8, offset=begin)
    at_ff = np.flatnonzero(scan[:-1] == 0xFF)
    markers = scan[at_ff + 1]
    ends = np.flatnonzero(markers == _END)
    markers = markers[: ends[0]] if len(ends) else markers[:0]
    if (markers == _SCAN[1]).any():
        return
    stray = np.flatnonzero(_IS_STRAY[markers])
    if len(stray):
        marker, where = int(markers[stray[0]]), begin + int(at_ff[stray[0]])
        raise DataError(f"jpeg damaged: marker {marker:#04x} within its pixels, at byte {where}")
    restarts = markers[(markers >= 0xD0) & (markers <= 0xD7)] & 7
    wrong = np.flatnonzero(restarts != np.arange(len(restarts)) % 8)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(f"jpeg damaged: restart {restarts[first]} follows {first} others, expected {first % 8}")


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
