"""Operations and bytes of graphs: counted by hand, and by torch."""

from __future__ import annotations

import pytest

from mm_perception.core.errors import ModelError
from mm_perception.engines.roofline import GraphCost, Traffic, graph_cost, least_ms

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
np = pytest.importorskip("numpy")
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.fixture
def count(tmp_path):
    """The cost of a graph of some nodes; weights are arrays, inputs and outputs are shapes by name."""

    def count(nodes, inputs, outputs, weights=(), opset=18, kinds=()):
        kinds = dict(kinds)
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "small",
            [info(name, kinds.get(name, FLOAT), shape) for name, shape in inputs.items()],
            [info(name, kinds.get(name, FLOAT), shape) for name, shape in outputs.items()],
            [onnx.numpy_helper.from_array(value, name) for name, value in dict(weights).items()],
        )
        opsets = [onnx.helper.make_opsetid("", opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        onnx.save(model, tmp_path / "small.onnx")
        return graph_cost(tmp_path / "small.onnx")

    return count


def zeros(*shape):
    return np.zeros(shape, np.float32)


def one(kind, inputs, outputs=("y",), **attributes):
    return onnx.helper.make_node(kind, list(inputs), list(outputs), **attributes)


@pytest.mark.parametrize(
    ("node", "inputs", "result", "weights", "flops"),
    [
        # 6 x 5 x 6 outputs, each over 3 x 3 of the 2 channels of its group
        (one("Conv", "xw", group=2, pads=[1] * 4), {"x": (1, 4, 5, 6)}, (1, 6, 5, 6), zeros(6, 2, 3, 3), 2 * 180 * 18),
        (one("Conv", "xw", strides=[2, 2]), {"x": (2, 3, 4, 4)}, (2, 5, 2, 2), zeros(5, 3, 2, 2), 2 * 40 * 12),
        # 36 inputs, each spread over 2 x 2 of 3 channels
        (one("ConvTranspose", "xw", strides=[2, 2]), {"x": (1, 4, 3, 3)}, (1, 3, 6, 6), zeros(4, 3, 2, 2), 2 * 36 * 12),
        (one("ConvTranspose", "xw", group=2), {"x": (1, 4, 3, 3)}, (1, 6, 3, 3), zeros(4, 3, 1, 1), 2 * 36 * 3),
        (one("MatMul", "xw"), {"x": (2, 3, 4)}, (2, 3, 5), zeros(4, 5), 2 * 30 * 4),
        (one("Gemm", "xw"), {"x": (3, 4)}, (3, 5), zeros(4, 5), 2 * 15 * 4),
        (one("Gemm", "xw", transA=1, transB=1), {"x": (4, 3)}, (3, 5), zeros(5, 4), 2 * 15 * 4),
        (one("Einsum", "xw", equation="bij,jk->bik"), {"x": (2, 3, 4)}, (2, 3, 5), zeros(4, 5), 2 * 30 * 4),
        (one("Einsum", "xw", equation="...ij, ...jk"), {"x": (2, 3, 4)}, (2, 3, 5), zeros(2, 4, 5), 2 * 30 * 4),
        (one("Einsum", "xw", equation="bi,bi->b"), {"x": (2, 3)}, (2,), zeros(2, 3), 2 * 6),
        (one("Einsum", "xw", equation="bi,bi->bi"), {"x": (2, 3)}, (2, 3), zeros(2, 3), 6),
        (one("Einsum", "x", equation="ij->ji"), {"x": (2, 3)}, (3, 2), None, 0),
        (one("Einsum", "x", equation="ij->j"), {"x": (2, 3)}, (3,), None, 6),
    ],
    ids=lambda value: f"{value.op_type}" if hasattr(value, "op_type") else "",
)
def test_products_are_two_per_multiply_add(count, node, inputs, result, weights, flops):
    cost = count([node], inputs, {"y": result}, {} if weights is None else {"w": weights})
    assert cost.products == {node.op_type: flops} and not cost.others and cost.flops == flops


@pytest.mark.parametrize(
    ("node", "inputs", "result", "flops"),
    [
        (one("Relu", "x"), {"x": (2, 3)}, (2, 3), 6),
        (one("Add", "xz"), {"x": (2, 3), "z": (4, 1, 3)}, (4, 2, 3), 24),
        (one("Softmax", "x"), {"x": (2, 3)}, (2, 3), 6),
        (one("LayerNormalization", "xz"), {"x": (2, 3), "z": (3,)}, (2, 3), 6),
        (one("GridSample", "xz"), {"x": (1, 2, 5, 5), "z": (1, 3, 4, 2)}, (1, 2, 3, 4), 24),
        (one("ReduceMax", "x", keepdims=0, axes=[1]), {"x": (2, 3)}, (2,), 6),
        (one("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]), {"x": (1, 1, 4, 4)}, (1, 1, 2, 2), 16),
        (one("Transpose", "x"), {"x": (2, 3)}, (3, 2), 0),
        (one("Concat", "xz", axis=0), {"x": (2, 3), "z": (1, 3)}, (3, 3), 0),
    ],
    ids=lambda value: f"{value.op_type}" if hasattr(value, "op_type") else "",
)
def test_all_else_counts_elements(count, node, inputs, result, flops):
    cost = count([node], inputs, {"y": result}, opset=17 if node.op_type == "ReduceMax" else 18)
    assert not cost.products and cost.flops == flops


def test_bytes_once_and_unfused(count):
    nodes = [one("MatMul", "xw", "a"), one("Relu", "a", "b"), one("Add", "ab", "y")]
    cost = count(nodes, {"x": (2, 3)}, {"y": (2, 5)}, {"w": zeros(3, 5), "unused": zeros(100)})
    assert (cost.weights, cost.inputs, cost.outputs) == (Traffic(15), Traffic(6), Traffic(10))
    assert cost.once.bytes(4) == 4 * 31 and cost.once.bytes(1) == 31
    # MatMul reads 6 + 15 and writes 10, Relu reads and writes 10, Add reads 10 twice and writes 10.
    assert cost.unfused == Traffic(6 + 15 + 10 + 10 + 10 + 20 + 10)


def test_views_move_nothing_and_picks_read_what_they_give(count):
    weights = {"shape": np.array([3, 2], np.int64), "rows": np.array([0, 2], np.int64)}
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "shape"], ["a"]),
        onnx.helper.make_node("Gather", ["a", "rows"], ["y"], axis=0),
    ]
    cost = count(nodes, {"x": (2, 3)}, {"y": (2, 2)}, weights)
    assert cost.flops == 0 and cost.unfused == Traffic(4 + 4, 2 * 8)
    assert cost.once == Traffic(6 + 4, 4 * 8)


def test_indices_keep_their_width(count):
    node = onnx.helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
    cost = count([node], {"x": (9, 2), "i": (3,)}, {"y": (3, 2)}, kinds={"i": INT64})
    assert [cost.once.bytes(width) for width in (4, 2, 1)] == [4 * 24 + 24, 2 * 24 + 24, 24 + 24]


def test_the_roofline_is_the_longer_of_both():
    cost = GraphCost({"MatMul": 900}, {"Add": 100}, Traffic(50), Traffic(25), Traffic(25), Traffic(1000))
    assert least_ms(cost, peak_flops=1e4, peak_bytes_per_s=1e9) == pytest.approx(100.0)
    assert least_ms(cost, peak_flops=1e9, peak_bytes_per_s=1e4) == pytest.approx(40.0)
    assert least_ms(cost, peak_flops=1e9, peak_bytes_per_s=1e4, bytes_per_element=2) == pytest.approx(20.0)
    assert least_ms(cost, peak_flops=1e9, peak_bytes_per_s=1e4, unfused=True) == pytest.approx(400.0)


def test_what_cannot_be_counted_is_refused(count, tmp_path):
    with pytest.raises(ModelError, match="shape of y is not known"):
        count([one("Relu", "x")], {"x": ("height", 3)}, {"y": ("height", 3)})
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be counted"):
        graph_cost(tmp_path / "broken.onnx")
    branch = onnx.helper.make_graph(
        [one("Relu", "x", "z")], "b", [], [onnx.helper.make_tensor_value_info("z", FLOAT, (2,))]
    )
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="branches"):
        count([node], {"c": (), "x": (2,)}, {"y": (2,)}, kinds={"c": onnx.TensorProto.BOOL})


