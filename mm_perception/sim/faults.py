"""Faults of sensors, clocks and transforms, put into a stream of messages as it is sent. Pure and seeded, without ROS.

A `FaultyStream` stands between a vehicle and the wire: it is handed every message, and gives what is really sent: the
same, another, none, or some of them later. Messages are bag messages (`bags.typestore.BagMessages`); inputs are never
changed. `KINDS` names every kind, what it is and which sensors it makes sense for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.fields import NANOSECONDS, make_time, octets_of
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, SensorConfig

CLOCK_TOPIC = "/clock"
VEHICLE = "vehicle"
"""Target of faults that are no single sensor's."""
WRONG_FRAME = "nowhere"
ALL_KINDS = ("rgb", "depth", "thermal", "events", "lidar")
IMAGES = ("rgb", "depth", "thermal")
SECTOR_RAD = math.pi / 3
"""Half of what a partly covered LiDAR still sees."""
ONE_IN = 4
"""How many of a slowed sensor's messages come."""
_FACTORY = BagMessages()


@dataclass(frozen=True, slots=True)
class Sent:
    """One message on its way. at_ns: when it is sent, on the vehicle's clock, by which stamps count, too."""

    topic: str
    message: Any
    at_ns: int


Injector = Callable[[Sent], list[Sent]]
"""What is really sent instead of a message."""
Change = Callable[[Any], Any]
"""Another message for a message."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: of `KINDS`.
        target: name of a sensor, a topic, or `VEHICLE`.
        start_s, duration_s: on the vehicle's clock, since it set off.
        seed: of what is random about it.
    """

    kind: str
    target: str
    start_s: float
    duration_s: float
    seed: int = 0

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of fault does.

    Attributes:
        text: in words.
        sensors: kinds of sensors that can have it; empty: it is no sensor's.
        make: an injector for one sensor; None: of sensors' messages, nothing is changed.
    """

    text: str
    sensors: tuple[str, ...] = ()
    make: Callable[[SensorConfig, np.random.Generator], Injector] | None = None


class FaultyStream:
    """Puts faults into the messages of one rig."""

    def __init__(self, rig: RigConfig, faults: Sequence[Fault], start_ns: int) -> None:
        """Args:
        start_ns: what the faults' times count from.

        Raises:
            ConfigError: a fault is of an unknown kind or target.
        """
        self._start_ns = start_ns
        self._faults = [(fault, _injectors(fault, rig)) for fault in faults]

    def send(self, sent: Sent) -> list[Sent]:
        """What is really sent of one message; hand them in by their times."""
        found = [sent]
        at_s = (sent.at_ns - self._start_ns) / NANOSECONDS
        for fault, injectors in self._faults:
            if fault.start_s <= at_s < fault.end_s and sent.topic in injectors:
                found = [after for before in found for after in injectors[sent.topic](before)]
        return found


def targets(kind: str, rig: RigConfig) -> tuple[str, ...]:
    """What of a rig can have a kind of fault; empty: nothing.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown fault {kind!r} (known: {', '.join(KINDS)})")
    sensors = tuple(sensor.name for sensor in rig.sensors if sensor.kind in KINDS[kind].sensors)
    if sensors:
        return sensors
    others = {
        "tf_gone": (rig.tf,) if rig.fixed_frame else (),
        "camera_info_gone": tuple(dict.fromkeys(s.camera_info for s in rig.sensors if s.camera_info)),
        "clock_dies": (CLOCK_TOPIC,),
        "vehicle_jump": (VEHICLE,),
        "subscribers": (VEHICLE,),
    }
    return others.get(kind, ())


