"""`mm-perception train detection` and `evaluate detection`, on frames that are already there."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

from mm_perception.cli.main import main  # noqa: E402
from mm_perception.core.types import Detections3D  # noqa: E402
from mm_perception.engines.card import save_card  # noqa: E402
from mm_perception.engines.detector_card import find_detector_card  # noqa: E402
from mm_perception.sim.actors import DETECTION_CLASSES  # noqa: E402
from mm_perception.sim.detection_frames import DetectionFrame, save_detection_frame  # noqa: E402
from mm_perception.sim.frames import WORLD_VERSION, jpeg_of  # noqa: E402

SHORT = ("--lidar-steps", "2", "--fusion-steps", "1", "--batch", "1", "--threads", "1", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def make_frame(number: int) -> DetectionFrame:
    """A car ahead with its points."""
    generator = np.random.default_rng(number)
    xyz = generator.uniform((8, 1, -0.5), (12, 3, 0.5), (100, 3))
    points = np.c_[xyz, np.full((100, 2), 0.1)].astype(np.float32)
    ahead = np.array([[224.0, -355, 0, 0], [128.0, 0, -355, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    truth = Detections3D(
        np.array([[10, 2, 0]], np.float32), np.array([[4, 2, 1.5]], np.float32), np.zeros(1, np.float32),
        np.zeros((1, 2), np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), DETECTION_CLASSES, "lidar", 0,
    )  # fmt: skip
    picture = np.full((256, 448, 3), 40 * number + 40, np.uint8)
    picture[:, :224] += 80  # a picture of one colour would count as missing
    condition = ("day", "night")[number % 2]
    return DetectionFrame(
        (jpeg_of(picture),) * 6,
        np.stack([ahead] * 6),
        points,
        truth,
        np.array([100]),
        np.ones(1, np.float32),
        condition,
        number,
    )


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames"
    for i in range(2):
        save_detection_frame(make_frame(i), path / f"{i}.npz")
    return path


@pytest.fixture
def world(tmp_path):
    """A cache that looks as if the frames of all sets had been made."""
    for name, count in (("train-0", 2), ("train-1", 1), ("held-out-0", 2)):
        for i in range(count):
            save_detection_frame(
                make_frame(i), tmp_path / "world" / f"detection-{name}-{WORLD_VERSION}" / f"{i:06d}.npz"
            )
    return tmp_path / "world"


@pytest.fixture
def card(tmp_path, micro):
    """The path of a card of a very small network."""
    base = find_detector_card("deepinteraction-tiny-untrained")
    save_card(replace(base, name="small-untrained", variant="micro"), tmp_path / "small.yaml")
    return tmp_path / "small.yaml"


def test_training_on_the_world_is_published_and_evaluated(card, world, tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "detection", "--card", str(card), "--frames", "2", "--val-frames", "1", "--world-cache",
              str(world), "--out", str(out), *SHORT]  # fmt: skip
    assert main([*common, "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "small-untrained: 2 frames, 1 that choose" in told and "evaluate detection" in told
    found = find_detector_card(out / "small.yaml")
    assert found.trained and "seed 3" in found.provenance and "training set 0, 2 frames" in found.provenance
    assert found.measured is not None and {"mAP", "NDS", "mAP.day"} <= set(found.measured)
    assert {p.name for p in out.iterdir()} == {
        "curve.csv", "curve.png", "last.pt", "lidar.pt", "fusion.pt", "small.safetensors", "small.yaml",
    }  # fmt: skip
    picture = cv2.imread(str(out / "curve.png"))
    assert picture is not None and len(np.unique(picture.reshape(-1, 3), axis=0)) > 5

    assert main([*common, "--seed", "3"]) == 2
    assert "resume it" in capsys.readouterr().err
    assert main([*common, "--seed", "4", "--resume"]) == 2
    assert "its recipe differs" in capsys.readouterr().err
    weights = (out / "small.safetensors").read_bytes()
    assert main([*common, "--seed", "3", "--resume"]) == 0
    assert (out / "small.safetensors").read_bytes() == weights
    capsys.readouterr()

    figures, pictures = tmp_path / "figures.json", tmp_path / "pictures"
    options = ["evaluate", "detection", "--frames", "2", "--cache", str(world), "--engine", "torch", "--model",
               str(out / "small.yaml"), "--json", str(figures)]  # fmt: skip
    assert main([*options, "--pictures", str(pictures)]) == 0
    assert "untrained" not in capsys.readouterr().out
    facts = json.loads(figures.read_text(), parse_constant=pytest.fail)
    assert set(facts["mAP"]) == set(facts["NDS"]) == set(facts["interval_95"]) == {"all", "day", "night"}
    assert set(facts["gain"]) == set(facts["gain_interval_95"]) == {"all", "day", "night"}
    for row in (facts["mAP"]["all"], facts["NDS"]["night"], facts["AP"], facts["inference_ms"], facts["far"]["mAP"]):
        assert set(row) == {"fusion", "lidar", "camera-blind"}
    assert facts["frames"] == {"all": 2, "day": 1, "night": 1} and facts["true_boxes"] == {"car": 2}
    assert all(0 <= v <= 1 for v in facts["mAP"]["all"].values()) and facts["model"]["trained"]
    assert facts["small"]["mAP"]["fusion"] is None, "no small thing is there"
    assert facts["seed"] == 0 and facts["machine"] and facts["engine"]["lidar"] == "torch"
    assert [p.name for p in sorted(pictures.glob("*.jpg"))] == ["0000-day.jpg", "0001-night.jpg"]
    assert cv2.imread(str(pictures / "0000-day.jpg")).shape == (512, 3 * 448 + 512, 3)

    assert main([*options, "--lidar-model", str(out / "lidar.pt"), "--overwrite"]) == 0
    again = json.loads(figures.read_text())
    assert again["mAP"]["all"]["fusion"] == facts["mAP"]["all"]["fusion"]
    assert again["lidar_model"]["weights"] == "lidar.pt"


def test_training_on_a_folder_keeps_its_end_for_validation(card, folder, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("precision: float32\nlidar_steps: 50\nval_every: 1\n")
    out = tmp_path / "run"
    options = ["train", "detection", "--card", str(card), "--data", str(folder), "--out", str(out), "--name", "mine"]
    assert main([*options, "--recipe", str(recipe), *SHORT]) == 0
    found = find_detector_card(out / "mine.yaml")
    assert "on frames but its end, 1 frames; best weights chosen on the end of frames, 1 frames" in found.provenance
    rows = (out / "curve.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["lidar", "1"], ["lidar", "2"], ["fusion", "1"]]
    assert "deviation of position" in capsys.readouterr().out


def test_untrained_weights_are_said_to_be(card, world, capsys):
    assert main(["evaluate", "detection", "--frames", "1", "--cache", str(world), "--engine", "torch", "--model",
                 str(card)]) == 0  # fmt: skip
    assert "untrained weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--card", "nothing"], "neither a file nor a name"),
        (["--card", "cmx-tiny-rgb"], "model card"),
        (["--batch", "0"], "batch_size: expected a value in"),
        (["--recipe", "world"], "unknown key"),
        (["--device", "tpu"], "device"),
        (["--name", "a/b"], "name: expected letters"),
        (["--data", "drive.mcap"], "no such bag"),
        (["--data", "/nowhere"], "expected a bag"),
        (["--frames", "0"], "expected frames to train"),
        (["--val", "/tmp"], "--val: belongs to --data"),
        (["--resume"], "expected frames to train"),
    ],
)
def test_training_refuses_wrong_options_before_anything_is_made(tmp_path, capsys, options, said):
    cache, out = tmp_path / "world", tmp_path / "out"
    given = ["train", "detection", "--val-frames", "0"] if options == ["--resume"] else ["train", "detection"]
    assert main([*given, "--world-cache", str(cache), "--out", str(out), *options]) == 2
    message = capsys.readouterr().err
    assert said in message and message.startswith("mm-perception train: ")
    assert not cache.exists() and not out.exists()


def test_training_names_a_damaged_frame_before_it_begins(card, folder, tmp_path, capsys):
    (folder / "1.npz").write_bytes((folder / "1.npz").read_bytes()[:400])
    options = ["train", "detection", "--card", str(card), "--data", str(folder), "--out", str(tmp_path / "out"), *SHORT]
    assert main(options) == 2
    assert "1.npz: is no frame" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*options, "--val", str(folder)]) == 2
    assert "for both" in capsys.readouterr().err


def test_trained_cards_give_their_sizes_only_from_scratch(card, world, tmp_path, capsys):
    path = tmp_path / "trained.yaml"
    save_card(replace(find_detector_card(card), weights="some.pth", trained=True, measured={"mAP": 0.5}), path)
    options = ["train", "detection", "--card", str(path), "--frames", "1", "--val-frames", "1", "--world-cache",
               str(world), "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*options, *SHORT]) == 2
    assert "--from-scratch" in capsys.readouterr().err
    assert main([*options, *SHORT, "--from-scratch", "--seed", "5"]) == 0
    assert "started from random:5" in find_detector_card(tmp_path / "out" / "small.yaml").provenance


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--frames", "0"], "expected --frames of at least 1"),
        (["--seed", "1000"], "--seed in 0..999"),
        (["--model", "nothing"], "neither a file nor a name"),
        (["--lidar-model", "nothing.pt"], "does not exist"),
        (["--engine", "abacus"], "expected auto or one of"),
    ],
)
def test_evaluation_refuses_wrong_options_before_frames_are_made(tmp_path, capsys, options, said):
    cache = tmp_path / "world"
    given = ["evaluate", "detection", "--model", "deepinteraction-tiny-untrained", "--cache", str(cache), *options]
    assert main(given) == 2
    assert said in capsys.readouterr().err
    assert not cache.exists()


def test_evaluation_names_a_damaged_frame(card, world, capsys):
    broken = world / f"detection-held-out-0-{WORLD_VERSION}" / "000001.npz"
    broken.write_bytes(b"nothing")
    options = [
        "evaluate",
        "detection",
        "--frames",
        "2",
        "--cache",
        str(world),
        "--engine",
        "torch",
        "--model",
        str(card),
    ]
    assert main(options) == 2
    assert "000001.npz: is no frame" in capsys.readouterr().err
