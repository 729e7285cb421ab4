"""`mm-perception bench gpu` on a CPU with small networks; for real where there is a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mm_perception.cli.main import main

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxscript", reason="the ONNX export needs onnxscript")

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--networks", "cmx-tiny", "--height", "64", "--width", "64", "--rounds", "2", "--warmup", "1"]
QUICK = [*SMALL, "--precisions", "fp32", "bf16", "--skip", "compile,tensorrt,onnxruntime,pipeline"]


@pytest.fixture
def bench(tmp_path, capsys, monkeypatch, one_thread):
    """Runs the command; returns its exit code, the rows of its file by (how, precision), its file, the output."""
    from mm_perception.bench import peaks

    monkeypatch.setitem(peaks.SIDE, "cpu", 32)
    monkeypatch.setitem(peaks.COPY_MIB, "cpu", 1)

    def bench(*options, device="cpu"):
        path = tmp_path / "bench.json"
        files = ["--json", str(path), "--markdown", str(tmp_path / "bench.md")]
        code = main(["bench", "gpu", "--device", device, *files, *map(str, options)])
        content = json.loads(path.read_text(), parse_constant=pytest.fail) if path.is_file() else {"rows": []}
        rows = {(row["spec"]["runner"], row["spec"]["precision"]): row for row in content["rows"]}
        return code, rows, content, capsys.readouterr()

    return bench


@pytest.mark.slow
def test_the_table_on_a_cpu(bench, tmp_path):
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    bag = ROOT / "rosbags" / "demo.mcap"
    code, rows, content, said = bench(*SMALL, "--skip", "compile", "--bag", bag, "--detector", "none")
    assert code == 0 and "CPU (not a GPU)" in said.out
    assert content["machine"]["torch"] == torch.__version__ and content["peak_bytes_per_s"] > 0
    facts = content["networks"]["cmx-tiny"]
    assert facts["reason"] == "" and facts["products_gflop"] == pytest.approx(0.0409, abs=1e-3)
    assert facts["once_mb"]["fp32"] == pytest.approx(2 * facts["once_mb"]["fp16"], rel=1e-3)
    eager = rows["eager", "fp32"]
    assert eager["status"] == "ok" and eager["max_abs_diff"] == 0.0 and eager["agreement"] == 1.0
    assert 0 < eager["median_ms"] <= eager["p99_ms"] and eager["per_s"] > 0 and eager["memory_mib"] is None
    assert eager["times_roofline"] == pytest.approx(eager["median_ms"] / eager["roofline_ms"])
    assert 0 < rows["eager", "bf16"]["max_abs_diff"] < 1 and rows["eager", "bf16"]["agreement"] > 0.9
    assert rows["eager", "fp16"]["status"] == "ok"
    assert "NVIDIA GPU" in rows["eager", "tf32"]["reason"] and rows["eager", "tf32"]["status"] == "failed"
    assert "NVIDIA GPU" in rows["cudagraph", "fp16"]["reason"]
    runtime = rows["onnxruntime", "fp32"]
    assert runtime["reason"].startswith("onnxruntime cannot") or runtime["max_abs_diff"] < 1e-4
    assert {"fp32", "tf32", "bf16", "fp16", "int8"} == {p for runner, p in rows if runner == "tensorrt"}
    with_torch, with_tensorrt = content["pipelines"]
    assert with_torch["status"] == "ok" and with_torch["overlapped_per_s"] > 0, with_torch["reason"]
    assert "inference" in with_torch["stages"] and with_tensorrt["status"] == "failed"
    text = (tmp_path / "bench.md").read_text()
    assert "| torch eager | fp32 |" in text and "roofline" in text and "**Pipeline, torch**" in text


def test_a_trained_model_is_compared_on_recorded_inputs(bench, monkeypatch, tmp_path):
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    monkeypatch.setattr("mm_perception.bench.gpu_table.exported", lambda *_: tmp_path / "none.onnx")
    line = [*QUICK, "--networks", "cmx-tiny-rgb-thermal", "--bag", ROOT / "rosbags" / "demo.mcap", "--samples", "2"]
    code, rows, content, said = bench(*line)
    assert code == 0 and 0.98 < rows["eager", "bf16"]["agreement"] < 1.0 == rows["eager", "fp32"]["agreement"]
    inputs = content["networks"]["cmx-tiny-rgb-thermal"]["inputs"]
    assert inputs.startswith("2 recorded inputs (") and inputs.endswith("demo.mcap, rig demo)")
    for text in (said.out, (tmp_path / "bench.md").read_text()):
        assert f"agreement on {inputs}" in text
    code, _, _, said = bench(*line, "--resume", "--samples", "3")
    assert code == 2 and "samples: 2 there, 3 here" in said.err


def test_a_row_that_fails_keeps_no_other_from_being_measured(bench, monkeypatch):
    from mm_perception.bench import gpu_table

    plain = gpu_table.lowered

    def greedy(network, precision, detects, device):
        if precision == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(network, precision, detects, device)

    monkeypatch.setattr(gpu_table, "lowered", greedy)
    code, rows, _, said = bench(*QUICK, "--precisions", "bf16", "fp32", "fp16")
    assert code == 0 and "failed: out of GPU memory" in said.out
    assert rows["eager", "bf16"]["status"] == "failed" and rows["eager", "bf16"]["reason"] == "out of GPU memory"
    assert rows["eager", "fp32"]["status"] == rows["eager", "fp16"]["status"] == "ok"


def test_a_lost_device_leaves_the_rest_undone_and_says_so(bench, monkeypatch):
    from mm_perception.bench import timing

    monkeypatch.setattr(timing.Device, "problem", lambda self: "illegal memory access")
    monkeypatch.setattr("mm_perception.bench.gpu_table.EagerRunner.run", lambda self: {}["logits"])
    _, rows, _, _ = bench(*QUICK)
    assert rows["eager", "fp32"]["status"] == "failed"
    assert rows["eager", "bf16"]["status"] == "not run" and "illegal memory" in rows["eager", "bf16"]["reason"]


def test_what_the_budget_leaves_out_is_named_and_can_be_gone_on_with(bench):
    code, rows, _, said = bench(*QUICK, "--minutes", "1e-6")
    assert code == 0 and {row["status"] for row in rows.values()} == {"not run"}
    assert all("budget of 1e-06 min" in row["reason"] for row in rows.values())
    assert "not run (2; --resume goes on): cmx-tiny torch eager fp32; cmx-tiny torch eager bf16" in said.out
    _, first, _, _ = bench(*QUICK, "--resume", "--precisions", "fp32")
    _, both, _, _ = bench(*QUICK, "--resume")
    assert both["eager", "fp32"] == first["eager", "fp32"] and both["eager", "bf16"]["status"] == "ok"
    code, _, _, said = bench(*QUICK, "--resume", "--rounds", "3")
    assert code == 2 and "rounds: 2 there, 3 here" in said.err


def test_a_row_that_ends_the_process_stands_in_the_file_already(bench, monkeypatch, tmp_path):
    from mm_perception.bench import gpu_table

    def crash(subject, spec, bench):
        before = json.loads((tmp_path / "bench.json").read_text())["rows"]
        assert [row["status"] for row in before] == ["failed"] and "process ended" in before[0]["reason"]
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_table, "measured_row", crash)
    code, rows, _, _ = bench(*QUICK)
    assert code == 130 and not rows  # an interruption is no crash: the row is still to be measured


def test_no_cost_is_known_without_onnx(bench, monkeypatch):
    from mm_perception.bench import gpu_table
    from mm_perception.core.errors import EngineError

    def refuse(path):
        raise EngineError("needs onnx")

    monkeypatch.setattr(gpu_table, "graph_cost", refuse)
    _, rows, content, said = bench(*QUICK)
    assert rows["eager", "fp32"]["status"] == "ok" and rows["eager", "fp32"]["roofline_ms"] is None
    assert content["networks"]["cmx-tiny"]["reason"] == "needs onnx"
    assert "not known: needs onnx; agreement on made inputs" in said.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_before_anything_is_done(bench):
    code, rows, _, said = bench(*QUICK, device="cuda")
    assert code == 2 and not rows and "no NVIDIA GPU can be used" in said.err and "--device cpu" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--minutes", "0"], "--minutes"),
        (["--samples", "0"], "--samples"),
        (["--networks", "vgg"], "network: expected one of cmx-tiny"),
        (["--height", "8"], "input_height"),
        (["--resume"], "--resume: expected a --json file that is there"),
    ],
)
def test_impossible_options_are_refused(bench, options, said):
    code, _, _, output = bench(*QUICK, *options)
    assert code == 2 and said in output.err


def test_unknown_names_to_skip_are_refused(bench):
    code, _, _, output = bench("--skip", "compile,lunch")
    assert code == 2 and "lunch" in output.err


def test_a_bag_that_is_not_there_is_a_reason(bench):
    skipped = "eager,cudagraph,compile,tensorrt,onnxruntime"
    code, _, content, _ = bench(*SMALL, "--skip", skipped, "--bag", "no/such.mcap")
    assert code == 0 and [row["status"] for row in content["pipelines"]] == ["failed"] * 2
    assert "such.mcap" in content["pipelines"][0]["reason"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU")
def test_the_table_on_a_gpu(bench):
    code, rows, content, _ = bench(*SMALL, "--skip", "compile,pipeline", device="cuda")
    assert code == 0 and content["machine"]["driver"] and {"fp32", "tf32", "fp16", "bf16"} <= set(content["peak_flops"])
    for key in (("eager", "fp32"), ("eager", "tf32"), ("eager", "fp16"), ("eager", "bf16"), ("cudagraph", "fp16")):
        row = rows[key]
        assert row["status"] == "ok" and row["memory_mib"] > 0 and row["agreement"] > 0.9, row
    assert all(row["status"] == "ok" or row["reason"] for row in rows.values())
