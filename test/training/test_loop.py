from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.cli.main import main  # noqa: E402
from mm_perception.core.errors import ConfigError, DataError, ModelError, TrainingError  # noqa: E402
from mm_perception.engines.card import find_card  # noqa: E402
from mm_perception.engines.load import load_engine  # noqa: E402
from mm_perception.models.cmx import build_cmx, build_untrained_cmx  # noqa: E402
from mm_perception.sim.surfaces import CLASSES as CLASSES_OF_WORLD  # noqa: E402
from mm_perception.training.evaluate import evaluate  # noqa: E402
from mm_perception.training.loop import choose_device, class_weights, parameter_groups, train  # noqa: E402
from mm_perception.training.publish import half_state, publish  # noqa: E402
from mm_perception.training.recipe import Recipe  # noqa: E402
from mm_perception.training.samples import MemorySource, Sample  # noqa: E402

CPU = torch.device("cpu")
LEARN = Recipe(epochs=6, batch_size=8, learning_rate=3e-3, scales=(1.0,), val_every=6)
SHORT = Recipe(epochs=2, batch_size=4, ema_decay=0.9, class_weights="sqrt_inverse", clip_norm=5.0, label_smoothing=0.1)


class StopError(Exception):
    """Ends a run from within, as an interrupt does."""


def stop_after(step: int):
    def tell(progress):
        if progress.step >= step:
            raise StopError

    return tell


def states_equal(a, b):
    for (key, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=key)


def test_what_only_x_shows_is_learnt_by_rgb_x_alone(make_card, make_source, tmp_path):
    results = {}
    for modality, encoding in (("thermal", "agc"), ("rgb", "rgb")):
        card = make_card(modality, encoding)
        frames = [make_source(count, seed, shown_in="x") for count, seed in ((64, 1), (8, 2))]
        results[modality] = train(card, *frames, LEARN, tmp_path / modality).best_miou
    assert results["thermal"] > 0.85
    assert results["rgb"] < 0.6


def test_boxes_are_learnt_and_published(make_card, make_source, tmp_path):
    card, frames, val = make_card(), make_source(64, 1), make_source(8, 2)
    result = train(card, frames, val, LEARN, tmp_path / "run")
    assert result.best_miou > 0.9
    assert set(result.evaluation.by_condition) == {"day", "night"}
    report = publish(result.model, card, frames, val, LEARN, tmp_path / "run")
    found = find_card(report.card_path)
    assert (found.name, found.trained, found.variant) == ("toy-thermal", True, "tiny")
    assert found.measured == report.evaluation.figures()
    assert found.measured["miou"] == pytest.approx(result.best_miou, abs=0.01)
    assert "recipe " + LEARN.digest() in found.provenance
    assert report.weights_path.stat().st_size < 1.2 * 2 * sum(p.numel() for p in result.model.parameters()) + 1e5
    engine = load_engine(found, "torch")
    tensors = {name: np.zeros((1, 3, 64, 96), np.float32) for name in ("rgb", "x")}
    with torch.inference_mode():
        expected = result.model(*(torch.zeros(1, 3, 64, 96),) * 2).numpy()
    np.testing.assert_allclose(engine.run(tensors)["logits"], expected, atol=0.02 * np.abs(expected).max())
    engine.close()
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    assert not list((tmp_path / "run").glob(".*"))


