"""Voxel grids on a device against those of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.core.types import EventPacket
from mm_perception.sensing import events as host

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.events import event_image, voxel_grid  # noqa: E402

START_NS, END_NS = 1_700_000_000_000_000_000, 1_700_000_000_050_000_000


def packet(count, width=40, height=30, seed=0):
    generator = np.random.default_rng(seed)
    t_ns = np.sort(generator.integers(START_NS - 5_000_000, END_NS + 5_000_000, count))
    x, y = (generator.integers(0, size, count).astype(np.uint16) for size in (width, height))
    return EventPacket(x, y, generator.random(count) < 0.5, t_ns, width, height, END_NS, "events")


@pytest.mark.parametrize("bins", [2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 500, 30_000])
def test_grid_is_that_of_the_host(device, count, bins):
    got = voxel_grid(packet(count), START_NS, END_NS, device, bins)
    expected = host.voxel_grid(packet(count), START_NS, END_NS, bins)
    assert got.shape == expected.shape and got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 500, 30_000])
def test_image_is_that_of_the_host(device, count):
    got = event_image(packet(count), START_NS, END_NS, device).permute(1, 2, 0).cpu().numpy()
    expected = host.event_image(packet(count), START_NS, END_NS)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got == 0, expected == 0)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_events_at_both_ends_and_of_one_strength(device):
    t_ns = np.array([START_NS - 1, START_NS, END_NS, END_NS + 1])
    places = np.arange(4).astype(np.uint16)
    one = EventPacket(places, places, np.array([True, True, False, True]), t_ns, 4, 4, END_NS, "events")
    got = voxel_grid(one, START_NS, END_NS, device).cpu().numpy()
    assert np.argwhere(got).tolist() == [[0, 1, 1], [2, 2, 2]]
    assert (got[0, 1, 1], got[2, 2, 2]) == (1.0, -1.0)
    same = EventPacket(places, places, np.ones(4, bool), np.full(4, START_NS), 4, 4, END_NS, "events")
    image = event_image(same, START_NS, END_NS, device).cpu().numpy()
    assert image.sum() == 4.0 and (image[0][places, places] == 1.0).all(), "their sign, for there is no spread"


def test_highest_coordinates_are_kept(device):
    far = np.array([65_534], np.uint16)
    one = EventPacket(far, np.zeros(1, np.uint16), np.ones(1, bool), np.array([START_NS]), 65_535, 1, END_NS, "events")
    assert voxel_grid(one, START_NS, END_NS, device)[0, 0, 65_534] == 1.0


def test_windows_without_a_length_are_refused(device):
    with pytest.raises(DataError, match="makes no sense"):
        voxel_grid(packet(5), END_NS, END_NS, device)
    with pytest.raises(DataError, match="makes no sense"):
        voxel_grid(packet(5), START_NS, END_NS, device, bins=1)
