"""What a name that is not there may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_MOST = 3
_CLOSE = 0.6


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names that resemble a name, the nearest first; topics also where only their ends do."""
    scored = sorted((-_likeness(name, other), other) for other in set(known) - {name})
    return [other for score, other in scored if -score >= _CLOSE][:_MOST]


def _likeness(one: str, other: str) -> float:
    a, b = one.lower().strip("/"), other.lower().strip("/")
    words, others = set(re.split("[/_]", a)), set(re.split("[/_]", b))
    # Namespaces differ from vehicle to vehicle, and transports add a word: the shorter name's words say which sensor.
    shared = len(words & others) / min(len(words), len(others))
    return max(difflib.SequenceMatcher(None, a, b).ratio(), 0.8 * shared)
