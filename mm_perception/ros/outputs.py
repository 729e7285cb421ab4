"""What the node publishes of each task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.node import Node

from mm_perception.codec.detections import (
    AUTOWARE_OBJECTS,
    MarkerWriter,
    encode_autoware_objects,
    encode_detections,
    encode_velocities,
)
from mm_perception.codec.encode import encode_image, encode_label_info
from mm_perception.codec.status import encode_perception_status
from mm_perception.core.types import Detections3D, ImageFrame, SegmentationMap
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.pipeline.box_overlay import detection_colors
from mm_perception.pipeline.detection import DetectionOutcome
from mm_perception.pipeline.detection_overlay import draw_mosaic
from mm_perception.pipeline.lidar_view import DetectorTaps
from mm_perception.pipeline.overlay import class_colors, draw_overlay
from mm_perception.pipeline.perception import Perception
from mm_perception.pipeline.sight import Sight
from mm_perception.ros.messages import RclpyMessages, autoware_available, message_class
from mm_perception.ros.qos import output_qos


class SegmentationOutputs:
    """`~/output/segmentation`, `segmentation_overlay` (only while somebody listens), `label_info` (latched)."""

    def __init__(self, node: Node, factory: RclpyMessages, card: ModelCard) -> None:
        image = message_class("sensor_msgs/msg/Image")
        self._node = node
        self._factory = factory
        self._colors = class_colors(len(card.classes), card.palette)
        self._classes = node.create_publisher(image, "~/output/segmentation", output_qos())
        self._overlay = node.create_publisher(image, "~/output/segmentation_overlay", output_qos())
        label_info = message_class("vision_msgs/msg/LabelInfo")
        self._label_info = node.create_publisher(label_info, "~/output/label_info", output_qos(latched=True))
        now_ns = node.get_clock().now().nanoseconds
        self._label_info.publish(encode_label_info(factory, card.classes, now_ns, ""))

    def publish(self, segmentation: SegmentationMap) -> None:
        """Sends the class ids."""
        stamp_ns, frame_id = segmentation.stamp_ns, segmentation.frame_id
        self._classes.publish(encode_image(self._factory, segmentation.class_ids, "mono8", stamp_ns, frame_id))

    def illustrate(self, reference: ImageFrame, segmentation: SegmentationMap, alpha: float) -> None:
        """Sends the overlay. Args: alpha: its opacity."""
        stamp_ns, frame_id = segmentation.stamp_ns, segmentation.frame_id
        if self._overlay.get_subscription_count():
            picture = draw_overlay(reference.image, segmentation, self._colors, alpha)
            self._overlay.publish(encode_image(self._factory, picture, "rgb8", stamp_ns, frame_id))

    def destroy(self) -> None:
        """Takes the topics away."""
        for publisher in (self._classes, self._overlay, self._label_info):
            self._node.destroy_publisher(publisher)

    def subscribers(self) -> dict[str, int]:
        """Of the topics that a session waits for."""
        return {
            "segmentation.subscribers": self._classes.get_subscription_count(),
            "overlay.subscribers": self._overlay.get_subscription_count(),
        }


class DetectionOutputs:
    """`~/output/detections`, `detection_velocities`, `detection_markers`, `detection_overlay`; all but the first only
    while somebody listens. Where Autoware's messages are installed, `detected_objects`, too."""

    def __init__(self, node: Node, factory: RclpyMessages, card: DetectorCard, taps: DetectorTaps) -> None:
        self._node, self._factory, self._taps = node, factory, taps
        self._reach_m = card.sizes.reach_m
        self._colors = detection_colors(card.classes)
        self._deviations = card.deviations
        self._markers_of = MarkerWriter(self._colors)

        def publisher(type_name: str, topic: str) -> Any:
            return node.create_publisher(message_class(type_name), topic, output_qos())

        self._boxes = publisher("vision_msgs/msg/Detection3DArray", "~/output/detections")
        self._velocities = publisher("sensor_msgs/msg/PointCloud2", "~/output/detection_velocities")
        self._markers = publisher("visualization_msgs/msg/MarkerArray", "~/output/detection_markers")
        self._overlay = publisher("sensor_msgs/msg/Image", "~/output/detection_overlay")
        self._last: Detections3D | None = None
        self._objects = publisher(AUTOWARE_OBJECTS, "~/output/detected_objects") if autoware_available() else None

    def publish(self, outcome: DetectionOutcome) -> None:
        """Sends the boxes, and what else of them is for programs, where somebody listens."""
        found, factory = outcome.detections, self._factory
        self._boxes.publish(encode_detections(factory, found, deviations=self._deviations))
        if self._velocities.get_subscription_count():
            self._velocities.publish(encode_velocities(factory, found))
        if self._objects is not None and self._objects.get_subscription_count():
            self._objects.publish(encode_autoware_objects(factory, found, self._deviations))

    def illustrate(self, outcome: DetectionOutcome) -> None:
        """Sends what is for people, where somebody listens: markers and images."""
        found, factory = outcome.detections, self._factory
        self._last = found
        if self._markers.get_subscription_count():
            self._markers.publish(self._markers_of.encode(factory, found))
        if self._overlay.get_subscription_count():
            picture = draw_mosaic(outcome, self._taps.cameras, self._colors, self._reach_m)
            self._overlay.publish(encode_image(factory, picture, "rgb8", found.stamp_ns, found.frame_id))

    def clear(self, stamp_ns: int) -> None:
        """Takes the markers of the last boxes away: there are no newer ones."""
        last, self._last = self._last, None
        if last is not None and self._markers.get_subscription_count():
            empty = replace(last.take(np.zeros(len(last), np.bool_)), stamp_ns=stamp_ns)
            self._markers.publish(self._markers_of.encode(self._factory, empty))

    def destroy(self) -> None:
        """Takes the topics away."""
        for publisher in (self._boxes, self._velocities, self._markers, self._overlay, self._objects):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def subscribers(self) -> dict[str, int]:
        """Of the topics that a session waits for."""
        return {
            "detections.subscribers": self._boxes.get_subscription_count(),
            "detection_overlay.subscribers": self._overlay.get_subscription_count(),
            "detection_markers.subscribers": self._markers.get_subscription_count(),
            "detection_velocities.subscribers": self._velocities.get_subscription_count(),
        }


