"""Pipelines whose inputs and labels are computed on the engine's device, against the same ones on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mm_perception.core.errors import CalibrationError, ConfigError, DataError, EngineError
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import (
    DepthFrame,
    EventPacket,
    ImageFrame,
    PointCloud,
    SensorBundle,
    ThermalFrame,
)
from mm_perception.engines.card import ModelCard
from mm_perception.engines.engine import segmentation_specs
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.inference import Inference
from mm_perception.pipeline.intake import Calibration, Observation
from mm_perception.pipeline.segmentation import SegmentationPipeline

torch = pytest.importorskip("torch", reason="torch is not installed")

from mm_perception.engines.torch_engine import TorchEngine  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KINDS = ("rgb", "depth", "thermal", "events", "lidar")
RIG = RigConfig(
    tuple(SensorConfig(kind, kind, camera_info="/info" if kind == "rgb" else "", window_ms=50.0) for kind in KINDS),
    "rgb",
)
STAMP_NS = 1_000_000_000
ENCODINGS = {
    "rgb": "rgb", "depth": "raw", "thermal": "agc", "events": "voxel", "lidar": "range_height_intensity",
}  # fmt: skip


def card(modality: str, **changes: Any) -> ModelCard:
    fields = {
        "name": "device", "variant": "tiny", "decoder_dim": 32, "classes": tuple("abcdefg"), "modality": modality,
        "encoding": ENCODINGS[modality], "input_height": 96, "input_width": 128, "channel_order": "rgb",
        "trained": False, "weights": "random:5",
    }  # fmt: skip
    return ModelCard(**(fields | changes))


def observation(width: int, height: int, x_frame: str = "cam", without: str = "") -> Observation:
    """A textured scene and what all sensors measure of it; `x_frame`: of the sensors with pixels beside the camera."""
    generator = np.random.default_rng(0)
    shapes = generator.integers(0, 256, (height // 12 + 1, width // 12 + 1, 3)).repeat(12, 0).repeat(12, 1)
    image = np.clip(shapes[:height, :width] + generator.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    depth_m = (1000.0 / (5.0 + image[..., 0])).astype(np.float32)
    count = 20_000
    x, y = (generator.integers(0, size, count).astype(np.uint16) for size in (width, height))
    t_ns = np.sort(generator.integers(STAMP_NS - 60_000_000, STAMP_NS, count))
    cloud = generator.uniform((4, -4, -2), (40, 4, 3), (2000, 3)).astype(np.float32)
    measurements = {
        "rgb": ImageFrame(image, STAMP_NS, "cam"),
        "depth": DepthFrame(depth_m, STAMP_NS, x_frame),
        "thermal": ThermalFrame(20_000 + 10 * image[..., 1].astype(np.float32), "counts", STAMP_NS, x_frame),
        "events": EventPacket(x, y, generator.random(count) < 0.5, t_ns, width, height, STAMP_NS, x_frame),
        "lidar": PointCloud(cloud, STAMP_NS, "lidar"),
    }
    measurements.pop(without, None)
    k = np.array([[float(width), 0, width / 2], [0, float(width), height / 2], [0, 0, 1]])
    cameras = {name: CameraModel(width, height, k, np.zeros(0), "", "cam") for name in KINDS[:4]}
    turn = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    moves = {name: RigidTransform("cam", x_frame, np.eye(3), np.zeros(3)) for name in KINDS[1:4]}
    moves["lidar"] = RigidTransform("cam", "lidar", turn, np.zeros(3))
    return Observation(SensorBundle(STAMP_NS, "rgb", measurements), Calibration(cameras, moves, {}))


@pytest.fixture
def device(request, one_thread) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")
    return request.param


def both_ways(chosen: ModelCard, seen: Observation, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Class ids on the host and on the device."""
    host, there = (TorchEngine.from_card(chosen, threads=1, device=d) for d in ("cpu", device))
    results = [
        SegmentationPipeline(chosen, engine, RIG, on_device=way).step(seen, StageClock())
        for engine, way in ((host, False), (there, True))
    ]
    assert {r.stamp_ns for r in results} == {STAMP_NS} and {r.frame_id for r in results} == {"cam"}
    assert len(np.unique(results[0].class_ids)) > 1, "a test of nothing"
    return results[0].class_ids, results[1].class_ids


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("size", "order"), [((320, 240), "rgb"), ((256, 192), "bgr"), ((128, 96), "rgb")])
@pytest.mark.parametrize("modality", KINDS)
def test_labels_of_pictures_that_shrink_are_those_of_the_host(device, modality, size, order):
    """Means of pixels are rounded alike: a label changes only where two classes are equal to float32's rounding."""
    host, there = both_ways(card(modality, channel_order=order), observation(*size), device)
    assert there.shape == size[::-1] and (host != there).mean() < 1e-3


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("modality", ["rgb", "events"])
def test_labels_of_pictures_that_grow_differ_by_a_grey_level(device, modality):
    """There OpenCV computes in whole numbers: grey levels are up to one off, and labels of random weights with them."""
    host, there = both_ways(card(modality, resize="letterbox"), observation(100, 50), device)
    assert (host != there).mean() < 0.01


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("modality", ["depth", "thermal", "events"])
def test_sensors_with_another_view_go_through_the_host(device, modality):
    host, there = both_ways(card(modality), observation(320, 240, x_frame="other"), device)
    assert (host != there).mean() < 1e-3


