from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mm_perception.cli.main import main
from mm_perception.core.errors import EngineError, ModelError
from mm_perception.core.resources import config_dir
from mm_perception.engines import load as loading
from mm_perception.engines.card import ModelCard, find_card, load_card, save_card
from mm_perception.engines.engine import TensorSpec, check_inputs, check_outputs
from mm_perception.engines.load import load_engine
from mm_perception.engines.stamp import (
    file_sha256,
    make_stamp,
    read_stamp,
    require_stamp,
    stamp_path,
    stamp_problems,
    write_stamp,
)

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="the ONNX export needs onnxscript")


@pytest.fixture(scope="module")
def card(small_card: Path) -> ModelCard:
    return load_card(small_card)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tensors(card) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (1, 3, card.input_height, card.input_width)
    return {name: generator.standard_normal(shape, dtype=np.float32) for name in ("rgb", "x")}


@pytest.fixture(scope="module")
def expected(card, tensors) -> np.ndarray:
    engine = load_engine(card, "torch", threads=1)
    logits = engine.run(tensors)["logits"]
    engine.close()
    return logits


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_equal_torch(card, cache, tensors, expected, name):
    pytest.importorskip(name)
    engine = load_engine(card, name, threads=1, cache_dir=cache)
    logits = engine.run(tensors)["logits"]
    assert (engine.name, logits.shape, logits.dtype) == (name, expected.shape, np.float32)
    assert np.abs(logits - expected).max() <= 1e-4
    np.testing.assert_array_equal(engine.run(tensors)["logits"], logits)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(tensors)


def no_gpu(library: str | None = None) -> None:
    raise EngineError("no driver")


def test_auto_takes_the_fastest_that_is_there(card, cache, monkeypatch):
    for missing, chosen in (((), "openvino"), (("openvino",), "onnxruntime"), (("openvino", "onnxruntime"), "torch")):
        monkeypatch.setattr(loading, "installed", lambda package, missing=missing: package not in missing)
        monkeypatch.setattr(loading, "check_tensorrt", no_gpu)
        told: list[str] = []
        engine = load_engine(card, "auto", cache_dir=cache, on_progress=told.append)
        assert engine.name == chosen
        assert sum("passed over" in text for text in told) == len(missing) + 1
        assert "engine tensorrt passed over: no driver" in told
        engine.close()
    monkeypatch.setattr(loading, "installed", lambda package: False)
    with pytest.raises(EngineError, match=r"(?s)tensorrt: no driver.*openvino is not.*torch is not"):
        load_engine(card, "auto", cache_dir=cache)
    with pytest.raises(EngineError, match="no driver"):
        load_engine(card, "tensorrt", cache_dir=cache)


@pytest.mark.parametrize(("name", "expected"), [("abacus", "expected auto"), ("openvino", "pip install openvino")])
def test_engine_that_is_not_there(card, monkeypatch, name, expected):
    monkeypatch.setattr(loading, "installed", lambda package: False)
    with pytest.raises(EngineError, match=expected):
        load_engine(card, name)


def test_exported_file_is_used_again_and_made_again_when_the_card_changes(card, tmp_path):
    told: list[str] = []
    for _ in range(2):
        load_engine(card, "onnxruntime", cache_dir=tmp_path, on_progress=told.append).close()
    assert sum(text.startswith("exporting") for text in told) == 1
    told.clear()
    load_engine(replace(card, weights="random:4"), "onnxruntime", cache_dir=tmp_path, on_progress=told.append).close()
    assert "weights: expected random:4, got random:3" in told[0]


def test_damaged_export_is_not_used(card, cache, tmp_path):
    load_engine(card, "onnxruntime", cache_dir=tmp_path).close()
    (artefact,) = (tmp_path / "onnx").glob("*.onnx")
    data = bytearray(artefact.read_bytes())
    data[len(data) // 2] ^= 255
    artefact.write_bytes(bytes(data))
    told: list[str] = []
    load_engine(card, "onnxruntime", cache_dir=tmp_path, on_progress=told.append).close()
    assert "artefact_sha256" in told[0]


class TestStamp:
    @pytest.fixture
    def artefact(self, tmp_path, card) -> Path:
        path = tmp_path / "m.onnx"
        path.write_bytes(b"network")
        write_stamp(path, make_stamp(card, "random:3", file_sha256(path), ("numpy",)))
        return path

    def test_fits(self, artefact, card):
        assert stamp_problems(artefact, card, "random:3", ("numpy",)) == []
        require_stamp(artefact, card, "random:3", ("numpy",))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("artefact_sha256", "0" * 64),
            ("weights", "random:9"),
            ("card_sha256", "0" * 64),
            ("package_version", "0.0.0"),
            ("tools", {"numpy": "0.1"}),
            ("input_size", (1, 2)),
        ],
    )
    def test_each_difference_is_named(self, artefact, card, field, value):
        stamp = read_stamp(artefact)
        assert stamp is not None
        write_stamp(artefact, replace(stamp, **{field: value}))
        (problem,) = stamp_problems(artefact, card, "random:3", ("numpy",))
        assert problem.startswith(f"{field}: expected")
        with pytest.raises(ModelError, match=field):
            require_stamp(artefact, card, "random:3", ("numpy",))

    def test_missing_or_torn_stamp_is_not_trusted(self, artefact, card):
        text = stamp_path(artefact).read_text()
        stamp_path(artefact).write_text(text[:20])
        assert "no readable stamp" in stamp_problems(artefact, card, "random:3", ())[0]
        artefact.unlink()
        assert stamp_problems(artefact, card, "random:3", ()) == ["the file does not exist"]


