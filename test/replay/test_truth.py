"""Which truth is compared with which result, where and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mm_perception.bags.reader import BagReader
from mm_perception.bags.writer import BagWriter
from mm_perception.codec.detections import encode_detections, encode_velocities, state_columns
from mm_perception.codec.encode import encode_columns
from mm_perception.codec.objects import decode_objects
from mm_perception.core.errors import BagError, DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import moved_on
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.replay.truth import DetectionTruth, ObjectStream

MS = 1_000_000
OBJECTS, STATES = "/objects", "/states"


def cars(stamp_ns: int, x: float = 10.0, vx: float = 0.0, frame_id: str = "base_link") -> Detections3D:
    return Detections3D(
        np.array([[x, 0.0, 1.0]], np.float32), np.array([[4.0, 2.0, 1.5]], np.float32), np.zeros(1, np.float32),
        np.array([[vx, 0.0]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32), ("car",), frame_id, stamp_ns,
    )  # fmt: skip


def states_of(bag: BagWriter, boxes: Detections3D) -> Any:
    columns = state_columns(boxes) | {"lidar_points": ("u4", np.full(len(boxes), 7))}
    return encode_columns(bag.factory, columns, boxes.stamp_ns, boxes.frame_id)


def bag_of(path: Path, truths: list[Detections3D], states: list[Detections3D]) -> Path:
    with BagWriter(path) as bag:
        for boxes in truths:
            bag.write(OBJECTS, encode_detections(bag.factory, boxes), boxes.stamp_ns)
        for boxes in states:
            bag.write(STATES, states_of(bag, boxes), boxes.stamp_ns)
    return path


def still(src: str, src_ns: int, dst: str, dst_ns: int) -> RigidTransform:
    return RigidTransform(dst, src, np.eye(3), np.zeros(3))


def test_states_belong_to_the_objects_of_their_stamp(tmp_path):
    truths = [cars(k * 100 * MS, vx=float(k)) for k in range(1, 5)]
    path = bag_of(tmp_path / "x.mcap", truths, [truths[0], truths[2], truths[3]])
    with BagReader(path) as bag:
        stream = ObjectStream(bag, OBJECTS, STATES)
        found = [stream.find(one.stamp_ns) for one in truths]
    speeds = [float(one.boxes.velocity[0, 0]) for one in found]
    assert speeds[0] == 1.0 and np.isnan(speeds[1]) and speeds[2:] == [3.0, 4.0]
    assert [int(one.lidar_points[0]) for one in found] == [7, -1, 7, 7]


def test_the_result_nearest_in_time_is_the_one_that_counts(tmp_path):
    path = bag_of(tmp_path / "x.mcap", [cars(1000 * MS)], [])
    with BagReader(path) as bag:
        truth = DetectionTruth(bag, OBJECTS, STATES)
        assert truth.compare(cars(945 * MS, x=40.0), still) is not None
        assert truth.compare(cars(1028 * MS), still) is not None
        assert truth.compare(cars(1055 * MS, x=40.0), still) is not None
        assert truth.compare(cars(1100 * MS), still) is None
        assert truth.scored == 1
        scores = truth.scores()
    assert scores is not None and scores.mean_ap == pytest.approx(1.0)


def test_moving_objects_are_moved_on_to_the_result(tmp_path):
    moving = cars(1000 * MS, vx=20.0)
    path = bag_of(tmp_path / "x.mcap", [moving], [moving])
    with BagReader(path) as bag:
        truth = DetectionTruth(bag, OBJECTS, STATES)
        shown = truth.compare(cars(1050 * MS, x=11.0, vx=20.0), still)
        scores = truth.scores()
    assert shown is not None and shown.centers[0, 0] == pytest.approx(11.0) and shown.stamp_ns == 1050 * MS
    assert scores is not None and scores.label_errors["car"]["trans_err"] == pytest.approx(0.0, abs=1e-5)
    unknown = replace(moving, velocity=np.full((1, 2), np.nan, np.float32))
    np.testing.assert_array_equal(moved_on(unknown, 2000 * MS).centers, moving.centers)


def test_truth_in_a_frame_far_away_is_as_near_as_the_vehicle(tmp_path):
    path = bag_of(tmp_path / "x.mcap", [cars(1000 * MS, x=5010.0, frame_id="map")], [])

    def from_map(src: str, src_ns: int, dst: str, dst_ns: int) -> RigidTransform:
        return RigidTransform(dst, src, np.eye(3), np.array([5000.0, 0.0, 0.0]))

    with BagReader(path) as bag:
        truth = DetectionTruth(bag, OBJECTS, STATES)
        truth.compare(cars(1000 * MS), from_map, ("lidar", 1000 * MS))
        scores = truth.scores()
    assert scores is not None and scores.mean_ap == pytest.approx(1.0)


def test_topics_of_other_types_and_boxes_without_a_heading_are_refused(tmp_path):
    boxes = cars(1000 * MS)
    with BagWriter(tmp_path / "x.mcap") as bag:
        bag.write(OBJECTS, encode_velocities(bag.factory, boxes), boxes.stamp_ns)
        message = encode_detections(bag.factory, boxes)
        nothing = message.detections[0].bbox.center.orientation
        nothing.x = nothing.y = nothing.z = nothing.w = 0.0
        with pytest.raises(DataError, match="quaternion of zeros"):
            decode_objects(message)
        lacking = encode_detections(bag.factory, boxes)
        lacking.detections[0].results = []
        with pytest.raises(DataError, match="no hypothesis"):
            decode_objects(lacking)
        whole = encode_detections(bag.factory, boxes)
        with pytest.raises(DataError, match="1 boxes, states of 0"):
            decode_objects(whole, states_of(bag, boxes.take(np.zeros(1, bool))))
    with BagReader(tmp_path / "x.mcap") as read, pytest.raises(BagError, match="true objects want"):
        ObjectStream(read, OBJECTS, STATES)
