"""What a set is worth, from messages: by rule and threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_perception.core.rig import load_rig
from mm_perception.core.types import EventPacket, ImageFrame, PointCloud, SensorBundle, ThermalFrame
from mm_perception.geometry.sweeps import Turn
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.intake import Calibration, Observation
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarView
from mm_perception.pipeline.sight import (
    Sight,
    detection_sight,
    ground_coverage,
    segmentation_sight,
    unseen_by_the_network,
)
from mm_perception.sensing.health import Health, cover

T = 10_000_000_000
MS = 1_000_000
RIG = load_rig("nuscenes")
LIDAR = RIG.of_kind("lidar")[0].name
CAMERAS = tuple(s.name for s in RIG.of_kind("rgb"))
TAPS = DetectorTaps(LIDAR, CAMERAS, 3)
RNG = np.random.default_rng(0)


def sweep(from_deg: float = -180, to_deg: float = 180, stamp_ns: int = T, n: int = 4000) -> PointCloud:
    angle = RNG.uniform(np.radians(from_deg), np.radians(to_deg), n)
    xyz = np.stack([20 * np.cos(angle), 20 * np.sin(angle), np.zeros(n)], 1)
    return PointCloud(xyz.astype(np.float32), stamp_ns, LIDAR)


def observe(
    cloud: PointCloud | None, *, in_set: bool = True, health: dict[str, Health] | None = None, heading_deg: float = 0.0
) -> Observation:
    image = ImageFrame(np.zeros((4, 4, 3), np.uint8), T, "cam")
    measurements = {RIG.reference: image} | dict.fromkeys(CAMERAS, image)
    missing = () if in_set and cloud is not None else (LIDAR,)
    known = {name: Health() for name in measurements}
    view = None
    if cloud is not None:
        if in_set:
            measurements[LIDAR] = cloud  # type: ignore[assignment]
        here = RigidTransform.identity(LIDAR)
        c, s = np.cos(np.radians(heading_deg)), np.sin(np.radians(heading_deg))
        output = RigidTransform("base", LIDAR, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([1.0, 0, 2]))
        turn = Turn(cloud, here, here, cloud.stamp_ns, cloud.stamp_ns)
        view = LidarView(LIDAR, (turn,), here, {}, output, {})
        known[LIDAR] = Health("" if len(cloud) else "empty", 0, cover(cloud.xyz))
    bundle = SensorBundle(T, RIG.reference, measurements, {}, missing)
    return Observation(bundle, Calibration({}, {}, {}), view, known | (health or {}))


def test_a_whole_sweep_is_full_sight():
    sight = detection_sight(observe(sweep()), TAPS, RIG)
    assert (sight.mode, sight.reasons, sight.no_boxes_means_free) == ("full", {}, True)


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (observe(None), f"{LIDAR}.missing"),
        (observe(sweep(stamp_ns=T - 301 * MS), in_set=False), f"{LIDAR}.old"),
        (observe(sweep(n=0)), f"{LIDAR}.empty"),
        (observe(sweep(n=49)), f"{LIDAR}.empty"),
        (observe(sweep(), health={LIDAR: Health("frozen", 1, cover(sweep().xyz))}), f"{LIDAR}.frozen"),
    ],
)
def test_without_a_sweep_of_the_present_the_detector_is_blind(observation, reason):
    sight = detection_sight(observation, TAPS, RIG)
    assert sight.mode == "blind" and reason in sight.blind and not sight.no_boxes_means_free


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (observe(sweep(-60, 60)), f"{LIDAR}.sector"),
        (observe(sweep(), health={LIDAR: Health("", 1, cover(sweep().xyz))}), f"{LIDAR}.repeated"),
        (observe(sweep(stamp_ns=T - 299 * MS), in_set=False), f"{LIDAR}.missing"),
    ],
)
def test_with_a_part_of_the_sight_no_boxes_mean_nothing(observation, reason):
    sight = detection_sight(observation, TAPS, RIG)
    assert sight.mode == "degraded" and reason in sight.degraded and not sight.no_boxes_means_free


def test_a_forward_lidar_that_says_so_is_whole():
    sensors = tuple(replace(s, coverage_deg=120.0) if s.name == LIDAR else s for s in RIG.sensors)
    sight = detection_sight(observe(sweep(-60, 60)), TAPS, replace(RIG, sensors=sensors))
    assert sight.mode == "full" and sight.no_boxes_means_free


@pytest.mark.parametrize("problem", ["frozen", "black", "saturated"])
def test_a_bad_camera_degrades_and_leaves_the_meaning_of_no_boxes(problem):
    sight = detection_sight(observe(sweep(), health={CAMERAS[1]: Health(problem)}), TAPS, RIG)
    assert sight.mode == "degraded" and f"{CAMERAS[1]}.{problem}" in sight.degraded and sight.no_boxes_means_free


def test_an_offset_of_the_lidar_is_no_age():
    sensors = tuple(replace(s, offset_ms=-500.0) if s.name == LIDAR else s for s in RIG.sensors)
    sight = detection_sight(observe(sweep(stamp_ns=T - 500 * MS)), TAPS, replace(RIG, sensors=sensors))
    assert sight.mode == "full"


@pytest.mark.parametrize(
    ("cloud", "heading_deg", "expected"),
    [
        (sweep(), 0.0, ((-180, 180, 21.0),)),
        (sweep(0.1, 59.9), 0.0, ((0, 60, 21.0),)),
        (sweep(0.1, 59.9), 90.0, ((90, 150, 21.0),)),
        (sweep(150.1, 209.9), 0.0, ((150, -150, 21.0),)),
        (sweep(120.1, 179.9), 0.0, ((120, 180, 21.0),)),
    ],
)
def test_covered_ground_is_told_in_the_output_frame(cloud, heading_deg, expected):
    coverage = ground_coverage(observe(cloud, heading_deg=heading_deg), TAPS)
    assert coverage is not None
    assert coverage.sectors == expected
    assert coverage.frame_id == "base" and coverage.origin_xyz_m == (1.0, 0.0, 2.0)


def thermal_set(problem: str = "", x_problem: str = "", x_there: bool = True) -> Observation:
    rgb = ImageFrame(np.zeros((4, 4, 3), np.uint8), T, "cam")
    thermal = ThermalFrame(np.ones((4, 4), np.float32), "counts", T, "cam")
    measurements = {"rgb": rgb} | ({"thermal": thermal} if x_there else {})
    bundle = SensorBundle(T, "rgb", measurements, {}, () if x_there else ("thermal",))
    return Observation(
        bundle, Calibration({}, {}, {}), None, {"rgb": Health(problem), "thermal": Health(x_problem)}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("observation", "x_sensor", "mode"),
    [
        (thermal_set(), "thermal", "full"),
        (thermal_set(x_there=False), "thermal", "degraded"),
        (thermal_set(x_problem="frozen"), "thermal", "degraded"),
        (thermal_set("black"), "thermal", "degraded"),
        (thermal_set("black", x_problem="blank"), "thermal", "blind"),
        (thermal_set("frozen"), "thermal", "blind"),
        (thermal_set("black"), "rgb", "blind"),
        (thermal_set(), "rgb", "full"),
    ],
)
def test_segmentation_lives_on_what_shows_something(observation, x_sensor, mode):
    assert segmentation_sight(observation, x_sensor).mode == mode


def test_the_worst_task_counts_and_a_failure_makes_it_blind():
    full, narrow = detection_sight(observe(sweep()), TAPS, RIG), detection_sight(observe(sweep(0, 90)), TAPS, RIG)
    sight = Sight(T, {"segmentation": full, "detection": narrow})
    assert sight.mode == "degraded"
    failed = sight.failed("EngineError: no memory")
    assert failed.mode == "blind" and failed.values()["segmentation.blind"] == "result: EngineError: no memory"
    assert failed.values()["detection.no_boxes_means_free"] == "false"


def test_events_have_no_form_that_blinds():
    none = EventPacket(*(np.zeros(0, t) for t in (np.uint16, np.uint16, bool, np.int64)), 4, 4, T, "ev")
    rgb = ImageFrame(np.zeros((4, 4, 3), np.uint8), T, "cam")
    bundle = SensorBundle(T, "rgb", {"rgb": rgb, "events": none})
    assert segmentation_sight(Observation(bundle, Calibration({}, {}, {})), "events").mode == "full"


@pytest.mark.parametrize(("returns", "free"), [(4000, True), (1300, True), (1100, False), (100, False)])
def test_a_sweep_that_has_lost_most_of_its_returns_says_nothing_of_a_free_road(returns, free):
    cloud = sweep(n=returns)
    seen = Health("", 0, cover(cloud.xyz), "", 4000)
    sight = detection_sight(observe(cloud, health={LIDAR: seen}), TAPS, RIG)
    assert sight.no_boxes_means_free == free
    assert (f"{LIDAR}.thin" in sight.degraded) != free


@pytest.mark.parametrize(
    ("degraded", "lost", "expected"),
    [
        ({}, {"out_of_range": 40}, []),
        ({}, {"out_of_range": 60}, [f"{LIDAR}.range"]),
        ({"capacity.over_cells": "9 points were lost"}, {}, ["capacity.over_cells"]),
        ({f"{LIDAR}.empty": "no point"}, {}, [f"{LIDAR}.empty"]),
        ({"cam_back.missing": "no image"}, {"over_pillar": 90}, []),
    ],
)
def test_points_that_do_not_reach_the_network_are_not_seen(degraded, lost, expected):
    assert list(unseen_by_the_network(degraded, lost, 100, LIDAR)) == expected
