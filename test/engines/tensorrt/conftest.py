"""Exported networks, and the real TensorRT-RTX builder where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mm_perception.engines.card import ModelCard, WeightsCard
from mm_perception.engines.detector_card import DetectorCard, find_any_card

CMX, DETECTOR = "cmx-tiny-rgb-thermal", "deepinteraction-tiny"
Exported = Callable[[str], tuple[WeightsCard, Path]]


def card_of(name: str) -> ModelCard | DetectorCard:
    """A shipped card; "cmx-b2", "deepinteraction-full" and their like stand for published sizes with random weights."""
    family, _, size = name.partition("-")
    if family == "cmx" and size[:1] == "b" and "-" not in size:
        card = find_any_card("cmx-b0-thermal-untrained")
        assert isinstance(card, ModelCard)
        return replace(card, name=name, variant=size)
    if name == "deepinteraction-full":
        detector = find_any_card("deepinteraction-tiny-untrained")
        assert isinstance(detector, DetectorCard)
        return replace(detector, name=name, variant="full")
    return find_any_card(name)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network's card and its ONNX file, exported once per session."""
    for package in ("torch", "onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from mm_perception.engines.load import exported as export

    folder = tmp_path_factory.mktemp("exported")

    def get(name: str) -> tuple[WeightsCard, Path]:
        card = card_of(name)
        return card, export(card, folder)

    return get


@pytest.fixture(scope="session")
def rtx() -> str:
    """Name of a TensorRT that builds without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    return "tensorrt_rtx"


@pytest.fixture(scope="session")
def modelopt() -> None:
    """Skips where precision cannot be written into graphs."""
    pytest.importorskip("modelopt.onnx", reason="nvidia-modelopt is not installed")


@pytest.fixture
def two_modules(tmp_path: Path) -> tuple[ModelCard, Path]:
    """A card and its ONNX file: a segmentation network of two products, in the modules `a.mix` and `b.classify`."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    import numpy as np

    from mm_perception.engines.card import load_card, save_card
    from mm_perception.engines.stamp import file_sha256

    path = tmp_path / "two.onnx"
    rng = np.random.default_rng(4)
    weights = {
        "mix": rng.standard_normal((8, 6, 1, 1)).astype(np.float32),
        "classify": rng.standard_normal((5, 8, 1, 1)).astype(np.float32),
    }
    node, value, floats = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        node("Concat", ["rgb", "x"], ["both"], name="a/concat", axis=1),
        node("Conv", ["both", "mix"], ["mixed"], name="a.mix/conv"),
        node("Relu", ["mixed"], ["kept"], name="a/relu"),
        node("Conv", ["kept", "classify"], ["logits"], name="b.classify/conv"),
    ]
    ends = [value(name, floats, (1, 3, 32, 48)) for name in ("rgb", "x")], [value("logits", floats, (1, 5, 32, 48))]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "two", *ends, initializers)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    card = ModelCard(
        name="two", variant="tiny", classes=tuple("abcde"), modality="thermal", encoding="raw", input_height=32,
        input_width=48, channel_order="rgb", trained=True, weights=str(path), weights_sha256=file_sha256(path),
    )  # fmt: skip
    save_card(card, path.with_suffix(".yaml"))
    return load_card(path.with_suffix(".yaml")), path
