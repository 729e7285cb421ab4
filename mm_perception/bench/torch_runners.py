"""The ways in which torch runs a deployed network: as it stands, compiled, and as a CUDA graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mm_perception.bench.timing import Device
from mm_perception.core.errors import EngineError

Tensors = dict[str, Tensor]

COMPILE_MODE = "reduce-overhead"
"""Of torch.compile: fused kernels in a CUDA graph. The max-autotune modes take minutes more per network."""
CAPTURE_WARMUP = 3
_LOWERED = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Runner(Protocol):
    """A network on the device, ready to run. What `run` returns may be overwritten by the next run."""

    note: str

    def run(self) -> Tensors: ...

    def close(self) -> None: ...


class CastNetwork(nn.Module):
    """A network whose weights and activations are of a lower precision; it takes and gives float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, *inputs: Tensor) -> Any:
        cast = (x.to(self.dtype) if x.is_floating_point() else x for x in inputs)
        return _float32(self.network(*cast))


class AutocastNetwork(nn.Module):
    """A network whose products torch lowers one by one; places and projections stay in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.network, self.dtype, self.device = network, dtype, device

    def forward(self, *inputs: Tensor) -> Any:
        # Each weight is used once: keeping its lowered copy would only take memory.
        with torch.autocast(self.device, self.dtype, cache_enabled=False):
            return _float32(self.network(*inputs))


def _float32(results: Any) -> tuple[Tensor, ...]:
    several = results if isinstance(results, tuple) else (results,)
    return tuple(x.float() if x.is_floating_point() else x for x in several)


def lowered(network: nn.Module, precision: str, detects: bool, device: Device) -> tuple[nn.Module, str]:
    """A copy of the network on the device, in that precision, and a note on how it got there.

    A detector is left to autocast: its projections into images lose whole pixels in 16 bits.
    """
    network = copy.deepcopy(network).to(device.torch_device)
    dtype = _LOWERED.get(precision)
    if precision == "tf32" and not device.is_gpu:
        raise EngineError("TF32 is a number format of NVIDIA GPUs")
    if dtype is None:
        return network, ""
    if detects:
        return AutocastNetwork(network, dtype, device.torch_device.type), "autocast"
    return CastNetwork(network, dtype), "weights cast"


class EagerRunner:
    """One call after the other, as the module stands; also the compiled module, which is called alike."""

    def __init__(self, network: Callable[..., Any], inputs: Tensors, outputs: tuple[str, ...], note: str = "") -> None:
        self._network: Callable[..., Any] | None = network
        self._inputs, self._outputs, self.note = inputs, outputs, note

    def run(self) -> Tensors:
        assert self._network is not None
        return named(self._outputs, self._network(*self._inputs.values()))

    def close(self) -> None:
        self._network = None


class CompiledRunner(EagerRunner):
    """The module through torch.compile."""

    def __init__(self, network: nn.Module, inputs: Tensors, outputs: tuple[str, ...], note: str = "") -> None:
        said = f"{COMPILE_MODE}, {note}" if note else COMPILE_MODE
        super().__init__(torch.compile(network, mode=COMPILE_MODE), inputs, outputs, said)

    def run(self) -> Tensors:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return super().run()

    def close(self) -> None:
        super().close()
        torch.compiler.reset()


class GraphRunner:
    """The module captured once as a CUDA graph; each run copies the inputs in and replays it."""

    def __init__(
        self, network: nn.Module, inputs: Tensors, outputs: tuple[str, ...], device: Device, note: str = ""
    ) -> None:
        if not device.is_gpu:
            raise EngineError("CUDA graphs need an NVIDIA GPU")
        self._inputs, self.note = inputs, note
        self._taken = {name: value.clone() for name, value in inputs.items()}
        constants = KeptConstants()
        stream = torch.cuda.Stream(device.torch_device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(CAPTURE_WARMUP):
                with constants.again():
                    network(*self._taken.values())
        torch.cuda.current_stream().wait_stream(stream)
        self._graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), constants.again():
            self._given = named(outputs, network(*self._taken.values()))
        self._constants, self._network = constants, network  # the graph reads their memory

    def run(self) -> Tensors:
        assert self._graph is not None
        for name, value in self._inputs.items():
            self._taken[name].copy_(value)
        self._graph.replay()
        return self._given

    def close(self) -> None:
        self._graph = None


class KeptConstants(TorchFunctionMode):
    """Makes each tensor of Python numbers once and hands it out again in later runs.

    Such numbers are copied from the host, which a CUDA graph cannot capture. Every run has to make the same ones in
    the same order, as a network of fixed shapes does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []
        self._next = 0

    @contextmanager
    def again(self) -> Iterator[None]:
        """One run of the network."""
        self._next = 0
        with self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func not in (torch.tensor, Tensor.new_tensor):
            return func(*args, **(kwargs or {}))
        if self._next == len(self._kept):
            self._kept.append(func(*args, **(kwargs or {})))
        self._next += 1
        return self._kept[self._next - 1]


def named(names: tuple[str, ...], results: Any) -> Tensors:
    """What a module returned, by name."""
    several = results if isinstance(results, tuple) else (results,)
    return dict(zip(names, several, strict=True))
