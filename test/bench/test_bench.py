"""The parts of the GPU's bench, as far as a CPU can run them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mm_perception.bench.budget import Budget
from mm_perception.bench.networks import NETWORKS, bench_card, network_card
from mm_perception.bench.rows import NetworkFacts, PipelineRow, Report, Row, RowSpec, not_run, row_specs, with_roofline
from mm_perception.bench.samples import Recording, Samples, samples_of
from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.resources import config_dir

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.bench import gpu_table, machine, peaks  # noqa: E402
from mm_perception.bench.report_text import facts_line, markdown, row_cells  # noqa: E402
from mm_perception.bench.timing import Device, float32_products, measure  # noqa: E402
from mm_perception.bench.torch_runners import (  # noqa: E402
    AutocastNetwork,
    CastNetwork,
    EagerRunner,
    KeptConstants,
    lowered,
)

CPU = Device("cpu")
CMX, DETECTOR = "cmx-tiny-rgb-thermal", "deepinteraction-tiny"
DEMO_BAG = config_dir().parent / "rosbags" / "demo.mcap"


@pytest.fixture
def report():
    facts = NetworkFacts("", 1.0, 0.5, dict.fromkeys(("fp32", "fp16", "int8"), 1.0), {}, {"fp32": 0.5})
    facts = replace(facts, unfused_mb=facts.once_mb, unfused_roofline_ms={"fp32": 2.5})
    rows = [
        Row(RowSpec("cmx-b0", "eager", "fp32"), "ok", "", 2.0, 3.0, 500.0, 10.0, 1.0, 0.0, 1.0, 0.5),
        Row(RowSpec("cmx-b0", "tensorrt", "int8", True), "failed", "no | luck"),
        *not_run([RowSpec("cmx-b0", "compile", "fp16")], "no time"),
    ]
    pipelines = [PipelineRow("torch", "m", "ok", "", 4, {"inference": (1.0, 2.0)}, 3.0, 4.0)]
    pipelines += [PipelineRow("tensorrt", "m", "not run", "no time")]
    return Report({"device": "G"}, {"rounds": 4}, {"fp32": 1e12}, 1e9, {"cmx-b0": facts}, rows, pipelines)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_card(name):
    card = bench_card(name, 64, 96)
    assert card.random_seed is not None and not card.trained
    assert card.input_size == (64, 96) or name.startswith("deepinteraction")
    assert network_card(name, 64, 96) == card


@pytest.mark.parametrize("name", [CMX, DETECTOR])
def test_a_shipped_model_is_a_network_by_its_name_and_by_its_file(name):
    card = network_card(name, 64, 96)
    assert card.name == name and card.trained
    assert network_card(str(config_dir() / "models" / f"{name}.yaml"), 64, 96) == card


@pytest.mark.parametrize("name", ["vgg", "cmx-b9", "deepinteraction-huge"])
def test_unknown_networks_are_refused(name):
    for card_of in (bench_card, network_card):
        with pytest.raises(ConfigError):
            card_of(name, 64, 64)


def test_the_rows_of_a_network():
    specs = row_specs("n", ["fp32", "fp16", "int8"])
    assert len(set(specs)) == len(specs) == 2 + 1 + 1 + 6 + 1
    assert specs[-1].runner == "compile"  # the longest comes last
    assert [s.precision for s in specs if s.runner == "tensorrt" and s.cuda_graph] == ["fp32", "fp16", "int8"]
    assert not row_specs("n", ["int8"], skip=("tensorrt",))
    assert row_specs("n", ["mixed"]) == [RowSpec("n", "tensorrt", "mixed", graph) for graph in (False, True)]


def test_trained_models_are_compared_on_recorded_inputs():
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    card, random = network_card(CMX, 0, 0), bench_card("cmx-tiny", 64, 64)
    samples = samples_of(card, Recording(DEMO_BAG, "demo", 2))
    assert samples.recorded and len(samples.inputs) == 2
    assert samples.origin == f"2 recorded inputs ({DEMO_BAG}, rig demo)"
    assert not np.array_equal(samples.inputs[0]["rgb"], samples.inputs[1]["rgb"])
    assert samples_of(random, Recording(DEMO_BAG, "demo", 2)).origin == "made inputs"


def test_without_a_bag_they_are_made_and_that_is_said():
    samples = samples_of(network_card(CMX, 0, 0), Recording(Path("no/such.mcap"), "demo", 2))
    assert not samples.recorded and len(samples.inputs) == 1
    assert samples.origin.startswith("made inputs (none are recorded: ")
    assert facts_line(NetworkFacts("no onnx", inputs=samples.origin)).endswith(f"; agreement on {samples.origin}")


def test_the_worst_sample_counts():
    """The network cuts high values off, which the last sample alone has: its likeliest class in two of eight rows."""
    card = bench_card("cmx-tiny", 32, 32)
    shape = card.specs()[1][0].shape
    samples = [{"x": np.random.default_rng(i).uniform(0, 3, shape).astype(np.float32)} for i in range(3)]
    samples[2]["x"][0, :, :8] = 4.0
    samples[2]["x"][0, -1, :8] = 5.0
    inputs = {"x": torch.zeros(shape)}
    right, wrong = (EagerRunner(network, inputs, ("logits",)) for network in (torch.clone, lambda x: x.clamp(max=3.5)))
    expected, got = (list(gpu_table.sample_outputs(runner, inputs, samples)) for runner in (right, wrong))
    for sample, outputs in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(outputs["logits"], sample["x"])
    subject = gpu_table.Subject(card, torch.nn.Identity(), Samples(samples, True, ""), inputs, expected)
    row = gpu_table._compared(Row(RowSpec("n", "eager", "fp16"), "ok"), subject, got)
    assert row.agreement == pytest.approx(0.75) and row.max_abs_diff == pytest.approx(1.5)


@pytest.mark.parametrize("recorded", [True, False])
def test_tensorrt_is_tried_and_calibrated_on_recorded_inputs_apart_from_the_users(recorded, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed")
    from mm_perception.engines.tensorrt.settings import TensorRtSettings

    kept, folders, engine = [], [], object()

    def workshop(card, graph, settings, folder, tell):
        folders.append(folder)
        return SimpleNamespace(record=kept.append, ready=lambda: (None, engine))

    monkeypatch.setattr("mm_perception.engines.tensorrt.opening.workshop", workshop)
    monkeypatch.setattr(gpu_table, "exported", lambda *_: tmp_path / "n.onnx")
    samples = Samples([{"rgb": np.zeros(1)}], recorded, "")
    subject = gpu_table.Subject(bench_card("cmx-tiny", 32, 32), torch.nn.Identity(), samples, {})
    bench = SimpleNamespace(cache=tmp_path, tell=lambda text: None)
    assert gpu_table._tensorrt_engine(subject, TensorRtSettings("int8"), bench) is engine
    assert kept == ([samples.inputs] if recorded else []) and (folders != [tmp_path]) == recorded
    calibration = gpu_table._calibration(subject, tmp_path)
    assert calibration is None if recorded else calibration.is_file()


def test_rows_of_other_inputs_are_not_put_beside_each_other(report, monkeypatch):
    subject = SimpleNamespace(samples=Samples([], False, "made inputs"))
    monkeypatch.setattr(gpu_table, "_prepared", lambda card, bench: subject)
    report.networks["cmx-b0"] = replace(report.networks["cmx-b0"], inputs="4 recorded inputs")
    bench = SimpleNamespace(budget=Budget(None))
    (row,) = gpu_table.network_rows(None, [RowSpec("cmx-b0", "eager", "fp16")], bench, report, "cmx-b0")
    assert row.reason == "earlier rows were compared on 4 recorded inputs, these on made inputs"


def test_a_report_survives_its_file(report, tmp_path):
    path = tmp_path / "new" / "r.json"
    report.write(path)
    again = Report(dict(report.machine), dict(report.options))
    again.take_over(path)
    assert again.rows == report.rows[:2] and again.networks == report.networks
    assert [row.engine for row in again.pipelines] == ["torch"]  # what was not run stays to be done
    assert again.peak_flops == report.peak_flops and again.peak_bytes_per_s == report.peak_bytes_per_s


@pytest.mark.parametrize(
    ("machine_facts", "options", "said"),
    [({"device": "H"}, {"rounds": 4}, "device: G there, H here"), ({"device": "G"}, {"rounds": 5}, "rounds: 4 there")],
)
def test_rows_of_another_machine_are_not_gone_on_with(report, tmp_path, machine_facts, options, said):
    report.write(tmp_path / "r.json")
    with pytest.raises(ConfigError, match=said):
        Report(machine_facts, options).take_over(tmp_path / "r.json")
    (tmp_path / "r.json").write_text("[]")
    with pytest.raises(ConfigError, match="cannot be gone on with"):
        Report(machine_facts, options).take_over(tmp_path / "r.json")


def test_markdown_has_a_row_for_each_and_reasons_in_their_place(report):
    text = markdown(report)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {10, 4}
    assert "| torch eager | fp32 | 2.000 / 3.000 | 500.0 | 10 | 0.0e+00 | 100.00 | 0.500 | 4.0 |" in text
    assert "| TensorRT, CUDA graph | int8 | failed: no \\| luck |" in text and "| inference | 1.000 | 2.000 |" in text
    assert row_cells(report.rows[2])[2] == "not run: no time"
    assert "roofline in fp32: 0.5 ms, with the unfused bytes 2.5 ms" in text


def test_the_roofline_is_that_of_the_rows_precision(report):
    facts = report.networks["cmx-b0"]
    assert with_roofline(report.rows[0], facts).times_roofline == pytest.approx(4.0)
    assert with_roofline(Row(RowSpec("n", "eager", "bf16"), "ok", median_ms=1.0), facts).times_roofline is None


def test_budget():
    assert not Budget(None).is_spent and not Budget(10).is_spent
    with pytest.raises(ConfigError, match="--minutes"):
        Budget(0)


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:x"])
def test_strange_devices_are_refused(name):
    with pytest.raises(EngineError, match="--device"):
        Device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(EngineError, match="no NVIDIA GPU can be used: torch"):
        Device("cuda")


def test_measuring_calls_as_often_as_it_says():
    calls = []
    timing = measure(lambda: calls.append(1), CPU, rounds=5, warmup=2)
    assert len(calls) == 7 and 0 <= timing.median_ms <= timing.p99_ms and timing.per_s > 0
    assert CPU.used_mib() is None and CPU.problem() == ""


def test_float32_products_puts_the_switches_back():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), float32_products(tf32=True):
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        raise RuntimeError
    with float32_products(tf32=False):
        assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_peaks_are_those_that_the_device_has(monkeypatch):
    monkeypatch.setitem(peaks.SIDE, "cpu", 32)
    monkeypatch.setitem(peaks.COPY_MIB, "cpu", 1)
    monkeypatch.setattr(peaks, "BATCH_S", 1e-4)
    found = peaks.peak_flops(CPU)
    assert {"fp32", "bf16", "fp16"} <= set(found) and "tf32" not in found and min(found.values()) > 0
    assert peaks.peak_bytes_per_s(CPU) > 0


class Projection(torch.nn.Module):
    """Makes its constants anew in every run, as networks do."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def forward(self, x, index):
        x = self.linear(x) * torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype, device=x.device)
        return (x + x.new_tensor([0.5])).index_select(0, index), index