SPECS = (TensorSpec("rgb", (1, 3, 4, 4)), TensorSpec("x", (1, 3, 4, 4)))
GOOD = np.zeros((1, 3, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"rgb": GOOD}, ["x: missing"]),
        ({"rgb": GOOD, "x": GOOD, "y": GOOD}, ["y: unexpected"]),
        ({"rgb": GOOD[0], "x": GOOD.astype(np.float64)}, ["rgb float32", "float64"]),
        ({"rgb": GOOD, "x": [0]}, ["numpy array"]),
    ],
)
def test_inputs_that_do_not_fit_are_all_named(inputs, parts):
    with pytest.raises(EngineError) as caught:
        check_inputs(SPECS, inputs, "here")
    for part in parts:
        assert part in str(caught.value)


def test_transposed_inputs_are_made_contiguous():
    turned = np.zeros((4, 4, 3, 1), np.float32).transpose(3, 2, 0, 1)
    assert check_inputs(SPECS, {"rgb": turned, "x": GOOD}, "here")["rgb"].flags.c_contiguous


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_refused(bad):
    output = GOOD.copy()
    output[0, 1, 2, 3] = bad
    with pytest.raises(EngineError, match="1 values that are NaN or infinite"):
        check_outputs(SPECS[:1], {"rgb": output}, "here")


@pytest.mark.parametrize("path", sorted((config_dir() / "models").glob("cmx-*.yaml")), ids=lambda p: p.stem)
def test_shipped_cards_load_and_say_whether_they_are_trained(path):
    card = find_card(path.stem)
    assert card.name == path.stem
    assert card.trained == (not path.stem.endswith("-untrained"))
    assert (card.random_seed is None) == card.trained


def write_card(path: Path, small: Path, **changes: str) -> Path:
    lines = dict(line.split(": ", 1) for line in small.read_text().splitlines())
    path.write_text("".join(f"{k}: {v}\n" for k, v in (lines | changes).items()))
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"variant": "b9"}, "b0 to b5"),
        ({"encoding": "hha"}, "encoding of thermal"),
        ({"classes": "[a, a]"}, "distinct"),
        ({"colour": "1"}, "unknown key"),
        ({"trained": "true"}, "neither trained nor hashed"),
        ({"weights": "net.onnx"}, "weights_sha256"),
        ({"weights": "net.zip"}, "a file"),
        ({"rgb_std": "[0.0, 1.0, 1.0]"}, "rgb_std"),
        ({"input_height": "7"}, "input_height"),
    ],
)
def test_wrong_cards_are_refused(tmp_path, small_card, changes, expected):
    with pytest.raises(ModelError, match=expected):
        load_card(write_card(tmp_path / "card.yaml", small_card, **changes))


def test_cards_come_back(tmp_path, card):
    save_card(card, tmp_path / "copy.yaml")
    assert load_card(tmp_path / "copy.yaml") == card


def test_missing_weights_are_named(tmp_path, small_card):
    card = load_card(write_card(tmp_path / "card.yaml", small_card, weights="gone.pth"))
    with pytest.raises(ModelError, match=r"gone\.pth does not exist"):
        load_engine(card, "torch")


def test_export_command_writes_a_file_that_runs_alone_and_is_refused_when_changed(
    tmp_path, small_card, tensors, expected
):
    assert main(["export", "--model", str(small_card), "--out", str(tmp_path / "net.onnx")]) == 0
    exported = load_card(tmp_path / "net.yaml")
    assert exported.classes == load_card(small_card).classes
    engine = load_engine(exported, "onnxruntime", threads=1)
    assert np.abs(engine.run(tensors)["logits"] - expected).max() <= 1e-4
    engine.close()
    with (tmp_path / "net.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match="weights_sha256"):
        load_engine(exported, "onnxruntime")


def test_checkpoint_of_another_network_is_refused(tmp_path, small_card):
    from mm_perception.models.cmx import build_untrained_cmx

    torch.save(build_untrained_cmx("b0", 4, 64, seed=1).state_dict(), tmp_path / "w.pth")
    card = load_card(write_card(tmp_path / "card.yaml", small_card, weights="w.pth"))
    with pytest.raises(ModelError, match="classes"):
        load_engine(card, "torch")
