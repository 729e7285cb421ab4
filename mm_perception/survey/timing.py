"""Rates, gaps, clocks and phases of streams, from their stamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.survey.facts import TopicFacts

CLOCK_MS = 900.0
"""Delays between stamp and arrival that differ by more than this mean two clocks, not a slow driver."""
KNOWN_CLOCKS_MS = {37_000.0: "TAI", 18_000.0: "GPS time", 19_000.0: "TAI against GPS time"}
_KNOWN_WITHIN_MS = 300.0
BOOT_MS = 1e11
"""More than three years apart: one of the two counts from its own start."""
_FEWEST = 5
_LEAST_LAG_MS = 10.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How regularly a stream's stamps come: rate, p95 distance of a gap from the median gap, and the longest gap."""

    rate_hz: float
    jitter_ms: float
    longest_gap_ms: float

    @property
    def period_ms(self) -> float:
        return 1000.0 / self.rate_hz


def rhythm(stamps_ns: NDArray[np.int64]) -> Rhythm | None:
    """None for fewer than three stamps, or stamps that stand still."""
    if len(stamps_ns) < 3:
        return None
    gaps = np.asarray(np.diff(np.sort(stamps_ns)) * 1e-6, np.float64)
    median = float(np.median(gaps))
    if median <= 0:
        return None
    return Rhythm(1000.0 / median, float(np.percentile(np.abs(gaps - median), 95)), float(gaps.max()))


def delay_ms(facts: TopicFacts) -> float | None:
    """Median arrival time minus stamp; None without stamps."""
    return float(np.median(facts.logs_ns - facts.stamps_ns)) * 1e-6 if len(facts.stamps_ns) else None


@dataclass(frozen=True, slots=True)
class Phase:
    """How the stamps of a stream lie to those of the reference.

    Attributes:
        clock_ms: how far its clock is ahead of the reference's; 0 where it is the same.
        clock_name: what such a difference is known for, empty if for nothing.
        lag_ms: median of its nearest stamp minus the reference's, on one clock.
        spread_ms: p95 distance from that.
        reach_ms: p98 of the distance itself.
        enough: whether so many stamps were compared that lag and spread mean something.
    """

    clock_ms: float
    clock_name: str
    lag_ms: float
    spread_ms: float
    reach_ms: float
    enough: bool

    @property
    def is_steady(self) -> bool:
        """Whether the lag is one that an offset takes away: it is there, and it stays."""
        return self.enough and abs(self.lag_ms) >= _LEAST_LAG_MS and self.spread_ms <= abs(self.lag_ms) / 2

    @property
    def offset_ms(self) -> float:
        """The rig's `offset_ms` that brings both together."""
        return round(self.clock_ms + (self.lag_ms if self.is_steady else 0.0), 1)

    @property
    def tolerance_ms(self) -> float:
        """A skew that matches nearly all, with room for other days; rounded to 10 ms, 20 at least."""
        rest = self.spread_ms if self.is_steady else self.reach_ms
        return max(20.0, float(np.ceil((1.3 * rest + 10.0) / 10.0) * 10.0))


def phase(reference: TopicFacts, other: TopicFacts) -> Phase | None:
    """Compares two streams; None where one has no stamps."""
    ours, theirs = np.sort(reference.stamps_ns), np.sort(other.stamps_ns)
    if not len(ours) or not len(theirs):
        return None
    clock_ms, name = _clock(reference, other, ours, theirs)
    moved = theirs - round(clock_ms * 1e6)
    # Of the rarer of the two each stamp has a partner, of the other one in many.
    few, many, sign = (ours, moved, 1.0) if len(ours) <= len(moved) else (moved, ours, -1.0)
    few = _within(few, many)
    if not len(few):
        return Phase(clock_ms, name, 0.0, 0.0, 0.0, False)
    lags = sign * nearest_differences(few, many) * 1e-6
    lag = float(np.median(lags))
    if clock_ms and not name:  # arrival times told the clock's offset roughly, stamps tell the rest
        clock_ms, lags, lag = clock_ms + lag, lags - lag, 0.0
    spread, reach = float(np.percentile(np.abs(lags - lag), 95)), float(np.percentile(np.abs(lags), 98))
    return Phase(clock_ms, name, lag, spread, reach, len(few) >= _FEWEST)


def _within(few: NDArray[np.int64], many: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those that lie in the other's time; all where it has but one."""
    if len(many) < 2:
        return few
    margin = int(np.median(np.diff(many)))
    inside: NDArray[np.int64] = few[(few >= many[0] - margin) & (few <= many[-1] + margin)]
    return inside


def nearest_differences(stamps_ns: NDArray[np.int64], others_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each stamp (N,) the nearest of the others (M,), sorted, minus it."""
    after = np.clip(np.searchsorted(others_ns, stamps_ns), 0, len(others_ns) - 1)
    before = np.maximum(after - 1, 0)
    late, early = others_ns[after] - stamps_ns, others_ns[before] - stamps_ns
    nearest: NDArray[np.int64] = np.where(np.abs(early) < np.abs(late), early, late)
    return nearest


def _clock(
    reference: TopicFacts, other: TopicFacts, ours: NDArray[np.int64], theirs: NDArray[np.int64]
) -> tuple[float, str]:
    """How far the other's clock is ahead [ms], and its name; (0, "") for the same clock."""
    ours_late, theirs_late = delay_ms(reference), delay_ms(other)
    assert ours_late is not None and theirs_late is not None
    ahead = ours_late - theirs_late
    apart = theirs[0] > ours[-1] or theirs[-1] < ours[0]
    if abs(ahead) < CLOCK_MS and apart and len(ours) > 1 and len(theirs) > 1:
        # Recordings whose arrival times are the stamps: both streams began together.
        start = float(theirs[0] - ours[0]) * 1e-6
        ahead = start if abs(start) >= CLOCK_MS else 0.0
    if abs(ahead) < CLOCK_MS:
        return 0.0, ""
    for known, name in KNOWN_CLOCKS_MS.items():
        if abs(abs(ahead) - known) < _KNOWN_WITHIN_MS:
            return float(np.copysign(known, ahead)), name
    return ahead, ""
