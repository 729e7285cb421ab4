"""A fusion node in its own process, fed with a bag over DDS, and everything that it publishes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.reader import BagReader
from mm_perception.codec.image import decode_pixels
from mm_perception.codec.status import decode_perception_status
from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.rig import RigConfig
from mm_perception.core.settings import OFF, FusionSettings
from mm_perception.pipeline.intake import Intake
from mm_perception.ros.listener import Listener
from mm_perception.ros.messages import message_class
from mm_perception.ros.node_process import NodeProcess
from mm_perception.ros.player import BagPublishers, header_stamp_ns
from mm_perception.ros.qos import output_qos

STALL_S = 1.0
"""A paced player goes on after this long without progress of an idle node: a set may need messages that come later."""
HANG_S = 300.0
"""A node that works on one observation for this long is given up."""


@dataclass(slots=True, eq=False)
class SessionResult:
    """What came out of the node.

    Attributes:
        frames: reference messages that were sent.
        segmentations: (H, W) uint8 class ids by stamp [ns].
        overlays: (H, W, 3) RGB by stamp [ns], if they were asked for and not handed on.
        detections: vision_msgs/Detection3DArray by stamp [ns].
        sights: values of perception_status by stamp [ns].
        classes: names from label_info.
        status: diagnostic values by status name, of the last /diagnostics.
        exit_code: of the node's process.
    """

    frames: int = 0
    segmentations: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    overlays: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    detections: dict[int, Any] = field(default_factory=dict)
    sights: dict[int, dict[str, str]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def pipeline(self) -> dict[str, str]:
        """The pipeline's diagnostic values."""
        return next((v for name, v in self.status.items() if name.endswith(": pipeline")), {})

    def lost(self) -> int:
        """Reference messages that the node received and dropped, by its last diagnostics."""
        done = sum(int(n) for k, n in self.pipeline.items() if k.startswith("dropped."))
        reference = [v for v in self.status.values() if v.get("reference") == "true"]
        return done + sum(int(n) for v in reference for k, n in v.items() if k.startswith(("dropped.", "rejected.")))


