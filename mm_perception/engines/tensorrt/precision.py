"""Writing precision into an ONNX graph, as strongly typed networks want it, and finding what does not bear it.

fp16, bf16 and mixed: AutoCast of nvidia-modelopt puts casts around the modules that stay in float32. INT8: its
quantizer puts symmetric QuantizeLinear/DequantizeLinear pairs around convolutions and products, with scales from
calibration inputs; the rest is fp16. fp32 and tf32 leave the graph as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mm_perception.engines.engine import TensorSpec
from mm_perception.engines.tensorrt.apart import Progress, run_apart
from mm_perception.engines.tensorrt.errors import RefusedError, ToleranceError
from mm_perception.engines.tensorrt.settings import Precision

NEEDED = "nvidia-modelopt"
LOW_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
QUANTIZED_OPS = ("Conv", "Gemm", "MatMul")
FRAGILE = {
    # K^T V sums over all tokens and grows with the image (arXiv:2203.04838, section III-C):
    # it is the first to leave fp16's range.
    "cmx": tuple(f"backbone.FFMs.{stage}.cross.cross_attn/" for stage in range(4)),
    # A query's class is its index divided by the number of cells, which ONNX does in floating point: indices beyond
    # 2048 lose digits in fp16, and those beyond 65504 are infinite.
    "deepinteraction": ("model.pts_bbox_head/",),
}
"""By architecture, what 16 bits never get. Modules are named as in the network; `a.b` is the module with all that lies
in it, `a.b/` its own operations alone."""


UNQUANTIZED = {
    "deepinteraction": ("model.pts_bbox_head", "model.imgpts_neck", "model.pts_middle_encoder"),
}
"""By architecture, what gets 16 bits where INT8 is asked for: places, and what is looked up at them, not textures."""


def own_modules(path: Path) -> list[str]:
    """Every module of an exported network that has operations of its own, as `a.b/`, in the order in which they run."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return list(dict.fromkeys(_module_of(node.name) for node in graph.node))


def _module_of(node_name: str) -> str:
    """`a.b/` of the node `a.b/conv2d`; see `export.export_onnx` for the names."""
    return "".join(node_name.rpartition("/")[:2])


def _pattern(kept: str) -> str:
    return rf"{re.escape(kept)}[^/]*$" if kept.endswith("/") else rf"{re.escape(kept)}[./]"


def unknown_modules(names: Sequence[str], modules: Sequence[str]) -> list[str]:
    """Those of the names that keep no operation of a network with these own modules."""
    return [name for name in names if not any(_is_kept(f"{module}operation", [name]) for module in modules)]


def _is_kept(node_name: str, kept: Sequence[str]) -> bool:
    return any(re.match(_pattern(one), node_name) for one in kept)


@dataclass(frozen=True, slots=True)
class ConvertJob:
    """Attributes:
    source: an exported float32 network; target: file to write.
    keep_fp32: modules that stay in float32. samples: .npz of inputs for INT8's scales.
    keep_16_bits: modules that INT8 leaves to fp16.
    """

    source: Path
    target: Path
    precision: Precision
    keep_fp32: tuple[str, ...]
    samples: Path | None
    keep_16_bits: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> ConvertJob:
        data = json.loads(text)
        samples = Path(data["samples"]) if data["samples"] else None
        kept, wider = tuple(data["keep_fp32"]), tuple(data["keep_16_bits"])
        return cls(Path(data["source"]), Path(data["target"]), data["precision"], kept, samples, wider)


def write_precision(
    source: Path,
    target: Path,
    precision: Precision,
    keep_fp32: Sequence[str] = (),
    samples: Path | None = None,
    tell: Progress = lambda text: None,
    keep_16_bits: Sequence[str] = (),
) -> Path:
    """The graph of a precision: `source` itself for fp32 and tf32, else a new file that takes and gives float32.

    It is converted in a process of its own: INT8's calibration keeps the values of whole runs in memory.

    Args:
        source: an exported float32 network.
        target: where the new graph is written.
        keep_fp32: modules that stay in float32; see `FRAGILE` for how they are named.
        samples: .npz of inputs (see `reference.save_references`) from which INT8's scales are taken.
        keep_16_bits: modules that INT8 leaves to fp16; see `UNQUANTIZED`.

    Raises:
        RefusedError: nvidia-modelopt is missing or cannot convert the network, or INT8 has no samples.
        EngineError: there is not enough memory or disk.
    """
    if precision in ("fp32", "tf32"):
        return source
    if precision == "int8" and samples is None:
        raise RefusedError("INT8 needs calibration inputs: give a bag of recorded data")
    tell(f"writing {precision} into the graph")
    job = ConvertJob(source, target, precision, tuple(keep_fp32), samples, tuple(keep_16_bits))
    run_apart("conversion", job, tell)
    return target


def convert(job: ConvertJob, tell: Progress) -> None:
    """`write_precision` in this process."""
    kept = [_pattern(module) for module in job.keep_fp32]
    target = job.target
    try:
        onnx.save(onnx.load(str(job.source)), str(target))  # the converters may write into the file that they read
        if job.precision == "int8":
            assert job.samples is not None
            _quantize(target, [*kept, *map(_pattern, job.keep_16_bits)], job.samples)
            tell("scales of INT8 are found")
        _autocast(target, "bf16" if job.precision == "bf16" else "fp16", kept)
    except (MemoryError, OSError):
        raise
    except ImportError as error:
        raise RefusedError(
            f"{job.precision} needs {NEEDED}, which cannot be imported ({error}): pip install 'nvidia-modelopt[onnx]'"
        ) from error
    except Exception as error:  # the converters' errors have no common base class
        raise RefusedError(f"{job.source} cannot be converted: {type(error).__name__}: {error}") from error


