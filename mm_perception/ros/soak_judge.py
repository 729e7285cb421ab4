"""What a soak concludes of what it saw: which faults were named and by what, how long until all was well. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mm_perception.sim.faults import CLOCK_TOPIC, VEHICLE, Fault

NAMED_WITHIN_S = 2.0
"""After its end, in which a fault may still be named: a stream that came too slowly shows it only then."""
USUAL_S = 5.0
"""Before a fault; what counters gain in it without one is no sign of one."""
RECOVERED_WITHIN_S = 5.0
NAMED_SHARE = 0.95
RSS_MB_PER_MIN = 1.0
SLOPE_AFTER_S = 600.0
"""Memory is judged by slopes over at least this long: what caches and allocators do is no slope of a minute."""
HARMLESS = "subscribers"
"""The kind that must cause no trouble at all."""
_NO_SIGN = "dropped.superseded"
"""The latest set wins: what a busy machine passes over is no fault of a sensor."""
_COUNTERS = ("dropped.", "rejected.", "decoder.", "incompatible_qos.", "lost")


@dataclass(frozen=True, slots=True)
class Seen:
    """One diagnostic status, without its name."""

    level: int
    message: str
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All statuses of one /diagnostics message. statuses: by name without the node's: "sensor rgb", "pipeline"."""

    at_s: float
    statuses: Mapping[str, Seen]

    @property
    def is_ok(self) -> bool:
        return all(seen.level == 0 for seen in self.statuses.values())

    def troubles(self) -> dict[str, str]:
        """Messages of those that are not OK."""
        return {name: seen.message for name, seen in self.statuses.items() if seen.level}


def seen_values(level: int, message: str, values: Mapping[str, str]) -> Seen:
    """Keeps of a status what is judged."""
    counts = {key: int(text) for key, text in values.items() if key.startswith(_COUNTERS) and text.isdigit()}
    return Seen(level, message, {key: n for key, n in counts.items() if key != _NO_SIGN})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one fault.

    Attributes:
        named_by: the status and what it said; of a harmless fault, what got worse. "": nothing.
        named_after_s: since its start.
        recovered_after_s: from its end (of its pair, if it has one) until all levels were OK and stayed so until the
            next fault; None: they did not.
        still: what was not OK last after its end, in words; "": nothing was.
    """

    fault: Fault
    named_by: str
    named_after_s: float | None
    recovered_after_s: float | None
    still: str = ""

    @property
    def is_good(self) -> bool:
        return bool(self.named_by) != (self.fault.kind == HARMLESS)


def groups(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that overlap, together."""
    found: list[list[Fault]] = []
    for fault in faults:
        if found and fault.start_s < max(one.end_s for one in found[-1]):
            found[-1].append(fault)
        else:
            found.append([fault])
    return found


def judge(group: Sequence[Fault], history: Sequence[Snapshot]) -> list[Verdict]:
    """Verdicts of faults that belong together.

    Args:
        history: from some seconds before the first of them until the next fault, by time.
    """
    end_s = max(fault.end_s for fault in group)
    recovered_s = _recovery(end_s, history)
    after_s = None if recovered_s is None else recovered_s - end_s
    bad = [one for one in history if one.at_s >= end_s and not one.is_ok]
    still = "; ".join(f"{name}: {text}" for name, text in bad[-1].troubles().items()) if bad else ""
    return [Verdict(fault, *_naming(fault, history), after_s, still) for fault in group]


def _naming(fault: Fault, history: Sequence[Snapshot]) -> tuple[str, float | None]:
    before = [one for one in history if fault.start_s - USUAL_S <= one.at_s < fault.start_s]
    during = [one for one in history if fault.start_s <= one.at_s <= fault.end_s + NAMED_WITHIN_S]
    for now in during:
        if words := _worse(fault, before, now):
            return words, now.at_s - fault.start_s
    return "", None


def _worse(fault: Fault, before: Sequence[Snapshot], now: Snapshot) -> str:
    """What a snapshot says of the fault's target that was not said just before it; "" if nothing."""
    for name, seen in now.statuses.items():
        if _is_own(fault, name) and (words := _level(name, before, seen) or _gain(name, before, seen)):
            return words
    pipeline = now.statuses.get("pipeline")
    if pipeline is not None and fault.target != VEHICLE and pipeline.level:
        known = before[-1].statuses["pipeline"].message if before and "pipeline" in before[-1].statuses else ""
        for part in pipeline.message.split("; "):
            if re.search(rf"(?<![\w/]){re.escape(fault.target)}(?![\w/])", part) and _words(part) not in _words(known):
                return f"pipeline: {part}"
    return ""


def _is_own(fault: Fault, name: str) -> bool:
    """Whether a status is that of the fault's target."""
    if fault.kind == HARMLESS:
        return True
    if fault.target == VEHICLE:
        return name.startswith("sensor ")
    wanted = "clock" if fault.target == CLOCK_TOPIC else fault.target
    return name in (f"sensor {wanted}", f"input {wanted}", wanted)


def _level(name: str, before: Sequence[Snapshot], seen: Seen) -> str:
    """Its text, where it is not OK and said something else before."""
    known = before[-1].statuses.get(name) if before else None
    if not seen.level or (known is not None and known.level and _words(known.message) == _words(seen.message)):
        return ""
    return f"{name}: {seen.message}"


def _gain(name: str, before: Sequence[Snapshot], seen: Seen) -> str:
    """The first counter that grew, and did not in the seconds before."""
    if not before:
        return ""
    first, last = (one.statuses.get(name) for one in (before[0], before[-1]))
    for key, n in seen.counters.items():
        known = last.counters.get(key, 0) if last else 0
        is_usual = first is not None and last is not None and first.counters.get(key, 0) != known
        if n > known and not is_usual:
            return f"{name}: {key} +{n - known}"
    return ""


def _words(text: str) -> str:
    """Without numbers, which change all the time."""
    return re.sub(r"\d+(\.\d+)?", "#", text)


def _recovery(end_s: float, history: Sequence[Snapshot]) -> float | None:
    """When all levels came back to OK to stay; `end_s` if they never left it."""
    after = [one for one in history if one.at_s >= end_s]
    if not after or not after[-1].is_ok:
        return None
    bad = [i for i, one in enumerate(after) if not one.is_ok]
    return after[bad[-1] + 1].at_s if bad else after[0].at_s


def slope_per_min(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Of a line through the values; 0 for fewer than two."""
    if len(times_s) < 2 or times_s[-1] == times_s[0]:
        return 0.0
    return float(np.polyfit(np.asarray(times_s) / 60.0, np.asarray(values), 1)[0])