DEAD = ("img_neck.lateral_convs.0", "pts_bbox_head.pred_head.0.vel", "pts_bbox_head.pred_head.0.heatmap")
"""What the module computes and nobody uses, so that the exported graph lacks it: the finest pyramid level at stride 8,
and what a layer that is not the last says of velocities and classes."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cmx-tiny-rgb-thermal", "deepinteraction-tiny-untrained"])
def test_products_equal_torchs_own_count(name, one_thread):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("onnxscript", reason="the ONNX export needs onnxscript")
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from mm_perception.engines.detector_card import find_any_card
    from mm_perception.engines.load import exported
    from mm_perception.engines.reference import made_inputs
    from mm_perception.engines.torch_engine import deployed_network

    card = find_any_card(name)
    network = deployed_network(card)
    inputs = [torch.from_numpy(value) for value in made_inputs(card)[0].values()]
    counter = FlopCounterMode(display=False, depth=9)
    # Torch's counter does not know the fused attention of CPUs.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        network(*inputs)
    counts = counter.get_flop_counts()
    dead = [flops for module, found in counts.items() if module.endswith(DEAD) for flops in found.values()]
    torch_products = {"convolution": 0, "matrix": 0}
    for operator, flops in counts["Global"].items():
        torch_products["convolution" if "convolution" in str(operator) else "matrix"] += flops
    products = graph_cost(exported(card)).products
    assert products["MatMul"] + products["Gemm"] == torch_products["matrix"]
    assert products["Conv"] + products.get("ConvTranspose", 0) == torch_products["convolution"] - sum(dead)
    assert len(dead) == (0 if name.startswith("cmx") else len(DEAD))