def _autocast(path: Path, low: str, kept: list[str]) -> None:
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from modelopt.onnx.autocast.precisionconverter import PrecisionConverter

    # Its own way searches the whole graph once for each node: half an hour for the largest network in INT8.
    PrecisionConverter._cleanup_no_consumer_nodes = _drop_unused
    # data_max: AutoCast would else keep every value of a run in memory, 20 GB for a detector of published size, to find
    # what leaves fp16's range. `rounded_graph` and the self-test find that, too.
    model = convert_to_mixed_precision(
        str(path),
        low_precision_type=low,
        nodes_to_exclude=kept,
        op_types_to_exclude=["ConvTranspose"] if low == "bf16" else [],  # which TensorRT-RTX 1.7 cannot build
        keep_io_types=True,
        data_max=np.inf,
    )
    onnx.save(model, str(path))


def _drop_unused(converter: Any) -> None:
    """Removes the nodes of a converter's graph whose outputs nobody reads."""
    graph = converter.model.graph
    read = {value.name for value in graph.output} | {name for node in graph.node for name in node.input}
    for node in [node for node in graph.node if not read.intersection(node.output)]:
        graph.node.remove(node)


def _quantize(path: Path, kept: list[str], samples: Path) -> None:
    from modelopt.onnx.quantization import quantize

    # Samples are handed over one after the other: along their own first axis, whatever that means to the network.
    with np.load(samples, allow_pickle=False) as file:
        data = {name: np.concatenate(list(file[name])) for name in file.files}
    quantize(
        str(path),
        quantize_mode="int8",
        calibration_data=data,
        calibration_method="max",
        calibration_eps=["cpu"],
        op_types_to_quantize=list(QUANTIZED_OPS),
        nodes_to_exclude=kept,
        high_precision_dtype="fp32",  # AutoCast then knows which modules to leave
        output_path=str(path),
        log_level="ERROR",
    )


def pinned_graph(source: Path, target: Path, specs: Sequence[TensorSpec]) -> Path:
    """A graph without open sizes, for CPU engines: `source` itself where it has none, else a copy of these shapes."""
    model = onnx.load(str(source), load_external_data=False)
    shapes = {spec.name: spec.shape for spec in specs}
    ends = [value for value in (*model.graph.input, *model.graph.output) if value.name in shapes]
    if all(dim.HasField("dim_value") for value in ends for dim in value.type.tensor_type.shape.dim):
        return source
    model = onnx.load(str(source))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.ClearField("dim")
        for size in shapes.get(value.name, ()):
            value.type.tensor_type.shape.dim.add().dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, str(target))
    return target


def rounded_graph(source: Path, target: Path, low: str, keep_fp32: Sequence[str]) -> Path:
    """A float32 graph that rounds as one in low precision does: every value of the other modules, weights too, goes
    through the low type. CPU engines then show what the GPU will lose, overflow included.

    Args:
        low: "fp16" or "bf16".
    """
    model = onnx.load(str(source))
    graph = model.graph
    types = _float_values(model)
    nodes: list[Any] = []
    weights = {one.name for one in graph.initializer if one.data_type == TensorProto.FLOAT}
    rounded: dict[str, str] = {}
    for node in graph.node:
        if _is_kept(node.name, keep_fp32):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if name in weights:
                if name not in rounded:
                    rounded[name] = f"{name}::low"
                    nodes += _round(name, rounded[name], low)
                node.input[i] = rounded[name]
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in types:
                node.output[i] = f"{name}::full"
                nodes += _round(node.output[i], name, low)
    del graph.node[:]
    graph.node.extend(nodes)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(target))
    return target


def _round(name: str, out: str, low: str) -> list[Any]:
    between = f"{out}::between"
    return [
        helper.make_node("Cast", [name], [between], to=LOW_TYPES[low], name=f"{out}/down"),
        helper.make_node("Cast", [between], [out], to=TensorProto.FLOAT, name=f"{out}/up"),
    ]


def _float_values(model: Any) -> set[str]:
    """Names of all float32 values that nodes compute."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = (*inferred.graph.value_info, *inferred.graph.output)
    return {one.name for one in known if one.type.tensor_type.elem_type == TensorProto.FLOAT}


def breaking_modules(modules: Sequence[str], keeps: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """A smallest set of modules that must stay in float32, by bisection.

    QuickXplain (U. Junker, AAAI 2004): of n modules it finds k that matter with about k log(n / k) trials. None of
    those found can be left out, if keeping more never makes things worse.

    Args:
        modules: all that may be kept.
        keeps: whether a network that keeps these modules in float32 meets its tolerance.

    Raises:
        ToleranceError: not even all of them suffice.
    """
    everything = tuple(modules)
    if keeps(()):
        return ()
    if not keeps(everything):
        raise ToleranceError("no choice of modules keeps the tolerance")

    def explain(kept: tuple[str, ...], grown: bool, candidates: tuple[str, ...]) -> tuple[str, ...]:
        if grown and keeps(kept):
            return ()
        if len(candidates) == 1:
            return candidates
        half = len(candidates) // 2
        first, second = candidates[:half], candidates[half:]
        found_second = explain((*kept, *first), True, second)
        found_first = explain((*kept, *found_second), bool(found_second), first)
        return (*found_first, *found_second)

    return explain((), False, everything)
