"""The detection metric: closed forms, the published figures, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mm_perception.cli.main import main
from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import DetectionMetric, ScoredBoxes
from mm_perception.metrics.nuscenes_format import attribute, read_samples, submission


def boxes(*rows, points=None):
    """Rows of x, y, yaw, speed along x, class, score."""
    count = len(rows)
    table = np.array([row[:4] for row in rows], np.float64).reshape(count, 4)
    return ScoredBoxes(
        np.c_[table[:, :2], np.zeros(count)], np.tile([4.0, 2.0, 1.5], (count, 1)), table[:, 2],
        np.c_[table[:, 3], np.zeros(count)], np.array([row[4] for row in rows], dtype=str),
        np.array([row[5] for row in rows], np.float64), np.full(count, "", dtype=object).astype(str),
        np.hypot(table[:, 0], table[:, 1]), None if points is None else np.array(points),
    )  # fmt: skip


def scored(truth, found, **settings):
    metric = DetectionMetric(("car",), **settings)
    metric.add(truth, found)
    return metric.scores()


CARS = tuple((10.0 * i, 3.0, 0.1 * i, 2.0, "car", 0.9) for i in range(4))


def test_perfect_boxes():
    scores = scored(boxes(*CARS, points=[5] * 4), boxes(*CARS))
    assert scores.mean_ap == pytest.approx(1.0)
    assert all(
        scores.errors[e] == pytest.approx(0.0, abs=1e-9) for e in ("trans_err", "scale_err", "orient_err", "vel_err")
    )


def test_half_found_is_half_the_recall():
    """Precision 1 up to a recall of 0.5: bins 11 to 50 of 11 to 100."""
    scores = scored(boxes(*CARS, points=[5] * 4), boxes(*CARS[:2]))
    assert scores.mean_ap == pytest.approx(40 / 90)


def test_errors_of_a_shifted_and_turned_box():
    shifted = boxes((10.0 + 0.3, 3.0 + 0.4, 0.5, 5.0, "car", 0.9))
    scores = scored(boxes((10.0, 3.0, 0.2, 2.0, "car", 0), points=[1]), shifted)
    assert scores.errors["trans_err"] == pytest.approx(0.5)
    assert scores.errors["orient_err"] == pytest.approx(0.3)
    assert scores.errors["vel_err"] == pytest.approx(3.0)
    expected = pytest.approx({0.5: 0.0, 1.0: 1.0, 2.0: 1.0, 4.0: 1.0})
    assert scores.label_aps["car"] == expected, "strictly nearer than the threshold"


def test_each_true_box_is_found_once_and_doubles_are_wrong():
    scores = scored(boxes(CARS[0], points=[1]), boxes((*CARS[0][:5], 0.9), (*CARS[0][:5], 0.8)))
    assert scores.mean_ap == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9), "it lowers the precision at full recall alone"
    wrong_first = scored(boxes(CARS[0], points=[1]), boxes((30.0, 30.0, 0, 0, "car", 0.95), (*CARS[0][:5], 0.8)))
    assert 0 < wrong_first.mean_ap < (0.5 - 0.1) / 0.9, "precision rises to a half at most"


def test_far_boxes_and_boxes_without_points_do_not_count():
    far = (60.0, 0.0, 0, 0, "car", 0.99)
    truth = boxes(*CARS, far, points=[5, 5, 5, 0, 9])
    assert scored(truth, boxes(*CARS[:3], far)).mean_ap == pytest.approx(1.0)


def test_nothing_found_and_nothing_there():
    none = boxes()
    assert scored(boxes(*CARS, points=[1] * 4), none).nds == 0.0
    assert scored(boxes(points=[]), boxes(*CARS)).mean_ap == 0.0
    assert DetectionMetric().scores().mean_ap == 0.0


def test_without_attributes_that_error_is_not_given_and_costs_all():
    scores = scored(boxes(*CARS, points=[5] * 4), boxes(*CARS), with_attributes=False)
    assert np.isnan(scores.errors["attr_err"]) and scores.nds == pytest.approx((5 + 4) / 10)


def test_any_selection_of_frames_can_be_scored():
    metric = DetectionMetric(("car",))
    metric.add(boxes(*CARS, points=[1] * 4), boxes(*CARS))
    metric.add(boxes(*CARS, points=[1] * 4), boxes())
    assert metric.scores([0]).mean_ap == pytest.approx(1.0)
    assert metric.scores([1]).mean_ap == 0.0
    assert metric.scores([0, 0, 1, 1]).mean_ap == pytest.approx(metric.scores().mean_ap)


def test_impossible_boxes_are_refused():
    with pytest.raises(DataError, match="unknown class boat"):
        boxes((0, 0, 0, 0, "boat", 1))
    with pytest.raises(DataError, match="finite"):
        boxes((np.nan, 0, 0, 0, "car", 1))
    with pytest.raises(DataError, match="at most 500"):
        DetectionMetric().add(boxes(points=[]), boxes(*(CARS[0],) * 501))


# The published figures


@pytest.fixture(params=["perfect", "noisy"])
def published(request, shared_dir):
    path = shared_dir / "parity" / "nuscenes_metric" / f"nusc_{request.param}.json"
    if not path.is_file():
        pytest.skip(f"no reference data in {path.parent}")
    return json.loads(path.read_text())


def test_figures_equal_the_devkits(published, tmp_path, capsys):
    truth, found, out = tmp_path / "gt.json", tmp_path / "pred.json", tmp_path / "out" / "figures.json"
    truth.write_text(json.dumps(published["gt"]))
    found.write_text(json.dumps(published["pred"]))
    assert main(["metrics", "nuscenes", "--gt", str(truth), "--pred", str(found), "--json", str(out)]) == 0
    assert "NDS" in capsys.readouterr().out
    got, wanted = json.loads(out.read_text()), published["metrics"]
    assert got["mAP"] == pytest.approx(wanted["mAP"], abs=1e-6)
    assert got["NDS"] == pytest.approx(wanted["NDS"], abs=1e-6)
    for part in ("tp_errors", "tp_scores", "mean_dist_aps"):
        assert got[part] == pytest.approx(wanted[part], abs=1e-6)


BOX = {
    "translation": [1, 2, 0], "size": [2, 4, 1.5], "rotation": [1, 0, 0, 0], "velocity": [0, 0],
    "detection_name": "car", "attribute_name": "", "detection_score": 0.5, "ego_translation": [1, 2, 0], "num_pts": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "expected a mapping"),
        (json.dumps({"a": [{**BOX, "size": [1, 2]}]}), "sample a: box 0: size: expected 3 numbers"),
        (json.dumps({"a": [{**BOX, "size": [1, -2, 1]}]}), "positive"),
        (json.dumps({"a": [{k: v for k, v in BOX.items() if k != "velocity"}]}), "velocity is missing"),
        (json.dumps({"a": [{**BOX, "translation": [1, "x", 2]}]}), "expected a number"),
        (json.dumps({"a": [{**BOX, "detection_name": "boat"}]}), "unknown class boat"),
        (json.dumps({"b": [BOX]}), "does not have"),
    ],
)
def test_wrong_files_are_one_clear_line(tmp_path, capsys, content, said):
    truth, found = tmp_path / "gt.json", tmp_path / "pred.json"
    truth.write_text(json.dumps({"a": [BOX]}))
    if content is not None:
        found.write_text(content)
    assert main(["metrics", "nuscenes", "--gt", str(truth), "--pred", str(found)]) == 2
    assert said in capsys.readouterr().err


def test_a_submission_keeps_the_best_500_and_reads_back(tmp_path):
    count = 520
    scores = np.linspace(0, 1, count).astype(np.float32)
    found = Detections3D(
        np.tile([10.0, 0, 1], (count, 1)).astype(np.float32), np.tile([4.0, 2, 1.5], (count, 1)).astype(np.float32),
        np.full(count, 0.25, np.float32), np.tile([3.0, 0.0], (count, 1)).astype(np.float32), scores,
        np.zeros(count, np.int32), ("car",), "base_link", 0,
    )  # fmt: skip
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    out = submission({"s": (found, RigidTransform("map", "base_link", turn, np.array([100.0, 200, 0])))})
    rows = out["results"]["s"]
    assert len(rows) == 500 and rows[0]["detection_score"] == 1.0 and out["meta"]["use_lidar"]
    assert rows[0]["translation"] == pytest.approx([100, 210, 1]) and rows[0]["velocity"] == pytest.approx([0, 3])
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"s": [{**row, "ego_translation": [10, 0, 0]} for row in rows]}))
    back = read_samples(path, truth=False)["s"]
    assert back.yaw_rad[0] == pytest.approx(0.25 + np.pi / 2, abs=1e-6) and back.sizes_lwh[0].tolist() == [4, 2, 1.5]


@pytest.mark.parametrize(
    ("name", "speed", "expected"),
    [
        ("car", 5, "vehicle.moving"), ("car", 0, "vehicle.parked"), ("bus", 0, "vehicle.stopped"),
        ("bicycle", 1, "cycle.with_rider"), ("pedestrian", 0, "pedestrian.standing"), ("barrier", 0, ""),
    ],
)  # fmt: skip
def test_likely_attributes(name, speed, expected):
    assert attribute(name, speed) == expected
