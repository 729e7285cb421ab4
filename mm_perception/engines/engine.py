"""What an inference engine is: named tensors in, named tensors out, both checked against their specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import EngineError

Array = NDArray[Any]


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
    known = {spec.name for spec in specs}
    problems = [f"{name}: unexpected (expected {', '.join(sorted(known))})" for name in tensors if name not in known]
    checked: dict[str, Array] = {}
    for spec in specs:
        if spec.name not in tensors:
            problems.append(f"{spec.name}: missing (expected {spec})")
            continue
        value = tensors[spec.name]
        if not isinstance(value, np.ndarray):
            problems.append(f"{spec.name}: expected a numpy array {spec}, got {type(value).__name__}")
        elif value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            problems.append(f"expected {spec}, got {value.dtype}{list(value.shape)}")
        else:
            checked[spec.name] = np.ascontiguousarray(value)
    if problems:
        raise EngineError(f"{where}: inputs do not fit\n  " + "\n  ".join(problems))
    return checked


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
            raise EngineError(f"{where}: output {spec} holds {bad} values that are NaN or infinite")
    return {spec.name: tensors[spec.name] for spec in specs}


def check_specs(expected: Sequence[TensorSpec], got: Sequence[TensorSpec], where: str) -> None:
    """Compares what a model file declares with what its card promises, in any order.

    Raises:
        EngineError: they differ.
    """
    if set(expected) != set(got):
        want, have = (", ".join(map(str, sorted(specs, key=lambda s: s.name))) for specs in (expected, got))
        raise EngineError(f"{where}: expected {want}; got {have}")
