"""`sync_policy: message_filters`: ROS's ApproximateTimeSynchronizer in the place of this package's own.

It knows no offsets, optional sensors or timeouts: a sensor that is silent stops it. Event cameras give the one
packet that is nearest. Needs the Python package message_filters of a ROS installation.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Generic, TypeVar

from rclpy.time import Time

from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig
from mm_perception.sync.synchronizer import MatchedSet, SyncStats

Item = TypeVar("Item")


class MessageFiltersSynchronizer(Generic[Item]):
    """The same interface as `Synchronizer`, the decisions are those of message_filters."""

    def __init__(self, rig: RigConfig, queue_size: int = 30) -> None:
        """Raises ConfigError if message_filters is not installed or the rig uses offsets."""
        try:
            import message_filters
        except ImportError as error:
            raise ConfigError(
                "sync_policy message_filters needs the ROS package message_filters, which is not installed"
            ) from error
        shifted = [sensor.name for sensor in rig.sensors if sensor.lag_ns]
        if shifted:
            raise ConfigError(
                f"sync_policy message_filters knows no offset_ms below 1000 (set for {', '.join(shifted)})"
            )
        self.stats = SyncStats()
        self._names = [rig.reference, *(s.name for s in rig.sensors if s.name != rig.reference)]
        self._filters = {name: message_filters.SimpleFilter() for name in self._names}
        slop_s = max(s.tolerance_ms for s in rig.sensors) * 1e-3
        self._inner = message_filters.ApproximateTimeSynchronizer(list(self._filters.values()), queue_size, slop_s)
        self._inner.registerCallback(self._matched)
        self._ready: list[MatchedSet[Item]] = []

    def push(
        self, name: str, stamp_ns: int, item: Item, now_ns: int, *, until_ns: int | None = None, expire: bool = True
    ) -> list[MatchedSet[Item]]:
        self.stats.received[name] += 1
        stamp = Time(nanoseconds=stamp_ns).to_msg()
        carrier = SimpleNamespace(header=SimpleNamespace(stamp=stamp), stamp_ns=stamp_ns, item=item, arrived_ns=now_ns)
        self._filters[name].signalMessage(carrier)
        return self.poll(now_ns)

    @property
    def silent(self) -> tuple[str, ...]:
        return ()

    @property
    def next_deadline_ns(self) -> int | None:
        return None

    def poll(self, now_ns: int) -> list[MatchedSet[Item]]:
        ready, self._ready = self._ready, []
        return ready

    def flush(self) -> list[MatchedSet[Item]]:
        return self.poll(0)

    def _matched(self, *carriers: SimpleNamespace) -> None:
        reference_ns = carriers[0].stamp_ns
        found: Sequence[tuple[str, SimpleNamespace]] = list(zip(self._names, carriers, strict=True))
        self.stats.sets += 1
        for name, _ in found:
            self.stats.matched[name] += 1
        self._ready.append(
            MatchedSet(
                reference_ns,
                {name: (carrier.item,) for name, carrier in found},
                {name: carrier.stamp_ns - reference_ns for name, carrier in found},
                (),
                arrived_ns=carriers[0].arrived_ns,
            )
        )
