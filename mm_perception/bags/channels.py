"""What a bag file holds, by topic, whatever the format of the file."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mm_perception.core.errors import ConfigError
from mm_perception.core.yaml_file import parse_yaml

CDR, ROS1 = "cdr", "ros1"
_DEPTH, _MAX_DEPTH = 10, 1000
_TRANSIENT_LOCAL = (1, "1", "transient_local")
_BEST_EFFORT = (2, "2", "best_effort")
_KEEP_ALL = (2, "2", "keep_all")


@dataclass(frozen=True, slots=True)
class Definition:
    """How a file says what a type's messages consist of.

    Attributes:
        form: ros2msg, ros2idl or ros1msg; another for messages that are none of ROS; empty: nothing is said.
    """

    form: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class RecordedQos:
    """What a publisher offered when it was recorded. depth: 0 for all."""

    reliable: bool = True
    latched: bool = False
    depth: int = _DEPTH


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic with one type in one file.

    Attributes:
        number: how the file refers to it.
        type_name: as recorded.
        encoding: of the messages: `CDR`, `ROS1`, or one that is none of ROS.
        count: messages.
        qos: of its publishers, as far as they were recorded.
    """

    number: int
    topic: str
    type_name: str
    encoding: str
    definition: Definition = Definition()
    count: int = 0
    qos: tuple[RecordedQos, ...] = ()


class Storage(Protocol):
    """An open file of a bag.

    Attributes:
        channels: what it holds.
        span_ns: log times of the first and the last message; None: there is none.
    """

    channels: tuple[Channel, ...]
    span_ns: tuple[int, int] | None

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """(log time [ns], number of the channel, message) of some channels, by log time."""

    def close(self) -> None:
        """Closes the file."""


def parse_qos(text: object) -> tuple[RecordedQos, ...]:
    """rosbag2's `offered_qos_profiles` of any version; what is not understood is left out."""
    if not isinstance(text, str) or not text.strip():
        return ()
    profiles: Any = ()
    with contextlib.suppress(ConfigError):
        profiles = parse_yaml(text, "offered_qos_profiles")
    if not isinstance(profiles, list):
        return ()
    return tuple(_qos(profile) for profile in profiles if isinstance(profile, Mapping))


def _qos(profile: Mapping[str, Any]) -> RecordedQos:
    def policy(name: str) -> object:
        value = profile.get(name)
        return value.lower() if isinstance(value, str) else value

    depth = policy("depth")
    keeps_all = policy("history") in _KEEP_ALL
    sane = isinstance(depth, int) and 0 < depth <= _MAX_DEPTH
    return RecordedQos(
        reliable=policy("reliability") not in _BEST_EFFORT,
        latched=policy("durability") in _TRANSIENT_LOCAL,
        depth=0 if keeps_all else (int(str(depth)) if sane else _DEPTH),
    )
