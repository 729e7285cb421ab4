"""What a bag knows of the truth, beside what the pipeline found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.codec.fields import decode_stamp
from mm_perception.codec.guard import MessageGuard, refusing
from mm_perception.codec.image import decode_labels
from mm_perception.codec.objects import TrueObjects, decode_objects
from mm_perception.core.errors import BagError, DataError, MmPerceptionError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.core.types import Detections3D, LabelImage, SegmentationMap
from mm_perception.geometry.boxes import moved_on, transformed_boxes
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import RANGES_M, DetectionScores, ScoredBoxes, matched_frames
from mm_perception.metrics.nuscenes_format import scored_boxes
from mm_perception.metrics.segmentation import ConfusionMatrix

T = TypeVar("T", LabelImage, TrueObjects)
_KEPT = 32
OBJECTS_TOLERANCE_NS = 60_000_000
"""Boxes may be stamped by another sensor than the bundle: on nuScenes by the LiDAR."""

LONGEST_VEHICLE_M = 20.0
"""A frame whose origin is nearer to the LiDAR is the vehicle's."""
OBJECTS_TYPE, STATES_TYPE = "vision_msgs/msg/Detection3DArray", "sensor_msgs/msg/PointCloud2"

TruthFrame = Callable[[str, int, str, int], RigidTransform]
"""From two frames, each with its instant [ns], to the transform from the first to the second."""


