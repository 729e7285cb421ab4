"""What the soak concludes of made-up histories."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from mm_perception.ros.process_watch import usage
from mm_perception.ros.soak import BlindWatch, blinding_spans
from mm_perception.ros.soak_judge import Seen, Snapshot, groups, judge, seen_values, slope_per_min
from mm_perception.sim.faults import CLOCK_TOPIC, VEHICLE, Fault

OK = Seen(0, "ok", {})
NAMES = ("pipeline", "sensor rgb", "sensor lidar", "sensor rgb_left", "input /tf", "clock")


def history(*troubles: tuple[float, float, str, Seen], until_s: float = 30.0) -> list[Snapshot]:
    """Twice a second: all OK but for (from, to, status, what it says)."""
    times = [i * 0.5 for i in range(int(until_s * 2))]
    found = []
    for t in times:
        statuses = dict.fromkeys(NAMES, OK)
        for start_s, end_s, name, seen in troubles:
            if start_s <= t < end_s:
                statuses[name] = seen
        found.append(Snapshot(t, statuses))
    return found


def one(fault: Fault, *troubles: tuple[float, float, str, Seen]):
    (verdict,) = judge([fault], history(*troubles))
    return verdict


DEAD = Fault("die", "lidar", 10.0, 5.0)
WARN = Seen(1, "no message for 2.1 s", {})


def test_level_of_the_right_sensor_names_the_fault_and_recovery_is_counted_from_its_end():
    verdict = one(DEAD, (12.0, 16.5, "sensor lidar", WARN))
    assert verdict.is_good and verdict.named_by == "sensor lidar: no message for 2.1 s"
    assert (verdict.named_after_s, verdict.recovered_after_s) == (2.0, 1.5)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("sensor rgb", WARN),
        ("sensor rgb_left", WARN),
        ("pipeline", Seen(2, "segmentation blind: rgb.missing: no image", {})),
        ("pipeline", Seen(1, "detection degraded: lidar_top.missing: no sweep", {})),
    ],
)
def test_another_status_does_not_name_it(name, seen):
    verdict = one(DEAD, (12.0, 16.0, name, seen))
    assert not verdict.is_good and (verdict.named_by, verdict.named_after_s) == ("", None)


def test_pipeline_names_it_by_the_sensor():
    said = Seen(2, "untrained; detection blind: lidar.missing: no sweep; lidar.old: the newest is old", {})
    assert one(DEAD, (11.0, 16.0, "pipeline", said)).named_by == "pipeline: detection blind: lidar.missing: no sweep"


def test_counter_names_it_where_it_grows_and_did_not_before():
    def counted(n: int) -> Seen:
        return Seen(0, "ok", {"rejected.DataError": n, "dropped.late": 3})

    rising = [(0.0, 11.0, "sensor lidar", counted(1)), (11.0, 30.0, "sensor lidar", counted(4))]
    assert one(DEAD, *rising).named_by == "sensor lidar: rejected.DataError +3"
    usual = [(i * 0.5, i * 0.5 + 0.5, "sensor lidar", counted(i)) for i in range(60)]
    assert one(DEAD, *usual).named_by == ""


def test_what_was_said_before_is_no_sign_and_numbers_make_no_difference():
    verdict = one(
        DEAD,
        (0.0, 11.0, "sensor lidar", Seen(1, "late: 310 ms", {})),
        (11.0, 30.0, "sensor lidar", Seen(1, "late: 290 ms", {})),
    )
    assert (verdict.named_by, verdict.recovered_after_s) == ("", None)
    other = one(DEAD, (0.0, 12.0, "sensor lidar", Seen(1, "late: 310 ms", {})), (12.0, 16.0, "sensor lidar", WARN))
    assert other.named_after_s == 2.0


@pytest.mark.parametrize(("at_s", "is_named"), [(9.0, False), (16.5, True), (17.5, False)])
def test_only_what_comes_with_the_fault_counts(at_s, is_named):
    verdict = one(DEAD, (at_s, at_s + 0.5, "sensor lidar", WARN))
    assert verdict.is_good == is_named


def test_recovery_is_that_of_all_levels_to_stay():
    assert one(DEAD).recovered_after_s == 0.0
    again = (16.0, 16.5, "sensor rgb", WARN), (19.0, 21.0, "input /tf", WARN)
    assert one(DEAD, *again).recovered_after_s == 6.0
    never = one(DEAD, (16.0, 99.0, "sensor rgb", WARN))
    assert (never.recovered_after_s, never.still) == (None, f"sensor rgb: {WARN.message}")
    assert one(DEAD, *again).still == f"input /tf: {WARN.message}"


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Fault("tf_gone", "/tf", 10.0, 5.0), "input /tf"),
        (Fault("clock_dies", CLOCK_TOPIC, 10.0, 5.0), "clock"),
        (Fault("vehicle_jump", VEHICLE, 10.0, 5.0), "sensor rgb"),
        (Fault("die", "rgb_left", 10.0, 5.0), "sensor rgb_left"),
    ],
)
def test_each_target_has_its_status(fault, name):
    assert one(fault, (12.0, 15.0, name, WARN)).named_by == f"{name}: {WARN.message}"
    for other in set(NAMES) - {name, "pipeline"}:
        if fault.target != VEHICLE or not other.startswith("sensor "):
            assert not one(fault, (12.0, 15.0, other, WARN)).named_by


def test_subscribers_are_good_where_nothing_got_worse():
    fault = Fault("subscribers", VEHICLE, 10.0, 5.0)
    assert one(fault).is_good
    verdict = one(fault, (12.0, 13.0, "pipeline", Seen(1, "results are 900 ms old", {})))
    assert not verdict.is_good and verdict.named_by == "pipeline: results are 900 ms old"


def test_faults_that_overlap_are_judged_together():
    second = Fault("black", "rgb", 13.0, 5.0)
    assert groups([DEAD, second, Fault("die", "rgb", 18.0, 2.0)]) == [[DEAD, second], [Fault("die", "rgb", 18.0, 2.0)]]
    first, other = judge(
        [DEAD, second],
        history((12.0, 19.5, "sensor lidar", WARN), (13.5, 18.5, "sensor rgb", Seen(2, "what comes is black", {}))),
    )
    assert (first.named_after_s, other.named_after_s) == (2.0, 0.5)
    assert first.recovered_after_s == other.recovered_after_s == 1.5


def test_only_counters_of_what_went_wrong_are_kept():
    values = {
        "dropped.superseded": "7",
        "dropped.late": "2",
        "lost": "unknown",
        "rejected.DataError": "1",
        "received": "9",
        "age_ms": "3.1",
    }
    assert seen_values(1, "text", values).counters == {"dropped.late": 2, "rejected.DataError": 1}


def test_slope_is_per_minute():
    assert slope_per_min([0.0, 30.0, 60.0], [100.0, 101.0, 102.0]) == pytest.approx(2.0)
    assert slope_per_min([], []) == slope_per_min([1.0], [5.0]) == 0.0


def test_empty_boxes_of_a_blind_detector_are_violations():
    watch = BlindWatch(
        modes={1: "full", 2: "blind", 3: "degraded", 5: "full"}, empties=[1, 2, 3, 4, 5], blinded_ns=[(5, 6)]
    )
    assert watch.violations() == [2, 4, 5], "said to be blind, said nothing, and blind in truth"


def test_a_lidar_is_blind_some_time_after_its_fault_began():
    faults = [
        DEAD,
        Fault("die", "rgb", 20.0, 5.0),
        Fault("sector", "lidar", 30.0, 5.0),
        Fault("empty", "lidar", 40.0, 5.0),
    ]
    assert blinding_spans(faults, "lidar", 0.25) == [(10.5, 15.0), (40.5, 45.0)]


def test_usage_is_that_of_the_process():
    own = usage(os.getpid(), 3.0)
    assert own is not None and own.at_s == 3.0 and own.rss_mb > 10 and own.threads >= 1 and own.descriptors > 2
    with contextlib.ExitStack() as files:
        for _ in range(5):
            files.enter_context(Path(os.devnull).open())
        more = usage(os.getpid(), 4.0)
    assert more is not None and more.descriptors >= own.descriptors + 5
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert usage(ended.pid, 0.0) is None
