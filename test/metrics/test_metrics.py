from __future__ import annotations

import json

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.metrics.latency import LatencyLog, StageClock
from mm_perception.metrics.segmentation import ConfusionMatrix


def test_perfect_and_half_right():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8))
    assert matrix.scores().miou == 1.0
    matrix.add(np.array([[0, 0]], np.uint8), np.array([[1, 255]], np.uint8)[:, :1].repeat(2, 1))
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou, [1 / 3, 1 / 3, np.nan])
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == 0.5


def test_rows_are_the_truth():
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8))
    assert matrix.counts.tolist() == [[1, 2], [0, 1]]
    np.testing.assert_allclose(matrix.scores().accuracy, [1 / 3, 1])
    np.testing.assert_allclose(matrix.scores().iou, [1 / 3, 1 / 3])


def test_ignored_pixels_do_not_count():
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[255, 1]], np.uint8), np.array([[0, 1]], np.uint8))
    assert matrix.counts.tolist() == [[0, 0], [0, 1]]


def test_nothing_counted_is_nan():
    scores = ConfusionMatrix(2).scores()
    assert np.isnan(scores.miou)
    assert np.isnan(scores.pixel_accuracy)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [([[0]], [[0, 1]], "shape"), ([[2]], [[0]], "label id 2"), ([[0]], [[7]], "prediction id 7")],
)
def test_unusable_images_are_refused(truth, predicted, expected):
    with pytest.raises(DataError, match=expected):
        ConfusionMatrix(2).add(np.array(truth, np.uint8), np.array(predicted, np.uint8))


@pytest.mark.parametrize("network", ["pred_mfnet", "pred_fusenet", "pred_rtfnet152"])
def test_published_predictions_have_the_published_miou(shared_dir, network):
    folder = shared_dir / "data" / "rgbt_rtfnet_demo"
    expected = json.loads((folder / "expected_miou.json").read_text())[network]
    with np.load(folder / "tiles.npz") as tiles:
        truth, predicted = tiles["gt"], tiles[network]
        matrix = ConfusionMatrix(9)
        for t, p in zip(truth, predicted, strict=True):
            both = (t != 255) & (p != 255)
            matrix.add(np.where(both, t, 255).astype(np.uint8), np.where(both, p, 0).astype(np.uint8))
    assert matrix.counts.tolist() == expected["confusion_rows_gt"]


def test_latency_quantiles():
    log = LatencyLog(keep=100)
    for value in range(200):
        log.add({"stage": float(value)})
    summary = log.summary()["stage"]
    assert (summary.count, summary.max_ms, summary.median_ms) == (100, 199.0, 149.5)
    clock = StageClock()
    with clock.measure("a"), clock.measure("b"):
        pass
    assert list(clock.stage_ms) == ["b", "a"]
