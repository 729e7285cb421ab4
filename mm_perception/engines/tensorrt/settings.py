"""What can be asked of a TensorRT engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mm_perception.core.errors import ConfigError

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8", "mixed"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16", "int8", "mixed")
LADDER: tuple[Precision, ...] = ("int8", "fp16", "mixed", "bf16", "fp32")
"""From the fastest to the safest; `mixed` is fp16 but for the modules that break it."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """Smallest, usual and largest shape of an input whose ONNX file leaves sizes open."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def __post_init__(self) -> None:
        """Raises ConfigError unless the shapes have one rank and each size grows."""
        ranks = {len(self.smallest), len(self.usual), len(self.largest)}
        sizes = zip(self.smallest, self.usual, self.largest, strict=False)
        if len(ranks) != 1 or not all(0 < low <= mid <= high for low, mid, high in sizes):
            raise ConfigError(f"shapes: expected smallest <= usual <= largest, got {self}")

    @classmethod
    def of(cls, data: Mapping[str, Sequence[int]]) -> ShapeRange:
        """From what `dataclasses.asdict` and JSON make of it."""
        return cls(tuple(data["smallest"]), tuple(data["usual"]), tuple(data["largest"]))

    def __str__(self) -> str:
        return "..".join("x".join(map(str, shape)) for shape in (self.smallest, self.usual, self.largest))


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How an engine is built from a graph. All of it goes into the engine's stamp.

    Attributes:
        tf32: whether float32 products may be rounded to 10 bits of mantissa.
        workspace_mb: most memory of one layer's scratch space [MiB]; None: TensorRT's own limit.
        optimization_level: 0 (fast to build) to 5 (fast to run); None: TensorRT's own.
        version_compatible: a later TensorRT of the same major version can run the engine.
        hardware_compatible: other GPUs of the Ampere generation or later can run the engine.
        dla_core: of an Orin or Xavier, with a TensorRT that has it (to 10.7, and from 11.4.1 on AGX Orin); layers that
            it cannot take run on the GPU. None: no DLA.
        compute_capability: build for GPUs of this one, e.g. "8.6", without having one (TensorRT-RTX alone can).
        shapes: ranges of inputs whose sizes are open in the ONNX file.
    """

    tf32: bool = False
    workspace_mb: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    compute_capability: str | None = None
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> BuildSettings:
        """From what `dataclasses.asdict` and JSON make of it."""
        shapes = {name: ShapeRange.of(one) for name, one in data["shapes"].items()}
        return cls(**{**data, "shapes": shapes})

    def __post_init__(self) -> None:
        """Raises ConfigError for impossible values."""
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise ConfigError(f"workspace: expected at least 1 MiB, got {self.workspace_mb}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization level: expected 0 to 5, got {self.optimization_level}")
        if self.dla_core is not None and not 0 <= self.dla_core <= 7:
            raise ConfigError(f"DLA core: expected 0 to 7, got {self.dla_core}")


@dataclass(frozen=True, slots=True)
class TensorRtSettings:
    """What `load_engine` is asked for where TensorRT runs a network.

    Attributes:
        precision: "auto" is fp16.
        ladder: step down where the self-test misses its tolerance; False: refuse the engine.
        adopt: a kept engine of this precision may have been built with other choices of `ladder`, `build`, `keep_fp32`
            and `calibration`, and if it must be built anew they hold again.
        stale: what happens to a kept engine that differs from what is asked for.
        cuda_graph: replay the network as one CUDA graph.
        build: how an engine is built.
        keep_fp32: modules of the network, by the start of their names, that stay in float32 in low precisions.
        calibration: .npz of inputs by name, stacked along a new first axis, from which INT8's scales are taken.
        library: "tensorrt" or "tensorrt_rtx"; None: the first that is installed.
    """

    precision: Precision | Literal["auto"] = "auto"
    ladder: bool = True
    adopt: bool = False
    stale: Literal["rebuild", "refuse"] = "rebuild"
    cuda_graph: bool = True
    build: BuildSettings = field(default_factory=BuildSettings)
    keep_fp32: tuple[str, ...] = ()
    calibration: Path | None = None
    library: str | None = None

    @property
    def first(self) -> Precision:
        """The precision that is tried first."""
        return "fp16" if self.precision == "auto" else self.precision

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown precision."""
        if self.precision not in ("auto", *PRECISIONS):
            raise ConfigError(f"precision: expected auto or one of {', '.join(PRECISIONS)}, got {self.precision!r}")
