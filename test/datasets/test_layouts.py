from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from makers import H, W, mfnet, pairs, write

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.datasets.folder import known_set, open_folder, read_frame
from mm_perception.datasets.label_map import LabelOptions, learned_rule
from mm_perception.datasets.layouts import find_frames
from mm_perception.datasets.splits import choose_frames

# Layout, rows of (key, image, second image, label file), kind of second image, split of each.
LAYOUTS = {
    "cmx": [("a", "RGB/a.jpg", "Modal/a.png", "Label/a.png"), ("b", "RGB/b.jpg", "Modal/b.png", "Label/b.png")],
    "cmx thermal": [("a", "RGB/a.png", "Thermal/a.png", "Label/a.png")],
    "cmx depth": [("7", "RGB/7.jpg", "Depth/7.png", "Label/7.png")],
    "cmx hha": [("7", "RGB/7.jpg", "HHA/7.jpg", "Label/7.png")],
    "upper-case suffix": [("a", "rgb/a.PNG", "x/a.JPG", "labels/a.PNG")],
    "cmnext mfnet": [("00001D", "rgb/00001D.jpg", "ther/00001D.jpg", "labels/00001D.png")],
    "msrs": [
        ("test/1D", "test/vi/1D.png", "test/ir/1D.png", "test/Segmentation_labels/1D.png"),
        ("train/2N", "train/vi/2N.png", "train/ir/2N.png", "train/Segmentation_labels/2N.png"),
    ],
    "fmb": [("train/3", "train/Visible/3.png", "train/Infrared/3.png", "train/Label/3.png")],
    "pst900": [("test/4_rect_frame1", *(f"test/{d}/4_rect_rgb_frame1.png" for d in ("rgb", "thermal", "labels")))],
    "llvip": [("train/5", "visible/train/5.jpg", "infrared/train/5.jpg", None)],
    "kaist": [("set00/V000/I1", "set00/V000/visible/I1.jpg", "set00/V000/lwir/I1.jpg", None)],
    "kaist below images": [("set01/V002/I1", *(f"images/set01/V002/{d}/I1.jpg" for d in ("visible", "lwir")), None)],
    "m3fd": [("00000", "Vis/00000.png", "Ir/00000.png", None)],
    "roadscene": [("FLIR_1", "crop_LR_visible/FLIR_1.jpg", "cropinfrared/FLIR_1.jpg", None)],
    "segnet": [("train/1", "train/1.png", None, "trainannot/1.png"), ("val/2", "val/2.png", None, "valannot/2.png")],
    "deliver": [
        ("fog/test/MAP_1/9_front", "img/fog/test/MAP_1/9_rgb_front.png", "hha/fog/test/MAP_1/9_depth_front.png",
         "semantic/fog/test/MAP_1/9_semantic_front.png"),
    ],
    "cityscapes": [
        ("val/ulm/a_1", "leftImg8bit/val/ulm/a_1_leftImg8bit.png", None, "gtFine/val/ulm/a_1_gtFine_labelTrainIds.png"),
    ],
    "names of folders in names": [("000164", "left/left000164.png", "depth/depth000164.png", "label/label000164.png")],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_pair(tmp_path, layout):
    rows = LAYOUTS[layout]
    frames, alone = find_frames(pairs(tmp_path, rows))
    assert not alone
    by_key = {frame.key: frame for frame in frames}
    assert sorted(by_key) == sorted(row[0] for row in rows) or layout.startswith("kaist below")
    for row, frame in zip(sorted(rows), sorted(frames, key=lambda f: f.key), strict=True):
        assert frame.image == tmp_path / row[1]
        assert list(frame.x.values()) == ([tmp_path / row[2]] if row[2] else [])
        assert frame.labels == (tmp_path / row[3] if row[3] else None)
        assert frame.split == next((s for s in ("train", "val", "test") if f"{s}/" in f"{row[0]}/"), "")


def test_pixels_come_from_their_files(tmp_path):
    folder = open_folder(pairs(tmp_path, LAYOUTS["msrs"]))
    pixels = read_frame(folder, folder.frames[1], ("thermal",))
    assert (pixels.rgb[0, 0].tolist(), int(pixels.x[0, 0]), int(pixels.numbers[0, 0])) == ([11] * 3, 101, 1)


def test_second_images_of_other_size_but_same_proportions_are_fitted(tmp_path):
    pairs(tmp_path, LAYOUTS["cmx"][:1])
    write(tmp_path / "Modal" / "a.png", 7, size=(H // 2, W // 2))
    folder = open_folder(tmp_path)
    assert read_frame(folder, folder.frames[0], ("any",)).x.shape == (H, W)
    write(tmp_path / "Modal" / "a.png", 7, size=(H, W // 2))
    with pytest.raises(DataError, match="do not align"):
        read_frame(folder, folder.frames[0], ("any",))


def test_fourth_channel(tmp_path):
    folder = open_folder(mfnet(tmp_path))
    pixels = read_frame(folder, folder.frames[0], ("thermal", "any"))
    assert (pixels.rgb[0, 0].tolist(), int(pixels.x[0, 0])) == ([10, 20, 30], 40)
    assert [frame.condition for frame in folder.frames] == ["day", "night", "day"]
    write(folder.frames[0].image, (1, 2, 3, 255), 4)
    with pytest.raises(DataError, match="opacity"):
        read_frame(folder, folder.frames[0], ("thermal", "any"))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("cmnext mfnet", "mfnet"), ("fmb", "fmb"), ("pst900", "pst900"), ("deliver", "deliver"),
     ("cityscapes", "cityscapes"), ("cmx", None), ("llvip", None)],
)  # fmt: skip
def test_known_sets(tmp_path, layout, expected):
    assert known_set(find_frames(pairs(tmp_path, LAYOUTS[layout]))[0]) == expected


def test_ids_in_the_red_channel(tmp_path):
    root = pairs(tmp_path, LAYOUTS["deliver"])
    write(root / "semantic/fog/test/MAP_1/9_semantic_front.png", (0, 0, 7, 255), 4)
    folder = open_folder(root)
    numbers = read_frame(folder, folder.frames[0]).numbers
    rule = learned_rule(folder.classes, LabelOptions(), folder.classes.classes, "d")
    assert folder.classes.classes[int(rule.apply(numbers, "f")[0, 0])] == "Road"
    assert folder.frames[0].condition == "fog"


def test_a_folder_may_name_its_classes(tmp_path):
    pairs(tmp_path, LAYOUTS["cmx"])
    (tmp_path / "classes.txt").write_text("grass\nstone\n")
    assert open_folder(tmp_path).classes.classes == ("grass", "stone")
    (tmp_path / "classes.txt").write_text("grass\ngrass\n")
    with pytest.raises(ConfigError, match="distinct"):
        open_folder(tmp_path)


LISTS = {
    "names": "a\nb\n",
    "file names": "a.jpg\nb.jpg",
    "windows": "\ufeffa\r\nb\r\n",
    "paths": "RGB/a.jpg\nRGB/b.jpg\n",
    "pairs by tab": "RGB/a.jpg\tLabel/a.png\nRGB/b.jpg\tLabel/b.png\n",
    "pairs by blank": "/RGB/a.jpg /Label/a.png\n/RGB/b.jpg /Label/b.png\n",
    "somebody else's root": "/home/x/data/RGB/a.jpg\n/home/x/data/RGB/b.jpg",
    "comments, empty lines": "# two of three\n\na\n\nb\n",
    "backslashes": "RGB\\a.jpg\nRGB\\b.jpg",
}


@pytest.mark.parametrize("form", LISTS)
def test_forms_of_lists(tmp_path, form):
    pairs(tmp_path, [(k, f"RGB/{k}.jpg", f"Modal/{k}.png", f"Label/{k}.png") for k in "abc"])
    (tmp_path / "train.txt").write_text(LISTS[form], encoding="utf-8")
    (tmp_path / "test.txt").write_text("c")
    frames, _ = find_frames(tmp_path)
    assert [f.key for f in choose_frames(tmp_path, frames, "train")] == ["a", "b"]
    assert [f.key for f in choose_frames(tmp_path, frames, "val")] == ["c"]


def test_segnet_lists_and_equal_names(tmp_path):
    pairs(tmp_path, [(k, f"{k}.png", None, f"{k.replace('/', 'annot/')}.png") for k in ("train/1", "val/1")])
    frames, _ = find_frames(tmp_path)
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/1.png /SegNet/CamVid/trainannot/1.png\n")
    assert [f.key for f in choose_frames(tmp_path, frames, "train")] == ["train/1"]
    (tmp_path / "train.txt").write_text("1\n")
    with pytest.raises(DataError, match="stands for 2 frames"):
        choose_frames(tmp_path, frames, "train")


def test_mirrored_frames_need_no_files(tmp_path):
    folder = open_folder(mfnet(tmp_path))
    (tmp_path / "train.txt").write_text("00002N\n00002N_flip\n")
    plain, mirrored = choose_frames(tmp_path, folder.frames, "train")
    first, second = (read_frame(folder, frame, ("thermal",)) for frame in (plain, mirrored))
    np.testing.assert_array_equal(first.numbers[:, ::-1], second.numbers)
    assert first.numbers[0, 0] != second.numbers[0, 0]


def test_folders_without_lists(tmp_path):
    frames, _ = find_frames(pairs(tmp_path, LAYOUTS["msrs"]))
    assert [f.key for f in choose_frames(tmp_path, frames, "train")] == ["train/2N"]
    assert [f.key for f in choose_frames(tmp_path, frames, "val")] == ["test/1D"]
    assert len(choose_frames(tmp_path, frames, "all")) == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: None, "no folder of images was found; expected .*found nothing"),
        (lambda d: write(d / "pictures" / "a.png", 0), "found pictures/"),
    ],
)
def test_what_was_looked_for_and_found_is_said(tmp_path, make, expected):
    make(tmp_path)
    with pytest.raises(DataError, match=expected):
        find_frames(tmp_path)
    with pytest.raises(DataError, match="nowhere: does not exist"):
        find_frames(tmp_path / "nowhere")


