from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import encode_compressed, encode_transforms
from mm_perception.core.errors import CalibrationError, ConfigError, DataError
from mm_perception.core.rig import RigConfig, SensorConfig, load_rig
from mm_perception.core.types import DepthFrame, ImageFrame, PointCloud, SegmentationMap, SensorBundle
from mm_perception.engines.card import ModelCard
from mm_perception.engines.engine import segmentation_specs
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.intake import Calibration, Intake, Observation
from mm_perception.pipeline.overlay import class_colors, draw_overlay, draw_points
from mm_perception.pipeline.segmentation import SegmentationPipeline, choose_x_sensor, most_likely
from mm_perception.replay.replay import observations
from mm_perception.sim.rig import simulated_rig
from mm_perception.sim.simulate import START_NS

RIG = load_rig("demo")
SIMULATED = simulated_rig(RIG)
CAMERA = SIMULATED.cameras[0].model
FRAME_NS, SWEEP_NS = 100_000_000, 100_000_000


class BrightnessEngine:
    """Class 1 where the X input is above zero, class 2 where the red of RGB is; a network whose answer is known."""

    name = "brightness"

    def __init__(self, card: ModelCard) -> None:
        self.inputs, self.outputs = segmentation_specs(card.num_classes, card.input_height, card.input_width)
        self.seen: dict[str, np.ndarray] = {}

    def run(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen = tensors
        logits = np.zeros(self.outputs[0].shape, np.float32)
        logits[0, 1] = np.where(tensors["x"][0, 0] > 0, 1, -1)
        logits[0, 2] = np.where(tensors["rgb"][0, 0] > 0, 2, -1)
        return {"logits": logits}

    def close(self) -> None:
        pass


def card(**changes: Any) -> ModelCard:
    fields = {
        "name": "test", "variant": "b0", "classes": ("none", "x", "red"), "modality": "lidar",
        "encoding": "range_height_intensity", "input_height": 48, "input_width": 64, "channel_order": "rgb",
        "trained": False, "weights": "random:1", "rgb_mean": (0.5,) * 3, "rgb_std": (1.0,) * 3,
        "x_mean": (0.0,) * 3, "x_std": (1.0,) * 3,
    }  # fmt: skip
    return ModelCard(**(fields | changes))


def observation(measurement=None, name="lidar", cameras=True, transforms=True, width=128, height=96) -> Observation:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 255
    k = np.array([[100.0, 0, (width - 1) / 2], [0, 100, (height - 1) / 2], [0, 0, 1]])
    measurements = {"rgb": ImageFrame(image, 7, "cam")} | ({} if measurement is None else {name: measurement})
    bundle = SensorBundle(7, "rgb", measurements)
    models = {"rgb": CameraModel(width, height, k, np.zeros(0), "", "cam")} if cameras else {}
    pose = RigidTransform("cam", "lidar", np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))
    return Observation(bundle, Calibration(models, {name: pose} if transforms else {}, {name: "no transform"}))


def pipeline(**changes: Any) -> SegmentationPipeline:
    chosen = card(**changes)
    return SegmentationPipeline(chosen, BrightnessEngine(chosen), RIG)


