"""RGB-D folders to bags, each layout made here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.cli.main import main
from mm_perception.codec.image import decode_depth, decode_image, decode_labels

H, W, N = 24, 32, 3


def color(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, (H, W, 3), np.uint8)


def numbers(i: int) -> np.ndarray:
    depth = np.random.default_rng(10 + i).integers(300, 60_000, (H, W)).astype(np.uint16)
    depth[:3] = 0
    return depth


def write(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def folders(root, i, depth):
    write(root / "RGB" / f"{i}.png", color(i))
    write(root / "Depth" / f"{i}.png", depth)
    write(root / "Label" / f"{i}.png", np.full((H, W), i, np.uint8))


def beside(root, i, depth):
    write(root / f"frame-{i:06d}.color.png", color(i))
    write(root / f"frame-{i:06d}.depth.png", depth)


def benchmark(root, i, depth):
    stamp_s = 1305031102.175304 + 0.1 * i
    write(root / "rgb" / f"{stamp_s:.6f}.png", color(i))
    write(root / "depth" / f"{stamp_s + 0.012:.6f}.png", depth)
    for name, stamp in (("rgb", stamp_s), ("depth", stamp_s + 0.012)):
        path = root / f"{name}.txt"
        before = path.read_text() if path.exists() else "# timestamp filename\n"
        path.write_text(before + f"{stamp:.6f} {name}/{stamp:.6f}.png\n")


@pytest.mark.parametrize("layout", [folders, beside, benchmark])
@pytest.mark.parametrize("unit", [None, 0.0002])
def test_pairs_come_into_the_bag_in_metres(tmp_path, layout, unit):
    for i in range(N):
        layout(tmp_path / "set", i, numbers(i))
    options = [] if unit is None else ["--depth-unit", str(unit)]
    out = tmp_path / "out.mcap"
    assert main(["convert", "rgbd", str(tmp_path / "set"), str(out), *options]) == 0
    with BagReader(out) as bag:
        colors = [decode_image(bag.decode(m)) for m in bag.messages({"/rgb/image_raw/compressed"})]
        depths = [decode_depth(bag.decode(m)) for m in bag.messages({"/depth/image_raw"})]
        labels = [decode_labels(bag.decode(m)) for m in bag.messages({"/ground_truth/segmentation"})]
    assert len(colors) == len(depths) == N
    for i in range(N):
        np.testing.assert_array_equal(colors[i].image, color(i)[..., ::-1])
        expected = np.where(numbers(i) > 0, numbers(i) * (unit or 0.001), np.nan)
        np.testing.assert_allclose(depths[i].depth_m, expected, rtol=1e-5)
        assert colors[i].stamp_ns == depths[i].stamp_ns
    assert [one.class_ids[0, 0] for one in labels] == ([0, 1, 2] if layout is folders else [])
    if layout is benchmark:
        assert abs(colors[1].stamp_ns - 1305031102_275304000) < 1000


def test_numbers_whose_bits_were_rotated(tmp_path):
    plain = numbers(0)
    beside(tmp_path / "set", 0, ((plain << 3) | (plain >> 13)).astype(np.uint16))
    out = tmp_path / "out.mcap"
    # Rotated to the left by three: reading turns them to the right.
    assert main(["convert", "rgbd", str(tmp_path / "set"), str(out), "--depth-form", "rotated"]) == 0
    with BagReader(out) as bag:
        (depth,) = [decode_depth(bag.decode(m)) for m in bag.messages({"/depth/image_raw"})]
    np.testing.assert_allclose(depth.depth_m, np.where(plain > 0, plain * 0.001, np.nan), rtol=1e-5)


@pytest.mark.parametrize("depth", [color(9), np.full((H, W), 7, np.uint8)])
def test_pictures_of_depth_are_refused(tmp_path, depth, capsys):
    beside(tmp_path / "set", 0, depth)
    assert main(["convert", "rgbd", str(tmp_path / "set"), str(tmp_path / "out.mcap")]) == 2
    assert "is no distance" in capsys.readouterr().err
    assert not (tmp_path / "out.mcap").exists()


@pytest.mark.parametrize("options", [["rgbt", "--depth-unit", "0.1"], ["kitti", "--depth-form", "plain"]])
def test_units_of_other_sets_are_refused(tmp_path, options, capsys):
    kind, *more = options
    assert main(["convert", kind, str(tmp_path), str(tmp_path / "out.mcap"), *more]) == 2
    assert "are of rgbd" in capsys.readouterr().err


def test_a_converted_bag_is_segmented(tmp_path):
    for i in range(N):
        beside(tmp_path / "set", i, numbers(i))
    out = tmp_path / "out.mcap"
    assert main(["convert", "rgbd", str(tmp_path / "set"), str(out)]) == 0
    line = ["replay", str(out), "--rig", "rgbd", "--model", "cmx-tiny-rgb-depth", "--engine", "onnxruntime"]
    assert main(line) == 0
