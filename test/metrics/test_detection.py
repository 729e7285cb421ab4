"""The detection metric: closed forms, the devkit's figures, and nuScenes' files."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import RANGES_M, DetectionMetric, ScoredBoxes
from mm_perception.metrics.nuscenes_format import (
    ATTRIBUTES,
    attribute,
    read_samples,
    scored_boxes,
    submission,
    write_submission,
)


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
    assert np.isnan(scores.label_errors["car"]["attr_err"])


def test_any_selection_of_frames_can_be_scored():
    metric = DetectionMetric(("car",))
    metric.add(boxes(*CARS, points=[1] * 4), boxes(*CARS))
    metric.add(boxes(*CARS, points=[1] * 4), boxes())
    assert metric.scores([0]).mean_ap == pytest.approx(1.0)
    assert metric.scores([1]).mean_ap == 0.0
    assert metric.scores([0, 0, 1, 1]).mean_ap == pytest.approx(metric.scores().mean_ap)


def test_a_frame_taken_twice_is_two_equal_frames():
    rng = np.random.default_rng(3)
    frames = []
    for _ in range(4):
        true = [(*rng.uniform(-30, 30, 2), rng.uniform(-3, 3), rng.normal(), "car", 0.0) for _ in range(6)]
        near = [(x + rng.normal(), y + rng.normal(), yaw, v, c, round(rng.random(), 1)) for x, y, yaw, v, c, _ in true]
        frames.append((boxes(*true, points=[1] * 6), boxes(*near)))
    once, drawn = DetectionMetric(("car",)), DetectionMetric(("car",))
    sample = [2, 0, 2, 3, 2]
    for frame in frames:
        once.add(*frame)
    for i in sample:
        drawn.add(*frames[i])
    got, wanted = once.scores(sample), drawn.scores()
    assert 0 < got.mean_ap < 1 and (got.mean_ap, got.nds) == (wanted.mean_ap, wanted.nds)
    assert got.label_errors == wanted.label_errors


@pytest.mark.parametrize("index", [-1, 1])
def test_a_frame_that_is_not_there_is_refused(index):
    metric = DetectionMetric(("car",))
    metric.add(boxes(*CARS, points=[1] * 4), boxes(*CARS))
    with pytest.raises(DataError, match=rf"frame of 0\.\.0, got {index}"):
        metric.scores([index])


def test_of_equal_scores_the_later_box_and_the_later_frame_go_first():
    true, right, wrong = boxes(CARS[0], points=[1]), CARS[0], (30.0, 30.0, 0, 0, "car", 0.9)
    right_first = pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9)
    assert scored(true, boxes(wrong, right)).mean_ap == right_first
    assert scored(true, boxes(right, wrong)).mean_ap < 0.5
    metric = DetectionMetric(("car",))
    metric.add(boxes(points=[]), boxes(wrong))
    metric.add(true, boxes(right))
    assert metric.scores().mean_ap == right_first and metric.scores([1, 0]).mean_ap < 0.5


def test_found_up_to_a_tenth_counts_for_nothing():
    """Errors are averaged beyond a recall of 0.1, and are 1 where it is not exceeded."""
    many = [(0.0, 4.0 * i - 45, 0, 0, "car", 0.9) for i in range(20)]
    scores = scored(boxes(*many, points=[1] * 20), boxes(*many[:2]))
    assert scores.mean_ap == 0.0 and scores.errors["trans_err"] == 1.0
    assert scored(boxes(*many, points=[1] * 20), boxes(*many[:3])).errors["trans_err"] == 0.0


def test_a_barrier_turned_by_half_is_not_turned_and_is_asked_no_velocity():
    def one(name, yaw, speed):
        return boxes((10.0, 3.0, yaw, speed, name, 0.9))

    for name, expected in (("barrier", 0.0), ("car", np.pi)):
        metric = DetectionMetric((name,))
        metric.add(one(name, 0.0, 0.0), one(name, np.pi, 5.0))
        errors = metric.scores().label_errors[name]
        assert errors["orient_err"] == pytest.approx(expected, abs=1e-9)
        assert np.isnan(errors["vel_err"]) == (name == "barrier")


def test_a_velocity_that_is_not_known_is_left_out_of_its_error():
    known, unknown = (10.0, 3.0, 0, 4.0, "car", 0.9), (20.0, 3.0, 0, np.nan, "car", 0.8)
    found = boxes((*known[:3], 1.0, "car", 0.9), (*unknown[:3], 9.0, "car", 0.8))
    assert scored(boxes(known, unknown, points=[1, 1]), found).errors["vel_err"] == pytest.approx(3.0)
    assert scored(boxes(unknown, points=[1]), found).errors["vel_err"] == 1.0, "none is known"


def test_boxes_whose_points_nobody_counted_stay():
    scores = scored(boxes(*CARS, points=[5, 5, -1, 0]), boxes(*CARS[:2]))
    assert scores.mean_ap == pytest.approx((66 - 10) / 90), "two of three are found"


def test_impossible_boxes_are_refused():
    with pytest.raises(DataError, match="unknown class boat"):
        boxes((0, 0, 0, 0, "boat", 1))
    with pytest.raises(DataError, match="finite"):
        boxes((np.nan, 0, 0, 0, "car", 1))
    with pytest.raises(DataError, match="velocity"):
        boxes((0, 0, 0, np.inf, "car", 1))
    with pytest.raises(DataError, match=r"points: expected \(1,\)"):
        boxes(CARS[0], points=[1, 2])
    with pytest.raises(DataError, match="points: expected counts"):
        boxes(CARS[0], points=[-2])
    with pytest.raises(DataError, match="unknown class boat"):
        DetectionMetric(("boat",))
    with pytest.raises(DataError, match="at most 500"):
        DetectionMetric().add(boxes(points=[]), boxes(*(CARS[0],) * 501))


# The devkit's figures

KINDS = {
    "bus": "vehicle", "car": "vehicle", "construction_vehicle": "vehicle", "trailer": "vehicle", "truck": "vehicle",
    "bicycle": "cycle", "motorcycle": "cycle", "pedestrian": "pedestrian",
}  # fmt: skip


def random_set(seed):
    """Samples as files hold them: far boxes, boxes without points, doubles, equal scores, unknown velocities, classes
    without truth, predictions or both. Only random() is drawn, which Python keeps the same."""
    draw = random.Random(seed).random
    lacks = {name: draw() for name in RANGES_M}

    def box(name, x, y):
        half = draw() * np.pi
        attributes = ["", *(a for a in ATTRIBUTES if a.split(".")[0] == KINDS.get(name))]
        middle = [round(x, 1), round(y, 1), draw()]
        return {
            "translation": middle, "ego_translation": middle, "size": [0.5 + draw(), 0.5 + 3 * draw(), 1 + draw()],
            "rotation": [math.cos(half), 0.0, 0.0, math.sin(half)], "detection_name": name,
            "velocity": [math.nan] * 2 if draw() < 0.1 else [4 * draw() - 2, 4 * draw() - 2],
            "attribute_name": attributes[int(draw() * len(attributes))],
        }  # fmt: skip

    gt, pred = {}, {}
    for token in ("a", "b", "c", "d"):
        gt[token], pred[token] = [], []
        for name in RANGES_M:
            for _ in range(int(6 * draw())):
                x, y = 90 * draw() - 45, 90 * draw() - 45
                if lacks[name] > 0.15:
                    gt[token].append({**box(name, x, y), "num_pts": (0, -1, 1, 9)[int(4 * draw())]})
                for _ in range(int(2.5 * draw()) if lacks[name] < 0.85 else 0):
                    near = box(name, x + (draw() - 0.5) * 3, y + (draw() - 0.5) * 3)
                    pred[token].append({**near, "detection_score": round(draw(), 1 + seed % 2)})
    return gt, pred


@pytest.fixture
def read(tmp_path):
    """The truth and the predictions of a set, frame by frame."""

    def read(gt, pred):
        (tmp_path / "gt.json").write_text(json.dumps(gt))
        (tmp_path / "pred.json").write_text(json.dumps(pred))
        truth, found = read_samples(tmp_path / "gt.json", True), read_samples(tmp_path / "pred.json", False)
        return [(truth[token], found[token]) for token in found]

    return read


def scores_of(frames):
    metric = DetectionMetric()
    for truth, found in frames:
        metric.add(truth, found)
    return metric.scores()


@pytest.mark.parametrize(
    ("seed", "figures"),
    [
        (0, [0.3195205247, 0.2396707897, 1.0746989752, 0.5496117690, 1.4837075099, 1.9224458754, 0.6512829570]),
        (1, [0.2086533510, 0.1852102427, 1.0623859297, 0.6332798279, 1.6106090795, 1.8946693130, 0.5578844998]),
        (2, [0.1143128748, 0.1035141024, 1.1475188601, 0.7286941829, 1.0629834723, 1.2528343101, 0.8077291667]),
        (3, [0.1997926563, 0.1487246471, 1.0487242223, 0.6675894950, 1.2541669304, 1.6916248976, 0.8441273156]),
    ],
)  # fmt: skip
def test_random_sets_score_as_by_the_devkit(read, seed, figures):
    """mAP, NDS, ATE, ASE, AOE, AVE, AAE of nuscenes-devkit 1.2.0; the test below has the same sets."""
    scores = scores_of(read(*random_set(seed)))
    assert [scores.mean_ap, scores.nds, *scores.errors.values()] == pytest.approx(figures, abs=1e-9)


@pytest.fixture(scope="module")
def devkit():
    """Scores a set by the devkit's own algorithm, which needs none of its data base."""
    why = "nuscenes-devkit is not installed (an optional second opinion)"
    algo = pytest.importorskip("nuscenes.eval.detection.algo", reason=why, exc_type=ImportError)
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics

    rules = config_factory("detection_cvpr_2019")
    blind = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}

    def counted(samples):
        every = EvalBoxes()
        for token, rows in samples.items():
            made = [DetectionBox(sample_token=token, **row) for row in rows]
            reach = rules.class_range
            every.add_boxes(token, [b for b in made if b.ego_dist < reach[b.detection_name] and b.num_pts != 0])
        return every

    def score(gt, pred):
        truth, found, metrics = counted(gt), counted(pred), DetectionMetrics(rules)
        for name in rules.class_names:
            for threshold in rules.dist_ths:
                data = algo.accumulate(truth, found, name, rules.dist_fcn_callable, threshold)
                metrics.add_label_ap(name, threshold, algo.calc_ap(data, rules.min_recall, rules.min_precision))
                if threshold == rules.dist_th_tp:
                    for error in ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"):
                        asked = error not in blind.get(name, ())
                        value = algo.calc_tp(data, rules.min_recall, error) if asked else math.nan
                        metrics.add_label_tp(name, error, value)
        return metrics

    return score


