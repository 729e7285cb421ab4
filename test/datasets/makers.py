"""Folders in the layouts of published data sets, made on the fly. Pixel values tell files apart."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

H, W = 48, 64


def write(path: Path, value, channels: int = 0, dtype=np.uint8, size: tuple[int, int] = (H, W)) -> Path:
    """An image whose pixels all have a value (or, per channel, values: blue first)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, channels) if channels else size
    assert cv2.imwrite(str(path), np.full(shape, value, dtype))
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def palette_png(path: Path, ids: np.ndarray, depth: int = 8, opacity: bool = False) -> Path:
    """A PNG of colour type 3 with `depth` bits per pixel; colours are not in the order of the indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = ids.shape
    bits = ((ids[..., None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).reshape(height, -1)
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    colours = np.random.default_rng(5).integers(0, 255, (2**depth, 3), np.uint8)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0))]
    parts += [chunk(b"sBIT", b"\x08\x08\x08"), chunk(b"PLTE", colours.tobytes())]
    parts += [chunk(b"tRNS", bytes([0, 200]))] if opacity else []
    parts += [chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(parts))
    return path


def pairs(root: Path, rows: Iterable[tuple[str, str, str | None, str | None]]) -> Path:
    """Frames of image, second image and label file by their paths; the i-th has values 10 + i, 100 + i, i % 2."""
    for i, (_, image, x, label) in enumerate(rows):
        write(root / image, 10 + i, 3)
        if x:
            write(root / x, 100 + i)
        if label:
            write(root / label, i % 2)
    return root


def mfnet(root: Path, names=("00001D", "00002N", "00003D")) -> Path:
    for i, name in enumerate(names):
        write(root / "images" / f"{name}.png", (30 + i, 20, 10, 40 + i), 4)
        labels = np.zeros((H, W), np.uint8)
        labels[:, : W // 2] = i % 9
        cv2.imwrite(str(write(root / "labels" / f"{name}.png", 0)), labels)
    return root
