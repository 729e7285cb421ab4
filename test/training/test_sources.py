from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.core.errors import BagError, ConfigError, DataError  # noqa: E402
from mm_perception.core.rig import load_rig  # noqa: E402
from mm_perception.datasets.label_map import LabelOptions  # noqa: E402
from mm_perception.sensing.depth import raw_depth_image  # noqa: E402
from mm_perception.training.batches import epoch_order, stack  # noqa: E402
from mm_perception.training.recipe import Recipe  # noqa: E402
from mm_perception.training.samples import Sample, input_tensors, to_input, x_format  # noqa: E402
from mm_perception.training.sources import ArraySource, FolderSource, open_source, separate_split  # noqa: E402


class TestArrays:
    def test_splits_are_apart_and_complete(self, array_folder):
        train, val = (ArraySource(array_folder, "thermal", split) for split in ("train", "val"))
        assert [int(val[i].rgb[0, 0, 0]) for i in range(len(val))] == [4, 9]
        assert [int(train[i].rgb[0, 0, 0]) for i in range(len(train))] == [0, 1, 2, 3, 5, 6, 7, 8]
        sample = val[1]
        assert (sample.condition, int(sample.x[0, 0, 2]), int(sample.labels[0, 0])) == ("night", 90, 1)
        assert train.classes == ("ground", "box")
        assert train.palette == ((0, 0, 0), (255, 0, 0))

    def test_chosen_frames_and_named_splits(self, array_folder):
        chosen = ArraySource(array_folder, "rgb", "train", frames=[7, 2])
        assert [int(chosen[i].x[0, 0, 0]) for i in range(2)] == [7, 2]
        assert separate_split(array_folder, "val") == "all"
        self.change(array_folder, splits=["val"] * 3 + ["train"] * 7)
        assert len(ArraySource(array_folder, "rgb", "val")) == 3
        assert separate_split(array_folder, "val") == "val"
        with pytest.raises(DataError, match="frame 10"):
            ArraySource(array_folder, "rgb", "train", frames=[10])

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"complete": False}, "not complete"),
            ({"conditions": ["day"]}, "conditions: expected 10, got 1"),
            ({"encodings": {"thermal": "kelvin"}}, "expected 'agc', got 'kelvin'"),
            ({"classes": None}, "no list of classes"),
        ],
    )
    def test_wrong_meta(self, array_folder, make_card, change, expected):
        self.change(array_folder, **change)
        with pytest.raises(DataError, match=expected):
            open_source(array_folder, make_card(), "train")

    def test_wrong_arrays(self, array_folder):
        with pytest.raises(DataError, match=r"no depth.npy \(arrays there: labels, rgb, thermal\)"):
            ArraySource(array_folder, "depth", "train")
        np.save(array_folder / "thermal.npy", np.zeros((9, 64, 96), np.uint8))
        with pytest.raises(DataError, match=r"thermal.npy: expected shape \(10, 64, 96\)"):
            ArraySource(array_folder, "thermal", "train")
        cut = (array_folder / "rgb.npy").read_bytes()[:5000]
        (array_folder / "rgb.npy").write_bytes(cut)
        with pytest.raises(DataError, match=r"rgb.npy: is damaged"):
            ArraySource(array_folder, "thermal", "train")

    def test_wrong_labels_are_named(self, array_folder):
        labels = np.zeros((10, 64, 96), np.uint8)
        labels[3, 5, 5], labels[3, 6, 6] = 255, 2
        np.save(array_folder / "labels.npy", labels)
        source = ArraySource(array_folder, "thermal", "all")
        source[2]
        with pytest.raises(DataError, match="frame 3: label 2: expected ids below 2"):
            source[3]

    @staticmethod
    def change(folder, **changes):
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


MFNET = ("unlabeled", "car", "person", "bike", "curve", "car stop", "guardrail", "color cone", "bump")


