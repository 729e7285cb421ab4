from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.cli.main import main  # noqa: E402
from mm_perception.core.errors import ConfigError, DataError  # noqa: E402
from mm_perception.datasets.label_map import LabelMap, LabelOptions, MappedClass  # noqa: E402
from mm_perception.metrics.segmentation import ConfusionMatrix, mapped_scores  # noqa: E402
from mm_perception.training import folder_scores  # noqa: E402
from mm_perception.training.folder_scores import score_folder  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from makers import H, W, write  # noqa: E402

MAP = "ignore: [9]\nclasses:\n  - {name: low, ids: [0], predicted: [ground]}\n  - {name: high, ids: [3]}\n"


class Thresholds:
    """Stands for a network: pixels whose red is above the mean are of class 1, those of a bright X of class 2."""

    name = "thresholds"

    def __init__(self, card):
        self.card, self.closed = card, False

    def run(self, tensors):
        red = tensors["rgb"][:, :1]
        bright = tensors["x"][:, :1] > 1.5
        return {"logits": np.concatenate([-red, red, np.where(bright, 99.0, -99.0)], axis=1).astype(np.float32)}

    def close(self):
        self.closed = True


@pytest.fixture
def opened(monkeypatch):
    engines = []

    def load(card, engine):
        engines.append(Thresholds(card))
        return engines[-1]

    monkeypatch.setattr(folder_scores, "load_engine", load)
    return engines


