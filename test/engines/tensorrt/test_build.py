"""Every exported network, in every precision, is parsed and built by the real TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mm_perception.core.errors import EngineError
from mm_perception.engines.reference import made_inputs, save_references
from mm_perception.engines.tensorrt.apart import job_text
from mm_perception.engines.tensorrt.build import BuildJob, build_plan, configure
from mm_perception.engines.tensorrt.errors import RefusedError
from mm_perception.engines.tensorrt.settings import BuildSettings, ShapeRange

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

SMALL = ("cmx-tiny-rgb-thermal", "deepinteraction-tiny")
LARGE = ("cmx-b0", "cmx-b2", "cmx-b5", "deepinteraction-full")
OTHER_SHIPPED = ("cmx-tiny-rgb", "cmx-tiny-rgb-depth")
ROOT = Path(__file__).resolve().parents[3]
BUILT = Path(__file__).with_name("built_exports.txt")
"""Holds `export_identity` of the exports whose builds have all been seen."""


def export_identity() -> str:
    """sha256 of all that an exported graph of the package's own networks depends on."""
    sources = [p for p in (ROOT / "mm_perception" / "models").rglob("*.py") if p.name != "checkpoint.py"]
    sources += [ROOT / "mm_perception" / "engines" / "export.py", ROOT / "mm_perception" / "core" / "detector.py"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    pins = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    tools = ("onnx==", "onnxscript==", "tensorrt")
    digest.update("\n".join(line for line in pins if line.startswith(tools)).encode())
    return digest.hexdigest()


LARGE_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BUILT.read_text().strip() == export_identity() and not os.environ.get("EXPORTS"),
        reason="these exports are unchanged since their builds were seen; EXPORTS=1 builds them again",
    ),
]
NETWORKS = [
    *SMALL,
    *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_SHIPPED),
    *(pytest.param(name, marks=LARGE_MARKS) for name in LARGE),
]

# What both full TensorRT's parser (10 and 11) and TensorRT-RTX's take without a plugin, of what the exports use.
TAKEN = {
    "Abs", "Add", "And", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "CumSum", "DequantizeLinear", "Div", "Einsum", "Equal",
    "Erf", "Exp", "Expand", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
    "Greater", "GreaterOrEqual", "GridSample", "Identity", "IsNaN", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad",
    "Pow", "QuantizeLinear", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax",
    "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    "Xor",
}  # fmt: skip
MOST_TOPK = 3839


def quiet(_: str) -> None:
    pass


def build(onnx_file: Path, folder: Path, library: str, **settings: object) -> Path:
    plan = folder / "m.engine"
    job = BuildJob(onnx_file, plan, library, BuildSettings(**settings))  # type: ignore[arg-type]
    report = build_plan(job, quiet)
    assert report.layers and report.bytes == plan.stat().st_size > 1000
    return plan


