"""Running a TensorRT plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import (
    Array,
    TensorSpec,
    check_device_inputs,
    check_device_outputs,
    check_inputs,
    check_specs,
)
from mm_perception.engines.tensorrt.cuda import Device, SharedScratch
from mm_perception.engines.tensorrt.library import Library, make_log

R = TypeVar("R")
MOST_GRAPHS = 4
"""CUDA graphs hold addresses. Inputs that torch allocates anew each time come to lie at a few places in turn; those
that lie elsewhere are copied to where one graph of the engine's own reads them."""
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "INT8": "int8",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorRtEngine:
    """A plan with one execution context on one stream.

    Inputs on the GPU are bound where they lie. Outputs are computed into the engine's own memory and handed out as
    copies, checked for NaN and infinity. With `cuda_graph` the launches are recorded once per place of the inputs, and
    inputs at too many places are copied after all.

    Args:
        library: whose plan it is.
        plan: its bytes.
        inputs, outputs: what it must take and give; open sizes of the plan are set to these shapes.
        device: where it runs.
        scratch: memory that engines share which never run at the same time.
        cuda_graph: record and replay.

    Raises:
        EngineError: the plan is damaged, of another TensorRT or GPU, or takes and gives other tensors; there is not
            enough GPU memory.
    """

    def __init__(
        self,
        library: Library,
        plan: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        device: Device,
        scratch: SharedScratch,
        *,
        cuda_graph: bool = True,
    ) -> None:
        self.name = library.name
        self.device = device.name
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._device, self._scratch = device, scratch
        self._log = make_log(library.module)
        try:
            self._runtime = library.module.Runtime(self._log)
            self._plan = self._runtime.deserialize_cuda_engine(plan)
        except (TypeError, RuntimeError) as error:  # its factory found no driver, or no GPU that it takes
            raise EngineError(f"{library}: no runtime ({error}): {self._said()}") from error
        if self._plan is None:
            raise EngineError(f"{library}: the engine cannot be read: {self._said()}")
        self._context: Any = self._make_context(library)
        self._check_tensors(library)
        self._outputs = {spec.name: self._empty(spec) for spec in self.outputs}
        for spec in self.outputs:
            self._bind(spec.name, self._outputs[spec.name])
        self._own_inputs: dict[str, Tensor] = {}
        self._generation = -1
        self._graphs: dict[tuple[int, ...], Callable[[], None]] = {}
        self._cuda_graph = cuda_graph

    def _said(self) -> str:
        return "; ".join(self._log.messages[-3:]) or "it does not say why"

    def _make_context(self, library: Library) -> Any:
        strategy = library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._plan.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{library}: no execution context: {self._said()}")
        self._scratch.reserve(int(self._plan.device_memory_size_v2))
        return context

    def _check_tensors(self, library: Library) -> None:
        trt = library.module
        found = []
        for i in range(self._plan.num_io_tensors):
            name = self._plan.get_tensor_name(i)
            wanted = next((spec for spec in (*self.inputs, *self.outputs) if spec.name == name), None)
            is_input = self._plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            if is_input and wanted is not None and not self._context.set_input_shape(name, wanted.shape):
                raise EngineError(f"{library}: {wanted}: the engine does not take this shape: {self._said()}")
            dtype = str(self._plan.get_tensor_dtype(name)).rpartition(".")[2]
            found.append((name, _DTYPES.get(dtype, dtype)))
        # An output's shape is known once those of all inputs are.
        specs = [TensorSpec(name, tuple(self._context.get_tensor_shape(name)), dtype) for name, dtype in found]
        check_specs((*self.inputs, *self.outputs), specs, f"{library} engine")

    def _empty(self, spec: TensorSpec) -> Tensor:
        try:
            return self._device.empty(spec)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: no GPU memory for {spec}: {error}") from error

    def _bind(self, name: str, tensor: Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise EngineError(f"{self.name}: {name} cannot be bound: {self._said()}")

    def warm_up(self, rounds: int = 2) -> None:
        """Runs on zeros: the first inferences are slow, and what cannot run shall fail before the drive."""
        zeros = {spec.name: self._empty(spec).zero_() for spec in self.inputs}

        def once() -> None:
            self._device.follow(zeros)
            self._enqueue(zeros)
            self._device.wait()

        for _ in range(rounds):
            self._guarded(once)

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.run`."""
        self._check_open()
        checked = check_inputs(self.inputs, tensors, self.name)
        return self._guarded(lambda: self._device.download(self._run(self._device.upload(checked))))

    def run_on_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `DeviceEngine.run_on_device`."""
        self._check_open()
        checked = check_device_inputs(self.inputs, tensors, self.device, self.name)
        return self._guarded(lambda: self._run(checked))

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self._device.follow(tensors)
        self._enqueue(tensors)
        return check_device_outputs(self.outputs, self._device.copies(self._outputs), self.name)

    def _enqueue(self, tensors: Mapping[str, Tensor]) -> None:
        if self._generation != self._scratch.generation:
            # Another engine that shares the memory made it grow, and move.
            self._context.set_device_memory(self._scratch.address, self._scratch.size)
            self._generation = self._scratch.generation
            self._graphs.clear()
        if self._cuda_graph and self._places(tensors) not in self._graphs and len(self._graphs) >= MOST_GRAPHS:
            tensors = self._moved(tensors)
        places = self._places(tensors)
        if places in self._graphs:
            self._graphs[places]()
            return
        for spec in self.inputs:
            self._bind(spec.name, tensors[spec.name])
        self._launch(self._device.stream_handle)
        if self._cuda_graph:
            # Recorded after a plain run, which sets up what must not be set up while recording.
            self._device.wait()
            self._graphs[places] = self._device.record(self._launch)

    def _places(self, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
        return tuple(tensors[spec.name].data_ptr() for spec in self.inputs)

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs, copied into the engine's own memory."""
        if not self._own_inputs:
            self._own_inputs = {spec.name: self._empty(spec) for spec in self.inputs}
        self._device.copy(self._own_inputs, tensors)
        return self._own_inputs

    def _launch(self, stream_handle: int) -> None:
        if not self._context.execute_async_v3(stream_handle):
            raise EngineError(f"{self.name}: the network failed: {self._said()}")

    def _guarded(self, step: Callable[[], R]) -> R:
        """Errors of CUDA reach the node as errors of an engine, which it counts and lives with."""
        try:
            with self._scratch.lock:
                return step()
        except RuntimeError as error:
            raise EngineError(f"{self.name}: the GPU failed: {error}") from error

    def _check_open(self) -> None:
        if self._context is None:
            raise EngineError(f"{self.name}: the engine is closed")

    def close(self) -> None:
        """See `Engine.close`."""
        self._graphs = {}
        self._context = None
        self._plan = None
        self._outputs = {}
        self._own_inputs = {}
