"""From an ONNX file to a TensorRT plan."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.files import replace_file
from mm_perception.core.scratch import scratch_file
from mm_perception.engines.tensorrt.apart import Progress, run_apart
from mm_perception.engines.tensorrt.errors import RefusedError
from mm_perception.engines.tensorrt.library import find_library, make_log
from mm_perception.engines.tensorrt.settings import BuildSettings, ShapeRange

TELL_PERIOD_S = 2.0


@dataclass(frozen=True, slots=True)
class BuildJob:
    """Attributes:
    onnx: graph to build. plan: file to write. library: name of the TensorRT.
    settings: how. timing_cache: file of measured kernels that is read and written; None: none.
    """

    onnx: Path
    plan: Path
    library: str
    settings: BuildSettings
    timing_cache: Path | None = None

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        data = json.loads(text)
        cache = Path(data["timing_cache"]) if data["timing_cache"] else None
        settings = BuildSettings.of(data["settings"])
        return cls(Path(data["onnx"]), Path(data["plan"]), data["library"], settings, cache)


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build gave: number of layers, seconds of parsing and building, size of the plan."""

    layers: int
    parse_s: float
    build_s: float
    bytes: int


def build_plan(job: BuildJob, tell: Progress, interpreter: str = sys.executable) -> BuildReport:
    """Builds the plan in a process of its own. Its file appears under its name only when it is whole.

    Args:
        tell: hears now and then of the phase that the builder is in, and how far.

    Raises:
        RefusedError: the graph cannot be built, or the builder crashed.
        EngineError: the builder was killed, or ran out of memory or disk. With what it said.
    """
    job.plan.parent.mkdir(parents=True, exist_ok=True)
    with scratch_file(job.plan) as temporary:
        done = run_apart("build", replace(job, plan=temporary), tell, interpreter)
        temporary.replace(job.plan)
    return BuildReport(**done)


def build(job: BuildJob, tell: Progress) -> dict[str, Any]:
    """Parses and builds in this process, and writes the plan.

    Returns:
        layers, seconds of parsing and of building, bytes of the plan.

    Raises:
        RefusedError: the graph cannot be parsed (each operator that is at fault is named) or built.
        EngineError: there is no TensorRT, or not enough memory.
    """
    library = find_library(job.library)
    trt = library.module
    log = make_log(trt)
    started = time.perf_counter()
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # its factory found no driver, or no GPU
        raise EngineError(f"{library}: no builder ({error}): {_last(log)}") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(job.onnx)):
        raise RefusedError(f"{library} cannot take {job.onnx.name}:\n  {_parse_errors(parser) or _last(log)}")
    parsed_s = time.perf_counter() - started
    tell(f"parsed {network.num_layers} layers in {parsed_s:.1f} s")
    config = builder.create_builder_config()
    configure(trt, builder, network, config, job.settings)
    with_cache = _read_timing_cache(config, job)
    config.progress_monitor = _monitor(trt, tell)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        kind = EngineError if "memory" in _last(log).lower() else RefusedError
        raise kind(f"{library} cannot build {job.onnx.name}: {_last(log)}")
    job.plan.write_bytes(memoryview(plan))
    if with_cache:
        try:
            _write_timing_cache(config, job)
        except OSError as error:
            tell(f"the measured kernels cannot be kept ({error.strerror or error}): the next build takes longer")
    return {
        "layers": network.num_layers,
        "parse_s": round(parsed_s, 2),
        "build_s": round(time.perf_counter() - started, 2),
        "bytes": job.plan.stat().st_size,
    }


def configure(trt: Any, builder: Any, network: Any, config: Any, settings: BuildSettings) -> None:
    """Writes the settings into a builder's configuration.

    Raises:
        RefusedError: this TensorRT or this machine lacks what is asked for.
        ConfigError: an input of open sizes has no range, or a range belongs to no such input.
    """
    # TensorRT-RTX would else allocate while it runs, which a CUDA graph cannot record.
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    # TensorRT rounds float32 products unless it is told not to.
    (config.set_flag if settings.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.dla_core is not None:
        if settings.dla_core >= builder.num_DLA_cores:
            raise RefusedError(f"DLA core {settings.dla_core}: this machine has {builder.num_DLA_cores}")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = settings.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if settings.compute_capability is not None:
        _target(trt, config, settings.compute_capability)
    _add_profile(builder, network, config, settings.shapes)


def _target(trt: Any, config: Any, capability: str) -> None:
    if not hasattr(trt, "ComputeCapability"):
        raise RefusedError("only TensorRT-RTX can build for a GPU that is not there")
    target = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}", None)
    if target is None:
        raise RefusedError(f"TensorRT-RTX cannot build for compute capability {capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(target, 0)


def _add_profile(builder: Any, network: Any, config: Any, shapes: Mapping[str, ShapeRange]) -> None:
    inputs = {network.get_input(i).name: tuple(network.get_input(i).shape) for i in range(network.num_inputs)}
    ranged = {name: shape for name, shape in inputs.items() if -1 in shape}
    problems = [f"{name}: sizes are open {list(shape)}, give a range" for name, shape in ranged.items()
                if name not in shapes]  # fmt: skip
    problems += [f"{name}: no input of open sizes" for name in shapes if name not in ranged]
    for name in ranged.keys() & shapes.keys():
        usual = shapes[name].usual
        if len(usual) != len(inputs[name]) or any(
            want not in (-1, got) for want, got in zip(inputs[name], usual, strict=True)
        ):
            problems.append(f"{name}: {shapes[name]} does not fit {list(inputs[name])}")
    if problems:
        raise ConfigError("shapes: " + "; ".join(problems))
    if not ranged:
        return
    profile = builder.create_optimization_profile()
    for name in ranged:
        one = shapes[name]
        profile.set_shape(name, one.smallest, one.usual, one.largest)
    config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, job: BuildJob) -> bool:
    if job.timing_cache is None:
        return False
    known = job.timing_cache.read_bytes() if job.timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    # A cache of another version or GPU is refused; it is then begun anew.
    if not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return True


def _write_timing_cache(config: Any, job: BuildJob) -> None:
    assert job.timing_cache is not None
    cache = config.get_timing_cache()
    if cache is not None:
        replace_file(job.timing_cache, memoryview(cache.serialize()))


def _monitor(trt: Any, tell: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells now and then which phase it is in, and how far."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told_s = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = max(steps, 1)

        def step_complete(self, phase: str, step: int) -> bool:
            now_s = time.monotonic()
            if now_s - self._told_s > TELL_PERIOD_S:
                self._told_s, steps = now_s, self._steps.get(phase, 1)
                tell(f"{phase}: {100 * min(step + 1, steps) // steps} %")
            return True

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

    return Monitor()


def _parse_errors(parser: Any) -> str:
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        node = error.node_name() if hasattr(error, "node_name") else ""
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        lines.append(f"{operator} {node}: {error.desc()}".strip())
    return "\n  ".join(lines)


def _last(log: Any) -> str:
    return "; ".join(log.messages[-3:]) or "it does not say why"
