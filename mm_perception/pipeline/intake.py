"""From messages to observations: decode, match in time, and attach the calibration of that moment.

The live node and the replay feed the same `Intake`; what comes out depends on the messages, their order and the
clock that is handed in, and on nothing else.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.decoders import make_decoder
from mm_perception.codec.guard import MessageGuard
from mm_perception.codec.transforms import decode_odometry, feed_transforms
from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.core.frames import prefixed
from mm_perception.core.rig import RigConfig, SensorConfig
from mm_perception.core.types import EventPacket, Measurement, PointCloud, SensorBundle
from mm_perception.geometry.camera import CameraModel
from mm_perception.geometry.transform_tree import TransformTree
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.latency import LatencyLog
from mm_perception.pipeline.lidar_view import DetectorTaps, LidarTap, LidarView
from mm_perception.pipeline.transform_wait import TransformWait
from mm_perception.sensing.events import concatenate
from mm_perception.sensing.health import Health, HealthMonitor
from mm_perception.sync.clocks import ClockWatch
from mm_perception.sync.synchronizer import JUMP_NS, MatchedSet, Stream, Synchronizer, SyncStats

_MS = 1_000_000
_HEALTH_KEPT = 256
"""Measurements of a sensor whose health is known; more than may wait in a synchronizer or for transforms."""
_MOST_HELD = 30


@dataclass(frozen=True, slots=True)
class InputTopic:
    """A topic that the intake wants.

    Attributes:
        role: sensor, camera_info, odometry, tf or tf_static.
        sensor: name of the sensor, empty for transforms.
    """

    topic: str
    type_name: str
    role: str
    sensor: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was known of cameras and frames when a bundle was complete.

    Attributes:
        cameras: by sensor name.
        reference_from: by sensor name, the transform from the sensor's frame to the reference camera's.
        problems: by sensor name, why there is no such transform.
    """

    cameras: Mapping[str, CameraModel]
    reference_from: Mapping[str, RigidTransform]
    problems: Mapping[str, str]

    def camera(self, sensor: str) -> CameraModel:
        """Raises CalibrationError if no (usable) CameraInfo came."""
        if sensor not in self.cameras:
            raise CalibrationError(f"no CameraInfo of {sensor!r} has come")
        return self.cameras[sensor]

    def transform_from(self, sensor: str) -> RigidTransform:
        """Reference camera from sensor. Raises CalibrationError if it is not known."""
        if sensor not in self.reference_from:
            raise CalibrationError(self.problems.get(sensor, f"no transform of {sensor!r} is known"))
        return self.reference_from[sensor]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One instant as the vehicle sees it: the measurements, and how they lie in space.

    Attributes:
        lidar_view: for a detector; None if there is none, or no LiDAR turn has come.
        health: by sensor name, of the measurements that are there; of the detector's LiDAR that of its newest sweep.
        arrived_ns: when the reference's message came, on the clock that the intake was given.
    """

    bundle: SensorBundle
    calibration: Calibration
    lidar_view: LidarView | None = None
    health: Mapping[str, Health] = field(default_factory=dict)
    arrived_ns: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all transforms were known."""
        return not self.calibration.problems and (self.lidar_view is None or not self.lidar_view.problems)


class MeasurementSynchronizer(Protocol):
    """What the intake asks of a synchronizer; see `sync.synchronizer.Synchronizer`."""

    stats: SyncStats

    @property
    def silent(self) -> tuple[str, ...]: ...

    @property
    def next_deadline_ns(self) -> int | None: ...

    def push(
        self,
        name: str,
        stamp_ns: int,
        item: Measurement,
        now_ns: int,
        *,
        until_ns: int | None = None,
        expire: bool = True,
    ) -> list[MatchedSet[Measurement]]: ...

    def poll(self, now_ns: int) -> list[MatchedSet[Measurement]]: ...

    def flush(self) -> list[MatchedSet[Measurement]]: ...


@dataclass(slots=True, eq=False)
class _Held:
    """A set that waits for transforms; `tried_with`: how many messages of them had come when it was last looked at."""

    matched: MatchedSet[Measurement]
    give_up_ns: int
    tried_with: int = -1


