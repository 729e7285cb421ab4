"""RVL: lossless 16-bit depth (A. D. Wilson, Fast Lossless Depth Image Compression, ISS 2017).

Values are written in pieces of four bits, of which the highest says that another piece follows. A picture is pairs of
counts, of pixels without depth and of pixels with, and after each pair the differences of the latter, each from the
one before, signs folded in (0, -1, 1, -2, ...).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError

_MOST_RUNS = 1_000_000
_MOST_PIECES = 11
"""Of a value of 32 bits."""


def decode_rvl(data: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint16]:
    """(H, W) depth; 0 where there is none.

    Args:
        data: 32-bit little-endian words, the first piece in the highest bits.

    Raises:
        DataError: the data ends early, or holds more pixels than the picture has.
    """
    values, count = _values(data), width * height
    starts, zeros, lengths = _runs(values, count)
    total = int(lengths.sum())
    # Where each difference stands among the values, and each pixel with depth in the picture.
    first = np.cumsum(lengths) - lengths
    within = np.arange(total) - np.repeat(first, lengths)
    folded = values[np.repeat(starts, lengths) + within]
    depth = np.cumsum((folded >> 1) ^ -(folded & 1))
    before = np.cumsum(zeros + lengths) - lengths
    pixels = np.zeros(count, np.uint16)
    pixels[np.repeat(before, lengths) + within] = (depth & 0xFFFF).astype(np.uint16)
    return pixels.reshape(height, width)


def _values(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    words = np.frombuffer(data[: len(data) // 4 * 4].tobytes(), "<u4").astype(">u4").view(np.uint8)
    pieces = np.empty(2 * len(words), np.uint8)
    pieces[0::2], pieces[1::2] = words >> 4, words & 15
    ends = np.nonzero(pieces < 8)[0]
    if not len(ends):
        raise DataError("rvl truncated: no whole value")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if int(sizes.max()) > _MOST_PIECES:
        raise DataError(f"rvl damaged: a value of {int(sizes.max())} pieces, expected at most {_MOST_PIECES}")
    values: NDArray[np.int64] = (pieces[starts] & 7).astype(np.int64)
    for k in range(1, int(sizes.max())):
        longer = np.nonzero(sizes > k)[0]
        values[longer] |= (pieces[starts[longer] + k] & 7).astype(np.int64) << (3 * k)
    return values


def _runs(values: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each run: where its differences start, the pixels without depth before it, and its length."""
    found: list[tuple[int, int, int]] = []
    at, pixel = 0, 0
    while pixel < count:
        if at + 2 > len(values):
            raise DataError(f"rvl truncated: {pixel} of {count} pixels")
        zeros, length = int(values[at]), int(values[at + 1])
        at, pixel = at + 2, pixel + zeros + length
        if pixel > count or at + length > len(values) or not zeros + length or len(found) >= _MOST_RUNS:
            raise DataError(f"rvl damaged: run {len(found)} of {zeros} and {length} pixels at pixel {pixel} of {count}")
        found.append((at, zeros, length))
        at += length
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
