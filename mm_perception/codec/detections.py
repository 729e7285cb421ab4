"""3D detections to messages: boxes, their velocities, RViz markers, and objects as Autoware wants them.

Every function takes a `MessageFactory`, so that the same code makes rclpy messages and bag messages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.encode import encode_columns, make_pose, make_vector
from mm_perception.codec.fields import MessageFactory, make_header
from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D

Deviations = Mapping[str, tuple[float, float]]
"""By class name: standard deviation of the position along each axis [m], and of the yaw [rad]."""

MARKER_NAMESPACES = ("boxes", "velocity", "labels")
MOVING_MPS = 0.3
"""Slower boxes are shown as standing: networks give every parked car some speed."""

# Not a dependency: whoever wants these messages has the package.
_AUTOWARE = "autoware_perception_msgs/msg"
AUTOWARE_OBJECTS = f"{_AUTOWARE}/DetectedObjects"
_UNKNOWN = 0
_AUTOWARE_LABELS = {
    "car": 1, "truck": 2, "construction_vehicle": 2, "bus": 3, "trailer": 4, "motorcycle": 5, "bicycle": 6,
    "pedestrian": 7,
}  # fmt: skip
_SIGN_UNKNOWN, _AVAILABLE = 1, 2
_BOUNDING_BOX = 0

_CUBE, _ARROW, _TEXT = 1, 0, 9
_ADD, _DELETE = 0, 2
_ARROW_S = 1.0
"""An arrow ends where its object will be after this time."""
_ARROW_WIDTH_M, _TEXT_HEIGHT_M = 0.2, 0.7


def encode_detections(
    factory: MessageFactory,
    detections: Detections3D,
    ids: Sequence[str] | None = None,
    deviations: Deviations | None = None,
) -> Any:
    """vision_msgs/Detection3DArray: geometric centres, size.x along the heading, one hypothesis each.

    Args:
        ids: names of the objects that stay the same from message to message; None: empty.
        deviations: what the covariance of a hypothesis' pose holds; classes without an entry get zeros (unknown).

    Raises:
        DataError: there is not one id per detection, or a deviation is negative or not finite.
    """
    names = [""] * len(detections) if ids is None else ids
    if len(names) != len(detections):
        raise DataError(f"ids: expected {len(detections)}, got {len(names)}")
    header = make_header(factory, detections.stamp_ns, detections.frame_id)
    covariances = _covariances(detections.classes, deviations)
    boxes = []
    for i, name in enumerate(names):
        kind = detections.classes[detections.labels[i]]
        pose = _pose(factory, detections.centers[i], float(detections.yaw_rad[i]))
        hypothesis = factory.make(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=factory.make(
                "vision_msgs/msg/ObjectHypothesis", class_id=kind, score=float(detections.scores[i])
            ),
            pose=factory.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariances[kind]),
        )
        size = make_vector(factory, detections.sizes_lwh[i])
        bbox = factory.make("vision_msgs/msg/BoundingBox3D", center=pose, size=size)
        boxes.append(
            factory.make("vision_msgs/msg/Detection3D", header=header, results=[hypothesis], bbox=bbox, id=name)
        )
    return factory.make("vision_msgs/msg/Detection3DArray", header=header, detections=boxes)


def state_columns(
    detections: Detections3D, ids: NDArray[np.integer[Any]] | None = None
) -> dict[str, tuple[str, NDArray[Any]]]:
    """What `encode_columns` needs for a point per detection: id, x, y, z, length, width, height, yaw, vx, vy.

    Args:
        ids: (N,) numbers of the objects, not negative; None: the rows' numbers.
    """
    columns: dict[str, tuple[str, NDArray[Any]]] = {"id": ("u4", np.arange(len(detections)) if ids is None else ids)}
    columns |= {axis: ("f4", detections.centers[:, i]) for i, axis in enumerate("xyz")}
    columns |= {name: ("f4", detections.sizes_lwh[:, i]) for i, name in enumerate(("length", "width", "height"))}
    columns |= {"yaw": ("f4", detections.yaw_rad)}
    return columns | {name: ("f4", detections.velocity[:, i]) for i, name in enumerate(("vx", "vy"))}


def encode_velocities(
    factory: MessageFactory, detections: Detections3D, ids: NDArray[np.integer[Any]] | None = None
) -> Any:
    """sensor_msgs/PointCloud2 with a point per detection, in the order of the Detection3DArray, which has no velocity.

    Fields as in the first ten of the simulator's /sim/truth/object_states (`state_columns`); vx and vy [m/s] are over
    ground, along the axes of `frame_id`, NaN where unknown. The columns of places have no NaN.
    """
    return encode_columns(factory, state_columns(detections, ids), detections.stamp_ns, detections.frame_id)


class MarkerWriter:
    """Makes visualization_msgs/MarkerArray messages, each of which takes the place of the one before without flicker.

    Detection i is a cube (namespace `boxes`), an arrow to where it will be in a second (`velocity`, only where it
    moves) and a text (`labels`); all have the id i. Markers stay until they are shown anew or deleted one by one.
    """

    def __init__(self, colors_rgb: NDArray[np.uint8]) -> None:
        """Takes (C, 3) colours by class id."""
        self._colors = colors_rgb
        self._shown: set[tuple[str, int]] = set()

    def encode(self, factory: MessageFactory, detections: Detections3D) -> Any:
        """Markers of the detections, and deletions of exactly those of the last message that are not shown any more.

        Raises:
            DataError: there are more classes than colours.
        """
        if len(detections.classes) > len(self._colors):
            raise DataError(f"markers: {len(detections.classes)} classes, but {len(self._colors)} colours")
        blank = _blank_marker(factory, detections)
        shown: dict[tuple[str, int], dict[str, Any]] = {}
        for i in range(len(detections)):
            looks = _looks(factory, detections, i, self._colors[detections.labels[i]])
            shown |= {(namespace, i): fields for namespace, fields in looks.items()}
        gone = sorted(self._shown - shown.keys())
        fields_of = [*shown.items(), *((key, {"action": _DELETE}) for key in gone)]
        markers = [
            factory.make("visualization_msgs/msg/Marker", **(blank | fields | {"ns": namespace, "id": number}))
            for (namespace, number), fields in fields_of
        ]
        self._shown = set(shown)
        return factory.make("visualization_msgs/msg/MarkerArray", markers=markers)


def encode_autoware_objects(
    factory: MessageFactory, detections: Detections3D, deviations: Deviations | None = None
) -> Any:
    """autoware_perception_msgs/DetectedObjects.

    A twist is in the object's own axes, as Autoware's detectors give it: x along the heading, y to the left; the
    velocity over ground, turned by -yaw. Where the velocity is not finite, `has_twist` is false. The score is the
    probability of existence; the one class of an object is certain. Construction vehicles are trucks; barriers, traffic
    cones and classes that Autoware lacks are UNKNOWN, and which of their ends is the front is unknown, too.

    Args:
        deviations: what the covariance of the pose holds; classes without an entry have no `has_position_covariance`.

    Raises:
        DataError: a deviation is negative or not finite.
    """
    covariances = _covariances(detections.classes, deviations)
    objects = [_autoware_object(factory, detections, i, covariances) for i in range(len(detections))]
    header = make_header(factory, detections.stamp_ns, detections.frame_id)
    return factory.make(AUTOWARE_OBJECTS, header=header, objects=objects)


def _autoware_object(
    factory: MessageFactory, d: Detections3D, i: int, covariances: Mapping[str, NDArray[np.float64]]
) -> Any:
    kind, yaw_rad = d.classes[d.labels[i]], float(d.yaw_rad[i])
    label = _AUTOWARE_LABELS.get(kind, _UNKNOWN)
    has_twist = bool(np.isfinite(d.velocity[i]).all())
    linear = _in_own_axes(d.velocity[i], yaw_rad) if has_twist else np.zeros(3)
    twist = factory.make(
        "geometry_msgs/msg/Twist", linear=make_vector(factory, linear), angular=make_vector(factory, np.zeros(3))
    )
    pose, covariance = _pose(factory, d.centers[i], yaw_rad), covariances[kind]
    kinematics = factory.make(
        f"{_AUTOWARE}/DetectedObjectKinematics",
        pose_with_covariance=factory.make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance),
        has_position_covariance=bool(covariance.any()),
        orientation_availability=_SIGN_UNKNOWN if label == _UNKNOWN else _AVAILABLE,
        twist_with_covariance=factory.make(
            "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)
        ),
        has_twist=has_twist,
        has_twist_covariance=False,
    )
    shape = factory.make(
        f"{_AUTOWARE}/Shape",
        type=_BOUNDING_BOX,
        footprint=factory.make("geometry_msgs/msg/Polygon", points=[]),
        dimensions=make_vector(factory, d.sizes_lwh[i]),
    )
    return factory.make(
        f"{_AUTOWARE}/DetectedObject",
        existence_probability=float(d.scores[i]),
        classification=[factory.make(f"{_AUTOWARE}/ObjectClassification", label=label, probability=1.0)],
        kinematics=kinematics,
        shape=shape,
    )


def _in_own_axes(velocity: NDArray[np.floating], yaw_rad: float) -> NDArray[np.float64]:
    (vx, vy), cos, sin = (float(v) for v in velocity), math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([cos * vx + sin * vy, cos * vy - sin * vx, 0.0])


def _covariances(classes: Sequence[str], deviations: Deviations | None) -> dict[str, NDArray[np.float64]]:
    """By class (36,), row-major over x, y, z [m] and the turns about x, y, z [rad]; z is as uncertain as x and y."""
    covariances = {}
    for name in classes:
        position_m, yaw_rad = (deviations or {}).get(name, (0.0, 0.0))
        if not (0 <= position_m < math.inf and 0 <= yaw_rad < math.inf):
            raise DataError(f"deviations of {name}: expected finite values from 0, got {position_m} m, {yaw_rad} rad")
        variances = [position_m**2] * 3 + [0.0, 0.0, yaw_rad**2]
        covariances[name] = np.diag(variances).reshape(-1)
    return covariances


def _looks(factory: MessageFactory, d: Detections3D, i: int, color_rgb: NDArray[np.uint8]) -> dict[str, dict[str, Any]]:
    """By namespace: the fields in which the marker of detection i differs from a blank one."""
    vx, vy = (float(v) for v in d.velocity[i])
    speed = math.hypot(vx, vy)
    moves = math.isfinite(speed) and speed > MOVING_MPS
    text = f"{d.classes[d.labels[i]]} {d.scores[i]:.2f}" + (f" {speed:.1f} m/s" if moves else "")
    above = d.centers[i] + np.array([0.0, 0.0, d.sizes_lwh[i, 2] / 2 + _TEXT_HEIGHT_M])
    looks: dict[str, dict[str, Any]] = {
        "boxes": {
            "type": _CUBE,
            "pose": _pose(factory, d.centers[i], float(d.yaw_rad[i])),
            "scale": make_vector(factory, np.maximum(d.sizes_lwh[i], 0.01)),
            "color": _color(factory, color_rgb, 0.5),
        },
        "labels": {
            "type": _TEXT,
            "pose": _pose(factory, above, 0.0),
            # RViz takes x for the width of a space, and for its default if zero.
            "scale": make_vector(factory, np.array([0.0, 0.0, _TEXT_HEIGHT_M])),
            "color": _color(factory, np.full(3, 255, np.uint8), 1.0),
            "text": text,
        },
    }
    if moves:
        looks["velocity"] = {
            "type": _ARROW,
            "pose": _pose(factory, d.centers[i], math.atan2(vy, vx)),
            "scale": make_vector(factory, np.array([speed * _ARROW_S, _ARROW_WIDTH_M, _ARROW_WIDTH_M])),
            "color": _color(factory, color_rgb, 1.0),
        }
    return looks


def _blank_marker(factory: MessageFactory, d: Detections3D) -> dict[str, Any]:
    """Every field of a Marker but `ns` and `id`; markers share the messages in it."""
    empty = factory.octets(np.zeros(0, np.uint8))
    unset = make_header(factory, 0, "")
    return {
        "header": make_header(factory, d.stamp_ns, d.frame_id),
        "type": _CUBE,
        "action": _ADD,
        "pose": _pose(factory, np.zeros(3), 0.0),
        "scale": make_vector(factory, np.ones(3)),
        "color": _color(factory, np.zeros(3, np.uint8), 1.0),
        "lifetime": factory.make("builtin_interfaces/msg/Duration", sec=0, nanosec=0),
        "frame_locked": False,
        "points": [],
        "colors": [],
        "texture_resource": "",
        "texture": factory.make("sensor_msgs/msg/CompressedImage", header=unset, format="", data=empty),
        "uv_coordinates": [],
        "text": "",
        "mesh_resource": "",
        "mesh_file": factory.make("visualization_msgs/msg/MeshFile", filename="", data=empty),
        "mesh_use_embedded_materials": False,
    }


def _color(factory: MessageFactory, rgb: NDArray[np.uint8], alpha: float) -> Any:
    red, green, blue = (float(c) / 255 for c in rgb)
    return factory.make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha)


def _pose(factory: MessageFactory, position: NDArray[np.floating], yaw_rad: float) -> Any:
    quat_xyzw = np.array([0.0, 0.0, math.sin(yaw_rad / 2), math.cos(yaw_rad / 2)])
    return make_pose(factory, position, quat_xyzw)
