from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from makers import H, W, palette_png, write

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.resources import config_dir
from mm_perception.datasets.classes import ClassList, find_class_list, index_of, nearest
from mm_perception.datasets.label_image import read_label_image
from mm_perception.datasets.label_map import (
    LabelOptions,
    learned_rule,
    load_label_map,
    scored_map,
    scored_rule,
)

STREET = ("road", "sidewalk", "sky", "car", "wall", "building")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("opacity", [False, True])
def test_palettes_give_their_indices(tmp_path, depth, opacity):
    ids = np.random.default_rng(depth).integers(0, 2**depth, (H, W + 3)).astype(np.uint8)
    path = palette_png(tmp_path / "a.png", ids, depth, opacity)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 3  # what OpenCV makes of it
    np.testing.assert_array_equal(read_label_image(path), ids)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_files(tmp_path, dtype):
    ids = np.arange(H * W, dtype=dtype).reshape(H, W)
    cv2.imwrite(str(tmp_path / "a.png"), ids)
    read = read_label_image(tmp_path / "a.png")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, ids)


def test_grey_in_three_channels_and_colours(tmp_path):
    write(tmp_path / "grey.png", 5, 3)
    write(tmp_path / "colour.png", (1, 2, 3), 3)
    write(tmp_path / "opaque.png", (7, 7, 7, 255), 4)
    assert read_label_image(tmp_path / "grey.png").tolist() == [[5] * W] * H
    assert read_label_image(tmp_path / "opaque.png").tolist() == [[7] * W] * H
    assert read_label_image(tmp_path / "colour.png")[0, 0].tolist() == [3, 2, 1]  # red first


def test_faults_of_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no image at all, but long enough to look at")
    with pytest.raises(DataError, match=r"a\.png: is no image"):
        read_label_image(tmp_path / "a.png")
    whole = palette_png(tmp_path / "b.png", np.zeros((H, W), np.uint8)).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"b\.png: is no image"):
        read_label_image(tmp_path / "b.png")
    cv2.imwrite(str(tmp_path / "c.tiff"), np.zeros((H, W), np.float32))
    with pytest.raises(DataError, match="whole numbers"):
        read_label_image(tmp_path / "c.tiff")
    with pytest.raises(DataError, match="does not exist"):
        read_label_image(tmp_path / "d.png")


def label_map(tmp_path, text):
    (tmp_path / "map.yaml").write_text(text)
    return load_label_map(tmp_path / "map.yaml")


MAP = """
ignore: [11]
classes:
  - {name: road, ids: [0, 40000]}
  - {name: car, ids: [2]}
  - {name: house, ids: [7], predicted: [building, wall]}
"""


def test_label_map_scores(tmp_path):
    mapped = label_map(tmp_path, MAP)
    assert mapped.predicted_as(STREET).tolist() == [0, 3, 3, 1, 2, 2]
    rule = scored_rule(mapped, None, LabelOptions(label_map=mapped))
    numbers = np.array([[0, 2, 7, 11, 255, 40000, 65535]], np.uint16)
    assert rule.apply(numbers, "f").tolist() == [[0, 1, 2, 255, 255, 0, 255]]
    assert rule.assumption == ""
    with pytest.raises(DataError, match=r"f: label 3, 9: expected one of 0, 2, 7, 40000.*--label-map"):
        rule.apply(np.array([[3, 9, 9]], np.uint8), "f")


def test_label_map_learns(tmp_path):
    mapped = label_map(tmp_path, MAP.replace("[building, wall]", "[building]"))
    rule = learned_rule(None, LabelOptions(label_map=mapped, ignore=(5,)), STREET, "d")
    assert rule.apply(np.array([[0, 2, 7, 11, 5]], np.uint8), "f").tolist() == [[0, 3, 5, 255, 255]]
    assert rule.classes == STREET
    with pytest.raises(ConfigError, match="'house' cannot be learned"):
        learned_rule(None, LabelOptions(label_map=label_map(tmp_path, MAP)), STREET, "d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes: [{name: a, ids: [1]}, {name: a, ids: [2]}]", "distinct"),
        ("classes: [{name: a, ids: [1]}, {name: b, ids: [1]}]", "1 is in 'a' and in 'b'"),
        ("ignore: [1]\nclasses: [{name: a, ids: [1]}]", "1 is in 'ignore' and in 'a'"),
        ("classes: [{name: a}]", "no ids"),
        ("classes: []", "expected 1 to"),
        ("classes: [{name: a, ids: [70000]}]", "70000"),
        ("classes: [{name: a, id: [1]}]", "unknown key"),
    ],
)
def test_wrong_label_maps(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=expected):
        label_map(tmp_path, text)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{name: rode, ids: [0]}", "no class 'rode'; did you mean 'road'"),
        ("{name: x, ids: [0], predicted: [Bilding]}", "no class 'Bilding'; did you mean 'building'"),
        ("{name: car, ids: [0]}, {name: y, ids: [1], predicted: [car]}", "counts as 'car' and as 'y'"),
    ],
)
def test_names_that_the_model_does_not_have(tmp_path, entry, expected):
    with pytest.raises(ConfigError, match=expected):
        label_map(tmp_path, f"classes: [{entry}]").predicted_as(STREET)


