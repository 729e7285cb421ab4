from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mm_perception.bags.reader import BagReader
from mm_perception.codec.detections import (
    AUTOWARE_OBJECTS,
    MOVING_MPS,
    MarkerWriter,
    encode_autoware_objects,
    encode_detections,
    encode_velocities,
)
from mm_perception.codec.point_cloud import decode_point_cloud
from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D

sys.path.insert(0, str(Path(__file__).parent))
from messages import FACTORY, STAMP_NS

DEMO_BAG = Path(__file__).resolve().parents[2] / "rosbags" / "demo.mcap"
COLORS = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
ADD, DELETE = 0, 2
ARROW, CUBE, TEXT = 0, 1, 9


def detections(n=1, velocity=(0.0, 0.0), yaw_rad=np.pi / 2, classes=("car",), frame_id="base"):
    """N boxes at (0, 1, 2), (3, 4, 5), ...; classes take turns, `velocity` is one for all or one each."""
    return Detections3D(
        np.arange(3 * n, dtype=np.float32).reshape(n, 3),
        np.full((n, 3), (4, 2, 1.5), np.float32),
        np.full(n, yaw_rad, np.float32),
        np.array(np.broadcast_to(np.asarray(velocity, np.float32), (n, 2))),
        np.full(n, 0.75, np.float32),
        (np.arange(n) % len(classes)).astype(np.int32),
        classes,
        frame_id,
        STAMP_NS,
    )


def shown_by(message):
    """(namespace, id) of what the message adds, and of what it deletes."""
    keys = [(m.ns, m.id, m.action) for m in message.markers]
    assert len({key[:2] for key in keys}) == len(keys)  # RViz complains about doubles
    return tuple({(ns, i) for ns, i, action in keys if action == wanted} for wanted in (ADD, DELETE))


def yaw_of(pose):
    assert (pose.orientation.x, pose.orientation.y) == (0, 0)
    return 2 * math.atan2(pose.orientation.z, pose.orientation.w)


def place_of(pose):
    return (pose.position.x, pose.position.y, pose.position.z)


def test_detections_have_length_along_the_heading():
    message = encode_detections(FACTORY, detections(2), ["a", "b"])
    box = message.detections[1]
    assert (box.bbox.size.x, box.bbox.size.y, box.bbox.size.z) == (4, 2, 1.5)
    assert place_of(box.bbox.center) == (3, 4, 5)
    assert yaw_of(box.bbox.center) == pytest.approx(np.pi / 2)
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in box.results] == [("car", 0.75)]
    assert (box.id, box.header.frame_id, message.header.frame_id) == ("b", "base", "base")
    assert encode_detections(FACTORY, detections(0)).detections == []


def test_ids_are_one_per_detection():
    with pytest.raises(DataError, match="ids: expected 2, got 1"):
        encode_detections(FACTORY, detections(2), ["a"])


def test_covariance_is_that_of_the_class_or_zero():
    message = encode_detections(FACTORY, detections(2, classes=("car", "bus")), deviations={"bus": (0.5, 0.25)})
    car, bus = (d.results[0].pose.covariance for d in message.detections)
    assert not car.any()
    np.testing.assert_array_equal(bus.reshape(6, 6), np.diag([0.25, 0.25, 0.25, 0, 0, 0.0625]))
    assert bus.shape == (36,)


@pytest.mark.parametrize("deviation", [(-0.1, 0.1), (0.1, math.nan), (math.inf, 0.1)])
def test_impossible_deviations_are_refused(deviation):
    for encode in (encode_detections, encode_autoware_objects):
        with pytest.raises(DataError, match="deviations of car"):
            encode(FACTORY, detections(1), deviations={"car": deviation})