def draw_faults(
    rig: RigConfig,
    kinds: Sequence[str],
    span_s: tuple[float, float],
    rng: np.random.Generator,
    *,
    duration_s: tuple[float, float] = (4.0, 6.0),
    pause_s: float = 6.0,
    pairs: float = 0.2,
) -> list[Fault]:
    """Faults one after the other, by their start; every kind comes once before one comes again.

    Args:
        span_s: the first may start, and the last must have ended with its pause.
        duration_s: shortest and longest.
        pause_s: from the end of one to the start of the next.
        pairs: share of faults in the middle of which another one starts, of another target.
    """
    possible = [kind for kind in kinds if targets(kind, rig)]
    found: list[Fault] = []
    at_s, deck = span_s[0], list[str]()

    def draw(start_s: float, without: str = "") -> Fault | None:
        if not deck:
            deck.extend(rng.permutation(possible))
        for kind in list(deck):
            places = [place for place in targets(kind, rig) if place != without]
            # A pair must leave each one's names: what is the whole vehicle's is drawn alone.
            if places and not (without and VEHICLE in places):
                deck.remove(kind)
                seconds, seed = round(rng.uniform(*duration_s), 2), int(rng.integers(1 << 31))
                return Fault(str(kind), str(rng.choice(places)), round(start_s, 2), seconds, seed)
        return None

    while possible and at_s + duration_s[1] + pause_s <= span_s[1]:
        fault = draw(at_s)
        assert fault is not None
        found.append(fault)
        end_s = fault.end_s
        middle_s = at_s + fault.duration_s / 2
        is_pair = rng.random() < pairs and fault.target != VEHICLE and middle_s + duration_s[1] + pause_s <= span_s[1]
        if is_pair and (second := draw(middle_s, fault.target)) is not None:
            found.append(second)
            end_s = max(end_s, second.end_s)
        at_s = end_s + pause_s
    return found


def _injectors(fault: Fault, rig: RigConfig) -> dict[str, Injector]:
    """By topic."""
    if fault.target not in targets(fault.kind, rig):
        known = ", ".join(targets(fault.kind, rig)) or "nothing"
        raise ConfigError(f"fault {fault.kind}: of rig {rig.name} it can befall {known}, got {fault.target!r}")
    rng, make = np.random.default_rng(fault.seed), KINDS[fault.kind].make
    if make is not None:
        sensor = rig.sensor(fault.target)
        return {sensor.input_topic: make(sensor, rng)}
    if fault.kind == "vehicle_jump":
        shift_ns = _either_way(rng, 2.0, 8.0)
        topics = {rig.tf, *(s.input_topic for s in rig.sensors), *(s.camera_info for s in rig.sensors)}
        return dict.fromkeys(topics, _changing(lambda message: shifted(message, shift_ns)))
    return {} if fault.kind == "subscribers" else {fault.target: _nothing}


def _nothing(sent: Sent) -> list[Sent]:
    return []


def _changing(change: Change) -> Injector:
    return lambda sent: [replace(sent, message=change(sent.message))]


def _always(change: Change) -> Callable[[SensorConfig, np.random.Generator], Injector]:
    """The same change of every message, whatever the sensor."""
    return lambda sensor, rng: _changing(change)


# --- when messages come ---


