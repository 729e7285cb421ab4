"""ONNX files run by OpenVINO on the CPU, in full float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import Array, TensorSpec, check_inputs, check_outputs
from mm_perception.engines.onnx_file import check_onnx_file


class OpenVinoEngine:
    """An ONNX file of static shapes in OpenVINO.

    Args:
        path: the file.
        threads: CPU threads of one inference; None lets the runtime choose.

    Raises:
        EngineError: openvino is not installed, refuses the file, the file is not one to open (see `check_onnx_file`),
            or its shapes are not static.
    """

    name = "openvino"

    def __init__(self, path: Path | str, *, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"openvino cannot be imported ({error}): pip install openvino") from error
        check_onnx_file(Path(path))
        # Without the hint OpenVINO computes in bfloat16 on CPUs that have it, and 1 % of the labels change.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", options)
            self._request: Any = compiled.create_infer_request()
        except Exception as error:  # the bindings' errors have no common base class
            raise EngineError(f"openvino: {path} cannot be loaded: {error}") from error
        self.inputs = _specs(compiled.inputs, path)
        self.outputs = _specs(compiled.outputs, path)

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.run`."""
        if self._request is None:
            raise EngineError("openvino: the engine is closed")
        checked = check_inputs(self.inputs, tensors, self.name)
        try:
            results = self._request.infer(checked, share_inputs=True)
        except Exception as error:  # as above
            raise EngineError(f"openvino: the network failed: {error}") from error
        named = {spec.name: results[i] for i, spec in enumerate(self.outputs)}
        return check_outputs(self.outputs, named, self.name)

    def close(self) -> None:
        """See `Engine.close`."""
        self._request = None


def _specs(ports: Sequence[Any], path: Path | str) -> tuple[TensorSpec, ...]:
    specs = []
    for port in ports:
        shape = port.get_partial_shape()
        if not shape.is_static:
            raise EngineError(f"{path}: {port.get_any_name()}: expected a static shape, got {shape}")
        dtype = np.dtype(port.get_element_type().to_dtype()).name
        specs.append(TensorSpec(port.get_any_name(), tuple(shape.to_shape()), dtype))
    return tuple(specs)
