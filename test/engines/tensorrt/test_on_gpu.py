"""On an NVIDIA GPU: `pytest -m gpu`. Parity of every precision, graphs, shared memory, the way to an engine."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import EngineError
from mm_perception.engines.agreement import TOLERANCES, agreement
from mm_perception.engines.engine import DeviceEngine
from mm_perception.engines.load import load_engine, why_not
from mm_perception.engines.reference import made_inputs, save_references
from mm_perception.engines.tensorrt.settings import TensorRtSettings

pytestmark = pytest.mark.gpu
CARDS = (CMX, DETECTOR) = ("cmx-tiny-rgb-thermal", "deepinteraction-tiny")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "mixed")


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    missing = why_not("tensorrt")
    if missing is not None:
        pytest.skip(f"no TensorRT on a GPU: {missing}")


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, precision) for name in CARDS for precision in PRECISIONS), (CMX, "int8")]
)
def test_parity(name, precision, exported, tmp_path_factory):
    card, path = exported(name)
    folder = tmp_path_factory.getbasetemp() / "gpu-engines"
    samples = made_inputs(card, 2)
    calibration = folder / f"{name}.calibration.npz" if precision == "int8" else None
    if calibration is not None:
        save_references(calibration, samples)
    from mm_perception.engines.onnx_engine import OnnxEngine

    reference = OnnxEngine(path)
    wanted = [reference.run(sample) for sample in samples]
    for cuda_graph in (False, True):
        settings = TensorRtSettings(precision, ladder=False, cuda_graph=cuda_graph, calibration=calibration)
        engine = load_engine(card, "tensorrt", cache_dir=folder, tensorrt=settings)
        got = [engine.run(sample) for sample in samples]
        assert TOLERANCES[precision].met(agreement(card, wanted, got)), agreement(card, wanted, got)
        engine.close()


def test_int8_that_loses_the_detectors_boxes_is_refused(exported, tmp_path):
    """On a CPU, ONNX Runtime finds no more than 25 % of the boxes again, whatever the scales are taken from."""
    card, _ = exported(DETECTOR)
    calibration = tmp_path / "calibration.npz"
    save_references(calibration, made_inputs(card, 2))
    settings = TensorRtSettings("int8", ladder=False, calibration=calibration)
    with pytest.raises(EngineError, match=r"int8: .* asked for: at least 95\.00 %"):
        load_engine(card, "tensorrt", cache_dir=tmp_path, tensorrt=settings)


def test_tensors_on_the_gpu_and_several_engines_in_one_memory(exported, tmp_path_factory):
    import torch

    folder = tmp_path_factory.getbasetemp() / "gpu-engines"
    engines = {}
    for name in CARDS:
        card, _ = exported(name)
        engines[name] = load_engine(card, "tensorrt", cache_dir=folder, tensorrt=TensorRtSettings("fp32", ladder=False))
    for _ in range(3):
        for name, engine in engines.items():
            assert isinstance(engine, DeviceEngine) and engine.device.startswith("cuda")
            sample = made_inputs(exported(name)[0])[0]
            by_host = engine.run(sample)
            tensors = {key: torch.from_numpy(value).to(engine.device) for key, value in sample.items()}
            by_device = engine.run_on_device(tensors)
            for key, value in by_device.items():
                np.testing.assert_array_equal(value.cpu().numpy(), by_host[key])
    bad = {key: torch.from_numpy(value).to(engine.device) for key, value in sample.items()}
    bad["images"][:] = float("nan")
    with pytest.raises(EngineError, match="NaN or infinite"):
        engine.run_on_device(bad)
    for engine in engines.values():
        engine.close()


def test_auto_takes_tensorrt_and_the_second_start_builds_nothing(exported, tmp_path):
    card, _ = exported(CARDS[0])
    for start in range(2):
        told: list[str] = []
        engine = load_engine(card, "auto", cache_dir=tmp_path, on_progress=told.append)
        assert engine.name.startswith("tensorrt")
        assert any(text.startswith("built ") for text in told) == (start == 0)
        engine.close()
