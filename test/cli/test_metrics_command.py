"""`mm-perception metrics nuscenes`: the published figures, and what is said of wrong files."""

from __future__ import annotations

import json
import math

import pytest

from mm_perception.cli.main import main
from mm_perception.cli.metrics import scores_mapping
from mm_perception.metrics.detection import DetectionMetric

BOX = {
    "translation": [1, 2, 0], "size": [2, 4, 1.5], "rotation": [1, 0, 0, 0], "velocity": [0, 0],
    "detection_name": "car", "attribute_name": "", "detection_score": 0.5, "ego_translation": [1, 2, 0], "num_pts": 3,
}  # fmt: skip
GOOD = {"a": [BOX]}


@pytest.fixture
def score(tmp_path, capsys):
    """Runs the command on two contents (None: no file); returns its exit code, figures, and what it said."""

    def score(gt, pred):
        paths = tmp_path / "gt.json", tmp_path / "pred.json"
        for path, content in zip(paths, (gt, pred), strict=True):
            if content is not None:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        out = tmp_path / "new" / "figures.json"
        code = main(["metrics", "nuscenes", "--gt", str(paths[0]), "--pred", str(paths[1]), "--json", str(out),
                     "--overwrite"])  # fmt: skip
        figures = json.loads(out.read_text(), parse_constant=pytest.fail) if out.exists() else None
        return code, figures, capsys.readouterr()

    return score


def null(value):
    """NaN, which JSON lacks, as null, at any depth."""
    if isinstance(value, dict):
        return {key: null(part) for key, part in value.items()}
    return None if math.isnan(value) else value


def flat(value, place=""):
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{place}/{key}").items()}


@pytest.mark.parametrize("name", ["perfect", "noisy"])
def test_every_figure_equals_the_published_one(score, shared_dir, name):
    path = shared_dir / "parity" / "nuscenes_metric" / f"nusc_{name}.json"
    if not path.is_file():
        pytest.skip(f"no reference data in {path.parent}")
    published = json.loads(path.read_text())
    code, got, said = score(published["gt"], published["pred"])
    assert code == 0 and "NDS" in said.out
    wanted = published["metrics"]
    assert (got["mean_ap"], got["nd_score"]) == (got["mAP"], got["NDS"])
    for part in ("mAP", "NDS", "tp_errors", "tp_scores", "mean_dist_aps", "label_aps", "label_tp_errors"):
        assert flat(got[part]) == pytest.approx(flat(null(wanted[part])), abs=1e-6), part


def test_one_box_that_is_found(score):
    code, got, _ = score(GOOD, GOOD)
    assert code == 0 and got["label_aps"]["car"] == pytest.approx({"0.5": 1, "1.0": 1, "2.0": 1, "4.0": 1})
    assert got["mean_ap"] == pytest.approx(0.1) and got["label_tp_errors"]["traffic_cone"]["vel_err"] is None


def test_no_samples_score_nothing(score):
    code, got, _ = score({}, {})
    assert code == 0 and got["mean_ap"] == 0.0 and got["nd_score"] == 0.0


def test_equal_scores_of_two_samples_go_by_the_order_of_the_predictions(score):
    there, far = {**BOX}, {**BOX, "translation": [20, 2, 0], "ego_translation": [20, 2, 0]}
    truth = {"a": [there], "b": []}
    first = score(truth, {"b": [far], "a": [there]})[1]["label_aps"]["car"]["2.0"]
    last = score(truth, {"a": [there], "b": [far]})[1]["label_aps"]["car"]["2.0"]
    assert first == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9) and last < 0.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected a mapping"),
        ({"a": [3]}, "sample a: box 0: expected a mapping"),
        ({"a": [{**BOX, "size": [1, 2]}]}, "sample a: box 0: size: expected 3 numbers"),
        ({"a": [BOX, {**BOX, "size": [1, -2, 1]}]}, "box 1: size: expected positive"),
        ({"a": [{**BOX, "rotation": [0, 0, 0, 0]}]}, "not zero"),
        ({"a": [{k: v for k, v in BOX.items() if k != "velocity"}]}, "velocity is missing"),
        ({"a": [{k: v for k, v in BOX.items() if k != "attribute_name"}]}, "attribute_name is missing"),
        ({"a": [{**BOX, "translation": [1, "x", 2]}]}, "expected a number"),
        ({"a": [{**BOX, "translation": [1, math.nan, 2]}]}, "translation: expected a finite number"),
        ({"a": [{**BOX, "velocity": [math.inf, 0]}]}, "velocity: expected a finite number"),
        ({"a": [{**BOX, "detection_score": math.nan}]}, "detection_score: expected a finite number"),
        ({"a": [{**BOX, "detection_score": 10**400}]}, "detection_score: expected a finite number"),
        ({"a": [{**BOX, "detection_name": "boat"}]}, "unknown class boat"),
        ({"a": [{**BOX, "attribute_name": None}]}, "unknown attribute None"),
        ({"a": [BOX] * 501}, "sample a: boxes: expected at most 500 predictions, got 501"),
        ({"a": [BOX], "b": [BOX]}, "1 sample(s) that"),
        ({}, "1 sample(s) that"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 80 else "",
)
def test_wrong_predictions_are_one_clear_line(score, content, said):
    code, figures, output = score(GOOD, content)
    assert code == 2 and figures is None and said in output.err
    assert output.err.startswith("mm-perception metrics: ") and output.err.count("\n") == 1


@pytest.mark.parametrize("points", [2.5, -2, math.nan, math.inf, True, None, 10**30])
def test_impossible_numbers_of_points_are_refused(score, points):
    code, _, output = score({"a": [{**BOX, "num_pts": points}]}, GOOD)
    assert code == 2 and "box 0: num_pts: expected a count" in output.err


def test_a_velocity_may_be_unknown(score):
    assert score({"a": [{**BOX, "velocity": [math.nan, math.nan]}]}, GOOD)[0] == 0


def test_attributes_that_are_not_named_are_null_and_score_nothing():
    figures = scores_mapping(DetectionMetric(("car",), with_attributes=False).scores())
    assert figures["tp_errors"]["attr_err"] is None and figures["label_tp_errors"]["car"]["attr_err"] is None
    assert figures["tp_scores"]["attr_err"] == 0.0