class TestFolders:
    @pytest.fixture
    def mfnet(self, tmp_path):
        """Two frames with the values of red, green, blue and thermal in their channels; labels 0."""
        for name in ("00001D", "00002N"):
            write(tmp_path / "m" / "images" / f"{name}.png", np.full((64, 96, 4), (30, 20, 10, 40), np.uint8))
            write(tmp_path / "m" / "labels" / f"{name}.png", np.zeros((64, 96), np.uint8))
        (tmp_path / "m" / "train.txt").write_text("00001D\n")
        (tmp_path / "m" / "test.txt").write_text("00002N.png\n\n")
        return tmp_path / "m"

    def test_four_channels(self, mfnet, make_card):
        card = make_card(classes=MFNET)
        train, val = (open_source(mfnet, card, split) for split in ("train", "val"))
        assert (len(train), len(val)) == (1, 1)
        sample = train[0]
        assert (sample.rgb[0, 0].tolist(), sample.x[0, 0].tolist(), sample.condition) == ([10, 20, 30], [40] * 3, "day")
        assert val[0].condition == "night"
        only_rgb = open_source(mfnet, make_card("rgb", "rgb", MFNET), "train")[0]
        np.testing.assert_array_equal(only_rgb.x, only_rgb.rgb)
        with pytest.raises(DataError, match="wants depth raw"):
            open_source(mfnet, make_card("depth", "raw", MFNET), "train")

    def test_labels_of_other_classes_than_the_cards_are_refused(self, mfnet, make_card):
        write(mfnet / "labels" / "00001D.png", np.full((64, 96), 1, np.uint8))
        with pytest.raises(ConfigError, match=r"classes of mfnet.*--label-map"):
            open_source(mfnet, make_card(), "train")
        swapped = ("person", "car", *MFNET[3:], "unlabeled")
        source = open_source(mfnet, make_card(classes=swapped), "train")
        assert (int(source[0].labels[0, 0]), source.assumption) == (1, "")
        said = open_source(mfnet, make_card(), "train", labels=LabelOptions(as_card=True))
        assert int(said[0].labels[0, 0]) == 1

    def test_sixteen_bits(self, tmp_path, make_card):
        depth_mm = np.full((64, 96), 2000, np.uint16)
        depth_mm[0, 0] = 0
        for i in range(2):
            write(tmp_path / "d" / "RGB" / f"{i}.png", np.full((64, 96, 3), 9, np.uint8))
            write(tmp_path / "d" / "Depth" / f"{i}.png", depth_mm)
            write(tmp_path / "d" / "Label" / f"{i}.png", np.full((64, 96), 1, np.uint16))
        sample = open_source(tmp_path / "d", make_card("depth", "raw"), "all")[0]
        expected = x_format("depth").quantise(raw_depth_image(np.array([[2.0]], np.float32)))[0, 0]
        assert sample.x[5, 5].tolist() == expected.tolist() != [0, 0, 0]
        assert sample.x[0, 0].tolist() == [0, 0, 0]
        with pytest.raises(DataError, match="second images"):
            open_source(tmp_path / "d", make_card("depth", "hha"), "all")

    def test_an_unknown_folder_says_what_it_assumes(self, tmp_path, make_card):
        write(tmp_path / "d" / "rgb" / "a.png", np.full((64, 96, 3), 9, np.uint8))
        write(tmp_path / "d" / "ir" / "a.png", np.full((64, 96), 5, np.uint8))
        write(tmp_path / "d" / "labels" / "a.png", np.full((64, 96), 2, np.uint8))
        source = open_source(tmp_path / "d", make_card(), "all", labels=LabelOptions(offset=1))
        assert (int(source[0].labels[0, 0]), source.assumption[:14]) == (1, "numbers 1 to 2")

    def test_three_folders(self, tmp_path, make_card):
        for i in range(5):
            write(tmp_path / "d" / "RGB" / f"{i}.jpg", np.full((64, 96, 3), 9, np.uint8))
            write(tmp_path / "d" / "Modal" / f"{i}.png", np.full((64, 96), 50 + i, np.uint8))
            write(tmp_path / "d" / "Label" / f"{i}.png", np.ones((64, 96), np.uint8))
        val = open_source(tmp_path / "d", make_card("depth", "raw"), "val")
        assert (len(val), val[0].x[0, 0].tolist()) == (1, [54] * 3)

    def test_faults_are_named(self, mfnet, make_card):
        (mfnet / "images" / "00001D.png").rename(mfnet / "images" / "other.png")
        with pytest.raises(DataError, match="no 00001D"):
            open_source(mfnet, make_card(classes=MFNET), "train")[0]
        write(mfnet / "labels" / "00002N.png", np.full((64, 96), 9, np.uint8))
        with pytest.raises(DataError, match=r"00002N\.png: label 9"):
            open_source(mfnet, make_card(classes=MFNET), "val")[0]
        write(mfnet / "labels" / "00002N.png", np.zeros((32, 96), np.uint8))
        with pytest.raises(DataError, match="do not align"):
            open_source(mfnet, make_card(classes=MFNET), "val")[0]
        with pytest.raises(DataError, match="expected the folders"):
            FolderSource(mfnet / "images", "train", make_card())
        with pytest.raises(DataError, match="does not exist"):
            open_source(mfnet / "nothing", make_card(), "train")