def test_velocities_keep_the_order_and_the_unknown():
    boxes = detections(2, velocity=[(1.5, -2), (np.nan, np.nan)])
    message = encode_velocities(FACTORY, boxes)
    names = ["id", "x", "y", "z", "length", "width", "height", "yaw", "vx", "vy"]
    assert [f.name for f in message.fields] == names
    rows = np.frombuffer(message.data.tobytes(), [(n, "<u4" if n == "id" else "<f4") for n in names])
    np.testing.assert_array_equal(rows["id"], [0, 1])
    np.testing.assert_array_equal(np.stack([rows["vx"], rows["vy"]], axis=1), boxes.velocity)
    np.testing.assert_array_equal(rows["length"], [4, 4])
    np.testing.assert_array_equal(decode_point_cloud(message).xyz, boxes.centers)
    assert encode_velocities(FACTORY, detections(0)).width == 0
    given = encode_velocities(FACTORY, boxes, np.array([7, 9]))
    assert np.frombuffer(given.data.tobytes(), "<u4")[0] == 7


def test_velocities_have_the_form_of_the_simulators_truth():
    with BagReader(DEMO_BAG) as bag:
        truth = bag.decode(next(iter(bag.messages({"/sim/truth/object_states"}))))
    form = [
        [(f.name, f.offset, f.datatype) for f in m.fields] for m in (encode_velocities(FACTORY, detections()), truth)
    ]
    assert form[0] == form[1][: len(form[0])]


def test_a_box_is_a_cube_with_a_text_above():
    cube, text = MarkerWriter(COLORS).encode(FACTORY, detections(1)).markers
    assert (cube.ns, cube.type, text.ns, text.type) == ("boxes", CUBE, "labels", TEXT)
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == (4, 2, 1.5)
    assert place_of(cube.pose) == (0, 1, 2)
    assert yaw_of(cube.pose) == pytest.approx(np.pi / 2)
    assert (cube.color.r, cube.color.g, cube.color.b) == (1, 0, 0)
    assert 0 < cube.color.a < 1
    assert text.text == "car 0.75"
    assert (text.pose.position.x, text.pose.position.y) == (0, 1)
    assert text.pose.position.z - text.scale.z / 2 > 2 + 1.5 / 2
    assert text.scale.x == 0  # RViz would take it for the width of a space


def test_an_arrow_shows_where_a_box_will_be_in_a_second():
    boxes = detections(2, velocity=(-3, 4), classes=("car", "bus"))
    markers = {(m.ns, m.id): m for m in MarkerWriter(COLORS).encode(FACTORY, boxes).markers}
    arrow = markers["velocity", 1]
    assert (arrow.type, place_of(arrow.pose)) == (ARROW, (3, 4, 5))
    assert arrow.scale.x == pytest.approx(5)
    assert yaw_of(arrow.pose) == pytest.approx(math.atan2(4, -3))
    assert (arrow.color.r, arrow.color.b, arrow.color.a) == (0, 1, 1)
    assert markers["labels", 1].text == "bus 0.75 5.0 m/s"


@pytest.mark.parametrize(
    ("velocity", "moves"),
    [
        ((0, 0), False),
        ((MOVING_MPS - 0.01, 0), False),
        ((0, -MOVING_MPS - 0.01), True),
        ((np.nan, np.nan), False),
        ((5, np.nan), False),
        ((np.inf, 0), False),
    ],
)
def test_only_what_moves_has_an_arrow_and_a_speed(velocity, moves):
    message = MarkerWriter(COLORS).encode(FACTORY, detections(1, velocity=velocity))
    assert (("velocity", 0) in shown_by(message)[0]) is moves
    assert message.markers[1].text.endswith("m/s") is moves


def test_markers_delete_exactly_what_is_gone():
    writer = MarkerWriter(COLORS)

    def both(*numbers):
        return {(namespace, i) for namespace in ("boxes", "labels") for i in numbers}

    fast, slow = (9, 0), (0, 0)
    steps = [  # boxes' velocities, what is shown, what is deleted
        ([], set(), set()),
        ([fast, slow], both(0, 1) | {("velocity", 0)}, set()),
        ([slow, fast, fast], both(0, 1, 2) | {("velocity", 1), ("velocity", 2)}, {("velocity", 0)}),
        ([slow], both(0), both(1, 2) | {("velocity", 1), ("velocity", 2)}),
        ([slow], both(0), set()),
        ([], set(), both(0)),
        ([], set(), set()),
        ([fast], both(0) | {("velocity", 0)}, set()),
    ]
    for velocities, shown, deleted in steps:
        boxes = detections(len(velocities), velocity=np.reshape(velocities, (-1, 2)))
        assert shown_by(writer.encode(FACTORY, boxes)) == (shown, deleted)


