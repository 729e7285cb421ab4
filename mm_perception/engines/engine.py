"""What an inference engine is: named tensors in, named tensors out, both checked against their specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import EngineError

Array = NDArray[Any]
DeviceTensor = Any
"""A torch.Tensor. Its type is not named: engines without torch import this file, too."""


class NotFiniteError(EngineError):
    """An output holds NaN or infinity."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and numpy dtype name ("float32") of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Engine(Protocol):
    """A network ready to run. One caller at a time; a closed engine refuses to run."""

    @property
    def name(self) -> str:
        """The runtime: "torch", "onnxruntime", "openvino"."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Computes all outputs of one set of inputs; the caller owns the returned arrays.

        Raises:
            EngineError: an input does not meet its spec, the runtime failed, or an output is not finite.
        """
        ...

    def close(self) -> None:
        """Frees the network. May be called twice."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine that also takes and gives torch tensors where they lie, without a way through the host's memory."""

    @property
    def device(self) -> str:
        """torch's name of the device that it runs on: "cpu", "cuda" or "cuda:<index>"."""
        ...

    def run_on_device(self, tensors: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """As `run`, with torch tensors on `device`.

        The inputs are what torch's current stream of the calling thread will have made: the engine waits for it. When
        this returns, the outputs are finished and checked, and the inputs are no longer read; the caller owns both.

        Raises:
            EngineError: an input does not meet its spec or lies elsewhere, the runtime failed, or an output is not
                finite.
        """
        ...


def device_of(engine: Engine) -> str:
    """The device whose tensors an engine takes; "cpu" of one that takes numpy arrays alone."""
    return engine.device if isinstance(engine, DeviceEngine) else "cpu"


def segmentation_specs(
    num_classes: int, height: int, width: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of every RGB-X segmentation network.

    `rgb` and `x`: normalised images (1, 3, H, W); `logits`: class scores (1, C, H, W); all float32.
    """
    image = (1, 3, height, width)
    return (TensorSpec("rgb", image), TensorSpec("x", image)), (TensorSpec("logits", (1, num_classes, height, width)),)


def check_inputs(specs: Sequence[TensorSpec], tensors: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The inputs in spec order and C-contiguous (copied only where they are not).

    Raises:
        EngineError: one line per missing or unexpected name, wrong shape and wrong dtype.
    """

    def problem(value: Any, spec: TensorSpec) -> str:
        if not isinstance(value, np.ndarray):
            return f"{spec.name}: expected a numpy array {spec}, got {type(value).__name__}"
        if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            return f"expected {spec}, got {value.dtype}{list(value.shape)}"
        return ""

    return {name: np.ascontiguousarray(value) for name, value in _fitting(specs, tensors, problem, where).items()}


def check_device_inputs(
    specs: Sequence[TensorSpec], tensors: Mapping[str, DeviceTensor], device: str, where: str
) -> dict[str, DeviceTensor]:
    """`check_inputs` of torch tensors, which must lie on `device`."""

    def problem(value: Any, spec: TensorSpec) -> str:
        if isinstance(value, np.ndarray) or not hasattr(value, "device"):
            return f"{spec.name}: expected a torch tensor {spec}, got {type(value).__name__}"
        if value.device.type != device.partition(":")[0]:
            return f"{spec.name}: expected on {device}, lies on {value.device}"
        if tuple(value.shape) != spec.shape or _torch_dtype_name(value) != spec.dtype:
            return f"expected {spec}, got {_torch_dtype_name(value)}{list(value.shape)}"
        return ""

    return {name: value.contiguous() for name, value in _fitting(specs, tensors, problem, where).items()}


def _fitting(
    specs: Sequence[TensorSpec], tensors: Mapping[str, Any], problem: Callable[[Any, TensorSpec], str], where: str
) -> dict[str, Any]:
    """The values in spec order, if none is missing, unexpected or has a problem."""
    known = {spec.name for spec in specs}
    problems = [f"{name}: unexpected (expected {', '.join(sorted(known))})" for name in tensors if name not in known]
    for spec in specs:
        if spec.name not in tensors:
            problems.append(f"{spec.name}: missing (expected {spec})")
        elif found := problem(tensors[spec.name], spec):
            problems.append(found)
    if problems:
        raise EngineError(f"{where}: inputs do not fit\n  " + "\n  ".join(problems))
    return {spec.name: tensors[spec.name] for spec in specs}


def check_outputs(specs: Sequence[TensorSpec], tensors: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The outputs, known to meet their specs and to be finite.

    Raises:
        EngineError: an output is missing, of another shape or dtype, or holds NaN or infinity.
    """
    for spec in specs:
        value = tensors.get(spec.name)
        if value is None:
            raise EngineError(f"{where}: output {spec} is missing, got {', '.join(tensors) or 'none'}")
        if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            raise EngineError(f"{where}: output: expected {spec}, got {value.dtype}{list(value.shape)}")
        # NaN and infinity survive every sum, so one pass without a temporary array finds them.
        with np.errstate(all="ignore"):
            finite = not np.issubdtype(value.dtype, np.floating) or bool(np.isfinite(value.sum()))
        if not finite:
            bad = int(value.size - np.isfinite(value).sum())
            raise NotFiniteError(f"{where}: output {spec} holds {bad} values that are NaN or infinite")
    return {spec.name: tensors[spec.name] for spec in specs}


def check_device_outputs(
    specs: Sequence[TensorSpec], tensors: Mapping[str, DeviceTensor], where: str
) -> dict[str, DeviceTensor]:
    """`check_outputs` of torch tensors; waits for the device until they are finished, once for all of them."""
    for spec in specs:
        value = tensors.get(spec.name)
        if value is None:
            raise EngineError(f"{where}: output {spec} is missing, got {', '.join(tensors) or 'none'}")
        if tuple(value.shape) != spec.shape or _torch_dtype_name(value) != spec.dtype:
            raise EngineError(f"{where}: output: expected {spec}, got {_torch_dtype_name(value)}{list(value.shape)}")
    # Least and largest are NaN or infinite if any value is, and their differences from themselves then are NaN.
    ends = [end for spec in specs for end in tensors[spec.name].aminmax()]
    if float(sum(end - end for end in ends)) != 0.0:
        bad = {spec: int((~tensors[spec.name].isfinite()).sum()) for spec in specs}
        named = ", ".join(f"{spec} holds {count}" for spec, count in bad.items() if count)
        raise NotFiniteError(f"{where}: output {named} values that are NaN or infinite")
    return {spec.name: tensors[spec.name] for spec in specs}


def _torch_dtype_name(value: DeviceTensor) -> str:
    """numpy's name of a torch tensor's dtype."""
    return str(value.dtype).removeprefix("torch.")


def check_specs(expected: Sequence[TensorSpec], got: Sequence[TensorSpec], where: str) -> None:
    """Compares what a model file declares with what its card promises, in any order.

    Raises:
        EngineError: they differ.
    """
    if set(expected) != set(got):
        want, have = (", ".join(map(str, sorted(specs, key=lambda s: s.name))) for specs in (expected, got))
        raise EngineError(f"{where}: expected {want}; got {have}")
