"""Sensor models against closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.geometry.camera import CameraModel
from mm_perception.sim.cameras import (
    ELECTRONS_PER_CDM2_S,
    FULL_WELL,
    LARGEST_GAIN,
    LONGEST_S,
    READ_NOISE,
    Exposure,
    camera_rays,
    choose_exposure,
    develop,
    smear,
)
from mm_perception.sim.conditions import make_environment
from mm_perception.sim.depth_camera import BASELINE_M, DISPARITY_NOISE_PX, FARTHEST_M, SUBPIXEL, measure_depth
from mm_perception.sim.event_camera import EventCamera
from mm_perception.sim.lidar_sensor import LidarModel, measure_sweep
from mm_perception.sim.light import low_beam
from mm_perception.sim.mesh import box, merge, quad
from mm_perception.sim.scene import Scene
from mm_perception.sim.surfaces import Surface, SurfaceTable
from mm_perception.sim.thermal_camera import ThermalCamera, band_radiance, counts_of, kelvin_of
from mm_perception.sim.world import Snapshot

CLEAR = make_environment("day", np.random.default_rng(0))
CAMERA = CameraModel(64, 48, np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]), np.zeros(0), "", "camera")


def scene_of(mesh, table):
    return Scene(Snapshot(0.0, mesh, (), np.zeros((0, 4)), ()), table.arrays)


# Geometry


def test_rays_go_through_the_pixels_that_project_their_points():
    rays = camera_rays(CAMERA).astype(np.float64)
    pixels, depth = CAMERA.project(rays * 7.0)
    v, u = np.mgrid[:48, :64]
    np.testing.assert_allclose(pixels, np.stack([u.ravel(), v.ravel()], axis=1), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1.0, atol=1e-6)
    assert (depth > 0).all()


def test_range_to_a_plane_is_its_distance_over_the_cosine():
    table = SurfaceTable()
    wall = table.add(Surface(2, (0.5, 0.5, 0.5)))
    scene = scene_of(quad([(20, -50, -50), (20, 50, -50), (20, 50, 50), (20, -50, 50)], wall), table)
    angle = np.linspace(-1.0, 1.0, 41)
    rays = np.stack([np.cos(angle), np.sin(angle), np.zeros(41)], axis=1).astype(np.float32)
    hits = scene.cast(np.zeros(3), rays)
    np.testing.assert_allclose(hits.range_m, 20.0 / np.cos(angle), rtol=1e-5)
    np.testing.assert_allclose(hits.normals, np.tile([-1.0, 0, 0], (41, 1)), atol=1e-6)
    np.testing.assert_allclose(hits.points[:, 0], 20.0, rtol=1e-5)


def test_a_point_behind_a_box_is_shaded_and_one_beside_it_is_not():
    table = SurfaceTable()
    row = table.add(Surface(0, (0.5, 0.5, 0.5)))
    ground = quad([(-50, -50, 0), (50, -50, 0), (50, 50, 0), (-50, 50, 0)], row)
    scene = scene_of(merge([ground, box((0, 0, 1), (2, 2, 2), row)]), table)
    down = np.array([[0, 0, -1.0]] * 2, np.float32)
    hits = scene.cast(np.array([[3.0, 0, 5], [8.0, 0, 5]]), down)
    sun = np.array([-1.0, 0.0, 1.0]) / np.sqrt(2.0)  # 45 degrees: the shadow of 2 m reaches 2 m from the edge at x = 1
    np.testing.assert_array_equal(scene.shaded(hits, np.arange(2), sun), [False, False])
    hits = scene.cast(np.array([[1.5, 0, 5], [2.9, 0, 5]]), down)
    np.testing.assert_array_equal(scene.shaded(hits, np.arange(2), sun), [True, True])


# RGB


def test_picture_of_a_grey_card_has_its_exposed_level_and_shot_noise():
    exposure = Exposure(1e-3, 1.0)
    luminance = np.full((120, 160, 3), 0.3 * FULL_WELL / (ELECTRONS_PER_CDM2_S * 1e-3), np.float32)
    env = make_environment("night", np.random.default_rng(0))
    picture = develop(luminance, exposure, env, np.random.default_rng(1)).astype(np.float64) / 255
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    assert linear.mean() == pytest.approx(0.3, rel=0.01)
    expected = np.sqrt(0.3 * FULL_WELL + READ_NOISE**2) / FULL_WELL
    assert linear.std() == pytest.approx(expected, rel=0.12)


def test_exposure_control_lengthens_before_it_amplifies_and_stops():
    times = [choose_exposure(np.full((40, 40, 3), level, np.float32)) for level in (1e4, 50.0, 5.0, 2.0, 1e-3)]
    assert times[0].gain == 1.0 and times[0].time_s < 1e-3
    assert times[1].gain == 1.0
    assert times[3].time_s == LONGEST_S and 1.0 < times[2].gain < times[3].gain < LARGEST_GAIN
    assert times[4].time_s == LONGEST_S and times[4].gain == LARGEST_GAIN
    assert all(a.time_s <= b.time_s for a, b in pairwise(times))


def test_motion_blur_spreads_an_edge_over_the_motion():
    picture = np.zeros((20, 60, 3), np.float32)
    picture[:, 30:] = 1.0
    motion = np.zeros((20, 60, 2), np.float32)
    motion[..., 0] = 8.0
    row = smear(picture, motion)[10, :, 0]
    rising = np.nonzero((row > 0.02) & (row < 0.98))[0]
    assert 6 <= len(rising) <= 9 and abs(rising.mean() - 29.5) < 1
    np.testing.assert_array_equal(smear(picture, motion * 0.01), picture)


def test_low_beam_is_dark_above_the_horizon_and_straight_ahead_brightest():
    slope = np.array([0.2, -0.02, -0.02], np.float32)
    share = low_beam(np.array([0.0, 0.0, 1.5], np.float32), slope)
    assert share[0] == pytest.approx(0.03, abs=1e-3) and share[1] > 0.8 and share[2] < 0.1 * share[1]


# Depth


@pytest.mark.parametrize("distance_m", [8.0, 16.0, 32.0])
def test_depth_noise_grows_with_the_square_of_the_distance(distance_m):
    focal = 480.0
    bright, matt = np.full((200, 200), 1e5, np.float32), np.zeros((200, 200), np.float32)
    true = np.full((200, 200), distance_m, np.float32)
    measured = measure_depth(true, focal, bright, matt, CLEAR, np.random.default_rng(2))
    disparity_px = np.hypot(DISPARITY_NOISE_PX, SUBPIXEL / np.sqrt(12))
    expected = disparity_px * distance_m**2 / (focal * BASELINE_M)
    assert np.nanstd(measured) == pytest.approx(expected, rel=0.08)
    assert np.nanmean(measured) == pytest.approx(distance_m, rel=0.01)


def test_depth_has_holes_in_sky_beyond_reach_on_glass_in_the_dark_and_beside_near_edges():
    size = (60, 200)
    bright, matt = np.full(size, 1e5, np.float32), np.zeros(size, np.float32)

    def missing(z, electrons=bright, gloss=matt):
        return np.isnan(measure_depth(z.astype(np.float32), 480.0, electrons, gloss, CLEAR, np.random.default_rng(3)))

    plane = np.full(size, 10.0)
    assert missing(plane).mean() < 0.02
    assert missing(np.full(size, np.inf)).all()
    assert missing(np.full(size, 3 * FARTHEST_M)).mean() > 0.95
    assert 0.45 < missing(plane, gloss=np.ones(size, np.float32)).mean() < 0.65
    assert missing(plane, electrons=np.full(size, 0.5, np.float32)).mean() > 0.5
    edge = np.full(size, 20.0)
    edge[:, 100:] = 5.0  # near on the right: the right camera does not see what lies just left of the edge
    holes = missing(edge).mean(axis=0)
    width = round(480.0 * BASELINE_M * (1 / 5.0 - 1 / 20.0))
    assert holes[100 - width + 2 : 99].min() > 0.9 and holes[: 100 - width - 2].mean() < 0.05


# Thermal


@pytest.mark.parametrize("kelvin", [255.0, 288.15, 310.0, 350.0])
def test_counts_and_temperature_are_inverse(kelvin):
    assert kelvin_of(counts_of(kelvin)) == pytest.approx(kelvin, abs=1e-6)


def test_black_body_gives_the_counts_of_its_temperature_with_netd_and_fixed_pattern():
    camera = ThermalCamera(160, 120, np.random.default_rng(0))
    scene = np.full((120, 160), band_radiance(300.0), np.float32)
    frames = np.stack([camera.measure(scene, np.random.default_rng(i)) for i in range(1, 30)]).astype(np.float64)
    assert frames.max() < 2**14
    kelvin = kelvin_of(frames)
    assert kelvin.mean() == pytest.approx(300.0, abs=0.03)
    assert kelvin.std(axis=0).mean() == pytest.approx(0.05, rel=0.1), "noise in time"
    assert kelvin.mean(axis=0).std() == pytest.approx(0.1, rel=0.3), "pattern that stays"


# Events


def expose_step(ratio, **settings):
    camera = EventCamera(
        40, 30, "c", np.random.default_rng(0), **{"mismatch": 0.0, "background_hz": 0.0, "refractory_ns": 0,
        "dark_cdm2": 0.0, "threshold": 0.2, "read_out_ns": 1} | settings
    )  # fmt: skip
    first = camera.expose(np.full((30, 40), 100.0, np.float32), 1_000_000)
    assert len(first) == 0
    return camera.expose(np.full((30, 40), 100.0 * ratio, np.float32), 11_000_000)


@pytest.mark.parametrize(("steps", "polarity"), [(3, True), (-4, False), (0, True)])
def test_a_known_step_of_brightness_gives_one_event_per_threshold(steps, polarity):
    packet = expose_step(np.exp(0.2 * (abs(steps) + 0.5) * np.sign(steps)))
    assert len(packet) == abs(steps) * 40 * 30
    assert (packet.polarity == polarity).all()
    if steps:
        times = np.unique(packet.t_ns)
        share = (np.arange(abs(steps)) + 1) / (abs(steps) + 0.5)
        np.testing.assert_allclose(times, 1_000_000 + share * 10_000_000, atol=200)


def test_refractory_time_loses_events_and_mismatch_spreads_their_number():
    ratio = float(np.exp(0.2 * 4.5))
    slow = expose_step(ratio, refractory_ns=3_000_000)
    assert len(slow) == 2 * 40 * 30, "of four events 2.2 ms apart, each second one finds its pixel asleep"
    one = slow.t_ns[(slow.x == 7) & (slow.y == 9)]
    np.testing.assert_allclose(one, 1_000_000 + np.array([1, 3]) / 4.5 * 10_000_000, atol=200)
    spread = expose_step(ratio, mismatch=0.2)
    count = np.bincount(spread.y.astype(int) * 40 + spread.x, minlength=1200)
    assert count.std() > 0.5 and count.mean() == pytest.approx(4.3, abs=0.5)


def test_background_events_come_at_their_rate():
    camera = EventCamera(100, 100, "c", np.random.default_rng(0), background_hz=2.0)
    grey = np.full((100, 100), 50.0, np.float32)
    camera.expose(grey, 0)
    counted = [len(camera.expose(grey, (i + 1) * 50_000_000)) for i in range(20)]
    assert np.sum(counted) == pytest.approx(2.0 * 100 * 100 * 1.0, rel=0.05)


def test_event_times_are_those_of_the_read_out_and_ordered():
    packet = expose_step(2.0, mismatch=0.1, read_out_ns=100_000)
    assert (np.diff(packet.t_ns) >= 0).all()
    assert (packet.t_ns[packet.t_ns < 10_999_999] % 100_000 == 0).all()


def test_time_must_go_on():
    camera = EventCamera(4, 4, "c", np.random.default_rng(0))
    camera.expose(np.ones((4, 4), np.float32), 5)
    with pytest.raises(DataError, match="not after"):
        camera.expose(np.ones((4, 4), np.float32), 5)


# LiDAR


def wall_sweep(env, **surface):
    """A LiDAR in the middle of a tube-like room of eight-sided walls 15 m away."""
    table = SurfaceTable()
    row = table.add(Surface(2, (0.5, 0.5, 0.5), **({"laser": 0.5} | surface)))
    scene = scene_of(quad([(15, -80, -80), (15, 80, -80), (15, 80, 80), (15, -80, 80)], row), table)
    model = LidarModel()
    rays = model.rays()
    hits = scene.cast(np.zeros(3), rays)
    offsets = model.offsets_ns(100_000_000)
    generator = np.random.default_rng(1)
    cloud, kept, in_air = measure_sweep(model, rays, hits, table.arrays, env, offsets, 7, "lidar", generator)
    away = np.abs(np.linalg.norm(cloud.xyz, axis=1) - hits.range_m[kept]) > 0.2
    assert (in_air[away] if away.any() else ~in_air).all(), "what is not at its target came from the air, and is told"
    return model, cloud, kept, rays


def test_lidar_range_to_a_plane_with_its_noise_and_dropout():
    model, cloud, kept, rays = wall_sweep(CLEAR)
    true = 15.0 / rays[kept, 0]
    measured = np.linalg.norm(cloud.xyz, axis=1)
    assert (measured - true).std() == pytest.approx(model.range_noise_m, rel=0.05)
    assert (measured - true).mean() == pytest.approx(0.0, abs=0.001)
    near = (rays[:, 0] > 0.5) & (15.0 / np.maximum(rays[:, 0], 1e-6) < 30)
    assert np.isin(np.nonzero(near)[0], kept).mean() == pytest.approx(1 - model.dropout, abs=0.01)


def test_lidar_has_32_beams_and_the_time_of_each_column():
    model, cloud, kept, rays = wall_sweep(CLEAR)
    assert model.rings == 32 and cloud.ring.max() < 32
    elevation = np.degrees(np.arcsin(rays[kept, 2]))
    np.testing.assert_allclose(elevation, np.linspace(-30.67, 10.67, 32)[cloud.ring], atol=1e-3)
    assert cloud.offset_ns.min() >= 0 and cloud.offset_ns.max() < 100_000_000
    azimuth = np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])
    np.testing.assert_allclose(azimuth, np.pi - 2 * np.pi * cloud.offset_ns / 1e8, atol=1e-4)


def test_dark_walls_return_less_and_reflectors_saturate():
    _, bright, _, _ = wall_sweep(CLEAR, laser=0.8)
    _, dark, _, _ = wall_sweep(CLEAR, laser=0.01)
    _, plate, _, _ = wall_sweep(CLEAR, laser=0.9, retro=40.0)
    assert len(dark) < 0.8 * len(bright) and dark.intensity.mean() < 0.1 * bright.intensity.mean()
    assert np.median(plate.intensity) > 230


def test_fog_returns_come_from_the_air_and_far_walls_are_lost():
    fog = make_environment("fog", np.random.default_rng(0), fog_visibility_m=40.0)
    _, clear, _, _ = wall_sweep(CLEAR, laser=0.3)
    _, foggy, kept, rays = wall_sweep(fog, laser=0.3)
    before = np.linalg.norm(foggy.xyz, axis=1) < 14.0
    behind = rays[kept, 0] < 0.1  # nothing but air there
    assert before.mean() > 0.05 and behind.any()
    assert foggy.intensity[before].max() <= 12
    assert len(foggy.xyz[~before]) < len(clear)
