"""Times of single points: unit and clock are recognised by what a sweep can be, and not by what a field is called.

Drivers count in nanoseconds, microseconds, milliseconds or seconds, from the message's stamp or on a clock of their
own: since boot, since the hour, TAI, GPS, another day. What is known of all of them: a sweep takes between a
millisecond and half a second, so that one unit at most makes sense of its span; and its points are measured near its
stamp.

- Values within a second of zero count from the stamp.
- Values within a second of the stamp are on its clock.
- Others are on another clock: a known figure (TAI, GPS, a time zone) is taken off; else the first point is taken to be
  at the stamp.

What cannot be read so is ignored: the points then count as measured at the stamp. No time further than a second from
the stamp gets out of here. Unit and clock are decided over the first sweeps and stay, so that a sweep of few points or
at the turn of a counter is not read in another way than the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.clocks import known_offset, seconds_in_words

UNITS_NS = {"nanoseconds": 1, "microseconds": 1_000, "milliseconds": 1_000_000, "seconds": 1_000_000_000}
SHORTEST_NS, LONGEST_NS = 1_000_000, 500_000_000
"""What a sweep may take; less than a factor of 1000 apart, so that one unit at most fits."""
FARTHEST_NS = 1_000_000_000
"""From the stamp."""
FEWEST_POINTS = 32
"""With fewer, a cloud may be any piece of a sweep, and its span says nothing."""
DECIDED_AFTER = 5
"""Sweeps that were read alike; as many that cannot be read so later make the choice anew."""
_NAMED = {"_ns": 1, "_nsec": 1, "_us": 1_000, "_usec": 1_000, "_ms": 1_000_000, "_msec": 1_000_000, "_s": 10**9}
_LONGEST_WAY = 8
"""Values in no order go up and down by a third of their span from point to point, times by less than this part."""
_FEWEST_STEPS = 50
"""Of a float32's resolution in a sweep; with fewer, times say nothing."""
_LARGEST = 2.0**62
_IGNORED = "ignored, all points count as measured at the stamp"


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a field is read.

    Attributes:
        clock: "stamp" (values count from it), "same" (absolute), "other" (first point at the stamp) or "shifted".
        shift_ns: what is taken off absolute times.
    """

    unit_ns: int
    clock: str
    shift_ns: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """Values of a field: whole numbers or doubles, and their bounds as Python numbers of the same kind."""

    values: NDArray[Any]
    lowest: Any
    highest: Any

    def bound_ns(self, value: Any, unit_ns: int) -> int:
        whole = int(value)
        part_ns: int = round((value - whole) * unit_ns)
        return whole * unit_ns + part_ns

    def since_ns(self, origin_ns: int, unit_ns: int) -> NDArray[np.int64]:
        """Values in nanoseconds, less an origin. Doubles of the present keep what resolution they have."""
        first_ns = self.bound_ns(self.lowest, unit_ns) - origin_ns
        if self.values.dtype.kind == "i" and unit_ns == 1:
            return np.asarray(self.values + (first_ns - self.lowest), np.int64)
        since_first = self.values - self.lowest
        if since_first.dtype.kind == "f":
            since_first = np.rint(since_first * float(unit_ns)).astype(np.int64)
        else:
            since_first *= unit_ns
        since_first += first_ns
        return np.asarray(since_first, np.int64)


class _UnreadableError(Exception):
    """Why times of a sweep are ignored, in words."""


class PointTimes:
    """The times of one LiDAR's points, sweep by sweep.

    Attributes:
        notes: by kind, what is worth saying of them; each kind is said with the first figure that was seen.
        ignored: sweeps whose times were ignored.
        unset: points without a time (not finite, or 0 among absolute times) in sweeps that have times.
    """

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.ignored = self.unset = 0
        self._votes: Counter[_Reading] = Counter()
        self._decided: _Reading | None = None
        self._misfits = 0

    def read(self, name: str, values: NDArray[Any], stamp_ns: int) -> NDArray[np.int64] | None:
        """Times less the stamp [ns]; None where they say nothing.

        Args:
            values: (N,) numbers of any kind, in the order of the points.
        """
        if not len(values):
            return np.zeros(0, np.int64)
        try:
            is_set, offset_ns = self._read_set(name, values, stamp_ns)
        except _UnreadableError as why:
            self.ignored += 1
            self.notes.setdefault("ignored", f"per-point times ({name}) are {_IGNORED}: {why}")
            return None
        if is_set is None:
            return offset_ns
        self.unset += len(values) - len(offset_ns)
        all_ns = np.zeros(len(values), np.int64)
        all_ns[is_set] = offset_ns
        return all_ns

    def _read_set(
        self, name: str, values: NDArray[Any], stamp_ns: int
    ) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64]]:
        """Which points have a time (None: all), and theirs. Raises _UnreadableError."""
        _check_resolution(values)
        column = _column(values)
        if column is not None and not _has_unset(column):
            return None, self._offsets(name, column, values.dtype, stamp_ns)
        is_set = np.isfinite(values)
        column = _column(values[is_set])
        if column is not None and _has_unset(column):
            is_set &= values != 0
            column = _column(values[is_set])
        if column is None:
            raise _UnreadableError("they are no finite numbers")
        return is_set, self._offsets(name, column, values.dtype, stamp_ns)

    def _offsets(self, name: str, column: _Column, dtype: np.dtype[Any], stamp_ns: int) -> NDArray[np.int64]:
        column = _unwrapped(column, dtype)
        reading = self._decided
        if reading is None:
            reading = self._elected(_reading_of(name, column, dtype, stamp_ns), column, stamp_ns)
        elif not _fits(reading, column, stamp_ns):
            self._misfits += 1
            if self._misfits >= DECIDED_AFTER:
                self._decided, self._misfits = None, 0
                self._votes.clear()
            raise _UnreadableError("they are not as in the sweeps before, or further than a second from the stamp")
        self._misfits = 0
        self._note(name, reading, column, dtype, stamp_ns)
        return column.since_ns(_origin_ns(reading, column, stamp_ns), reading.unit_ns)

    def _elected(self, own: _Reading, column: _Column, stamp_ns: int) -> _Reading:
        """What most sweeps so far say, this one included; its own reading where theirs does not fit it."""
        if len(column.values) >= FEWEST_POINTS and column.highest > column.lowest:
            self._votes[own] += 1
        most = self._votes.most_common(1)
        if not most:
            return own
        reading, votes = most[0]
        if votes >= DECIDED_AFTER:
            self._decided = reading
        return reading if _fits(reading, column, stamp_ns) else own

    def _note(self, name: str, reading: _Reading, column: _Column, dtype: np.dtype[Any], stamp_ns: int) -> None:
        if reading.unit_ns != _usual_unit_ns(name, column, dtype):
            unit = next(words for words, ns in UNITS_NS.items() if ns == reading.unit_ns)
            self.notes.setdefault("unit", f"per-point times ({name}) are read as {unit}, by the span of a sweep")
        if reading.clock in ("stamp", "same") or "clock" in self.notes:
            return
        first_ns = column.bound_ns(column.lowest, reading.unit_ns)
        off_ns = first_ns - stamp_ns
        known = known_offset(off_ns, first_ns, stamp_ns)
        reason = f", {known.name}" if known else ""
        how = "re-based: the first point is taken to be at the stamp"
        if reading.shift_ns:
            how = f"{reading.shift_ns * 1e-9:g} s are taken off"
        side = "ahead of" if off_ns > 0 else "behind"
        figure = f"{seconds_in_words(off_ns)} {side} the stamp{reason}"
        self.notes["clock"] = f"per-point times ({name}) are on another clock ({figure}): {how}"


def _check_resolution(values: NDArray[Any]) -> None:
    """Raises _UnreadableError where a float32 holds absolute times, in steps that are longer than a sweep's parts."""
    if values.dtype.kind != "f" or values.dtype.itemsize > 4:
        return
    with np.errstate(invalid="ignore"):
        finite = values if np.isfinite(values.min() + values.max()) else values[np.isfinite(values) & (values != 0)]
    if not len(finite):
        return
    lowest, highest = float(finite.min()), float(finite.max())
    largest, span = max(abs(lowest), abs(highest)), highest - lowest
    step = float(np.spacing(np.float32(largest)))
    if largest > 1.0 and largest > 100 * max(span, step) and span <= _FEWEST_STEPS * step:
        if not span and step < 1e-3:
            raise _UnreadableError(f"all of them are {largest:.4g}")
        raise _UnreadableError(f"a float32 near {largest:.4g} has steps of {step:.2g}: absolute times need a float64")


