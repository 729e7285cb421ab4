"""Durations by stage: collecting them and summing them up."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Quantiles of one stage's durations [ms]."""

    count: int
    median_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class StageClock:
    """Times the stages of one step.

    Attributes:
        stage_ms: duration by stage [ms], in the order in which the stages ended.
    """

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[stage] = self.stage_ms.get(stage, 0.0) + (time.perf_counter() - start) * 1e3


class LatencyLog:
    """The last durations of each stage."""

    def __init__(self, keep: int = 1000) -> None:
        self._ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=keep))

    def add(self, stage_ms: Mapping[str, float]) -> None:
        for stage, duration in stage_ms.items():
            self._ms[stage].append(duration)

    def summary(self) -> dict[str, LatencySummary]:
        """Per stage, in the order in which the stages first came; empty without data."""
        return {stage: _summed_up(values) for stage, values in self._ms.items()}

    def of(self, stage: str) -> LatencySummary | None:
        """Of one stage; None if it never came."""
        return _summed_up(self._ms[stage]) if stage in self._ms else None


def _summed_up(values: deque[float]) -> LatencySummary:
    data = np.array(values)
    median, p95, p99 = np.percentile(data, (50, 95, 99))
    return LatencySummary(len(data), float(median), float(p95), float(p99), float(data.max()))
