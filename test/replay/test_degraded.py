"""Frames that lack something are answered, named and counted, to the report's end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.writer import BagWriter
from mm_perception.cli import replay as command
from mm_perception.cli.main import main
from mm_perception.codec.encode import (
    encode_camera_info,
    encode_compressed,
    encode_point_cloud,
    encode_transforms,
)
from mm_perception.core.rig import load_rig
from mm_perception.core.types import PointCloud
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.rig import simulated_rig

pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

SIMULATED = simulated_rig(load_rig("sim"))
CAMERAS = {camera.sensor.name: camera for camera in SIMULATED.cameras}
LIDAR = SIMULATED.lidars[0]
START_NS, PERIOD_NS, FRAMES = 10**18, 100_000_000, 5


def texture(seed: int, height: int, width: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 255, (height // 16, width // 16, 3), np.uint8)
    return cells.repeat(16, axis=0).repeat(16, axis=1)


def sweep(stamp_ns: int, points: int = 300) -> PointCloud:
    xyz = np.random.default_rng(points).uniform((-20, -20, -1), (20, 20, 1), (points, 3))
    # No two sweeps of a LiDAR that lives are equal.
    xyz = (xyz + np.random.default_rng(stamp_ns % 2**32).normal(0, 0.002, xyz.shape)).astype(np.float32)
    return PointCloud(xyz, stamp_ns, "lidar", np.full(points, 9.0, np.float32))


Change = Callable[[int, str, Any, Any], Any]
"""From frame, topic, message and message factory to the message that is sent, or None."""


def write_drive(path: Path, change: Change, without: str = "") -> None:
    """Five frames of the whole vehicle, which stands still."""
    with BagWriter(path) as bag:
        make = bag.factory
        static = [LIDAR.base_from_lidar, *(camera.base_from_camera for camera in CAMERAS.values())]
        static = [one for one in static if one.src != without]
        bag.write("/tf_static", encode_transforms(make, static, START_NS), START_NS, latched=True)
        for i in range(FRAMES):
            stamp_ns = START_NS + i * PERIOD_NS
            here = RigidTransform("odom", "base_link", np.eye(3), np.zeros(3))
            messages: dict[str, Any] = {}
            for t_ns in (stamp_ns - PERIOD_NS, stamp_ns):
                bag.write("/tf", encode_transforms(make, [here], t_ns), stamp_ns)
            messages["/sim/lidar/points"] = encode_point_cloud(make, sweep(stamp_ns - PERIOD_NS))
            for name, camera in CAMERAS.items():
                messages[f"/sim/{name}/camera_info"] = encode_camera_info(make, camera.model, stamp_ns)
                image = texture(i, camera.model.height, camera.model.width)
                compressed = encode_compressed(make, image, "png", stamp_ns, camera.model.frame_id)
                messages[f"/sim/{name}/image_raw/compressed"] = compressed
            for topic, message in messages.items():
                sent = change(i, topic, message, make)
                if sent is not None:
                    bag.write(topic, sent, stamp_ns)


@pytest.fixture
def options(tmp_path, micro) -> list[str]:
    """The command's, with a very small detector of random weights."""
    card = tmp_path / "micro.yaml"
    card.write_text(
        "name: micro\nvariant: micro\nclasses: [car, pedestrian]\nchannel_order: rgb\ntrained: false\n"
        "weights: random:3\nmin_score: 0.0\n"
    )
    return ["replay", str(tmp_path / "drive.mcap"), "--rig", "sim", "--model", "none", "--detector", str(card),
            "--engine", "torch", "--threads", "1", "--out", str(tmp_path / "report")]  # fmt: skip


def facts_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report" / "report.json").read_text()))


def whole(i: int, topic: str, message: Any, make: Any) -> Any:
    return message


def no_back_camera(i: int, topic: str, message: Any, make: Any) -> Any:
    return None if i in (1, 3) and topic.startswith("/sim/cam_back/image") else message


def no_calibration(i: int, topic: str, message: Any, make: Any) -> Any:
    return None if topic == "/sim/cam_front/camera_info" else message


def calibration_of_another_camera(i: int, topic: str, message: Any, make: Any) -> Any:
    if topic == "/sim/cam_front/camera_info":
        return encode_camera_info(make, CAMERAS["rgb"].model, START_NS + i * PERIOD_NS)
    return message


def black_image(i: int, topic: str, message: Any, make: Any) -> Any:
    if i == 2 and topic.startswith("/sim/cam_back_left/image"):
        frame = CAMERAS["cam_back_left"].model.frame_id
        return encode_compressed(make, np.zeros((256, 448, 3), np.uint8), "png", START_NS + i * PERIOD_NS, frame)
    return message