CLOUD = PointCloud(np.array([[10, -3, 0]], np.float32), 7, "lidar")


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(128, 96), (64, 48), (200, 90), (33, 77)])
def test_map_has_size_stamp_and_frame_of_the_image(resize, size):
    width, height = size
    result = pipeline(resize=resize).step(observation(CLOUD, width=width, height=height), StageClock())
    assert result.class_ids.shape == (height, width)
    assert (result.stamp_ns, result.frame_id, result.trained) == (7, "cam", False)
    assert (result.class_ids[:, : width // 2 - 2] == 2).all()
    assert not (result.class_ids[:, width // 2 + 2 :] == 2).any()


def test_lidar_point_is_labelled_where_it_is_seen():
    result = pipeline().step(observation(CLOUD), StageClock())
    rows, columns = np.nonzero(result.class_ids == 1)
    assert columns.mean() == pytest.approx(63.5 + 100 * 0.3, abs=1.5)
    assert rows.mean() == pytest.approx(47.5, abs=1.5)


def test_channel_order_is_the_cards():
    for order, channel in (("rgb", 0), ("bgr", 2)):
        chosen = pipeline(channel_order=order)
        chosen.step(observation(CLOUD), StageClock())
        assert chosen.engine.seen["rgb"][0, channel].max() == pytest.approx(0.5)
        assert chosen.engine.seen["rgb"][0, 2 - channel].max() == pytest.approx(-0.5)


def test_rgb_only_model_sees_the_image_twice():
    chosen = pipeline(modality="rgb", encoding="rgb", x_mean=(0.5,) * 3)
    chosen.step(observation(), StageClock())
    np.testing.assert_array_equal(chosen.engine.seen["x"], chosen.engine.seen["rgb"])


def test_depth_of_another_frame_is_registered():
    frame = DepthFrame(np.full((96, 128), 3.0, np.float32), 7, "depth")
    seen = observation(frame, "depth", transforms=False)
    move = RigidTransform("cam", "depth", np.eye(3), np.zeros(3))
    models = dict(seen.calibration.cameras) | {"depth": replace(seen.calibration.cameras["rgb"], frame_id="depth")}
    chosen = pipeline(modality="depth", encoding="raw")
    chosen.step(Observation(seen.bundle, Calibration(models, {"depth": move}, {})), StageClock())
    np.testing.assert_allclose(np.median(chosen.engine.seen["x"]), 3.0 / 80, rtol=1e-5)


@pytest.mark.parametrize(
    ("seen", "error", "expected"),
    [
        (observation(), DataError, "no lidar measurement"),
        (observation(CLOUD, cameras=False), CalibrationError, "CameraInfo"),
        (observation(CLOUD, transforms=False), CalibrationError, "no transform"),
    ],
)
def test_what_is_missing_is_named(seen, error, expected):
    with pytest.raises(error, match=expected):
        pipeline().step(seen, StageClock())


def test_camera_info_of_another_size_is_refused():
    seen = observation(CLOUD)
    other = {"rgb": seen.calibration.cameras["rgb"].resized(64, 48)}
    with pytest.raises(CalibrationError, match="calibrated for"):
        pipeline().step(Observation(seen.bundle, replace_calibration(seen.calibration, other)), StageClock())


def replace_calibration(calibration: Calibration, cameras) -> Calibration:
    return Calibration(cameras, calibration.reference_from, calibration.problems)


def test_model_without_its_sensor_is_a_configuration_error():
    rgb = RigConfig((SensorConfig("rgb", "rgb"),), "rgb")
    with pytest.raises(ConfigError, match="needs a lidar sensor"):
        choose_x_sensor(card(), rgb)
    with pytest.raises(ConfigError, match="not 'thermal'"):
        choose_x_sensor(card(), RIG, "thermal")
    assert choose_x_sensor(card(), RIG, "lidar") == "lidar"
    blind = RigConfig((SensorConfig("rgb", "rgb"), SensorConfig("lidar", "lidar")), "rgb")
    with pytest.raises(ConfigError, match="camera_info"):
        choose_x_sensor(card(), blind)


def test_most_likely_is_argmax():
    logits = np.random.default_rng(0).integers(-3, 3, (1, 9, 20, 30)).astype(np.float32)
    np.testing.assert_array_equal(most_likely(logits), logits[0].argmax(axis=0))


def feed(path: Path, rig: RigConfig = RIG) -> tuple[Intake, list[Observation]]:
    intake = Intake(rig)
    with BagReader(path) as bag:
        return intake, list(observations(bag, intake))


def test_demo_bag_gives_a_complete_observation_per_frame(demo_bag):
    intake, seen = feed(demo_bag)
    assert [o.bundle.stamp_ns for o in seen] == [START_NS + i * FRAME_NS for i in range(6)]
    assert all(o.bundle.missing == () for o in seen)
    assert not intake.rejected
    skew_ns = dict(seen[3].bundle.skew_ns)
    assert -25_000_000 <= skew_ns.pop("events") <= 0
    assert set(skew_ns.values()) == {0}, "the sweep's offset is the rig's"
    camera, lidar = SIMULATED.transforms
    expected = (camera.inverse() @ lidar).matrix
    found = seen[3].calibration.transform_from("lidar").matrix
    np.testing.assert_allclose(found[:3, :3], expected[:3, :3], atol=2e-3)
    moved = lidar.rotation.T @ camera.rotation @ (found[:3, 3] - expected[:3, 3])
    np.testing.assert_allclose(moved, (-0.6, 0, 0), atol=0.02)  # 6 m/s for the 0.1 s between the stamps


def test_lidar_points_of_the_demo_lie_at_the_depth_of_the_demo(demo_bag):
    """Two sensors of one world: a projected point must agree with the depth image, the turn's duration included."""
    _, seen = feed(demo_bag)
    for one in seen[1:]:
        cloud, depth = one.bundle.measurements["lidar"], one.bundle.measurements["depth"].depth_m
        xyz = cloud.xyz + np.outer(cloud.offset_ns * 1e-9, (6.0, 0, 0))  # undo the ego motion within the turn
        pixels, z = CAMERA.project(one.calibration.transform_from("lidar").apply(xyz))
        with np.errstate(invalid="ignore"):
            inside = (np.abs(pixels - 319.5) < (318, 400)).all(axis=1) & (pixels[:, 1] > 1) & (pixels[:, 1] < 478)
        columns, rows = np.rint(pixels[inside]).astype(int).T
        assert inside.sum() > 1500
        near = z[inside] < 15.0
        assert np.nanmedian(np.abs(depth[rows, columns] - z[inside])[near]) < 0.15


def test_unusable_message_is_counted_by_topic_and_kind(demo_bag):
    problems: list[tuple[str, Exception]] = []
    intake = Intake(RIG, lambda where, error: problems.append((where, error)))
    topic = RIG.sensor("rgb").input_topic
    good = encode_compressed(BagMessages(), np.zeros((4, 4, 3), np.uint8), "png", 5, "cam")
    good.data = good.data[:20]
    assert intake.receive(topic, good, 0) == []
    assert intake.receive(topic, object(), 0) == []
    assert intake.rejected == {(topic, "DataError"): 2}
    assert [where for where, _ in problems] == [topic, topic]


def test_unknown_frame_is_named_in_the_observation(demo_bag):
    intake = Intake(RIG)
    with BagReader(demo_bag) as bag:
        seen = [
            o
            for message in bag.messages({r.topic for r in intake.inputs} - {"/tf_static"})
            for o in intake.receive(message.topic, bag.decode(message), message.log_ns)
        ]
    with pytest.raises(CalibrationError, match="no transform odom <- head_optical_frame"):
        seen[0].calibration.transform_from("lidar")


def test_moving_transforms_are_forgotten_after_a_jump_back():
    rig = RigConfig((SensorConfig("rgb", "rgb"),), "rgb", fixed_frame="map")
    intake, factory = Intake(rig), BagMessages()
    move = RigidTransform("map", "cam", np.eye(3), np.zeros(3))

    def at(seconds: float) -> list[Observation]:
        stamp_ns = round(seconds * 1e9)
        intake.receive("/tf", encode_transforms(factory, [move], stamp_ns), stamp_ns)
        image = encode_compressed(factory, np.zeros((4, 4, 3), np.uint8), "png", stamp_ns, "cam")
        return intake.receive("~/input/rgb", image, stamp_ns)

    assert [len(at(t)) for t in (100.0, 100.1)] == [1, 1]
    (first_after,) = at(1.0)
    assert intake.sync_stats.time_jumps["rgb"] == 1
    assert first_after.bundle.stamp_ns == 1_000_000_000
    assert first_after.calibration.problems == {}


def test_bundle_waits_for_the_transforms_of_its_stamps():
    """Odometry comes after the images that it belongs to."""
    rig = RigConfig((SensorConfig("rgb", "rgb"),), "rgb", max_wait_ms=100.0, fixed_frame="odom")
    factory, image = BagMessages(), np.zeros((4, 4, 3), np.uint8)
    move = RigidTransform("odom", "cam", np.eye(3), np.zeros(3))
    intake = Intake(rig)

    def see(stamp_ns: int, now_ns: int) -> list[Observation]:
        return intake.receive("~/input/rgb", encode_compressed(factory, image, "png", stamp_ns, "cam"), now_ns)

    def move_at(stamp_ns: int, now_ns: int) -> list[Observation]:
        return intake.receive("/tf", encode_transforms(factory, [move], stamp_ns), now_ns)

    ms = 1_000_000
    move_at(1000 * ms, 0)
    assert see(1010 * ms, 0) == []
    assert see(1015 * ms, 5 * ms) == []
    ready = move_at(1020 * ms, 20 * ms)
    assert [o.bundle.stamp_ns for o in ready] == [1010 * ms, 1015 * ms]
    assert all(not o.calibration.problems for o in ready)
    assert see(1110 * ms, 110 * ms) == []
    (given_up,) = intake.poll(210 * ms)
    assert "rgb" in given_up.calibration.problems
    (at_once,) = see(1111 * ms, 300 * ms)
    assert "rgb" in at_once.calibration.problems, "it was waited for in vain, and has not come since"
    move_at(1105 * ms, 301 * ms)
    assert see(1112 * ms, 302 * ms) == []
    assert len(intake.flush()) == 1


def test_overlay_shows_classes_and_says_untrained():
    image = np.full((60, 200, 3), 100, np.uint8)
    ids = np.zeros((60, 200), np.uint8)
    ids[40:] = 1
    colors = class_colors(2, ((0, 0, 0), (200, 0, 0)))
    trained = draw_overlay(image, SegmentationMap(ids, ("a", "b"), 1, "c", trained=True), colors, 0.5)
    assert trained[50, 100].tolist() == [150, 50, 50]
    assert trained[10, 100].tolist() == [50, 50, 50]
    untrained = draw_overlay(image, SegmentationMap(ids, ("a", "b"), 1, "c", trained=False), colors, 0.5)
    assert (untrained[:30] != trained[:30]).any()
    assert (image == 100).all()
    assert len({tuple(c) for c in class_colors(40).tolist()}) == 40


def test_points_outside_are_not_drawn():
    image = np.zeros((20, 20, 3), np.uint8)
    pixels = np.array([[np.nan, np.nan], [-5, 3], [10, 10]])
    drawn = draw_points(image, pixels, np.array([1.0, 1.0, 1.0]))
    assert drawn[10, 10].any()
    assert np.count_nonzero(drawn.any(axis=2)) < 12


@pytest.mark.parametrize("package", ["mm_perception.pipeline.perception", "mm_perception.pipeline.intake"])
def test_pipeline_imports_without_the_heavy_packages(package):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "rclpy", "tensorrt", "rosbags", "onnxruntime", "openvino", "onnx"}}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import {package}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
