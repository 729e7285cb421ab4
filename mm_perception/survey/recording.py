"""Surveying bags: one or several, read as one recording."""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mm_perception.bags.reader import BagMessage, BagReader
from mm_perception.core.rig import RigConfig
from mm_perception.survey.facts import SurveyFacts
from mm_perception.survey.readiness import Readiness, ReadinessCheck, is_calibration
from mm_perception.survey.survey import Survey


class Recording:
    """Open bags on one timeline; use it in a `with` block.

    Raises:
        BagError: one of them cannot be opened.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opened:
            self._bags = [opened.enter_context(BagReader(path)) for path in paths]
            self._stack = opened.pop_all()
        self.name = ", ".join(path.name for path in paths)

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def topics(self) -> dict[str, str]:
        """Message type by topic."""
        return {topic: kind for bag in self._bags for topic, kind in bag.topics.items()}

    def count(self, topic: str) -> int:
        return sum(bag.count(topic) for bag in self._bags)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[BagReader, BagMessage]]:
        """Each message, by log time, with the bag that decodes it."""
        streams = [zip(itertools.repeat(bag), bag.messages(topics)) for bag in self._bags]  # one has no end
        yield from heapq.merge(*streams, key=lambda one: one[1].log_ns)


def survey_recording(recording: Recording, seconds: float) -> SurveyFacts:
    """Facts of the first seconds; of topics that come later, of their first message.

    Raises:
        BagError: a bag is damaged.
    """
    survey = Survey()
    for topic, type_name in recording.topics.items():
        survey.announce(topic, type_name, recording.count(topic))
    awaited = set(recording.topics)
    end_ns: int | None = None
    for bag, message in recording.messages():
        end_ns = message.log_ns + round(seconds * 1e9) if end_ns is None else end_ns
        if message.log_ns > end_ns:
            break
        awaited.discard(message.topic)
        _take(survey, bag, message)
    else:
        return survey.facts(recording.name)
    looked_at = survey.facts(recording.name).seconds
    # Calibration is often recorded late; it belongs to the recording all the same.
    while awaited:
        first = next(iter(recording.messages(awaited)), None)
        if first is None:
            break
        awaited.discard(first[1].topic)
        _take(survey, *first)
    return replace(survey.facts(recording.name), seconds=looked_at)


def _take(survey: Survey, bag: BagReader, message: BagMessage) -> None:
    survey.take(message.topic, message.type_name, message.cdr, message.log_ns, _decoder(bag, message))


def _decoder(bag: BagReader, message: BagMessage) -> Callable[[], Any]:
    return lambda: bag.decode(message)


def check_recording(rig: RigConfig, recording: Recording, seconds: float) -> Readiness:
    """Whether a rig is ready for a recording; of its first seconds.

    Static transforms and each first CameraInfo are taken first, wherever they lie: live they are latched.

    Raises:
        BagError: a bag is damaged.
    """
    topics = recording.topics
    check = ReadinessCheck(rig, topics, {topic: recording.count(topic) for topic in topics})
    early = {topic for topic, route in check.inputs.items() if is_calibration(route)}
    static = {topic for topic in early if check.inputs[topic].role == "tf_static"}
    waiting = early - static
    for bag, message in recording.messages(early):
        if message.topic in static or message.topic in waiting:
            waiting.discard(message.topic)
            check.take(message.topic, message.cdr, message.log_ns, _decoder(bag, message), first=True)
    end_ns: int | None = None
    for bag, message in recording.messages(set(check.inputs)):
        end_ns = message.log_ns + round(seconds * 1e9) if end_ns is None else end_ns
        if message.log_ns > end_ns:
            break
        check.take(message.topic, message.cdr, message.log_ns, _decoder(bag, message))
    return check.finish(recording.name)
