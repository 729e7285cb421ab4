"""A simulated vehicle that drives now: a recorded drive without end, on the wall clock, with faults."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from itertools import count

from rclpy.node import Node

from mm_perception.bags.typestore import BagMessages, serialize
from mm_perception.codec.fields import NANOSECONDS, make_time
from mm_perception.core.rig import RigConfig
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import output_qos
from mm_perception.sim.drive_loop import DriveLoop
from mm_perception.sim.faults import CLOCK_TOPIC, Fault, FaultyStream, Sent

CLOCK_PERIOD_NS = 20_000_000
_DEPTH = 100
_AHEAD_NS = 200_000_000
LATENCY_STEP_NS = 9_000_000
"""Drivers are not done at the same instant: each sensor sends this much later than the one before it in the rig. A
burst of all of them would not fit the shared memory of one process, 0.5 MB by Fast DDS's defaults, and what falls out
there comes 3 s later, with the next heartbeat."""


class LiveVehicle:
    """Publishes what is due whenever it is asked to; stamps are those of the wall clock."""

    def __init__(self, node: Node, rig: RigConfig, loop: DriveLoop, with_clock: bool = False) -> None:
        """Args:
        with_clock: publish /clock, too.
        """
        self._rig = rig
        self._types = dict(loop.types) | ({CLOCK_TOPIC: "rosgraph_msgs/msg/Clock"} if with_clock else {})
        self._publishers = {
            topic: node.create_publisher(message_class(kind), topic, output_qos(topic == rig.tf_static, _DEPTH))
            for topic, kind in self._types.items()
        }
        self._wall_ns = time.time_ns() - time.monotonic_ns()  # a step of the wall clock is none of our faults
        self._stream = loop.play(self.now_ns() + _AHEAD_NS)
        self._next = next(self._stream)
        self._next_clock_ns = self.now_ns() if with_clock else None
        self._faults = FaultyStream(rig, (), 0)
        self._latency_ns = {s.input_topic: i * LATENCY_STEP_NS for i, s in enumerate(rig.sensors) if s.kind != "events"}
        self._delayed: list[tuple[int, int, Sent]] = []
        self._order = count()
        for topic, message in loop.latched:
            self._publish(topic, message)

    def now_ns(self) -> int:
        return time.monotonic_ns() + self._wall_ns

    def befall(self, faults: Sequence[Fault], start_ns: int) -> None:
        """From now on there are these faults, and no others. Raises ConfigError as `FaultyStream`."""
        self._faults = FaultyStream(self._rig, faults, start_ns)

    def unmatched(self) -> list[str]:
        """Topics that nobody subscribes to yet."""
        return [topic for topic, one in self._publishers.items() if one.get_subscription_count() == 0]

    def send_due(self) -> float:
        """Publishes everything whose time has come; returns the seconds until the next."""
        now_ns = self.now_ns()
        if self._next_clock_ns is not None and self._next_clock_ns <= now_ns:
            clock = BagMessages().make("rosgraph_msgs/msg/Clock", clock=make_time(BagMessages(), now_ns))
            self._put(Sent(CLOCK_TOPIC, clock, now_ns))
            self._next_clock_ns = now_ns + CLOCK_PERIOD_NS
        while self._next.at_ns <= now_ns:
            self._put(self._next)
            self._next = next(self._stream)
        while self._delayed and self._delayed[0][0] <= now_ns:
            sent = heapq.heappop(self._delayed)[2]
            self._publish(sent.topic, sent.message)
        due = [self._next.at_ns, *(one[0] for one in self._delayed[:1])]
        if self._next_clock_ns is not None:
            due.append(self._next_clock_ns)
        return max(0.0, (min(due) - self.now_ns()) / NANOSECONDS)

    def _put(self, sent: Sent) -> None:
        for one in self._faults.send(sent):
            due_ns = one.at_ns + self._latency_ns.get(one.topic, 0)
            heapq.heappush(self._delayed, (due_ns, next(self._order), one))

    def _publish(self, topic: str, message: object) -> None:
        self._publishers[topic].publish(serialize(message, self._types[topic]))
