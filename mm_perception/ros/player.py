"""Plays a bag's messages, as they were recorded, over DDS."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.core.rig import TF_STATIC_TOPIC
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import latched_qos, output_qos, recorded_qos

_DEPTH, _MOST_LATCHED = 200, 1000


class BagPublishers:
    """A publisher for each of a bag's topics; those of static transforms and recorded latched ones are latched."""

    def __init__(
        self,
        node: Node,
        as_recorded: bool = False,
        names: Mapping[str, str] | None = None,
        tf_static: str = TF_STATIC_TOPIC,
    ) -> None:
        """Args:
        as_recorded: with the reliability and depth that were recorded, instead of reliable and deep.
        names: other names by topic.
        tf_static: topic of static transforms, beside those whose last part is tf_static.
        """
        self._node, self._as_recorded, self._tf_static = node, as_recorded, tf_static
        self._names = dict(names or {})
        self._publishers: dict[str, Publisher] = {}

    def add(self, bag: BagReader, topics: Collection[str]) -> None:
        """Makes publishers for those of the topics that have none yet; connections that stand are kept.

        Raises:
            ConfigError: an interface package of the bag is not installed.
        """
        for topic, type_name in bag.topics.items():
            if topic in topics and topic not in self._publishers:
                name = self._names.get(topic, topic)
                self._publishers[topic] = self._node.create_publisher(
                    message_class(type_name), name, self._qos(bag, topic)
                )

    def is_latched(self, bag: BagReader, topic: str) -> bool:
        """Whether late subscribers are to get what a topic had before."""
        static = topic == self._tf_static or f"/{topic}".endswith(TF_STATIC_TOPIC)
        return static or bag.qos(topic).latched

    def _qos(self, bag: BagReader, topic: str) -> QoSProfile:
        if self.is_latched(bag, topic):
            # Each of several static publishers sent what the others did not: a late subscriber gets all of it.
            return latched_qos(min(max(bag.count(topic), 1), _MOST_LATCHED))
        if not self._as_recorded:
            return output_qos(depth=_DEPTH)
        recorded = bag.qos(topic)
        return recorded_qos(recorded.reliable, recorded.depth)

    def unmatched(self) -> list[str]:
        """Topics that nobody subscribes to yet."""
        return [topic for topic, pub in self._publishers.items() if pub.get_subscription_count() == 0]

    def names(self) -> dict[str, str]:
        """Names under which topics are published."""
        return {topic: self._names.get(topic, topic) for topic in self._publishers}

    def wait_for_delivery(self, timeout_s: float) -> None:
        """Until reliable subscribers have all that was sent."""
        deadline = time.monotonic() + timeout_s
        for publisher in self._publishers.values():
            left = max(0.0, deadline - time.monotonic())
            publisher.wait_for_all_acked(Duration(seconds=left))

    def publish(self, message: BagMessage) -> None:
        """Sends the recorded bytes."""
        self._publishers[message.topic].publish(bytes(message.cdr))


def header_stamp_ns(msg: Any) -> int:
    """The stamp of a message's header [ns]."""
    return int(msg.header.stamp.sec) * 1_000_000_000 + int(msg.header.stamp.nanosec)
