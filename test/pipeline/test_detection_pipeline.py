"""From messages to boxes: what each lack costs, and that it is named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_columns,
    encode_compressed,
    encode_odometry,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.detector import VARIANTS
from mm_perception.core.errors import CalibrationError, ConfigError, DataError, EngineError
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.types import Detections3D, PointCloud, SegmentationMap
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.geometry.boxes import box_corners, transformed_boxes
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.latency import StageClock
from mm_perception.pipeline.box_overlay import detection_colors
from mm_perception.pipeline.detection import DetectionOutcome, DetectionPipeline, detector_taps
from mm_perception.pipeline.detection_overlay import draw_mosaic
from mm_perception.pipeline.detection_view import camera_view
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.pipeline.lidar_view import LidarTap
from mm_perception.pipeline.perception import Perception
from mm_perception.sim.rig import simulated_rig

torch = pytest.importorskip("torch", reason="torch is not installed")

RIG = load_rig("sim")
SIMULATED = simulated_rig(RIG)
BY_NAME = {camera.sensor.name: camera for camera in SIMULATED.cameras}
LIDAR = SIMULATED.lidars[0]
BAG = BagMessages()
T, TURN_NS = 10_000_000_000, 100_000_000
MOMENTS = range(T - 4 * TURN_NS, T + TURN_NS, TURN_NS // 4)
"""At which the vehicle's motion is told."""
SPEED_MPS = 10.0
WALL = np.stack([np.full(80, 20.0), np.linspace(-15, 15, 80), np.linspace(-1, 2, 80)], axis=1)
"""In odom, before the vehicle."""


@pytest.fixture(scope="module")
def pipeline_of(micro):
    """A function from a rig to the pipeline of a very small network with random weights."""
    from mm_perception.engines.torch_engine import TorchEngine

    card = DetectorCard(
        name="micro", variant="micro", classes=("car", "pedestrian"), channel_order="rgb", trained=False,
        weights="random:3", min_score=0.0,
    )  # fmt: skip
    engine = TorchEngine.from_card(card, threads=1)

    def make(rig: RigConfig = RIG, output_frame: str = "", on_device: bool | None = None) -> DetectionPipeline:
        return DetectionPipeline(card, engine, detector_taps(card, rig, output_frame), on_device)

    yield make
    engine.close()


def odom_from_base(t_ns: int) -> RigidTransform:
    return RigidTransform("odom", "base_link", np.eye(3), np.array([SPEED_MPS * (t_ns - T) * 1e-9, 0.0, 0.0]))