@pytest.mark.parametrize("seed", range(20))
def test_every_figure_equals_the_devkits_own(devkit, read, seed):
    gt, pred = random_set(seed)
    got, wanted = scores_of(read(gt, pred)), devkit(gt, pred).serialize()
    assert (got.mean_ap, got.nds) == pytest.approx((wanted["mean_ap"], wanted["nd_score"]), abs=1e-9)
    assert got.errors == pytest.approx(wanted["tp_errors"], abs=1e-9)
    for name in RANGES_M:
        assert got.label_aps[name] == pytest.approx(wanted["label_aps"][name], abs=1e-9)
        assert got.label_errors[name] == pytest.approx(wanted["label_tp_errors"][name], abs=1e-9, nan_ok=True)


# Boxes of the pipeline, and submissions


def detections(count, classes=("car",), frame_id="base_link", speed=3.0):
    return Detections3D(
        np.tile([10.0, 0, 1], (count, 1)).astype(np.float32), np.tile([4.0, 2, 1.5], (count, 1)).astype(np.float32),
        np.full(count, 0.25, np.float32), np.tile([speed, 0.0], (count, 1)).astype(np.float32),
        np.linspace(0, 1, count).astype(np.float32), np.zeros(count, np.int32), classes, frame_id, 0,
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 3])
def test_detections_become_boxes_at_their_distance(count):
    made = scored_boxes(detections(count), np.ones(count, np.int64))
    assert made.distance_m.tolist() == [10.0] * count and made.attributes.tolist() == [""] * count
    metric = DetectionMetric(with_attributes=False)
    metric.add(made, scored_boxes(detections(count)))
    assert len(metric) == 1 and metric.scores().label_aps["car"][0.5] == pytest.approx(1.0 if count else 0.0)