class TestResume:
    @pytest.fixture
    def frames(self, make_source):
        return make_source(16, 1), make_source(4, 2)

    @pytest.mark.parametrize("step", [4, 6])
    def test_equals_an_uninterrupted_run(self, make_card, frames, tmp_path, step):
        """Step 4 ends the first of two epochs, step 6 lies within the second."""
        card = make_card()
        torch.manual_seed(1)
        whole = train(card, *frames, SHORT, tmp_path / "whole")
        with pytest.raises(StopError):
            train(card, *frames, SHORT, tmp_path / "parts", on_progress=stop_after(step + 1), save_every_s=0.0)
        torch.manual_seed(2)
        parts = train(card, *frames, SHORT, tmp_path / "parts", resume=True)
        assert (parts.best_miou, parts.steps) == (whole.best_miou, whole.steps) == (whole.best_miou, 8)
        states_equal(parts.model, whole.model)
        last = [torch.load(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts")]
        assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])
        tables = [list(csv.reader((tmp_path / name / "curve.csv").open())) for name in ("whole", "parts")]
        assert tables[0] == tables[1]
        assert [row[0] for row in tables[0]] == ["step", "4", "8"]

    def test_global_random_state_is_left_alone(self, make_card, frames, tmp_path):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        train(make_card(), *frames, replace(SHORT, epochs=1), tmp_path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_other_runs_and_damage_are_refused(self, make_card, make_source, frames, tmp_path):
        card, recipe = make_card(), replace(SHORT, epochs=1)
        with pytest.raises(TrainingError, match="nothing to resume"):
            train(card, *frames, recipe, tmp_path, resume=True)
        train(card, *frames, recipe, tmp_path)
        with pytest.raises(TrainingError, match="a run is there already"):
            train(card, *frames, recipe, tmp_path)
        for changed, expected in (
            ((card, *frames, replace(recipe, seed=5)), r"recipe.seed: expected 0 as in the checkpoint, got 5"),
            ((replace(card, weights="random:4"), *frames, recipe), "card.weights"),
            ((card, make_source(16, 9), frames[1], recipe), "data.train"),
        ):
            with pytest.raises(TrainingError, match=expected):
                train(*changed, tmp_path, resume=True)
        last = tmp_path / "last.pt"
        for content in (last.read_bytes()[:-200], b"", b"no zip at all"):
            last.write_bytes(content)
            with pytest.raises(TrainingError, match="damaged or cut off"):
                train(card, *frames, recipe, tmp_path, resume=True)


def test_ignored_pixels_do_not_matter(make_card, tmp_path):
    """Two sources that differ where the labels are 255 only in what the labels would be give equal weights."""
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 255, (4, 64, 96, 3), np.uint8)
    labels = generator.integers(0, 2, (4, 64, 96)).astype(np.uint8)
    labels[:, :32] = 255
    samples = [Sample(a, a, b) for a, b in zip(rgb, labels, strict=True)]
    unlabelled = [replace(s, labels=np.full_like(s.labels, 255)) for s in samples]
    val = MemorySource(samples, ("ground", "box"), "noise")
    recipe = replace(SHORT, epochs=1, class_weights="none", ema_decay=0.0)
    learnt = train(make_card(), val, val, recipe, tmp_path / "a")
    idle = train(make_card(), MemorySource(unlabelled, val.classes, "empty"), val, recipe, tmp_path / "b")
    start = build_untrained_cmx("tiny", 2, 32, 3)
    states_equal(idle.model, start)
    weight = "decode_head.linear_pred.weight"
    assert not torch.equal(learnt.model.state_dict()[weight], start.state_dict()[weight])
    with pytest.raises(DataError, match="is labelled"):
        evaluate(start, make_card(), MemorySource(unlabelled, val.classes, "empty"), CPU)


def test_a_loss_that_is_not_finite_ends_the_run(make_card, make_source, tmp_path, monkeypatch):
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr("mm_perception.training.loop.F.cross_entropy", lambda *_, **__: nan)
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        train(make_card(), make_source(4, 1), make_source(2, 2), SHORT, tmp_path)


def test_a_budget_of_minutes_is_kept(make_card, make_source, tmp_path):
    shares = []
    recipe = replace(LEARN, minutes=0.05, batch_size=4)
    tell = lambda progress: shares.append(progress.share)  # noqa: E731
    result = train(make_card(), make_source(8, 1), make_source(2, 2), recipe, tmp_path, on_progress=tell)
    assert 2.0 < result.elapsed_s < 6.0
    assert shares == sorted(shares)
    assert 0.5 < shares[-1] <= 1.0


def test_weights_of_rare_classes():
    labels = np.zeros((64, 96), np.uint8)
    labels[:, :24], labels[0, 0] = 1, 3
    labels[1, :] = 255
    source = MemorySource([Sample(*(np.zeros((64, 96, 3), np.uint8),) * 2, labels)], tuple("abcd"), "one")
    common, quarter = (labels == 0).sum(), (labels == 1).sum()
    expected = [1.0, np.sqrt(common / quarter), 1.0, 20.0]
    np.testing.assert_allclose(class_weights(source, 4).numpy(), expected, rtol=1e-6)


def test_norms_and_biases_do_not_decay():
    decayed, free = parameter_groups(build_cmx("tiny", 3, 16), 0.01)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])


def test_half_precision_keeps_statistics_and_refuses_overflow():
    model = build_untrained_cmx("tiny", 3, 16, 0)
    state = half_state(model)
    assert {str(v.dtype) for k, v in state.items() if "running" in k} == {"torch.float32"}
    assert {str(v.dtype) for k, v in state.items() if "num_batches" in k} == {"torch.int64"}
    assert state["decode_head.linear_pred.weight"].dtype == torch.float16
    with torch.no_grad():
        model.decode_head.linear_pred.bias[0] = 1e6
    with pytest.raises(ModelError, match=r"linear_pred.bias: expected finite values up to 65504, got 1e\+06|1000000"):
        half_state(model)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta"])
def test_devices_that_are_not_there(device):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="device"):
        choose_device(device)


def test_sources_must_fit_the_card(make_card, make_source, tmp_path):
    with pytest.raises(DataError, match="classes: expected ground, box"):
        train(make_card(), make_source(2, 1, classes=("a", "b")), make_source(2, 1), SHORT, tmp_path)
    with pytest.raises(DataError, match="no frames"):
        train(make_card(), make_source(0, 1), make_source(2, 1), SHORT, tmp_path)


