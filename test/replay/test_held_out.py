"""Figures of the comparison against matrices whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mm_perception.cli.main import main
from mm_perception.core.errors import ConfigError
from mm_perception.engines.card import find_card
from mm_perception.metrics.segmentation import miou_of_true_classes
from mm_perception.replay.held_out import Comparison, bootstrap, compare, summary
from mm_perception.sim.surfaces import CLASSES

C = len(CLASSES)


def matrix(right, wrong):
    """Class 0 and 1, each `right` pixels right and `wrong` taken for the other."""
    counts = np.zeros((C, C), np.int64)
    counts[0, 0] = counts[1, 1] = right
    counts[0, 1] = counts[1, 0] = wrong
    return counts


def test_miou_leaves_out_classes_that_only_the_prediction_holds():
    counts = matrix(80, 0)
    counts[0, 5] = 20
    assert miou_of_true_classes(counts) == pytest.approx((80 / 100 + 1.0) / 2)
    np.testing.assert_allclose(miou_of_true_classes(np.stack([counts, matrix(3, 1)])), [0.9, 3 / 5])
    assert np.isnan(miou_of_true_classes(np.zeros((C, C), np.int64)))


def comparison(worlds):
    good, bad = matrix(90, 10), matrix(50, 50)
    return Comparison(
        ("rgb", "rgb-thermal"), ["day", "night"] * worlds, list(np.repeat(np.arange(worlds), 2)),
        {"rgb": [good, bad] * worlds, "rgb-thermal": [good, good] * worlds}, {},
    )  # fmt: skip


def test_summary_has_miou_gain_and_intervals_by_condition():
    facts = summary(comparison(10), "rgb")
    good, bad = 90 / 110, 50 / 150
    assert facts["miou"]["day"] == {"rgb": pytest.approx(good, abs=1e-4), "rgb-thermal": pytest.approx(good, abs=1e-4)}
    assert facts["gain"]["night"]["rgb-thermal"] == pytest.approx(good - bad, abs=1e-4)
    assert facts["gain_interval_95"]["night"]["rgb-thermal"] == pytest.approx([good - bad] * 2, abs=1e-4)
    assert facts["miou"]["all"]["rgb"] == pytest.approx(140 / 260, abs=1e-4)
    assert facts["frames"] == {"all": 20, "day": 10, "night": 10}
    assert facts["iou"]["all"]["rgb"]["road"] == pytest.approx(140 / 260, abs=1e-4)
    assert facts["iou"]["all"]["rgb"]["train"] is None
    json.dumps(facts)


def test_a_handful_of_worlds_gives_no_interval():
    facts = summary(comparison(9), "rgb")
    assert facts["miou"]["night"]["rgb"] == pytest.approx(50 / 150, abs=1e-4)
    assert facts["interval_95"]["all"] == {"rgb": None, "rgb-thermal": None}
    assert facts["gain_interval_95"]["night"] == {"rgb-thermal": None}


def test_bootstrap_draws_worlds_not_frames():
    counts = np.stack([matrix(90, 10)] * 50 + [matrix(10, 90)] * 50)
    two = bootstrap(counts, np.repeat([1, 2], 50), np.random.default_rng(0))
    assert len(np.unique(two.round(6))) == 3, "both of one world, both of the other, or one of each"
    many = bootstrap(counts, np.arange(100), np.random.default_rng(0))
    assert many.std() < 0.25 * two.std()


def test_models_of_other_classes_are_refused():
    with pytest.raises(ConfigError, match="other classes"):
        compare({"rgb": find_card("cmx-b0-thermal-untrained")}, [])


def test_command_writes_the_figures_of_untrained_models_and_says_so(tmp_path, capsys):
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    cards = []
    for name, modality, encoding in (
        ("rgb", "rgb", "rgb"),
        ("rgb-thermal", "thermal", "agc"),
        ("rgb-depth", "depth", "raw"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            f"name: small-{name}\nvariant: tiny\ndecoder_dim: 16\nclasses: [{', '.join(CLASSES)}]\n"
            f"modality: {modality}\nencoding: {encoding}\ninput_height: 48\ninput_width: 64\n"
            "channel_order: rgb\ntrained: false\nweights: random:3\n"
        )
        cards += ["--model", f"{name}={path}"]
    figures, pictures = tmp_path / "figures.json", tmp_path / "pictures"
    options = ["evaluate", "segmentation", "--frames", "2", "--cache", str(tmp_path / "cache"), "--engine", "torch"]
    assert main([*options, "--json", str(figures), "--pictures", str(pictures), *cards]) == 0
    first = json.loads(figures.read_text())
    assert set(first["miou"]) == {"all", "day", "dusk"}
    assert set(first["miou"]["all"]) == {"rgb", "rgb-thermal", "rgb-depth"}
    assert all(0 <= v < 0.5 for row in first["miou"].values() for v in row.values())
    assert "untrained" in capsys.readouterr().out
    assert len(list(pictures.glob("*.png"))) == 2
    assert main([*options, "--json", str(figures), "--overwrite", *cards]) == 0
    again = json.loads(figures.read_text())
    assert again["miou"] == first["miou"], "frames from the cache are the frames"


@pytest.mark.parametrize("wrong", [["--frames", "0"], ["--seed", "1000"], ["--model", "rgb"]])
def test_wrong_options_are_refused(wrong, capsys):
    assert main(["evaluate", "segmentation", *wrong]) == 2
    assert "expected" in capsys.readouterr().err
