from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.cli.main import main
from mm_perception.codec.encode import encode_compressed, encode_image
from mm_perception.codec.image import decode_labels, decode_pixels
from mm_perception.core.errors import BagError
from mm_perception.core.settings import FusionSettings
from mm_perception.metrics.segmentation import ConfusionMatrix
from mm_perception.pipeline.perception import Perception, build_perception
from mm_perception.replay.replay import replay_bag


@pytest.fixture(scope="module")
def perception(small_card: Path) -> Perception:
    return build_perception(FusionSettings(model=str(small_card), engine="onnxruntime"))


def test_replaying_twice_gives_equal_results(perception, demo_bag):
    rounds = []
    for _ in range(2):
        maps = []
        report = replay_bag(demo_bag, perception, on_result=lambda _, r, maps=maps: maps.append(r.segmentation))
        assert (report.frames, report.bundles, report.segmented, report.dropped) == (6, 6, 6, {})
        rounds.append(maps)
    for a, b in zip(*rounds, strict=True):
        np.testing.assert_array_equal(a.class_ids, b.class_ids)


def test_command_scores_against_the_labels_of_the_bag(small_card, tmp_path, capsys):
    """The bag's labels are the network's own answers with a known share of errors."""
    pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)

    def write(path: Path, labels) -> None:
        with BagWriter(path) as bag:
            for i, rgb in enumerate(pictures):
                stamp_ns = 10**18 + i * 10**9
                for topic, pixels in (("rgb", rgb), ("thermal", rgb[..., 0])):
                    message = encode_compressed(bag.factory, pixels, "png", stamp_ns, "cam")
                    bag.write(f"/{topic}/image_raw/compressed", message, stamp_ns)
                if labels is not None:
                    message = encode_image(bag.factory, labels[i], "mono8", stamp_ns, "cam")
                    bag.write("/ground_truth/segmentation", message, stamp_ns)

    write(tmp_path / "plain.mcap", None)
    common = ["--rig", "rgbt", "--model", str(small_card), "--engine", "onnxruntime"]
    out = tmp_path / "results.mcap"
    assert main(["replay", str(tmp_path / "plain.mcap"), *common, "--save-bag", str(out)]) == 0
    with BagReader(out) as bag:
        ids = [decode_pixels(bag.decode(m))[0].copy() for m in bag.messages({"/fusion_node/output/segmentation"})]
    assert len(ids) == 3
    truth = [i.copy() for i in ids]
    truth[0][:24] = (truth[0][:24] + 1) % 19
    truth[1][:] = 255
    write(tmp_path / "labelled.mcap", truth)
    report_folder = tmp_path / "report"
    assert main(["replay", str(tmp_path / "labelled.mcap"), *common, "--out", str(report_folder)]) == 0
    facts = json.loads((report_folder / "report.json").read_text())
    matrix = ConfusionMatrix(19)
    for t, p in zip(truth, ids, strict=True):
        matrix.add(t, p)
    assert facts["scored"] == 3
    assert facts["segmentation"]["pixel_accuracy"] == pytest.approx(0.75)
    assert facts["segmentation"]["miou"] == pytest.approx(matrix.scores().miou, abs=1e-6)
    assert facts["trained"] is False
    assert "untrained" in capsys.readouterr().out
    assert len(list((report_folder / "overlays").glob("*.png"))) == 3


def test_demo_bag_is_scored_on_every_frame(perception, demo_bag):
    report = replay_bag(demo_bag, perception)
    assert report.scored == 6
    assert report.scores is not None
    assert 0 <= report.scores.miou < 0.5  # untrained weights
    with BagReader(demo_bag) as bag:
        labels = [decode_labels(bag.decode(m)) for m in bag.messages({"/sim/rgb/truth/class"})]
    assert {1, 2} <= set(np.unique(labels[0].class_ids).tolist())


def test_bag_of_another_rig_is_a_clear_error(demo_bag, small_card):
    perception = build_perception(FusionSettings(rig="rgbt", model=str(small_card), engine="onnxruntime"))
    with pytest.raises(BagError, match="/rgb/image_raw/compressed"):
        replay_bag(demo_bag, perception)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["replay", "none.mcap"], "no such bag"),
        (["replay", "none.mcap", "--rig", "nonesuch"], "nonesuch"),
        (["replay", "none.mcap", "--model", "nonesuch"], "nonesuch"),
        (["replay", "none.mcap", "--engine", "abacus"], "abacus"),
        (["convert", "kitti", "nowhere", "out.mcap"], "nowhere"),
        (["info", "none.mcap"], "no such bag"),
        (["run", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_input_is_one_clear_line_and_code_2(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_info_lists_topics(demo_bag, capsys):
    assert main(["info", str(demo_bag)]) == 0
    assert "/sim/events" in capsys.readouterr().out
    assert main(["info"]) == 0
    assert "demo" in capsys.readouterr().out


def test_a_damaged_chunk_is_a_named_drop_and_the_rest_is_replayed(perception, demo_bag, tmp_path):
    data = bytearray(demo_bag.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.mcap"
    path.write_bytes(data)
    report = replay_bag(path, perception)
    lost = {reason: count for reason, count in report.dropped.items() if "damaged chunk" in reason}
    assert lost and sum(lost.values()) > 0 and 0 < report.segmented <= 6
