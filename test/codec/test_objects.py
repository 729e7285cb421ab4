"""True boxes of every version of vision_msgs."""

from __future__ import annotations

from types import SimpleNamespace as Message
from typing import Any

import pytest

from mm_perception.codec.objects import decode_objects
from mm_perception.core.errors import DataError


def header(frame_id: str = "/map") -> Message:
    return Message(stamp=Message(sec=5, nanosec=0), frame_id=frame_id)


def array(results: list[Any], frame_id: str = "/map", **more: Any) -> Message:
    center = Message(position=Message(x=1.0, y=2.0, z=3.0), orientation=Message(x=0.0, y=0.0, z=0.0, w=1.0))
    box = Message(center=center, size=Message(x=4.0, y=2.0, z=1.5))
    detection = Message(header=header("/ego"), results=results, bbox=box, **more)
    return Message(header=header(frame_id), detections=[detection])


VERSIONS = {
    "ROS 1": ([Message(id=3, score=0.25), Message(id=7, score=0.75)], "7", {"source_cloud": None}),
    "1 and 2": ([Message(id="truck", score=0.75), Message(id="car", score=0.5)], "truck", {"is_tracking": False}),
    "3": ([Message(hypothesis=Message(class_id="bus", score=0.75))], "bus", {"id": "12"}),
    "in between": ([Message(hypothesis=Message(id="bus", score=0.75))], "bus", {"tracking_id": ""}),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_is_read(version):
    results, name, more = VERSIONS[version]
    boxes = decode_objects(array(results, **more)).boxes
    assert boxes.classes == (name,) and boxes.scores.tolist() == [0.75]
    assert boxes.centers.tolist() == [[1, 2, 3]] and boxes.frame_id == "map"


def test_the_frame_of_the_boxes_stands_in_for_that_of_the_array():
    assert decode_objects(array([Message(id="car", score=1.0)], frame_id="")).boxes.frame_id == "ego"


@pytest.mark.parametrize(
    "result", [Message(label="car", confidence=1.0), Message(hypothesis=Message(score=1.0)), Message()]
)
def test_what_is_no_version_is_named_in_one_line(result):
    with pytest.raises(DataError, match="of no version of vision_msgs that is known") as error:
        decode_objects(array([result]))
    assert "\n" not in str(error.value)