def test_names_are_found_however_they_are_written():
    assert index_of("Traffic_Light", ("car", "traffic light")) == 1
    assert index_of("traffic", ("car", "traffic light")) is None
    assert index_of("unlabeled", ("Background", "car")) == 0
    assert index_of("unlabelled", ("background", "unlabeled")) == 1
    assert nearest("pavment", ("pavement", "road")) == "; did you mean 'pavement'?"
    assert nearest("xyz", ("pavement", "road")) == ""


def test_offset_and_ignored_numbers():
    rule = learned_rule(None, LabelOptions(offset=1, ignore=(9,)), ("a", "b"), "d")
    assert rule.apply(np.array([[0, 1, 2, 9, 255]], np.uint8), "f").tolist() == [[255, 0, 1, 255, 255]]
    assert "1 to 2" in rule.assumption
    with pytest.raises(DataError, match=r"label 3: expected one of 1 to 2.*--ignore-id 3"):
        rule.apply(np.array([[3]], np.uint8), "f")


def test_one_number_too_many_suggests_the_offset():
    rule = learned_rule(None, LabelOptions(), ("a", "b"), "d")
    with pytest.raises(DataError, match=r"g\.png: label 2: expected ids below 2.*--label-offset 1"):
        rule.apply(np.array([[0, 1, 2]], np.uint8), "g.png")


def test_known_classes_go_by_their_names():
    known = ClassList("set", ("car", "road"), "here", ids=(4, 6), ignore=(0,))
    rule = learned_rule(known, LabelOptions(), STREET, "d")
    assert rule.apply(np.array([[4, 6, 0]], np.uint8), "f").tolist() == [[3, 0, 255]]
    other = ClassList("set", ("car", "rode"), "here")
    with pytest.raises(ConfigError, match=r"classes of set.*not 'rode'; did you mean 'road'.*--data-classes card"):
        learned_rule(other, LabelOptions(), STREET, "d")
    assert learned_rule(other, LabelOptions(as_card=True), STREET, "d").apply(
        np.array([[1]], np.uint8), "f"
    ).tolist() == [[1]]
    chosen = scored_map(other, LabelOptions(classes=known), STREET, "d")
    assert (chosen.names, chosen.classes[1].ids) == (("car", "road"), (6,))


def test_colours(tmp_path):
    mapped = label_map(
        tmp_path, "classes: [{name: road, colors: [[1, 2, 3]]}, {name: car, ids: [4], colors: [[9, 9, 0]]}]"
    )
    rule = scored_rule(mapped, None, LabelOptions(label_map=mapped))
    pixels = np.array([[[1, 2, 3], [9, 9, 0]]], np.uint8)
    assert rule.apply(pixels, "f").tolist() == [[0, 1]]
    assert rule.apply(np.array([[4]], np.uint8), "f").tolist() == [[1]]
    with pytest.raises(DataError, match=r"holds colours, of which \(7, 7, 8\)"):
        rule.apply(np.array([[[7, 7, 8]]], np.uint8), "f")
    with_palette = find_class_list("mfnet")
    rule = learned_rule(with_palette, LabelOptions(), with_palette.classes, "d")
    assert rule.apply(np.array([[[64, 64, 0]]], np.uint8), "f").tolist() == [[2]]


COUNTS = {"mfnet": 9, "pst900": 5, "nyu40": 40, "sunrgbd37": 37, "deliver": 25, "kitti360": 19, "eventscape": 12,
          "cityscapes": 19, "cityscapes-ids": 19, "fmb": 15, "camvid": 11}  # fmt: skip


def test_shipped_class_lists():
    found = {path.stem: find_class_list(path.stem) for path in (config_dir() / "classes").glob("*.yaml")}
    assert {name: len(one.classes) for name, one in found.items()} == COUNTS
    assert all(one.name == name and one.source for name, one in found.items())
    assert found["nyu40"].raw_ids == tuple(range(1, 41))
    assert found["cityscapes-ids"].raw_ids[found["cityscapes-ids"].classes.index("bicycle")] == 33
    assert found["cityscapes"].classes == found["kitti360"].classes


def test_numbers_beside_the_scored_ones_are_void_where_the_list_says_so():
    ids = find_class_list("cityscapes-ids")
    rule = learned_rule(ids, LabelOptions(), ids.classes, "d")
    assert rule.apply(np.array([[0, 7, 9, 33]], np.uint8), "f").tolist() == [[255, 0, 255, 18]]
