"""Reading bags: topics, types and messages in the order of their log times, of one recording or of several."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

from mm_perception.bags.channels import CDR, ROS1, Channel, RecordedQos, Storage
from mm_perception.bags.compression import unpacked_zstd
from mm_perception.bags.damage import DamagedError, DamageLog
from mm_perception.bags.flat_arrays import read_flat_array
from mm_perception.bags.message_types import ChannelTypes, todays_name
from mm_perception.bags.names import nearest_names
from mm_perception.bags.parts import find_parts
from mm_perception.bags.storages import ZSTD_MAGIC, Scratch, open_storage
from mm_perception.core.errors import BagError, DataError
from mm_perception.core.limits import MAX_LIST_BYTES, MAX_MESSAGE_BYTES, MAX_SMALL_MESSAGE_BYTES

_BULK = frozenset(
    f"{package}/msg/{name}"
    for package, name in (
        ("sensor_msgs", "Image"), ("sensor_msgs", "CompressedImage"), ("sensor_msgs", "PointCloud2"),
        ("event_camera_msgs", "EventPacket"), ("ffmpeg_image_transport_msgs", "FFMPEGPacket"),
        ("foxglove_msgs", "CompressedVideo"),
    )
)  # fmt: skip
"""Messages whose bulk is one array of bytes, which costs no Python object per element."""


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One recorded message.

    Attributes:
        cdr: its bytes as ROS 2 has them on the wire (encapsulation header and body), of ROS 1 bags, too.
        log_ns: when it was recorded.
        types: what the bag that it is of says of its type.
    """

    topic: str
    type_name: str
    cdr: bytes
    log_ns: int
    types: ChannelTypes | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """One file, and its channels that hold ROS messages, by their numbers."""

    storage: Storage
    channels: Mapping[int, tuple[Channel, ChannelTypes]]


