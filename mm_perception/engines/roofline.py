"""What a network costs at least: arithmetic and memory traffic of an ONNX graph, and the roofline above them.

S. Williams, A. Waterman, D. Patterson, Roofline: An Insightful Visual Performance Model for Multicore Architectures,
Communications of the ACM 52(4), 2009.

Operations are counted as follows. Products (Conv, ConvTranspose, MatMul, Gemm, Einsum): 2 per multiply-add, biases not
counted; multiplications with padding are, as torch's own counter does. Reductions, pooling, TopK, CumSum: 1 per element
that goes in. Moving, cutting, joining and casting: none. All else (elementwise, normalisation, softmax, Resize,
GridSample): 1 per element that comes out.

Bytes are counted in two ways. Once: every weight and every input is read and every output written once, all in between
stays on the chip; no implementation moves less, unless it keeps weights on the chip from one run to the next. Unfused:
every node reads its inputs from memory and writes its outputs there. Views (Reshape and its kind) move nothing, Gather
and Slice read as much as they give.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_perception.core.errors import EngineError, ModelError

Shape = tuple[int, ...]

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
SOURCES = frozenset({"Constant", "Shape", "Size"})
MOVES = frozenset(
    {
        *("Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "ScatterND"),
        *("ScatterElements", "Pad", "Expand", "Tile", "Cast", "CastLike", "ConstantOfShape", "Range", "EyeLike"),
        *("DepthToSpace", "SpaceToDepth", "OneHot"),
    }
)
PICKS = frozenset({"Slice", "Gather", "GatherElements", "GatherND"})
POOLS = frozenset(
    {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ArgMax", "ArgMin", "TopK", "CumSum"}
)
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True)
class Traffic:
    """Elements of floating point tensors, and bytes of all others (indices, masks), whose width is fixed."""

    elements: int = 0
    fixed_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.elements + other.elements, self.fixed_bytes + other.fixed_bytes)

    def bytes(self, bytes_per_element: int) -> int:
        """With floating point tensors of 4, 2 or 1 bytes per element."""
        return self.elements * bytes_per_element + self.fixed_bytes


@dataclass(frozen=True, slots=True)
class GraphCost:
    """What one run of a graph costs at least; see the counting rules of this module.

    Attributes:
        products: operations by kind of product.
        others: operations by kind of all other nodes.
        weights, inputs, outputs: each once.
        unfused: every tensor written once and read once by each node that takes it.
    """

    products: Mapping[str, int]
    others: Mapping[str, int]
    weights: Traffic
    inputs: Traffic
    outputs: Traffic
    unfused: Traffic

    @property
    def flops(self) -> int:
        return sum(self.products.values()) + sum(self.others.values())

    @property
    def once(self) -> Traffic:
        """The floor of the traffic."""
        return self.weights + self.inputs + self.outputs


def least_ms(
    cost: GraphCost,
    peak_flops: float,
    peak_bytes_per_s: float,
    bytes_per_element: int = 4,
    *,
    unfused: bool = False,
) -> float:
    """The roofline: the longer of computing at peak and moving the floor's bytes at peak [ms].

    Args:
        unfused: move the bytes of the unfused graph instead.
    """
    traffic = cost.unfused if unfused else cost.once
    return 1e3 * max(cost.flops / peak_flops, traffic.bytes(bytes_per_element) / peak_bytes_per_s)


def graph_cost(path: Path | str) -> GraphCost:
    """Counts an ONNX file of static shapes.

    Raises:
        EngineError: onnx is not installed.
        ModelError: the file cannot be read, a shape is not known, or the graph has branches or loops.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"counting a network's operations needs onnx ({error}): pip install onnx") from error
    try:
        # Without the values of shape computations, Reshape and Expand would give unknown shapes.
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True, data_prop=True)
    except Exception as error:  # protobuf's and onnx's errors have no common base class
        raise ModelError(f"{path}: cannot be counted: {error}") from error
    return _Counter(model.graph, str(path), onnx).cost()


