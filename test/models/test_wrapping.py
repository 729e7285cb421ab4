"""Checkpoints as training codes save them, each of the same weights."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mm_perception.core.errors import ModelError
from mm_perception.models.checkpoint import load_checkpoint, read_state_dict
from mm_perception.models.cmx import build_cmx, initialise
from mm_perception.models.wrapping import spconv1_kernels


@pytest.fixture(scope="module")
def state():
    network = build_cmx("tiny", 5, 32)
    initialise(network, 3)
    return network.state_dict()


def prefixed(state, prefix):
    return OrderedDict((prefix + key, value) for key, value in state.items())


def moved(state):
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


ADAM = {"state": {0: {"exp_avg": torch.zeros(4), "step": torch.tensor(2.0)}}, "param_groups": [{"lr": 1e-4}]}
WRAPPINGS = {
    "bare": lambda s: s,
    "three modules": lambda s: prefixed(s, "module.module.module."),
    "compiled within DDP": lambda s: {"state_dict": prefixed(s, "module._orig_mod.")},
    "DDP within compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "net of a lightning module": lambda s: {"state_dict": prefixed(s, "net."), "hyper_parameters": {"lr": 1e-3}},
    "model within net": lambda s: {"model": prefixed(s, "net.model.")},
    "two mappings": lambda s: {"checkpoint": {"model_state_dict": s}, "optimizer_state_dict": ADAM},
    "unusual name": lambda s: {"my_weights": s, "epoch": 7},
    "beside an optimizer that is larger": lambda s: {
        "model": s, "optimizer": {"state": {i: torch.zeros(1) for i in range(2000)}}
    },
    "beside an average": lambda s: {"model": s, "model_ema": moved(s), "ema": {"shadow": moved(s)}},
    "an average alone": lambda s: {"state_dict_ema": s, "decay": 0.999},
    "average among the keys": lambda s: {**prefixed(s, "model."), **prefixed(moved(s), "ema_model.")},
    "averaged model of torch": lambda s: {"n_averaged": torch.tensor(5), **prefixed(s, "module.")},
    "numpy numbers": lambda s: {"model": s, "best": np.float32(0.5), "seen": np.int64(3), "ok": np.bool_(True)},
    "options": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-4, name="x")},
    "losses beside": lambda s: {"model": {**s, "criterion.weight": torch.ones(5), "loss_aux.scale": torch.ones(1)}},
    "lists and numbers": lambda s: {"state_dict": s, "seen": [1, 2.5, "x", None, {"a": (3,)}]},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPINGS)
def test_the_weights_within_are_found(state, tmp_path, name):
    path = tmp_path / "w.pth"
    torch.save(WRAPPINGS[name](state), path)
    network = load_checkpoint(path)
    got = network.state_dict()
    assert got.keys() == state.keys()
    assert all(torch.equal(got[key], value) for key, value in state.items())


def test_half_precision_is_read_as_the_network_has_it(state, tmp_path):
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.pth")
    got = load_checkpoint(tmp_path / "w.pth").state_dict()
    assert all(got[key].dtype == value.dtype for key, value in state.items())
    torch.testing.assert_close(
        got["decode_head.linear_pred.weight"], state["decode_head.linear_pred.weight"].half().float()
    )


def test_a_student_beside_a_teacher_is_refused(state, tmp_path):
    torch.save({**prefixed(state, "student."), **prefixed(moved(state), "teacher.")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="a student and of a teacher"):
        read_state_dict(tmp_path / "w.pth")


@dataclass
class Config:
    """Of a training code that is not installed here."""

    lr: float = 1e-4


def test_foreign_objects_are_named_in_one_line_without_colors(state, tmp_path):
    torch.save({"model": state, "config": Config()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"it holds a .*Config\); load it where it was made") as error:
        read_state_dict(tmp_path / "w.pth")
    assert "\x1b" not in str(error.value)
    assert "\n" not in str(error.value)


def test_misfits_are_counted_and_the_first_are_named(state, tmp_path):
    other = dict(state)
    other["backbone.strange.weight"] = other.pop("backbone.norm1.weight")
    torch.save(other, tmp_path / "w.pth")
    expected = f"{len(state) - 1} of the network's {len(state)} keys fit, the file has {len(state)}"
    with pytest.raises(ModelError, match=expected) as error:
        load_checkpoint(tmp_path / "w.pth")
    assert "1 missing: backbone.norm1.weight" in str(error.value)
    assert "1 unexpected: backbone.strange.weight" in str(error.value)


def test_sparse_kernels_of_both_libraries():
    generator = torch.Generator().manual_seed(0)
    first = {
        "a.weight": torch.rand(3, 3, 3, 5, 16, generator=generator),
        "b.weight": torch.rand(3, 3, 3, 16, 16, generator=generator),
        "same.weight": torch.rand(3, 3, 3, 3, 3, generator=generator),
        "c.bias": torch.rand(16, generator=generator),
    }
    second = {k: v.permute(4, 0, 1, 2, 3).contiguous() if v.ndim == 5 else v for k, v in first.items()}
    for given in (first, second):
        got = spconv1_kernels(given, first)
        assert all(torch.equal(got[key], value) for key, value in first.items())