def attribute(node, name: str, default=None):
    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def check_operators(path: Path) -> None:
    """Only operators that every TensorRT takes, in the forms that it takes."""
    model = onnx.load(str(path))
    constants = {one.name: one for one in model.graph.initializer}
    used = Counter(node.op_type for node in model.graph.node)
    assert set(used) <= TAKEN, f"no TensorRT operators: {set(used) - TAKEN}"
    assert all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    for node in model.graph.node:
        if node.op_type == "TopK":
            assert int(onnx.numpy_helper.to_array(constants[node.input[1]]).item()) <= MOST_TOPK
        elif node.op_type == "Resize":
            assert attribute(node, "mode", b"nearest") in (b"nearest", b"linear") and not attribute(
                node, "antialias", 0
            )
        elif node.op_type == "LayerNormalization":
            assert len(node.output) == 1
        elif node.op_type == "QuantizeLinear" and len(node.input) > 2:
            zero = onnx.numpy_helper.to_array(constants[node.input[2]])
            assert zero.dtype == np.int8 and not zero.any(), "INT8 must be symmetric"


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_graph_builds(name, exported, rtx, tmp_path):
    _, path = exported(name)
    check_operators(path)
    build(path, tmp_path, rtx)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_low_precision_graph_builds(name, precision, exported, modelopt, rtx, tmp_path):
    from mm_perception.engines.tensorrt.precision import FRAGILE, UNQUANTIZED, write_precision

    card, path = exported(name)
    samples = tmp_path / "inputs.npz" if precision == "int8" else None
    if samples is not None:
        save_references(samples, made_inputs(card))
    graph = write_precision(
        path,
        tmp_path / "low.onnx",
        precision,
        FRAGILE[card.architecture],
        samples,
        quiet,
        UNQUANTIZED.get(card.architecture, ()),
    )
    check_operators(graph)
    model = onnx.load(str(graph))
    types = Counter(one.data_type for one in model.graph.initializer)
    assert types[onnx.TensorProto.FLOAT16] > types[onnx.TensorProto.FLOAT]
    quantized = {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert bool(quantized) == (precision == "int8")
    names = {value.name for value in (*model.graph.input, *model.graph.output)}
    assert names == {spec.name for specs in card.specs() for spec in specs}
    build(graph, tmp_path, rtx)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_graph_builds(name, exported, modelopt, rtx, tmp_path):
    from mm_perception.engines.tensorrt.precision import FRAGILE, write_precision

    card, path = exported(name)
    graph = write_precision(path, tmp_path / "low.onnx", "bf16", FRAGILE[card.architecture])
    build(graph, tmp_path, rtx)


def small_graph(path: Path, op: str = "Relu", shape: tuple[int | str, ...] = (1, 3, 8, 8), **attributes) -> Path:
    """One operator between x and y."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(op, ["x"], ["y"], name=f"only/{op}", **attributes)
    out_type = onnx.TensorProto.INT64 if op == "NonZero" else onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", onnx.TensorProto.FLOAT, shape)], [value("y", out_type, None)]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


@pytest.mark.parametrize(
    ("op", "settings", "said"),
    [
        ("NonZero", {}, "NonZero"),
        ("Relu", {"dla_core": 0}, "DLA core 0: this machine has 0"),
        ("Relu", {"compute_capability": "3.5"}, "cannot build for compute capability 3.5"),
        ("Relu", {"shapes": {"z": ShapeRange((1,), (2,), (3,))}}, "z: no input of open sizes"),
    ],
)
def test_what_cannot_be_built_is_named(op, settings, said, rtx, tmp_path):
    graph = small_graph(tmp_path / "m.onnx", op)
    with pytest.raises(RefusedError, match=said):
        build(graph, tmp_path, rtx, **settings)
    assert not list(tmp_path.glob("*.engine")) and not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_file_is_named(rtx, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x07nonsense" * 50)
    with pytest.raises(EngineError, match=r"m\.onnx"):
        build(path, tmp_path, rtx)


def test_open_sizes_need_a_range_and_build_with_one(rtx, tmp_path):
    graph = small_graph(tmp_path / "m.onnx", shape=(1, 3, "h", "w"))
    with pytest.raises(EngineError, match=r"x: sizes are open .*give a range"):
        build(graph, tmp_path, rtx)
    with pytest.raises(EngineError, match="does not fit"):
        build(graph, tmp_path, rtx, shapes={"x": ShapeRange((1, 4, 8, 8), (1, 4, 16, 16), (1, 4, 32, 32))})
    build(graph, tmp_path, rtx, shapes={"x": ShapeRange((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32))})


def test_timing_cache_is_written_and_a_foreign_one_replaced(rtx, tmp_path):
    graph, cache = small_graph(tmp_path / "m.onnx"), tmp_path / "t.timing"
    cache.write_bytes(b"of another version")
    for _ in range(2):
        build_plan(BuildJob(graph, tmp_path / "m.engine", rtx, BuildSettings(), cache), quiet)
        assert cache.stat().st_size > len(b"of another version")


def test_progress_is_told(exported, rtx, tmp_path):
    told: list[str] = []
    build_plan(BuildJob(exported(SMALL[0])[1], tmp_path / "m.engine", rtx, BuildSettings()), told.append)
    assert told[0].startswith("parsed ") and len(told) > 1 and told[-1].endswith("%")


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed; the system does that when memory runs out"),
        ("sys.exit('no words')", r"ended with 1 and said nothing\s+no words"),
    ],
)
def test_a_builder_that_dies_takes_nobody_with_it(ending, said, tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\nimport os, signal, sys\n{ending}\n")
    interpreter.chmod(0o755)
    job = BuildJob(tmp_path / "m.onnx", tmp_path / "m.engine", "tensorrt_rtx", BuildSettings())
    with pytest.raises(EngineError, match=said) as caught:
        build_plan(job, quiet, str(interpreter))
    # Who is killed may get through another time; who crashes will crash again.
    assert isinstance(caught.value, RefusedError) == ("KILL" not in ending)


def test_a_builder_ends_with_who_asked_for_it(exported, rtx, tmp_path):
    job = BuildJob(exported(SMALL[0])[1], tmp_path / "m.engine", rtx, BuildSettings())
    line = [sys.executable, "-m", "mm_perception.engines.tensorrt.apart_process", "build", job_text(job)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    with process.stdout:
        assert b"parsed" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == 3
    assert not (tmp_path / "m.engine").exists()


class Recorder:
    """A builder's configuration that notes what is done to it."""

    def __init__(self) -> None:
        object.__setattr__(self, "did", [])

    def __getattr__(self, name: str):
        return lambda *arguments: self.did.append((name, *arguments))

    def __setattr__(self, name: str, value: object) -> None:
        self.did.append((name, value))


class Names:
    """Stands for any enumeration of TensorRT: each member is its own name."""

    def __getattr__(self, name: str) -> str:
        return name


class Trt:
    BuilderFlag = MemoryPoolType = HardwareCompatibilityLevel = DeviceType = ComputeCapability = Names()


class Parts:
    num_inputs, num_DLA_cores = 0, 2  # noqa: N815


@pytest.mark.parametrize(
    ("settings", "done"),
    [
        ({}, [("clear_flag", "TF32")]),
        ({"tf32": True}, [("set_flag", "TF32")]),
        ({"workspace_mb": 64}, [("set_memory_pool_limit", "WORKSPACE", 64 << 20)]),
        ({"optimization_level": 5}, [("builder_optimization_level", 5)]),
        ({"version_compatible": True}, [("set_flag", "VERSION_COMPATIBLE")]),
        ({"hardware_compatible": True}, [("hardware_compatibility_level", "AMPERE_PLUS")]),
        ({"dla_core": 1}, [("default_device_type", "DLA"), ("DLA_core", 1), ("set_flag", "GPU_FALLBACK")]),
        ({"compute_capability": "8.9"}, [("num_compute_capabilities", 1), ("set_compute_capability", "SM89", 0)]),
    ],
)
def test_every_setting_reaches_the_builder(settings, done):
    config = Recorder()
    configure(Trt, Parts, Parts, config, BuildSettings(**settings))
    assert [one for one in done if one not in config.did] == []
    usual = [("set_flag", "REQUIRE_USER_ALLOCATION"), ("clear_flag", "TF32")]
    assert all(one in done for one in config.did if one not in usual)


def test_a_line_that_was_cut_off_is_no_answer(tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{sys.executable}\nprint('{{\"progress\": 1}}')\nprint('{{\"done')\n")
    interpreter.chmod(0o755)
    job = BuildJob(tmp_path / "m.onnx", tmp_path / "m.engine", "tensorrt_rtx", BuildSettings())
    with pytest.raises(EngineError, match="ended with 0 and said nothing"):
        build_plan(job, quiet, str(interpreter))


def test_jobs_survive_their_way_to_the_builder():
    shapes = {"x": ShapeRange((1, 3), (2, 3), (4, 3))}
    settings = BuildSettings(tf32=True, workspace_mb=64, dla_core=1, compute_capability="8.6", shapes=shapes)
    job = BuildJob(Path("a.onnx"), Path("b.engine"), "tensorrt", settings, Path("c"))
    assert BuildJob.from_json(job_text(job)) == job
