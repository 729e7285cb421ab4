"""Scenarios, rigs and worlds: what is asked for is there, and impossible things are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import config_dir
from mm_perception.core.rig import load_rig
from mm_perception.sim.rig import simulated_rig
from mm_perception.sim.road import Road
from mm_perception.sim.scenario import Ego, PlacedObject, Scenario, load_scenario
from mm_perception.sim.surfaces import CLASSES
from mm_perception.sim.world import World, overlap, rectangle

EMPTY = Scenario(traffic=0.0, parked=0.0, people=0.0)
SHIPPED = sorted(path.stem for path in (config_dir() / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_scenarios_can_be_built(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert len(World(scenario, 1.0).actors) >= len(scenario.objects)


def test_unknown_keys_and_conditions_are_named(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("condition: foggy\nwheather: rain\nego: {speed: 3}\n")
    with pytest.raises(ConfigError) as error:
        load_scenario(str(path))
    for word in ("foggy", "wheather: unknown key", "ego.speed: unknown key"):
        assert word in str(error.value)


def test_missing_scenario_lists_those_that_exist():
    with pytest.raises(ConfigError, match="city-night"):
        load_scenario("city-knight")


@pytest.mark.parametrize(
    ("objects", "names"),
    [
        (
            (PlacedObject("car", 20.0, 3.0), PlacedObject("truck", 23.0, 3.4)),
            ("objects[1] (truck)", "objects[0] (car)"),
        ),
        ((PlacedObject("pedestrian", 1.5, -1.65),), ("objects[0] (pedestrian)", "the ego vehicle")),
    ],
)
def test_overlapping_objects_are_refused_by_name(objects, names):
    with pytest.raises(ConfigError) as error:
        World(replace(EMPTY, objects=objects))
    assert all(name in str(error.value) for name in names)


def test_overlap_of_turned_rectangles():
    first = rectangle(0, 0, 4, 2, 0)
    assert overlap(first, rectangle(3, 0, 4, 2, 0.3))
    assert not overlap(first, rectangle(2.9, 1.9, 2, 1, -np.pi / 4)), "their boxes overlap, they do not"
    assert not overlap(first, rectangle(4.01, 0, 4, 2, 0))


def test_placed_object_moves_with_its_speed_and_heading():
    world = World(replace(EMPTY, objects=(PlacedObject("pedestrian", 30.0, -4.0, 1.5, 90.0),)))
    before, after = (world.state(world.actors[0], t) for t in (0.0, 2.0))
    across = np.array([-np.sin(world.road.heading(30.0)), np.cos(world.road.heading(30.0))])
    np.testing.assert_allclose(after.center[:2] - before.center[:2], 3.0 * across, atol=1e-6)
    np.testing.assert_allclose(before.velocity, 1.5 * across, atol=1e-9)


def test_same_seed_same_world_and_another_seed_another():
    first, second, other = (World(Scenario(seed=s), 2.0) for s in (4, 4, 5))
    a, b, c = (w.snapshot(1.3) for w in (first, second, other))
    np.testing.assert_array_equal(a.mesh.vertices, b.mesh.vertices)
    assert [o.instance for o in a.objects] == [o.instance for o in b.objects]
    assert a.mesh.vertices.shape != c.mesh.vertices.shape


@pytest.mark.parametrize("style", ["urban", "residential", "rural"])
def test_nobody_drives_through_anybody(style):
    world = World(Scenario(seed=8, style=style), duration_s=6.0)
    for time_s in (0.0, 2.0, 4.0, 6.0):
        driven = np.array([world.ego.at(time_s)[0] - world.ego.s_m, 0.0])
        places = [*(world._footprint(a, time_s) for a in world.actors), world._ego_footprint() + driven]
        centres = np.array([p.mean(axis=0) for p in places])
        for i, corners in enumerate(places):
            near = np.nonzero(np.hypot(*(centres[:i] - centres[i]).T) < 14.0)[0] if i else []
            assert not any(overlap(corners, places[j]) for j in near), f"{i} at {time_s} s"


def test_a_street_has_all_classes_but_trains():
    found: set[str] = set()
    for style, seed in (("urban", 1), ("residential", 2), ("rural", 3), ("urban", 5)):
        rows = World(Scenario(style=style, seed=seed), 2.0).surfaces.arrays.class_id
        found |= {CLASSES[i] for i in rows if i != 255}
    assert found == set(CLASSES) - {"train"}


def test_ego_pose_and_velocity_agree():
    world = World(replace(EMPTY, seed=3, ego=Ego(speed_mps=10.0)), 5.0)
    step = 0.01
    before, after = world.ego_pose(2.0 - step), world.ego_pose(2.0 + step)
    speed, yaw_rate = world.ego_velocity(2.0)
    assert np.linalg.norm(after.translation - before.translation) / (2 * step) == pytest.approx(speed, rel=0.01)
    assert speed == pytest.approx(10.0, rel=0.03)
    turned = np.arctan2(after.rotation[1, 0], after.rotation[0, 0]) - np.arctan2(
        before.rotation[1, 0], before.rotation[0, 0]
    )
    assert turned / (2 * step) == pytest.approx(yaw_rate, abs=0.02)


def test_road_places_follow_its_heading():
    road = Road(200.0, bend_rad=0.2, wave_m=300.0, phase_rad=1.0)
    assert road.place(0.0, 0.0) == pytest.approx((0.0, 0.0), abs=1e-9)
    here, ahead, left = (np.array(road.place(*at)) for at in ((80.0, 0.0), (80.5, 0.0), (80.0, 1.0)))
    direction = np.array([np.cos(road.heading(80.0)), np.sin(road.heading(80.0))])
    np.testing.assert_allclose((ahead - here) / 0.5, direction, atol=0.01)
    np.testing.assert_allclose(left - here, (-direction[1], direction[0]), atol=1e-6)


# Rigs


def test_ground_reaches_beyond_every_place_of_a_long_winding_road():
    road = Road(9000.0, bend_rad=0.25, wave_m=300.0, phase_rad=2.0)
    (x0, y0), (x1, y1) = road.bounds(100.0)
    places = road.places(np.linspace(-100, 9000, 50), np.full(50, 60.0))
    assert np.ptp(places[:, 1]) > 1500
    assert (places > (x0, y0)).all() and (places < (x1, y1)).all()


def test_shipped_rig_has_the_head_six_cameras_and_a_lidar():
    rig = simulated_rig(load_rig("sim"))
    head, *round_the_car = rig.cameras
    assert head.sensor.name == "rgb" and set(head.others) == {"depth", "thermal", "events"}
    assert (head.model.width, head.model.height) == (640, 480)
    assert len(round_the_car) == 6 and len(rig.lidars) == 1
    assert {(c.model.width, c.model.height) for c in round_the_car} == {(448, 256)}
    looks = {c.sensor.name: c.base_from_camera.rotation[:, 2] for c in rig.cameras}
    np.testing.assert_allclose(looks["cam_front"], (1, 0, 0), atol=1e-9)
    np.testing.assert_allclose(looks["cam_back"], (-1, 0, 0), atol=1e-9)
    assert looks["cam_front_left"][1] > 0.5 and looks["rgb"][2] < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("width_px: 640, height_px: 480, focal_px: 480.0", "width_px: 640, height_px: 480"), "rgb: no intrinsics"),
        (("mount: {frame_id: lidar, xyz_m: [0.95, 0.0, 1.84]}", "tolerance_ms: 60"), "lidar: no mount"),
        (("required: false, mount: *head}", "required: false}"), "needs the mount of an RGB camera"),
    ],
)
def test_rig_that_cannot_be_simulated_says_why(tmp_path, change, message):
    text = (config_dir() / "rigs" / "demo.yaml").read_text().replace("offset_ms: -100, tolerance_ms: 60,", "")
    assert change[0] in text
    path = Path(tmp_path / "rig.yaml")
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=message):
        simulated_rig(load_rig(str(path)))


def test_rig_of_a_real_vehicle_is_refused_with_all_problems():
    with pytest.raises(ConfigError) as error:
        simulated_rig(load_rig("nuscenes"))
    assert "cam_front: no mount" in str(error.value) and "lidar_top: no mount" in str(error.value)
