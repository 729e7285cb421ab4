"""An ONNX file in ONNX Runtime on the device, with inputs and outputs that stay there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mm_perception.bench.timing import Device
from mm_perception.bench.torch_runners import Tensors
from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import TensorSpec

CUDA_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxRuntimeRunner:
    """Runs on the CUDA provider, or on the CPU's where the device is one.

    Args:
        inputs: on the device; read in place.
        outputs: what the file gives.

    Raises:
        EngineError: onnxruntime is not installed, or has no CUDA provider that works here.
    """

    def __init__(self, path: Path, inputs: Tensors, outputs: tuple[TensorSpec, ...], device: Device) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(f"onnxruntime cannot be imported ({error}): pip install onnxruntime-gpu") from error
        provider = CUDA_PROVIDER if device.is_gpu else CPU_PROVIDER
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} has no CUDA provider: pip install onnxruntime-gpu in its place"
            )
        self.note = provider
        index = device.torch_device.index or 0
        settings = {"device_id": str(index), "use_tf32": "0"} if device.is_gpu else {}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[(provider, settings)])
        if self._session.get_providers()[0] != provider:
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} could not load its {provider}: wrong CUDA or cuDNN?"
            )
        self._inputs = {name: value.contiguous() for name, value in inputs.items()}
        self._given = {
            spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=device.torch_device)
            for spec in outputs
        }
        self._binding = self._session.io_binding()
        for bind, tensors in ((self._binding.bind_input, self._inputs), (self._binding.bind_output, self._given)):
            for name, value in tensors.items():
                kind = str(value.dtype).removeprefix("torch.")
                bind(name, device.torch_device.type, index, kind, tuple(value.shape), value.data_ptr())

    def run(self) -> Tensors:
        """Gives the same tensors each time."""
        self._session.run_with_iobinding(self._binding)
        return self._given

    def close(self) -> None:
        self._binding = self._session = None
