"""The rig: which sensors a vehicle has, where their messages come from and how they are matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mm_perception.core.clocks import CLOCK_OFFSET_NS
from mm_perception.core.config import load_yaml, setting
from mm_perception.core.driver_packets import way_out
from mm_perception.core.errors import ConfigError
from mm_perception.core.frames import frame_name, prefixed
from mm_perception.core.limits import MAX_EVENT_PIXELS, MAX_EVENTS, MAX_PIXELS, MAX_POINTS, MAX_SENSORS, MOST_PIXELS
from mm_perception.core.resources import find_config

SensorKind = Literal["rgb", "depth", "thermal", "events", "lidar"]
Reliability = Literal["auto", "best_effort", "reliable"]
ThermalScale = Literal["counts", "agc", "centikelvin", "decikelvin", "kelvin", "centicelsius", "decicelsius", "celsius"]

MESSAGE_TYPES: dict[str, tuple[str, ...]] = {
    "rgb": (
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
        "ffmpeg_image_transport_msgs/msg/FFMPEGPacket",
        "foxglove_msgs/msg/CompressedVideo",
    ),
    "depth": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "thermal": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "events": (
        "event_camera_msgs/msg/EventPacket",
        "dvs_msgs/msg/EventArray",
        "prophesee_event_msgs/msg/EventArray",
        "sensor_msgs/msg/PointCloud2",
    ),
    "lidar": (
        "sensor_msgs/msg/PointCloud2",
        "livox_ros_driver2/msg/CustomMsg",
        "livox_ros_driver/msg/CustomMsg",
        "livox_interfaces/msg/CustomMsg",
    ),
}
"""Message types a sensor may send; the first is the default."""

MOST_OFFSET_MS = 4e12
"""A century and more: a clock may count from 1970 or from the start of its device."""
TF_TOPIC, TF_STATIC_TOPIC = "/tf", "/tf_static"
"""Where TF is, unless a rig says otherwise."""

DEFAULT_DEPTH = {"events": 64}
"""Queue depths that differ from 1: event packets are pieces of one stream, and the decoder needs each."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a sensor sits and how it sees. Only the simulator reads it: a vehicle says it by TF and CameraInfo."""

    frame_id: str = setting(description="its frame; of a camera the optical frame")
    xyz_m: tuple[float, float, float] = setting(description="place in base_link: ahead, left, up")
    yaw_deg: float = setting(0.0, "where it looks, about +z, 0: ahead", minimum=-360.0, maximum=360.0)
    pitch_deg: float = setting(0.0, "how far it looks down", minimum=-90.0, maximum=90.0)
    width_px: int = setting(0, "cameras: image width", minimum=0, maximum=8192)
    height_px: int = setting(0, "cameras: image height", minimum=0, maximum=8192)
    focal_px: float = setting(0.0, "cameras: focal length, the principal point is the middle", minimum=0.0, maximum=1e5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_id", frame_name(self.frame_id))
        if not self.frame_id:
            raise ConfigError("frame_id: expected the name of a frame, got none")


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """One sensor of the rig."""

    name: str = setting(description="name in bundles, diagnostics and model cards' modality lookup")
    kind: SensorKind = setting(description="what it measures")
    topic: str = setting("", "topic of its messages; empty: ~/input/<name>")
    type: str = setting("", "message type; empty: what is published, else the kind's raw type")
    camera_info: str = setting("", "topic of its sensor_msgs/CameraInfo; empty: none")
    rectified: bool = setting(False, "its images are rectified: P of the CameraInfo holds, and no distortion")
    frame_id: str = setting("", "its frame, in the place of what its messages say; empty: theirs")
    required: bool = setting(True, "bundles without it are dropped")
    offset_ms: float = setting(
        0.0,
        "its stamp minus the reference's for one instant; from 1000 on another clock, whose stamps are corrected by it",
        minimum=-MOST_OFFSET_MS,
        maximum=MOST_OFFSET_MS,
    )
    tolerance_ms: float = setting(50.0, "largest skew after the offset", minimum=0.0, maximum=1e4)
    window_ms: float = setting(
        50.0, "events: how long a time before the reference is gathered", minimum=0.1, maximum=1e4
    )
    bit_depth: int = setting(16, "rgb: bits that 16-bit pixels use", minimum=8, maximum=16)
    depth_unit_m: float = setting(
        0.0, "depth: metres per unit; 0: 0.001 of integers, 1 of floats (REP 118)", minimum=0.0, maximum=100.0
    )
    thermal_scale: ThermalScale = setting("counts", "thermal: what a pixel value means")
    thermal_gain: float = setting(
        0.0, "thermal: kelvin per unit, in the place of thermal_scale; 0: none", minimum=0.0, maximum=1e4
    )
    thermal_offset_k: float = setting(
        0.0, "thermal: kelvin at a value of 0, with thermal_gain", minimum=-1e4, maximum=1e4
    )
    intensity_max: float = setting(255.0, "lidar: intensity at full scale, mapped to 255", minimum=1e-6, maximum=1e6)
    coverage_deg: float = setting(
        360.0,
        "lidar: azimuth that it covers [deg]; with less than 90 % of it, no boxes does not mean a free road",
        minimum=1.0,
        maximum=360.0,
    )
    rate_hz: float = setting(0.0, "messages per second that are expected; 0: learned", minimum=0.0, maximum=1e5)
    reliability: Reliability = setting(
        "auto", "QoS of the subscription; auto: reliable where every publisher is, else best effort"
    )
    depth: int = setting(0, "QoS queue depth; 0: 1, or 64 for events", minimum=0, maximum=10_000)
    max_pixels: int = setting(
        0, "largest image or sensor [px]; 0: 2^24, or 2^22 for events", minimum=0, maximum=MOST_PIXELS
    )
    max_points: int = setting(MAX_POINTS, "lidar: most points of a message", minimum=1, maximum=100_000_000)
    max_events: int = setting(MAX_EVENTS, "events: most events of a message", minimum=1, maximum=100_000_000)
    size_px: tuple[int, ...] = setting(
        (),
        "events: [width, height] of the sensor, where its messages do not say it (a cloud)",
        minimum=1,
        maximum=65_535,
    )
    mount: Mount | None = setting(None, "simulator: where it sits; depth, thermal and events share a camera's")

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_id", frame_name(self.frame_id))
        if not self.name or not self.name.replace("_", "a").isalnum():
            raise ConfigError(f"name: expected letters, digits and underscores, got {self.name!r}")
        known = MESSAGE_TYPES.get(self.kind, ())
        if self.type and self.type not in known:
            raise ConfigError(
                f"type: a {self.kind} sensor sends {' or '.join(known)}, got {self.type!r}{_hint(self.type)}"
            )
        for key, kind, is_set in (
            ("bit_depth", "rgb", self.bit_depth != 16),
            ("depth_unit_m", "depth", self.depth_unit_m),
            ("thermal_gain", "thermal", self.thermal_gain),
        ):
            if is_set and self.kind != kind:
                raise ConfigError(f"{key}: expected of a {kind} sensor, {self.name} is of kind {self.kind}")
        if self.thermal_offset_k and not self.thermal_gain:
            raise ConfigError("thermal_offset_k: expected with a thermal_gain (kelvin per unit)")
        if self.thermal_gain and self.thermal_scale not in ("counts", "agc"):
            raise ConfigError(f"thermal_gain: expected in the place of thermal_scale {self.thermal_scale}, got both")
        if len(self.size_px) not in (0, 2):
            raise ConfigError(f"size_px: expected [width, height], got {list(self.size_px)}")

    @property
    def clock_offset_ns(self) -> int:
        """How far its clock is ahead of the reference's; 0 where `offset_ms` is a time between two measurements."""
        offset_ns = round(self.offset_ms * 1e6)
        return offset_ns if abs(offset_ns) >= CLOCK_OFFSET_NS else 0

    @property
    def lag_ns(self) -> int:
        """Its stamp, on the reference's clock, minus the reference's of the set that it belongs to."""
        return round(self.offset_ms * 1e6) - self.clock_offset_ns

    @property
    def message_type(self) -> str:
        return self.type or MESSAGE_TYPES[self.kind][0]

    def with_type(self, published: Mapping[str, str]) -> SensorConfig:
        """As `RigConfig.with_types`."""
        kind = published.get(self.input_topic, "")
        return replace(self, type=kind) if not self.type and kind in MESSAGE_TYPES[self.kind] else self

    @property
    def input_topic(self) -> str:
        return self.topic or f"~/input/{self.name}"

    @property
    def pixel_limit(self) -> int:
        """The largest image that is decoded, and the largest CameraInfo that is believed [px]."""
        return self.max_pixels or (MAX_EVENT_PIXELS if self.kind == "events" else MAX_PIXELS)

    @property
    def queue_depth(self) -> int:
        return self.depth or DEFAULT_DEPTH.get(self.kind, 1)


@dataclass(frozen=True, slots=True)
class RigConfig:
    """All sensors of a vehicle and how their messages become bundles."""

    sensors: tuple[SensorConfig, ...] = setting(description="the sensors")
    reference: str = setting(description="the sensor whose stamps make the bundles; a camera of kind rgb")
    name: str = setting("rig", "how reports call the rig")
    max_wait_ms: float = setting(100.0, "how long a bundle may wait for late sensors", minimum=0.0, maximum=60_000.0)
    fixed_frame: str = setting("", "frame for motion compensation between stamps (odom, map); empty: extrinsics only")
    frame_prefix: str = setting(
        "", "what TF puts before the vehicle's frames (robot1) and its drivers do not; empty: they say the same"
    )
    tf: str = setting(TF_TOPIC, "topic of transforms that change (tf2_msgs/TFMessage)")
    tf_static: str = setting(TF_STATIC_TOPIC, "topic of transforms that stay")
    odometry: str = setting("", "topic of nav_msgs/Odometry, where the motion in fixed_frame is not on /tf")
    detector_lidar: str = setting("", "LiDAR of the detector; empty: the first")
    detector_cameras: tuple[str, ...] = setting((), "cameras of the detector; empty: all of kind rgb")
    labels: str = setting("", "topic of true class ids (mono8 images at the reference's stamps); for replay")
    objects: str = setting("", "topic of true boxes (vision_msgs/Detection3DArray); for replay")
    object_states: str = setting("", "topic of their velocities and LiDAR counts (PointCloud2, see rosbags/README.md)")

    def __post_init__(self) -> None:
        for key in ("fixed_frame", "frame_prefix"):
            object.__setattr__(self, key, frame_name(getattr(self, key)))
        if not self.tf or not self.tf_static or self.tf == self.tf_static:
            raise ConfigError(f"tf, tf_static: expected two topics, got {self.tf!r} and {self.tf_static!r}")
        names = [sensor.name for sensor in self.sensors]
        if len(names) > MAX_SENSORS:
            raise ConfigError(f"sensors: expected at most {MAX_SENSORS}, got {len(names)}")
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ConfigError(f"sensors: double name(s) {', '.join(double)}")
        reference = next((s for s in self.sensors if s.name == self.reference), None)
        if reference is None:
            raise ConfigError(f"reference: {self.reference!r} is no sensor (sensors: {', '.join(names)})")
        if reference.kind != "rgb":
            raise ConfigError(f"reference: {self.reference!r} must be of kind rgb, it is {reference.kind}")
        if reference.offset_ms:
            raise ConfigError(
                f"offset_ms: {self.reference!r} is the reference, whose stamps the others' are counted from"
            )
        for name in (*self.detector_cameras, *filter(None, [self.detector_lidar])):
            wanted = "lidar" if name == self.detector_lidar else "rgb"
            kinds = [sensor.kind for sensor in self.sensors if sensor.name == name]
            if kinds != [wanted] or self.detector_cameras.count(name) > 1:
                raise ConfigError(f"detector sensors: expected distinct names of kind {wanted}, got {name!r}")
        topics = [sensor.input_topic for sensor in self.sensors]
        double = sorted({topic for topic in topics if topics.count(topic) > 1})
        if double:
            raise ConfigError(f"sensors: double topic(s) {', '.join(double)}")

    @property
    def is_simulated(self) -> bool:
        """Whether its topics are those of this package's simulator, which are all below /sim."""
        return all(sensor.input_topic.startswith("/sim/") for sensor in self.sensors)

    def sensor(self, name: str) -> SensorConfig:
        for sensor in self.sensors:
            if sensor.name == name:
                return sensor
        raise ConfigError(f"rig {self.name}: no sensor {name!r}")

    def of_kind(self, kind: str) -> tuple[SensorConfig, ...]:
        return tuple(sensor for sensor in self.sensors if sensor.kind == kind)

    def frame_of(self, sensor: str, said: str) -> str:
        """The frame of a sensor's measurement: what the rig says, else what its message did, below the prefix."""
        return self.sensor(sensor).frame_id or prefixed(self.frame_prefix, said)

    def with_types(self, published: Mapping[str, str]) -> RigConfig:
        """The rig where each sensor without a type has the one that its topic has, if it is one of its kind's.

        Args:
            published: message types by topic.
        """
        return replace(self, sensors=tuple(sensor.with_type(published) for sensor in self.sensors))

    def with_max_wait_ms(self, max_wait_ms: float) -> RigConfig:
        return replace(self, max_wait_ms=max_wait_ms)


def _hint(type_name: str) -> str:
    text = way_out(type_name)
    return f"; {text}" if text else ""


def load_rig(name_or_path: str) -> RigConfig:
    """Loads a rig by the name of a shipped one (config/rigs) or by path.

    Raises:
        ConfigError: it does not exist, or holds unknown keys or impossible values.
    """
    path: Path = find_config("rigs", name_or_path)
    return load_yaml(path, RigConfig)
