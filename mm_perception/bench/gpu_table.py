"""One network after the other, one way to run it after the other: the rows of `mm-perception bench gpu`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mm_perception.bench.budget import Budget
from mm_perception.bench.onnxruntime_runner import OnnxRuntimeRunner
from mm_perception.bench.rows import BYTES_PER_ELEMENT, NetworkFacts, Report, Row, RowSpec, not_run, with_roofline
from mm_perception.bench.samples import Recording, Samples, samples_of
from mm_perception.bench.timing import Device, float32_products, measure
from mm_perception.bench.torch_runners import CompiledRunner, EagerRunner, GraphRunner, Runner, Tensors, lowered
from mm_perception.core.errors import ConfigError, EngineError, MmPerceptionError
from mm_perception.engines.agreement import agreement
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array, DeviceEngine, Engine
from mm_perception.engines.load import exported
from mm_perception.engines.reference import made_inputs, save_references
from mm_perception.engines.roofline import GraphCost, graph_cost, least_ms
from mm_perception.engines.tensorrt.settings import TensorRtSettings
from mm_perception.engines.torch_engine import deployed_network

REASON_LENGTH = 240


@dataclass(slots=True)
class Bench:
    """What all rows share.

    Attributes:
        cache: folder of exported graphs and built engines.
        recording: where recorded inputs come from.
        tell: is told in a few words about what takes long.
        begin: is told each row before it is measured: some libraries take the whole process with them.
    """

    device: Device
    cache: Path
    recording: Recording
    rounds: int
    warmup: int
    budget: Budget
    tell: Callable[[str], None]
    begin: Callable[[RowSpec], None]


@dataclass(slots=True, eq=False)
class Subject:
    """One network, ready to be run in all ways.

    Attributes:
        network: on the host, in float32.
        samples: that outputs are compared on.
        inputs: on the device. Every runner reads them where they lie, so that another sample is fed by writing there.
        expected: torch's outputs of each sample in float32 on the device; None where torch cannot run it there.
    """

    card: ModelCard | DetectorCard
    network: nn.Module
    samples: Samples
    inputs: Tensors
    expected: list[dict[str, Array]] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.card.specs()[1])


def network_rows(
    card: ModelCard | DetectorCard, specs: Sequence[RowSpec], bench: Bench, report: Report, network: str
) -> Iterator[Row]:
    """Measures the rows of one network; one that fails says so and keeps no other from being measured.

    The network's facts go into the report before the first row comes.
    """
    if bench.budget.is_spent:
        yield from not_run(specs, str(bench.budget))
        return
    try:
        subject = _prepared(card, bench)
        origin = subject.samples.origin
        if network not in report.networks:
            report.networks[network] = replace(_facts(card, bench, report), inputs=origin)
        elif report.networks[network].inputs != origin:
            raise ConfigError(f"earlier rows were compared on {report.networks[network].inputs}, these on {origin}")
    except Exception as error:  # the rows of other networks are still to be measured
        yield from (Row(spec, "failed", reason_of(error)) for spec in specs)
        return
    for i, spec in enumerate(specs):
        if bench.budget.is_spent:
            yield from not_run(specs[i:], str(bench.budget))
            return
        bench.tell(f"{network}: {spec.label}, {spec.precision} …")
        bench.begin(spec)
        row = measured_row(subject, spec, bench)
        yield with_roofline(row, report.networks[network]) if row.status == "ok" else row
        if row.status == "failed" and (problem := bench.device.problem()):
            yield from not_run(specs[i + 1 :], f"the GPU is lost to this process since the row above: {problem}")
            return


def measured_row(subject: Subject, spec: RowSpec, bench: Bench) -> Row:
    """One row, whatever happens."""
    try:
        with float32_products(spec.precision == "tf32"), torch.inference_mode():
            return _measured(subject, spec, bench)
    except Exception as error:  # libraries raise what they like, and the next row may run
        return Row(spec, "failed", reason_of(error))
    finally:
        if not bench.device.problem():
            bench.device.settle()


def _measured(subject: Subject, spec: RowSpec, bench: Bench) -> Row:
    device = bench.device
    device.settle()
    before, started = device.used_mib(), time.perf_counter()
    runner = make_runner(subject, spec, bench)
    try:
        results = sample_outputs(runner, subject.inputs, subject.samples.inputs)
        got = [next(results)]
        load_s = time.perf_counter() - started
        got += results
        for outputs in got:
            _require_finite(outputs)
        device.settle()  # what building took is given back; the timed runs take what running takes
        timing = measure(runner.run, device, bench.rounds, bench.warmup)
        after = device.used_mib()
        memory = None if before is None or after is None else after - before
        row = Row(spec, "ok", "", timing.median_ms, timing.p99_ms, timing.per_s, memory, load_s, note=runner.note)
        return _compared(row, subject, got)
    finally:
        runner.close()


def make_runner(subject: Subject, spec: RowSpec, bench: Bench) -> Runner:
    """The network on the device in the way that the row wants.

    Raises:
        EngineError: something that it needs is not there.
    """
    device, outputs = bench.device, subject.outputs
    if spec.runner == "onnxruntime":
        path = exported(subject.card, bench.cache, bench.tell)
        return OnnxRuntimeRunner(path, subject.inputs, subject.card.specs()[1], device)
    if spec.runner == "tensorrt":
        return TensorRtRunner(subject, spec, bench)
    network, note = lowered(subject.network, spec.precision, isinstance(subject.card, DetectorCard), device)
    if spec.runner == "cudagraph":
        return GraphRunner(network, subject.inputs, outputs, device, note)
    return (CompiledRunner if spec.runner == "compile" else EagerRunner)(network, subject.inputs, outputs, note)


class TensorRtRunner:
    """This package's own TensorRT engine, built in exactly this precision. It checks its outputs in every run."""

    def __init__(self, subject: Subject, spec: RowSpec, bench: Bench) -> None:
        if not bench.device.is_gpu:
            raise EngineError("TensorRT needs an NVIDIA GPU")
        settings = TensorRtSettings(
            precision=spec.precision,  # type: ignore[arg-type]
            ladder=False,
            cuda_graph=spec.cuda_graph,
            calibration=_calibration(subject, bench.cache) if spec.precision == "int8" else None,
        )
        engine = _tensorrt_engine(subject, settings, bench)
        if not isinstance(engine, DeviceEngine):
            raise EngineError(f"engine {engine.name} takes no tensors of the device")
        if (torch.device(engine.device).index or 0) != (bench.device.torch_device.index or 0):
            engine.close()
            raise EngineError(f"engine {engine.name} runs on {engine.device}, not on {bench.device.torch_device}")
        self._engine, self._inputs = engine, subject.inputs
        self.note = "" if engine.name == "tensorrt" else engine.name  # TensorRT-RTX is another library

    def run(self) -> Tensors:
        return self._engine.run_on_device(self._inputs)

    def close(self) -> None:
        from mm_perception.engines.tensorrt.opening import forget_scratch

        self._engine.close()
        forget_scratch()  # engines share scratch memory; the next row shall show what it takes by itself