def test_constants_are_made_once_and_used_in_order():
    network, constants = Projection(), KeptConstants()
    x, index = torch.randn(4, 3), torch.tensor([2, 0])
    with torch.inference_mode():
        expected = network(x, index)[0]
        for _ in range(3):
            with constants.again():
                torch.testing.assert_close(network(x, index)[0], expected)
    assert [value.tolist() for value in constants._kept] == [[1.0, 2.0, 3.0], [0.5]]
    assert torch.tensor([7]).item() == 7  # outside of a run nothing is kept


def test_lower_precisions_take_and_give_float32():
    network, x, index = Projection().eval(), torch.randn(4, 3), torch.tensor([2, 0])
    for precision, detects, kind in (("bf16", False, CastNetwork), ("bf16", True, AutocastNetwork)):
        copy, note = lowered(network, precision, detects, CPU)
        assert isinstance(copy, kind) and note
        with torch.inference_mode():
            got, whole = copy(x, index)
            torch.testing.assert_close(got, network(x, index)[0], atol=0.1, rtol=0.1)
        assert got.dtype == torch.float32 and whole.dtype == torch.int64
    assert network.linear.weight.dtype == torch.float32  # the network itself stays as it was
    with pytest.raises(EngineError, match="TF32"):
        lowered(network, "tf32", False, CPU)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried ...\nmore"), "out of GPU memory"),
        (EngineError("x: wrong\n  in two lines"), "x: wrong in two lines"),
        (KeyError("k"), "KeyError: 'k'"),
        (ValueError("v" * 1000), "ValueError: vvv"),
    ],
)
def test_reasons_are_one_short_line(error, said):
    reason = gpu_table.reason_of(error)
    assert reason.startswith(said) and "\n" not in reason and len(reason) <= gpu_table.REASON_LENGTH


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC 13.2\n",
            "580.159.04",
        ),
    ],
)
def test_the_drivers_version(monkeypatch, told, version):
    monkeypatch.setattr(machine, "_read", lambda path: told)
    assert machine.driver_version() == version