class _Stream(Generic[T]):
    """Truth of one topic, read alongside the results and a few messages at a time."""

    def __init__(self, bag: BagReader, topic: str, tolerance_ns: int, guard: MessageGuard | None) -> None:
        self.guard = guard or MessageGuard()
        self._bag, self._topic, self._tolerance_ns = bag, topic, tolerance_ns
        self._waiting: dict[int, T] = {}
        self._messages = bag.messages({topic}) if topic in bag.topics else iter(())

    def decode(self, message: object) -> T:
        raise NotImplementedError

    def stamp_ns(self, item: T) -> int:
        raise NotImplementedError

    def drop(self, error: Exception) -> None:
        """Counts and tells of a message or a frame that could not be used."""
        self.guard.reject(self._topic, error)

    def find(self, stamp_ns: int) -> T | None:
        """The item nearest to an instant; instants rise from call to call."""
        while len(self._waiting) < _KEPT and max(self._waiting, default=-1) < stamp_ns + self._tolerance_ns:
            message = next(self._messages, None)
            if message is None:
                break
            item = self.guard.take(self._topic, partial(self._decoded, message))
            if item is None:
                continue
            if self.stamp_ns(item) >= stamp_ns - self._tolerance_ns:
                self._waiting[self.stamp_ns(item)] = item
        for old in [stamp for stamp in self._waiting if stamp < stamp_ns - self._tolerance_ns]:
            del self._waiting[old]
        nearest = min(self._waiting, key=lambda stamp: abs(stamp - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > self._tolerance_ns:
            return None
        return self._waiting[nearest]

    def _decoded(self, message: BagMessage) -> T:
        return self.decode(self._bag.decode(message))


class _Labels(_Stream[LabelImage]):
    def __init__(self, bag: BagReader, topic: str, max_pixels: int, guard: MessageGuard | None) -> None:
        super().__init__(bag, topic, 0, guard)
        self._max_pixels = max_pixels

    def decode(self, message: object) -> LabelImage:
        return decode_labels(message, self._max_pixels)

    def stamp_ns(self, item: LabelImage) -> int:
        return item.stamp_ns


class ObjectStream(_Stream[TrueObjects]):
    """True boxes, with the states beside them where the bag has those."""

    def __init__(self, bag: BagReader, topic: str, states_topic: str, guard: MessageGuard | None = None) -> None:
        """Raises BagError if a topic holds another type."""
        for name, kind in ((topic, OBJECTS_TYPE), (states_topic, STATES_TYPE)):
            if bag.topics.get(name, kind) != kind:
                raise BagError(f"{bag.path}: topic {name} has {bag.topics[name]}, true objects want {kind}")
        super().__init__(bag, topic, OBJECTS_TOLERANCE_NS, guard)
        self._states_topic = states_topic
        self._states = bag.messages({states_topic}) if states_topic in bag.topics else iter(())
        self._newest_states: tuple[int, Any] = (-1, None)

    def decode(self, message: Any) -> TrueObjects:
        alone = decode_objects(message)
        states = self._states_at(alone.boxes.stamp_ns)
        if states is None:
            return alone
        return self.guard.take(self._states_topic, partial(decode_objects, message, states)) or alone

    def _states_at(self, stamp_ns: int) -> Any | None:
        """The states of one instant; None if there are none."""
        while self._newest_states[0] < stamp_ns:
            message = next(self._states, None)
            if message is None:
                return None
            self._newest_states = (
                self.guard.take(self._states_topic, partial(self._stamped, message)) or self._newest_states
            )
        return self._newest_states[1] if self._newest_states[0] == stamp_ns else None

    @refusing("object states")
    def _stamped(self, message: BagMessage) -> tuple[int, Any]:
        states = self._bag.decode(message)
        return decode_stamp(states.header), states

    def stamp_ns(self, item: TrueObjects) -> int:
        return item.boxes.stamp_ns


class SegmentationTruth:
    """Compares segmentations with the label images of the same stamp.

    Attributes:
        scored: label images that met a result.
    """

    def __init__(
        self,
        bag: BagReader,
        topic: str,
        num_classes: int,
        max_pixels: int = MAX_PIXELS,
        guard: MessageGuard | None = None,
    ) -> None:
        self.confusion = ConfusionMatrix(num_classes)
        self.scored = 0
        self._labels = _Labels(bag, topic, max_pixels, guard)

    def compare(self, segmentation: SegmentationMap) -> None:
        label = self._labels.find(segmentation.stamp_ns)
        if label is None:
            return
        try:
            self.confusion.add(label.class_ids, segmentation.class_ids)
        except DataError as error:
            self._labels.drop(error)
            return
        self.scored += 1


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    truth: ScoredBoxes
    found: ScoredBoxes
    apart_ns: int


class DetectionTruth:
    """Compares boxes with the true ones, in the frame of the latter; each truth with the result nearest in time."""

    def __init__(self, bag: BagReader, topic: str, states_topic: str, guard: MessageGuard | None = None) -> None:
        """Topics of other types are dropped: then there is no truth."""
        guard = guard or MessageGuard()
        self._objects = guard.take(topic, lambda: ObjectStream(bag, topic, states_topic, guard))
        self._pairs: dict[int, _Pair] = {}  # by the truth's stamp

    @property
    def scored(self) -> int:
        return len(self._pairs)

    def compare(
        self, found: Detections3D, truth_frame: TruthFrame, lidar: tuple[str, int] | None = None
    ) -> Detections3D | None:
        """Matches one frame. True objects of another stamp are moved on by their velocities, where those are known.

        Args:
            truth_frame: tells how to get to the truth's frame.
            lidar: frame and instant [ns] of the LiDAR, from which distances count if the truth's frame is not the
                vehicle's; None: the truth's frame is.

        Returns:
            The truth in the frame of the boxes; None if there is none.
        """
        truth = None if self._objects is None else self._objects.find(found.stamp_ns)
        if self._objects is None or truth is None:
            return None
        try:
            frame_id, stamp_ns = truth.boxes.frame_id, truth.boxes.stamp_ns
            there_from_here = truth_frame(found.frame_id, found.stamp_ns, frame_id, stamp_ns)
            there = transformed_boxes(found, there_from_here)
            now = moved_on(truth.boxes, found.stamp_ns)
            origin = np.zeros(2)
            if lidar is not None:
                place = truth_frame(*lidar, frame_id, stamp_ns).translation[:2]
                origin = place if float(np.linalg.norm(place)) > LONGEST_VEHICLE_M else origin
            apart_ns = abs(found.stamp_ns - stamp_ns)
            if stamp_ns not in self._pairs or apart_ns < self._pairs[stamp_ns].apart_ns:
                pair = scored_boxes(now, truth.lidar_points, origin), scored_boxes(there, origin=origin)
                self._pairs[stamp_ns] = _Pair(*pair, apart_ns)
        except MmPerceptionError as error:
            self._objects.drop(error)
            return None
        return transformed_boxes(now, there_from_here.inverse())

    def scores(self) -> DetectionScores | None:
        """Over the classes of which there is truth; None if there is none."""
        metric = matched_frames([(pair.truth, pair.found) for pair in self._pairs.values()], sorted(RANGES_M))
        return metric.scores() if metric.classes else None
