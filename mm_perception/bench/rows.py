"""What a bench of the GPU has measured: rows, facts of networks and of the machine, and their file."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mm_perception.core.errors import ConfigError
from mm_perception.core.files import replace_file

Status = Literal["ok", "failed", "not run"]

RUNNERS = ("eager", "cudagraph", "onnxruntime", "tensorrt", "compile")
"""In the order in which they are measured; compiling takes longest."""
TORCH_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "int8")
"""Those that are measured where none are asked for."""
ALL_PRECISIONS = (*PRECISIONS, "mixed")
"""Mixed is TensorRT's alone. What breaks fp16 is searched for before it is built, which takes long."""
PIPELINE_ENGINES = ("torch", "tensorrt")
BYTES_PER_ELEMENT = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class RowSpec:
    """One way to run one network.

    Attributes:
        runner: one of `RUNNERS`.
        cuda_graph: the whole network is replayed as one CUDA graph.
    """

    network: str
    runner: str
    precision: str
    cuda_graph: bool = False

    @property
    def label(self) -> str:
        """What runs, in words, without the precision."""
        names = {
            "eager": "torch eager",
            "cudagraph": "torch",
            "compile": "torch.compile",
            "onnxruntime": "ONNX Runtime",
        }
        return names.get(self.runner, "TensorRT") + (", CUDA graph" if self.cuda_graph else "")


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of it, or why not.

    Attributes:
        reason: why there are no figures; empty if there are.
        median_ms, p99_ms: of one run, from the call to the end of the work on the device.
        per_s: runs per second where one is given to the device after the other without waiting.
        memory_mib: device memory that weights, workspaces and activations take; None on a CPU.
        load_s: from the network on the host to the first result: copying, capturing, compiling or building.
        max_abs_diff: of the outputs, from those of torch in float32; None without a reference.
        agreement: share of pixels with the reference's label, or of its boxes that are found again, in the worst
            sample.
        roofline_ms: what no implementation in this precision can go below on this machine.
        note: what else has to be known.
    """

    spec: RowSpec
    status: Status
    reason: str = ""
    median_ms: float | None = None
    p99_ms: float | None = None
    per_s: float | None = None
    memory_mib: float | None = None
    load_s: float | None = None
    max_abs_diff: float | None = None
    agreement: float | None = None
    roofline_ms: float | None = None
    note: str = ""

    @property
    def times_roofline(self) -> float | None:
        """How many times slower than the roofline."""
        if self.median_ms is None or not self.roofline_ms:
            return None
        return self.median_ms / self.roofline_ms


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """The whole pipeline with one engine: from an observation to results.

    Attributes:
        bundles: how many were timed.
        stages: median and 99th percentile by stage [ms].
        step_per_s: bundles per second, one after the other.
        overlapped_per_s: with the next bundle prepared in a second thread; None where that is not possible.
    """

    engine: str
    models: str
    status: Status
    reason: str = ""
    bundles: int = 0
    stages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    step_per_s: float | None = None
    overlapped_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a network costs at least, by `engines.roofline`; or why that is not known.

    Attributes:
        gflop: of products and of all else.
        once_mb, unfused_mb: bytes by precision.
        roofline_ms: by precision, from `once_mb`; unfused_roofline_ms: from `unfused_mb`.
        inputs: on which the rows' outputs are compared, in words.
    """

    reason: str = ""
    products_gflop: float = 0.0
    others_gflop: float = 0.0
    once_mb: Mapping[str, float] = field(default_factory=dict)
    unfused_mb: Mapping[str, float] = field(default_factory=dict)
    roofline_ms: Mapping[str, float] = field(default_factory=dict)
    unfused_roofline_ms: Mapping[str, float] = field(default_factory=dict)
    inputs: str = ""


@dataclass(slots=True)
class Report:
    """Everything that one bench measured.

    Attributes:
        machine: names and versions.
        options: of the command, as far as they change figures.
        peak_flops: by precision [1/s]; a precision that the machine lacks is missing.
        peak_bytes_per_s: of a large copy, reading and writing counted.
    """

    machine: dict[str, str]
    options: dict[str, Any]
    peak_flops: dict[str, float] = field(default_factory=dict)
    peak_bytes_per_s: float = math.nan
    networks: dict[str, NetworkFacts] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    pipelines: list[PipelineRow] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes all of it as JSON, atomically: what is measured so far survives whatever comes."""
        content = asdict(self)
        for entry, row in zip(content["rows"], self.rows, strict=True):
            entry["times_roofline"] = row.times_roofline
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(content, indent=1, default=str).encode())

    def take_over(self, path: Path) -> None:
        """Takes the rows that an earlier run of this bench measured; those that were not run stay to be done.

        Raises:
            ConfigError: the file cannot be read, or is of another machine, other versions or other options.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = [_row(entry) for entry in content["rows"]]
            pipelines = [PipelineRow(**entry) for entry in content["pipelines"]]
            networks = {name: NetworkFacts(**facts) for name, facts in content["networks"].items()}
            peaks = dict(content["peak_flops"]), float(content["peak_bytes_per_s"])
            differs = [
                f"{name}: {theirs.get(name)} there, {value} here"
                for ours, theirs in ((self.machine, content["machine"]), (self.options, content["options"]))
                for name, value in ours.items()
                if theirs.get(name) != value
            ]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}: cannot be gone on with ({error})") from error
        if differs:
            raise ConfigError(f"{path}: cannot be gone on with: " + "; ".join(differs))
        self.rows = [row for row in rows if row.status != "not run"]
        self.pipelines = [row for row in pipelines if row.status != "not run"]
        self.networks = networks
        self.peak_flops, self.peak_bytes_per_s = peaks  # the rooflines were drawn with them


def _row(entry: Mapping[str, Any]) -> Row:
    figures = {name: value for name, value in entry.items() if name != "times_roofline"}
    return Row(**{**figures, "spec": RowSpec(**figures["spec"])})


def row_specs(network: str, precisions: Iterable[str], skip: Collection[str] = ()) -> list[RowSpec]:
    """All ways to run a network that are measured.

    Args:
        precisions: of `ALL_PRECISIONS`.
        skip: runners that are left out.
    """
    wanted = list(precisions)
    specs = [RowSpec(network, "eager", p) for p in TORCH_PRECISIONS if p in wanted]
    if "fp16" in wanted:
        specs += [RowSpec(network, "cudagraph", "fp16", cuda_graph=True)]
    if "fp32" in wanted:
        specs += [RowSpec(network, "onnxruntime", "fp32")]
    specs += [RowSpec(network, "tensorrt", p, graph) for p in wanted for graph in (False, True)]
    if "fp16" in wanted:
        specs += [RowSpec(network, "compile", "fp16")]
    return [spec for spec in specs if spec.runner not in skip]


def not_run(specs: Iterable[RowSpec], reason: str) -> list[Row]:
    """Rows that say why they were not measured."""
    return [Row(spec, "not run", reason) for spec in specs]


def with_roofline(row: Row, facts: NetworkFacts) -> Row:
    """The row beside its network's roofline, where that is known."""
    return replace(row, roofline_ms=facts.roofline_ms.get(row.spec.precision))
