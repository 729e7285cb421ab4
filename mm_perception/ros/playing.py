"""Playing bags over ROS at their own pace: what `ros2 bag play` does, for every bag that this package reads."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import BagMessages, serialize
from mm_perception.codec.fields import NANOSECONDS, make_time
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.ros.listener import Listener
from mm_perception.ros.messages import message_class
from mm_perception.ros.player import BagPublishers
from mm_perception.ros.qos import output_qos

CLOCK_TOPIC, CLOCK_TYPE = "/clock", "rosgraph_msgs/msg/Clock"
_ACTIVE = 3  # lifecycle_msgs/msg/State.PRIMARY_STATE_ACTIVE
_SETTLE_S = 1.0
"""Each side of a connection finds the other for itself, and only ours can be seen."""
_SEND_S, _STEP_S, _REPORT_S = 5.0, 0.05, 3.0


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """How a bag is played.

    Attributes:
        rate: speed relative to the recording.
        loop: begin again at the end.
        start_offset_s: how much of the beginning is left out; latched messages of it are sent all the same.
        clock_hz: how often /clock is sent, by the wall clock; 0: not at all (a recorded /clock is a topic as others).
        topics: that are played; empty: all.
        names: other names by topic.
        wait_for: topics that must have a subscriber, and nodes that must be there (and active) before.
        wait_s: how long that may take.
        report_of: the node whose diagnostics are gathered; empty: none.
    """

    rate: float = 1.0
    loop: bool = False
    start_offset_s: float = 0.0
    clock_hz: float = 0.0
    topics: Collection[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    wait_for: Collection[str] = ()
    wait_s: float = 600.0
    report_of: str = ""


@dataclass(slots=True, eq=False)
class PlayReport:
    """What was played.

    Attributes:
        sent: messages by topic. skipped: why topics were not played, by topic.
        rounds: whole ones. late_s: by how much the latest message came later than its time.
        whole: whether the end was reached.
        status: last diagnostic values by status name, of the node that is reported of.
    """

    sent: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    late_s: float = 0.0
    whole: bool = False
    status: dict[str, dict[str, str]] = field(default_factory=dict)


class BagPlayer:
    """Plays one or more open bags; `stop` may be called from a signal handler or another thread.

    Attributes:
        stopped: whether it was. report: what was played so far.
    """

    def __init__(self, bag: BagReader, options: PlayOptions, on_progress: Callable[[int, float], None]) -> None:
        """Args:
        on_progress: is told the messages done in this round, those left out included, and the time in the bag [s].

        Raises:
            ConfigError: a topic is not in the bag.
            BagError: the bag has nothing that can be played.
        """
        self.report = PlayReport()
        self._bag, self._options, self._tell = bag, options, on_progress
        self.stopped = False
        self._clock_sent_s = float("-inf")
        self._topics = self._playable()
        self._listener = Listener("mm_perception_play")
        node: Node = self._listener.node
        self._node = node
        self._publishers = BagPublishers(node, as_recorded=True, names=options.names)
        self._publishers.add(bag, self._topics)
        self._clock: Any = None
        if options.clock_hz > 0:
            self._clock = node.create_publisher(message_class(CLOCK_TYPE), CLOCK_TOPIC, output_qos(depth=10))

        if options.report_of:
            kind = message_class("diagnostic_msgs/msg/DiagnosticArray")
            node.create_subscription(kind, "/diagnostics", self._take_diagnostics, output_qos(depth=50))

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self._listener.close()

    @property
    def total(self) -> int:
        """Messages of a round."""
        return sum(self._bag.count(topic) for topic in self._topics)

    def wait(self, on_wait: Callable[[str], None]) -> None:
        """Until everybody is there who is waited for; `on_wait` is told who is not.

        Raises:
            ConfigError: the time is up.
        """
        deadline = time.monotonic() + self._options.wait_s
        for name in self._options.wait_for:
            told = ""
            while not self.stopped and (why := self._why_not_ready(name)):
                if why != told:
                    on_wait(why)
                    told = why
                if time.monotonic() > deadline:
                    raise ConfigError(f"--wait-for {name}: {why}, after {self._options.wait_s:g} s")
                self._pause(0.1)
        if self._options.wait_for:
            self._pause(_SETTLE_S)

    def play(self) -> PlayReport:
        """Plays until the end, or until it is stopped.

        Raises:
            BagError: the bag turns out to be damaged.
        """
        while not self.stopped:
            if not self._play_once():
                break
            self.report.rounds += 1
            self.report.whole = True
            if not self._options.loop:
                break
        self._publishers.wait_for_delivery(_SEND_S if not self.stopped else 0.0)
        if self._options.report_of and self.report.whole:
            self._pause(_REPORT_S)  # for the results of the last messages, and the diagnostics that count them
        return self.report

    def _take_diagnostics(self, message: Any) -> None:
        own = self._options.report_of.rpartition("/")[2]
        for status in message.status:
            if status.name.partition(":")[0].strip("/").rpartition("/")[2] == own:
                self.report.status[status.name] = {one.key: one.value for one in status.values}

    def _playable(self) -> set[str]:
        wanted = set(self._options.topics)
        for topic in sorted(wanted - self._bag.topics.keys()):
            raise ConfigError(f"--topics: {self._bag.name}: {self._bag.why_missing(topic)}")
        chosen = set()
        for topic, type_name in self._bag.topics.items():
            if wanted and topic not in wanted:
                continue
            if topic == CLOCK_TOPIC and self._options.clock_hz > 0:
                self.report.skipped[topic] = "--clock takes its place"
                continue
            try:
                message_class(type_name)
            except ConfigError as error:
                self.report.skipped[topic] = str(error)
                continue
            chosen.add(topic)
        if not wanted:
            self.report.skipped |= self._bag.foreign
        if not any(self._bag.count(topic) for topic in chosen):
            reasons = "; ".join(f"{topic}: {why}" for topic, why in self.report.skipped.items())
            raise BagError(f"{self._bag.name}: holds nothing that can be played{f' ({reasons})' if reasons else ''}")
        return chosen

    def _play_once(self) -> bool:
        """Whether the end was reached."""
        first_ns: int | None = None
        start_s, done = 0.0, 0
        offset_ns = round(self._options.start_offset_s * NANOSECONDS)
        for message in self._bag.messages(self._topics):
            done += 1
            if first_ns is None:
                first_ns = message.log_ns
                start_s = time.monotonic() - offset_ns / NANOSECONDS / self._options.rate
            passed_ns = message.log_ns - first_ns
            if passed_ns < offset_ns:
                if not self._publishers.is_latched(self._bag, message.topic):
                    continue
            else:
                due_s = start_s + passed_ns / NANOSECONDS / self._options.rate
                self._pass_until(due_s, first_ns, start_s)
                self.report.late_s = max(self.report.late_s, time.monotonic() - due_s)
            if self.stopped:
                return False
            self._publishers.publish(message)
            self.report.sent[message.topic] = self.report.sent.get(message.topic, 0) + 1
            self._tell(done, passed_ns / NANOSECONDS)
        return True

    def _pass_until(self, due_s: float, first_ns: int, start_s: float) -> None:
        """Waits, and sends the clock meanwhile."""
        while True:
            now_s = time.monotonic()
            if self._clock is not None:
                now_s = self._send_clock(min(now_s, due_s), first_ns, start_s)
            if now_s >= due_s or self.stopped:
                return
            step_s = min(due_s - now_s, 1.0 / self._options.clock_hz if self._clock is not None else 1.0)
            self._pause(step_s)

    def _send_clock(self, at_s: float, first_ns: int, start_s: float) -> float:
        """The time of the bag at an instant of ours, if the last one was sent long enough ago; returns now."""
        now_s = time.monotonic()
        if now_s - self._clock_sent_s >= 1.0 / self._options.clock_hz:
            self._clock_sent_s = now_s
            stamp_ns = first_ns + round((at_s - start_s) * self._options.rate * NANOSECONDS)
            factory = BagMessages()
            message = factory.make(CLOCK_TYPE, clock=make_time(factory, max(stamp_ns, first_ns)))
            self._clock.publish(serialize(message, CLOCK_TYPE))
        return now_s

    def _pause(self, seconds: float) -> None:
        """In short steps: a signal does not end a sleep, and its handler may take no lock."""
        end_s = time.monotonic() + seconds
        while not self.stopped and (left := end_s - time.monotonic()) > 0:
            if self._options.report_of:
                self._listener.executor.spin_once(timeout_sec=min(left, _STEP_S))
            else:
                time.sleep(min(left, _STEP_S))

    def _why_not_ready(self, name: str) -> str:
        """Why a topic or a node is not ready yet; empty if it is."""
        topic = {given: named for named, given in self._publishers.names().items()}.get(name)
        if topic is not None:
            return f"nobody subscribes to {name}" if topic in self._publishers.unmatched() else ""
        full = "/" + name.strip("/")
        space, _, own = full.rpartition("/")
        if (own, space or "/") not in self._node.get_node_names_and_namespaces():
            return f"there is no node {full} (nor a topic of that name in the bag)"
        services = dict(self._node.get_service_names_and_types_by_node(own, space or "/"))
        if not services:
            return f"node {full} is starting"
        if f"{full}/get_state" in services and (state := self._state(full)) != _ACTIVE:
            return f"node {full} is not active yet" if state is not None else f"node {full} does not answer"
        heard = dict(self._node.get_subscriber_names_and_types_by_node(own, space or "/"))
        waiting = [t for t, named in self._publishers.names().items() if named in heard]
        return f"node {full} is not connected yet" if set(waiting) & set(self._publishers.unmatched()) else ""

    def _state(self, node_name: str) -> int | None:
        """Of a node with a lifecycle; None if it does not say."""
        service = importlib.import_module("lifecycle_msgs.srv").GetState
        client = self._node.create_client(service, f"{node_name}/get_state")
        try:
            if not client.wait_for_service(timeout_sec=0.2):
                return None
            answer = client.call_async(service.Request())
            self._listener.executor.spin_until_future_complete(answer, timeout_sec=1.0)
            result = answer.result() if answer.done() else None
            return int(result.current_state.id) if result is not None else None
        finally:
            self._node.destroy_client(client)
