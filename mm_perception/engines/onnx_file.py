"""What an ONNX file names, looked at before a runtime opens it: its size, its other files, and its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mm_perception.core.errors import EngineError
from mm_perception.core.limits import MAX_ONNX_BYTES, MAX_TENSOR_ELEMENTS

_MOST_DEPTH = 8
_FILLING = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Resize": 3, "Upsample": 1}
"""Operators that make a tensor of a size that is an input's content, and which input that is."""


def check_onnx_file(path: Path) -> None:
    """Refuses a file that would read what is not its own, or ask for more memory than a network needs.

    Raises:
        EngineError: it is missing, too large or damaged; external data lies outside of its folder or is shorter than
            said; a tensor of impossible or too many elements is named.
    """
    try:
        _check(path)
    except EngineError:
        raise
    except Exception as error:  # protobuf's errors have no common base class, and its texts need not be texts
        raise EngineError(f"{path}: is no ONNX file ({type(error).__name__}: {error})") from error


def _check(path: Path) -> None:
    import onnx

    size = path.stat().st_size
    if not path.is_file() or size > MAX_ONNX_BYTES:
        raise EngineError(f"{path}: expected a file of at most {MAX_ONNX_BYTES} bytes, got {size}")
    graph = onnx.load(str(path), load_external_data=False).graph
    for one in (*graph.input, *graph.output, *graph.value_info):
        _check_dims(path, one.name, [d.dim_value for d in one.type.tensor_type.shape.dim])
    for tensor in _tensors(graph, 0, path):
        _check_dims(path, tensor.name, tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, tensor)
        elif tensor.raw_data and len(tensor.raw_data) * 8 < math.prod(tensor.dims) * _bits(tensor.data_type):
            raise EngineError(
                f"{path}: {tensor.name}: {list(tensor.dims)} is more than its {len(tensor.raw_data)} bytes"
            )
    _check_fillings(path, graph)


def _tensors(graph: Any, depth: int, path: Path) -> Iterator[Any]:
    """Every tensor that a graph and the graphs in it hold."""
    if depth > _MOST_DEPTH:
        raise EngineError(f"{path}: graphs within graphs, deeper than {_MOST_DEPTH}")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner, depth + 1, path)


def _check_dims(path: Path, name: str, dims: Sequence[int]) -> None:
    if any(size < 0 for size in dims) or math.prod(dims) > MAX_TENSOR_ELEMENTS:
        raise EngineError(f"{path}: {name}: expected at most {MAX_TENSOR_ELEMENTS} elements, got {list(dims)[:8]}")


def _check_external(path: Path, tensor: Any) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.resolve().parent
    try:
        data = (folder / location).resolve()
        start, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
        found = data.stat().st_size if data.is_file() else -1
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(f"{path}: {tensor.name}: external data {location[:80]!r} ({error})") from error
    if not location or Path(location).is_absolute() or not data.is_relative_to(folder):
        raise EngineError(f"{path}: {tensor.name}: external data {location[:80]!r} lies outside of the file's folder")
    needed = math.prod(tensor.dims) * _bits(tensor.data_type) // 8
    if found < 0 or start < 0 or start + max(length, needed) > found:
        raise EngineError(f"{path}: {tensor.name}: external data {location[:80]!r} is missing or too short")


def _bits(data_type: int) -> int:
    """Of an element, by ONNX's number of its type; 4 where it is not known (types of 4 bits are the smallest)."""
    import onnx

    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    except (KeyError, ValueError, TypeError):
        return 4
    return 4 if "4" in onnx.TensorProto.DataType.Name(data_type).replace("64", "") else int(dtype.itemsize) * 8


def _check_fillings(path: Path, graph: Any) -> None:
    """Runtimes compute constant parts of a graph when they open it."""
    import numpy as np
    import onnx

    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            constants.update((node.output[0], one.t) for one in node.attribute if one.name == "value")
    for node in graph.node:
        index = _FILLING.get(node.op_type)
        if index is None or index >= len(node.input) or node.input[index] not in constants:
            continue
        tensor = constants[node.input[index]]
        if tensor.data_type != onnx.TensorProto.INT64 or tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        sizes = [int(v) for v in np.ravel(onnx.numpy_helper.to_array(tensor))[:64]]
        _check_dims(path, node.name or node.op_type, [max(v, 1) for v in sizes])
