"""What kind of sensor a topic is, by type, encoding, name and content, with the reason.

A rule that does not fit says nothing; the first that fits decides. What no rule takes is left out, with a reason, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mm_perception.core.rig import MESSAGE_TYPES
from mm_perception.survey.facts import CloudContent, ImageContent, TopicFacts

_THERMAL = {
    *("thermal", "thermo", "lwir", "mwir", "flir", "boson", "optris", "lepton", "tau2", "vue", "seek", "infratec"),
    *("xenics", "hikmicro", "adk", "radiometric"),
}
_INFRARED = {"ir", "infrared", "tir", "ir8", "ir16"}
_STEREO_INFRARED = re.compile(r"^infra(red)?(1|2|left|right)?$")
_DEPTH = {"depth", "depths", "disparity", "range"}
_LABELS = {
    *("label", "labels", "seg", "semantic", "semantics", "segmentation", "mask", "masks", "class", "classes"),
    *("labelids", "annotation", "annotations"),
}
_TRUTH = {"truth", "gt", "ground", "groundtruth", "annotation", "annotations", "annotated", "objects"}
_TRUTH_IMAGES, _INSTANCES = {"truth", "gt", "groundtruth"}, {"instance", "instances", "panoptic"}
_PICTURES_OF_RESULTS = {"overlay", "debug", "visualization", "viz", "detections", "annotated", "colormap", "heatmap"}
_RADAR = {"radar", "ars408", "ars430", "sonar"}
_RADAR_FIELDS = {"doppler", "rcs", "snr", "v_doppler_mps", "radial_velocity"}
_EVENTS = {"events", "event", "dvs", "prophesee", "davis", "evk"}
_TYPES_WITH_REASON = {
    "LaserScan": "one row of ranges: no sensor kind of the rig takes it",
    "DisparityImage": "disparity, not depth: run stereo_image_proc or depth_image_proc, and name its depth image",
    "VelodyneScan": "packets: run velodyne_pointcloud, and name its point cloud",
    "VelodynePacket": "packets: run velodyne_pointcloud, and name its point cloud",
    "PacketMsg": "packets: run ouster_ros (os_cloud), and name its point cloud",
    "CustomMsg": "Livox's own points: set xfer_format: 0 in livox_ros_driver2, or name its PointCloud2",
    "RadarScan": "radar: no sensor kind of the rig takes it",
    "PointCloud": "the old point cloud: convert it to PointCloud2 (point_cloud_converter)",
}
_QUIET = {
    *("Imu", "NavSatFix", "NavSatStatus", "Clock", "Log", "ParameterEvent", "DiagnosticArray", "DiagnosticStatus"),
    *("Twist", "TwistStamped", "String", "Bool", "Header", "JointState", "Marker", "MarkerArray", "LabelInfo"),
    *("CameraInfo", "TFMessage", "Metadata"),
}
"""Types that are no sensor of a rig, so plainly that a reason would be noise."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a topic is.

    Attributes:
        role: a sensor kind, labels, objects, object_states, odometry, or empty: left out.
        reason: by what, or why it was left out; empty where that is plain.
        is_guess: whether it is worth a look.
    """

    role: str
    reason: str = ""
    is_guess: bool = False


def words_of(*names: str) -> tuple[str, ...]:
    """The words of topic and frame names, in small letters; camelCase is split."""
    split = " ".join(re.sub(r"([a-z])([A-Z])", r"\1 \2", name) for name in names)
    return tuple(word for word in re.split(r"[^a-z0-9]+", split.lower()) if word)


def judge(one: TopicFacts, siblings: Iterable[TopicFacts] = ()) -> Verdict:
    """What a topic is; `siblings` are all topics of the recording."""
    short = one.kind_of_type
    if one.type_name in MESSAGE_TYPES["rgb"] or isinstance(one.content, ImageContent):
        return _judge_image(one, list(siblings))
    if isinstance(one.content, CloudContent) or one.type_name in MESSAGE_TYPES["lidar"]:
        return _judge_cloud(one, list(siblings))
    if one.type_name in MESSAGE_TYPES["events"]:
        return _decodable(one, Verdict("events", f"type {short}"))
    if short == "Odometry":
        return Verdict("odometry", "type Odometry")
    if short == "Detection3DArray":
        named = set(words_of(one.topic)) & _TRUTH
        if named:
            return Verdict("objects", f"boxes, and the name has '{sorted(named)[0]}'", is_guess=True)
        return Verdict("", "boxes: if they are the truth, name it under objects")
    if short in _TYPES_WITH_REASON:
        return Verdict("", _TYPES_WITH_REASON[short])
    return Verdict("", "" if short in _QUIET else f"no rig takes a {one.type_name}")


def _decodable(one: TopicFacts, verdict: Verdict) -> Verdict:
    return Verdict("", f"cannot be decoded: {one.problem}") if one.problem else verdict


def _judge_cloud(one: TopicFacts, siblings: list[TopicFacts]) -> Verdict:
    words = set(words_of(one.topic, one.frame))
    fields = set(one.content.fields) if isinstance(one.content, CloudContent) else set()
    if {"vx", "vy", "lidar_points"} <= fields:
        return Verdict("object_states", "fields vx, vy and lidar_points")
    if words & _RADAR or fields & _RADAR_FIELDS:
        return Verdict("", "radar: no sensor kind of the rig takes it")
    if fields and "z" not in fields and {"x", "y"} <= fields and fields & {"p", "polarity", "pol"}:
        if one.type_name in MESSAGE_TYPES["events"]:
            return _decodable(one, Verdict("events", "a cloud of x, y and polarity: events"))
        return Verdict("", "a cloud of x, y and polarity: events; publish them as event_camera_msgs/EventPacket")
    if words & _DEPTH or one.topic.endswith("/depth/points") or _is_of_depth_camera(one, siblings):
        return Verdict("", "a cloud that was made of a depth image")
    if one.count and not isinstance(one.content, CloudContent):
        return Verdict("", f"cannot be decoded: {one.problem or 'nothing was sampled'}")
    return _decodable(one, Verdict("lidar", f"type {one.kind_of_type}"))


def _is_of_depth_camera(one: TopicFacts, siblings: list[TopicFacts]) -> bool:
    cameras = [s for s in siblings if isinstance(s.content, ImageContent) and set(words_of(s.topic)) & _DEPTH]
    return bool(one.frame) and any(s.frame == one.frame for s in cameras)


_ImageRule = Callable[[TopicFacts, ImageContent, tuple[str, ...], list[TopicFacts]], "Verdict | None"]


def _judge_image(one: TopicFacts, siblings: list[TopicFacts]) -> Verdict:
    content = one.content if isinstance(one.content, ImageContent) else ImageContent(0, 0, "")
    words = words_of(one.topic, one.frame)
    for rule in _IMAGE_RULES:
        verdict = rule(one, content, words, siblings)
        if verdict is not None:
            return verdict
    return Verdict("", f"encoding {content.encoding!r} is of no kind of the rig")


def _stereo_infrared(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    topic = words_of(one.topic)
    if any(_STEREO_INFRARED.match(word) and word != "infrared" for word in topic):
        return Verdict("", "near infrared of a stereo depth camera: shows reflected light, not heat")
    if set(topic) & _INFRARED and not set(words) & _THERMAL and _has_depth_beside(one, siblings):
        return Verdict("", "near infrared of the depth camera beside it: shows reflected light, not heat")
    return None


def _has_depth_beside(one: TopicFacts, siblings: list[TopicFacts]) -> bool:
    parts = one.topic.strip("/").split("/")
    at = next((i for i, part in enumerate(parts) if set(words_of(part)) & _INFRARED), 0)
    room = "/" + "/".join(parts[:at])
    return at > 0 and any(s.topic.startswith(room + "/") and set(words_of(s.topic)) & _DEPTH for s in siblings)


def _labels(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    words_of_topic = set(words_of(one.topic))
    named = words_of_topic & _LABELS
    if words_of_topic & _INSTANCES or (words_of_topic & _TRUTH_IMAGES and not named):
        return Verdict("", "a truth that this package does not score")
    if not named:
        return None
    if content.channels == 1 and content.bits == 8:
        return Verdict("labels", f"8 bits, and the name has '{sorted(named)[0]}'", is_guess=True)
    return Verdict("", "a coloured or wide label image: labels are mono8 class ids")


def _results(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    named = set(words_of(one.topic)) & _PICTURES_OF_RESULTS
    return Verdict("", f"a picture for people: the name has '{sorted(named)[0]}'") if named else None


def _undecodable(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    if content.channels:
        return None
    if not one.count:
        return Verdict("", "no message came")
    return Verdict("", f"cannot be decoded: {one.problem or 'nothing was sampled'}")


def _thermal(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    named = set(words) & (_THERMAL | _INFRARED) or {w for w in words if w.startswith(("thermal", "lwir", "flir"))}
    if named:
        return Verdict("thermal", f"the name has '{sorted(named)[0]}'", is_guess=bool(named <= _INFRARED))
    return None


def _depth(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    named = sorted(set(words) & _DEPTH) or [w for w in words if w.startswith("depth")]
    is_wide = content.channels == 1 and (content.bits == 16 or content.is_float)
    if named and not is_wide:
        return Verdict("", f"the name has '{named[0]}', but it is a picture of depth, not distances")
    if named and named[0] == "disparity":
        return Verdict("", "disparity, not depth: name the depth image that stereo processing makes of it")
    if named:
        return Verdict("depth", f"encoding {content.encoding}, and the name has '{named[0]}'")
    if "compressedDepth" in content.encoding or content.is_float:
        return Verdict("depth", f"encoding {content.encoding}", is_guess=content.is_float)
    return None


def _wide_grey(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    """16 bits without a telling name: temperatures lie close together and never are zero, distances do not."""
    if content.channels != 1 or content.bits != 16:
        return None
    is_close = content.zero_share < 0.001 and content.high < 1.6 * content.low
    if content.encoding.startswith("16UC1") and not is_close:
        return Verdict("depth", f"encoding {content.encoding}", is_guess=content.zero_share < 0.001)
    if is_close:
        return Verdict("thermal", f"16 bits, values close together ({content.low:.0f}..{content.high:.0f})", True)
    return Verdict("rgb", f"encoding {content.encoding}: a grey camera of 16 bits", is_guess=True)


def _colour(
    one: TopicFacts, content: ImageContent, words: tuple[str, ...], siblings: list[TopicFacts]
) -> Verdict | None:
    grey = content.channels == 1 or content.is_grey
    return Verdict("rgb", f"encoding {content.encoding}" + (", a grey camera" if grey else ""))


_IMAGE_RULES: tuple[_ImageRule, ...] = (
    _stereo_infrared, _undecodable, _results, _labels, _thermal, _depth, _wide_grey, _colour,
)  # fmt: skip
