"""Training frames out of a bag with label images, encoded by the very code that serves the vehicle."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.codec.guard import MessageGuard
from mm_perception.codec.image import decode_labels
from mm_perception.core.errors import BagError, CalibrationError, DataError
from mm_perception.core.rig import RigConfig
from mm_perception.core.types import IGNORE_LABEL, LabelImage
from mm_perception.engines.card import ModelCard
from mm_perception.pipeline.intake import Intake, Observation
from mm_perception.pipeline.segmentation import InputEncoder
from mm_perception.replay.replay import observations
from mm_perception.sensing.image import Placement
from mm_perception.training.samples import Sample, check_labels, x_format


def collect_bag(path: Path, rig: RigConfig, card: ModelCard) -> list[Sample]:
    """The labelled observations of a bag at the card's input size, in order.

    Observations without the X measurement, its calibration or a label image of the same stamp are left out.

    Raises:
        BagError: the bag cannot be read, or none of its frames can be used; the message counts why.
        ConfigError: the rig has no sensor for the card's X input.
        DataError: a label is none of the card's classes.
    """
    encoder = InputEncoder(card, rig)
    samples: list[Sample] = []
    unused: Counter[str] = Counter()
    guard = MessageGuard(lambda topic, error: unused.update([f"{topic}: {error}"]))
    with BagReader(path) as bag:
        labels = _read_labels(bag, rig.labels, card, guard)
        for observation in observations(bag, Intake(rig.with_types(bag.topics))):
            truth = labels.get(observation.bundle.stamp_ns)
            if truth is None:
                unused["no labels"] += 1
                continue
            try:
                samples.append(_sample(encoder, observation, truth))
            except (CalibrationError, DataError) as error:
                unused[str(error)] += 1
    if not samples:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in unused.items()) or "no observations"
        raise BagError(f"{path}: no frame can be used for {card.name}: {reasons}")
    return samples


def _read_labels(bag: BagReader, topic: str, card: ModelCard, guard: MessageGuard) -> dict[int, NDArray[np.uint8]]:
    """Label images by stamp, at the input size, as far as they can be decoded."""
    if topic not in bag.topics:
        raise BagError(f"{bag.path}: no label images on {topic!r}")
    found = {}
    for message in bag.messages({topic}):
        label = guard.take(topic, partial(_label_of, bag, message))
        if label is None:
            continue
        check_labels(label.class_ids, card.num_classes, f"{bag.path} {topic} at {label.stamp_ns}")
        height, width = label.class_ids.shape
        placement = Placement.fit(width, height, card.input_width, card.input_height, card.resize)
        found[label.stamp_ns] = placement.resize(label.class_ids, nearest=True, border=IGNORE_LABEL)
    return found


def _label_of(bag: BagReader, message: BagMessage) -> LabelImage:
    return decode_labels(bag.decode(message))


def _sample(encoder: InputEncoder, observation: Observation, labels: NDArray[np.uint8]) -> Sample:
    """Raises DataError or CalibrationError where the X image cannot be made."""
    rgb, x = encoder.pictures(observation)
    if encoder.card.modality == "rgb":
        return Sample(rgb, rgb, labels)
    return Sample(rgb, x_format(encoder.card.modality).quantise(x), labels)
