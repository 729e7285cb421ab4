"""Targets, assignment and losses of the detector: closed forms, and the published numbers."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

from mm_perception.core.detector import Plane  # noqa: E402
from mm_perception.core.errors import DataError  # noqa: E402
from mm_perception.models.deepinteraction.boxes import RawBoxes, middle_and_size  # noqa: E402
from mm_perception.training.detection_losses import (  # noqa: E402
    assign_layer,
    detection_loss,
    focal_loss,
    hill_loss,
    layer_loss,
)
from mm_perception.training.detection_targets import (  # noqa: E402
    Matches,
    TargetGrid,
    TruthBoxes,
    assign,
    encode,
    gaussian_radius,
    heatmap,
)

GRID = TargetGrid((-10.0, -10.0, -3.0, 10.0, 10.0, 3.0), (40, 40))
PLANE = Plane((-10.0, -10.0), (0.5, 0.5))


def truth(*rows):
    """Rows of x, y, z, l, w, h, yaw, vx, vy, label."""
    table = np.array(rows, np.float64).reshape(-1, 10)
    return TruthBoxes(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7:9], table[:, 9].astype(np.int64))


def raw_of(boxes, classes=3, certain=4.0):
    """What the heads would say of these boxes."""
    code = torch.from_numpy(encode(boxes, GRID)).t()[None]
    heat = torch.full((1, classes, len(boxes)), -certain)
    heat[0, torch.from_numpy(boxes.labels), torch.arange(len(boxes))] = certain
    return RawBoxes(code[:, :2], code[:, 2:3], code[:, 3:6], code[:, 6:8], code[:, 8:], heat)


CAR = (3.0, -2.0, 0.5, 4.0, 2.0, 1.5, 0.4, 5.0, 1.0, 0)
WALKER = (-4.0, 6.0, 0.0, 0.6, 0.6, 1.8, -1.0, 0.0, 1.0, 2)


def test_boxes_survive_the_way_through_the_heads():
    boxes = truth(CAR, WALKER)
    middle, size, yaw = middle_and_size(raw_of(boxes), PLANE)
    np.testing.assert_allclose(middle[0].numpy(), boxes.centers, atol=1e-5)
    np.testing.assert_allclose(size[0].numpy()[:, [1, 0, 2]], boxes.sizes_lwh, atol=1e-5)
    heading = -yaw[0].numpy() - np.pi / 2
    np.testing.assert_allclose(np.cos(heading - boxes.yaw_rad), 1.0, atol=1e-6)


def test_heatmap_is_one_at_centres_and_falls_off():
    hills = heatmap(truth(CAR, WALKER), GRID, 3)
    assert hills.shape == (3, 40, 40) and np.argwhere(hills == 1.0).tolist() == [[0, 16, 26], [2, 32, 12]]
    assert hills[1].max() == 0 and 0 < hills[0, 16, 28] < hills[0, 16, 27] < 1


def test_hills_at_and_beyond_the_edge():
    at_edge = heatmap(truth((-9.99, 9.99, 0, 4, 2, 1, 0, 0, 0, 1)), GRID, 2)
    assert at_edge[1, 39, 0] == 1.0
    beyond = heatmap(truth((-10.6, 0.0, 0, 4, 2, 1, 0, 0, 0, 0), (50.0, 0.0, 0, 4, 2, 1, 0, 0, 0, 0)), GRID, 1)
    assert 0 < beyond.max() < 1 and beyond[0, :, 10:].max() == 0


def test_each_box_gets_the_query_that_fits_it():
    boxes = truth(CAR, WALKER)
    predicted = truth(WALKER, (0, 0, 0, 1, 1, 1, 0, 0, 0, 0), CAR)
    match = assign(np.zeros((3, 3)), predicted, boxes, GRID)
    assert dict(zip(match.truth.tolist(), match.query.tolist(), strict=True)) == {0: 2, 1: 0}
    np.testing.assert_allclose(match.iou, 1.0, atol=1e-9)


def test_class_decides_between_equal_places():
    boxes = truth(CAR)
    logits = np.array([[-3.0, 3.0], [3.0, -3.0], [0, 0]])
    assert assign(logits, truth(CAR, CAR), boxes, GRID).query.tolist() == [1]


def test_nothing_to_assign_and_predictions_that_are_not_finite():
    assert len(assign(np.zeros((3, 0)), truth(), truth(CAR), GRID).query) == 0
    assert len(assign(np.zeros((3, 1)), truth(CAR), truth(), GRID).query) == 0
    with pytest.raises(DataError, match="not finite"):
        assign(np.full((3, 1), np.nan), truth(CAR), truth(CAR), GRID)
    with pytest.raises(DataError, match="yaw_rad"):
        TruthBoxes(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(1), np.zeros((2, 2)), np.zeros(2, np.int64))


def test_a_perfect_answer_costs_next_to_nothing_and_gradients_flow_from_a_wrong_one():
    boxes, kept = truth(CAR, WALKER), [torch.ones(1, 2, dtype=torch.bool)]
    hills = torch.from_numpy(heatmap(boxes, GRID, 3))[None]
    perfect = torch.where(hills == 1.0, 9.0, -9.0)
    loss = detection_loss(perfect, [raw_of(boxes, certain=9.0)], kept, boxes, GRID, PLANE)
    assert float(loss.total) < 1e-2 and loss.iou == pytest.approx(1.0, abs=1e-4)
    wrong = raw_of(truth((2.0, -2.0, 0.5, 4.0, 2.0, 1.5, 0.4, 5.0, 1.0, 0), WALKER))
    wrong = RawBoxes(*(part.clone().requires_grad_() for part in wrong))
    detection_loss(perfect, [wrong], kept, boxes, GRID, PLANE).total.backward()
    assert float(wrong.center.grad[0, 0, 0]) < 0 and float(wrong.center.grad[0, 0, 1]) == 0
    assert all(part.grad is not None for part in wrong)


def test_a_frame_without_boxes_has_a_loss_of_its_own():
    empty = truth()
    raw = RawBoxes(*(part.requires_grad_() for part in raw_of(truth(CAR))))
    loss = detection_loss(torch.zeros(1, 3, 40, 40), [raw], [torch.ones(1, 1, dtype=torch.bool)], empty, GRID, PLANE)
    assert loss.boxes.sum().item() == 0 and loss.classes.sum().item() > 0 and torch.isfinite(loss.total)
    loss.total.backward()


def test_queries_that_left_the_images_are_not_judged():
    boxes, far = truth(CAR, WALKER), raw_of(truth((9, 9, 0, 1, 1, 1, 0, 0, 0, 0), (8, 8, 0, 1, 1, 1, 0, 0, 0, 1)))
    match = Matches(np.array([0, 1]), np.array([0, 1]), np.zeros(2))
    encoded = torch.from_numpy(encode(boxes, GRID))
    _, both = layer_loss(far, torch.tensor([True, True]), match, encoded, boxes.labels)
    _, first = layer_loss(far, torch.tensor([True, False]), match, encoded, boxes.labels)
    _, second = layer_loss(far, torch.tensor([False, True]), match, encoded, boxes.labels)
    assert float(both) == pytest.approx((float(first) + float(second)) / 2)


# The published numbers


def published_truth(boxes, labels):
    b = boxes.double().numpy()
    middle = np.c_[b[:, :2], b[:, 2] + b[:, 5] / 2]
    return TruthBoxes(middle, b[:, [4, 3, 5]], -b[:, 6] - np.pi / 2, b[:, 7:9], labels.long().numpy())


@pytest.fixture(scope="module")
def folder(shared_dir):
    path = shared_dir / "parity" / "deepinteraction"
    if not path.is_dir():
        pytest.skip(f"no DeepInteraction reference data in {path}")
    return path


def load(folder, name):
    return torch.load(folder / f"{name}.pt", weights_only=True)


def test_encoding_equals_the_published_one(folder):
    fixture = load(folder, "box_coder")
    boxes = published_truth(fixture["gt"], torch.zeros(7))
    got = encode(boxes, TargetGrid((-54, -54, -5, 54, 54, 3), (180, 180)))
    np.testing.assert_allclose(got, fixture["encoded"].numpy(), atol=1e-4)


def test_radii_and_hills_equal_the_published_ones(folder):
    fixture = load(folder, "heatmap_targets")
    sizes, wanted = fixture["size_wl_cells"].double().numpy(), fixture["radius_float"].numpy()
    np.testing.assert_allclose([gaussian_radius(s[1], s[0]) for s in sizes], wanted, atol=1e-4)
    count = len(sizes)
    places = fixture["centers_xy_cells"].double().numpy() * 0.6 - 54
    boxes = TruthBoxes(
        np.c_[places, np.zeros(count)], np.c_[sizes[:, ::-1] * 0.6, np.ones(count)], np.zeros(count),
        np.zeros((count, 2)), fixture["classes"].long().numpy(),
    )  # fmt: skip
    hills = heatmap(boxes, TargetGrid((-54, -54, -5, 54, 54, 3), (180, 180)), 10)
    np.testing.assert_allclose(hills, fixture["heatmap_nz"].to_dense().numpy(), atol=1e-6)


def test_losses_equal_the_published_ones(folder):
    """For the published assignment. It is ours in the first two layers.

    Of the last layer the class loss alone is compared: its published box loss and assignment do not follow from the
    published answers.
    """
    fixture = load(folder, "decoder_pp")
    grid, plane = TargetGrid((-54, -54, -5, 54, 54, 3), (36, 36)), Plane((-54.0, -54.0), (3.0, 3.0))
    boxes, outputs = published_truth(fixture["gt_boxes"], fixture["gt_labels"]), fixture["outputs"]
    wanted = fixture["losses"]
    hills = torch.from_numpy(heatmap(boxes, grid, 10))[None]
    assert float(hill_loss(outputs["dense_heatmap"], hills)) == pytest.approx(float(wanted["loss_heatmap"]), rel=1e-5)
    kept = fixture["taps"]["mmpi0_view"][0] >= 0
    encoded = torch.from_numpy(encode(boxes, grid))
    for i in range(4):
        part = slice(i * 60, (i + 1) * 60)
        raw = RawBoxes(*(outputs[name][..., part] for name in RawBoxes._fields))
        labels = fixture["targets"]["labels"][0, part]
        query = (labels < 10).nonzero()[:, 0].numpy()
        box = np.array([boxes.labels.tolist().index(k) for k in labels[query].tolist()])
        if i < 2:
            assert assign_layer(raw, boxes, grid, plane).query.tolist() == query.tolist()
        classes, regression = layer_loss(raw, kept, Matches(query, box, np.zeros(5)), encoded, boxes.labels)
        assert float(classes) == pytest.approx(float(wanted[f"layer_{i}_loss_cls"]), rel=1e-5)
        if i < 3:
            assert float(regression) == pytest.approx(float(wanted[f"layer_{i}_loss_bbox"]), rel=1e-4)


def test_focal_loss_of_one_even_answer():
    expected = 0.25 * 0.25 * np.log(2) + 2 * 0.75 * 0.25 * np.log(2)
    assert float(focal_loss(torch.zeros(3, 1), torch.tensor([[1.0], [0], [0]]))) == pytest.approx(expected)


def test_a_velocity_that_is_not_known_costs_and_teaches_nothing():
    unknown = truth((*CAR[:7], np.nan, np.nan, 0))
    raw = raw_of(truth(CAR))._replace(vel=torch.tensor([[[9.0], [9.0]]], dtype=torch.float64, requires_grad=True))
    kept = torch.ones(1, dtype=torch.bool)
    match = Matches(np.array([0]), np.array([0]), np.ones(1))
    encoded = torch.from_numpy(encode(unknown, GRID)).to(raw.vel)
    _, box_part = layer_loss(raw, kept, match, encoded, unknown.labels)
    box_part.backward()
    assert float(box_part.detach()) == pytest.approx(0.0, abs=1e-5)
    assert (raw.vel.grad == 0).all()