def _column(values: NDArray[Any]) -> _Column | None:
    """None where a value is not finite, too large for any clock, or there is none."""
    if not len(values):
        return None
    if values.dtype.kind in "iu":
        lowest, highest = int(values.min()), int(values.max())
        return _Column(values.astype(np.int64), lowest, highest) if highest < _LARGEST else None
    doubles = values.astype(np.float64)
    low, high = float(doubles.min()), float(doubles.max())
    return _Column(doubles, low, high) if max(abs(low), abs(high)) < _LARGEST else None


def _has_unset(column: _Column) -> bool:
    """Whether zeros lie among times that are far from zero: points that nobody timed."""
    if column.lowest != 0 or not column.highest:
        return False
    others = column.values[column.values != 0]
    return len(others) < len(column.values) and float(others.min()) > 0.5 * float(column.highest)


def _unwrapped(column: _Column, dtype: np.dtype[Any]) -> _Column:
    """A counter of 32 bits may start anew within a sweep."""
    if dtype.kind != "u" or dtype.itemsize != 4 or column.highest - column.lowest < 2**31:
        return column
    values = np.where(column.values < 2**31, column.values + 2**32, column.values)
    return _Column(values, int(values.min()), int(values.max()))


def _usual_unit_ns(name: str, column: _Column, dtype: np.dtype[Any]) -> int:
    """By name, kind and size: whole numbers are nanoseconds, floats are seconds; large ones are times since 1970."""
    lowered = name.lower()
    for ending, unit_ns in _NAMED.items():
        if lowered.endswith(ending):
            return unit_ns
    largest = max(abs(column.lowest), abs(column.highest))
    if dtype.itemsize == 8:
        for bound, unit_ns in ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000)):
            if largest > bound:
                return unit_ns
    return 1 if dtype.kind in "iu" else 1_000_000_000


