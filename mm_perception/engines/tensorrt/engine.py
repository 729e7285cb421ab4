"""Running a TensorRT plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from mm_perception.core.errors import EngineError
from mm_perception.core.files import replace_file
from mm_perception.engines.engine import (
    Array,
    TensorSpec,
    check_device_inputs,
    check_device_outputs,
    check_inputs,
    check_specs,
)
from mm_perception.engines.tensorrt.cuda import Device, SharedScratch
from mm_perception.engines.tensorrt.errors import PlanError
from mm_perception.engines.tensorrt.library import Library, make_log
from mm_perception.engines.tensorrt.settings import BuildSettings

R = TypeVar("R")
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "INT8": "int8",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorRtEngine:
    """A plan with one execution context on one stream.

    Inputs on the GPU are bound where they lie. With `cuda_graph` they are copied, within the GPU, to where one recorded
    graph reads them. Outputs are computed into the engine's own memory and handed out as copies, checked for NaN and
    infinity.

    Args:
        library: whose plan it is.
        path: the plan's file. TensorRT-RTX keeps the kernels that it compiles in a file beside it.
        inputs, outputs: what it must take and give; open sizes of the plan are set to these shapes.
        device: where it runs.
        scratch: memory that engines share which never run at the same time.
        cuda_graph: record and replay; `warm_up` records.
        build: how it was built.
        tell: hears why there is no graph, if there cannot be one.

    Raises:
        PlanError: the plan is damaged, of another TensorRT or GPU, or takes and gives other tensors.
        EngineError: there is not enough GPU memory, or the GPU cannot be used.
    """

    def __init__(
        self,
        library: Library,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        device: Device,
        scratch: SharedScratch,
        *,
        cuda_graph: bool = True,
        build: BuildSettings | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.name = library.name
        self.device = device.name
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._device, self._scratch, self._tell = device, scratch, tell
        self._log = make_log(library.module)
        self._plan: Any = self._read(library, path, build or BuildSettings())
        self._kernels = _KernelCache(library, path)
        self._context: Any = self._make_context(library)
        self._check_tensors(library)
        self._outputs = {spec.name: self._empty(spec) for spec in self.outputs}
        for spec in self.outputs:
            self._bind(spec.name, self._outputs[spec.name])
        self._generation = -1
        self._cuda_graph = cuda_graph
        self._own_inputs: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None

    def _said(self) -> str:
        return "; ".join(self._log.messages[-3:]) or "it does not say why"

    def _read(self, library: Library, path: Path, build: BuildSettings) -> Any:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PlanError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            self._runtime = library.module.Runtime(self._log)
        except (TypeError, RuntimeError) as error:  # its factory found no driver, or no GPU that it takes
            raise EngineError(f"{library}: no runtime ({error}): {self._said()}") from error
        if build.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan brings a small runtime of its own version
        if build.dla_core is not None:
            self._runtime.DLA_core = build.dla_core
        plan = self._runtime.deserialize_cuda_engine(data)
        if plan is None:
            raise PlanError(f"{library}: the engine cannot be read: {self._said()}")
        return plan

    def _make_context(self, library: Library) -> Any:
        strategy = library.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._scratch.reserve(int(self._plan.device_memory_size_v2))
        context = self._kernels.context(self._plan, strategy)
        if context is None:
            raise EngineError(f"{library}: no execution context: {self._said()}")
        return context

    def _check_tensors(self, library: Library) -> None:
        trt = library.module
        found = []
        for i in range(self._plan.num_io_tensors):
            name = self._plan.get_tensor_name(i)
            wanted = next((spec for spec in (*self.inputs, *self.outputs) if spec.name == name), None)
            is_input = self._plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            if is_input and wanted is not None and not self._context.set_input_shape(name, wanted.shape):
                raise PlanError(f"{library}: {wanted}: the engine does not take this shape: {self._said()}")
            dtype = str(self._plan.get_tensor_dtype(name)).rpartition(".")[2]
            found.append((name, _DTYPES.get(dtype, dtype)))
        # An output's shape is known once those of all inputs are.
        specs = [TensorSpec(name, tuple(self._context.get_tensor_shape(name)), dtype) for name, dtype in found]
        try:
            check_specs((*self.inputs, *self.outputs), specs, f"{library} engine")
        except EngineError as error:
            raise PlanError(str(error)) from error

    def _empty(self, spec: TensorSpec) -> Tensor:
        try:
            return self._device.empty(spec)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: no GPU memory for {spec}: {error}") from error

    def _bind(self, name: str, tensor: Tensor) -> None:
        if not self._context.set_tensor_address(name, tensor.data_ptr()):
            raise PlanError(f"{self.name}: {name} cannot be bound: {self._said()}")

    def warm_up(self, rounds: int = 2) -> None:
        """Runs on zeros: the first inferences are slow, and what cannot run shall fail before the drive.

        Raises:
            PlanError: the network fails.
            EngineError: there is not enough GPU memory.
        """
        zeros = self._guarded(lambda: {spec.name: self._empty(spec).zero_() for spec in self.inputs})

        def once() -> None:
            self._device.follow(zeros)
            self._enqueue(zeros)
            self._device.wait()

        for _ in range(rounds):
            self._guarded(once)
        self._kernels.save()

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

    def _enqueue(self, tensors: dict[str, Tensor]) -> None:
        if self._generation != self._scratch.generation:
            # Another engine that shares the memory made it grow, and move.
            self._context.set_device_memory(self._scratch.address, self._scratch.size)
            self._generation, self._replay = self._scratch.generation, None
        if self._cuda_graph:
            tensors = self._moved(tensors)
        if self._replay is not None:
            self._replay()
            return
        for spec in self.inputs:
            self._bind(spec.name, tensors[spec.name])
        self._launch(self._device.stream_handle)
        if self._cuda_graph:
            self._record()

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs, where the graph reads them."""
        if not self._own_inputs:
            self._own_inputs = {spec.name: self._empty(spec) for spec in self.inputs}
        self._device.copy(self._own_inputs, tensors)
        return self._own_inputs

    def _record(self) -> None:
        """Records the network, after a plain run, which set up what must not be set up while recording."""
        self._device.wait()
        capturable = getattr(self._context, "is_stream_capturable", None)
        try:
            if capturable is not None and not capturable(self._device.stream_handle):
                raise EngineError("TensorRT cannot record it")
            self._replay = self._device.record(self._launch)
        except (RuntimeError, EngineError) as error:
            self._cuda_graph, self._replay, self._own_inputs = False, None, {}
            self._tell(f"{self.name}: runs without a CUDA graph: {error}")

    def _launch(self, stream_handle: int) -> None:
        if not self._context.execute_async_v3(stream_handle):
            raise PlanError(f"{self.name}: the network failed: {self._said()}")

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
        self._replay = None
        self._context = None
        self._kernels.close()
        self._plan = None
        self._outputs = {}
        self._own_inputs = {}


class _KernelCache:
    """TensorRT-RTX compiles a plan's kernels when it first runs; this keeps them from start to start. The full
    TensorRT's plans hold their kernels, and there is nothing to keep."""

    def __init__(self, library: Library, plan: Path) -> None:
        self._is_needed = library.name == "tensorrt_rtx" and hasattr(library.module, "IRuntimeCache")
        self._path = plan.with_name(f"{plan.name.removeprefix('.').removesuffix('.new')}.kernels")
        self._cache: Any = None

    def context(self, plan: Any, strategy: Any) -> Any:
        """An execution context that uses the kept kernels."""
        if not self._is_needed:
            return plan.create_execution_context(strategy)
        config = plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            self._cache.deserialize(self._path.read_bytes())  # one of another GPU or version is refused by itself
        config.set_runtime_cache(self._cache)
        return plan.create_execution_context(config)

    def save(self) -> None:
        """Writes the kernels; a disk that is full costs time at the next start, and nothing else."""
        if self._cache is None:
            return
        with contextlib.suppress(OSError):
            replace_file(self._path, memoryview(self._cache.serialize()))

    def close(self) -> None:
        self._cache = None
