"""One pass over messages: facts of each topic.

All stamps are read, by a look at the first bytes where that gives what decoding gives; a few messages of each topic
are decoded, the more apart the longer it goes on (the 1st, 2nd, 3rd, 5th, 9th, ...).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mm_perception.core.errors import MmPerceptionError
from mm_perception.survey.content import combine, describe, is_sampled
from mm_perception.survey.facts import Content, FrameFacts, SurveyFacts, TopicFacts
from mm_perception.survey.headers import decoded_header, header_of

_MOST_SAMPLES = 16
_MOST_FRAMES = 8
_TRANSFORMS_WHOLE, _TRANSFORMS_EVERY = 300, 20
_MOST_LINKS = 2000
TRANSFORMS = "tf2_msgs/msg/TFMessage"


@dataclass(slots=True, eq=False)
class _Topic:
    """What has been seen of a topic; `quick`: whether its header can be read without decoding, None: not tried."""

    type_name: str
    announced: int = 0
    seen: int = 0
    stamps: array[int] = field(default_factory=lambda: array("q"))
    logs: array[int] = field(default_factory=lambda: array("q"))
    sizes: list[int] = field(default_factory=list)
    frames: dict[str, None] = field(default_factory=dict)
    samples: list[Content] = field(default_factory=list)
    problem: str = ""
    quick: bool | None = None
    has_header: bool = True


class Survey:
    """Takes messages one by one, gives facts."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._parents: dict[str, str] = {}
        self._moving: set[str] = set()
        self._first_ns: int | None = None
        self._last_ns = 0

    def announce(self, topic: str, type_name: str, count: int = 0) -> None:
        """Names a topic that is there, with the messages that it has in all, whether they are looked at or not."""
        self._topics.setdefault(topic, _Topic(type_name)).announced = count

    def take(self, topic: str, type_name: str, cdr: bytes, log_ns: int, decode: Callable[[], Any]) -> None:
        """Looks at one message.

        Args:
            cdr: its bytes.
            log_ns: when it arrived.
            decode: gives the message; it raises an MmPerceptionError if the bytes are no such message.
        """
        one = self._topics.setdefault(topic, _Topic(type_name))
        self._first_ns = log_ns if self._first_ns is None else min(self._first_ns, log_ns)
        self._last_ns = max(self._last_ns, log_ns)
        index, one.seen = one.seen, one.seen + 1
        try:
            self._look(topic, one, index, cdr, log_ns, decode)
        except MmPerceptionError as error:
            one.problem = one.problem or str(error)

    def _look(self, topic: str, one: _Topic, index: int, cdr: bytes, log_ns: int, decode: Callable[[], Any]) -> None:
        if one.type_name == TRANSFORMS:
            if index < _TRANSFORMS_WHOLE or index % _TRANSFORMS_EVERY == 0:
                self._link(decode(), is_static="static" in topic.rsplit("/", 1)[-1])
            return
        if not is_sampled(one.type_name):
            return
        msg = decode() if _is_chosen(index) else None
        if one.quick is None and msg is not None:
            whole = decoded_header(msg)
            one.has_header, one.quick = whole is not None, header_of(cdr) == whole
        if one.has_header:
            header = header_of(cdr) if one.quick else decoded_header(msg if msg is not None else decode())
            if header is not None:
                one.stamps.append(header[0])
                one.logs.append(log_ns)
                if len(one.frames) < _MOST_FRAMES:
                    one.frames.setdefault(header[1])
        if msg is not None:
            one.sizes.append(len(cdr))
            content, problem = describe(one.type_name, msg)
            one.problem = one.problem or problem
            if content is not None:
                one.samples.append(content)

    def _link(self, msg: Any, is_static: bool) -> None:
        for item in msg.transforms:
            parent, child = str(item.header.frame_id).lstrip("/"), str(item.child_frame_id).lstrip("/")
            if not parent or not child or parent == child or len(self._parents) >= _MOST_LINKS:
                continue
            if is_static:
                self._moving.discard(child)
                self._parents[child] = parent
            elif child not in self._parents or child in self._moving:
                self._moving.add(child)
                self._parents[child] = parent

    def facts(self, source: str) -> SurveyFacts:
        """What has been seen; `source` is how comments call it."""
        topics = {name: _facts(name, one) for name, one in sorted(self._topics.items())}
        tf_topics = tuple(name for name, one in topics.items() if one.type_name == TRANSFORMS)
        seconds = 0.0 if self._first_ns is None else (self._last_ns - self._first_ns) * 1e-9
        return SurveyFacts(topics, FrameFacts(dict(self._parents), frozenset(self._moving)), source, seconds, tf_topics)


def _is_chosen(index: int) -> bool:
    """The 1st, 2nd, 3rd, 5th, 9th, ... message."""
    return index < 2 or (index - 1 & index - 2 == 0 and index < 2**_MOST_SAMPLES) or index == 2


def _facts(name: str, one: _Topic) -> TopicFacts:
    return TopicFacts(
        name,
        one.type_name,
        max(one.announced, one.seen),
        np.array(one.stamps, np.int64),
        np.array(one.logs, np.int64),
        int(np.median(one.sizes)) if one.sizes else 0,
        tuple(one.frames),
        combine(one.samples),
        one.problem,
    )
