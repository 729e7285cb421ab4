"""Cards of detectors, and from a card to a running engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from mm_perception.core.errors import ModelError
from mm_perception.engines.card import find_card, save_card
from mm_perception.engines.detector_card import find_any_card, find_detector_card
from mm_perception.engines.load import load_engine

NAME = "deepinteraction-tiny-untrained"


def test_the_shipped_card_says_that_it_is_untrained_and_survives_writing(tmp_path):
    card = find_detector_card(NAME)
    assert not card.trained and card.random_seed == 0 and card.input_size == (256, 448)
    save_card(card, tmp_path / "again.yaml")
    assert find_detector_card(tmp_path / "again.yaml") == card


def test_cards_of_the_other_kind_are_refused():
    with pytest.raises(ModelError, match="task"):
        find_card(NAME)
    with pytest.raises(ModelError, match="encoding: unknown key"):
        find_detector_card("cmx-tiny-rgb")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("variant: huge", "variant: expected one of full"),
        ("image_std: [0, 1, 1]", "image_std"),
        ("trained: true", "random"),
    ],
)
def test_impossible_cards_are_refused(tmp_path, change, said):
    path = tmp_path / "card.yaml"
    save_card(find_detector_card(NAME), path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith(change.split(":")[0] + ":")]
    path.write_text("\n".join([*lines, change]) + "\n")
    with pytest.raises(ModelError, match=said):
        find_detector_card(path)


def in_order_of(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same boxes in the order of the others: by score, and processors round near ties apart."""
    table, other = (np.concatenate([one["center"][0], one["labels"]]).T for one in (expected, got))
    _, order = linear_sum_assignment(np.abs(table[:, None] - other[None]).sum(axis=2))
    return {name: value[..., order] for name, value in got.items()}


def test_exported_engine_equals_torch_and_is_kept(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from mm_perception.models.deepinteraction.deploy import example_inputs

    card, told = find_detector_card(NAME), []
    _, outputs = card.specs()
    examples = example_inputs(card.sizes, seed=3)
    tensors = {name: value.numpy() for name, value in examples.items()}
    expected = load_engine(card, "torch", threads=1).run(tensors)
    for _ in range(2):
        engine = load_engine(card, "onnxruntime", threads=1, cache_dir=tmp_path, on_progress=told.append)
        got = in_order_of(expected, engine.run(tensors))
        engine.close()
        for spec in outputs:
            np.testing.assert_allclose(got[spec.name], expected[spec.name], atol=1e-3, err_msg=spec.name)
    assert sum(text.startswith("exported") for text in told) == 1
    graph = onnx.load(next(tmp_path.rglob("*.onnx"))).graph
    used = {node.op_type for node in graph.node}
    plugins = {"NonZero", "Loop", "If", "RoiAlign", "ScatterND", "Unique", "Compress", "DeformConv"}
    assert not used & plugins and all(node.domain in ("", "ai.onnx") for node in graph.node)
    assert torch.is_tensor(examples["images"])


def test_export_command_takes_detectors(tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from mm_perception.cli.main import main

    assert main(["export", "--model", NAME, "--out", str(tmp_path), "--height", "64"]) == 2
    assert "has a fixed size" in capsys.readouterr().err
    assert find_any_card(NAME) == find_detector_card(NAME) and find_any_card("cmx-tiny-rgb") == find_card(
        "cmx-tiny-rgb"
    )


def test_weights_of_a_file_are_checked_key_by_key(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from mm_perception.engines.torch_engine import load_detector_network

    card = find_detector_card(NAME)
    state = load_detector_network(card).state_dict()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    filed = replace(card, weights=str(tmp_path / "w.pth"), trained=True)
    again = load_detector_network(filed).state_dict()
    assert all(torch.equal(again[k], v) for k, v in state.items())
    lost = dict(state)
    lost.pop("imgpts_neck.shared_conv_pts.bias")
    lost["strange"] = torch.zeros(1)
    lost["imgpts_neck.shared_conv_pts.weight"] = torch.zeros(2, 2)
    torch.save(lost, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"(?s)1 missing: imgpts.*1 unexpected: strange.*of another shape"):
        load_detector_network(filed)
