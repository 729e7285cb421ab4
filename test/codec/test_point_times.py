"""Per-point times on any clock and in any unit: what gets out is within a second of the stamp, or nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.codec.point_times import DECIDED_AFTER, PointTimes

STAMP_NS = 1_711_111_111_222_333_444
S = 1_000_000_000
DAY_S = 86_400
SINCE_BOOT_NS = 54_321 * S + 123_456_789
N = 400
SWEEP_NS = np.linspace(0, 99_000_000, N).astype(np.int64)
PLACES = {"start": 0, "middle": -50_000_000, "end": -99_000_000}
UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": S}


def as_field(ns, code: str, unit_ns: int) -> np.ndarray:
    """Times as a driver would write them, in extended precision before they are rounded to the field's kind."""
    exact = np.array(ns, np.int64)
    if np.dtype(code).kind in "iu":
        return (exact // unit_ns).astype(code)
    return (exact.astype(np.longdouble) / unit_ns).astype(code)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("code", "unit"),
    [("u4", "ns"), ("u4", "us"), ("i4", "ns"), ("i4", "us"), ("f4", "s"), ("f4", "ms"), ("f4", "us"), ("f8", "s"),
     ("f8", "ms"), ("f8", "us"), ("f8", "ns"), ("f4", "ns")],
)  # fmt: skip
def test_relative_times_in_every_unit(code, unit, place):
    expected = SWEEP_NS + PLACES[place]
    if code == "u4" and place != "start":
        pytest.skip("unsigned times do not count backwards")
    times = PointTimes()
    got = times.read("t", as_field(expected, code, UNITS[unit]), STAMP_NS)
    assert np.abs(got - expected).max() <= UNITS["us"] if unit != "s" or code != "f4" else 5_000
    assert "clock" not in times.notes and times.ignored == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("code", "unit"), [("f8", "s"), ("f8", "ms"), ("f8", "us"), ("f8", "ns"), ("i8", "ns")])
@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [(0, ""), (37, "TAI"), (-37, "TAI"), (18, "GPS"), (7200, "time zone"), (-19_800, "time zone")],
)
def test_absolute_times_keep_their_place_in_the_sweep_where_the_figure_is_known(code, unit, ahead_s, said, place):
    expected = SWEEP_NS + PLACES[place]
    times = PointTimes()
    got = times.read("timestamp", as_field(STAMP_NS + expected + ahead_s * S, code, UNITS[unit]), STAMP_NS)
    assert np.abs(got - expected).max() <= 1_000
    assert said in times.notes.get("clock", "") if said else "clock" not in times.notes


@pytest.mark.parametrize(("code", "unit"), [("f8", "s"), ("f8", "ns"), ("f8", "us"), ("i8", "ns")])
@pytest.mark.parametrize(
    ("ahead_ns", "said"),
    [
        (SINCE_BOOT_NS - STAMP_NS, "its own start"),
        (-400 * DAY_S * S - 3 * S, "another day"),
        (-(315_964_800 - 18) * S, "1980"),
        (3 * S, "3.0"),
        (-260 * S, "260.0"),
    ],
)
def test_times_on_a_clock_of_their_own_count_from_the_first_point(code, unit, ahead_ns, said):
    times = PointTimes()
    got = times.read("ts", as_field(STAMP_NS + SWEEP_NS + ahead_ns, code, UNITS[unit]), STAMP_NS)
    assert np.abs(got - SWEEP_NS).max() <= 1_000
    assert said in times.notes["clock"] and "re-based" in times.notes["clock"]


def test_microseconds_since_the_hour_and_counters_that_wrap_within_a_sweep():
    hour_us = (3_599_000_000 + SWEEP_NS // 1000).astype("u4")
    assert np.abs(PointTimes().read("t", hour_us, STAMP_NS) - SWEEP_NS).max() <= 1_000
    wrapping = ((2**32 - 40_000_000 + SWEEP_NS) % 2**32).astype("u4")
    assert PointTimes().read("t", wrapping, STAMP_NS).tolist() == SWEEP_NS.tolist()


@pytest.mark.parametrize("ns", [STAMP_NS, SINCE_BOOT_NS * 300])
@pytest.mark.parametrize("unit", ["s", "ns"])
def test_absolute_times_in_a_float32_are_ignored(ns, unit):
    times = PointTimes()
    assert times.read("timestamp", as_field(ns + SWEEP_NS, "f4", UNITS[unit]), STAMP_NS) is None
    assert "float32" in times.notes["ignored"] and times.ignored == 1


def test_a_float32_that_still_resolves_the_sweep_is_used():
    since_boot = as_field(900 * S + SWEEP_NS, "f4", S)
    assert np.abs(PointTimes().read("time", since_boot, STAMP_NS) - SWEEP_NS).max() < 200_000


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).uniform(-1e9, 1e9, N),  # fields of another meaning
        np.random.default_rng(0).uniform(20, 40, N).astype("f4"), np.random.default_rng(0).normal(290, 1, N),
        np.random.default_rng(0).integers(30_000, 90_000, N).astype("u4"), np.full(N, 25.0, "f4"),
        np.full(N, np.nan), np.full(N, np.inf), np.full(N, 1e300), np.full(N, 2**64 - 1, "u8"),
        np.where(np.arange(N) % 2, 1.7e18, 1.0e18),
    ],
)  # fmt: skip
def test_what_can_be_no_times_is_ignored(values):
    times = PointTimes()
    assert times.read("t", values, STAMP_NS) is None
    assert "ignored" in times.notes["ignored"]