def empty_sweep(i: int, topic: str, message: Any, make: Any) -> Any:
    return encode_point_cloud(make, sweep(START_NS + (i - 1) * PERIOD_NS, 0)) if "lidar" in topic else message


def no_sweep(i: int, topic: str, message: Any, make: Any) -> Any:
    return None if i >= 3 and "lidar" in topic else message


@pytest.mark.parametrize(
    ("change", "without", "expected"),
    [
        (whole, "", {}),
        (no_back_camera, "", {"cam_back.missing": 2}),
        (no_calibration, "", {"cam_front.calibration": 5}),
        (calibration_of_another_camera, "", {"cam_front.calibration": 5}),
        (whole, "cam_back_right_optical_frame", {"cam_back_right.calibration": 5}),
        (black_image, "", {"cam_back_left.blank": 1}),
        (empty_sweep, "", {"lidar.empty": 5}),
        (no_sweep, "", {"lidar.missing": 2}),
    ],
)
def test_degraded_frames_are_counted_to_the_reports_end(tmp_path, options, capsys, change, without, expected):
    write_drive(tmp_path / "drive.mcap", change, without)
    code = main([*options, "--save-bag", str(tmp_path / "boxes.mcap")])
    facts = facts_of(tmp_path)
    degraded = facts.get("degraded", {})
    assert {what: degraded.get(what) for what in expected} == expected
    assert bool(degraded) == bool(expected)
    # A detector without a LiDAR's point is blind, and gives no result that would look like a free road.
    detected = 0 if change is empty_sweep else 5
    assert code == (0 if detected else 1)
    assert (facts["frames"], facts["bundles"], facts["detected"]) == (5, 5, detected)
    assert facts["modes"].get("detection blind", 0) == 5 - detected
    assert len(list((tmp_path / "report" / "detections").glob("*.png"))) == detected
    told = capsys.readouterr().out
    assert all(f"degraded {count:5d}  {what}" in told for what, count in expected.items())


@pytest.mark.parametrize("broken", ["take", "step"])
def test_a_frame_whose_results_cannot_be_used_does_not_lose_the_report(tmp_path, options, monkeypatch, capsys, broken):
    write_drive(tmp_path / "drive.mcap", no_back_camera)
    calls: list[int] = []

    def fails_once(real):
        def call(*args):
            calls.append(len(calls))
            if len(calls) == 2:
                raise KeyError("[red]no such thing")
            return real(*args)

        return call

    if broken == "step":
        from mm_perception.pipeline.perception import Perception

        monkeypatch.setattr(Perception, "step", fails_once(Perception.step))
    else:
        monkeypatch.setattr(command._Sink, broken, fails_once(command._Sink.take))
    assert main(options) == 0
    facts = facts_of(tmp_path)
    where = "bundle" if broken == "step" else "result"
    assert facts["dropped"] == {f"{where}: KeyError": 1} and facts["bundles"] == 5
    assert facts["detected"] == (4 if broken == "step" else 5)
    assert f"{where}: '[red]no such thing'" in capsys.readouterr().out


def test_results_that_cannot_be_written_end_the_replay_and_leave_what_was_there(tmp_path, options, monkeypatch, capsys):
    write_drive(tmp_path / "drive.mcap", whole)
    saved = tmp_path / "boxes.mcap"
    assert main([*options, "--save-bag", str(saved)]) == 0
    before, report = saved.read_bytes(), facts_of(tmp_path)
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rosbags.rosbag2.Writer.write", full)
    assert main([*options, "--save-bag", str(saved), "--overwrite"]) == 2
    assert "boxes.mcap: cannot be written (No space left on device)" in capsys.readouterr().err
    assert saved.read_bytes() == before and facts_of(tmp_path) == report
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def no_lidar(i: int, topic: str, message: Any, make: Any) -> Any:
    return None if "lidar" in topic else message


def no_detector_camera(i: int, topic: str, message: Any, make: Any) -> Any:
    return None if topic.startswith("/sim/cam_") and "image" in topic else message


def broken_images(i: int, topic: str, message: Any, make: Any) -> Any:
    if topic.startswith("/sim/cam_front/image"):
        message.data = message.data[: len(message.data) // 2]
    return message


@pytest.mark.parametrize(
    ("change", "told", "detected"),
    [
        (no_lidar, "lidar.missing", 0),
        (no_detector_camera, "cam_front.missing", 5),
        (broken_images, "cam_front.missing", 5),
    ],
)
def test_a_kind_of_sensor_that_is_lost_throughout_ends_in_a_report(tmp_path, options, change, told, detected):
    write_drive(tmp_path / "drive.mcap", change)
    assert main(options) == (0 if detected else 1)
    facts = facts_of(tmp_path)
    assert (facts["frames"], facts["bundles"], facts["detected"]) == (5, 5, detected)
    assert facts["degraded"][told] == 5
