"""Approximate time synchronisation around a reference sensor, without ROS.

Each reference stamp t opens a set. A `nearest` stream gives it the one message closest to t + offset within a
tolerance; a `window` stream (event packets) gives all messages that reach into (t + offset - window,
t + offset]. Matching is one-to-one and monotone: a message serves one reference, the one that it is closest to
(the earlier on a tie), and never an earlier reference than a message before it did. A set is decided as soon as
no message that may still come in order could change it, at the latest `max_wait_ns` after its reference came.

Nothing waits for what is not coming: a stream that may be missing and sent nothing while a set waited its full time
for it is silent, and no later set waits for it until it sends again. A stream that is not `awaited` is used where it
is there, and never waited for.

Cost of a message: a bisection in its stream's buffer; buffers are bounded.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mm_perception.core.errors import ConfigError

Item = TypeVar("Item")

JUMP_NS = 300_000_000
"""A stamp that lies further than this before a stream's newest means that time jumped back."""
_COMPACT_AT = 64
"""Consumed heads of buffers are cut off in batches of this size, which keeps removal at amortised O(1)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How one sensor is matched.

    Attributes:
        offset_ns: its stamp minus the reference's stamp for the same instant.
        tolerance_ns: largest distance from reference stamp plus offset.
        required: a set without it is dropped.
        window_ns: 0 for nearest match; else messages of this span before the target are gathered.
        awaited: whether a set waits for it at all.
        min_period_ns: no two messages are closer than this, which lets sets be decided before the next
            message came; None: learned (half the smallest gap seen; before that, the tolerance).
        max_buffer: how many messages wait at most; the oldest is dropped beyond that.
    """

    name: str
    offset_ns: int = 0
    tolerance_ns: int = 50_000_000
    required: bool = True
    window_ns: int = 0
    awaited: bool = True
    min_period_ns: int | None = None
    max_buffer: int = 100

    def __post_init__(self) -> None:
        if min(self.tolerance_ns, self.window_ns, self.min_period_ns or 0) < 0 or self.max_buffer < 1:
            raise ConfigError(f"stream {self.name}: negative time or buffer size")


@dataclass(frozen=True, slots=True, eq=False)
class MatchedSet(Generic[Item]):
    """One reference message and what was matched to it.

    Attributes:
        items: by stream name, in order of stamps; the reference and nearest streams have one item each.
        skew_ns: by stream name, stamp minus target (for windows: how far the stream lags, at most 0).
        missing: names of streams without a match.
        waited_ns: how long the reference waited for the others, on the clock of `now_ns`; 0 if flushed.
        arrived_ns: when the reference came, on that clock.
    """

    stamp_ns: int
    items: Mapping[str, tuple[Item, ...]]
    skew_ns: Mapping[str, int]
    missing: tuple[str, ...]
    waited_ns: int = 0
    arrived_ns: int = 0


@dataclass(slots=True)
class SyncStats:
    """Counters; `dropped` is keyed by (stream, reason).

    Reasons: duplicate, late (older than what was decided), overflow, unmatched (no reference for it),
    time_jump, and for the reference `missing:<stream>` (a required stream gave nothing).
    """

    received: Counter[str] = field(default_factory=Counter)
    matched: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    time_jumps: Counter[str] = field(default_factory=Counter)
    sets: int = 0
    timeouts: int = 0


_WINDOW_SLACK_NS = 1_000_000_000
"""How much later than its events a reference may arrive."""
_GAPS_KEPT = 100
_WINDOW_TAIL = 50
"""A window counts as filled when all but this fraction of it (one in ...) at its end has come."""


