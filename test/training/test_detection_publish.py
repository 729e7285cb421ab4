"""From a trained detector to shipped files: what is written is what was trained, and nothing is half there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

from mm_perception.core.detector import VARIANTS  # noqa: E402
from mm_perception.core.errors import ConfigError, DataError, ModelError, TrainingError  # noqa: E402
from mm_perception.core.types import Detections3D  # noqa: E402
from mm_perception.engines.card import save_card  # noqa: E402
from mm_perception.engines.detector_card import find_detector_card  # noqa: E402
from mm_perception.engines.load import load_engine  # noqa: E402
from mm_perception.engines.torch_engine import load_detector_network  # noqa: E402
from mm_perception.metrics.nuscenes_format import scored_boxes  # noqa: E402
from mm_perception.models.deepinteraction.model import untrained_detector  # noqa: E402
from mm_perception.sim.detection_frames import save_detection_frame  # noqa: E402
from mm_perception.training.detection_publish import (  # noqa: E402
    compare_networks,
    count_same,
    deviations,
    publish_detector,
)
from mm_perception.training.detection_recipe import DetectorRecipe  # noqa: E402
from mm_perception.training.detection_run import (  # noqa: E402
    FrameSet,
    check_card,
    frames_at,
    train_detector,
    without_last,
)

RECIPE = DetectorRecipe(lidar_steps=1, fusion_steps=1, batch_size=1, val_every=1, warmup=1)


@pytest.fixture
def card(micro):
    """Of a very small network."""
    return replace(find_detector_card("deepinteraction-tiny-untrained"), name="toy-untrained", variant="micro")


@pytest.fixture
def network(card):
    return untrained_detector(VARIANTS["micro"], len(card.classes), 3).eval()


@pytest.fixture
def frames(frame, tmp_path):
    folder = tmp_path / "frames"
    save_detection_frame(frame, folder / "0.npz")
    save_detection_frame(replace(frame, condition="night"), folder / "1.npz")
    return frames_at(folder)


def publish(network, card, frames, folder, **settings):
    return publish_detector(network, card, "many, 9 frames", str(frames), frames.files, RECIPE, folder, **settings)


def test_published_weights_are_the_trained_ones_in_half_precision(network, card, frames, tmp_path):
    report = publish(network, card, frames, tmp_path / "out")
    found = find_detector_card(tmp_path / "out" / "toy.yaml")
    assert (found.name, found.trained, found.variant) == ("toy", True, "micro")
    assert found == report.card and found.weights_path == report.weights_path.resolve()
    again = load_detector_network(found).state_dict()
    for name, value in network.state_dict().items():
        exact = not value.is_floating_point() or name.endswith(("running_mean", "running_var"))
        torch.testing.assert_close(again[name], value if exact else value.half().float(), rtol=0, atol=0, msg=name)
    assert set(report.figures) == {
        "mAP",
        "NDS",
        "AP.car",
        *(f"{m}.{c}" for m in ("mAP", "NDS") for c in ("day", "night")),
    }
    assert found.measured == {k: v for k, v in report.figures.items() if not k.startswith("AP.")}
    for part in ("many, 9 frames", "frames, 2 frames", "random:0", "seed 0", RECIPE.digest(), "commit"):
        assert part in found.provenance
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["toy.safetensors", "toy.yaml"]
    load_engine(found, "torch").close()


@pytest.mark.parametrize("broken_at", ["publish.save_file", "detection_publish.compare_networks", "publish.save_card"])
def test_an_interrupted_publishing_leaves_no_card_and_nothing_half_written(
    network, card, frames, tmp_path, monkeypatch, broken_at
):
    def stop(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"mm_perception.training.{broken_at}", stop)
    with pytest.raises(KeyboardInterrupt):
        publish(network, card, frames, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_card_of_other_weights_never_stays(network, card, frames, tmp_path, monkeypatch):
    """Published again, and stopped before the new card is whole: old card and old weights stay together."""
    publish(network, card, frames, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("toy.*")}
    other = untrained_detector(VARIANTS["micro"], len(card.classes), 4).eval()
    real, calls = save_card, []

    def stop_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr("mm_perception.training.publish.save_card", stop_second)
    with pytest.raises(KeyboardInterrupt):
        publish(other, card, frames, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("toy.*")} == before and len(before) == 2
    assert not list(tmp_path.glob(".*"))


def test_failed_checks_leave_what_was_there(network, card, frames, tmp_path):
    publish(network, card, frames, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.glob("toy.*")}
    huge = untrained_detector(VARIANTS["micro"], len(card.classes), 4).eval()
    with torch.no_grad():
        huge.pts_bbox_head.heatmap_head[1].bias[0] = 1e6
    with pytest.raises(ModelError, match=r"heatmap_head.1.bias: expected finite values"):
        publish(huge, card, frames, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.glob("toy.*")} == before and len(before) == 2


def test_other_weights_do_not_agree(network, card, frames):
    same = compare_networks(network, network, card, frames.files, torch.device("cpu"))
    assert same.heatmap == 0.0 and same.same == same.boxes
    other = untrained_detector(VARIANTS["micro"], len(card.classes), 3).eval()
    with torch.no_grad():
        other.pts_bbox_head.heatmap_head[1].bias += 1.0
    with pytest.raises(ModelError, match="heatmaps of the fp16 weights differ"):
        compare_networks(network, other, card, frames.files, torch.device("cpu"))
    with torch.no_grad():
        other.pts_bbox_head.heatmap_head[1].bias.fill_(float("nan"))
    with pytest.raises((ModelError, DataError), match=r"nan|finite"):
        compare_networks(network, other, card, frames.files, torch.device("cpu"))


def test_moved_boxes_do_not_agree(network, card, frames):
    """Heatmaps alone do not tell: boxes come from other layers."""
    confident = replace(card, min_score=0.0)
    other = untrained_detector(VARIANTS["micro"], len(card.classes), 3).eval()
    with torch.no_grad():
        other.pts_bbox_head.pred_head[-1].center[1].bias += 3.0
        other.pts_bbox_head.prediction_heads[0].center[1].bias += 3.0
    with pytest.raises(ModelError, match=r"find \d+ of \d+ boxes"):
        compare_networks(network, other, confident, frames.files, torch.device("cpu"))


def detections(*rows):
    """Cars: x, y, yaw, score."""
    table = np.array(rows, np.float32).reshape(-1, 4)
    n = len(table)
    return Detections3D(
        np.c_[table[:, :2], np.zeros(n, np.float32)], np.ones((n, 3), np.float32), table[:, 2].copy(),
        np.zeros((n, 2), np.float32), table[:, 3].copy(), np.zeros(n, np.int32), ("car", "barrier"), "lidar", 0,
    )  # fmt: skip


def test_boxes_that_swapped_places_are_the_same():
    first = detections((1, 2, 0, 0.9), (5, 5, 0, 0.5))
    assert count_same(first, detections((5.1, 5, 0, 0.52), (1, 2.1, 0, 0.9))) == 2
    assert count_same(first, detections((5.3, 5, 0, 0.5), (1, 2, 0, 0.8))) == 0
    assert count_same(first, replace(first, labels=np.ones(2, np.int32))) == 0
    assert count_same(first, detections()) == 0 == count_same(detections(), first)


def test_deviations_are_those_that_were_drawn():
    generator = np.random.default_rng(0)
    truth = detections(*((4 * i - 40, 4 * j - 20, 0.5, 1) for i in range(20) for j in range(10)))
    noise = generator.normal(0, 1, (len(truth), 3)) * (0.2, 0.2, 0.1)
    moved = np.c_[truth.centers[:, :2] + noise[:, :2], 0.5 + noise[:, 2], np.full(len(truth), 0.7)]
    found = detections(*moved, *((4 * i - 40, 4 * j - 20, 3.0, 0.05) for i in range(20) for j in range(10)))
    position, yaw = deviations([scored_boxes(truth)], [scored_boxes(found)], 0.1)
    assert position == {"car": pytest.approx(0.2, rel=0.1)} and yaw == {"car": pytest.approx(0.1, rel=0.15)}
    few = deviations([scored_boxes(truth)], [scored_boxes(detections(*moved[:9]))], 0.1)
    assert few == ({}, {}), "nine boxes tell too little"


def test_barriers_have_no_front():
    places = [(4 * i - 20, 3, 0.0, 1) for i in range(10)]
    truth = replace(detections(*places), labels=np.ones(10, np.int32))
    turned = replace(truth, yaw_rad=np.full(10, math.pi - 0.1, np.float32))
    assert deviations([scored_boxes(truth)], [scored_boxes(turned)], 0.1)[1]["barrier"] == pytest.approx(
        0.125, abs=1e-3
    )


def test_deviations_survive_the_card_and_impossible_ones_do_not(card, tmp_path):
    some = replace(card, position_deviation_m={"car": 0.25}, yaw_deviation_rad={"car": 0.1, "barrier": 0.0})
    save_card(some, tmp_path / "card.yaml")
    assert find_detector_card(tmp_path / "card.yaml") == some
    text = (tmp_path / "card.yaml").read_text()
    for wrong, said in (
        ("boat: 1.0", "boat is no class"),
        ("car: -1.0", "expected a value in"),
        ("car: .inf", "finite"),
    ):
        (tmp_path / "wrong.yaml").write_text(text.replace("{car: 0.25}", f"{{{wrong}}}"))
        with pytest.raises(ModelError, match=said):
            find_detector_card(tmp_path / "wrong.yaml")


def test_frames_of_folders(frames, tmp_path):
    assert len(frames) == 2 and str(frames) == "frames, 2 frames"
    train, val = without_last(frames)
    assert train.files + val.files == frames.files and len(val) == 1
    with pytest.raises(DataError, match="at least 2"):
        without_last(val)
    (tmp_path / "empty").mkdir()
    for wrong, kind, said in (
        (tmp_path / "nothing", ConfigError, "expected a bag"),
        (tmp_path / "empty", DataError, "holds no frames"),
    ):
        with pytest.raises(kind, match=said):
            frames_at(wrong)
    frames.files[1].write_bytes(frames.files[1].read_bytes()[:300])
    with pytest.raises(DataError, match=r"1.npz: is no frame .* remove it"):
        frames_at(tmp_path / "frames")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("car",)}, "other classes"),
        ({"variant": "full-voxels"}, "with pillars"),
        ({"channel_order": "bgr"}, "rgb"),
        ({"weights": "some.pth"}, "from random ones"),
    ],
)
def test_cards_that_no_training_gives_weights_for(card, changes, said):
    check_card(card)
    with pytest.raises(ConfigError, match=said):
        check_card(replace(card, **changes))


def test_training_of_frames_of_another_size_is_refused(card, frames, tmp_path):
    with pytest.raises(ConfigError, match="takes pictures of"):
        train_detector(replace(card, variant="full"), RECIPE, frames, frames, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_breaks_leaves_its_curve(card, frames, tmp_path):
    frames.files[0].write_bytes(b"")
    others = FrameSet(frames.files[1:], "one")
    with pytest.raises(DataError, match="remove it"):
        train_detector(
            card, RECIPE, FrameSet(frames.files[::-1], "two"), FrameSet(frames.files[::-1], "bad"), tmp_path / "a"
        )
    assert (tmp_path / "a" / "curve.png").stat().st_size > 1000
    with pytest.raises(TrainingError, match="resume it"):
        (tmp_path / "a" / "last.pt").write_bytes(b"")
        train_detector(card, RECIPE, others, others, tmp_path / "a")
