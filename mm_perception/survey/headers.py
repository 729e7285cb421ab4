"""Stamp and frame of a serialized message whose first field is a std_msgs/Header, without decoding the rest."""

from __future__ import annotations

import struct
from typing import Any

from mm_perception.codec.fields import NANOSECONDS
from mm_perception.core.frames import frame_name

_LONGEST_FRAME = 1024


def header_of(cdr: bytes) -> tuple[int, str] | None:
    """Stamp [ns] and frame (as `core.frames.frame_name` spells it), None where the bytes cannot begin with a header.

    Whether a type begins with one is for the caller to know: other fields may look like it.
    """
    if len(cdr) < 17 or cdr[0] != 0 or cdr[1] not in (0, 1):
        return None
    sec, nanosec, length = struct.unpack_from("<iII" if cdr[1] else ">iII", cdr, 4)
    if sec < 0 or nanosec >= NANOSECONDS or not 0 < length <= _LONGEST_FRAME or len(cdr) < 16 + length:
        return None
    name = bytes(cdr[16 : 16 + length])
    if name[-1] != 0:
        return None
    try:
        return sec * NANOSECONDS + nanosec, frame_name(name[:-1].decode())
    except UnicodeDecodeError:
        return None


def decoded_header(msg: Any) -> tuple[int, str] | None:
    """The same of a decoded message; None where it has no header."""
    header = getattr(msg, "header", None)
    if header is None:
        return None
    return int(header.stamp.sec) * NANOSECONDS + int(header.stamp.nanosec), frame_name(header.frame_id)
