"""`libcaer` event packets of iniVation's cameras (DAVIS, DVXplorer): 8 bytes per event.

A 32-bit word (valid in bit 0, polarity in 1, y in 2-16, x in 17-31) and the lower 31 bits of the time [us].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.evt3 import RawEvents
from mm_perception.core.errors import DataError

BYTES_PER_EVENT = 8
_TIME_BITS = 31
_MOST_OUTSIDE = 0.5


def decode_libcaer(data: NDArray[np.uint8], width: int, height: int, big: bool) -> tuple[RawEvents, int]:
    """Events and how many were dropped, because they are marked invalid or lie outside of the sensor.

    Raises:
        DataError: no whole events; none is marked valid, or most lie outside: it is no such packet.
    """
    if len(data) % BYTES_PER_EVENT:
        raise DataError(f"libcaer packet truncated: {len(data)} bytes are no whole events")
    pairs = data.view(">u4" if big else "<u4").astype(np.uint32).reshape(-1, 2)
    word, t_us = pairs[:, 0], (pairs[:, 1] & np.uint32(0x7FFFFFFF)).astype(np.int64)
    x, y = word >> np.uint32(17), (word >> np.uint32(2)) & np.uint32(0x7FFF)
    is_valid = (word & np.uint32(1)).astype(bool)
    inside = (x < width) & (y < height)
    if len(word) and not is_valid.any():
        raise DataError(f"libcaer packet of {len(word)} events, and none is marked valid")
    if np.count_nonzero(~inside) > _MOST_OUTSIDE * len(word):
        raise DataError(f"libcaer packet: most of its {len(word)} events lie outside of {width}x{height} pixels")
    t_us += np.cumsum(np.diff(t_us, prepend=t_us[:1]) < -(1 << (_TIME_BITS - 1))) << _TIME_BITS
    keep = is_valid & inside
    polarity = ((word >> np.uint32(1)) & np.uint32(1)).astype(bool)
    kept = RawEvents(x[keep].astype(np.uint16), y[keep].astype(np.uint16), polarity[keep], t_us[keep])
    return kept, len(word) - len(kept.x)
