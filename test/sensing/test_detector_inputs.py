"""The detector's inputs: shapes that are promised, and inputs that lack something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mm_perception.core.detector import VARIANTS, input_shapes
from mm_perception.core.errors import DataError
from mm_perception.sensing.detector_inputs import DetectorEncoder, DetectorView

TINY = VARIANTS["tiny"]
ENCODER = DetectorEncoder(TINY, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def cameras():
    """Six cameras round the LiDAR, 60 degrees apart."""
    height, width = TINY.image_size
    out = []
    for i in range(6):
        cos, sin = np.cos(i * np.pi / 3), np.sin(i * np.pi / 3)
        axes = np.array([[sin, -cos, 0], [0, 0, -1.0], [cos, sin, 0]])
        k = np.array([[width / 1.2, 0, width / 2], [0, width / 1.2, height / 2], [0, 0, 1]])
        matrix = np.eye(4)
        matrix[:3, :3] = k @ axes
        out.append(matrix)
    return np.stack(out)


def view(points):
    images = np.random.default_rng(0).integers(0, 256, (6, *TINY.image_size, 3), np.uint8)
    return DetectorView(images, np.ones(6, bool), cameras(), np.asarray(points, np.float32))


def street(count=4000):
    generator = np.random.default_rng(1)
    ground = np.c_[generator.uniform(-60, 60, (count, 2)), generator.normal(-1.8, 0.1, count)]
    return np.c_[ground, generator.uniform(0, 255, count), generator.uniform(0, 0.3, count)]


def test_tensors_have_the_promised_names_order_and_shapes():
    tensors = ENCODER.encode(view(street())).tensors
    assert list(tensors) == list(input_shapes(TINY))
    for name, shape in input_shapes(TINY).items():
        assert tensors[name].shape == shape, name
        assert np.isfinite(tensors[name]).all(), name
        whole = name in ("pillar_cell", "cell_pillar", "lidar_cell_pillar")
        assert tensors[name].dtype == (np.int64 if whole else np.float32), name


def test_tensors_run_through_the_network():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from mm_perception.models.deepinteraction.deploy import DeployedDetector
    from mm_perception.models.deepinteraction.model import DeepInteraction

    torch.manual_seed(0)
    network = DeployedDetector(DeepInteraction(TINY))
    tensors = ENCODER.encode(view(street())).tensors
    with torch.inference_mode():
        outputs = network(*(torch.from_numpy(np.ascontiguousarray(a)) for a in tensors.values()))
    assert all(torch.isfinite(out).all() for out in outputs)


@pytest.mark.parametrize("points", [np.zeros((0, 5)), np.full((7, 5), np.nan), np.full((7, 5), 1e6)])
def test_clouds_without_a_usable_point_give_whole_inputs_and_are_counted(points):
    got = ENCODER.encode(view(points))
    assert got.lost["out_of_range"] == len(points)
    assert got.tensors["point_mask"].sum() == 0 and got.tensors["key_valid"].sum() == 0
    assert (got.tensors["cell_pillar"] == TINY.max_cells).all()
    assert all(np.isfinite(a).all() for a in got.tensors.values())


def test_a_missing_camera_is_dark_and_sees_nothing():
    whole = view(street())
    lacking = replace(whole, present=np.array([True, False, True, True, True, True]))
    tensors, full = ENCODER.encode(lacking).tensors, ENCODER.encode(whole).tensors
    assert (tensors["images"][1] == 0).all() and (tensors["images"][0] == full["images"][0]).all()
    assert tensors["seen"][1].sum() == 0 and tensors["warp_valid"][1].sum() == 0
    assert tensors["key_valid"].sum() < full["key_valid"].sum()
    np.testing.assert_array_equal(tensors["seen"][0], full["seen"][0])


def test_more_points_than_there_is_room_for_are_counted():
    crowd = np.zeros((500, 5))
    crowd[:, 0] = 10.0
    lost = ENCODER.encode(view(crowd)).lost
    assert lost["over_pillar"] == 500 - TINY.pillar_points


def test_calibration_that_changes_is_followed():
    first = view(street(50))
    turned = replace(first, lidar2img=first.lidar2img[[1, 2, 3, 4, 5, 0]])
    before = ENCODER.encode(first).tensors["seen"].copy()
    after = ENCODER.encode(turned).tensors["seen"]
    np.testing.assert_array_equal(after[0], before[1])


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match="images: expected"):
        ENCODER.encode(replace(view(street(5)), images=np.zeros((6, 8, 8, 3), np.uint8)))