@pytest.mark.parametrize("on_device", [False, True])
def test_what_is_missing_is_named_before_the_network_runs(on_device, one_thread):
    chosen = card("lidar")
    pipeline = SegmentationPipeline(chosen, TorchEngine.from_card(chosen, threads=1), RIG, on_device=on_device)
    with pytest.raises(DataError, match="no lidar measurement"):
        pipeline.prepare(observation(64, 48, without="lidar"), StageClock())
    seen = observation(64, 48)
    blind = Observation(seen.bundle, Calibration({}, seen.calibration.reference_from, {}))
    with pytest.raises(CalibrationError, match="CameraInfo"):
        pipeline.prepare(blind, StageClock())


@pytest.mark.parametrize("on_device", [False, True])
def test_stages_of_both_halves_are_measured(on_device, one_thread):
    chosen, clock = card("rgb"), StageClock()
    pipeline = SegmentationPipeline(chosen, TorchEngine.from_card(chosen, threads=1), RIG, on_device=on_device)
    prepared = pipeline.prepare(observation(128, 96), clock)
    assert list(clock.stage_ms) == ["preprocess"]
    pipeline.finish(prepared, clock)
    assert list(clock.stage_ms) == ["preprocess", "inference", "postprocess"]


class ArraysAlone:
    """An engine without a device."""

    name = "plain"
    inputs, outputs = segmentation_specs(7, 96, 128)

    def run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert all(isinstance(value, np.ndarray) for value in tensors.values())
        return {"logits": np.zeros(self.outputs[0].shape, np.float32)}

    def close(self) -> None:
        pass


def test_the_engine_says_which_way_is_taken(monkeypatch):
    assert Inference(ArraysAlone()).lane is None
    with pytest.raises(ConfigError, match="plain takes no tensors"):
        Inference(ArraysAlone(), on_device=True)
    engine = TorchEngine(torch.nn.Identity(), (), ())
    assert Inference(engine).lane is None
    assert Inference(engine, on_device=True).lane.device == torch.device("cpu")
    engine.device = "meta"  # any that is not the CPU
    assert Inference(engine).lane is not None
    assert Inference(engine, on_device=False).lane is None


def test_what_a_device_raises_is_an_engine_error():
    def full() -> None:
        raise torch.OutOfMemoryError("no room")

    engine = TorchEngine(torch.nn.Identity(), (), ())
    inference = Inference(engine, on_device=True)
    with pytest.raises(EngineError, match="torch: no inputs on cpu: no room"):
        inference.make(full)
    with pytest.raises(EngineError, match="torch: no outputs on cpu: no room"):
        inference.run({}, full)
    with pytest.raises(EngineError, match="torch: no results on cpu: no room"):
        inference.arrays({"logits": Lost()})
    with pytest.raises(torch.OutOfMemoryError):
        Inference(engine, on_device=False).fetch(full)  # no device, so a fault of this package


class Lost:
    """A tensor on a GPU that had a fault since."""

    def cpu(self) -> None:
        raise torch.OutOfMemoryError("no room")


def test_labels_that_a_device_loses_are_an_engine_error(monkeypatch, one_thread):
    def lost(logits: torch.Tensor) -> np.ndarray:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("mm_perception.gpu.labels.most_likely", lost)
    chosen = card("rgb")
    pipeline = SegmentationPipeline(chosen, TorchEngine.from_card(chosen, threads=1), RIG, on_device=True)
    with pytest.raises(EngineError, match="no results on cpu: CUDA error: device-side assert"):
        pipeline.step(observation(128, 96), StageClock())
