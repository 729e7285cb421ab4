"""A node in virtual time: queues as DDS keeps them, an executor that takes time, a worker; nothing sleeps.

The synchronizer is the real one. Around it stands what `ros.perception_run` does: messages carry their arrival; one
that had to wait is taken together with all that lie in the other queues; sets are given out by `poll` when all that
arrived before has been taken; the newest set waits for the worker.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from mm_perception.sync.synchronizer import MatchedSet, Synchronizer

MS = 1_000_000
POLL_NS = 10 * MS
STARVED_NS = 20 * MS


@dataclass(frozen=True)
class Sent:
    """A message: which sensor, its stamp, and when the middleware has it; for events, up to when it holds data."""

    name: str
    stamp_ns: int
    arrives_ns: int
    until_ns: int | None = None


@dataclass
class Result:
    """One set that was inferred."""

    stamp_ns: int
    published_ns: int
    missing: tuple[str, ...]
    waited_ns: int

    @property
    def age_ns(self) -> int:
        return self.published_ns - self.stamp_ns


@dataclass
class VirtualNode:
    """Runs messages through a synchronizer and an inference that takes its time.

    Attributes:
        decode_ns: time of the executor per message. inference_ns: of the worker per set.
        depths: of queues that are deeper than 1.
        given: all sets. superseded: how many of them a newer one replaced.
        held: the most messages that queues, synchronizer and worker held together.
    """

    sync: Synchronizer[int]
    decode_ns: int = 0
    inference_ns: int = 0
    depths: dict[str, int] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    given: list[MatchedSet[int]] = field(default_factory=list)
    superseded: int = 0
    held: int = 0
    _queues: dict[str, deque[Sent]] = field(default_factory=dict)
    _waiting: MatchedSet[int] | None = None
    _working: MatchedSet[int] | None = None
    _busy_until_ns: int = 0

    def run(self, messages: Iterable[Sent]) -> list[Result]:
        """Everything that is sent, to the end of the last waiting time."""
        pending = [(m.arrives_ns, i, m) for i, m in enumerate(messages)]
        heapq.heapify(pending)
        end_ns = max(t for t, _, _ in pending) + 10_000 * MS
        now_ns = next_poll_ns = min(t for t, _, _ in pending)
        while now_ns < end_ns:
            self._arrive(pending, now_ns)
            self._advance_worker(now_ns)
            if now_ns >= next_poll_ns:
                next_poll_ns = now_ns + POLL_NS
                now_ns = self._poll(pending, now_ns)
            elif taken := self._take_one():
                batch = [taken]
                if now_ns - taken.arrives_ns > STARVED_NS:
                    batch = sorted([taken, *self._drain()], key=lambda m: m.arrives_ns)
                for message in batch:
                    now_ns += self.decode_ns
                    self._push(message)
            else:
                coming = [pending[0][0]] if pending else []
                now_ns = max(now_ns + 1, min([next_poll_ns, *coming]))
            at_rest = self._working is None and self._waiting is None
            if at_rest and not pending and not any(self._queues.values()) and self.sync.next_deadline_ns is None:
                break
        return self.results

    def _arrive(self, pending: list[tuple[int, int, Sent]], now_ns: int) -> None:
        while pending and pending[0][0] <= now_ns:
            message = heapq.heappop(pending)[2]
            depth = self.depths.get(message.name, 1)
            self._queues.setdefault(message.name, deque(maxlen=depth)).append(message)
        waiting = sum(len(q) for q in self._queues.values()) + len(self.sync)
        self.held = max(self.held, waiting + (self._waiting is not None) + (self._working is not None))

    def _take_one(self) -> Sent | None:
        """The executor serves the subscriptions in turn, whatever came first."""
        for name, queue in list(self._queues.items()):
            if queue:
                self._queues[name] = self._queues.pop(name)  # to the end of the round
                return queue.popleft()
        return None

    def _drain(self) -> list[Sent]:
        return [queue.popleft() for queue in self._queues.values() for _ in range(len(queue))]

    def _poll(self, pending: list[tuple[int, int, Sent]], now_ns: int) -> int:
        due_ns, called_ns = self.sync.next_deadline_ns, now_ns
        if due_ns is None or due_ns > now_ns:
            return now_ns
        for message in sorted(self._drain(), key=lambda m: m.arrives_ns):
            now_ns += self.decode_ns
            self._push(message)
        self._submit(self.sync.poll(called_ns))
        return now_ns

    def _push(self, message: Sent) -> None:
        self._submit(
            self.sync.push(
                message.name, message.stamp_ns, 0, message.arrives_ns, until_ns=message.until_ns, expire=False
            )
        )

    def _submit(self, matched: list[MatchedSet[int]]) -> None:
        for one in matched:
            self.given.append(one)
            self.superseded += self._waiting is not None
            self._waiting = one

    def _advance_worker(self, now_ns: int) -> None:
        if self._working is not None and now_ns >= self._busy_until_ns:
            done, self._working = self._working, None
            self.results.append(Result(done.stamp_ns, self._busy_until_ns, done.missing, done.waited_ns))
        if self._working is None and self._waiting is not None:
            self._working, self._waiting = self._waiting, None
            self._busy_until_ns = now_ns + self.inference_ns