class Intake:
    """Takes messages one by one, gives observations.

    A message that cannot be used is dropped, counted in `rejected` by (topic, kind of error) and reported to
    `on_problem`; it never raises. Not thread-safe: feed it from one thread.

    Attributes:
        awaited: sensors that bundles wait for; others are in a bundle only where they came before it was complete.
        rejected: counts by (topic, name of the error class).
        newest_ns: newest stamp by sensor, on the reference's clock. newest_health: the same of health.
        clocks: how far the sensors' clocks are off the reference's.
        latency: durations of decoding by sensor, and of waiting for the other sensors.
    """

    def __init__(
        self,
        rig: RigConfig,
        on_problem: Callable[[str, Exception], None] | None = None,
        synchronizer: MeasurementSynchronizer | None = None,
        taps: DetectorTaps | None = None,
        used: Collection[str] | None = None,
        on_change: Callable[[str, str], None] | None = None,
        on_note: Callable[[str, str], None] | None = None,
    ) -> None:
        """Args:
        on_problem: is told the topic and the error of each message that was dropped.
        synchronizer: another policy than `make_synchronizer`'s.
        taps: what a detector needs beside the bundles.
        used: sensors that bundles wait for; None: all.
        on_change: is told a sensor's name and in words what of its messages' form is new: size, encoding or frame.
        on_note: is told a sensor's name and what its decoder has to say of its messages, each once.
        """
        self.rig = rig
        self.awaited = frozenset(s.name for s in rig.sensors if s.required or used is None or s.name in used)
        self._guard = MessageGuard(on_problem)
        self.rejected = self._guard.dropped
        self.newest_ns: dict[str, int] = {}
        self.newest_health: dict[str, Health] = {}
        self.latency = LatencyLog()
        self._on_change, self._on_note = on_change, on_note
        self._noted: dict[str, int] = {}
        self.clocks = ClockWatch(rig.reference)
        self._monitors = {sensor.name: HealthMonitor() for sensor in rig.sensors}
        self._health: dict[str, dict[int, Health]] = {sensor.name: {} for sensor in rig.sensors}
        self._form: dict[str, tuple[str, ...]] = {}
        self._decoders = {sensor.name: make_decoder(sensor) for sensor in rig.sensors}
        self._cameras: dict[str, CameraModel] = {}
        self._cameras_seen: dict[str, tuple[CameraModel, CameraModel]] = {}
        self._frames_told: set[str] = set()
        self._tree = TransformTree()
        self._transforms = TransformWait(self._tree)
        self._jumps_seen = 0
        self._held: deque[_Held] = deque()
        self._transforms_seen = 0
        self._synchronizer = synchronizer or make_synchronizer(rig, used)
        self._tap = LidarTap(rig, taps) if taps else None
        self._transform_wait_ns = round(rig.max_wait_ms * _MS)
        self.inputs = _inputs(rig)
        self._routes: dict[str, list[InputTopic]] = {}
        for route in self.inputs:
            self._routes.setdefault(route.topic, []).append(route)

    @property
    def sync_stats(self) -> SyncStats:
        return self._synchronizer.stats

    def losses(self) -> dict[str, Counter[str]]:
        """What decoders that live across messages lost, by sensor name and kind."""
        return {name: Counter(found) for name, found in self._of_decoders("losses")}

    def left_out(self) -> dict[str, Counter[str]]:
        """What decoders left out because it is no measurement, by sensor name and kind."""
        return {name: Counter(found) for name, found in self._of_decoders("left_out")}

    def notes(self) -> dict[str, tuple[str, ...]]:
        """What is worth saying of messages that could be used, by sensor name."""
        return {name: tuple(found) for name, found in self._of_decoders("notes") if found}

    def another_clock(self, name: str, since_ns: int | None = None) -> str:
        """In words by how much a sensor's clock is off the reference's, beyond the rig's offset; "" where it is not.

        Args:
            since_ns: by what arrived since then, on the clock of `receive`.
        """
        sensor = self.rig.sensor(name)
        offset_ms, tolerance_ns = sensor.clock_offset_ns * 1e-6, round(sensor.tolerance_ms * _MS)
        return self.clocks.another_clock(name, sensor.lag_ns, tolerance_ns, offset_ms, since_ns)

    def _of_decoders(self, what: str) -> list[tuple[str, Any]]:
        return [(name, getattr(one, what)) for name, one in self._decoders.items() if hasattr(one, what)]

    @property
    def silent(self) -> tuple[str, ...]:
        """Sensors that no bundle waits for, because they sent nothing while the last one did."""
        return self._synchronizer.silent

    def take_type(self, sensor: str, type_name: str) -> None:
        """From now on a sensor's messages are of another type than the rig's default.

        Raises:
            ConfigError: what the type is decoded with is not installed; nothing changes.
        """
        rig = self.rig.with_types({self.rig.sensor(sensor).input_topic: type_name})
        decoder = make_decoder(rig.sensor(sensor))
        self.rig, self._decoders[sensor] = rig, decoder

    def receive(self, topic: str, msg: Any, now_ns: int, *, expire: bool = True) -> list[Observation]:
        """Takes a message of one of `inputs`; returns the observations that it completed.

        Args:
            topic: as in the rig.
            now_ns: when it arrived, by any clock that runs forward; waiting times are measured on it.
            expire: see `sync.synchronizer.Synchronizer.push`.
        """
        observations: list[Observation] = []
        for route in self._routes[topic]:
            taken = self._guard.take(topic, partial(self._take, route, msg, now_ns, expire))
            observations += taken or []
        return observations

    @property
    def next_deadline_ns(self) -> int | None:
        """When the first waiting time is up; None if nothing waits."""
        deadlines = [self._held[0].give_up_ns] if self._held else []
        if (next_ns := self._synchronizer.next_deadline_ns) is not None:
            deadlines.append(next_ns)
        return min(deadlines, default=None)

    def poll(self, now_ns: int) -> list[Observation]:
        """The observations whose waiting time is up; everything that arrived before `now_ns` was received."""
        return self._observe_all(self._synchronizer.poll(now_ns), now_ns, now_ns)

    def flush(self) -> list[Observation]:
        """Everything that waits, at the end of a recording."""
        return self._observe_all(self._synchronizer.flush(), None, None)

    def transform(self, dst: str, dst_stamp_ns: int, src: str, src_stamp_ns: int) -> RigidTransform:
        """`dst` at one instant from `src` at another, as far as it is known by now; for truth and submissions.

        Raises:
            CalibrationError: it is not known.
        """
        if self.rig.fixed_frame:
            return self._tree.lookup_between(dst, dst_stamp_ns, src, src_stamp_ns, self.rig.fixed_frame)
        return self._tree.lookup(dst, src, src_stamp_ns)

    def _take(self, route: InputTopic, msg: Any, now_ns: int, expire: bool) -> list[Observation]:
        if route.role == "sensor":
            start = time.perf_counter()
            decoded = self._in_its_frame(route.sensor, self._decoders[route.sensor](msg))
            measurement = self._on_reference_clock(route.sensor, decoded)
            self.latency.add({f"decode.{route.sensor}": (time.perf_counter() - start) * 1e3})
            self._examine(route.sensor, measurement, msg)
            self.clocks.note(route.sensor, measurement.stamp_ns, now_ns)
            self._pass_notes_on(route.sensor)
            if self._tap and route.sensor == self._tap.taps.lidar and isinstance(measurement, PointCloud):
                self._tap.add(measurement)
            until_ns = int(measurement.t_ns[-1]) if isinstance(measurement, EventPacket) and len(measurement) else None
            matched = self._synchronizer.push(
                route.sensor, measurement.stamp_ns, measurement, now_ns, until_ns=until_ns, expire=expire
            )
            self._follow_time_jumps(measurement.stamp_ns)
            return self._observe_all(matched, now_ns, now_ns if expire else None)
        if route.role == "camera_info":
            sensor, known = self.rig.sensor(route.sensor), self._cameras.get(route.sensor)
            camera = decode_camera_info(msg, sensor.pixel_limit, sensor.rectified)
            # Who keeps something for a camera knows by identity that nothing has changed.
            self._cameras[route.sensor] = known if known is not None and camera.equals(known) else camera
        elif route.role == "odometry":
            self._transforms_seen += 1
            self._tree.add(*self._odometry(msg))
        else:
            self._transforms_seen += 1
            for error in feed_transforms(self._tree, msg, static=route.role == "tf_static"):
                self.reject(route.topic, error)
        return self._observe_all([], now_ns, now_ns if expire else None)

    def _on_reference_clock(self, name: str, measurement: Measurement) -> Measurement:
        """With all stamps as the reference would have stamped it: transforms and ages are looked up by them."""
        offset_ns = self.rig.sensor(name).clock_offset_ns
        if not offset_ns:
            return measurement
        stamp_ns = measurement.stamp_ns - offset_ns
        if stamp_ns <= 0:
            raise DataError(
                f"{name}: its stamp, corrected by offset_ms {offset_ns * 1e-6:.0f}, is {stamp_ns * 1e-9:.3f} s"
            )
        if isinstance(measurement, EventPacket):
            return replace(measurement, stamp_ns=stamp_ns, t_ns=measurement.t_ns - offset_ns)
        return replace(measurement, stamp_ns=stamp_ns)

    def _pass_notes_on(self, name: str) -> None:
        notes: tuple[str, ...] = getattr(self._decoders[name], "notes", ())
        if self._on_note is not None:
            for text in notes[self._noted.get(name, 0) :]:
                self._on_note(name, text)
        self._noted[name] = len(notes)

    def _in_its_frame(self, sensor: str, measurement: Measurement) -> Measurement:
        frame_id = self.rig.frame_of(sensor, measurement.frame_id)
        return measurement if frame_id == measurement.frame_id else replace(measurement, frame_id=frame_id)

    def _odometry(self, msg: Any) -> tuple[RigidTransform, int]:
        """The fixed frame is the world's and has its own name; the vehicle's is below the rig's prefix, as TF's are."""
        pose, stamp_ns = decode_odometry(msg)
        return replace(pose, src=prefixed(self.rig.frame_prefix, pose.src)), stamp_ns

    def _examine(self, name: str, measurement: Measurement, msg: Any) -> None:
        """Notes a measurement's health, and what of its form is new."""
        stamp_ns, health = measurement.stamp_ns, self._monitors[name].look(measurement)
        known = self._health[name]
        if stamp_ns < self.newest_ns.get(name, stamp_ns) - JUMP_NS:
            known.clear()  # a bag that loops uses its stamps again
        self.newest_ns[name], self.newest_health[name] = stamp_ns, health
        known.setdefault(stamp_ns, health)  # of two with one stamp, the first is used
        if len(known) > _HEALTH_KEPT:
            del known[next(iter(known))]
        form = (health.shape, _encoding(msg), measurement.frame_id)
        before, self._form[name] = self._form.get(name, form), form
        if form != before and self._on_change is not None:
            what = zip(("size", "encoding", "frame"), before, form, strict=True)
            self._on_change(name, ", ".join(f"{w} changed from {a} to {b}" for w, a, b in what if a != b))

    def _follow_time_jumps(self, stamp_ns: int) -> None:
        """Transforms of the time before a jump back would be interpolated with those after it."""
        jumps = self._synchronizer.stats.time_jumps[self.rig.reference]
        if jumps != self._jumps_seen:
            self._jumps_seen = jumps
            self._tree.forget_after(stamp_ns)
            self._transforms.forget()
            for _ in range(len(self._held)):
                self._held.popleft()
                self.reject("bundle", CalibrationError("time jumped back while its transforms were awaited"))

    def _observe_all(
        self, matched: list[MatchedSet[Measurement]], now_ns: int | None, expire_ns: int | None
    ) -> list[Observation]:
        """Turns sets into observations, in order.

        A set waits for the transforms of its stamps, where they may still come (see `TransformWait`): what moves is
        told later than the sensors' own messages. It goes as it is after the rig's waiting time, or at once if
        `now_ns` is None.

        Args:
            expire_ns: everything that arrived before was taken; None: nobody knows, so no waiting time ends.
        """
        for one in matched:
            self.latency.add({"sync_wait": one.waited_ns * 1e-6})
            self._held.append(_Held(one, (now_ns or 0) + self._transform_wait_ns))
        observations = []
        while self._held:
            held = self._held[0]
            may_wait = now_ns is not None and (expire_ns is None or expire_ns < held.give_up_ns)
            may_wait = may_wait and len(self._held) <= _MOST_HELD
            if may_wait and held.tried_with == self._transforms_seen:
                break
            held.tried_with = self._transforms_seen
            self._transforms.begin()
            observation = self._guard.take("bundle", partial(self._observe, held.matched))
            if observation is not None:
                if may_wait and not observation.is_complete and self._transforms.is_worthwhile:
                    break
                self._transforms.give_up()
                observations.append(observation)
            self._held.popleft()
        return observations

    def _observe(self, matched: MatchedSet[Measurement]) -> Observation:
        measurements: dict[str, Measurement] = {}
        for name, items in matched.items.items():
            sensor = self.rig.sensor(name)
            measurements[name] = _join_events(sensor, items, matched.stamp_ns) if is_window(sensor) else items[0]
        bundle = SensorBundle(matched.stamp_ns, self.rig.reference, measurements, matched.skew_ns, matched.missing)
        view = self._tap.view(bundle, self._transforms) if self._tap else None
        stamps = {name: measurement.stamp_ns for name, measurement in measurements.items()}
        if self._tap and view is not None and view.turns:
            stamps[self._tap.taps.lidar] = view.turns[-1].cloud.stamp_ns
        health = {name: self._health_at(name, stamp_ns) for name, stamp_ns in stamps.items()}
        return Observation(bundle, self._calibrate(bundle), view, health, matched.arrived_ns)

    def _health_at(self, name: str, stamp_ns: int) -> Health:
        """Of joined event packets, whose stamp is none that came, that of the newest."""
        known = self._health[name]
        return known[stamp_ns] if stamp_ns in known else self.newest_health.get(name, Health())

    def _calibrate(self, bundle: SensorBundle) -> Calibration:
        reference = bundle.measurements[bundle.reference]
        transforms, problems = {}, {}
        for name, measurement in bundle.measurements.items():
            try:
                transforms[name] = self._reference_from(reference, measurement)
            except CalibrationError as error:
                problems[name] = str(error)
        cameras = {name: self._camera_of(name, bundle.measurements.get(name)) for name in self._cameras}
        return Calibration(cameras, transforms, problems)

    def _camera_of(self, name: str, measurement: Measurement | None) -> CameraModel:
        """A sensor's camera, in the frame of its measurement: drivers give CameraInfo another name, or none.

        The frame that was set aside is told once. The same camera in the same frame stays the same object.
        """
        camera = self._cameras[name]
        frame_id = camera.frame_id if measurement is None else measurement.frame_id
        if frame_id == self.rig.frame_of(name, camera.frame_id) == camera.frame_id:
            return camera
        source, seen = self._cameras_seen.get(name, (None, None))
        if seen is None or source is not camera or seen.frame_id != frame_id:
            seen = replace(camera, frame_id=frame_id)
            self._cameras_seen[name] = camera, seen
        said = self.rig.frame_of(name, camera.frame_id)
        if said not in ("", frame_id) and name not in self._frames_told:
            self._frames_told.add(name)
            if self._on_change is not None:
                self._on_change(
                    name, f"CameraInfo is in frame {said}, the measurements are in {frame_id or 'none'}: theirs is used"
                )
        return seen

    def _reference_from(self, reference: Measurement, measurement: Measurement) -> RigidTransform:
        dst, src, fixed = reference.frame_id, measurement.frame_id, self.rig.fixed_frame
        if fixed:
            return self._transforms.lookup_between(dst, reference.stamp_ns, src, measurement.stamp_ns, fixed)
        return self._transforms.lookup(dst, src, reference.stamp_ns)

    def reject(self, topic: str, error: Exception) -> None:
        """Counts and reports a message that could not be used."""
        self._guard.reject(topic, error)