def _die(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    return _nothing


def _freeze(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """The first message again and again, under the headers of those that it hides."""
    kept: list[Any] = []

    def send(sent: Sent) -> list[Sent]:
        kept[:] = kept or [sent.message]
        new = {name: getattr(sent.message, name) for name in ("header", "seq") if hasattr(sent.message, name)}
        return [replace(sent, message=replace(kept[0], **new))]

    return send


def _repeat(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """The first message again and again, as it was."""
    kept: list[Any] = []

    def send(sent: Sent) -> list[Sent]:
        kept[:] = kept or [sent.message]
        return [replace(sent, message=kept[0])]

    return send


def _stutter(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """Messages are held back and come in bursts."""
    every_ns = round(rng.uniform(1.2, 1.6) * NANOSECONDS)
    first: list[int] = []

    def send(sent: Sent) -> list[Sent]:
        first[:] = first or [sent.at_ns]
        waited_ns = -(sent.at_ns - first[0] + 1) % every_ns
        return [replace(sent, at_ns=sent.at_ns + waited_ns)]

    return send


def _rate(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """One in four comes."""
    count = [0]

    def send(sent: Sent) -> list[Sent]:
        count[0] += 1
        return [sent] if count[0] % ONE_IN == 0 else []

    return send


# --- what their stamps say ---


def shifted(message: Any, shift_ns: int) -> Any:
    """The message with its stamp, or those of its transforms, later."""
    if hasattr(message, "transforms"):
        return replace(message, transforms=[shifted(one, shift_ns) for one in message.transforms])
    stamp = message.header.stamp
    return stamped(message, stamp.sec * NANOSECONDS + stamp.nanosec + shift_ns)


def stamped(message: Any, stamp_ns: int) -> Any:
    """The message with another stamp in its header [ns]."""
    return replace(message, header=replace(message.header, stamp=make_time(_FACTORY, stamp_ns)))


def _either_way(rng: np.random.Generator, least_s: float, most_s: float) -> int:
    """A time [ns] of a size, ahead or behind."""
    return round(rng.uniform(least_s, most_s) * NANOSECONDS) * int(rng.choice((-1, 1)))


def _clock_jump(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    shift_ns = _either_way(rng, 2.0, 8.0)
    return _changing(lambda message: shifted(message, shift_ns))


def _clock_skew(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    shift_ns = _either_way(rng, 0.35, 0.9)
    return _changing(lambda message: shifted(message, shift_ns))


def _clock_drift(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """The clock is as much too fast or too slow as makes 1 s in 3 s."""
    side, first = int(rng.choice((-1, 1))), list[int]()

    def send(sent: Sent) -> list[Sent]:
        first[:] = first or [sent.at_ns]
        return [replace(sent, message=shifted(sent.message, side * (sent.at_ns - first[0]) // 3))]

    return send


def _no_stamp(message: Any) -> Any:
    return stamped(message, 0)


# --- what they hold ---


def _frame(message: Any) -> Any:
    return replace(message, header=replace(message.header, frame_id=WRONG_FRAME))


def _cut(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """A part of the bytes is there; never whole words of events."""

    def change(message: Any) -> Any:
        name = "events" if sensor.kind == "events" else "data"
        data = octets_of(getattr(message, name))
        kept = int(len(data) * rng.uniform(0.2, 0.8)) | 1
        return replace(message, **{name: _FACTORY.octets(data[:kept])})

    return _changing(change)


def _resolution(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """Half as wide and high."""

    def change(message: Any) -> Any:
        if sensor.kind == "events":
            return replace(message, width=message.width // 2, height=message.height // 2)
        pixels = pixels_of(message)
        small = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_NEAREST)
        return with_pixels(message, small)

    return _changing(change)


def _encoding(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """A driver that was set up otherwise: another file format, encoding, or set of fields."""

    def change(message: Any) -> Any:
        if sensor.kind == "events":
            return replace(message, encoding="evt2")
        if sensor.kind == "lidar":
            return replace(message, fields=[one for one in message.fields if one.name in ("x", "y", "z")])
        pixels = pixels_of(message)
        if not hasattr(message, "format"):
            return replace(message, encoding="mono8" if message.encoding != "mono8" else "8UC1")
        if "png" in message.format:  # 16 bit, which jpeg cannot hold
            grey = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
            return replace(message, format="jpeg", data=_file(grey, ".jpg"))
        return replace(message, format="png", data=_file(pixels, ".png"))

    return _changing(change)


def _filled(share: float) -> Callable[[SensorConfig, np.random.Generator], Injector]:
    """All pixels are at one end of the scale. Args: share: 0 or 1."""

    def change(message: Any) -> Any:
        pixels = pixels_of(message)
        full = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1.0
        return with_pixels(message, np.full_like(pixels, full * share))

    return _always(change)


def _empty(message: Any) -> Any:
    return with_points(message, np.zeros(len(points_of(message)), bool))


def _sector(sensor: SensorConfig, rng: np.random.Generator) -> Injector:
    """All returns but those of a third of the circle are gone."""
    middle_rad = rng.uniform(-math.pi, math.pi)

    def change(message: Any) -> Any:
        points = points_of(message)
        azimuth_rad = np.arctan2(points["y"].astype(np.float64), points["x"].astype(np.float64))
        off_rad = (azimuth_rad - middle_rad + math.pi) % (2 * math.pi) - math.pi
        return with_points(message, np.abs(off_rad) < SECTOR_RAD)

    return _changing(change)


def pixels_of(message: Any) -> NDArray[Any]:
    """(H, W) or (H, W, C) of an Image or CompressedImage; colours in the order in which they are kept."""
    data = octets_of(message.data)
    if hasattr(message, "format"):
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
    kind = "u1" if "8" in message.encoding else "f4" if message.encoding.startswith("32F") else "u2"
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    rows = data.reshape(message.height, message.step).view(dtype)
    channels = 3 if message.encoding in ("rgb8", "bgr8") else 1
    pixels = rows[:, : message.width * channels]
    return pixels if channels == 1 else pixels.reshape(message.height, message.width, channels)


def with_pixels(message: Any, pixels: NDArray[Any]) -> Any:
    """The message with other pixels, in the same format or encoding."""
    if hasattr(message, "format"):
        return replace(message, data=_file(pixels, ".png" if "png" in message.format else ".jpg"))
    data = np.ascontiguousarray(pixels)
    step = data.nbytes // len(data)
    octets = _FACTORY.octets(data.view(np.uint8).reshape(-1))
    return replace(message, height=len(data), width=pixels.shape[1], step=step, data=octets)


def _file(pixels: NDArray[Any], extension: str) -> Any:
    return _FACTORY.octets(cv2.imencode(extension, pixels)[1].reshape(-1))


def points_of(message: Any) -> NDArray[Any]:
    """(N,) structured x and y of a packed PointCloud2, floats."""
    kinds = {7: "f4", 8: "f8"}
    axes = {one.name: one for one in message.fields if one.name in ("x", "y")}
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": list(axes),
            "formats": [order + kinds[int(one.datatype)] for one in axes.values()],
            "offsets": [int(one.offset) for one in axes.values()],
            "itemsize": int(message.point_step),
        }
    )
    return octets_of(message.data).view(layout)


def with_points(message: Any, kept: NDArray[np.bool_]) -> Any:
    """The cloud with those of its points alone, in one row."""
    step = int(message.point_step)
    rows = octets_of(message.data).reshape(-1, step)[kept]
    data = _FACTORY.octets(rows.reshape(-1))
    return replace(message, height=1, width=len(rows), row_step=len(rows) * step, data=data)


KINDS: Mapping[str, Kind] = {
    "die": Kind("sends nothing", ALL_KINDS, _die),
    "freeze": Kind("the same content under new stamps", ALL_KINDS, _freeze),
    "repeat": Kind("the same message, stamp and all", ALL_KINDS, _repeat),
    "stutter": Kind("comes in bursts, late", ALL_KINDS, _stutter),
    "rate": Kind(f"one message in {ONE_IN}", ALL_KINDS, _rate),
    "resolution": Kind("half as wide and high", (*IMAGES, "events"), _resolution),
    "encoding": Kind("another format, encoding or set of fields", ALL_KINDS, _encoding),
    "frame": Kind("a frame that nobody knows", ALL_KINDS, _always(_frame)),
    "cut": Kind("a part of the bytes", ALL_KINDS, _cut),
    "black": Kind("all pixels at the lowest value", IMAGES, _filled(0.0)),
    "saturated": Kind("all pixels at the highest value", ("rgb", "thermal"), _filled(1.0)),
    "empty": Kind("sweeps without a return", ("lidar",), _always(_empty)),
    "sector": Kind("returns from a third of the circle", ("lidar",), _sector),
    "clock_jump": Kind("stamps are seconds off", ALL_KINDS, _clock_jump),
    "clock_skew": Kind("stamps are 0.35 to 0.9 s off", ALL_KINDS, _clock_skew),
    "clock_drift": Kind("stamps drift away by 1 s in 3 s", ALL_KINDS, _clock_drift),
    "no_stamp": Kind("stamps are zero", ALL_KINDS, _always(_no_stamp)),
    "vehicle_jump": Kind("stamps of all sensors are seconds off"),
    "tf_gone": Kind("no transforms"),
    "camera_info_gone": Kind("no CameraInfo"),
    "subscribers": Kind("subscribers come and go"),
    "clock_dies": Kind("/clock stands still"),
}
