"""A node that listens to a fusion node, in a ROS context of its own."""

from __future__ import annotations

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


class Listener:
    """One node, or more, and an executor that the caller spins; signals stay the caller's.

    Attributes:
        context: of all of it. node: the first. executor: spins all nodes.
    """

    def __init__(self, name: str) -> None:
        """Args: name: of the first node."""
        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Node] = []
        self.node = self.add_node(name)

    def add_node(self, name: str) -> Node:
        """Another node of the same context and executor."""
        node: Node = rclpy.create_node(name, context=self.context)
        self.executor.add_node(node)
        self._nodes.append(node)
        return node

    def close(self) -> None:
        """Ends all of it; may be called twice."""
        if not self.context.ok():
            return
        self.executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)
