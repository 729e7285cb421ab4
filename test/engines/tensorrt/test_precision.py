"""Precision in graphs: what is kept, what rounding shows, and the search for what breaks fp16."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_perception.core.errors import EngineError

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from mm_perception.engines.engine import TensorSpec  # noqa: E402
from mm_perception.engines.onnx_engine import OnnxEngine  # noqa: E402
from mm_perception.engines.tensorrt.errors import RefusedError  # noqa: E402
from mm_perception.engines.tensorrt.precision import (  # noqa: E402
    FRAGILE,
    ConvertJob,
    breaking_modules,
    convert,
    own_modules,
    pinned_graph,
    rounded_graph,
    unknown_modules,
    write_precision,
)


@given(st.integers(1, 60), st.data())
def test_bisection_finds_just_the_culprits(count, data):
    modules = [f"m{i}/" for i in range(count)]
    culprits = data.draw(st.sets(st.sampled_from(modules), max_size=min(4, count)))
    trials = []

    def keeps(kept: tuple[str, ...]) -> bool:
        trials.append(kept)
        return culprits <= set(kept)

    assert set(breaking_modules(modules, keeps)) == culprits
    k = len(culprits)
    assert len(trials) <= 2 + 2 * k * (1 + math.ceil(math.log2(count / k))) if k else len(trials) == 1


def test_what_no_choice_can_mend_is_said():
    with pytest.raises(EngineError, match="no choice of modules"):
        breaking_modules(["a/", "b/"], lambda kept: False)


def overflowing(path: Path) -> Path:
    """y = (x w) c where x w is about 3e5 in the module `a.sum`, and 3e2 afterwards in `a.scale`."""
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    value, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        node("MatMul", ["x", "w"], ["s"], name="a.sum/matmul"),
        node("Mul", ["s", "c"], ["t"], name="a.scale/mul"),
        node("Relu", ["t"], ["y"], name="b/relu"),
    ]
    weights = [array(np.full((64, 4), 100, np.float32), "w"), array(np.array(1e-3, np.float32), "c")]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", floats, (2, 64))], [value("y", floats, (2, 4))], weights)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def run(path: Path, x: np.ndarray) -> np.ndarray:
    engine = OnnxEngine(path)
    try:
        return engine.run({"x": x})["y"]
    finally:
        engine.close()


def test_rounding_shows_overflow_and_keeping_its_module_mends_it(tmp_path):
    source = overflowing(tmp_path / "m.onnx")
    x = np.full((2, 64), 50.0, np.float32)
    exact = run(source, x)
    np.testing.assert_allclose(exact, 320.0, rtol=1e-6)
    assert own_modules(source) == ["a.sum/", "a.scale/", "b/"]
    with pytest.raises(EngineError, match="NaN or infinite"):
        run(rounded_graph(source, tmp_path / "r.onnx", "fp16", ()), x)
    for kept in (("a.sum/",), ("a",)):
        np.testing.assert_allclose(run(rounded_graph(source, tmp_path / "r.onnx", "fp16", kept), x), 320.0, rtol=2e-3)
    np.testing.assert_allclose(run(rounded_graph(source, tmp_path / "r.onnx", "bf16", ()), x), 320.0, rtol=2e-2)
    with pytest.raises(EngineError):  # "a.s" names no module
        run(rounded_graph(source, tmp_path / "r.onnx", "fp16", ("a.s", "sum/")), x)


def test_rounding_is_that_of_the_type(tmp_path):
    source = overflowing(tmp_path / "m.onnx")
    x = np.random.default_rng(0).uniform(0, 1, (2, 64)).astype(np.float32)
    x[:, 0] = 1.0
    low = rounded_graph(source, tmp_path / "r.onnx", "fp16", ())
    total = (x.astype(np.float64) @ np.full((64, 4), 100.0)).astype(np.float16)
    expected = (total.astype(np.float64) * np.float16(1e-3)).astype(np.float16)
    np.testing.assert_allclose(run(low, x), expected.astype(np.float32), rtol=1e-3)
    assert np.array_equal(run(low, x).astype(np.float16).astype(np.float32), run(low, x))


def test_converted_graphs_keep_the_fragile_modules_and_their_interface(exported, modelopt, tmp_path):
    _, path = exported("cmx-tiny-rgb-thermal")
    graph = write_precision(path, tmp_path / "low.onnx", "fp16", FRAGILE["cmx"])
    model = onnx.shape_inference.infer_shapes(onnx.load(str(graph)))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    products = [
        node for node in model.graph.node if "cross_attn/" in node.name and node.op_type in ("MatMul", "Softmax")
    ]
    others = [node for node in model.graph.node if ".attn.proj/MatMul" in node.name]
    assert len(products) == 4 * 6 and len(others) > 4
    assert {types[node.output[0]] for node in products} == {onnx.TensorProto.FLOAT}
    assert {types[node.output[0]] for node in others} == {onnx.TensorProto.FLOAT16}
    ends = (*model.graph.input, *model.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}


def test_float32_is_the_graph_itself_and_int8_needs_inputs(tmp_path):
    source = overflowing(tmp_path / "m.onnx")
    assert write_precision(source, tmp_path / "n.onnx", "fp32") == source
    assert write_precision(source, tmp_path / "n.onnx", "tf32") == source
    with pytest.raises(EngineError, match="INT8 needs calibration inputs"):
        write_precision(source, tmp_path / "n.onnx", "int8")


def test_a_missing_converter_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    job = ConvertJob(overflowing(tmp_path / "m.onnx"), tmp_path / "n.onnx", "fp16", (), None)
    with pytest.raises(RefusedError, match=r"fp16 needs nvidia-modelopt.*pip install"):
        convert(job, lambda text: None)


def test_what_cannot_be_converted_is_refused_with_a_reason(modelopt, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07nonsense" * 50)
    with pytest.raises(RefusedError, match="cannot be converted"):
        write_precision(tmp_path / "m.onnx", tmp_path / "n.onnx", "fp16")


def test_graphs_of_open_sizes_are_pinned_and_others_left_alone(tmp_path):
    source = overflowing(tmp_path / "m.onnx")
    specs = [TensorSpec("x", (7, 64)), TensorSpec("y", (7, 4))]
    assert pinned_graph(source, tmp_path / "p.onnx", specs) == source
    model = onnx.load(str(source))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, str(source))
    with pytest.raises(EngineError, match="static"):
        OnnxEngine(source)
    pinned = pinned_graph(source, tmp_path / "p.onnx", specs)
    assert pinned != source and run(pinned, np.ones((7, 64), np.float32)).shape == (7, 4)


def test_names_that_keep_nothing_are_found():
    modules = ["a/", "a.b/", "c.d.e/"]
    assert unknown_modules(["a", "a/", "c.d", "c.d.e/", "a.b"], modules) == []
    assert unknown_modules(["b", "c.d/", "a.", "c.d.e.f"], modules) == ["b", "c.d/", "a.", "c.d.e.f"]