class BagReader:
    """Open bags: folders, with metadata.yaml or without, and .mcap, .db3 and ROS 1 .bag files, also as .zstd.

    Several are one timeline, by log time; messages of one moment come in the order of the bags. Messages that were
    compressed one by one are decompressed. What is damaged in a file is left out and counted in `dropped`, and what is
    foreign to ROS is left out and named in `foreign`.

    Attributes:
        path: of the first bag. name: of all, for messages.

    Raises:
        BagError: a bag does not exist, cannot be opened, or turns out to be damaged while it is read.
    """

    def __init__(self, paths: Path | str | Sequence[Path | str]) -> None:
        given = [paths] if isinstance(paths, (Path, str)) else list(paths)
        if not given:
            raise BagError("no bag was named")
        self.paths = tuple(dict.fromkeys(Path(one) for one in given))
        self.path = self.paths[0]
        self.name = ", ".join(map(str, self.paths))
        self._damage = DamageLog()
        self._scratch = Scratch()
        self._sources: list[_Source] = []
        try:
            for path in self.paths:
                self._open(path)
        except BaseException:
            self.close()
            raise
        self._topics = _types_by_topic([one for source in self._sources for one, _ in source.channels.values()])

    def _open(self, path: Path) -> None:
        problems: list[str] = []
        opened = 0
        try:
            parts = find_parts(path, self._damage)
        except OSError as error:
            raise BagError(f"{path}: cannot be read ({error.strerror or error})") from error
        for part in parts:
            try:
                storage = open_storage(part, self._damage, self._scratch)
            except BagError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{part}: cannot be read ({error.strerror or error})")
            except Exception as error:  # damage in places that nobody thought of
                problems.append(f"{part}: cannot be opened as a bag ({_reason(error)})")
            else:
                opened += 1
                self._sources.append(_Source(storage, _ros_channels(storage.channels)))
        if not opened:
            raise BagError(problems[0])
        for problem in problems:  # one part of several
            self._damage.note(problem)
            self._damage.add(problem.partition(": ")[0], 0, "a file of the bag cannot be read")

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for source in self._sources:
            with contextlib.suppress(Exception):  # the files are only read
                source.storage.close()
        self._scratch.close()

    @property
    def topics(self) -> Mapping[str, str]:
        """Message type by topic, of what holds ROS messages."""
        return self._topics

    @property
    def foreign(self) -> Mapping[str, str]:
        """What other topics are, in words."""
        return {
            channel.topic: _foreign_words(channel)
            for channel in self._channels()
            if not _is_ros(channel) and channel.topic not in self._topics
        }

    @property
    def message_count(self) -> int:
        return sum(channel.count for channel in self._channels())

    @property
    def duration_s(self) -> float:
        spans = [source.storage.span_ns for source in self._sources]
        known = [span for span in spans if span is not None]
        return (max(last for _, last in known) - min(first for first, _ in known)) * 1e-9 if known else 0.0

    @property
    def dropped(self) -> Counter[str]:
        """What was found damaged so far and left out: lost messages by "topic: reason"."""
        return self._damage.dropped()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it should be about the files, and how that may be mended: a sentence each."""
        return tuple(self._damage.notes)

    def count(self, topic: str) -> int:
        """Messages of a topic."""
        return sum(channel.count for channel in self._channels() if channel.topic == topic)

    def qos(self, topic: str) -> RecordedQos:
        """What a publisher must offer to be as good as all that were recorded."""
        profiles = [one for channel in self._channels() if channel.topic == topic for one in channel.qos]
        if not profiles:
            return RecordedQos()
        depths = [one.depth for one in profiles]
        return RecordedQos(
            reliable=all(one.reliable for one in profiles),
            latched=any(one.latched for one in profiles),
            depth=0 if 0 in depths else max(depths),
        )

    def qos_durability_transient(self, topic: str) -> bool:
        """Whether the topic was recorded from a transient-local (latched) publisher."""
        return self.qos(topic).latched

    def why_missing(self, topic: str, type_name: str = "") -> str:
        """Why there are no messages of a topic, and which topic may be meant.

        Args:
            type_name: that is wanted of it.
        """
        if topic in self.foreign:
            return f"{topic} is {self.foreign[topic]}"
        if near := nearest_names(topic, (*self.topics, *self.foreign)):
            return f"no topic {topic}; did you mean {' or '.join(near)}?"
        same = sorted(name for name, kind in self.topics.items() if kind == type_name)
        if same:
            return f"no topic {topic}; topics of {type_name}: {', '.join(same)}"
        return f"no topic {topic}; topics: {', '.join(sorted((*self.topics, *self.foreign))) or 'none'}"

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """The messages of all or the given topics, by log time."""
        streams = [self._stream(source, topics) for source in self._sources]
        for log_ns, found, data in merge(*streams, key=itemgetter(0)):
            if found is None:
                continue
            channel, types = found
            try:
                cdr = types.to_cdr(data if channel.encoding == ROS1 else _decompressed(data))
            except DamagedError as error:
                self._damage.add(channel.topic, log_ns, str(error), {channel.topic: 1})
            except Exception as error:  # zstd has an error of its own
                reason = f"damaged message compression ({type(error).__name__})"
                self._damage.add(channel.topic, log_ns, reason, {channel.topic: 1})
            else:
                yield BagMessage(channel.topic, todays_name(channel.type_name), cdr, log_ns, types)

    def _stream(self, source: _Source, topics: Collection[str] | None) -> Iterator[Any]:
        """(log time, channel, data); first a mark with the file's start, so that a merge opens it not before."""
        wanted = {
            number: found
            for number, found in source.channels.items()
            if found[0].count and (topics is None or found[0].topic in topics)
        }
        if not wanted or source.storage.span_ns is None:
            return
        yield source.storage.span_ns[0], None, b""
        try:
            for log_ns, number, data in source.storage.messages(wanted.keys()):
                yield log_ns, wanted[number], data
        except Exception as error:
            raise BagError(f"{self.name}: damaged while reading ({_reason(error)})") from error

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS 2's fields.

        Raises:
            DataError: the bytes are too many or no message of its type, or nobody knows the type.
        """
        types = message.types or ChannelTypes(Channel(0, message.topic, message.type_name, CDR))
        flat = types.flat_array()
        most = MAX_MESSAGE_BYTES if message.type_name in _BULK else MAX_SMALL_MESSAGE_BYTES
        if len(message.cdr) > (most if flat is None else MAX_LIST_BYTES):
            raise DataError(f"{message.topic}: {len(message.cdr)} bytes are too much for a {message.type_name}")
        try:
            return read_flat_array(message.cdr, flat) if flat is not None else types.decode(message.cdr)
        except DamagedError as error:
            raise DataError(f"{message.topic}: {error}") from error
        except Exception as error:
            raise DataError(
                f"{message.topic}: {len(message.cdr)} bytes are no {message.type_name} ({_reason(error)})"
            ) from error

    def _channels(self) -> Iterator[Channel]:
        for source in self._sources:
            yield from source.storage.channels


def _is_ros(channel: Channel) -> bool:
    return channel.encoding in (CDR, ROS1) and bool(channel.topic) and bool(channel.type_name)


def _ros_channels(channels: Sequence[Channel]) -> dict[int, tuple[Channel, ChannelTypes]]:
    return {one.number: (one, ChannelTypes(one)) for one in channels if _is_ros(one)}


def _types_by_topic(channels: Sequence[Channel]) -> dict[str, str]:
    """Of a topic with several types, that of most messages."""
    counts: dict[str, Counter[str]] = {}
    for one in channels:
        counts.setdefault(one.topic, Counter())[todays_name(one.type_name)] += one.count
    return {topic: types.most_common(1)[0][0] for topic, types in counts.items()}


def _foreign_words(channel: Channel) -> str:
    if channel.encoding in (CDR, ROS1):
        return "a channel without a schema: what its messages are is not said"
    name = f" ({channel.type_name})" if channel.type_name else ""
    return f"a {channel.encoding or 'nameless'} channel{name}: only messages of ROS are read; convert it to ROS 2"


def _decompressed(data: bytes) -> bytes:
    # CDR starts with 0x00; so a zstd frame can't be mistaken for a message.
    return unpacked_zstd(data, MAX_MESSAGE_BYTES) if data[:4] == ZSTD_MAGIC else data


def _reason(error: Exception) -> str:
    if isinstance(error, DamagedError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