def test_markers_live_until_deleted_and_follow_a_changed_frame():
    writer = MarkerWriter(COLORS)
    writer.encode(FACTORY, detections(2))
    message = writer.encode(FACTORY, detections(1, frame_id="lidar"))
    assert shown_by(message) == ({("boxes", 0), ("labels", 0)}, {("boxes", 1), ("labels", 1)})
    assert {m.header.frame_id for m in message.markers} == {"lidar"}
    assert {(m.lifetime.sec, m.lifetime.nanosec) for m in message.markers} == {(0, 0)}
    assert {m.action for m in message.markers} == {ADD, DELETE}


def test_a_class_without_a_colour_is_refused_and_nothing_is_forgotten():
    writer = MarkerWriter(COLORS)
    writer.encode(FACTORY, detections(1))
    with pytest.raises(DataError, match="3 classes, but 2 colours"):
        writer.encode(FACTORY, detections(1, classes=("car", "bus", "tram")))
    assert shown_by(writer.encode(FACTORY, detections(0)))[1] == {("boxes", 0), ("labels", 0)}


def test_a_box_without_extent_is_still_a_cube_that_rviz_draws():
    flat = replace(detections(1), sizes_lwh=np.zeros((1, 3), np.float32))
    cube = MarkerWriter(COLORS).encode(FACTORY, flat).markers[0]
    assert min(cube.scale.x, cube.scale.y, cube.scale.z) > 0


def test_deletions_of_both_kinds_are_equal_on_the_wire():
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    from rclpy.serialization import deserialize_message

    from mm_perception.bags.typestore import typestore
    from mm_perception.ros.messages import RclpyMessages, message_class

    def shrunken(factory):
        writer = MarkerWriter(COLORS)
        writer.encode(factory, detections(3, velocity=(1, 1)))
        return writer.encode(factory, detections(1))

    name = "visualization_msgs/msg/MarkerArray"
    from_bag = bytes(typestore().serialize_cdr(shrunken(FACTORY), name))
    assert deserialize_message(from_bag, message_class(name)) == shrunken(RclpyMessages())


# Autoware's definitions (github.com/autowarefoundation/autoware_msgs, without comments and constants).
AUTOWARE = {
    "ObjectClassification": "uint8 label\nfloat32 probability\n",
    "Shape": "uint8 type\ngeometry_msgs/Polygon footprint\ngeometry_msgs/Vector3 dimensions\n",
    "DetectedObjectKinematics": (
        "geometry_msgs/PoseWithCovariance pose_with_covariance\nbool has_position_covariance\n"
        "uint8 orientation_availability\ngeometry_msgs/TwistWithCovariance twist_with_covariance\n"
        "bool has_twist\nbool has_twist_covariance\n"
    ),
    "DetectedObject": (
        "float32 existence_probability\nautoware_perception_msgs/ObjectClassification[] classification\n"
        "autoware_perception_msgs/DetectedObjectKinematics kinematics\nautoware_perception_msgs/Shape shape\n"
    ),
    "DetectedObjects": "std_msgs/Header header\nautoware_perception_msgs/DetectedObject[] objects\n",
}


class AutowareMessages:
    """Bag messages of a type store that knows Autoware's."""

    def __init__(self):
        self.store = get_typestore(Stores.ROS2_KILTED)
        for name, definition in AUTOWARE.items():
            self.store.register(get_types_from_msg(definition, f"autoware_perception_msgs/msg/{name}"))

    def make(self, type_name, **fields):
        return self.store.types[type_name](**fields)

    def octets(self, data):
        return data


@pytest.fixture(scope="module")
def autoware():
    """A function that encodes for Autoware; what it returns went over the wire."""
    factory = AutowareMessages()

    def encode(*args):
        data = factory.store.serialize_cdr(encode_autoware_objects(factory, *args), AUTOWARE_OBJECTS)
        return factory.store.deserialize_cdr(data, AUTOWARE_OBJECTS)

    return encode