class Outputs:
    """The node's publishers of results; they exist from configuration to clean-up."""

    def __init__(self, node: Node, factory: RclpyMessages, perception: Perception) -> None:
        """Raises ConfigError if a message package is not installed; nothing is left on the graph then."""
        before = set(node.publishers)
        try:
            self._create(node, factory, perception)
        except BaseException:
            for publisher in set(node.publishers) - before:
                node.destroy_publisher(publisher)
            raise

    def _create(self, node: Node, factory: RclpyMessages, perception: Perception) -> None:
        segmentation, detection = perception.segmentation, perception.detection
        self._node, self._factory, self._rig = node, factory, perception.rig.name
        self._name = f"{node.get_fully_qualified_name().lstrip('/')}: perception"
        status = message_class("diagnostic_msgs/msg/DiagnosticStatus")
        self._status = node.create_publisher(status, "~/output/perception_status", output_qos())
        self.segmentation = SegmentationOutputs(node, factory, segmentation.card) if segmentation else None
        self.detection = DetectionOutputs(node, factory, detection.card, detection.taps) if detection else None

    def publish_sight(self, sight: Sight) -> None:
        """Says what a set is worth; before its results."""
        self._status.publish(encode_perception_status(self._factory, self._name, sight, self._rig))

    def subscribers(self) -> dict[str, int]:
        """Of the topics that a session waits for."""
        found: dict[str, int] = {}
        for one in (self.segmentation, self.detection):
            found |= one.subscribers() if one is not None else {}
        return found

    def destroy(self) -> None:
        for one in (self.segmentation, self.detection):
            if one is not None:
                one.destroy()
        self._node.destroy_publisher(self._status)
