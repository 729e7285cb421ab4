"""Boxes from the node as a process of its own, over real DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mm_perception.codec.detections import MARKER_NAMESPACES
from mm_perception.core.resources import find_config
from mm_perception.core.rig import load_rig
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.perception import build_perception
from mm_perception.replay.replay import replay_bag
from mm_perception.ros.messages import message_class
from mm_perception.ros.player import header_stamp_ns
from mm_perception.ros.qos import output_qos
from mm_perception.sim.scenario import Ego, Scenario
from mm_perception.sim.simulate import START_NS, simulate

pytestmark = pytest.mark.ros
pytest.importorskip("torch", reason="torch is not installed")
STAMPS = [START_NS, START_NS + 100_000_000]


@pytest.fixture(scope="module")
def drive_bag(tmp_path_factory) -> Path:
    """Two frames of the whole simulated vehicle."""
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    simulate(Scenario(seed=1, traffic=0.5, ego=Ego(speed_mps=6.0)), load_rig("sim"), 0.2, path, workers=1)
    return path


@pytest.fixture(scope="module")
def random_detector(tmp_path_factory) -> Path:
    """Random weights, whose every box is reported."""
    card = yaml.safe_load(find_config("models", "deepinteraction-tiny-untrained").read_text())
    path = tmp_path_factory.mktemp("card") / "random.yaml"
    path.write_text(yaml.safe_dump(card | {"name": "random", "min_score": 0.0}))
    return path


@pytest.fixture
def blind_rig(tmp_path) -> Path:
    """The simulated vehicle, one camera of which never sends."""
    rig = yaml.safe_load(find_config("rigs", "sim").read_text())
    (camera,) = (sensor for sensor in rig["sensors"] if sensor["name"] == "cam_back")
    camera["topic"] = "/sim/cam_back/never"
    path = tmp_path / "blind.yaml"
    path.write_text(yaml.safe_dump(rig))
    return path


def offline(bag: Path, card: Path) -> dict[int, Detections3D]:
    settings = FusionSettings(
        rig="sim", model="none", detector=str(card), engine="torch", max_wait_ms=5000.0, output_frame="base_link"
    )
    results = {}
    perception = build_perception(settings)
    replay_bag(bag, perception, on_result=lambda o, r: results.update({o.bundle.stamp_ns: r.detection.detections}))
    perception.close()
    return results


def boxes(msg: Any) -> np.ndarray:
    """(N, 8) middle, size, turn about z and score."""
    rows = []
    for item in msg.detections:
        p, q, s = item.bbox.center.position, item.bbox.center.orientation, item.bbox.size
        rows.append([p.x, p.y, p.z, s.x, s.y, s.z, 2 * np.arctan2(q.z, q.w), item.results[0].hypothesis.score])
    return np.array(rows).reshape(-1, 8)


def test_live_and_offline_boxes_are_equal_and_everything_is_published(start_session, drive_bag, random_detector):
    session = start_session(
        rig="sim", model="none", detector=str(random_detector), engine="torch", output_frame="base_link"
    )
    markers, velocities = [], []
    listen = session.node.create_subscription
    base = "/fusion_node/output"
    listen(
        message_class("visualization_msgs/msg/MarkerArray"), f"{base}/detection_markers", markers.append, output_qos()
    )
    listen(
        message_class("sensor_msgs/msg/PointCloud2"), f"{base}/detection_velocities", velocities.append, output_qos()
    )
    names = ("detection_markers.subscribers", "detection_velocities.subscribers")
    session.wait_until(lambda: all(session.result.pipeline.get(name) == "1" for name in names), 120, "the node")
    session.play(drive_bag)
    session.wait_until(lambda: len(markers) == len(velocities) == len(STAMPS), 20, "markers and velocities")
    expected = offline(drive_bag, random_detector)
    found = session.result.detections
    assert sorted(found) == sorted(expected) == STAMPS
    for stamp_ns, detections in expected.items():
        got = boxes(found[stamp_ns])
        assert found[stamp_ns].header.frame_id == "base_link" and len(got) == len(detections) > 0
        np.testing.assert_allclose(got[:, :3], detections.centers, atol=1e-5)
        np.testing.assert_allclose(got[:, 3:6], detections.sizes_lwh, atol=1e-5)
        np.testing.assert_allclose(np.cos(got[:, 6] - detections.yaw_rad), 1.0, atol=1e-6)
        np.testing.assert_allclose(got[:, 7], detections.scores, atol=1e-6)
    by_stamp = {header_stamp_ns(cloud): cloud.width for cloud in velocities}
    assert by_stamp == {stamp_ns: len(detections) for stamp_ns, detections in expected.items()}
    assert {m.ns for array in markers for m in array.markers} <= set(MARKER_NAMESPACES)
    assert sorted(session.result.overlays) == STAMPS
    assert session.result.overlays[STAMPS[0]].shape == (512, 3 * 448 + 512, 3)
    assert session.result.segmentations == {}, "segmentation was switched off"
    assert session.result.pipeline["detector"] == "random"
    assert not [key for key in session.result.pipeline if key.startswith("degraded.")]
    assert session.stop() == 0


def test_a_silent_camera_shows_in_diagnostics(start_session, drive_bag, random_detector, blind_rig):
    session = start_session(
        rig=str(blind_rig), model="none", detector=str(random_detector), engine="torch", max_wait_ms="1000.0"
    )
    session.play(drive_bag)
    assert sorted(session.result.detections) == STAMPS, session.report()
    session.wait_until(lambda: session.result.pipeline.get("degraded.cam_back.missing") == "2", 20, "the count")
    assert "cam_back.missing" in session.result.pipeline["message"]


def test_detector_without_a_lidar_ends_with_a_clear_error(start_session, random_detector):
    session = start_session(rig="rgbt", model="none", detector=str(random_detector), engine="torch")
    assert session._process.wait(120) == 2
    assert "needs a LiDAR" in session.log_tail()


def test_markers_go_away_when_there_are_no_newer_boxes():
    import rclpy

    from mm_perception.engines.detector_card import find_detector_card
    from mm_perception.pipeline.detection import DetectionOutcome
    from mm_perception.pipeline.lidar_view import DetectorTaps
    from mm_perception.ros.messages import RclpyMessages
    from mm_perception.ros.outputs import DetectionOutputs

    card = find_detector_card("deepinteraction-tiny-untrained")
    boxes_of_one = Detections3D(
        np.ones((1, 3), np.float32), np.ones((1, 3), np.float32), np.zeros(1, np.float32), np.ones((1, 2), np.float32),
        np.ones(1, np.float32), np.zeros(1, np.int32), card.classes, "base_link", STAMPS[0],
    )  # fmt: skip
    here = RigidTransform.identity("base_link")
    outcome = DetectionOutcome(boxes_of_one, {}, {}, {}, np.zeros((0, 5), np.float32), here)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("outputs", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        outputs = DetectionOutputs(node, RclpyMessages(), card, DetectorTaps("lidar", ("cam",), 1))
        heard: list[Any] = []
        array = message_class("visualization_msgs/msg/MarkerArray")
        node.create_subscription(array, "/outputs/output/detection_markers", heard.append, output_qos())
        for act in (lambda: outputs.illustrate(outcome), lambda: outputs.clear(STAMPS[1])):
            before = len(heard)
            while not outputs._markers.get_subscription_count():
                executor.spin_once(timeout_sec=0.05)
            act()
            for _ in range(400):
                if len(heard) > before:
                    break
                executor.spin_once(timeout_sec=0.05)
        shown, gone = ({(m.ns, m.id, m.action) for m in message.markers} for message in heard)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert shown == {(namespace, 0, 0) for namespace in MARKER_NAMESPACES}
    assert gone == {(namespace, 0, 2) for namespace in MARKER_NAMESPACES}