def tilted():
    """A pose far out on the map, turned about all axes."""
    quat = np.array([0.02, -0.03, 0.6, 0.8])
    return RigidTransform.from_quaternion("map", "base_link", quat, np.array([1234.5678, 1987.6543, 12.0]))


def test_a_submission_keeps_the_best_500_and_reads_back(tmp_path):
    pose, found, path = tilted(), detections(520), tmp_path / "new" / "submission.json"
    write_submission(path, {"s": (found, pose), "empty": (detections(0), pose)}, camera=False)
    content = json.loads(path.read_text())
    assert content["meta"] == {
        "use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False,
    }  # fmt: skip
    assert content["results"]["empty"] == []
    rows = content["results"]["s"]
    scores = [row["detection_score"] for row in rows]
    assert len(rows) == 500 and scores == sorted(scores, reverse=True) and scores[0] == 1.0
    assert scores[-1] == pytest.approx(20 / 519)
    for row in rows[:: len(rows) - 1]:
        assert row["sample_token"] == "s" and row["detection_name"] == "car"
        assert row["size"] == [2.0, 4.0, 1.5] and row["attribute_name"] == "vehicle.moving"
        w, x, y, z = row["rotation"]
        box = RigidTransform.from_quaternion("map", "box", np.array([x, y, z, w]), np.array(row["translation"]))
        back = pose.inverse() @ box
        assert back.translation == pytest.approx([10, 0, 1], abs=1e-9)
        cosine, sine = np.cos(0.25), np.sin(0.25)
        assert back.rotation == pytest.approx(np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]), abs=1e-7)
        assert row["velocity"] == pytest.approx((pose.rotation @ [3.0, 0, 0])[:2])