def _tensorrt_engine(subject: Subject, settings: TensorRtSettings, bench: Bench) -> Engine:
    """Tried on the recorded inputs if there are any, in a folder apart: the user's engines are tried on the user's."""
    from mm_perception.engines.tensorrt.opening import workshop

    graph, recorded = exported(subject.card, bench.cache, bench.tell), subject.samples.recorded
    folder = bench.cache / "bench" if recorded else bench.cache
    shop = workshop(subject.card, graph, settings, folder, bench.tell)
    if recorded:
        shop.record(subject.samples.inputs)
    _, engine = shop.ready()
    assert engine is not None  # one for another GPU was not asked for
    return engine


def _calibration(subject: Subject, cache: Path) -> Path | None:
    """Made inputs, from which INT8's scales are taken: enough to time it. None: the recorded ones serve."""
    if subject.samples.recorded:
        return None
    path = cache / f"{subject.card.name}.calibration.npz"
    if not path.is_file():
        save_references(path, made_inputs(subject.card, 2))
    return path


def _prepared(card: ModelCard | DetectorCard, bench: Bench) -> Subject:
    bench.tell(f"preparing {card.name}")
    samples, where = samples_of(card, bench.recording), bench.device.torch_device
    inputs = {spec.name: torch.tensor(samples.inputs[0][spec.name], device=where) for spec in card.specs()[0]}
    subject = Subject(card, deployed_network(card), samples, inputs)
    try:
        with float32_products(tf32=False), torch.inference_mode():
            network, _ = lowered(subject.network, "fp32", isinstance(card, DetectorCard), bench.device)
            runner = EagerRunner(network, inputs, subject.outputs)
            subject.expected = list(sample_outputs(runner, inputs, samples.inputs))
    except Exception as error:  # rows are still worth their times
        bench.tell(f"{card.name}: no reference outputs: {reason_of(error)}")
    return subject


def sample_outputs(
    runner: Runner, inputs: Tensors, samples: Sequence[Mapping[str, Array]]
) -> Iterator[dict[str, Array]]:
    """The outputs of one sample after the other, on the host; the last one stays in `inputs`."""
    for sample in samples:
        for name, tensor in inputs.items():
            tensor.copy_(torch.from_numpy(sample[name]))
        yield _on_host(runner.run())


def _facts(card: ModelCard | DetectorCard, bench: Bench, report: Report) -> NetworkFacts:
    try:
        cost = graph_cost(exported(card, bench.cache, bench.tell))
    except Exception as error:  # no row depends on it
        return NetworkFacts(reason=reason_of(error))
    return network_facts(cost, report)


def network_facts(cost: GraphCost, report: Report) -> NetworkFacts:
    """The cost in figures, beside the machine's peaks."""

    def least(unfused: bool) -> dict[str, float]:
        return {
            precision: least_ms(cost, peak, report.peak_bytes_per_s, BYTES_PER_ELEMENT[precision], unfused=unfused)
            for precision, peak in report.peak_flops.items()
        }

    return NetworkFacts(
        products_gflop=sum(cost.products.values()) / 1e9,
        others_gflop=sum(cost.others.values()) / 1e9,
        once_mb={name: cost.once.bytes(width) / 1e6 for name, width in BYTES_PER_ELEMENT.items()},
        unfused_mb={name: cost.unfused.bytes(width) / 1e6 for name, width in BYTES_PER_ELEMENT.items()},
        roofline_ms=least(unfused=False),
        unfused_roofline_ms=least(unfused=True),
    )


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}


def _require_finite(outputs: dict[str, Array]) -> None:
    bad = [name for name, value in outputs.items() if not np.isfinite(value).all()]
    if bad:
        raise EngineError(f"the outputs hold values that are NaN or infinite: {', '.join(bad)}")


def _compared(row: Row, subject: Subject, got: list[dict[str, Array]]) -> Row:
    """The row with how far its outputs are from torch's in float32."""
    expected = subject.expected
    if expected is None:
        return row
    floats = [name for name, value in expected[0].items() if np.issubdtype(value.dtype, np.floating)]
    pairs = zip(got, expected, strict=True)
    largest = max(float(np.abs(have[name] - want[name]).max()) for have, want in pairs for name in floats)
    return replace(row, max_abs_diff=largest, agreement=agreement(subject.card, expected, got).labels)


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory"
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if not isinstance(error, MmPerceptionError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 2]} …"
