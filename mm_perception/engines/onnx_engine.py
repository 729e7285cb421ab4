"""ONNX files run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import Array, TensorSpec, check_inputs, check_outputs
from mm_perception.engines.onnx_file import check_onnx_file

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OnnxEngine:
    """An ONNX file of static shapes in ONNX Runtime.

    Args:
        path: the file.
        threads: CPU threads within one operator; None lets the runtime choose.

    Raises:
        EngineError: onnxruntime is not installed, refuses the file, the file is not one to open (see
            `check_onnx_file`), or its shapes are not static.
    """

    name = "onnxruntime"

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"onnxruntime cannot be imported ({error}): pip install onnxruntime") from error
        check_onnx_file(Path(path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Spinning workers take the cores of the other nodes between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the bindings' errors have no common base class
            raise EngineError(f"onnxruntime: {path} cannot be loaded: {error}") from error
        self.inputs = _specs(self._session.get_inputs(), path)
        self.outputs = _specs(self._session.get_outputs(), path)

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.run`."""
        if self._session is None:
            raise EngineError("onnxruntime: the engine is closed")
        names = [spec.name for spec in self.outputs]
        checked = check_inputs(self.inputs, tensors, self.name)
        try:
            results = self._session.run(names, checked)
        except Exception as error:  # as above
            raise EngineError(f"onnxruntime: the network failed: {error}") from error
        return check_outputs(self.outputs, dict(zip(names, results, strict=True)), self.name)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None


def _specs(nodes: Sequence[Any], path: Path | str) -> tuple[TensorSpec, ...]:
    specs = []
    for node in nodes:
        if not all(isinstance(size, int) for size in node.shape) or node.type not in _DTYPES:
            raise EngineError(f"{path}: {node.name}: expected a static shape, got {node.type}{node.shape}")
        specs.append(TensorSpec(node.name, tuple(node.shape), _DTYPES[node.type]))
    return tuple(specs)
