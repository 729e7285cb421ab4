"""Plays a bag's messages, as they were recorded, over DDS."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.core.rig import TF_STATIC_TOPIC
from mm_perception.ros.messages import message_class
from mm_perception.ros.qos import output_qos

_DEPTH = 200


class BagPublishers:
    """A reliable publisher for each of a bag's topics; those of static transforms and recorded latched ones latched."""

    def __init__(self, node: Node, tf_static: str = TF_STATIC_TOPIC) -> None:
        self._node, self._tf_static = node, tf_static
        self._publishers: dict[str, Publisher] = {}

    def add(self, bag: BagReader, topics: Collection[str]) -> None:
        """Makes publishers for those of the topics that have none yet; connections that stand are kept.

        Raises:
            ConfigError: an interface package of the bag is not installed.
        """
        for topic, type_name in bag.topics.items():
            if topic in topics and topic not in self._publishers:
                latched = topic == self._tf_static or bag.qos_durability_transient(topic)
                qos = output_qos(latched, _DEPTH)
                self._publishers[topic] = self._node.create_publisher(message_class(type_name), topic, qos)

    def unmatched(self) -> list[str]:
        """Topics that nobody subscribes to yet."""
        return [topic for topic, pub in self._publishers.items() if pub.get_subscription_count() == 0]

    def publish(self, message: BagMessage) -> None:
        """Sends the recorded bytes."""
        self._publishers[message.topic].publish(bytes(message.cdr))


def header_stamp_ns(msg: Any) -> int:
    """The stamp of a message's header [ns]."""
    return int(msg.header.stamp.sec) * 1_000_000_000 + int(msg.header.stamp.nanosec)
