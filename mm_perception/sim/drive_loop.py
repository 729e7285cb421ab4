"""A short recorded drive as an endless one: every lap goes on where the one before ended, under stamps of its own.

What lies between the first and the last frame of the recording is repeated. The motion of the last lap is carried on,
so that odometry has no jump where the recording starts again; sequence numbers and stamps go on, too. Topics may be
thinned out: a machine that is too slow for every frame can have fewer sets of the same sensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.bags.reader import BagReader
from mm_perception.bags.typestore import BagMessages
from mm_perception.codec.encode import encode_transforms, make_pose
from mm_perception.codec.transforms import decode_odometry, decode_transform
from mm_perception.core.errors import BagError, ConfigError
from mm_perception.core.rig import TF_STATIC_TOPIC, TF_TOPIC
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.sim.faults import Sent, shifted

_FACTORY = BagMessages()


@dataclass(frozen=True, slots=True)
class _Kept:
    topic: str
    message: Any
    log_ns: int


class DriveLoop:
    """The messages of a recording, decoded once, and laps of them.

    Attributes:
        types: message types by topic.
        latched: (topic, message) of static transforms.
        lap_ns: how long a lap takes.
    """

    def __init__(
        self,
        path: Path,
        topics: Collection[str],
        reference: str,
        fixed_frame: str,
        every: Mapping[str, int] | None = None,
        tf: str = TF_TOPIC,
        tf_static: str = TF_STATIC_TOPIC,
    ) -> None:
        """Args:
        topics: that are played, as far as the recording has them.
        reference: topic whose first and last message bound the laps.
        fixed_frame: in which the vehicle moves; "": it does not.
        every: by topic, of how many messages one is played; all of the others.
        tf, tf_static: topics of transforms.

        Raises:
            BagError: the recording has fewer than three messages of the reference.
            ConfigError: the same message of a topic would come again and again.
            DataError: a message is damaged.
        """
        with BagReader(path) as bag:
            kept = [_Kept(m.topic, bag.decode(m), m.log_ns) for m in bag.messages(topics)]
            self.types = {topic: kind for topic, kind in bag.topics.items() if topic in topics}
        frames = [one.log_ns for one in kept if one.topic == reference]
        if len(frames) < 3:
            raise BagError(f"{path}: expected at least 3 messages of {reference}, got {len(frames)}")
        self.latched = [(one.topic, one.message) for one in kept if one.topic == tf_static]
        self._first_ns, self.lap_ns = frames[0], frames[-1] - frames[0]
        self._lap = [
            one for one in kept if frames[0] < one.log_ns <= frames[-1] and one.topic != tf_static
        ]  # the first frame is what the last one of the lap before is
        self._counts = {topic: sum(one.topic == topic for one in self._lap) for topic in self.types}
        self._every = dict(every or {})
        for topic, n in self._every.items():
            if n < 1 or (n > 1 and n % max(self._counts.get(topic, 0), 1) == 0):
                raise ConfigError(f"{topic}: one message in {n} of {self._counts.get(topic, 0)} is no stream")
        self._fixed, self._tf = fixed_frame, tf
        self._moved = {pair: _motion(kept, pair, frames[0], frames[-1], tf) for pair in _pairs(kept, fixed_frame, tf)}

    def play(self, start_ns: int) -> Iterator[Sent]:
        """All messages from a time on, without end.

        Args:
            start_ns: where the first frame of the recording would be; the next one is the first that comes.
        """
        so_far = {pair: RigidTransform.identity(pair[0]) for pair in self._moved}
        lap, played = 0, Counter[str]()
        while True:
            shift_ns = start_ns + lap * self.lap_ns - self._first_ns
            for one in self._lap:
                played[one.topic] += 1
                if played[one.topic] % self._every.get(one.topic, 1):
                    continue
                message = self._moved_on(shifted(one.message, shift_ns), one.topic, so_far)
                if hasattr(message, "seq"):
                    message = replace(message, seq=message.seq + lap * self._counts[one.topic])
                yield Sent(one.topic, message, one.log_ns + shift_ns)
            so_far = {pair: so_far[pair] @ self._moved[pair] for pair in so_far}
            lap += 1

    def _moved_on(self, message: Any, topic: str, so_far: dict[tuple[str, str], RigidTransform]) -> Any:
        """With the motion of the laps before in front of its poses in the fixed frame."""
        if topic == self._tf:
            return replace(message, transforms=[_carried_on(one, so_far) for one in message.transforms])
        if self.types[topic] == "nav_msgs/msg/Odometry" and message.header.frame_id == self._fixed:
            here, _ = decode_odometry(message)
            on = so_far.get((here.dst, here.src))
            if on is not None:
                here = on @ here
                pose = make_pose(_FACTORY, here.translation, here.quat_xyzw)
                return replace(message, pose=replace(message.pose, pose=pose))
        return message


def _carried_on(stamped_transform: Any, so_far: dict[tuple[str, str], RigidTransform]) -> Any:
    here, stamp_ns = decode_transform(stamped_transform)
    on = so_far.get((here.dst, here.src))
    return stamped_transform if on is None else encode_transforms(_FACTORY, [on @ here], stamp_ns).transforms[0]


def _poses(kept: list[_Kept], tf: str) -> list[tuple[RigidTransform, int]]:
    found = [decode_transform(one) for k in kept if k.topic == tf for one in k.message.transforms]
    return found + [decode_odometry(k.message) for k in kept if hasattr(k.message, "twist")]


def _pairs(kept: list[_Kept], fixed_frame: str, tf: str) -> set[tuple[str, str]]:
    """(fixed frame, child) of all that moves in it."""
    return {(pose.dst, pose.src) for pose, _ in _poses(kept, tf) if fixed_frame and pose.dst == fixed_frame}


def _motion(kept: list[_Kept], pair: tuple[str, str], first_ns: int, last_ns: int, tf: str) -> RigidTransform:
    """What carries the pose at the first frame to that at the last one, in the fixed frame."""
    by_stamp = {stamp_ns: pose for pose, stamp_ns in _poses(kept, tf) if (pose.dst, pose.src) == pair}
    stamps = np.array(sorted(by_stamp))
    first, last = (by_stamp[int(stamps[np.abs(stamps - ns).argmin()])] for ns in (first_ns, last_ns))
    return last @ first.inverse()