def test_faults_of_lists(tmp_path):
    frames, _ = find_frames(pairs(tmp_path, LAYOUTS["cmx"]))
    (tmp_path / "train.txt").write_text("a\nzzz\n")
    with pytest.raises(DataError, match=r"train.txt line 2: no zzz"):
        choose_frames(tmp_path, frames, "train")
    with pytest.raises(DataError, match=r"no val.txt or test.txt"):
        choose_frames(tmp_path, frames, "val")
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="names no frame"):
        choose_frames(tmp_path, frames, "train")


def test_names_that_differ_in_such_a_word_alone_stay_apart(tmp_path):
    for name in ("a", "a_rgb", "b_rgb"):
        write(tmp_path / "images" / f"{name}.png", 1, 3)
    assert [frame.key for frame in find_frames(tmp_path)[0]] == ["a", "a_rgb", "b"]


def test_of_cityscapes_labels_those_for_training_are_taken(tmp_path):
    write(tmp_path / "leftImg8bit/val/x/a_leftImg8bit.png", 1, 3)
    for kind in ("color", "instanceIds", "labelIds", "labelTrainIds"):
        write(tmp_path / f"gtFine/val/x/a_gtFine_{kind}.png", 0)
    (frame,), _ = find_frames(tmp_path)
    assert frame.labels.name == "a_gtFine_labelTrainIds.png"
    frame.labels.unlink()
    (frame,), _ = find_frames(tmp_path)
    assert (frame.labels.name, known_set([frame])) == ("a_gtFine_labelIds.png", "cityscapes-ids")


def test_second_folder_of_any_name(tmp_path):
    pairs(tmp_path, [("a", "RGB/a.jpg", "Polarisation/a.png", "Label/a.png")])
    with pytest.raises(DataError, match="--x-folder"):
        folder = open_folder(tmp_path)
        read_frame(folder, folder.frames[0], ("any",))
    folder = open_folder(tmp_path, "polarisation")
    assert int(read_frame(folder, folder.frames[0], ("any",)).x[0, 0]) == 100
    with pytest.raises(DataError, match="no images in a folder named 'nothing'"):
        open_folder(tmp_path, "nothing")
