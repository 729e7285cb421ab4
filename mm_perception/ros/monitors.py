"""What the node remembers of its inputs and results in order to judge them. No ROS in here: times are handed in.

Everything is judged over a window of the last seconds, so that every level falls back when the trouble is over.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

HOLD_S = 2.5
"""How long a trouble that is over is still reported."""
WINDOW_S = 2.5
"""Over which rates, jitter and matches are judged."""
RATE_LOW, RATE_FINE = 0.7, 0.8
"""Shares of the expected rate: below the first a sensor is slow, above the second it is no longer."""
LEARNED_OF = 20
"""Messages of which an expected rate is learned."""
FEWEST_ARRIVALS = 4
"""With which an input counts as one that keeps sending."""
JITTER_S = 0.15
RECORDING_S = 600.0
"""Stamps that are further off than this are of another day: a recording is being played."""
SKEW_S = 0.25
"""Clocks that differ by less may differ in latency."""
SUSTAINED_S = 5.0
"""A deadline that was missed for longer than this is an error."""
_NS = 1e-9
_JUMP_S = 10.0


class Troubles:
    """The last occurrences of each kind of trouble, by where it was. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[deque[float], str]] = {}

    def note(self, where: str, kind: str, text: str, now_s: float) -> None:
        with self._lock:
            times, _ = self._last.get((where, kind), (deque(maxlen=1000), ""))
            times.append(now_s)
            self._last[where, kind] = times, text

    def recent(self, where: str, now_s: float) -> list[str]:
        """In words, with how often it was; empty when all is over."""
        found = []
        with self._lock:
            for (place, _), (times, text) in self._last.items():
                if place == where and now_s - times[-1] < HOLD_S:
                    n = sum(now_s - t < HOLD_S for t in times)
                    found.append(f"{text} ({n} in {HOLD_S:g} s)" if n > 1 else text)
        return found


@dataclass(slots=True)
class ArrivalMonitor:
    """The messages of one input: rate, jitter, age, clock.

    Attributes:
        expected_hz: given, or learned from the first messages (0: not known yet).
        learns: whether to learn it; streams that send when something happens have none.
        last_s: steady time of the newest.
        last_stamp_ns: of the newest that could be decoded.
    """

    expected_hz: float = 0.0
    learns: bool = True
    last_s: float | None = None
    last_stamp_ns: int | None = None
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    _stamped: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=400))
    _gaps_s: list[float] = field(default_factory=list)
    _is_slow: bool = False

    def arrived(self, now_s: float) -> None:
        """A message came, whatever it may be worth."""
        self.last_s = now_s
        self._arrivals.append(now_s)

    def decoded(self, now_s: float, stamp_ns: int, age_s: float) -> None:
        """Args: age_s: node clock at arrival minus the stamp."""
        before = self.last_stamp_ns
        self.last_stamp_ns = stamp_ns
        if before is not None:
            gap_s = (stamp_ns - before) * _NS
            if not -0.3 < gap_s < _JUMP_S:
                self._stamped.clear()
            elif gap_s > 0 and self.learns and not self.expected_hz:
                self._gaps_s.append(gap_s)
                if len(self._gaps_s) >= LEARNED_OF:
                    self.expected_hz = 1.0 / float(np.median(self._gaps_s))
        self._stamped.append((now_s, stamp_ns, age_s))

    def silent_s(self, now_s: float) -> float | None:
        """Since the last message; None before the first."""
        return None if self.last_s is None else now_s - self.last_s

    def rate_hz(self, now_s: float) -> float:
        """Of arrivals."""
        recent = [t for t in self._arrivals if now_s - t <= WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0

    def usual_gap_s(self) -> float | None:
        """Median time between the last arrivals; None: too few to say."""
        arrivals = list(self._arrivals)[-LEARNED_OF:]
        return float(np.median(np.diff(arrivals))) if len(arrivals) >= FEWEST_ARRIVALS else None

    def stamp_rate_hz(self, now_s: float) -> float | None:
        """By the stamps of what arrived: of how many instants per second something came. None: too few to say."""
        recent = [stamp for t, stamp, _ in self._stamped if now_s - t <= WINDOW_S]
        if len(recent) < 3 or recent[-1] <= recent[0]:
            return None
        return (len(recent) - 1) / ((recent[-1] - recent[0]) * _NS)

    def slow(self, now_s: float) -> str:
        """ "" or how much slower than expected the stream is; with hysteresis."""
        rate = self.stamp_rate_hz(now_s)
        if rate is None and self.expected_hz * WINDOW_S >= FEWEST_ARRIVALS and self._stamped:
            rate = sum(now_s - t <= WINDOW_S for t, _, _ in self._stamped) / WINDOW_S
        if rate is None or not self.expected_hz:
            return ""
        self._is_slow = rate < (RATE_FINE if self._is_slow else RATE_LOW) * self.expected_hz
        return f"{rate:.1f} of {self.expected_hz:.1f} messages per second" if self._is_slow else ""

    def age_s(self, now_s: float) -> float | None:
        """Median of node clock at arrival minus stamp, in the window; None without a message in it."""
        ages = [age for t, _, age in self._stamped if now_s - t <= WINDOW_S]
        return float(np.median(ages)) if ages else None

    def jitter_s(self, now_s: float) -> float | None:
        """5th to 95th percentile of the ages at arrival; None: too few to say."""
        ages = [age for t, _, age in self._stamped if now_s - t <= WINDOW_S]
        if len(ages) < 5:
            return None
        low, high = np.percentile(ages, (5, 95))
        return float(high - low)

    def period_s(self) -> float:
        """Expected; 0 where it is not known."""
        return 1.0 / self.expected_hz if self.expected_hz else 0.0


class Deadline:
    """Ages of results at publication, against a deadline. Thread-safe."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._ages: deque[tuple[float, float]] = deque(maxlen=1000)
        self._missed_since_s: float | None = None

    def published(self, now_s: float, age_s: float) -> None:
        with self._lock:
            self._ages.append((now_s, age_s))

    def p95_s(self, now_s: float) -> float | None:
        with self._lock:
            ages = [age for t, age in self._ages if now_s - t <= WINDOW_S]
        return float(np.percentile(ages, 95)) if ages else None

    def verdict(self, now_s: float) -> tuple[int, str]:
        """(0 ok, 1 missed, 2 missed for long; in words)."""
        p95 = self.p95_s(now_s)
        if p95 is None or p95 <= self._limit_s:
            self._missed_since_s = None
            return 0, ""
        if self._missed_since_s is None:
            self._missed_since_s = now_s
        long = now_s - self._missed_since_s > SUSTAINED_S
        return 1 + long, f"results are {p95 * 1e3:.0f} ms old (95 %), the deadline is {self._limit_s * 1e3:.0f} ms"


class SteadyFrom:
    """Whether a clock that somebody else drives moves: time from /clock."""

    def __init__(self, now_s: float) -> None:
        self._last_ns: int | None = None
        self._moved_s = now_s

    def look(self, clock_ns: int, now_s: float) -> float:
        """Seconds since it last moved; forward or back."""
        if clock_ns != self._last_ns:
            self._last_ns, self._moved_s = clock_ns, now_s
        return now_s - self._moved_s
