"""A live rig whose motion comes as odometry, whose TF is namespaced, and whose types nobody has written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_image,
    encode_odometry,
    encode_transforms,
)
from mm_perception.core.rig import load_rig
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.ros.messages import RclpyMessages, message_class
from mm_perception.ros.qos import output_qos
from mm_perception.ros.session import FusionSession

pytestmark = pytest.mark.ros
RIG = """
name: husky
reference: rgb
max_wait_ms: 500
fixed_frame: odom
odometry: /husky1/odom
tf: /husky1/tf
tf_static: /husky1/tf_static
sensors:
  - {name: rgb, kind: rgb, topic: /husky1/rgb, camera_info: /husky1/rgb/info}
  - {name: thermal, kind: thermal, topic: /husky1/flir, camera_info: /husky1/flir/info, thermal_scale: agc}
"""
FACTORY = RclpyMessages()
K = np.array([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]])


def test_odometry_namespaced_transforms_and_open_types_make_results(tmp_path, small_card):
    path = tmp_path / "husky.yaml"
    path.write_text(RIG)
    given = {"rig": str(path), "model": str(small_card), "engine": "onnxruntime", "diagnostics_period_s": "0.1"}
    session = FusionSession(load_rig(str(path)), given, tmp_path / "node.log", overlays=False, lossless=False)

    def publisher(topic: str, kind: str, latched: bool = False) -> Any:
        return session.node.create_publisher(message_class(kind), f"/husky1/{topic}", output_qos(latched, 20))

    with session:
        image, info = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
        rgb, flir = publisher("rgb", image), publisher("flir", "sensor_msgs/msg/Image")
        infos = {name: publisher(f"{name}/info", info) for name in ("rgb", "flir")}
        odom = publisher("odom", "nav_msgs/msg/Odometry")
        static = publisher("tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        mounts = [RigidTransform("base", name, np.eye(3), np.zeros(3)) for name in ("rgb", "flir")]
        static.publish(encode_transforms(FACTORY, mounts, 1))
        publishers = (rgb, flir, odom, static, *infos.values())
        session.wait_until(lambda: all(one.get_subscription_count() for one in publishers), 120, "the node")
        assert "takes sensor_msgs/msg/CompressedImage, which is published" in session.log_tail(50)
        pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)

        def drive() -> bool:
            now_ns = session.node.get_clock().now().nanoseconds
            for name, one in infos.items():
                one.publish(encode_camera_info(FACTORY, CameraModel(128, 96, K, np.zeros(0), "", name), now_ns))
            rgb.publish(encode_compressed(FACTORY, pixels, "png", now_ns, "/rgb"))
            flir.publish(encode_image(FACTORY, pixels[..., 0], "mono8", now_ns, "flir"))
            for t_ns in (now_ns - 10**7, now_ns + 10**7):
                pose = RigidTransform("odom", "base", np.eye(3), np.array([t_ns % 10**12 * 1e-9, 0.0, 0.0]))
                odom.publish(encode_odometry(FACTORY, pose, 1.0, 0.0, t_ns))
            return len(session.result.segmentations) >= 3

        session.wait_until(drive, 60, "results")
        odometry = session.result.status["fusion_node: input /husky1/odom"]
        assert int(odometry["received"]) > 0 and not [key for key in odometry if key.startswith("rejected")]
        assert session.stop() == 0