def test_tiny_goes_through_every_door(make_card, tmp_path):
    """Card, checkpoint, ONNX: the variant of our own is known everywhere."""
    pytest.importorskip("onnxscript", reason="the ONNX export needs onnxscript")
    from mm_perception.engines.export import export_onnx
    from mm_perception.engines.torch_engine import load_network
    from mm_perception.models.checkpoint import load_checkpoint

    card = make_card()
    model = load_network(card)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    again = load_checkpoint(tmp_path / "w.pt")
    assert (again.variant, again.num_classes, again.decoder_dim) == ("tiny", 2, 32)
    report = export_onnx(again, card, tmp_path / "m.onnx")
    assert report.max_abs_diff is None or report.max_abs_diff < 1e-4


def test_command(array_folder, make_card, tmp_path, capsys):
    make_card()
    card, out = tmp_path / "toy-thermal.yaml", tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 50\nscales: [1.0]\n")
    common = ["train", "segmentation", "--card", str(card), "--data", str(array_folder), "--out", str(out)]
    options = ["--recipe", str(recipe), "--epochs", "1", "--batch", "4", "--crop", "48x64", "--threads", "1"]
    assert main([*common, *options]) == 0
    told = capsys.readouterr().out
    assert "frames that chose them" in told
    assert "mm-perception replay" in told
    assert find_card(out / "toy-thermal.yaml").palette == ((0, 0, 0), (255, 0, 0))
    assert main([*common, *options]) == 2
    assert "resume" in capsys.readouterr().err
    assert main([*common, *options, "--resume"]) == 0
    for wrong, expected in (
        (["--crop", "7"], "HxW"),
        (["--epochs", "0"], "epochs"),
        (["--val", str(array_folder)], "--val"),
    ):
        assert main([*common, *wrong]) == 2
        assert expected in capsys.readouterr().err


def test_other_classes_start_from_the_weights_with_a_new_last_layer(make_card, make_source, tmp_path):
    """Fine-tuning: all but the classes is kept."""
    import torch
    from safetensors.torch import save_file

    from mm_perception.engines.torch_engine import load_network
    from mm_perception.training.loop import starting_network

    old = make_card()
    state = load_network(old).state_dict()
    path = tmp_path / "old.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    more = replace(old, classes=(*old.classes, "another"), palette=None, weights=str(path))
    model = starting_network(more, Recipe(seed=4))
    for key, value in model.state_dict().items():
        if "linear_pred" in key:
            assert value.shape[0] == len(more.classes)
        else:
            assert torch.equal(value, state[key]), key
    same = starting_network(replace(old, weights=str(path)), Recipe(seed=4))
    assert torch.equal(same.state_dict()["decode_head.linear_pred.weight"], state["decode_head.linear_pred.weight"])


def test_command_trains_on_simulated_scenes_and_makes_them_once(tmp_path, capsys):
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    from mm_perception.cli.main import main
    from mm_perception.sim.surfaces import CLASSES

    card = tmp_path / "card.yaml"
    card.write_text(
        f"name: small\nvariant: tiny\ndecoder_dim: 16\nclasses: [{', '.join(CLASSES)}]\nmodality: depth\n"
        "encoding: raw\ninput_height: 48\ninput_width: 64\nchannel_order: rgb\ntrained: false\nweights: random:3\n"
    )
    options = ["train", "segmentation", "--card", str(card), "--frames", "3", "--val-frames", "2", "--epochs", "1"]
    cache = tmp_path / "world"
    made = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert main([*options, "--batch", "2", "--from-scratch", "--world-cache", str(cache), "--out", str(out)]) == 0
        made.append({p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")})
    assert len(made[0]) == 8 and made[0] == made[1]
    text = (tmp_path / "two" / "small.yaml").read_text()
    assert "trained: true" in text and "simulated world" in text and "measured: {miou" in text
    first, second = ((tmp_path / name / "small.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second, "the same seed gives the same weights"


@pytest.mark.parametrize(
    ("modality", "encoding", "classes", "options", "said"),
    [
        ("depth", "raw", ("road", "sky"), [], "other classes"),
        ("depth", "hha", CLASSES_OF_WORLD, [], "wants depth hha"),
        ("depth", "raw", CLASSES_OF_WORLD, ["--frames", "0"], "expected frames"),
    ],
)
def test_command_refuses_what_the_world_cannot_train_before_frames_are_made(
    make_card, tmp_path, capsys, modality, encoding, classes, options, said
):
    make_card(modality, encoding, classes)
    card, cache = tmp_path / f"toy-{modality}.yaml", tmp_path / "world"
    given = ["train", "segmentation", "--card", str(card), "--world-cache", str(cache), "--out", str(tmp_path / "out")]
    assert main([*given, *options]) == 2
    assert said in capsys.readouterr().err
    assert not cache.exists()
