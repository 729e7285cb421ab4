"""ONNX files that name what is not theirs, or more than there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from mm_perception.core.errors import EngineError  # noqa: E402
from mm_perception.engines.onnx_file import check_onnx_file  # noqa: E402

FLOAT = TensorProto.FLOAT
ADD = [helper.make_node("ReduceSum", ["w"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]


def write(folder: Path, tensors=(), nodes=None, sides=(1, 3)) -> Path:
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, FLOAT, sides)] for name in "xy"]
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", *ends, list(tensors))).SerializeToString())
    return path


def external(location: str, dims=(2,), **entries) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (inner / "w.bin").write_bytes(bytes(8))
    (inner / "link.bin").symlink_to(tmp_path / "secret.bin")
    return inner


def test_files_with_data_of_their_own_are_fine(folder):
    check_onnx_file(write(folder))
    check_onnx_file(write(folder, [external("w.bin")], ADD))
    check_onnx_file(write(folder, [external("w.bin", (1,), offset=4, length=4)], ADD))
    check_onnx_file(write(folder, [numpy_helper.from_array(np.ones((3, 4), np.float16), "w")], ADD))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (external("../secret.bin"), "outside"),
        (external("sub/../../secret.bin"), "outside"),
        (external("/etc/passwd"), "outside"),
        (external("link.bin"), "outside"),
        (external(""), "outside|missing"),
        (external("none.bin"), "missing"),
        (external("w.bin", (3,)), "too short"),
        (external("w.bin", (1,), offset=8), "too short"),
        (external("w.bin", (1,), offset=-4), "too short"),
        (external("w.bin", (1,), length=2**62), "too short"),
        (external("w.bin", (1,), offset="x"), "external data"),
        (external("w.bin", (2**20, 2**20)), "elements"),
        (TensorProto(name="w", data_type=FLOAT, dims=(-1,)), "elements"),
        (TensorProto(name="w", data_type=FLOAT, dims=(2**20,), raw_data=bytes(4)), "more than its"),
    ],
)
def test_tensors_that_are_not_what_they_say(folder, tensor, said):
    with pytest.raises(EngineError, match=said):
        check_onnx_file(write(folder, [tensor], ADD))


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Tile"])
def test_constants_that_make_more_than_there_is(folder, kind):
    size = numpy_helper.from_array(np.array([100_000, 100_000], np.int64), "size")
    one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
    given = ["size"] if kind == "ConstantOfShape" else ["one", "size"]
    nodes = [helper.make_node(kind, given, ["w"]), *ADD]
    with pytest.raises(EngineError, match="elements"):
        check_onnx_file(write(folder, [one, size], nodes))
    constant = helper.make_node("Constant", [], ["size"], value=size)
    with pytest.raises(EngineError, match="elements"):
        check_onnx_file(write(folder, [one], [constant, *nodes]))


def test_inputs_of_absurd_sizes_and_files_that_are_none(folder):
    with pytest.raises(EngineError, match="elements"):
        check_onnx_file(write(folder, sides=(2**20, 2**20)))
    (folder / "text.onnx").write_bytes(b"\x08\xff no graph")
    for name in ("text.onnx", "none.onnx", "."):
        with pytest.raises(EngineError):
            check_onnx_file(folder / name)
