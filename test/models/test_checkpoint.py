from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from mm_perception.core.errors import ModelError
from mm_perception.models import cmx
from mm_perception.models.checkpoint import load_checkpoint, load_imagenet_backbone, read_state_dict


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return cmx.build_untrained_cmx("b0", 7, 24, seed=3).state_dict()


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    own = cmx.build_untrained_cmx("b0", 2, 8, seed=4).backbone.state_dict()
    encoder = {k: v for k, v in own.items() if not k.startswith(("FRMs", "FFMs", "extra_"))}
    return {**encoder, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def _with_prefix(state: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((f"module.{key}", value) for key, value in state.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": _with_prefix(s), "optimizer": {"lr": 1.0}, "epoch": 3, "iteration": 9},
        lambda s: {"model": s, "state_dict": {}},
        lambda s: {"state_dict": s},
        lambda s: {"module": s},
        lambda s: s,
        _with_prefix,
    ],
)
def test_every_published_wrapping_is_read(tmp_path: Path, state: dict[str, torch.Tensor], wrap):
    torch.save(wrap(state), tmp_path / "weights.pth")
    model = load_checkpoint(tmp_path / "weights.pth")
    assert (model.variant, model.num_classes, model.decoder_dim, model.training) == ("b0", 7, 24, False)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_safetensors_are_read(tmp_path: Path, state: dict[str, torch.Tensor]):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, tmp_path / "weights.safetensors")
    model = load_checkpoint(tmp_path / "weights.safetensors", num_classes=7, decoder_dim=24)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_loading_gives_the_network_that_was_saved(tmp_path: Path):
    model = cmx.build_untrained_cmx("b0", 3, 16, seed=5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    rgb, x = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(tmp_path / "w.pth")(rgb, x), model(rgb, x))


def _drop(state: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: _drop(s, "backbone.norm1.bias"), r"1 missing: backbone\.norm1\.bias"),
        (lambda s: {**s, "backbone.norm5.bias": torch.zeros(1)}, r"1 unexpected: backbone\.norm5\.bias"),
        (
            lambda s: {**s, "backbone.norm1.bias": torch.zeros(3)},
            r"1 of another shape: backbone\.norm1\.bias \(expected \(32,\), got \(3,\)\)",
        ),
        (lambda s: {k: v for k, v in s.items() if "FRMs" not in k}, r"32 missing: backbone\.FRMs\.0.*, …"),
        (lambda s: _drop(s, "backbone.patch_embed3.proj.weight"), r"patch_embed3\.proj\.weight is missing"),
        (lambda s: _drop(s, "decode_head.linear_pred.weight"), r"linear_pred\.weight is missing"),
        (lambda s: {k: v for k, v in s.items() if "block3.1" not in k}, r"depths \(2, 2, 1, 2\) \(known: b0"),
        (lambda s: {"conv.weight": torch.zeros(2)}, r"first keys are: conv\.weight"),
        (lambda s: {"model": {"a": 3}}, r"tensors only.*: a"),
        (lambda s: {}, r"an empty mapping"),
        (lambda s: [1, 2], r"expected a mapping of tensors, got list"),
    ],
)
def test_a_wrong_checkpoint_names_the_first_misfits(tmp_path: Path, state: dict[str, torch.Tensor], spoil, message):
    torch.save(spoil(state), tmp_path / "wrong.pth")
    with pytest.raises(ModelError, match=message) as caught:
        load_checkpoint(tmp_path / "wrong.pth")
    assert str(tmp_path / "wrong.pth") in str(caught.value)


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a weights file at all" * 20])
def test_a_damaged_file_is_an_error(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        read_state_dict(tmp_path / name)


def test_a_truncated_file_is_an_error(tmp_path: Path, state: dict[str, torch.Tensor]):
    torch.save(state, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"w\.pth"):
        read_state_dict(tmp_path / "w.pth")


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match=r"nowhere\.pth: does not exist"):
        load_checkpoint(tmp_path / "nowhere.pth")


class _Payload:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_file_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"model": _Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="more than tensors"):
        load_checkpoint(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(("classes", "width"), [(8, None), (None, 512)])
def test_an_expectation_that_the_file_does_not_meet(tmp_path: Path, state, classes, width):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"expected (8 classes, got 7|512 decoder width, got 24)"):
        load_checkpoint(tmp_path / "w.pth", num_classes=classes, decoder_dim=width)


def test_imagenet_weights_go_into_both_branches(tmp_path: Path, imagenet: dict[str, torch.Tensor]):
    torch.save(imagenet, tmp_path / "mit_b0.pth")
    model = load_checkpoint(tmp_path / "mit_b0.pth", num_classes=6, decoder_dim=16, seed=8)
    assert (model.variant, model.num_classes, model.decoder_dim) == ("b0", 6, 16)
    own = model.backbone.state_dict()
    for key, value in imagenet.items():
        if not key.startswith("head."):
            assert torch.equal(own[key], value)
            assert torch.equal(own[f"extra_{key}"], value)
    fresh = cmx.build_untrained_cmx("b0", 6, 16, seed=8).state_dict()
    key = "backbone.FFMs.2.cross.end_proj1.weight"
    assert torch.equal(model.state_dict()[key], fresh[key])


def test_imagenet_weights_need_the_number_of_classes(tmp_path: Path, imagenet: dict[str, torch.Tensor]):
    torch.save(imagenet, tmp_path / "mit_b0.pth")
    with pytest.raises(ModelError, match="encoder weights only; give num_classes"):
        load_checkpoint(tmp_path / "mit_b0.pth")


def test_imagenet_weights_of_another_variant_leave_the_model_alone(tmp_path: Path, imagenet: dict[str, torch.Tensor]):
    torch.save(imagenet, tmp_path / "mit_b0.pth")
    with torch.device("meta"):
        wide = cmx.build_cmx("b1", 2, 8)
    with pytest.raises(ModelError, match=r"of another shape: patch_embed1\.proj\.weight"):
        load_imagenet_backbone(wide, tmp_path / "mit_b0.pth")


def test_a_full_checkpoint_is_no_backbone(tmp_path: Path, state: dict[str, torch.Tensor]):
    torch.save(state, tmp_path / "w.pth")
    model = cmx.build_untrained_cmx("b0", 2, 8, seed=0)
    with pytest.raises(ModelError, match="no CMX or MiT weights"):
        load_imagenet_backbone(model, tmp_path / "w.pth")