class _Gap:
    """A lower bound of the time between a stream's messages: given, learned, or assumed until two have come."""

    __slots__ = ("_assumed_ns", "_before_ns", "_count", "_given_ns", "_smallest_ns")

    def __init__(self, given_ns: int | None, assumed_ns: int) -> None:
        self._given_ns = given_ns
        self._assumed_ns = assumed_ns
        self._smallest_ns: int | None = None
        self._before_ns: int | None = None
        self._count = 0

    def note(self, newest_ns: int | None, stamp_ns: int) -> None:
        if newest_ns is not None and stamp_ns > newest_ns:
            gap = stamp_ns - newest_ns
            self._smallest_ns = gap if self._smallest_ns is None else min(gap, self._smallest_ns)
            self._count += 1
            if self._count == _GAPS_KEPT:  # a stray gap counts for two of these at most, not for ever
                self._before_ns, self._smallest_ns, self._count = self._smallest_ns, gap, 0

    @property
    def bound_ns(self) -> int:
        """Half the smallest gap seen leaves room for jitter."""
        if self._given_ns is not None:
            return max(self._given_ns, 1)
        if self._smallest_ns is None:
            return self._assumed_ns
        smallest_ns = self._smallest_ns if self._before_ns is None else min(self._smallest_ns, self._before_ns)
        return max(smallest_ns // 2, 1)


class _Buffer(Generic[Item]):
    """Messages of one stream by stamp; taken from the front."""

    __slots__ = ("arrived_ns", "gap", "head", "is_silent", "items", "newest", "stamps", "stream", "until")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.stamps: list[int] = []
        self.items: list[Item] = []
        self.head = 0
        self.newest: int | None = None
        self.until: int | None = None
        self.arrived_ns: int | None = None
        self.is_silent = False
        self.gap = _Gap(stream.min_period_ns, stream.tolerance_ns + 1)

    def __len__(self) -> int:
        return len(self.stamps) - self.head

    def insert(self, stamp_ns: int, item: Item) -> None:
        i = bisect.bisect_right(self.stamps, stamp_ns, self.head)
        self.stamps.insert(i, stamp_ns)
        self.items.insert(i, item)
        self.note(stamp_ns)

    def note(self, stamp_ns: int) -> None:
        """Follows the stream's front without keeping a message."""
        self.gap.note(self.newest, stamp_ns)
        if self.newest is None or stamp_ns > self.newest:
            self.newest = stamp_ns

    @property
    def next_earliest_ns(self) -> int | None:
        """No message still to come in order is older than this."""
        return None if self.newest is None else self.newest + self.gap.bound_ns

    def holds(self, stamp_ns: int) -> bool:
        i = bisect.bisect_left(self.stamps, stamp_ns, self.head)
        return i < len(self.stamps) and self.stamps[i] == stamp_ns

    def drop_front(self, count: int) -> int:
        """Removes the `count` oldest messages; indices held from before are void. Returns `count`."""
        self.items[self.head : self.head + count] = [None] * count  # type: ignore[list-item]  # frees them
        self.head += count
        if self.head >= _COMPACT_AT and 2 * self.head >= len(self.stamps):
            del self.stamps[: self.head], self.items[: self.head]
            self.head = 0
        return count

    def clear(self) -> int:
        count = len(self)
        self.stamps, self.items, self.head, self.newest, self.until = [], [], 0, None, None
        return count


@dataclass(slots=True, eq=False)
class _Pending(Generic[Item]):
    """A reference message that waits for its set."""

    stamp_ns: int
    item: Item
    deadline_ns: int


class Synchronizer(Generic[Item]):
    """Feeds messages in with `push`, gets sets out in the order of the reference's stamps.

    `now_ns` may be any clock that runs forward (node clock, or the log times of a bag).
    """

    def __init__(
        self,
        reference: str,
        streams: Sequence[Stream],
        max_wait_ns: int,
        *,
        reference_min_period_ns: int | None = None,
        max_pending: int = 30,
        jump_ns: int = JUMP_NS,
    ) -> None:
        """Args:
        reference: name of the reference stream; it is not among `streams`.
        max_wait_ns: how long after its reference a set may wait.
        reference_min_period_ns: as `Stream.min_period_ns`.
        max_pending: how many references wait at most; beyond that the oldest set goes as it is.
        jump_ns: a stamp that lies further than this before the stream's newest means that time jumped
            back (a bag that loops), not that a message is late.

        Raises:
            ConfigError: double names, negative wait.
        """
        names = [reference, *(stream.name for stream in streams)]
        if len(set(names)) != len(names):
            raise ConfigError(f"synchronizer: double stream names in {names}")
        if max_wait_ns < 0 or max_pending < 1 or jump_ns < 0:
            raise ConfigError("synchronizer: negative wait, jump or queue size")
        self.reference = reference
        self.stats = SyncStats()
        self._max_wait_ns = max_wait_ns
        widest_ns = max((stream.tolerance_ns for stream in streams), default=0)
        self._gap = _Gap(reference_min_period_ns, 2 * widest_ns + 1)
        self._max_pending = max_pending
        self._jump_ns = jump_ns
        self._pending: list[_Pending[Item]] = []
        self._buffers: dict[str, _Buffer[Item]] = {s.name: _Buffer(s) for s in streams}
        self._newest_reference: int | None = None
        self._last_decided: int | None = None

    def __len__(self) -> int:
        """How many messages are held."""
        return len(self._pending) + sum(len(buffer) for buffer in self._buffers.values())

    def push(
        self, name: str, stamp_ns: int, item: Item, now_ns: int, *, until_ns: int | None = None, expire: bool = True
    ) -> list[MatchedSet[Item]]:
        """Takes one message; returns the sets that it completed.

        Args:
            now_ns: when it arrived. Waiting times run from there.
            until_ns: window streams: the message holds everything up to this stamp; None: up to its own.
            expire: whether sets whose time is up by `now_ns` are given out, too. False where messages that arrived
                earlier may still come (they lie in other queues): `poll` then says up to when all have been pushed.

        Raises:
            KeyError: the stream is unknown (an error of the program, not of the data).
        """
        self.stats.received[name] += 1
        if name == self.reference:
            self._push_reference(stamp_ns, item, now_ns)
        else:
            buffer = self._buffers[name]
            buffer.arrived_ns, buffer.is_silent = now_ns, False
            self._push_stream(buffer, stamp_ns, item, stamp_ns if until_ns is None else until_ns)
        return self._take_ready(now_ns, now_ns if expire else None)

    def poll(self, now_ns: int) -> list[MatchedSet[Item]]:
        """The sets that are decided or whose time is up; everything that arrived before `now_ns` was pushed."""
        return self._take_ready(now_ns, now_ns)

    def _take_ready(self, now_ns: int, expire_ns: int | None) -> list[MatchedSet[Item]]:
        ready: list[MatchedSet[Item]] = []
        while self._pending:
            head = self._pending[0]
            if not self._is_decided():
                overdue = expire_ns is not None and expire_ns >= head.deadline_ns
                if not overdue and len(self._pending) <= self._max_pending:
                    break
                self.stats.timeouts += 1
                if expire_ns is not None and overdue:
                    self._note_silence(head, expire_ns)
            matched = self._take_head(now_ns)
            if matched is not None:
                ready.append(matched)
        return ready

    def _note_silence(self, head: _Pending[Item], now_ns: int) -> None:
        """Marks the streams that sent nothing at all while the set waited for them.

        A slow stream may be between two messages: it gets one and a half of its periods.
        """
        waited_since_ns = head.deadline_ns - self._max_wait_ns
        for buffer in self._buffers.values():
            if buffer.stream.required or self._is_settled(buffer, head.stamp_ns):
                continue
            last_ns = buffer.arrived_ns
            if last_ns is None or (last_ns < waited_since_ns and now_ns - last_ns >= 3 * buffer.gap.bound_ns):
                buffer.is_silent = True

    @property
    def silent(self) -> tuple[str, ...]:
        """Streams that no set waits for, because they sent nothing while the last one did."""
        return tuple(name for name, buffer in self._buffers.items() if buffer.is_silent)

    def flush(self) -> list[MatchedSet[Item]]:
        """Decides everything that waits, as if nothing would come any more."""
        ready = []
        while self._pending:
            matched = self._take_head()
            if matched is not None:
                ready.append(matched)
        return ready

    @property
    def next_deadline_ns(self) -> int | None:
        """When the oldest set's time is up, on the clock of `now_ns`; None if no set waits."""
        return self._pending[0].deadline_ns if self._pending else None

    def _push_reference(self, stamp_ns: int, item: Item, now_ns: int) -> None:
        newest = self._newest_reference
        if newest is not None and stamp_ns < newest - self._jump_ns:
            self._restart(stamp_ns)
        elif self._last_decided is not None and stamp_ns <= self._last_decided:
            self._drop(self.reference, "duplicate" if stamp_ns == self._last_decided else "late")
            return
        i = len(self._pending)
        while i and self._pending[i - 1].stamp_ns >= stamp_ns:
            i -= 1
        if i < len(self._pending) and self._pending[i].stamp_ns == stamp_ns:
            self._drop(self.reference, "duplicate")
            return
        self._pending.insert(i, _Pending(stamp_ns, item, now_ns + self._max_wait_ns))
        self._gap.note(self._newest_reference, stamp_ns)
        if self._newest_reference is None or stamp_ns > self._newest_reference:
            self._newest_reference = stamp_ns

    def _restart(self, stamp_ns: int) -> None:
        """The reference jumped back: all that belongs to the time before is void."""
        self.stats.time_jumps[self.reference] += 1
        self._drop(self.reference, "time_jump", len(self._pending))
        self._pending.clear()
        self._newest_reference = self._last_decided = None
        for name, buffer in self._buffers.items():
            if buffer.newest is not None and buffer.newest > stamp_ns + self._jump_ns:
                self._drop(name, "time_jump", buffer.clear())

    def _push_stream(self, buffer: _Buffer[Item], stamp_ns: int, item: Item, until_ns: int) -> None:
        stream = buffer.stream
        if buffer.newest is not None and stamp_ns < buffer.newest - self._jump_ns:
            self.stats.time_jumps[stream.name] += 1
            self._drop(stream.name, "time_jump", buffer.clear())
        elif self._is_late(stream, stamp_ns):
            self._drop(stream.name, "late")
            buffer.note(stamp_ns)
            return
        elif stream.window_ns == 0 and buffer.holds(stamp_ns):
            self._drop(stream.name, "duplicate")
            return
        buffer.insert(stamp_ns, item)
        if stream.window_ns:
            buffer.until = until_ns if buffer.until is None else max(buffer.until, until_ns)
            self._discard_old_window(buffer)
        if len(buffer) > stream.max_buffer:
            self._drop(stream.name, "overflow", buffer.drop_front(1))

    def _discard_old_window(self, buffer: _Buffer[Item]) -> None:
        """Bounds a window stream by time: what no reference that may still come could reach."""
        assert buffer.newest is not None
        stream = buffer.stream
        span_ns = stream.window_ns + stream.tolerance_ns + self._max_wait_ns + _WINDOW_SLACK_NS
        if buffer.stamps[buffer.head] >= buffer.newest - 2 * span_ns:
            return  # in batches, and not at each message
        oldest = bisect.bisect_left(buffer.stamps, buffer.newest - span_ns, buffer.head)
        self._drop(stream.name, "unmatched", buffer.drop_front(oldest - buffer.head))

    def _is_late(self, stream: Stream, stamp_ns: int) -> bool:
        """Whether no reference that is still open or to come could take the message."""
        if self._last_decided is None or stream.window_ns:
            return False
        return stamp_ns < self._last_decided + stream.offset_ns - stream.tolerance_ns

    def _is_decided(self) -> bool:
        head = self._pending[0]
        return all(self._is_settled(buffer, head.stamp_ns) for buffer in self._buffers.values())

    def _is_settled(self, buffer: _Buffer[Item], reference_ns: int) -> bool:
        """Whether no message still to come in order could change the stream's match."""
        stream, target = buffer.stream, reference_ns + buffer.stream.offset_ns
        if buffer.is_silent or not stream.awaited:
            return True
        next_earliest = buffer.next_earliest_ns
        if next_earliest is None or buffer.newest is None:
            return False
        if stream.window_ns:
            # Packets follow one another: what comes next starts where this one ends.
            filled = buffer.until is not None and buffer.until >= target - stream.window_ns // _WINDOW_TAIL
            return buffer.newest > target or filled
        best = self._nearest(buffer, reference_ns)
        if best is not None and buffer.stamps[best] > target:
            return self._is_claim_certain(buffer.stamps[best], stream, target)
        if len(buffer) and buffer.stamps[-1] > target:
            return True  # one after the target was passed over; those behind it are further away still
        reach = stream.tolerance_ns + 1 if best is None else target - buffer.stamps[best]
        return next_earliest - target >= reach

    def _is_claim_certain(self, stamp_ns: int, stream: Stream, target: int) -> bool:
        """Whether no later reference can turn out to be closer to a message that lies after the target."""
        if len(self._pending) > 1:
            return True
        newest = self._newest_reference
        assert newest is not None
        rival_target = newest + self._gap.bound_ns + stream.offset_ns
        return rival_target - stamp_ns >= stamp_ns - target

    def _nearest(self, buffer: _Buffer[Item], reference_ns: int) -> int | None:
        """Index of the message for the head of the queue, or None.

        A message after the target that the next reference is closer to is left to that one.
        """
        stream = buffer.stream
        target = reference_ns + stream.offset_ns
        after = bisect.bisect_right(buffer.stamps, target, buffer.head)
        best: int | None = None
        if after > buffer.head and target - buffer.stamps[after - 1] <= stream.tolerance_ns:
            best = after - 1
        if after < len(buffer.stamps):
            distance = buffer.stamps[after] - target
            is_closer = best is None or distance < target - buffer.stamps[best]
            if distance <= stream.tolerance_ns and is_closer and not self._next_claims(buffer, after, distance):
                best = after
        return best

    def _next_claims(self, buffer: _Buffer[Item], index: int, distance: int) -> bool:
        if len(self._pending) < 2:
            return False
        rival = self._pending[1].stamp_ns + buffer.stream.offset_ns
        return abs(buffer.stamps[index] - rival) < distance

    def _take_head(self, now_ns: int | None = None) -> MatchedSet[Item] | None:
        head = self._pending[0]
        nearest = {
            name: self._nearest(buffer, head.stamp_ns)
            for name, buffer in self._buffers.items()
            if buffer.stream.window_ns == 0
        }
        windows = {
            name: self._take_window(buffer, head.stamp_ns)
            for name, buffer in self._buffers.items()
            if buffer.stream.window_ns
        }
        missing = tuple(
            name for name in self._buffers if nearest.get(name) is None and not windows.get(name, ((), 0))[0]
        )
        lacking = [name for name in missing if self._buffers[name].stream.required]
        items: dict[str, tuple[Item, ...]] = {self.reference: (head.item,)}
        skew_ns = {self.reference: 0}
        for name, index in nearest.items():
            buffer = self._buffers[name]
            if lacking or index is None:
                # A set that is not given out uses nothing up: the next reference may need it.
                self._discard_stale(buffer, head.stamp_ns)
            else:
                items[name], skew_ns[name] = self._consume(buffer, index, head.stamp_ns)
        items |= {name: found for name, (found, _) in windows.items() if found}
        skew_ns |= {name: skew for name, (found, skew) in windows.items() if found}
        del self._pending[0]
        self._last_decided = head.stamp_ns
        if lacking:
            for name in lacking:
                self._drop(self.reference, f"missing:{name}")
            return None
        self.stats.sets += 1
        self.stats.matched.update(items.keys())
        arrived_ns = head.deadline_ns - self._max_wait_ns
        waited_ns = 0 if now_ns is None else max(0, now_ns - arrived_ns)
        return MatchedSet(head.stamp_ns, items, skew_ns, missing, waited_ns, arrived_ns)

    def _discard_stale(self, buffer: _Buffer[Item], reference_ns: int) -> None:
        """Drops what is too old for this reference and so for all later ones."""
        oldest = reference_ns + buffer.stream.offset_ns - buffer.stream.tolerance_ns
        stale = bisect.bisect_left(buffer.stamps, oldest, buffer.head) - buffer.head
        self._drop(buffer.stream.name, "unmatched", buffer.drop_front(stale))

    def _consume(self, buffer: _Buffer[Item], index: int, reference_ns: int) -> tuple[tuple[Item, ...], int]:
        """Takes the message out, and with it those before it: matching is monotone."""
        item = buffer.items[index]
        skew_ns = buffer.stamps[index] - reference_ns - buffer.stream.offset_ns
        passed_over = index - buffer.head
        self._drop(buffer.stream.name, "unmatched", passed_over)
        buffer.drop_front(passed_over + 1)
        return (item,), skew_ns

    @staticmethod
    def _take_window(buffer: _Buffer[Item], reference_ns: int) -> tuple[tuple[Item, ...], int]:
        """The messages that reach into the window; they stay, for the windows of later references."""
        target = reference_ns + buffer.stream.offset_ns
        start = target - buffer.stream.window_ns
        # A message carries data from its stamp up to the next one's, so the last before the window counts.
        first = bisect.bisect_right(buffer.stamps, start, buffer.head) - 1
        buffer.drop_front(max(first - buffer.head, 0))
        last = bisect.bisect_right(buffer.stamps, target, buffer.head)
        found = tuple(buffer.items[buffer.head : last])
        reach = max((ns for ns in (buffer.newest, buffer.until) if ns is not None), default=start)
        return (found, min(0, reach - target)) if found and reach > start else ((), 0)

    def _drop(self, name: str, reason: str, count: int = 1) -> None:
        if count:
            self.stats.dropped[name, reason] += count