@cache
def picture(name: str) -> Any:
    """A message with a coarse random pattern."""
    model = BY_NAME[name].model
    cells = np.random.default_rng(len(name)).integers(0, 255, (model.height // 16, model.width // 16, 3), np.uint8)
    return encode_compressed(BAG, cells.repeat(16, axis=0).repeat(16, axis=1), "png", T, model.frame_id)


@cache
def turn_of_wall(start_ns: int) -> PointCloud:
    """The wall as the moving LiDAR sees it, each point at its own time."""
    offset = np.linspace(0, TURN_NS - 1, len(WALL)).astype(np.int64)
    xyz = np.empty_like(WALL)
    for i, o in enumerate(offset):
        lidar_from_odom = (odom_from_base(start_ns + int(o)) @ LIDAR.base_from_lidar).inverse()
        xyz[i] = lidar_from_odom.apply(WALL[i : i + 1])[0]
    return PointCloud(xyz.astype(np.float32), start_ns, "lidar", np.full(len(WALL), 9.0, np.float32), None, offset)


@dataclass
class Scene:
    """What is sent; tests change it."""

    rig: RigConfig = RIG
    images: dict[str, Any] = field(default_factory=lambda: {name: picture(name) for name in BY_NAME})
    infos: dict[str, CameraModel] = field(default_factory=lambda: {name: c.model for name, c in BY_NAME.items()})
    clouds: list[Any] = field(
        default_factory=lambda: [encode_point_cloud(BAG, turn_of_wall(T - k * TURN_NS)) for k in (3, 2, 1)]
    )
    with_motion: bool = True
    odometry: bool = False
    extra_static: tuple[RigidTransform, ...] = ()
    without_static: tuple[str, ...] = ()

    def intake(self, pipeline: DetectionPipeline) -> Intake:
        intake = Intake(self.rig, taps=pipeline.taps)
        static = [LIDAR.base_from_lidar, *(c.base_from_camera for c in BY_NAME.values()), *self.extra_static]
        static = [one for one in static if one.src not in self.without_static]
        intake.receive("/tf_static", encode_transforms(BAG, static, 0), 0)
        for t_ns in MOMENTS if self.with_motion else ():
            if self.odometry:
                intake.receive("/odom", encode_odometry(BAG, odom_from_base(t_ns), SPEED_MPS, 0.0, t_ns), 0)
            else:
                intake.receive("/tf", encode_transforms(BAG, [odom_from_base(t_ns)], t_ns), 0)
        return intake

    def send(self, intake: Intake) -> None:
        """Everything but transforms."""
        for name, camera in self.infos.items():
            intake.receive(f"/sim/{name}/camera_info", encode_camera_info(BAG, camera, T), 0)
        for cloud in self.clouds:
            intake.receive("/sim/lidar/points", cloud, 0)
        for name, message in self.images.items():
            intake.receive(f"/sim/{name}/image_raw/compressed", message, 0)

    def observe(self, pipeline: DetectionPipeline) -> tuple[Observation, Intake]:
        intake = self.intake(pipeline)
        self.send(intake)
        (observation,) = intake.flush()
        return observation, intake

    def outcome(self, pipeline: DetectionPipeline) -> DetectionOutcome:
        return pipeline.step(self.observe(pipeline)[0], StageClock())


def assert_is_valid(outcome: DetectionOutcome) -> None:
    found = outcome.detections
    assert found.stamp_ns == T and len(found) <= VARIANTS["micro"].queries
    assert np.isfinite(found.centers).all() and np.isfinite(found.yaw_rad).all()


def test_whole_input_is_not_degraded_and_gives_the_same_boxes_again(pipeline_of):
    pipeline = pipeline_of()
    first, second = Scene().outcome(pipeline), Scene().outcome(pipeline)
    assert first.degraded == {} and not first.trained
    assert_is_valid(first)
    assert len(first.detections) > 0, "a test of nothing"
    assert first.detections.frame_id == "lidar"
    np.testing.assert_array_equal(first.detections.centers, second.detections.centers)
    assert set(first.pictures) == set(RIG.detector_cameras)


def test_turns_of_a_moving_vehicle_lie_on_one_wall(pipeline_of):
    points = Scene().outcome(pipeline_of(output_frame="base_link")).points
    assert len(points) == 3 * len(WALL)
    np.testing.assert_allclose(points[:, 0], WALL[0, 0], atol=2e-3)
    assert len(Scene(with_motion=False).outcome(pipeline_of()).points) == len(WALL), "the newest alone"


def test_odometry_takes_the_place_of_tf(pipeline_of):
    rig = replace(RIG, odometry="/odom")
    from_tf, from_odometry = Scene(), Scene(rig=rig, odometry=True)
    a, b = from_tf.outcome(pipeline_of()), from_odometry.outcome(pipeline_of(rig))
    assert b.degraded == {}
    np.testing.assert_array_equal(a.points, b.points)


def test_boxes_come_in_the_output_frame(pipeline_of):
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pivot = RigidTransform("base_link", "pivot", turned, np.array([1.0, 2.0, 3.0]))
    scene = Scene(extra_static=(pivot,))
    here, there = scene.outcome(pipeline_of()), scene.outcome(pipeline_of(output_frame="pivot"))
    assert there.detections.frame_id == "pivot"
    pivot_from_lidar = pivot.inverse() @ LIDAR.base_from_lidar
    np.testing.assert_allclose(there.detections.centers, pivot_from_lidar.apply(here.detections.centers), atol=1e-5)
    np.testing.assert_allclose(there.points, pivot_from_lidar.apply(here.points), atol=1e-5)
    for name, picture in there.pictures.items():
        before = here.pictures[name].image_from_output @ pivot_from_lidar.inverse().matrix
        np.testing.assert_allclose(picture.image_from_output, before, atol=1e-6)


def test_unknown_output_frame_is_a_clear_error(pipeline_of):
    with pytest.raises(CalibrationError, match=r"output frame.*nowhere"):
        Scene().outcome(pipeline_of(output_frame="nowhere"))


def empty_cloud() -> Any:
    return encode_point_cloud(BAG, PointCloud(np.zeros((0, 3), np.float32), T - TURN_NS, "lidar"))


def cloud_of_nan() -> Any:
    columns = {axis: ("f4", np.full(50, np.nan, np.float32)) for axis in "xyz"}
    return encode_columns(BAG, columns, T - TURN_NS, "lidar")


@pytest.mark.parametrize("cloud", [empty_cloud, cloud_of_nan])
def test_a_cloud_without_points_is_flagged(pipeline_of, cloud):
    outcome = Scene(clouds=[cloud()]).outcome(pipeline_of())
    assert set(outcome.degraded) == {"lidar.empty"}
    assert_is_valid(outcome)


def test_no_turn_at_all_is_an_error_and_an_old_one_is_flagged(pipeline_of):
    pipeline = pipeline_of()
    with pytest.raises(DataError, match="no turn"):
        Scene(clouds=[]).outcome(pipeline)
    old = Scene(clouds=[encode_point_cloud(BAG, turn_of_wall(T - 3 * TURN_NS))]).outcome(pipeline)
    assert set(old.degraded) == {"lidar.missing"} and len(old.points) == len(WALL)
    too_old = Scene(clouds=[encode_point_cloud(BAG, turn_of_wall(T - 30 * TURN_NS))]).outcome(pipeline)
    assert set(too_old.degraded) == {"lidar.missing", "lidar.empty", "lidar.turns"}


def test_black_and_missing_cameras_are_flagged_and_others_are_used(pipeline_of):
    scene = Scene()
    black = np.zeros((256, 448, 3), np.uint8)
    scene.images["cam_back"] = encode_compressed(BAG, black, "png", T, BY_NAME["cam_back"].model.frame_id)
    del scene.images["cam_front_left"]
    outcome = scene.outcome(pipeline_of())
    assert set(outcome.degraded) == {"cam_back.blank", "cam_front_left.missing"}
    assert set(outcome.pictures) == set(RIG.detector_cameras) - {"cam_back", "cam_front_left"}
    assert_is_valid(outcome)
    mosaic = draw_mosaic(
        outcome, RIG.detector_cameras, detection_colors(("car", "pedestrian")), VARIANTS["micro"].reach_m
    )
    assert mosaic.shape == (512, 3 * 448 + 512, 3)


def test_no_camera_at_all_still_gives_an_answer(pipeline_of):
    scene = Scene()
    scene.images = {"rgb": scene.images["rgb"]}
    outcome = scene.outcome(pipeline_of())
    assert set(outcome.degraded) == {f"{name}.missing" for name in RIG.detector_cameras}
    assert_is_valid(outcome)
    assert draw_mosaic(outcome, RIG.detector_cameras, detection_colors(("car", "pedestrian")), 50.0).shape[2] == 3


def test_calibration_that_is_missing_wrong_or_singular_costs_that_camera(pipeline_of):
    scene = Scene(without_static=("cam_back_right_optical_frame",))
    del scene.infos["cam_back"]
    small = scene.infos["cam_front"]
    scene.infos["cam_front"] = replace(small, width=small.width // 2)
    pipeline = pipeline_of()
    observation, intake = scene.observe(pipeline)
    singular = encode_camera_info(BAG, BY_NAME["cam_back_left"].model, T)
    singular.k[0] = 0.0
    blind = scene.intake(pipeline)
    blind.receive("/sim/cam_back_left/camera_info", singular, 0)
    assert blind.rejected["/sim/cam_back_left/camera_info", "CalibrationError"] == 1
    outcome = pipeline.step(observation, StageClock())
    lacking = {"cam_back", "cam_front", "cam_back_right"}
    assert set(outcome.degraded) == {f"{name}.calibration" for name in lacking}
    assert "no CameraInfo" in outcome.degraded["cam_back.calibration"]
    assert "calibrated for 224x256" in outcome.degraded["cam_front.calibration"]
    assert "no transform" in outcome.degraded["cam_back_right.calibration"]
    assert set(outcome.pictures) == set(RIG.detector_cameras) - lacking
    assert not intake.rejected


def test_unknown_motion_is_flagged(pipeline_of):
    outcome = Scene(with_motion=False).outcome(pipeline_of())
    assert set(outcome.degraded) == {"motion.unknown", "lidar.turns"}
    assert set(outcome.pictures) == set(RIG.detector_cameras), "cameras by their mounts"


def test_more_points_than_capacity_are_counted(pipeline_of):
    xyz = np.random.default_rng(0).uniform(-50, 50, (20_000, 3)).astype(np.float32)
    xyz[:, 2] /= 40
    outcome = Scene(clouds=[encode_point_cloud(BAG, PointCloud(xyz, T - TURN_NS, "lidar"))]).outcome(pipeline_of())
    assert set(outcome.degraded) == {"capacity.over_pillars", "capacity.over_cells"}
    assert outcome.lost["over_pillars"] > 15_000
    assert_is_valid(outcome)


def test_everything_behind_the_car_is_an_ordinary_scene(pipeline_of):
    ahead = turn_of_wall(T - TURN_NS)
    behind = replace(ahead, xyz=ahead.xyz * np.array([-1, 1, 1], np.float32))
    outcome = Scene(clouds=[encode_point_cloud(BAG, behind)]).outcome(pipeline_of())
    assert outcome.degraded == {}
    assert_is_valid(outcome)


class OneClass:
    """A segmentation that always works."""

    card = None
    x_sensor = "rgb"

    def prepare(self, observation: Observation, clock: StageClock) -> Any:
        return "prepared"

    def finish(self, prepared: Any, clock: StageClock) -> SegmentationMap:
        assert prepared == "prepared"
        return SegmentationMap(np.zeros((4, 4), np.uint8), ("a",), T, "cam")


class Unprepared(OneClass):
    def prepare(self, observation: Observation, clock: StageClock) -> Any:
        raise DataError("no thermal image")


class Unfinished(OneClass):
    def finish(self, prepared: Any, clock: StageClock) -> SegmentationMap:
        raise EngineError("no answer")


def test_one_task_that_fails_leaves_the_others_result(pipeline_of):
    pipeline = pipeline_of()
    observation, _ = Scene(clouds=[]).observe(pipeline)
    result = Perception(RIG, OneClass(), pipeline).step(observation)  # type: ignore[arg-type]
    assert result.segmentation is not None and result.detection is None
    assert isinstance(result.failures["detection"], DataError)
    with pytest.raises(DataError, match="no thermal"):
        Perception(RIG, Unprepared(), pipeline).prepare(observation)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="no answer"):  # the first task's, though the other failed before it
        Perception(RIG, Unfinished(), pipeline).step(observation)  # type: ignore[arg-type]
    whole, _ = Scene().observe(pipeline)
    for failing, kind in ((Unprepared(), DataError), (Unfinished(), EngineError)):
        other = Perception(RIG, failing, pipeline).step(whole)  # type: ignore[arg-type]
        assert other.segmentation is None and other.detection is not None
        assert {task: type(error) for task, error in other.failures.items()} == {"segmentation": kind}


@pytest.mark.parametrize("fault", ["labels", "download", "network"])
def test_a_detector_that_goes_wrong_leaves_the_segmentations_result(pipeline_of, fault, monkeypatch):
    def lost(*_: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    pipeline = pipeline_of(on_device=True)
    run = pipeline.engine.run_on_device
    answers = {
        "labels": lambda tensors: (found := run(tensors)) | {"labels": found["labels"] + 2**31},
        "download": run,
        "network": lost,
    }
    monkeypatch.setattr(pipeline.engine, "run_on_device", answers[fault])
    if fault == "download":
        monkeypatch.setattr("mm_perception.gpu.transfer.download", lost)
    observation, _ = Scene().observe(pipeline)
    result = Perception(RIG, OneClass(), pipeline).step(observation)  # type: ignore[arg-type]
    assert result.segmentation is not None and result.detection is None
    error = result.failures["detection"]
    assert isinstance(error, EngineError) and ("expected 0 to 1" if fault == "labels" else "illegal memory") in str(
        error
    )


def test_step_is_prepare_and_finish_and_measures_the_stages_of_both(pipeline_of):
    perception = Perception(RIG, detection=pipeline_of())
    observation, _ = Scene().observe(perception.detection)
    whole = perception.step(observation)
    prepared = perception.prepare(observation)
    assert list(prepared.clock.stage_ms) == ["detection.preprocess"]
    parts = perception.finish(prepared)
    assert list(parts.stage_ms) == list(whole.stage_ms)
    assert list(parts.stage_ms) == ["detection.preprocess", "detection.inference", "detection.postprocess"]
    np.testing.assert_array_equal(parts.detection.detections.centers, whole.detection.detections.centers)


@pytest.mark.parametrize("change", ["whole", "no cameras", "no points", "crowd"])
def test_inputs_made_on_the_device_give_the_same_boxes(pipeline_of, change):
    scene = Scene()
    if change == "no cameras":
        scene.images = {"rgb": scene.images["rgb"]}
    elif change == "no points":
        scene.clouds = [empty_cloud()]
    elif change == "crowd":
        xyz = np.random.default_rng(0).uniform((-50, -50, -2), (50, 50, 1), (20_000, 3)).astype(np.float32)
        scene.clouds = [encode_point_cloud(BAG, PointCloud(xyz, T - TURN_NS, "lidar"))]
    observation, _ = scene.observe(pipeline_of())
    host, there = (pipeline_of(on_device=way).step(observation, StageClock()) for way in (False, True))
    assert there.degraded == host.degraded and there.lost == host.lost
    assert set(there.pictures) == set(host.pictures)
    assert len(host.detections) > 0, "a test of nothing"
    np.testing.assert_array_equal(there.detections.labels, host.detections.labels)
    for values in ("centers", "sizes_lwh", "yaw_rad", "velocity", "scores"):
        np.testing.assert_allclose(
            getattr(there.detections, values), getattr(host.detections, values), atol=1e-4, err_msg=values
        )


def test_only_engines_beside_the_cpu_overlap(pipeline_of, monkeypatch):
    perception = Perception(RIG, detection=pipeline_of())
    assert not perception.overlaps
    monkeypatch.setattr(perception.detection.engine, "device", "cuda")
    assert perception.overlaps


def test_detector_and_rig_that_do_not_fit_are_told_apart(pipeline_of):
    card = pipeline_of().card
    with pytest.raises(ConfigError, match="needs a LiDAR"):
        detector_taps(card, load_rig("rgb"))
    with pytest.raises(ConfigError, match="7 cameras"):
        detector_taps(card, replace(RIG, detector_cameras=()))
    with pytest.raises(ConfigError, match="voxels"):
        detector_taps(replace(card, variant="full-voxels"), RIG)
    with pytest.raises(ConfigError, match="kind rgb"):
        replace(RIG, detector_cameras=("lidar",))
    with pytest.raises(ConfigError, match="neither"):
        Perception(RIG)


def test_distortion_is_taken_out_of_the_picture():
    from mm_perception.pipeline.detection_view import _Straightener

    k = np.array([[300.0, 0, 223.5], [0, 300.0, 127.5], [0, 0, 1]])
    lens = CameraModel(448, 256, k, np.array([-0.25, 0.05, 0.0, 0.0, 0.0]), "plumb_bob", "cam")
    point = np.array([[1.2, 0.5, 3.0]])
    (u, v), _ = lens.project(point)[0][0], None
    image = np.zeros((256, 448, 3), np.uint8)
    image[round(v) - 2 : round(v) + 3, round(u) - 2 : round(u) + 3] = 255
    straightener = _Straightener(lens)
    straight = straightener(image)
    expected = straightener.straight.project(point)[0][0]
    rows, columns = np.nonzero(straight[..., 0] > 128)
    assert abs(columns.mean() - expected[0]) < 1.0 and abs(rows.mean() - expected[1]) < 1.0
    assert np.hypot(expected[0] - u, expected[1] - v) > 5, "the lens must matter"
    with pytest.raises(CalibrationError, match="calibrated for"):
        straightener(image[:100])


def test_pictures_of_other_sizes_keep_their_aspect():
    k = np.array([[1266.0, 0, 816.0], [0, 1266.0, 491.0], [0, 0, 1]])
    camera = CameraModel(1600, 900, k, np.zeros(0), "", "cam")
    view = camera_view(np.zeros((900, 1600, 3), np.uint8), camera, (256, 448))
    assert view.image.shape == (256, 448, 3)
    point = np.array([[2.0, 1.0, 10.0]])
    u, v = camera.project(point)[0][0]
    scaled = view.camera.project(point)[0][0]
    np.testing.assert_allclose(scaled, [(u + 0.5) * 0.28 - 0.5, (v + 0.5) * 0.28 - 0.5 + 2], atol=1e-6)


def test_boxes_turn_with_their_frame():
    quarter = RigidTransform("map", "base", np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    boxes = Detections3D(
        np.array([[4.0, 0, 0]], np.float32), np.array([[4.0, 2, 1.5]], np.float32), np.zeros(1, np.float32),
        np.array([[3.0, 0]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), ("car",), "base", T,
    )  # fmt: skip
    moved = transformed_boxes(boxes, quarter)
    np.testing.assert_allclose(moved.centers, [[1, 6, 3]], atol=1e-6)
    np.testing.assert_allclose(moved.velocity, [[0, 3]], atol=1e-6)
    assert moved.frame_id == "map" and moved.yaw_rad[0] == pytest.approx(np.pi / 2)
    corners = quarter.apply(box_corners(boxes.centers, boxes.sizes_lwh, boxes.yaw_rad)[0])
    np.testing.assert_allclose(box_corners(moved.centers, moved.sizes_lwh, moved.yaw_rad)[0], corners, atol=1e-5)


def test_turns_in_any_order_and_many_younger_ones_change_nothing(pipeline_of):
    pipeline = pipeline_of()
    expected = Scene().outcome(pipeline)
    turns = {k: encode_point_cloud(BAG, turn_of_wall(T - k * TURN_NS)) for k in (3, 2, 1)}
    shuffled = Scene(clouds=[turns[3], turns[1], turns[2], turns[1]]).outcome(pipeline)
    np.testing.assert_array_equal(shuffled.points, expected.points)
    assert shuffled.degraded == {}
    younger = [encode_point_cloud(BAG, turn_of_wall(T + k * TURN_NS // 20)) for k in range(1, 20)]
    late = Scene(clouds=[*turns.values(), *younger]).outcome(pipeline)
    np.testing.assert_array_equal(late.points, expected.points)


def view_at_t(pipeline, tap):
    """The tap's view at T, with the vehicle's motion known."""
    observation, _ = Scene().observe(pipeline)
    tree = TransformTree()
    tree.set_static(LIDAR.base_from_lidar)
    for t_ns in MOMENTS:
        tree.add(odom_from_base(t_ns), t_ns)
    return tap.view(observation.bundle, tree)


def test_turns_of_a_time_before_a_jump_back_are_forgotten(pipeline_of):
    pipeline = pipeline_of()
    tap = LidarTap(RIG, pipeline.taps)
    for start_ns in (T + 10 * TURN_NS, T + 11 * TURN_NS, T - 2 * TURN_NS, T - TURN_NS):
        tap.add(turn_of_wall(start_ns))
    view = view_at_t(pipeline, tap)
    assert view is not None and [turn.cloud.stamp_ns for turn in view.turns] == [T - 2 * TURN_NS, T - TURN_NS]
    assert view.turns_left_out == 0, "no third turn has come since"


def test_turns_that_came_while_a_bundle_waited_are_none_that_it_lacks(pipeline_of):
    pipeline = pipeline_of()
    tap = LidarTap(RIG, pipeline.taps)
    for start_ns in (T - TURN_NS, T + TURN_NS, T + 2 * TURN_NS):
        tap.add(turn_of_wall(start_ns))
    view = view_at_t(pipeline, tap)
    assert view is not None and [turn.cloud.stamp_ns for turn in view.turns] == [T - TURN_NS]
    assert view.turns_left_out == 0


def test_a_set_that_waits_is_looked_at_again_only_when_transforms_came(pipeline_of, monkeypatch):
    pipeline = pipeline_of()
    scene = Scene(with_motion=False)
    intake = scene.intake(pipeline)
    looked: list[int] = []
    view = LidarTap.view
    monkeypatch.setattr(LidarTap, "view", lambda *a: looked.append(1) or view(*a))
    scene.send(intake)
    wait_ns = round(RIG.max_wait_ms * 1e6)
    assert intake.poll(wait_ns) == [], "the set is ready and waits for its transforms"
    before = len(looked)
    for k in range(5):
        assert intake.poll(wait_ns + k) == []
    assert len(looked) == before
    found = [o for t in MOMENTS for o in intake.receive("/tf", encode_transforms(BAG, [odom_from_base(t)], t), wait_ns)]
    assert len(found) == 1 and found[0].is_complete
    same = found[0].calibration.cameras["cam_back"]
    intake.receive("/sim/cam_back/camera_info", encode_camera_info(BAG, scene.infos["cam_back"], T + 1), 0)
    assert intake._cameras["cam_back"] is same, "an equal CameraInfo is the same camera"


def test_boxes_are_not_put_into_a_steep_or_distant_frame(pipeline_of):
    optical = "cam_front_optical_frame"
    with pytest.raises(CalibrationError, match="z axis to point upwards"):
        Scene().outcome(pipeline_of(output_frame=optical))
    far = RigidTransform("utm", "odom", np.eye(3), np.array([4.5e5, 5.4e6, 0.0]))
    with pytest.raises(CalibrationError, match="100 km"):
        Scene(extra_static=(far,)).outcome(pipeline_of(output_frame="utm"))
