"""`mm-perception play`: a bag over DDS, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mm_perception.bags.writer import BagWriter
from mm_perception.cli.main import main
from mm_perception.codec.encode import encode_label_info, encode_transforms
from mm_perception.core.rig import load_rig
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.ros.listener import Listener
from mm_perception.ros.messages import message_class
from mm_perception.ros.node_process import NodeProcess
from mm_perception.ros.player import header_stamp_ns
from mm_perception.ros.qos import output_qos

pytestmark = pytest.mark.ros
T0, STEP_NS, COUNT = 1_700_000_000_000_000_000, 20_000_000, 25


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Half a second of label infos, and three static transforms, by three publishers."""
    path = tmp_path / "drive.mcap"
    with BagWriter(path) as writer:
        for i in range(3):
            transform = RigidTransform.identity(f"sensor{i}")
            moved = RigidTransform("base_link", f"sensor{i}", transform.rotation, transform.translation)
            writer.write("/tf_static", encode_transforms(writer.factory, [moved], T0), T0 + i, latched=True)
        for i in range(COUNT):
            stamp_ns = T0 + i * STEP_NS
            writer.write("/names", encode_label_info(writer.factory, [f"class {i}"], stamp_ns, "cam"), stamp_ns)
    return path


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(150 + os.getpid() % 80))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    one = Listener("hearer")
    yield one
    one.close()


def heard(listener: Listener, topic: str, type_name: str, latched: bool = False) -> list[Any]:
    found: list[Any] = []
    listener.node.create_subscription(message_class(type_name), topic, found.append, output_qos(latched, 100))
    return found


def start(*arguments: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "mm_perception.cli.main", "play", *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def spin(listener: Listener, process: subprocess.Popen[str], until: Any = lambda: False, limit_s: float = 60.0) -> str:
    """Spins until the process ends, or something is true; returns what it said if it ended."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and not until():
        listener.executor.spin_once(timeout_sec=0.05)
        assert time.monotonic() < deadline
    for _ in range(10):
        listener.executor.spin_once(timeout_sec=0.02)
    return process.communicate()[0] if process.poll() is not None else ""


def test_all_is_played_as_it_was_recorded(listener, bag):
    names = heard(listener, "/renamed", "vision_msgs/msg/LabelInfo")
    clock = heard(listener, "/clock", "rosgraph_msgs/msg/Clock")
    start_s = time.monotonic()
    process = start(
        bag, "--rate", "0.5", "--clock", "50", "--remap", "/names:=/renamed", "--wait-for", "/renamed", "hearer"
    )
    said = spin(listener, process)
    assert process.returncode == 0, said
    assert "played 28 messages of 2 topics" in said
    assert [header_stamp_ns(one) for one in names] == [T0 + i * STEP_NS for i in range(COUNT)]
    assert names[4].class_map[0].class_name == "class 4"
    assert time.monotonic() - start_s > 0.96
    stamps = [one.clock.sec * 10**9 + one.clock.nanosec for one in clock]
    assert len(stamps) > 20 and stamps == sorted(stamps)
    assert T0 <= stamps[0] and stamps[-1] <= T0 + COUNT * STEP_NS


def test_late_subscribers_get_all_static_transforms_and_a_loop_ends_with_a_signal(listener, bag):
    process = start(bag, "--loop", "--rate", "2", "--start-offset", "0.2")
    try:
        names = heard(listener, "/names", "vision_msgs/msg/LabelInfo")
        spin(listener, process, lambda: len(names) > 2 * COUNT)
        static: list[Any] = []
        qos = output_qos(latched=True)
        qos.depth = 10
        listener.node.create_subscription(message_class("tf2_msgs/msg/TFMessage"), "/tf_static", static.append, qos)
        spin(listener, process, lambda: len(static) >= 3)
        process.send_signal(signal.SIGTERM)
        said = spin(listener, process)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert {one.transforms[0].child_frame_id for one in static} == {"sensor0", "sensor1", "sensor2"}
    assert min(header_stamp_ns(one) for one in names) >= T0 + 200_000_000
    assert "rounds" in said


def test_it_waits_for_who_is_named_and_gives_up(listener, bag):
    process = start(bag, "--wait-for", "/nobody", "--wait-timeout", "1")
    said = spin(listener, process)
    assert process.returncode == 2
    assert "there is no node /nobody" in said and "after 1 s" in said


def test_it_waits_for_an_active_node_and_says_what_that_made_of_it(listener, demo_bag, small_card, tmp_path):
    parameters = {"rig": "demo", "model": str(small_card), "engine": "onnxruntime", "max_wait_ms": "5000.0"}
    for sensor in load_rig("demo").sensors:  # a busy machine must not lose any
        prefix = f"qos_overrides.{sensor.input_topic}.subscription"
        parameters |= {f"{prefix}.reliability": "reliable", f"{prefix}.depth": "100"}
    process = start(demo_bag, "--rate", "0.5", "--wait-for", "/fusion_node", "--report", "/fusion_node")
    node = NodeProcess(parameters | {"queue_depth": "100"}, tmp_path / "node.log")
    try:
        said = spin(listener, process)
    finally:
        node.stop()
    assert process.returncode == 0, said
    assert said.index("there is no node /fusion_node") < said.index("playing ")
    (pipeline,) = (line for line in said.splitlines() if line.startswith("fusion_node: pipeline"))
    assert "published 6" in pipeline
    (reference,) = (line for line in said.splitlines() if line.startswith("fusion_node: sensor rgb"))
    assert "received 6" in reference


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--topics", "/name"], "did you mean /names"),
        (["--remap", "names:=x"], "expected OLD:=NEW"),
        (["--rate", "0"], "--rate"),
    ],
)
def test_wrong_options_are_said_in_one_line(bag, capsys, options, expected):
    assert main(["play", str(bag), *options]) == 2
    assert expected in capsys.readouterr().err


def test_types_that_are_not_installed_are_skipped_and_named(listener, bag, tmp_path):
    import struct

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode()

    def record(op: int, body: bytes) -> bytes:
        return struct.pack("<BQ", op, len(body)) + body

    magic = b"\x89MCAP0\r\n"
    gear = record(3, struct.pack("<H", 1) + text("acme_msgs/msg/Gear") + text("ros2msg") + text("uint8 gear"))
    gear += record(4, struct.pack("<HH", 1, 1) + text("/gear") + text("cdr") + text(""))
    gear += record(5, struct.pack("<HIQQ", 1, 0, T0 + 5, T0 + 5) + b"\0\1\0\0\3")
    other = tmp_path / "other.mcap"
    footer = record(15, bytes(4)) + record(2, bytes(20)) + magic
    other.write_bytes(magic + record(1, text("ros2") + text("")) + gear + footer)
    process = start(other, bag, "--rate", "50")
    said = spin(listener, process)
    assert process.returncode == 0, said
    assert "not played: /gear: message type acme_msgs/msg/Gear is not installed" in said
    assert "played 28 messages of 2 topics" in said
    assert main(["play", str(other)]) == 2