def test_the_order_of_points_does_not_matter():
    order = np.random.default_rng(1).permutation(N)
    absolute = STAMP_NS - 70 * DAY_S * S + SWEEP_NS
    assert PointTimes().read("t", absolute[order], STAMP_NS).tolist() == SWEEP_NS[order].tolist()


def test_microseconds_of_points_in_no_order_are_still_times():
    order = np.random.default_rng(1).permutation(N)
    for counted_from_ns in (0, 1_234 * S):
        values = ((counted_from_ns + SWEEP_NS) // 1000).astype("u4")[order]
        assert np.abs(PointTimes().read("t", values, STAMP_NS) - SWEEP_NS[order]).max() <= 1_000


def test_rows_of_an_organised_cloud_each_begin_anew():
    rows = np.tile(SWEEP_NS[::8] // 1000 + 20_000, 16).astype("u4")
    assert np.abs(PointTimes().read("t", rows, STAMP_NS) - rows.astype(int) * 1000).max() == 0


def test_points_that_nobody_timed_count_as_measured_at_the_stamp():
    values = as_field(STAMP_NS + SWEEP_NS, "f8", S)
    values[5], values[9] = 0.0, np.nan
    times = PointTimes()
    got = times.read("timestamp", values, STAMP_NS)
    timed = np.ones(N, bool)
    timed[[5, 9]] = False
    assert got[~timed].tolist() == [0, 0] and times.unset == 2
    assert np.abs(got - SWEEP_NS)[timed].max() <= 1_000


def test_a_flash_at_one_instant_and_empty_sweeps():
    times = PointTimes()
    assert times.read("t", np.full(N, 7_000_000, "u4"), STAMP_NS).tolist() == [7_000_000] * N
    assert times.read("t", np.zeros(N, "f4"), STAMP_NS).tolist() == [0] * N
    assert times.read("t", np.zeros(0, "f4"), STAMP_NS).tolist() == []


def test_units_do_not_flicker_with_the_number_of_points():
    """A sweep of which a few points of a narrow sector are left would make sense in another unit by itself."""
    times = PointTimes()
    for k in range(DECIDED_AFTER):
        times.read("time", (SWEEP_NS // 1000).astype("u4"), STAMP_NS + k * S // 10)
    narrow_us = np.linspace(40_000, 40_300, 40).astype("u4")
    got = times.read("time", narrow_us, STAMP_NS + S)
    assert (int(got[0]), int(got[-1])) == (40_000_000, 40_300_000)
    few = times.read("time", np.array([7, 90_000], "u4"), STAMP_NS + 2 * S)
    assert few.tolist() == [7_000, 90_000_000]


def test_a_counter_that_passes_zero_is_not_taken_for_relative_times():
    """Nanoseconds since boot in 32 bits start anew every 4.3 s: one sweep then begins near zero."""
    times = PointTimes()
    for k in range(60):
        counter = ((k * S // 10 + 1_500_000_000 + SWEEP_NS) % 2**32).astype("u4")
        got = times.read("t", counter, STAMP_NS + k * S // 10)
        assert got.tolist() == SWEEP_NS.tolist(), k
    assert times.ignored == 0


def test_a_clock_that_is_set_while_it_runs_costs_some_sweeps_and_no_wrong_ages():
    times = PointTimes()
    for k in range(DECIDED_AFTER + 1):
        assert times.read("t", STAMP_NS + k * S + SWEEP_NS, STAMP_NS + k * S) is not None
    found = [times.read("t", STAMP_NS + (k + 500) * S + SWEEP_NS, STAMP_NS + k * S) for k in range(10, 20)]
    assert [one is None for one in found] == [True] * DECIDED_AFTER + [False] * (10 - DECIDED_AFTER)
    assert found[-1].tolist() == SWEEP_NS.tolist() and times.ignored == DECIDED_AFTER
