"""Training of a very small detector: it learns, can be interrupted, and knows its own runs."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

from mm_perception.core.detector import VARIANTS  # noqa: E402
from mm_perception.core.errors import DataError, TrainingError  # noqa: E402
from mm_perception.sim.detection_frames import save_detection_frame  # noqa: E402
from mm_perception.training.detection_loop import COLUMNS, DetectorTraining, in_lidar_stream  # noqa: E402
from mm_perception.training.detection_losses import image_hills  # noqa: E402
from mm_perception.training.detection_recipe import DetectorRecipe  # noqa: E402

pytestmark = pytest.mark.usefixtures("micro")
SHORT = DetectorRecipe(lidar_steps=4, fusion_steps=3, batch_size=1, val_every=2, warmup=1)


@pytest.fixture
def frames(frame, tmp_path):
    paths = [tmp_path / "frames" / f"{i}.npz" for i in range(2)]
    for path in paths:
        save_detection_frame(frame, path)
    return paths


def training(frames, out, recipe=SHORT, **settings):
    return DetectorTraining(VARIANTS["micro"], recipe, frames, frames, out, **settings)


class StopError(Exception):
    """Ends a run from within, as an interrupt does."""


def test_the_lidar_stage_learns_a_frame_by_heart(frames, tmp_path):
    calm = DetectorRecipe(
        lidar_steps=60, fusion_steps=0, batch_size=1, val_every=60, warmup=5, lidar_rate=5e-3, turn_rad=0.0,
        shift_m=0.0, scale=0.0, mirror=False, brightness=0.0, drop_camera=0.0,
    )  # fmt: skip
    losses = []
    training(frames[:1], tmp_path / "out", calm).run(lambda report: losses.append(report.loss))
    assert np.mean(losses[-5:]) < 0.35 * np.mean(losses[:5])


def test_stages_train_their_own_parts_and_leave_a_curve(frames, tmp_path):
    run = training(frames, tmp_path / "out")
    before = {k: v.clone() for k, v in run.network.state_dict().items()}
    stages = []
    scores = run.run(lambda report: stages.append(report.stage))
    assert stages == ["lidar"] * 4 + ["fusion"] * 3 and 0 <= scores.mean_ap <= 1
    first = torch.load(tmp_path / "out" / "lidar.pt", weights_only=True)["state_dict"]
    last = run.network.state_dict()
    for name, _ in run.network.named_parameters():
        if in_lidar_stream(name):
            assert torch.equal(first[name], last[name]), name
        else:
            assert torch.equal(first[name], before[name]), name
    assert any(not torch.equal(first[n], last[n]) for n, _ in run.network.named_parameters() if not in_lidar_stream(n))
    rows = list(csv.reader((tmp_path / "out" / "curve.csv").open()))
    assert tuple(rows[0]) == COLUMNS and {row[0] for row in rows[1:]} == {"lidar", "fusion"}


@pytest.mark.parametrize("stop_after", [2, 5])
def test_an_interrupted_run_goes_on_to_the_same_weights(frames, tmp_path, stop_after, monkeypatch):
    monkeypatch.setattr("mm_perception.training.detection_loop.SAVE_EVERY_S", 0.0)
    whole = training(frames, tmp_path / "whole")
    whole.run()
    done = []

    def stop(report):
        done.append(report)
        if len(done) == stop_after + 1:  # what comes after the last checkpoint is lost
            raise StopError

    with pytest.raises(StopError):
        training(frames, tmp_path / "cut").run(stop)
    resumed = training(frames, tmp_path / "cut", resume=True)
    resumed.run()
    for (name, a), b in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_runs_are_not_mixed_up(frames, tmp_path):
    training(frames, tmp_path / "out").save()
    with pytest.raises(TrainingError, match="resume it"):
        training(frames, tmp_path / "out")
    with pytest.raises(TrainingError, match="recipe differs"):
        training(frames, tmp_path / "out", replace(SHORT, seed=1), resume=True)
    with pytest.raises(TrainingError, match="nothing to resume"):
        training(frames, tmp_path / "new", resume=True)
    with pytest.raises(DataError, match="expected frames"):
        DetectorTraining(VARIANTS["micro"], SHORT, [], frames, tmp_path / "none")


def test_a_loss_that_is_not_finite_ends_the_run(frames, tmp_path):
    run = training(frames, tmp_path / "out")
    with torch.no_grad():
        run.network.pts_bbox_head.heatmap_head[1].bias.fill_(float("nan"))
    with pytest.raises((TrainingError, DataError), match=r"finite|loss is nan"):
        run.run()


def test_hills_in_images_stand_where_boxes_show():
    places = np.array([[[0.0, 0.0], [np.nan, np.nan]], [[0.9, -0.9], [5.0, 5.0]]])
    hills = image_hills(places, np.array([1, 0]), (2, 8, 10))
    assert hills[0, 1, 4, 5] == 1.0 and hills[1, 1, 0, 9] == 1.0
    assert hills[:, 0].max() == 0.0


def test_rates_rise_and_fall():
    recipe = DetectorRecipe(lidar_steps=100, warmup=10)
    rates = [recipe.rate("lidar", step) for step in range(100)]
    assert (
        rates[0] < rates[5] < max(rates) == pytest.approx(recipe.lidar_rate, rel=0.03) and rates[-1] < 0.01 * rates[10]
    )
