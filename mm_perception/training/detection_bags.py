"""Frames for a detector's training out of a bag with true boxes, seen by the very code that serves the vehicle."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mm_perception.bags.reader import BagReader
from mm_perception.codec.guard import MessageGuard
from mm_perception.codec.objects import TrueObjects
from mm_perception.core.errors import BagError, DataError, MmPerceptionError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import Detections3D
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.geometry.boxes import count_points_inside, moved_on, transformed_boxes
from mm_perception.pipeline.detection import detector_taps
from mm_perception.pipeline.detection_view import SceneBuilder
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.replay.replay import observations
from mm_perception.replay.truth import ObjectStream
from mm_perception.sensing.detector_inputs import DetectorView
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import DetectionFrame, save_detection_frame
from mm_perception.sim.frames import jpeg_of

RECORDED = "recorded"
NEWEST_S = 0.15
"""Points of this age at most count as returns of a box: older ones lie where it was."""


def bag_frames(
    path: Path, rig: RigConfig, card: DetectorCard, folder: Path, on_progress: Callable[[int, int], None] | None = None
) -> tuple[list[Path], Counter[str]]:
    """Files of the frames of a bag, in order, and why others were left out; they are written anew.

    Observations without true boxes of about the same stamp, or without a LiDAR turn, are left out.

    Raises:
        BagError: the bag cannot be read, has no true boxes, or none of its frames can be used; the message counts why.
        ConfigError: the rig has not what the card needs.
    """
    name = hashlib.sha256(repr((path.resolve(), rig, card.sizes)).encode()).hexdigest()[:12]
    place = folder / f"bag-{path.stem}-{rig.name}-{name}"
    for old in place.glob("[0-9]" * 6 + ".npz"):
        old.unlink()
    unused: Counter[str] = Counter()
    files: list[Path] = []
    with BagReader(path) as bag:
        if rig.objects not in bag.topics:
            raise BagError(f"{path}: no true boxes on {rig.objects!r}, the objects topic of rig {rig.name}")
        total = bag.count(rig.sensor(rig.reference).input_topic)
        for frame in _frames(bag, rig, card, unused):
            files.append(place / f"{len(files):06d}.npz")
            save_detection_frame(frame, files[-1])
            if on_progress is not None:
                on_progress(len(files), total)
    if not files:
        reasons = "; ".join(f"{count} x {why}" for why, count in unused.items()) or "no observations"
        raise BagError(f"{path}: no frame can be used for {card.name}: {reasons}")
    return files, unused


def _frames(bag: BagReader, rig: RigConfig, card: DetectorCard, unused: Counter[str]) -> Iterator[DetectionFrame]:
    taps = detector_taps(card, rig)
    intake, scenes = Intake(rig.with_types(bag.topics), taps=taps), SceneBuilder(card.sizes, taps)
    guard = MessageGuard(lambda topic, error: unused.update([f"{topic}: {error}"]))
    truth = ObjectStream(bag, rig.objects, rig.object_states, guard)
    for observation in observations(bag, intake):
        found = truth.find(observation.bundle.stamp_ns)
        if found is None:
            unused["no true boxes"] += 1
            continue
        try:
            view = scenes.build(observation).view
            yield _frame(view, found, observation, intake)
        except MmPerceptionError as error:
            unused[f"{type(error).__name__}: {error}"] += 1


def _frame(view: DetectorView, truth: TrueObjects, observation: Observation, intake: Intake) -> DetectionFrame:
    seen, stamp_ns = observation.lidar_view, observation.bundle.stamp_ns
    assert seen is not None  # or there is no scene
    there = truth.boxes
    here_from_there = intake.transform(seen.frame_id, stamp_ns, there.frame_id, there.stamp_ns)
    boxes = transformed_boxes(moved_on(there, stamp_ns), here_from_there)
    known = np.array([name in DETECTION_CLASSES for name in boxes.classes], bool)[boxes.labels]
    boxes = _relabelled(boxes, known)
    new = view.points[view.points[:, 4] <= NEWEST_S, :3]
    counted, points = truth.lidar_points[known], count_points_inside(new, boxes)
    return DetectionFrame(
        tuple(jpeg_of(image) for image in view.images), view.lidar2img, view.points, boxes,
        np.where(counted >= 0, counted, points), np.zeros(len(boxes), np.float32), RECORDED, 0,
    )  # fmt: skip


def _relabelled(boxes: Detections3D, known: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Detections3D:
    """The known ones, with the detector's own labels."""
    names = [boxes.classes[label] for label in boxes.labels[known]]
    if not np.isfinite(boxes.centers).all():
        raise DataError("true boxes: a middle is not finite")
    kept = boxes.take(known)
    labels = np.array([DETECTION_CLASSES.index(name) for name in names], np.int32)
    return replace(kept, labels=labels, classes=DETECTION_CLASSES)