def is_window(sensor: SensorConfig) -> bool:
    """Whether a sensor's messages are pieces of a stream (events) rather than samples."""
    return sensor.kind == "events"


def make_synchronizer(rig: RigConfig, used: Collection[str] | None = None) -> Synchronizer[Measurement]:
    """The rig's synchronizer, this package's own policy.

    Args:
        used: sensors that bundles wait for, beside those that are required; None: all.
    """
    streams = [
        Stream(
            name=sensor.name,
            offset_ns=sensor.lag_ns,
            tolerance_ns=round(sensor.tolerance_ms * _MS),
            required=sensor.required,
            window_ns=round(sensor.window_ms * _MS) if is_window(sensor) else 0,
            awaited=sensor.required or used is None or sensor.name in used,
            max_buffer=2000 if is_window(sensor) else 30,
        )
        for sensor in rig.sensors
        if sensor.name != rig.reference
    ]
    return Synchronizer(rig.reference, streams, round(rig.max_wait_ms * _MS))


def _encoding(msg: Any) -> str:
    """Of images and events; of point clouds the fields: drivers and their versions differ in them."""
    if hasattr(msg, "fields"):
        return " ".join(str(one.name) for one in msg.fields)
    return str(getattr(msg, "encoding", getattr(msg, "format", "")))


def _join_events(sensor: SensorConfig, items: tuple[Measurement, ...], stamp_ns: int) -> EventPacket:
    packets = tuple(item for item in items if isinstance(item, EventPacket))
    if len(packets) != len(items):
        raise DataError(f"{sensor.name}: expected event packets")
    end_ns = stamp_ns + sensor.lag_ns
    return concatenate(packets, end_ns - round(sensor.window_ms * _MS), end_ns)


def _inputs(rig: RigConfig) -> tuple[InputTopic, ...]:
    topics = []
    for sensor in rig.sensors:
        topics.append(InputTopic(sensor.input_topic, sensor.message_type, "sensor", sensor.name))
        if sensor.camera_info:
            info_type = "sensor_msgs/msg/CameraInfo"
            topics.append(InputTopic(sensor.camera_info, info_type, "camera_info", sensor.name))
    if rig.odometry:
        topics.append(InputTopic(rig.odometry, "nav_msgs/msg/Odometry", "odometry"))
    topics.append(InputTopic(rig.tf_static, "tf2_msgs/msg/TFMessage", "tf_static"))
    topics.append(InputTopic(rig.tf, "tf2_msgs/msg/TFMessage", "tf"))
    return tuple(topics)
