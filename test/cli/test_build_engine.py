"""`mm-perception build-engine`, with the real builder."""

from __future__ import annotations

import json

import pytest

from mm_perception.cli.build_engine import read_shapes
from mm_perception.cli.main import main
from mm_perception.core.errors import ConfigError
from mm_perception.engines.tensorrt.settings import ShapeRange

MODEL = "cmx-tiny-rgb-thermal"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with an engine that was built for a GPU that is not there, from recorded inputs."""
    for package in ("tensorrt_rtx", "modelopt.onnx", "onnxscript", "torch"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    cache = tmp_path_factory.mktemp("cache")
    line = ["build-engine", MODEL, "--for-gpu", "8.9", "--cache", str(cache), "--json", str(cache / "stamp.json")]
    assert main([*line, "--bag", "rosbags/demo.mcap", "--rig", "sim", "--samples", "3"]) == 0
    return cache, line


def test_an_engine_is_built_from_recorded_inputs(built):
    cache, _ = built
    stamp = json.loads((cache / "stamp.json").read_text())
    assert stamp["precision"] == "fp16" and not stamp["on_gpu"] and stamp["key"]["compute_capability"] == "8.9"
    assert stamp["kept"] == [f"backbone.FFMs.{stage}.cross.cross_attn/" for stage in range(4)]
    assert float(stamp["tested"].split()[0]) >= 99.5
    assert list((cache / "tensorrt").glob("*.engine"))


def test_a_second_call_builds_nothing_and_says_what_nobody_tried(built, capsys):
    _, line = built
    capsys.readouterr()
    assert main([*line, "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "building" not in said and "no GPU has run this engine yet" in said.replace("\n", " ")


def test_an_exported_file_is_taken_with_its_card(built, tmp_path, capsys):
    cache, line = built
    onnx_file = next((cache / "onnx").glob("*.onnx"))
    options = [*line[2:4], "--cache", str(tmp_path / "again"), "--precision", "fp32"]
    assert main(["build-engine", str(onnx_file), *options]) == 0
    assert "fp32" in capsys.readouterr().out and not (tmp_path / "again" / "onnx").exists()
    assert main([*line, "--overwrite", "--refuse-stale", "--workspace-mb", "64"]) == 2
    assert "workspace_mb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere.onnx"], "expected the file and its card nowhere.yaml"),
        (["no-such-model"], "neither a file nor a name"),
        ([MODEL, "--workspace-mb", "0"], "--workspace-mb: expected a whole number in [1, "),
        ([MODEL, "--optimization-level", "9"], "--optimization-level: expected a whole number in [0, 5]"),
        ([MODEL, "--shapes", "rgb:1x3"], "--shapes: expected NAME="),
        ([MODEL, "--for-gpu", "8.9", "--bag", "rosbags/demo.mcap", "--rig", "sim", "--samples", "0"], "--samples"),
        ([MODEL, "--for-gpu", "8.9", "--precision", "int8"], "INT8 needs calibration inputs"),
    ],
)
def test_wrong_input_is_named(options, said, capsys, tmp_path, request):
    if "--for-gpu" in options:
        cache, _ = request.getfixturevalue("built")
        (tmp_path / "onnx").symlink_to(cache / "onnx")
    assert main(["build-engine", *options, "--cache", str(tmp_path), "--no-ladder"]) == 2
    assert said in capsys.readouterr().err


def test_without_a_gpu_the_missing_driver_is_named(capsys, built, tmp_path):
    from mm_perception.engines.load import why_not

    if why_not("tensorrt") is None:
        pytest.skip("there is a GPU")
    cache, _ = built
    (tmp_path / "onnx").symlink_to(cache / "onnx")
    assert main(["build-engine", MODEL, "--cache", str(tmp_path)]) == 2
    assert why_not("tensorrt") in capsys.readouterr().err


def test_ranges_of_shapes():
    assert read_shapes(["x=1x3x2x2..1x3x4x4..1x3x8x8"]) == {"x": ShapeRange((1, 3, 2, 2), (1, 3, 4, 4), (1, 3, 8, 8))}
    for text in ("x=1..2", "=1..2..3", "x=1xx2..2..3"):
        with pytest.raises(ConfigError, match="--shapes"):
            read_shapes([text])
    with pytest.raises(ConfigError, match="smallest <= usual <= largest"):
        read_shapes(["x=4..2..8"])
