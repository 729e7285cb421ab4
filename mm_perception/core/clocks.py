"""Clocks that differ: known figures by name, and when an offset means another clock at all."""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_OFFSET_NS = 1_000_000_000
"""From here on two stamps of one instant come from two clocks: no sensor is that much later than another."""
SINCE_START_S = 1e8
"""Stamps below this (three years) count from the start of a device, not from 1970."""
_S = 1_000_000_000
_SNAP_NS = 600_000_000
"""Arrival tells offsets no better: messages take their time."""
_ZONE_S, _WIDEST_ZONE_S = 900, 14 * 3600
_GPS_EPOCH_S = 315_964_800
_LEAP_SECONDS = (
    (37, "TAI is 37 s ahead of UTC"),
    (18, "GPS time is 18 s ahead of UTC"),
    (19, "TAI is 19 s ahead of GPS time"),
)


@dataclass(frozen=True, slots=True)
class KnownOffset:
    """A reason why one clock is off another.

    Attributes:
        name: in words. offset_ns: exactly, where the reason tells it; None: whatever was measured.
    """

    name: str
    offset_ns: int | None = None


def known_offset(offset_ns: int, stamp_ns: int, reference_ns: int) -> KnownOffset | None:
    """What a clock that is `offset_ns` ahead of a reference's may be; None if nothing is known of that figure.

    Args:
        stamp_ns, reference_ns: a stamp of each.
    """
    for seconds, name in _LEAP_SECONDS:
        for exact_ns in (seconds * _S, -seconds * _S):
            if abs(offset_ns - exact_ns) <= _SNAP_NS:
                return KnownOffset(name, exact_ns)
    zones = round(offset_ns / (_ZONE_S * _S))
    exact_ns = zones * _ZONE_S * _S
    if zones and abs(exact_ns) <= _WIDEST_ZONE_S * _S and abs(offset_ns - exact_ns) <= _SNAP_NS:
        return KnownOffset("a time zone: local time in the place of UTC", exact_ns)
    if abs(offset_ns) < _S * 86_400:
        return None
    if stamp_ns < SINCE_START_S * _S:
        return KnownOffset("it counts from its own start, or was never set")
    if reference_ns < SINCE_START_S * _S:
        return KnownOffset("the other one counts from its own start, or was never set")
    for sign in (1, -1):
        if abs(sign * offset_ns - (_GPS_EPOCH_S - 18) * _S) <= _S * 30:
            return KnownOffset("GPS time counts from 1980")
    return KnownOffset("another day: a clock that is not set, or a recording")


def seconds_in_words(ns: int) -> str:
    """Such as "37.000 s" or "1.7e+09 s", without a sign."""
    seconds = abs(ns) / _S
    return f"{seconds:.3f} s" if seconds < 1e6 else f"{seconds:.3g} s"
