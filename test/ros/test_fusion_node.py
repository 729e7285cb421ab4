"""The node as a process of its own, over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters

from mm_perception.bags.reader import BagReader
from mm_perception.codec.detections import MarkerWriter, encode_detections, encode_velocities
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_diagnostics,
    encode_events_evt3,
    encode_events_mono,
    encode_image,
    encode_label_info,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.rig import load_rig
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import Detections3D, EventPacket, PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.perception import build_perception
from mm_perception.replay.replay import replay_bag
from mm_perception.ros.messages import RclpyMessages, message_class
from mm_perception.ros.qos import output_qos
from mm_perception.sim.rig import simulated_rig
from mm_perception.sim.simulate import START_NS

pytestmark = pytest.mark.ros
CAMERA = simulated_rig(load_rig("demo")).cameras[0].model
FRAME_NS = 100_000_000
STAMPS = [START_NS + i * FRAME_NS for i in range(6)]
FACTORY = RclpyMessages()


def offline(bag: Path, card: Path, **settings: Any) -> dict[int, np.ndarray]:
    perception = build_perception(FusionSettings(model=str(card), engine="onnxruntime", max_wait_ms=5000.0, **settings))
    results = {}
    replay_bag(bag, perception, on_result=lambda _, r: results.update({r.segmentation.stamp_ns: r.segmentation}))
    return results


def test_live_and_offline_results_are_equal_pixel_by_pixel(start_session, demo_bag, small_card):
    session = start_session()
    raw: list[Any] = []
    image = message_class("sensor_msgs/msg/Image")
    session.node.create_subscription(image, "/fusion_node/output/segmentation", raw.append, output_qos(depth=50))
    session.wait_until(lambda: session.result.pipeline.get("segmentation.subscribers") == "2", 120, "the node")
    session.play(demo_bag)
    session.wait_until(lambda: len(raw) == len(STAMPS), 20, "the last output")
    expected = offline(demo_bag, small_card)
    result = session.result
    assert sorted(result.segmentations) == sorted(expected) == STAMPS
    for stamp_ns, segmentation in expected.items():
        np.testing.assert_array_equal(result.segmentations[stamp_ns], segmentation.class_ids)
    assert any(len(np.unique(ids)) > 1 for ids in result.segmentations.values())
    assert {(m.encoding, m.width, m.height, m.header.frame_id) for m in raw} == {
        ("mono8", CAMERA.width, CAMERA.height, CAMERA.frame_id)
    }
    assert sorted(result.overlays) == STAMPS
    assert result.overlays[STAMPS[0]].shape == (CAMERA.height, CAMERA.width, 3)
    assert result.classes == [*"abcdefghijklmnopqrs", "unlabeled"]
    assert int(result.pipeline["published"]) == len(STAMPS)
    assert session.stop() == 0


def test_bag_that_loops_is_segmented_again(start_session, demo_bag):
    session = start_session(overlays=False)
    session.play(demo_bag)
    assert int(session.result.pipeline["published"]) == len(STAMPS), session.report()
    session.play(demo_bag)
    # At the jump itself the topics change over one by one, which may cost the bundle in between.
    enough = 2 * len(STAMPS) - 1
    session.wait_until(lambda: int(session.result.pipeline["published"]) >= enough, 20, "the second round")


def test_sigterm_ends_the_node_cleanly(start_session):
    session = start_session()
    session.wait_until(lambda: bool(session.result.classes), 120, "the node")
    session._process.send_signal(signal.SIGTERM)
    assert session._process.wait(30) == 0, session.log_tail(100)
    assert "Traceback" not in session.log_tail(100)


def test_unusable_messages_are_counted_and_the_node_goes_on(start_session, demo_bag):
    session = start_session()
    pub_image = session.node.create_publisher(
        message_class("sensor_msgs/msg/CompressedImage"), "/sim/rgb/image_raw/compressed", output_qos()
    )
    pub_thermal = session.node.create_publisher(
        message_class("sensor_msgs/msg/CompressedImage"), "/sim/thermal/image_raw/compressed", output_qos()
    )
    matched = [pub_image.get_subscription_count, pub_thermal.get_subscription_count]
    session.wait_until(lambda: all(count() for count in matched), 120, "the node")
    picture = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    truncated = encode_compressed(FACTORY, picture, "jpeg", STAMPS[0], CAMERA.frame_id)
    truncated.data = truncated.data[: len(truncated.data) // 2]
    colour = encode_compressed(FACTORY, picture, "png", STAMPS[0], CAMERA.frame_id)
    pub_image.publish(truncated)
    pub_thermal.publish(colour)

    def rejected() -> set[str]:
        return {name for name, v in session.result.status.items() if v.get("rejected.DataError")}

    expected = {"fusion_node: sensor rgb", "fusion_node: sensor thermal"}
    session.wait_until(lambda: rejected() == expected, 20, "the counts")
    assert "jpeg truncated" in session.log_tail(100)
    session.play(demo_bag)
    assert sorted(session.result.segmentations) == STAMPS
    assert session.stop() == 0


def test_missing_x_measurement_is_a_counted_drop(start_session):
    session = start_session(overlays=False, max_wait_ms="50.0")
    pub = session.node.create_publisher(
        message_class("sensor_msgs/msg/CompressedImage"), "/sim/rgb/image_raw/compressed", output_qos()
    )
    session.wait_until(lambda: pub.get_subscription_count() > 0, 120, "the node")
    picture = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    pub.publish(encode_compressed(FACTORY, picture, "jpeg", STAMPS[0], CAMERA.frame_id))
    session.wait_until(lambda: session.result.pipeline.get("dropped.DataError") == "1", 20, "the count")
    assert session.result.segmentations == {}
    assert "thermal" in session.log_tail(100)


def test_all_configuration_problems_are_named_at_once(small_card):
    parameters = {"overlay_alpha": "2.0", "threads": "many", "engine": "abacus", "no_such_key": "1"}
    line = [sys.executable, "-m", "mm_perception.ros.fusion_node", "--ros-args", "-p", f"model:={small_card}"]
    for name, value in parameters.items():
        line += ["-p", f"{name}:={value}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=os.environ.copy())
    assert done.returncode == 2
    for name in parameters:
        assert name in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        ("rig", "no_such_rig", "known: "),
        ("model", "/no/such/card.yaml", "/no/such/card.yaml"),
        ("x_sensor", "lidar", "thermal"),
        ("sync_policy", "message_filters", "message_filters"),
    ],
)
def test_unusable_choice_ends_with_a_clear_error(small_card, parameter, value, expected):
    if parameter == "sync_policy":
        try:
            import message_filters  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("message_filters is installed")
    line = [sys.executable, "-m", "mm_perception.ros.fusion_node", "--ros-args", "-p", f"model:={small_card}"]
    line += ["-p", "engine:=onnxruntime", "-p", f"{parameter}:={value}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=os.environ.copy())
    assert done.returncode == 2
    assert expected in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_build_only_makes_the_engines_and_ends(small_card, tmp_path):
    line = [sys.executable, "-m", "mm_perception.ros.fusion_node", "--ros-args", "-p", f"model:={small_card}"]
    line += ["-p", "engine:=onnxruntime", "-p", "build_only:=true"]
    environment = os.environ | {"MM_PERCEPTION_CACHE": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "build_only: the engines are there" in done.stderr + done.stdout
    assert list((tmp_path / "onnx").glob("*.onnx"))


@pytest.mark.parametrize(
    ("engine", "names", "missing", "code"),
    [
        ("auto", "tensorrt", None, 0),
        ("auto", "tensorrt, openvino", None, 1),
        ("auto", "openvino", "no driver", 0),
        ("openvino", "openvino", None, 0),
    ],
)
def test_build_only_says_when_tensorrt_was_passed_over(monkeypatch, engine, names, missing, code):
    from types import SimpleNamespace

    from mm_perception.ros import fusion_node

    said: list[str] = []
    log = SimpleNamespace(error=said.append, info=said.append)
    node = SimpleNamespace(
        perception=SimpleNamespace(engine_name=names), settings=SimpleNamespace(engine=engine), get_logger=lambda: log
    )
    monkeypatch.setattr(fusion_node, "why_not", lambda name: missing)
    assert fusion_node.FusionNode.built(node) == code
    assert names in said[0] and ("passed over" in said[0]) == bool(code)


def test_tensorrt_by_name_without_a_gpu_ends_with_what_is_missing(small_card):
    from mm_perception.engines.load import why_not

    missing = why_not("tensorrt")
    if missing is None:
        pytest.skip("there is a GPU")
    line = [sys.executable, "-m", "mm_perception.ros.fusion_node", "--ros-args", "-p", f"model:={small_card}"]
    done = subprocess.run(
        [*line, "-p", "engine:=tensorrt"], capture_output=True, text=True, timeout=120, env=os.environ.copy()
    )
    assert done.returncode == 2 and missing in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_progress_of_the_start_is_told_on_diagnostics(monkeypatch, small_card):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter

    from mm_perception.pipeline.perception import build_perception
    from mm_perception.ros import fusion_node
    from mm_perception.ros.messages import message_class

    context = rclpy.Context()
    rclpy.init(context=context)
    listener = rclpy.create_node("listener", context=context)
    heard: list[tuple[int, str]] = []
    listener.create_subscription(
        message_class("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics",
        lambda msg: heard.extend((ord(s.level), s.message) for s in msg.status), 10,
    )  # fmt: skip
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)

    def build(settings, on_progress):
        # As a builder does: it tells again and again, until somebody has had the time to listen.
        deadline = time.monotonic() + 30
        while (1, "starting: Timing graph nodes: 40 %") not in heard and time.monotonic() < deadline:
            on_progress("Timing graph nodes: 40 %")
            executor.spin_once(timeout_sec=0.05)
        return build_perception(settings, on_progress)

    monkeypatch.setattr(fusion_node, "build_perception", build)
    node = fusion_node.FusionNode(
        context=context,
        parameter_overrides=[Parameter("model", value=str(small_card)), Parameter("engine", value="onnxruntime")],
    )
    try:
        node.trigger_configure()
        assert (1, "starting: Timing graph nodes: 40 %") in heard
    finally:
        node.shut_down()
        node.destroy_node()
        listener.destroy_node()
        rclpy.try_shutdown(context=context)


def test_every_parameter_is_described(start_session):
    session = start_session()
    session.wait_until(lambda: bool(session.result.classes), 120, "the node")

    def call(kind: Any, service: str, request: Any) -> Any:
        client = session.node.create_client(kind, f"/fusion_node/{service}")
        session.wait_until(client.service_is_ready, 20, service)
        future = client.call_async(request)
        session.wait_until(future.done, 20, service)
        return future.result()

    names = [
        name
        for name in call(ListParameters, "list_parameters", ListParameters.Request()).result.names
        if name in FusionSettings.__dataclass_fields__
    ]
    assert set(names) == set(FusionSettings.__dataclass_fields__)
    described = call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)).descriptors
    assert all(d.description for d in described)
    assert {d.name for d in described if not d.read_only} == {"overlay_alpha"}
    from rclpy.parameter import Parameter

    for value, accepted in ((0.25, True), (7.0, False)):
        request = SetParameters.Request(parameters=[Parameter("overlay_alpha", value=value).to_parameter_msg()])
        (outcome,) = call(SetParameters, "set_parameters", request).results
        assert outcome.successful is accepted
    got = call(GetParameters, "get_parameters", GetParameters.Request(names=["overlay_alpha"])).values
    assert got[0].double_value == pytest.approx(0.25)


def test_overlay_is_made_only_for_listeners(monkeypatch, small_card, demo_bag):
    import rclpy
    from rclpy.parameter import Parameter

    from mm_perception.ros import fusion_node, outputs

    drawn: list[int] = []
    monkeypatch.setattr(outputs, "draw_overlay", lambda image, *_: drawn.append(1) or image)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = fusion_node.FusionNode(
        context=context,
        parameter_overrides=[
            Parameter("model", value=str(small_card)),
            Parameter("engine", value="onnxruntime"),
            Parameter("max_wait_ms", value=5000.0),
        ],
    )
    try:
        node.trigger_configure()
        node.trigger_activate()
        run = node.run
        with BagReader(demo_bag) as bag:
            for message in bag.messages({route.topic for route in run.intake.inputs}):
                found = run.intake.receive(message.topic, bag.decode(message), message.log_ns)
                run._submit(found)
                deadline = time.monotonic() + 30
                while run._worker.snapshot()[0].get("published", 0) < 1 and found:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                if found:
                    break
        assert run._worker.snapshot()[0]["published"] == 1
        assert drawn == []
    finally:
        node.shut_down()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


XYZ = np.arange(12, dtype=np.float32).reshape(4, 3)
BOXES = Detections3D(
    XYZ, XYZ + 1, XYZ[:, 0], XYZ[:, :2], np.full(4, 0.5, np.float32), np.zeros(4, np.int32), ("car",), "base", STAMPS[0]
)
TURN = RigidTransform("base", "cam", np.eye(3), np.array([1.0, 2, 3]))
EVENTS = EventPacket(
    np.array([1, 2], np.uint16), np.array([3, 4], np.uint16), np.array([True, False]),
    np.array([STAMPS[0], STAMPS[0] + 5000]), 8, 8, STAMPS[0], "ev",
)  # fmt: skip
ENCODERS = {
    "image": lambda f: encode_image(f, np.ones((2, 3, 3), np.uint8), "rgb8", STAMPS[0], "cam"),
    "compressed": lambda f: encode_compressed(f, np.ones((2, 3, 3), np.uint8), "png", STAMPS[0], "cam"),
    "camera_info": lambda f: encode_camera_info(f, CAMERA, STAMPS[0]),
    "cloud": lambda f: encode_point_cloud(f, PointCloud(XYZ, STAMPS[0], "lidar", intensity=XYZ[:, 0].copy())),
    "transforms": lambda f: encode_transforms(f, [TURN], STAMPS[0]),
    "evt3": lambda f: encode_events_evt3(f, EVENTS, 7),
    "mono": lambda f: encode_events_mono(f, EVENTS, 7),
    "label_info": lambda f: encode_label_info(f, ["a", "b"], STAMPS[0], "cam"),
    "detections": lambda f: encode_detections(f, BOXES),
    "detections_with_covariance": lambda f: encode_detections(f, BOXES, [*"abcd"], {"car": (0.3, 0.1)}),
    "velocities": lambda f: encode_velocities(f, BOXES),
    "markers": lambda f: MarkerWriter(np.array([[0, 255, 0]], np.uint8)).encode(f, BOXES),
    "diagnostics": lambda f: encode_diagnostics(f, STAMPS[0], [("n", 2, "m", {"k": "v"})], "rig"),
}


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_messages_of_both_kinds_are_equal_on_the_wire(name):
    from rclpy.serialization import deserialize_message, serialize_message

    from mm_perception.bags.typestore import BagMessages, typestore

    bag_message = ENCODERS[name](BagMessages())
    type_name = bag_message.__msgtype__
    from_bag = bytes(typestore().serialize_cdr(bag_message, type_name))
    ros_message = ENCODERS[name](FACTORY)
    # Padding bytes are free, so the bag's bytes are compared after rclpy has read them.
    assert deserialize_message(from_bag, message_class(type_name)) == ros_message
    assert deserialize_message(serialize_message(ros_message), message_class(type_name)) == ros_message
