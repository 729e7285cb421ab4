"""What is judged of arrivals, in made-up time."""

from __future__ import annotations

import threading

import pytest

from mm_perception.ros.monitors import HOLD_S, ArrivalMonitor, Deadline, SteadyFrom, Troubles

S = 1_000_000_000


def feed(monitor: ArrivalMonitor, from_s: float, to_s: float, rate_hz: float, age_s: float = 0.02) -> float:
    n = round((to_s - from_s) * rate_hz)
    for i in range(n):
        now_s = from_s + i / rate_hz
        monitor.arrived(now_s)
        monitor.decoded(now_s, round((now_s - age_s) * S), age_s)
    return from_s + (n - 1) / rate_hz


def test_a_slower_sensor_is_slow_until_it_is_nearly_as_fast_again():
    monitor = ArrivalMonitor()
    assert monitor.slow(feed(monitor, 0, 10, 10)) == "" and monitor.expected_hz == pytest.approx(10)
    assert "of 10.0 messages per second" in monitor.slow(feed(monitor, 10, 20, 5))
    assert monitor.slow(feed(monitor, 20, 30, 7.5)), "still: it must be well above the line to be fine"
    assert monitor.slow(feed(monitor, 30, 40, 9)) == ""


def test_the_slowest_is_not_fine_again():
    monitor = ArrivalMonitor()
    feed(monitor, 0, 10, 10)
    assert monitor.slow(feed(monitor, 10, 30, 0.6)) != ""


def test_a_given_rate_needs_no_learning():
    monitor = ArrivalMonitor(expected_hz=10.0)
    assert monitor.slow(feed(monitor, 0, 5, 4)) != ""


@pytest.mark.parametrize(("spread_s", "is_stutter"), [(0.01, False), (0.5, True)])
def test_jitter_is_the_spread_of_ages(spread_s, is_stutter):
    monitor = ArrivalMonitor()
    for i in range(30):
        monitor.decoded(i * 0.1, round(i * 0.1 * S), spread_s * (i % 3) / 2)
    assert (monitor.jitter_s(2.9) > 0.15) is is_stutter


def test_a_jump_of_stamps_starts_a_new_rate():
    monitor = ArrivalMonitor()
    feed(monitor, 0, 10, 10)
    monitor.decoded(10.0, 5 * S, 5.0)
    assert monitor.stamp_rate_hz(10.0) is None


def test_troubles_are_held_and_forgotten_and_counted():
    troubles = Troubles()
    for t in (1.0, 1.5, 2.0):
        troubles.note("rgb", "DataError", "truncated", t)
    assert troubles.recent("rgb", 2.1) == [f"truncated (3 in {HOLD_S:g} s)"]
    assert troubles.recent("thermal", 2.1) == []
    assert troubles.recent("rgb", 2.0 + HOLD_S) == []


def test_a_missed_deadline_is_an_error_when_it_lasts():
    deadline = Deadline(0.5)
    for i in range(100):
        deadline.published(i * 0.1, 0.9 if i >= 20 else 0.1)
    assert [deadline.verdict(t)[0] for t in (2.6, 6.0, 9.0)] == [1, 1, 2]
    assert deadline.verdict(20.0) == (0, "")


def test_a_clock_that_stands_still_is_timed():
    clock = SteadyFrom(0.0)
    assert clock.look(5, 1.0) == 0.0
    assert clock.look(5, 4.0) == 3.0
    assert clock.look(4, 5.0) == 0.0


def test_troubles_may_be_noted_while_they_are_read():
    troubles, stop = Troubles(), threading.Event()

    def note() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            troubles.note("rgb", str(i % 50), "x", 1.0)

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for _ in range(2000):
            troubles.recent("rgb", 1.0)
    finally:
        stop.set()
        thread.join()
