"""The CUDA side of a TensorRT engine, by torch: memory, streams, graphs. Torch's primary context is the only one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from mm_perception.core.errors import EngineError
from mm_perception.engines.engine import Array, TensorSpec

TORCH_TYPES = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64,
    "int32": torch.int32, "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip


class Device(Protocol):
    """What an engine needs of the place where it runs."""

    name: str

    @property
    def stream_handle(self) -> int:
        """Of the engine's own stream, as TensorRT takes it."""
        ...

    def empty(self, spec: TensorSpec) -> Tensor:
        """Memory for a tensor, not initialised."""
        ...

    def scratch(self, size: int) -> Tensor:
        """So many bytes."""
        ...

    def upload(self, arrays: dict[str, Array]) -> dict[str, Tensor]:
        """Copies arrays to the device, on the engine's stream."""
        ...

    def download(self, tensors: dict[str, Tensor]) -> dict[str, Array]:
        """Copies tensors to the host, on the engine's stream, and waits."""
        ...

    def follow(self, tensors: dict[str, Tensor]) -> None:
        """Makes the engine's stream wait for the work of torch's current stream, and keeps the tensors' memory until
        the engine's work on them is done."""
        ...

    def copy(self, targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
        """Copies tensors over others of the same names, on the engine's stream."""
        ...

    def copies(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the engine's stream, done when this returns."""
        ...

    def record(self, enqueue: Callable[[int], None]) -> Callable[[], None]:
        """Records what `enqueue` puts on a stream of a given handle; the answer replays it on the engine's stream."""
        ...

    def wait(self) -> None:
        """Until the engine's stream is idle. Raises EngineError for errors of the GPU."""
        ...


class CudaDevice:
    """The first GPU, with a stream of its own and pinned memory for transfers.

    Raises:
        EngineError: torch was built without CUDA, or finds no GPU.
    """

    name = "cuda:0"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise EngineError("torch sees no GPU: install a build of torch with CUDA, for this driver")
        try:
            self._stream: Any = torch.cuda.Stream(torch.device(self.name))  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise EngineError(f"the GPU cannot be used: {error}") from error
        self._pinned: dict[str, Tensor] = {}

    @property
    def stream_handle(self) -> int:
        return int(self._stream.cuda_stream)

    def empty(self, spec: TensorSpec) -> Tensor:
        return torch.empty(spec.shape, dtype=TORCH_TYPES[spec.dtype], device=self.name)

    def scratch(self, size: int) -> Tensor:
        return torch.empty(max(size, 1), dtype=torch.uint8, device=self.name)

    def upload(self, arrays: dict[str, Array]) -> dict[str, Tensor]:
        # Nobody else writes the pinned memory, and `copies` waited for the last transfer from it.
        with torch.cuda.stream(self._stream):
            return {name: self._stage(name, array).to(self.name, non_blocking=True) for name, array in arrays.items()}

    def _stage(self, name: str, array: Array) -> Tensor:
        source = torch.from_numpy(array)
        kept = self._pinned.get(name)
        if kept is None or kept.shape != source.shape or kept.dtype != source.dtype:
            kept = self._pinned[name] = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        return kept.copy_(source)

    def download(self, tensors: dict[str, Tensor]) -> dict[str, Array]:
        with torch.cuda.stream(self._stream):
            landed = {
                name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
                for name, value in tensors.items()
            }
        self.wait()
        return {name: value.numpy() for name, value in landed.items()}

    def follow(self, tensors: dict[str, Tensor]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(torch.device(self.name)))
        for value in tensors.values():
            value.record_stream(self._stream)

    def copy(self, targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
        with torch.cuda.stream(self._stream):
            for name, target in targets.items():
                target.copy_(sources[name], non_blocking=True)

    def copies(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.cuda.stream(self._stream):
            kept = {name: value.clone() for name, value in tensors.items()}
        self.wait()
        # From here on the caller's stream uses them.
        for value in kept.values():
            value.record_stream(torch.cuda.current_stream(torch.device(self.name)))
        return kept

    def record(self, enqueue: Callable[[int], None]) -> Callable[[], None]:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(torch.device(self.name))
        try:
            # thread_local: another thread may allocate memory, for the next bundle, while this one records.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                enqueue(self.stream_handle)
        finally:
            torch.cuda.set_stream(before)  # torch leaves the recorded one where recording failed

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def wait(self) -> None:
        try:
            self._stream.synchronize()
        except RuntimeError as error:
            raise EngineError(f"the GPU failed: {error}") from error


class SharedScratch:
    """Scratch memory of engines that never run at the same time, as large as the greediest needs.

    Attributes:
        generation: grows whenever the memory moved; who uses it must then take the new address.
        lock: to be held while a network runs in it.
    """

    def __init__(self, device: Device) -> None:
        self.lock = threading.Lock()
        self._device = device
        self._memory: Tensor | None = None
        self.generation = 0

    def reserve(self, size: int) -> None:
        """Makes it at least so many bytes. Raises EngineError if the GPU has not as many."""
        with self.lock:
            if self.size >= size and self._memory is not None:
                return
            try:
                # The old one is held until there is a new one: engines that run in it go on if there is not.
                self._memory = self._device.scratch(size)
            except RuntimeError as error:  # torch's out-of-memory errors
                raise EngineError(f"no {size / 2**20:.0f} MiB of GPU memory for scratch space: {error}") from error
            self.generation += 1

    @property
    def address(self) -> int:
        assert self._memory is not None
        return int(self._memory.data_ptr())

    @property
    def size(self) -> int:
        return 0 if self._memory is None else self._memory.numel()