NINETEEN = tuple(f"class {i}" for i in range(19))


@pytest.fixture(scope="module")
def short_bag(tmp_path_factory):
    """Two frames of a street."""
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    from mm_perception.sim.scenario import Scenario
    from mm_perception.sim.simulate import simulate

    path = tmp_path_factory.mktemp("bag") / "short.mcap"
    simulate(Scenario(seed=1), load_rig("demo"), 0.2, path, workers=1)
    return path


@pytest.mark.parametrize("modality", ["rgb", "thermal", "depth", "events", "lidar"])
def test_bags_give_what_the_pipeline_sees(short_bag, make_card, modality):
    """The batch made from a bag's samples equals the inputs of the replay but for the 8 bits."""
    from mm_perception.bags.reader import BagReader
    from mm_perception.engines.card import ENCODINGS
    from mm_perception.pipeline.intake import Intake
    from mm_perception.pipeline.segmentation import InputEncoder
    from mm_perception.replay.replay import observations

    card, rig = make_card(modality, ENCODINGS[modality][-1], NINETEEN), load_rig("demo")
    source = open_source(short_bag, card, "all", rig=rig)
    with BagReader(short_bag) as bag:
        inputs = [InputEncoder(card, rig).tensors(o) for o in observations(bag, Intake(rig))]
    assert len(source) == len(inputs) == 2
    rgb, x, labels = stack([source[1]], card, torch.device("cpu"))
    np.testing.assert_allclose(rgb.numpy(), inputs[1]["rgb"], atol=1e-5)
    step = 0.51 * x_format(modality).gain / min(card.x_std)
    clear = np.abs(inputs[1]["x"]) < 15  # events beyond 4 deviations are cut
    np.testing.assert_allclose(x.numpy()[clear], inputs[1]["x"][clear], atol=step)
    assert labels.shape == (1, 64, 96)


def test_bag_without_what_is_needed(short_bag, make_card):
    rig = load_rig("demo")
    with pytest.raises(DataError, match="label"):
        open_source(short_bag, make_card(), "train", rig=rig)
    with pytest.raises(BagError, match="no label images"):
        open_source(short_bag, make_card(), "train", rig=replace(rig, labels="/nothing"))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("modality", ["rgb", "thermal", "events"])
def test_batches_equal_the_pipelines_tensors(make_card, order, modality):
    encoding = {"rgb": "rgb", "thermal": "agc", "events": "voxel"}[modality]
    card = replace(make_card(modality, encoding), channel_order=order, x_mean=(0.1, 0.2, 0.3), x_std=(0.4, 0.5, 0.6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 64, 96, 3), np.uint8)
    samples = [Sample(rgb, rgb if modality == "rgb" else x, np.zeros((64, 96), np.uint8)) for rgb, x in pixels]
    rgb, x, _ = stack(samples, card, torch.device("cpu"))
    for i, sample in enumerate(samples):
        expected_rgb, expected_x = input_tensors(sample, card)
        np.testing.assert_allclose(rgb[i].numpy(), expected_rgb[0], rtol=0, atol=5e-7)
        np.testing.assert_allclose(x[i].numpy(), expected_x[0], rtol=0, atol=2e-6)


def test_event_steps():
    form = x_format("events")
    values = np.array([-4.0, -0.5, 0.0, 0.5, 3.96875, 99.0], np.float32).reshape(1, 2, 3)
    assert form.quantise(values).reshape(-1).tolist() == [0, 112, 128, 144, 255, 255]


def test_letterboxed_samples(make_card):
    card = replace(make_card(), resize="letterbox")
    sample = Sample(*(np.full((64, 64, 3), 200, np.uint8) for _ in range(2)), np.ones((64, 64), np.uint8))
    placed, placement = to_input(sample, card)
    assert (placement.left, placement.width) == (16, 64)
    assert (placed.labels[:, :16] == 255).all()
    assert (placed.labels[:, 16:80] == 1).all()
    np.testing.assert_array_equal(placement.restore(placed.labels), sample.labels)


def test_order_of_an_epoch():
    recipe = Recipe(batch_size=4)
    first, again, second = (epoch_order(10, recipe, epoch) for epoch in (0, 0, 1))
    assert [len(batch) for batch in first] == [4, 4]
    assert len(set(np.concatenate(first).tolist())) == 8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert [len(batch) for batch in epoch_order(3, recipe, 0)] == [3]


@pytest.mark.parametrize("rgb", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 5, 3), np.uint8)])
def test_samples_are_checked(rgb):
    with pytest.raises(DataError, match="sample rgb"):
        Sample(rgb, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