def _reading_of(name: str, column: _Column, dtype: np.dtype[Any], stamp_ns: int) -> _Reading:
    """What one sweep says by itself. Raises _UnreadableError."""
    usual_ns, span = _usual_unit_ns(name, column, dtype), column.highest - column.lowest
    unit_ns = usual_ns
    if span and len(column.values) >= FEWEST_POINTS:
        fitting = [ns for ns in UNITS_NS.values() if SHORTEST_NS <= span * ns <= LONGEST_NS]
        is_named = name.lower().endswith(tuple(_NAMED)) and span * usual_ns <= FARTHEST_NS
        unit_ns = usual_ns if is_named or not fitting else fitting[0]
    if unit_ns != usual_ns and not _looks_like_times(column):
        raise _UnreadableError(
            f"between {column.lowest:.4g} and {column.highest:.4g} in no order, they look like no times"
        )
    if span * unit_ns > FARTHEST_NS:
        raise _UnreadableError(f"they span {span:.4g}, which is no sweep in any unit")
    first_ns, last_ns = column.bound_ns(column.lowest, unit_ns), column.bound_ns(column.highest, unit_ns)
    if max(abs(first_ns), abs(last_ns)) <= FARTHEST_NS:
        return _Reading(unit_ns, "stamp")
    if max(abs(first_ns - stamp_ns), abs(last_ns - stamp_ns)) <= FARTHEST_NS:
        return _Reading(unit_ns, "same")
    known = known_offset(first_ns - stamp_ns, first_ns, stamp_ns)
    if known is not None and known.offset_ns is not None:
        return _Reading(unit_ns, "shifted", known.offset_ns)
    return _Reading(unit_ns, "other")


def _looks_like_times(column: _Column) -> bool:
    """Whether values rise with the order of points, column by column or row by row, or begin, end or lie as times do.

    What is in no order may be times of points that were sorted or thinned out: then it begins or ends near zero, or
    counts from long ago. Temperatures and the like do neither.
    """
    span = float(column.highest - column.lowest)
    way = float(np.abs(np.diff(column.values.astype(np.float64))).sum())
    if way < span * len(column.values) / _LONGEST_WAY:
        return True
    nearest = 0.0 if column.lowest <= 0 <= column.highest else float(min(abs(column.lowest), abs(column.highest)))
    return nearest <= span / 10 or nearest >= 100 * span


def _origin_ns(reading: _Reading, column: _Column, stamp_ns: int) -> int:
    """What is taken off the values in nanoseconds."""
    if reading.clock == "stamp":
        return 0
    if reading.clock == "other":
        return column.bound_ns(column.lowest, reading.unit_ns)
    return stamp_ns + reading.shift_ns


def _fits(reading: _Reading, column: _Column, stamp_ns: int) -> bool:
    origin_ns = _origin_ns(reading, column, stamp_ns)
    bounds = (column.bound_ns(value, reading.unit_ns) - origin_ns for value in (column.lowest, column.highest))
    return max(abs(ns) for ns in bounds) <= FARTHEST_NS
