"""How far the sensors' clocks are off the reference's, by what arrives together.

A message of a sensor and one of the reference that arrive at one time were stamped at about one time: what their stamps
differ by, beyond the difference of their arrivals, is a clock's offset, give or take what messages take on their way.
"""

from __future__ import annotations

import bisect
from collections import deque

import numpy as np

from mm_perception.core.clocks import CLOCK_OFFSET_NS, known_offset, seconds_in_words

APART_NS = 250_000_000
"""Clocks that differ by less may differ in latency."""
FEWEST = 3
_KEPT = 200
_OLDEST_NS = 2_000_000_000
"""A reference that arrived earlier than this says nothing of what arrives now."""


class ClockWatch:
    """Stamps and arrivals of all sensors of a rig. Times of arrival are by any clock that runs forward.

    Attributes:
        reference: its name.
    """

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self._newest: tuple[int, int] | None = None
        self._ahead: dict[str, deque[tuple[int, int]]] = {}
        self._stamps: dict[str, deque[int]] = {}
        self._first: dict[str, int] = {}

    def note(self, name: str, stamp_ns: int, now_ns: int) -> None:
        """Takes a message."""
        self._first.setdefault(name, stamp_ns)
        self._stamps.setdefault(name, deque(maxlen=_KEPT)).append(stamp_ns)
        if name == self.reference:
            self._newest = stamp_ns, now_ns
        elif self._newest is not None and now_ns - self._newest[1] <= _OLDEST_NS:
            reference_ns = self._newest[0] + now_ns - self._newest[1]
            self._ahead.setdefault(name, deque(maxlen=_KEPT)).append((now_ns, stamp_ns - reference_ns))

    def ahead_ns(self, name: str, since_ns: int | None = None) -> int | None:
        """Median of how far a sensor's stamps are ahead of the reference's; None without messages of both.

        Args:
            since_ns: counts what arrived since then.
        """
        found = [ahead for now, ahead in self._ahead.get(name, ()) if since_ns is None or now >= since_ns]
        return round(float(np.median(found))) if found else None

    def spread_ns(self, name: str) -> int | None:
        """Median distance of the reference's stamps from the sensor's nearest, with a sign; None without both."""
        own, others = sorted(self._stamps.get(name, ())), list(self._stamps.get(self.reference, ()))
        # What is kept of a fast sensor spans a shorter time than of a slow one.
        period_ns = (own[-1] - own[0]) // (len(own) - 1) if len(own) >= FEWEST else 0
        others = [ns for ns in others if own and own[0] - period_ns <= ns <= own[-1] + period_ns]
        if min(len(own), len(others)) < FEWEST:
            return None
        distances = []
        for stamp_ns in others:
            i = bisect.bisect_left(own, stamp_ns)
            distances.append(min((one - stamp_ns for one in own[max(i - 1, 0) : i + 1]), key=abs))
        return round(float(np.median(distances)))

    def another_clock(
        self, name: str, lag_ns: int, tolerance_ns: int, offset_ms: float = 0.0, since_ns: int | None = None
    ) -> str:
        """In words by how much a sensor's clock is off; "" where it is not, or nobody can tell.

        Args:
            lag_ns: what its stamps may differ from the reference's by, in a set. tolerance_ns: beyond that.
            offset_ms: what its stamps were corrected by already.
        """
        ahead_ns = self.ahead_ns(name, since_ns)
        if ahead_ns is None:
            return self._by_first_stamps(name, offset_ms) if since_ns is None else ""
        off_ns = ahead_ns - lag_ns
        if abs(off_ns) < max(APART_NS, tolerance_ns + APART_NS // 2):
            return ""
        return self._in_words(name, off_ns, offset_ms)

    def out_of_tolerance(self, name: str, lag_ns: int, tolerance_ns: int) -> str:
        """How far the stamps of a sensor are off the reference's nearest; "" where that is tolerated, or not known."""
        spread_ns = self.spread_ns(name)
        if spread_ns is None or abs(spread_ns - lag_ns) <= tolerance_ns:
            return ""
        return (
            f"no message in tolerance ({tolerance_ns * 1e-6:g} ms) of {self.reference}'s: its nearest stamps are "
            f"{spread_ns * 1e-6:+.1f} ms off; see offset_ms and tolerance_ms of the rig"
        )

    def _by_first_stamps(self, name: str, offset_ms: float) -> str:
        """Of a recording whose messages of both never arrive together: it was sorted by their stamps."""
        if name not in self._first or self.reference not in self._first:
            return ""
        off_ns = self._first[name] - self._first[self.reference]
        return self._in_words(name, off_ns, offset_ms) if abs(off_ns) >= CLOCK_OFFSET_NS else ""

    def _in_words(self, name: str, off_ns: int, offset_ms: float) -> str:
        known = known_offset(off_ns, self._stamps[name][-1], self._stamps[self.reference][-1])
        reason = f" ({known.name}?)" if known else ""
        side = "ahead of" if off_ns > 0 else "behind"
        text = f"its stamps are {seconds_in_words(off_ns)} {side} those of {self.reference} on arrival{reason}"
        if abs(off_ns) < CLOCK_OFFSET_NS:
            return f"{text}: " + (
                "another clock? Synchronise it (PTP, NTP)" if off_ns > 0 else "late, or another clock"
            )
        exact_ns = known.offset_ns if known and known.offset_ns is not None else off_ns
        late = "" if off_ns > 0 or known else "late, or another clock: "
        total = f"{offset_ms + exact_ns * 1e-6:.0f}"
        return f"{text}: {late}synchronise its clock (PTP, NTP), or set offset_ms: {total} in the rig"
