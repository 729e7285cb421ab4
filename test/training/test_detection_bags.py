"""Frames of recordings: the same scene as the simulator's own frames, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)

from mm_perception.core.errors import BagError
from mm_perception.core.rig import load_rig
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.geometry.boxes import count_points_inside
from mm_perception.replay.frame_view import frame_view
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import load_detection_frame
from mm_perception.sim.scenario import Ego, Scenario
from mm_perception.sim.simulate import simulate
from mm_perception.training.detection_bags import RECORDED, bag_frames
from mm_perception.training.detection_samples import truth_of

RIG = load_rig("sim")
CARD = find_detector_card("deepinteraction-tiny-untrained")


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    simulate(Scenario(seed=1, traffic=1.0, parked=0.8, people=0.5, ego=Ego(speed_mps=8.0)), RIG, 0.2, path, workers=1)
    return path


def test_boxes_of_a_simulated_drive_hold_their_points(drive, tmp_path):
    files, unused = bag_frames(drive, RIG, CARD, tmp_path)
    assert len(files) == 2 and not unused
    for file in files:
        frame = load_detection_frame(file)
        assert frame.condition == RECORDED and frame.boxes.classes == DETECTION_CLASSES
        newest = frame.points[frame.points[:, 4] < 0.1001, :3]
        inside = count_points_inside(newest, replace(frame.boxes, sizes_lwh=frame.boxes.sizes_lwh + np.float32(0.3)))
        many = frame.lidar_points >= 20
        assert many.sum() >= 5, "a test of nothing"
        assert (inside[many] > 0.7 * frame.lidar_points[many]).all(), "points lie in their boxes"
        assert frame_view(frame).present.all()
        assert np.isfinite(truth_of(frame).velocity).all() and np.abs(frame.boxes.velocity).max() > 3
    assert frame.points[:, 4].max() > 0.1, "the second frame sees two turns"
    assert bag_frames(drive, RIG, CARD, tmp_path)[0] == files


def test_a_bag_without_truth_or_without_turns_is_refused_with_the_reasons(drive, tmp_path):
    with pytest.raises(BagError, match="no true boxes on '/nowhere'"):
        bag_frames(drive, replace(RIG, objects="/nowhere"), CARD, tmp_path)
    sensors = tuple(replace(s, topic="/never") if s.name == "lidar" else s for s in RIG.sensors)
    with pytest.raises(BagError, match="2 x DataError: detector: no turn"):
        bag_frames(drive, replace(RIG, sensors=sensors), CARD, tmp_path)


def test_a_camera_that_never_sends_is_missing_in_the_view(drive, tmp_path):
    sensors = tuple(replace(s, topic="/never") if s.name == "cam_back" else s for s in RIG.sensors)
    (file, _), _ = bag_frames(drive, replace(RIG, sensors=sensors), CARD, tmp_path)
    present = frame_view(load_detection_frame(file)).present
    assert present.sum() == 5 and not present[RIG.detector_cameras.index("cam_back")]


def test_a_real_frame_has_its_boxes_and_unknown_velocities(shared_dir, tmp_path):
    from mm_perception.cli.main import main

    bag = tmp_path / "nuscenes.mcap"
    assert main(["convert", "nuscenes", str(shared_dir / "data" / "nuscenes_scene0061_frame0"), str(bag)]) == 0
    (file,), _ = bag_frames(bag, load_rig("nuscenes"), CARD, tmp_path)
    frame = load_detection_frame(file)
    assert len(frame.boxes) > 30 and np.isnan(frame.boxes.velocity).all()
    assert (frame.lidar_points > 0).sum() > 20
    assert frame_view(frame).present.all()
