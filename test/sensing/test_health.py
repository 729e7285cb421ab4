from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.types import DepthFrame, EventPacket, ImageFrame, PointCloud, ThermalFrame
from mm_perception.sensing.health import FAR_M, SECTORS, HealthMonitor, condition, content_signature, cover

RNG = np.random.default_rng(5)


def image(pixels: np.ndarray, stamp_ns: int = 1) -> ImageFrame:
    return ImageFrame(np.ascontiguousarray(pixels, np.uint8), stamp_ns, "cam")


def noise(stamp_ns: int = 1, size: tuple[int, int] = (60, 80)) -> ImageFrame:
    return image(RNG.integers(0, 200, (*size, 3)), stamp_ns)


def ring(degrees: np.ndarray, distance_m: float = 20.0, per_degree: int = 3) -> np.ndarray:
    """(N, 3) returns at these azimuths."""
    angle = np.radians(np.repeat(degrees, per_degree)) + 1e-4
    return np.stack([distance_m * np.cos(angle), distance_m * np.sin(angle), np.zeros_like(angle)], 1).astype(
        np.float32
    )


def cloud(xyz: np.ndarray, stamp_ns: int = 1) -> PointCloud:
    return PointCloud(np.ascontiguousarray(xyz, np.float32), stamp_ns, "lidar")


@pytest.mark.parametrize(
    ("measurement", "expected"),
    [
        (noise(), ""),
        (image(np.zeros((60, 80, 3))), "black"),
        (image(np.full((60, 80, 3), 4)), "black"),
        (image(np.full((60, 80, 3), 120)), "blank"),
        (image(np.where(np.arange(6000).reshape(60, 100, 1) % 50 == 0, 10, 255).repeat(3, 2)), "saturated"),
        (ThermalFrame(np.full((4, 5), 300.0, np.float32), "counts", 1, "t"), "blank"),
        (ThermalFrame(np.arange(20, dtype=np.float32).reshape(4, 5), "counts", 1, "t"), ""),
        (DepthFrame(np.full((4, 5), np.nan, np.float32), 1, "d"), "empty"),
        (DepthFrame(np.full((4, 5), 2.0, np.float32), 1, "d"), ""),
        (cloud(np.zeros((0, 3))), "empty"),
        (cloud(np.ones((1, 3))), ""),
    ],
)
def test_what_shows_nothing_is_named(measurement, expected):
    assert condition(measurement) == expected


def test_a_night_scene_with_one_lamp_is_not_black():
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[200:230, 300:330] = 255
    assert condition(image(pixels)) == ""


def test_a_camera_is_frozen_at_the_third_equal_image_and_recovers_at_once():
    monitor, still = HealthMonitor(), noise()
    found = [monitor.look(image(still.image, t)).problem for t in range(1, 5)]
    assert found == ["", "", "frozen", "frozen"]
    assert monitor.look(noise(9)).problem == ""


def test_a_sweep_is_frozen_at_the_fourth_equal_one():
    monitor = HealthMonitor()
    xyz = ring(np.arange(360))
    found = [monitor.look(cloud(xyz, t)) for t in (1, 2, 3, 4)]
    assert [h.problem for h in found] == ["", "", "", "frozen"] and [h.repeats for h in found] == [0, 1, 2, 3]
    moved = xyz + RNG.normal(0, 0.01, xyz.shape)
    assert monitor.look(cloud(moved, 3)).problem == ""


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920)])
def test_noise_in_few_pixels_tells_two_images_apart(size):
    first = noise(size=size).image
    other = first.copy()
    rows = RNG.integers(0, size[0], size[0] * size[1] // 100)
    columns = RNG.integers(0, size[1], len(rows))
    other[rows, columns] ^= 1
    assert content_signature(image(first)) == content_signature(image(first.copy(), 7))
    assert content_signature(image(first)) != content_signature(image(other))


def test_no_events_repeat_nothing_and_the_same_events_do():
    def packet(n: int, stamp_ns: int) -> EventPacket:
        x = np.arange(n, dtype=np.uint16)
        return EventPacket(x, x, np.ones(n, bool), np.full(n, stamp_ns, np.int64), 100, 100, stamp_ns, "ev")

    empty, same = HealthMonitor(), HealthMonitor()
    assert [empty.look(packet(0, t)).problem for t in range(1, 9)] == [""] * 8
    assert [same.look(packet(9, t)).problem for t in range(1, 5)] == ["", "", "frozen", "frozen"]


def test_a_whole_turn_covers_all_sectors_up_to_its_range():
    coverage = cover(ring(np.arange(-180, 180), 34.6))
    assert coverage.covered_deg == 360 and coverage.returns == 1080
    np.testing.assert_array_equal(coverage.range_m, np.full(SECTORS, 35.0))


def test_a_cut_turn_covers_its_sectors_alone():
    coverage = cover(ring(np.arange(-20, 40)))
    # Sector i holds the azimuths from -180 + 10 i on.
    assert np.nonzero(coverage.range_m)[0].tolist() == [16, 17, 18, 19, 20, 21]
    assert coverage.covered_deg == 60


def test_near_returns_and_single_ones_cover_nothing_and_few_far_ones_do_not_stretch_the_range():
    assert cover(ring(np.arange(360), 1.0)).covered_deg == 0
    assert cover(ring(np.array([5.0]), per_degree=2)).covered_deg == 0
    mixed = np.concatenate([ring(np.full(100, 5.0), 10.0), ring(np.full(3, 5.0), 180.0)])
    assert cover(mixed).range_m.max() == 11.0


def test_absurd_and_empty_sweeps_are_covered_without_complaint():
    with np.errstate(over="ignore"):
        assert cover(np.array([[3e38, 3e38, 0.0]] * 5, np.float32)).range_m.max() == FAR_M
    assert cover(np.zeros((0, 3), np.float32)).covered_deg == 0


def test_the_usual_number_of_returns_is_the_best_of_late_and_fades():
    monitor = HealthMonitor()
    usual = [monitor.look(cloud(ring(np.arange(n)), t)).usual_returns for t, n in enumerate((100, 360, 10, 10), 1)]
    assert usual[:2] == [300, 1080] and 1070 < usual[3] < usual[2] < 1080


def test_the_same_pixels_at_other_times_are_other_events():
    def packet(spread_ns: int, stamp_ns: int) -> EventPacket:
        x = np.zeros(4, np.uint16)
        return EventPacket(x, x, np.ones(4, bool), stamp_ns + np.arange(4) * spread_ns, 9, 9, stamp_ns, "ev")

    monitor = HealthMonitor()
    assert [monitor.look(packet(1000 + 7 * t, t)).problem for t in range(1, 7)] == [""] * 6
