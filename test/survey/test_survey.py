from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from mm_perception.bags.typestore import BagMessages, serialize
from mm_perception.codec.encode import encode_image, encode_transforms
from mm_perception.core.errors import DataError
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.survey.facts import FrameFacts
from mm_perception.survey.headers import decoded_header, header_of
from mm_perception.survey.survey import Survey

IMAGE, TF = "sensor_msgs/msg/Image", "tf2_msgs/msg/TFMessage"
PIXELS = np.zeros((4, 6), np.uint8)


def image(stamp_ns: int, frame: str = "cam"):
    return encode_image(BagMessages(), PIXELS, "mono8", stamp_ns, frame)


@pytest.mark.parametrize("frame", ["cam", "", "/robot1/cam", "\u00e9" * 20])
def test_the_quick_look_gives_what_decoding_gives(frame):
    message = image(1_700_000_000_987_654_321)
    message.header.frame_id = frame
    expected = (1_700_000_000_987_654_321, frame.lstrip("/"))
    assert header_of(serialize(message, IMAGE)) == decoded_header(message) == expected


def test_big_endian_messages_are_read():
    assert header_of(b"\0\0\0\0" + struct.pack(">iII", 7, 9, 4) + b"cam\0") == (7_000_000_009, "cam")


@pytest.mark.parametrize(
    "cdr",
    [
        b"",
        b"\0\1\0\0" + struct.pack("<iII", 7, 9, 40) + b"cam\0",  # the name is longer than the message
        b"\0\1\0\0" + struct.pack("<iII", 7, 2_000_000_000, 4) + b"cam\0",
        b"\0\1\0\0" + struct.pack("<iII", -7, 9, 4) + b"cam\0",
        b"\0\1\0\0" + struct.pack("<iII", 7, 9, 4) + b"camx",
        b"\0\1\0\0" + struct.pack("<iII", 7, 9, 4) + b"\xff\xfe\xfd\0",
        b"\7\1\0\0" + struct.pack("<iII", 7, 9, 4) + b"cam\0",
    ],
)
def test_what_cannot_begin_with_a_header_is_none(cdr):
    assert header_of(cdr) is None


def test_few_messages_are_decoded_and_all_stamps_are_read():
    survey, decoded = Survey(), []
    for i in range(500):
        message = image(10**18 + i)

        def decode(i: int = i, message=message):
            decoded.append(i)
            return message

        survey.take("/cam", IMAGE, serialize(message, IMAGE), 10**18 + i, decode)
    facts = survey.facts("test").topics["/cam"]
    assert (facts.count, len(facts.stamps_ns), facts.content.width) == (500, 500, 6)
    assert decoded == [0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257]


def test_headers_of_another_wire_format_are_decoded():
    survey = Survey()
    for i in range(1, 9):
        survey.take("/cam", IMAGE, b"of ROS 1, where a header begins otherwise", i, lambda i=i: image(10**18 + i))
    assert survey.facts("test").topics["/cam"].stamps_ns.tolist() == [10**18 + i for i in range(1, 9)]


def test_a_message_that_is_none_is_a_problem_of_its_topic_alone():
    def refuse():
        raise DataError("no image at all")

    survey = Survey()
    survey.take("/bad", IMAGE, b"", 1, refuse)
    survey.take("/good", IMAGE, serialize(image(5), IMAGE), 1, lambda: image(5))
    topics = survey.facts("test").topics
    assert (topics["/bad"].problem, topics["/good"].problem) == ("no image at all", "")


def test_static_links_are_not_displaced_by_moving_ones():
    survey, eye = Survey(), np.eye(3)

    def send(topic: str, parent: str, child: str) -> None:
        message = encode_transforms(BagMessages(), [RigidTransform(parent, child, eye, np.zeros(3))], 1)
        survey.take(topic, TF, b"", 1, lambda: message)

    send("/tf", "odom", "base")
    send("/robot1/tf_static", "base", "cam")
    send("/tf", "elsewhere", "cam")
    frames = survey.facts("test").frames
    assert frames.chain("cam") == ("cam", "base", "odom")
    assert frames.moving_ancestors("cam") == ("odom",)
    assert not frames.connected("cam", "elsewhere")


def test_a_loop_of_links_ends():
    frames = FrameFacts({"a": "b", "b": "c", "c": "a"})
    assert frames.chain("a") == ("a", "b", "c") and frames.connected("a", "c")


def test_a_prefix_is_one_only_where_it_is_unique():
    assert FrameFacts({"robot1/cam": "robot1/base"}).prefix_of("cam") == "robot1"
    assert FrameFacts({"robot1/cam": "map", "robot2/cam": "map"}).prefix_of("cam") == ""
    assert FrameFacts({"cam": "map", "robot2/cam": "map"}).prefix_of("cam") == ""
    assert decoded_header(SimpleNamespace()) is None