@pytest.fixture
def street(tmp_path):
    """Two frames: left half dark, right half bright; labels 0 and 3, the top row void, a dark quarter labelled 3."""
    for name in ("a", "b"):
        image = np.full((H, W, 3), 20, np.uint8)
        image[:, W // 2 :] = 230
        labels = np.zeros((H, W), np.uint8)
        labels[:, W // 2 :] = 3
        labels[H // 2 :, : W // 2] = 3 if name == "b" else 0
        labels[0] = 9
        write(tmp_path / "d" / "RGB" / f"{name}.png", 0, 3)
        cv2.imwrite(str(tmp_path / "d" / "RGB" / f"{name}.png"), image)
        write(tmp_path / "d" / "Thermal" / f"{name}.png", 0)
        write(tmp_path / "d" / "Label" / f"{name}.png", 0)
        cv2.imwrite(str(tmp_path / "d" / "Label" / f"{name}.png"), labels)
    (tmp_path / "map.yaml").write_text(MAP.replace("ids: [3]", "ids: [3], predicted: [box]"))
    return tmp_path / "d"


def options(**predicted):
    classes = (MappedClass("low", (0,), predicted=("ground",)), MappedClass("high", (3,), predicted=("box",)))
    return LabelOptions(LabelMap(classes, (9,)))


def expected_figures():
    low_true, high_true = (H - 1) * W // 2 + (H - 1 - H // 2) * W // 2, 0
    rows = H - 1
    half = rows * (W // 2)
    wrong = (H - H // 2) * (W // 2)  # of b, labelled high and dark
    low_true = 2 * half - wrong
    high_true = 2 * half + wrong
    return low_true / (low_true + wrong), (high_true - wrong) / high_true, 1 - wrong / (4 * half)


def test_figures_are_those_that_can_be_counted(street, make_card, opened):
    card = make_card(classes=("ground", "box", "tree"))
    scores = score_folder(card, street, options())
    low, high, accuracy = expected_figures()
    figures = scores.figures()
    assert list(figures) == ["frames", "miou", "miou_present", "accuracy", "iou"]
    assert figures["frames"] == 2
    assert figures["iou"] == pytest.approx({"low": low, "high": high}, abs=1e-6)
    assert (figures["miou"], figures["accuracy"]) == pytest.approx(((low + high) / 2, accuracy), abs=1e-6)
    assert opened[0].closed


def test_what_counts_as_none_of_the_classes_is_a_miss(street, make_card, opened):
    write(street / "Thermal" / "a.png", 255)  # the network sees a tree everywhere
    figures = score_folder(make_card(classes=("ground", "box", "tree")), street, options()).figures()
    half, wrong = (H - 1) * (W // 2), (H - H // 2) * (W // 2)
    assert figures["iou"]["low"] == pytest.approx((half - wrong) / (2 * half), abs=1e-6)
    assert figures["accuracy"] == pytest.approx((2 * half - wrong) / (4 * half), abs=1e-6)


def test_absent_classes_count_in_one_mean_alone(street, make_card, opened):
    three = LabelMap((*options().label_map.classes, MappedClass("bridge", (7,), predicted=())), (9,))
    figures = score_folder(make_card(classes=("ground", "box", "tree")), street, LabelOptions(three)).figures()
    low, high, _ = expected_figures()
    assert figures["miou"] == pytest.approx((low + high) / 3, abs=1e-6)
    assert figures["miou_present"] == pytest.approx((low + high) / 2, abs=1e-6)
    assert figures["iou"]["bridge"] == 0.0


def test_lists_and_conditions(street, make_card, opened, tmp_path):
    card = make_card(classes=("ground", "box", "tree"))
    (tmp_path / "some.txt").write_text("b\n")
    assert score_folder(card, street, options(), split=tmp_path / "some.txt").frames == 1
    (street / "test.txt").write_text("RGB/a.png\tLabel/a.png\nRGB/b.png\tLabel/b.png\n")
    (street / "test_day.txt").write_text("a\n")
    (street / "test_night.txt").write_text("b\n")
    figures = score_folder(card, street, options()).figures()
    assert {name: part["frames"] for name, part in figures["splits"].items()} == {"day": 1, "night": 1}
    assert figures["splits"]["day"]["accuracy"] == 1.0 > figures["splits"]["night"]["accuracy"]


def test_many_scales_see_the_same_halves(street, make_card, opened):
    card = make_card(classes=("ground", "box", "tree"))
    figures = score_folder(card, street, options(), multi_scale=True).figures()
    assert [e.card.input_width for e in opened] == [64, 64, 96, 128, 160, 160]
    assert figures["accuracy"] == pytest.approx(expected_figures()[2], abs=0.02)  # borders are mixed
    assert all(e.closed for e in opened)
    onnx = replace(card, weights="a.onnx", weights_sha256="0" * 64)
    with pytest.raises(ConfigError, match="one input size"):
        score_folder(onnx, street, options(), multi_scale=True)


def test_faults(street, make_card, opened):
    card = make_card(classes=("ground", "box", "tree"))
    wrong = LabelMap((MappedClass("grond", (0,)),), (3, 9))
    with pytest.raises(ConfigError, match=r"model toy-thermal-untrained has no class 'grond'; did you mean 'ground'"):
        score_folder(card, street, LabelOptions(wrong))
    with pytest.raises(DataError, match=r"Label/a\.png: label 3"):
        score_folder(card, street, LabelOptions(LabelMap((MappedClass("ground", (0,)),), (9,))))
    for path in (street / "Label").glob("*"):
        write(path, 9)
    with pytest.raises(DataError, match="no pixel of its 2 frames"):
        score_folder(card, street, options())


def test_command_writes_figures(street, make_card, opened, tmp_path, capsys):
    make_card(classes=("ground", "box", "tree"))
    command = ["evaluate", "segmentation", "--model", str(tmp_path / "toy-thermal.yaml"), "--data", str(street)]
    assert main([*command, "--label-map", str(tmp_path / "map.yaml"), "--json", str(tmp_path / "o.json")]) == 0
    low, _, accuracy = expected_figures()
    figures = json.loads((tmp_path / "o.json").read_text())
    assert (figures["iou"]["low"], figures["accuracy"]) == pytest.approx((low, accuracy), abs=1e-6)
    assert "untrained weights" in capsys.readouterr().out
    assert main([*command, "--model", "cmx-tiny-rgb"]) == 2
    assert "expected one --model CARD" in capsys.readouterr().err
    assert main(["evaluate", "segmentation", "--label-offset", "1"]) == 2
    assert "--data DIR" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["pred_mfnet", "pred_fusenet", "pred_rtfnet152"])
def test_published_figures(shared_dir, network):
    folder = shared_dir / "data" / "rgbt_rtfnet_demo"
    expected = json.loads((folder / "expected_miou.json").read_text())[network]
    matrix = ConfusionMatrix(10)
    with np.load(folder / "tiles.npz") as tiles:
        for truth, predicted in zip(tiles["gt"], tiles[network], strict=True):
            truth = np.where(predicted == 255, 255, truth).astype(np.uint8)
            matrix.add(truth, np.where(predicted == 255, 9, predicted).astype(np.uint8))
    scores = mapped_scores(matrix.counts)
    np.testing.assert_allclose(scores.iou, expected["iou"], atol=1e-9)
    assert scores.miou == pytest.approx(expected["miou_all9"], abs=1e-9)
    assert scores.miou_present == pytest.approx(expected["miou_present_in_gt"], abs=1e-9)
    assert scores.accuracy == pytest.approx(expected["pixel_acc"], abs=1e-9)
