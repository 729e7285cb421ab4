"""A rig from the running topics, and a check of them, over real DDS."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "survey"))
from recorded import Stream, make

from mm_perception.bags.typestore import BagMessages, serialize
from mm_perception.cli.main import main
from mm_perception.codec.encode import encode_transforms
from mm_perception.core.errors import BagError
from mm_perception.core.rig import load_rig
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.ros.listener import Listener
from mm_perception.ros.live_survey import survey_live
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import output_qos

pytestmark = pytest.mark.ros
TYPES = {"info": "sensor_msgs/msg/CameraInfo", "cloud": "sensor_msgs/msg/PointCloud2"}
STREAMS = {
    "/front/image_raw": Stream("colour"),
    "/front/camera_info": Stream("info"),
    "/boson/image_raw": Stream("thermal16"),
    "/laser/points": Stream("cloud", "laser"),
}


@pytest.fixture(autouse=True)
def domain_of_its_own(monkeypatch):
    """Nodes that other tests ended are still in the graph for some seconds."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(int(os.environ["ROS_DOMAIN_ID"]) % 101 + 1))


@pytest.fixture
def vehicle():
    """Publishes all streams at 10 Hz and a latched transform, until the test ends."""
    driver = Listener("driver")
    types = {topic: TYPES.get(one.make, "sensor_msgs/msg/Image") for topic, one in STREAMS.items()}
    publishers = {t: driver.node.create_publisher(message_class(k), t, output_qos()) for t, k in types.items()}
    tf_type = "tf2_msgs/msg/TFMessage"
    tf = driver.node.create_publisher(message_class(tf_type), "/tf_static", output_qos(latched=True))
    link = encode_transforms(BagMessages(), [RigidTransform("cam", "laser", np.eye(3), np.zeros(3))], 1)
    tf.publish(serialize(link, tf_type))
    ended, silent = threading.Event(), set()

    def drive() -> None:
        generator = np.random.default_rng(0)
        while not ended.wait(0.1):
            stamp_ns = time.time_ns()
            for topic, one in STREAMS.items():
                if topic not in silent:
                    message = make(BagMessages(), one, stamp_ns, generator)
                    publishers[topic].publish(serialize(message, types[topic]))

    thread = threading.Thread(target=drive)
    thread.start()
    yield silent
    ended.set()
    thread.join()
    driver.close()


def test_the_running_topics_become_a_rig_that_is_ready(vehicle, tmp_path, capsys):
    path = tmp_path / "rig.yaml"
    assert main(["rig", "init", "--live", "3", "--out", str(path)]) == 0, capsys.readouterr().err
    rig = load_rig(str(path))
    assert {one.name: one.topic for one in rig.sensors} == {
        "rgb": "/front/image_raw",
        "thermal": "/boson/image_raw",
        "lidar": "/laser/points",
    }
    assert rig.sensor("rgb").camera_info == "/front/camera_info"
    assert main(["check", str(path), "--live", "3"]) == 0, capsys.readouterr().out
    vehicle.add("/boson/image_raw")
    assert main(["check", str(path), "--live", "2"]) == 1
    assert "no message came on /boson/image_raw" in capsys.readouterr().out


def test_nothing_that_runs_is_said():
    with pytest.raises(BagError, match="no topic has a publisher"):
        survey_live(1.0)


def test_a_rig_without_topic_names_cannot_be_checked_live(capsys):
    assert main(["check", "default", "--live", "1"]) == 2
    assert "no topic is named" in capsys.readouterr().err