def test_a_submission_reads_back_as_boxes_of_the_metric(tmp_path):
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    out = submission({"s": (detections(2), RigidTransform("map", "base_link", turn, np.array([100.0, 200, 0])))})
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"s": [{**row, "ego_translation": [10, 0, 0]} for row in out["results"]["s"]]}))
    back = read_samples(path, truth=False)["s"]
    assert back.centers[0] == pytest.approx([100, 210, 1]) and back.velocity[0] == pytest.approx([0, 3])
    assert back.yaw_rad[0] == pytest.approx(0.25 + np.pi / 2, abs=1e-6) and back.sizes_lwh[0].tolist() == [4, 2, 1.5]


@pytest.mark.parametrize(
    ("found", "error", "said"),
    [
        (detections(1, frame_id="lidar"), CalibrationError, "map <- base_link is not for boxes in lidar"),
        (detections(1, classes=("boat",)), DataError, "unknown class boat"),
        (detections(1, speed=np.nan), DataError, "velocity: expected finite"),
    ],
)
def test_what_cannot_be_submitted_is_refused_and_not_written(tmp_path, found, error, said):
    with pytest.raises(error, match=f"sample s: .*{said}"):
        write_submission(tmp_path / "submission.json", {"s": (found, tilted())})
    assert not list(tmp_path.iterdir())


def test_quaternions_of_any_length_say_the_same(read):
    gt, pred = random_set(1)
    for row in pred["a"]:
        row["rotation"] = [3 * value for value in row["rotation"]]
    (_, long), (_, unit) = read(gt, pred)[0], read(*random_set(1))[0]
    assert len(unit.yaw_rad) > 5 and long.yaw_rad == pytest.approx(unit.yaw_rad)


@pytest.mark.parametrize(
    ("name", "speed", "expected"),
    [
        ("car", 5, "vehicle.moving"), ("car", 0, "vehicle.parked"), ("bus", 0, "vehicle.stopped"),
        ("bicycle", 1, "cycle.with_rider"), ("pedestrian", 0, "pedestrian.standing"), ("barrier", 0, ""),
    ],
)  # fmt: skip
def test_likely_attributes(name, speed, expected):
    assert attribute(name, speed) == expected