class FusionSession:
    """Starts the node, waits until it is ready, plays, and stops it; leaves no process behind."""

    def __init__(
        self,
        rig: RigConfig,
        parameters: dict[str, str],
        log_path: Path,
        on_progress: Callable[[str], None] | None = None,
        overlays: bool = True,
        lossless: bool = True,
        on_overlay: Callable[[str, int, NDArray[np.uint8]], None] | None = None,
    ) -> None:
        """Args:
        rig: the same as in `parameters`.
        parameters: of the fusion node.
        log_path: where the node's output goes.
        on_progress: is told what the node logs while it gets ready.
        lossless: subscribe reliably and with deep queues, so that a burst loses nothing, and let observations wait
            for the engine; False: as the rig and the node's defaults say.
        on_overlay: is given each overlay, by "overlay" or "detection_overlay" and stamp, instead of keeping it in the
            result.
        """
        self._rig = rig
        self._tell = on_progress
        self._on_overlay = on_overlay
        self.result = SessionResult()
        self._awaited = _awaited(parameters, overlays)
        self._lost_before = 0  # what others sent before the first bag
        self._came: Counter[str] = Counter()
        self._process = NodeProcess(parameters | (_lossless(rig) if lossless else {}), log_path)
        self._listener = Listener("fusion_session")
        self._node, self._executor = self._listener.node, self._listener.executor
        self._publishers = BagPublishers(self._node, tf_static=rig.tf_static)
        self._subscribe()

    def __enter__(self) -> FusionSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def node(self) -> Any:
        return self._node

    def play(self, path: Path, rate: float = 0.0, on_frame: Callable[[int, int], None] | None = None) -> None:
        """Plays the rig's topics of a bag.

        Args:
            rate: speed relative to the recording; 0: as fast as the node takes it, so that no frame is lost.
            on_frame: is told the number of results and of reference frames in the bag.

        Raises:
            BagError: the bag cannot be read.
            ConfigError: the bag lacks the reference topic, or the rig expects other message types.
            EngineError: the node ended or was not ready in time.
        """
        with BagReader(path) as bag:
            topics = self._playable(bag)
            publishers = self._publishers
            publishers.add(bag, topics)
            sensors = {s.input_topic for s in self._rig.sensors} & topics
            self.wait_until(lambda: not publishers.unmatched() and self._is_connected(sensors), 300.0, "the node")
            reference = self._rig.sensor(self._rig.reference).input_topic
            total = bag.count(reference)
            if self.result.frames == 0:
                self._lost_before = self.result.lost()
            start_s, first_ns = time.monotonic(), None
            for message in bag.messages(topics):
                first_ns = message.log_ns if first_ns is None else first_ns
                if rate > 0:
                    self._spin_until(start_s + (message.log_ns - first_ns) * 1e-9 / rate)
                elif message.topic == reference:
                    self._wait_for_frames(STALL_S)  # so that the node is free for the next one
                publishers.publish(message)
                self._executor.spin_once(timeout_sec=0)
                if message.topic == reference:
                    self.result.frames += 1
                    if on_frame is not None:
                        on_frame(self._arrived, total)
            self._wait_for_rest(lambda: on_frame and on_frame(self._arrived, total))

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Spins until the condition holds.

        Raises:
            EngineError: the node's process ended, or the time is up; the message holds the end of its log and what
                came and went.
        """
        deadline = time.monotonic() + timeout_s
        told = ""
        while not condition():
            if self._tell is not None and (line := self.log_tail(1)) != told:
                told = line
                self._tell(line)
            if self._process.poll() is not None:
                raise EngineError(f"the fusion node ended with code {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise EngineError(f"{what} was not ready within {timeout_s:.0f} s:\n{self.report()}")
            self._executor.spin_once(timeout_sec=0.05)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Interrupts the node as a user would and waits for its end; returns its exit code."""
        self.result.exit_code = self._process.stop(timeout_s)
        self._listener.close()
        return self.result.exit_code

    def log_tail(self, lines: int = 15) -> str:
        return self._process.log_tail(lines)

    def report(self) -> str:
        """What was sent and came back, the counts of the last diagnostics, and the end of the log."""
        came = ", ".join(f"{n} {name}" for name, n in sorted(self._came.items())) or "nothing"
        counts = [
            f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items() if value.isdigit())
            for name, values in sorted(self.result.status.items())
        ]
        return "\n".join([f"sent {self.result.frames}, came back {came}", *counts, self.log_tail()])

    def _playable(self, bag: BagReader) -> set[str]:
        wanted = {route.topic: route for route in Intake(self._rig.with_types(bag.topics)).inputs}
        reference = self._rig.sensor(self._rig.reference).input_topic
        if reference not in bag.topics:
            why = bag.why_missing(reference, self._rig.sensor(self._rig.reference).message_type)
            raise ConfigError(f"{bag.path}: {why} (rig {self._rig.name})")
        for topic, type_name in bag.topics.items():
            if topic in wanted and wanted[topic].type_name != type_name:
                raise ConfigError(
                    f"{bag.path}: {topic} has {type_name}, rig {self._rig.name} wants {wanted[topic].type_name}"
                )
        return {topic for topic in bag.topics if topic in wanted}

    def _subscribe(self) -> None:
        image = message_class("sensor_msgs/msg/Image")
        boxes = message_class("vision_msgs/msg/Detection3DArray")
        base = "/fusion_node/output"
        create = self._node.create_subscription
        takers: dict[str, tuple[Any, str, Callable[[Any], None]]] = {
            "segmentation": (image, "segmentation", self._take_segmentation),
            "overlay": (image, "segmentation_overlay", partial(self._take_overlay, "overlay")),
            "detections": (boxes, "detections", self._take_detections),
            "detection_overlay": (image, "detection_overlay", partial(self._take_overlay, "detection_overlay")),
        }
        for name in self._awaited:
            kind, topic, take = takers[name]
            create(kind, f"{base}/{topic}", take, output_qos(depth=50))
        if "segmentation" in self._awaited:
            label_info = message_class("vision_msgs/msg/LabelInfo")
            create(label_info, f"{base}/label_info", self._take_label_info, output_qos(latched=True))
        status = message_class("diagnostic_msgs/msg/DiagnosticStatus")
        create(status, f"{base}/perception_status", self._take_sight, output_qos(depth=50))
        diagnostics = message_class("diagnostic_msgs/msg/DiagnosticArray")
        create(diagnostics, "/diagnostics", self._take_diagnostics, output_qos(depth=50))

    def _take_segmentation(self, msg: Any) -> None:
        stamp_ns = header_stamp_ns(msg)
        self._came["segmentation"] += 1
        self.result.segmentations[stamp_ns] = np.array(decode_pixels(msg)[0], np.uint8)

    def _take_overlay(self, name: str, msg: Any) -> None:
        picture = np.array(decode_pixels(msg)[0], np.uint8)
        self._came[name] += 1
        if self._on_overlay is not None:
            self._on_overlay(name, header_stamp_ns(msg), picture)
        else:
            self.result.overlays[header_stamp_ns(msg)] = picture

    def _take_detections(self, msg: Any) -> None:
        self._came["detections"] += 1
        self.result.detections[header_stamp_ns(msg)] = msg

    def _take_sight(self, msg: Any) -> None:
        stamp_ns, values = decode_perception_status(msg)
        self.result.sights[stamp_ns] = values

    def _take_label_info(self, msg: Any) -> None:
        self.result.classes = [entry.class_name for entry in msg.class_map]

    def _take_diagnostics(self, msg: Any) -> None:
        for status in msg.status:
            self.result.status[status.name] = {item.key: item.value for item in status.values} | {
                "message": status.message
            }

    def _is_connected(self, topics: set[str]) -> bool:
        """Whether the node itself sees the publishers of these topics and the subscribers to its outputs.

        A connection is made on each side for itself; what is sent before both have it is lost.
        """
        seen = {v["topic"] for v in self.result.status.values() if v.get("publishers", "0") != "0"}
        heard = all(self.result.pipeline.get(f"{name}.subscribers", "0") != "0" for name in self._awaited)
        hears = all(subscription.get_publisher_count() for subscription in self._node.subscriptions)
        named = bool(self.result.classes) or "segmentation" not in self._awaited
        return topics <= seen and heard and hears and named

    @property
    def _arrived(self) -> int:
        """Frames whose outputs have all come; messages of two topics come in any order."""
        return min(self._came[name] + self._failed(name) for name in self._awaited)

    def _failed(self, name: str) -> int:
        """Frames of which an output will not come, because its task failed while the other's result came."""
        task = "segmentation" if name in ("segmentation", "overlay") else "detection"
        return sum(int(n) for key, n in self.result.pipeline.items() if key.startswith(f"{task}.failed."))

    def _progress(self) -> int:
        return self._arrived + self.result.lost() - self._lost_before

    def _wait_for_frames(self, quiet_s: float, on_change: Callable[[], Any] = lambda: None) -> None:
        """Until the frames that were sent are all accounted for, or the node is idle and made no progress for a while.

        Raises:
            EngineError: the node's process ended, or works on one observation without end.
        """
        last_change = idle_since = time.monotonic()
        before = self._progress()
        while self._progress() < self.result.frames and time.monotonic() - max(last_change, idle_since) <= quiet_s:
            self._executor.spin_once(timeout_sec=0.02)
            if time.monotonic() - last_change > HANG_S:
                raise EngineError(f"the fusion node gave nothing for {HANG_S:.0f} s:\n{self.report()}")
            if self._process.poll() is not None:
                raise EngineError(f"the fusion node ended with code {self._process.returncode}:\n{self.log_tail()}")
            if self.result.pipeline.get("unfinished", "0") != "0":
                idle_since = time.monotonic()
            if self._progress() != before:
                last_change, before = time.monotonic(), self._progress()
                on_change()

    def _wait_for_rest(self, on_change: Callable[[], Any], quiet_s: float = 8.0) -> None:
        """Until every frame is accounted for, or nothing came for a while."""
        self._wait_for_frames(quiet_s, on_change)
        # The counts that belong to the last result arrive with the next diagnostics.
        published = self._arrived
        deadline = time.monotonic() + 3.0
        while int(self.result.pipeline.get("published", 0)) < published and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)

    def _spin_until(self, moment_s: float) -> None:
        while (left := moment_s - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)


def _awaited(parameters: dict[str, str], overlays: bool) -> tuple[str, ...]:
    """Outputs that come for each frame, by their names in the node's diagnostics."""
    defaults = FusionSettings()
    names: list[str] = []
    if parameters.get("model", defaults.model) not in OFF:
        names += ["segmentation", *(["overlay"] if overlays else [])]
    if parameters.get("detector", defaults.detector) not in OFF:
        names += ["detections", *(["detection_overlay"] if overlays else [])]
    return tuple(names)


def _lossless(rig: RigConfig) -> dict[str, str]:
    """Parameters with which nothing that was sent is passed over."""
    policies = {"reliability": "reliable", "depth": "100"}
    qos = {
        f"qos_overrides.{sensor.input_topic}.subscription.{policy}": value
        for sensor in rig.sensors
        for policy, value in policies.items()
    }
    return qos | {"queue_depth": "100"}
