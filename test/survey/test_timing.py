from __future__ import annotations

import numpy as np
import pytest

from mm_perception.survey.facts import TopicFacts
from mm_perception.survey.timing import nearest_differences, phase, rhythm

START = 1_700_000_000_000_000_000


def stream(period_ms: float, phase_ms: float = 0.0, ahead_s: float = 0.0, late_ms: float = 8.0, count: int = 60):
    true_ms = np.arange(count) * period_ms + phase_ms
    stamps = START + np.rint((true_ms + ahead_s * 1e3) * 1e6).astype(np.int64)
    logs = START + np.rint((true_ms + late_ms) * 1e6).astype(np.int64)
    return TopicFacts("/x", "sensor_msgs/msg/Image", count, stamps, logs)


def test_nearest_differences_against_all_pairs():
    generator = np.random.default_rng(0)
    a, b = np.sort(generator.integers(0, 10**9, 50)), np.sort(generator.integers(0, 10**9, 70))
    pairs = b[None] - a[:, None]
    expected = np.abs(pairs).min(1)
    np.testing.assert_array_equal(np.abs(nearest_differences(a, b)), expected)


@pytest.mark.parametrize(
    ("other", "clock_ms", "name", "offset_ms"),
    [
        (stream(100.0), 0, "", 0),
        (stream(100.0, phase_ms=30.0), 0, "", 30),
        (stream(50.0, phase_ms=-18.0, count=120), 0, "", -18),
        (stream(200.0, phase_ms=-24.0, count=30), 0, "", -24),
        (stream(100.0, late_ms=400.0), 0, "", 0),
        (stream(100.0, ahead_s=37.0), 37_000, "TAI", 37_000),
        (stream(100.0, phase_ms=20.0, ahead_s=-37.0), -37_000, "TAI", -36_980),
        (stream(100.0, ahead_s=18.0), 18_000, "GPS time", 18_000),
        (stream(100.0, ahead_s=5.25), 5250, "", 5250),
        (stream(100.0, ahead_s=3600.0), 3_600_000, "", 3_600_000),
    ],
)
def test_clocks_and_phases_are_found(other, clock_ms, name, offset_ms):
    found = phase(stream(100.0), other)
    assert (found.clock_ms, found.clock_name) == (pytest.approx(clock_ms, abs=60), name)
    assert found.offset_ms == pytest.approx(offset_ms, abs=60 if clock_ms and not name else 0.2)


def test_a_clock_is_found_where_arrival_times_are_the_stamps():
    other = stream(100.0, ahead_s=37.0)
    found = phase(stream(100.0, late_ms=0.0), TopicFacts("/x", "t", 60, other.stamps_ns, other.stamps_ns))
    assert (found.clock_ms, found.clock_name) == (37_000, "TAI")


def test_a_stream_that_runs_free_gets_a_tolerance_and_no_offset():
    found = phase(stream(100.0), stream(71.0, count=84))
    assert not found.is_steady and found.offset_ms == 0
    assert found.tolerance_ms >= 35.5  # half of its period: a nearest stamp is never further away


def test_nothing_is_said_of_nothing():
    assert phase(stream(100.0), stream(100.0, count=0)) is None
    assert rhythm(np.array([1, 2])) is None
    assert rhythm(np.zeros(9, np.int64)) is None
    assert not phase(stream(100.0), stream(100.0, count=1, phase_ms=40.0)).enough


def test_rhythm():
    beat = rhythm(np.array([0, 100, 200, 300, 900, 1000]) * 1_000_000)
    assert (beat.rate_hz, beat.longest_gap_ms, beat.jitter_ms > 100) == (10.0, 600.0, True)
