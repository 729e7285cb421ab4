"""The numbers in a label file, as they were written.

Palette PNGs (colour type 3) hold class ids and a colour per id. OpenCV expands them to colours, so their header is
changed to grey before it reads them: rows, filters and compression are the same for both.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.datasets.files import read_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature 8, length and name 8, IHDR 13, checksum 4
_GREY, _PALETTE = 0, 3
_COLOUR_CHUNKS = (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT", b"sPLT")
"""Chunks that speak of colours: wrong or forbidden in a grey PNG."""


def read_label_image(path: Path) -> NDArray[Any]:
    """The numbers of a label file: (H, W) uint8 or uint16, or (H, W, 3) uint8 red first where it holds colours.

    Palettes give their indices. PNGs of 1, 2 or 4 bits give 0 to 1, 3 or 15. Files whose three channels are equal are
    grey; a fourth channel (opacity) is left out.

    Raises:
        DataError: the file is missing, no image, or of numbers that are no whole ones.
    """
    if not path.is_file():
        raise DataError(f"{path}: does not exist")
    data = read_bytes(path).tobytes()
    grey, depth = _indices_as_grey(data)
    pixels = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataError(f"{path}: is no image, or damaged; label files are best kept as png")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: expected whole numbers of 8 or 16 bits as labels, got {pixels.dtype}")
    if pixels.ndim == 2:
        return np.asarray(pixels // (255 // (2**depth - 1)) if depth in (1, 2, 4) else pixels)
    colours = np.ascontiguousarray(pixels[..., 2::-1]) if pixels.shape[2] >= 3 else pixels[..., :1].repeat(3, axis=2)
    first = colours[..., 0]
    if (colours == first[..., None]).all():
        return np.ascontiguousarray(first)
    if colours.dtype != np.uint8:
        raise DataError(f"{path}: a colour image of 16 bits: expected class ids in grey, or colours of 8 bits")
    return colours


def read_red_channel(path: Path) -> NDArray[Any]:
    """The red channel alone, for sets that keep ids there (CARLA's and DELIVER's), else as `read_label_image`."""
    pixels = read_label_image(path)
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., 0])


def _indices_as_grey(data: bytes) -> tuple[bytes, int]:
    """A PNG file with palette as a grey one, and the bits per pixel of a grey file (0: of another kind)."""
    if not data.startswith(_SIGNATURE) or len(data) < _HEADER_END or data[12:16] != b"IHDR":
        return data, 0
    depth, kind = data[24], data[25]
    if kind == _GREY:
        return data, depth
    if kind != _PALETTE:
        return data, 0
    header = data[16:25] + bytes([_GREY]) + data[26:29]
    parts = [_SIGNATURE, _chunk(b"IHDR", header)]
    at = _HEADER_END
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] not in _COLOUR_CHUNKS:
            parts.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(parts), depth


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
