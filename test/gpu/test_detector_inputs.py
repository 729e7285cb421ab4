"""The detector's inputs on a device against those of the host, of the same views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_perception.core.detector import INDEX_INPUTS, VARIANTS, input_shapes
from mm_perception.core.errors import DataError
from mm_perception.sensing.detector_inputs import DetectorEncoder, DetectorView

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.gpu.detector_inputs import GpuDetectorEncoder  # noqa: E402

TINY = VARIANTS["tiny"]
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXACT = (*INDEX_INPUTS, "point_mask", "key_valid", "warp_valid", "seen", "lidar2img")


@pytest.fixture(scope="module")
def host():
    return DetectorEncoder(TINY, *STATISTICS)


@pytest.fixture(scope="session")
def view_of(lidar2img):
    def make(points, present=(True,) * 6, bev_from_lidar=None):
        images = np.random.default_rng(0).integers(0, 256, (6, *TINY.image_size, 3), np.uint8)
        return DetectorView(images, np.array(present), lidar2img, np.asarray(points, np.float32), bev_from_lidar)

    return make


def assert_same(got, expected, sizes=TINY):
    assert got.lost == expected.lost
    assert list(got.tensors) == list(expected.tensors) == list(input_shapes(sizes))
    for name, array in expected.tensors.items():
        tensor = got.tensors[name]
        assert tensor.is_contiguous() and tensor.dtype == torch.from_numpy(array).dtype, name
        assert tuple(tensor.shape) == array.shape, name
        value = tensor.cpu().numpy()
        if name in EXACT:
            np.testing.assert_array_equal(value, array, name)
        else:
            np.testing.assert_allclose(value, array, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("count", [1, 4000, 60_000])
def test_inputs_are_those_of_the_host(device, host, view_of, points_of, count):
    view, encoder = view_of(points_of(count)), GpuDetectorEncoder(TINY, *STATISTICS, device)
    assert_same(encoder.encode(view), host.encode(view))


def test_inputs_of_points_beyond_every_capacity(device, view_of, points_of):
    sizes = replace(TINY, max_pillars=100, max_cells=70, pillar_points=2, cell_points=3, views_per_point=1)
    view = view_of(points_of(5000))
    expected = DetectorEncoder(sizes, *STATISTICS).encode(view)
    assert min(expected.lost.values()) > 0
    assert_same(GpuDetectorEncoder(sizes, *STATISTICS, device).encode(view), expected, sizes)


@pytest.mark.parametrize("points", [np.zeros((0, 5)), np.full((7, 5), np.nan), np.full((7, 5), 1e6)])
def test_inputs_of_clouds_without_a_usable_point(device, host, view_of, points):
    encoder = GpuDetectorEncoder(TINY, *STATISTICS, device)
    assert_same(encoder.encode(view_of(points)), host.encode(view_of(points)))


@pytest.mark.parametrize("present", [(False,) * 6, (True, False, True, True, False, True)])
def test_inputs_with_missing_cameras(device, host, view_of, points_of, present):
    view, encoder = view_of(points_of(3000), present), GpuDetectorEncoder(TINY, *STATISTICS, device)
    view.lidar2img.flags.writeable = False  # what a missing camera's says must not be looked at, nor changed
    assert_same(encoder.encode(view), host.encode(view))


def test_inputs_of_a_ground_that_was_moved(device, host, view_of, points_of, augmentation):
    points = points_of(4000)
    points[:, :3] = points[:, :3] @ augmentation[:3, :3].T + augmentation[:3, 3]
    view = view_of(points, bev_from_lidar=augmentation)
    assert_same(GpuDetectorEncoder(TINY, *STATISTICS, device).encode(view), host.encode(view))


def test_pictures_with_blue_first(device, host, view_of, points_of):
    view = view_of(points_of(100))
    view = replace(view, images=view.images[..., ::-1])
    assert_same(GpuDetectorEncoder(TINY, *STATISTICS, device).encode(view), host.encode(view))


def test_a_calibration_that_changes_is_followed_and_one_that_stays_is_kept(device, host, view_of, points_of):
    encoder = GpuDetectorEncoder(TINY, *STATISTICS, device)
    first = view_of(points_of(50))
    turned = replace(first, lidar2img=first.lidar2img[[1, 2, 3, 4, 5, 0]])
    before = encoder.encode(first).tensors["rays"]
    assert encoder.encode(first).tensors["rays"] is before
    assert_same(encoder.encode(turned), host.encode(turned))


WAITING = {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2", "aten::bincount"}
"""Operators whose results the host must know before it can go on."""


def test_the_host_waits_for_the_counts_alone(view_of, points_of, augmentation, one_thread):
    from torch.profiler import profile

    encoder = GpuDetectorEncoder(TINY, *STATISTICS, torch.device("cpu"))
    view = view_of(points_of(4000), bev_from_lidar=augmentation)
    with profile() as seen:
        encoder.encode(view)
    names = [event.name for event in seen.events()]
    assert "aten::sort" in names
    assert not WAITING & set(names)


def test_other_shapes_are_refused(device, view_of, points_of):
    encoder = GpuDetectorEncoder(TINY, *STATISTICS, device)
    with pytest.raises(DataError, match="images: expected"):
        encoder.encode(replace(view_of(points_of(5)), images=np.zeros((6, 8, 8, 3), np.uint8)))