class _Counter:
    """Walks one graph."""

    def __init__(self, graph: Any, where: str, onnx: Any) -> None:
        self._graph, self._where, self._onnx = graph, where, onnx
        self._shapes: dict[str, Shape] = {}
        self._widths: dict[str, int | None] = {}  # bytes per element; None where the precision decides
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            if all(dim.HasField("dim_value") for dim in tensor.shape.dim):
                self._know(value.name, (dim.dim_value for dim in tensor.shape.dim), tensor.elem_type)
        for weight in graph.initializer:
            self._know(weight.name, weight.dims, weight.data_type)

    def cost(self) -> GraphCost:
        products: Counter[str] = Counter()
        others: Counter[str] = Counter()
        unfused = Traffic()
        for node in self._graph.node:
            if node.op_type in CONTROL:
                raise ModelError(f"{self._where}: {node.op_type} {node.name}: a graph with branches cannot be counted")
            if node.op_type in PRODUCTS:
                products[node.op_type] += PRODUCTS[node.op_type](self, node)
            else:
                others[node.op_type] += self._other_flops(node)
            unfused += self._traffic(node)
        weights = {weight.name for weight in self._graph.initializer}
        used = {name for node in self._graph.node for name in node.input}
        return GraphCost(
            dict(products),
            {name: count for name, count in others.items() if count},
            self._sum(sorted(weights & used)),
            self._sum(value.name for value in self._graph.input if value.name not in weights),
            self._sum(value.name for value in self._graph.output),
            unfused,
        )

    def shape(self, name: str) -> Shape:
        if name not in self._shapes:
            raise ModelError(f"{self._where}: the shape of {name} is not known: export with static shapes")
        return self._shapes[name]

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        found = [self._onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name]
        return found[0] if found else default

    def _know(self, name: str, shape: Iterable[int], kind: int) -> None:
        self._shapes[name] = tuple(shape)
        data = self._onnx.TensorProto
        floating = (data.FLOAT, data.FLOAT16, data.BFLOAT16, data.DOUBLE)
        self._widths[name] = None if kind in floating else self._onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize

    def _traffic(self, node: Any) -> Traffic:
        """What a node reads and writes."""
        if node.op_type in VIEWS or node.op_type in SOURCES:
            return Traffic()
        inputs = [name for name in node.input if name]
        read = self._sum(inputs)
        if node.op_type in PICKS:
            read = self._of(inputs[0], math.prod(self.shape(node.output[0]))) + self._sum(inputs[1:])
        return read + self._sum(name for name in node.output if name)

    def _sum(self, names: Iterable[str]) -> Traffic:
        return sum((self._of(name, math.prod(self.shape(name))) for name in names), Traffic())

    def _of(self, name: str, count: int) -> Traffic:
        width = self._widths[name]
        return Traffic(count, 0) if width is None else Traffic(0, count * width)

    def _other_flops(self, node: Any) -> int:
        kind = node.op_type
        if kind in MOVES or kind in VIEWS or kind in SOURCES:
            return 0
        reduces = kind.startswith("Reduce") or kind in POOLS
        return math.prod(self.shape(node.input[0] if reduces else node.output[0]))


def _conv(counter: _Counter, node: Any) -> int:
    """Each output element sums over the kernel and the channels of its group."""
    weight = counter.shape(node.input[1])  # (Cout, Cin / groups, *kernel)
    return 2 * math.prod(counter.shape(node.output[0])) * math.prod(weight[1:])


def _conv_transpose(counter: _Counter, node: Any) -> int:
    """Each input element is spread over the kernel and the channels of its group."""
    weight = counter.shape(node.input[1])  # (Cin, Cout / groups, *kernel)
    return 2 * math.prod(counter.shape(node.input[0])) * math.prod(weight[1:])


def _matmul(counter: _Counter, node: Any) -> int:
    return 2 * math.prod(counter.shape(node.output[0])) * counter.shape(node.input[0])[-1]


def _gemm(counter: _Counter, node: Any) -> int:
    first = counter.shape(node.input[0])
    inner = first[0] if counter.attribute(node, "transA", 0) else first[1]
    return 2 * math.prod(counter.shape(node.output[0])) * inner


def _einsum(counter: _Counter, node: Any) -> int:
    """With a sum over some index, every factor of every term counts; without one, the multiplications between them."""
    equation: str = counter.attribute(node, "equation").decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    sizes: dict[str, int] = {}
    seen: Counter[str] = Counter()
    operands = terms.split(",")
    for term, name in zip(operands, node.input, strict=True):
        shape = counter.shape(name)
        labels = _labels(term, len(shape))
        seen.update(labels)
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    kept = set(_labels(result, len(counter.shape(node.output[0])))) if "->" in equation else _implicit(seen)
    factors = len(operands)
    sums = set(sizes) - kept
    if factors == 1:
        return math.prod(sizes.values()) if sums else 0
    return math.prod(sizes.values()) * (factors if sums else factors - 1)


def _labels(term: str, rank: int) -> list[str]:
    """One label per axis; those of an ellipsis are counted from its end, as they are broadcast."""
    head, dots, tail = term.partition("...")
    hidden = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f".{i}" for i in range(hidden, 0, -1)), *tail]


def _implicit(seen: Mapping[str, int]) -> set[str]:
    """Without an arrow, the result has the labels that stand once, and the ellipsis."""
    return {label for label, count in seen.items() if count == 1 or label.startswith(".")}


PRODUCTS: dict[str, Callable[[_Counter, Any], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
}