@pytest.mark.parametrize(
    ("yaw_rad", "velocity", "along", "left"),
    [
        (np.pi / 2, (0, 8), 8, 0),  # drives along +y with its nose ahead
        (-np.pi / 2, (0, 8), -8, 0),  # backs up along +y
        (0, (0, 8), 0, 8),  # slides to its left
        (np.pi / 6, (0, 8), 4, 8 * math.cos(np.pi / 6)),
    ],
)
def test_autowares_twist_is_in_the_objects_own_axes(autoware, yaw_rad, velocity, along, left):
    (item,) = autoware(detections(1, velocity=velocity, yaw_rad=yaw_rad)).objects
    kinematics = item.kinematics
    twist = kinematics.twist_with_covariance.twist
    assert (twist.linear.x, twist.linear.y) == pytest.approx((along, left), abs=1e-5)
    assert (twist.linear.z, twist.angular.x, twist.angular.y, twist.angular.z) == (0, 0, 0, 0)
    assert (kinematics.has_twist, kinematics.has_twist_covariance) == (True, False)
    assert yaw_of(kinematics.pose_with_covariance.pose) == pytest.approx(yaw_rad)


@pytest.mark.parametrize("velocity", [(np.nan, np.nan), (1, np.nan), (np.inf, 0)])
def test_autoware_gets_no_twist_of_unknown_velocity(autoware, velocity):
    (item,) = autoware(detections(1, velocity=velocity)).objects
    assert not item.kinematics.has_twist
    linear = item.kinematics.twist_with_covariance.twist.linear
    assert (linear.x, linear.y) == (0, 0)


def test_autoware_gets_place_shape_and_covariance(autoware):
    message = autoware(detections(2, classes=("car", "bus")), {"car": (2.0, 0.5)})
    assert (message.header.frame_id, message.header.stamp.nanosec) == ("base", STAMP_NS % 10**9)
    car, bus = message.objects
    assert car.existence_probability == 0.75
    assert place_of(bus.kinematics.pose_with_covariance.pose) == (3, 4, 5)
    assert (car.shape.type, car.shape.footprint.points) == (0, [])
    assert (car.shape.dimensions.x, car.shape.dimensions.y, car.shape.dimensions.z) == (4, 2, 1.5)
    assert [item.kinematics.has_position_covariance for item in (car, bus)] == [True, False]
    variances = np.diag(car.kinematics.pose_with_covariance.covariance.reshape(6, 6))
    np.testing.assert_array_equal(variances, [4, 4, 4, 0, 0, 0.25])
    assert autoware(detections(0)).objects == []


@pytest.mark.parametrize(
    ("name", "label", "orientation"),
    [
        ("car", 1, 2),
        ("truck", 2, 2),
        ("construction_vehicle", 2, 2),
        ("bus", 3, 2),
        ("trailer", 4, 2),
        ("motorcycle", 5, 2),
        ("bicycle", 6, 2),
        ("pedestrian", 7, 2),
        ("barrier", 0, 1),
        ("traffic_cone", 0, 1),
        ("zeppelin", 0, 1),
    ],
)
def test_nuscenes_classes_become_autowares_labels(autoware, name, label, orientation):
    (item,) = autoware(detections(1, classes=(name,))).objects
    assert [(c.label, c.probability) for c in item.classification] == [(label, 1)]
    assert item.kinematics.orientation_availability == orientation


def test_autoware_is_available_where_its_messages_are(monkeypatch):
    import types

    from mm_perception.ros.messages import autoware_available, message_class

    for name in ("autoware_perception_msgs", "autoware_perception_msgs.msg"):
        monkeypatch.setitem(sys.modules, name, None)
    message_class.cache_clear()
    assert not autoware_available()
    package, module = types.ModuleType("autoware_perception_msgs"), types.ModuleType("autoware_perception_msgs.msg")
    monkeypatch.setitem(sys.modules, "autoware_perception_msgs", package)
    monkeypatch.setitem(sys.modules, "autoware_perception_msgs.msg", module)
    assert not autoware_available()
    module.DetectedObjects = object
    assert autoware_available()
    message_class.cache_clear()