def test_no_driver_is_said_to_be_unknown(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda path: "")
    monkeypatch.setattr(machine, "QUERY", ("no-such-program",))
    assert machine.driver_version() == "unknown"


class FakePerception:
    """Doubles numbers in two halves."""

    def __init__(self):
        self.done = []

    def prepare(self, observation):
        return 2 * observation

    def finish(self, prepared):
        if prepared < 0:
            raise EngineError("negative")
        self.done.append(prepared)
        return SimpleNamespace(failures={}, stage_ms={"half": 1.0, "whole": 2.0})

    def step(self, observation):
        return self.finish(self.prepare(observation))


def test_the_pipeline_is_measured_in_sequence_and_overlapped():
    pipeline_bench = pytest.importorskip("mm_perception.bench.pipeline_bench", exc_type=ImportError)
    drive, perception = SimpleNamespace(seen=[1, 2, 3], models="m"), FakePerception()
    row = pipeline_bench.measured_pipeline(perception, drive, "torch", rounds=4, warmup=2)
    assert perception.done == [2, 4] + 2 * [2, 4, 6, 2]
    assert row.status == "ok" and row.bundles == 4 and row.stages == {"half": (1.0, 1.0), "whole": (2.0, 2.0)}
    assert row.step_per_s > 0 and row.overlapped_per_s > 0
    with pytest.raises(EngineError, match="negative"):
        pipeline_bench._overlapped(perception, [1, -1, 2])


def test_outputs_that_are_not_finite_make_no_row():
    with pytest.raises(EngineError, match="NaN or infinite: b"):
        gpu_table._require_finite({"a": np.zeros(2), "b": np.array([0.0, np.inf]), "c": np.array([1])})
