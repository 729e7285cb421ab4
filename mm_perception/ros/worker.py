"""Inference beside the executor: a short queue, from which the oldest falls out, and a thread or two."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from mm_perception.metrics.latency import LatencyLog, LatencySummary, StageClock
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.perception import Perception, PerceptionResult


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One observation that is to be computed.

    Attributes:
        submitted_s: when it came, by `time.perf_counter`; queue_ms: how long it waited.
        compute: gives its result, or raises.
    """

    observation: Observation
    submitted_s: float
    queue_ms: float
    compute: Callable[[], PerceptionResult]


class InferenceWorker:
    """Runs `perception.step` and hands results to `on_result`, both in its own thread.

    Where the perception overlaps, a second thread prepares the next observation while the first is in `finish` with
    the one before. It prepares one ahead: the next leaves the queue when the last one that was prepared is taken up.
    Results, problems and drops are told by the first thread alone, in the order of the observations.

    A step or a callback that raises drops that observation: it is counted by the error's class and reported to
    `on_problem`.
    """

    def __init__(
        self,
        perception: Perception,
        on_result: Callable[[Observation, PerceptionResult], None],
        on_problem: Callable[[str, Exception], None],
        queue_depth: int = 1,
        on_drop: Callable[[Observation, Exception], None] = lambda observation, error: None,
    ) -> None:
        """Args:
        on_drop: is given each observation that gave no result and why, in the worker's thread.
        queue_depth: how many observations wait at most while one is worked on; 1: the latest wins.
        """
        self._perception = perception
        self._on_result = on_result
        self._on_problem = on_problem
        self._condition = threading.Condition()
        self._waiting: deque[tuple[Observation, float]] = deque()
        self._prepared: _Job | None = None
        self._queue_depth = queue_depth
        self._is_preparing = False
        self._is_working = False
        self._stopping = False
        self._counts: Counter[str] = Counter()
        self._latency = LatencyLog()
        self._on_drop = on_drop
        take = self._take_prepared if perception.overlaps else self._take_waiting
        steps: dict[str, Callable[[], bool]] = {"inference": partial(self._work, take)}
        if perception.overlaps:
            steps["preparation"] = self._prepare
        self._threads = [threading.Thread(target=_repeat, args=(f,), name=n, daemon=True) for n, f in steps.items()]
        for thread in self._threads:
            thread.start()

    def submit(self, observation: Observation) -> None:
        """Queues the observation; the oldest that waits is dropped and counted if there is no room."""
        with self._condition:
            self._counts["bundles"] += 1
            if len(self._waiting) == self._queue_depth:
                self._waiting.popleft()
                self._counts["dropped.superseded"] += 1
            self._waiting.append((observation, time.perf_counter()))
            self._condition.notify_all()

    def snapshot(self) -> tuple[dict[str, int], dict[str, LatencySummary]]:
        """Counts (bundles, published, dropped.<reason>, <task>.failed.<reason>, degraded.<what>; unfinished: those that
        wait or are being worked on) and latencies."""
        with self._condition:
            unfinished = len(self._waiting) + self._is_preparing + (self._prepared is not None) + self._is_working
            return {**self._counts, "unfinished": unfinished}, self._latency.summary()

    def latency_of(self, stage: str) -> LatencySummary | None:
        """Of one stage of `snapshot`; None if it never came."""
        with self._condition:
            return self._latency.of(stage)

    @property
    def has_ended(self) -> bool:
        """Whether no thread runs any more."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_busy(self) -> bool:
        """Whether something waits or is being worked on."""
        with self._condition:
            return bool(self._waiting) or self._is_preparing or self._prepared is not None or self._is_working

    def note(self, stage_ms: Mapping[str, float]) -> None:
        """Adds durations that somebody else measured to those of `snapshot`."""
        with self._condition:
            self._latency.add(stage_ms)

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Ends the threads after what they are at; returns whether they ended in time."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return self.has_ended

    def _may_go_on(self, ready: Callable[[], bool]) -> bool:
        """Waits, with the lock held, until something is ready; False: stop."""
        self._condition.wait_for(lambda: ready() or self._stopping)
        return not self._stopping

    def _take_waiting(self) -> _Job | None:
        """The next observation, to be computed in one go; None: stop."""
        with self._condition:
            if not self._may_go_on(lambda: bool(self._waiting)):
                return None
            observation, submitted_s = self._waiting.popleft()
            self._is_working = True
        compute = partial(self._perception.step, observation)
        return _Job(observation, submitted_s, (time.perf_counter() - submitted_s) * 1e3, compute)

    def _take_prepared(self) -> _Job | None:
        """The next observation that is prepared; None: stop."""
        with self._condition:
            if not self._may_go_on(lambda: self._prepared is not None):
                return None
            job, self._prepared, self._is_working = self._prepared, None, True
            self._condition.notify_all()
            return job

    def _prepare(self) -> bool:
        """Prepares the next observation once there is room for it, and hands it over; False: stop."""
        with self._condition:
            if not self._may_go_on(lambda: bool(self._waiting) and self._prepared is None):
                return False
            observation, submitted_s = self._waiting.popleft()
            self._is_preparing = True
        queue_ms = (time.perf_counter() - submitted_s) * 1e3
        compute: Callable[[], PerceptionResult]
        try:
            compute = partial(self._perception.finish, self._perception.prepare(observation))
        except Exception as error:  # is told when its turn comes, see `_process`
            compute = partial(_fail, error)
        with self._condition:
            self._prepared, self._is_preparing = _Job(observation, submitted_s, queue_ms, compute), False
            self._condition.notify_all()
        return True

    def _work(self, take: Callable[[], _Job | None]) -> bool:
        """Computes the next observation and tells the result; False: stop."""
        job = take()
        if job is None:
            return False
        try:
            self._process(job)
        except Exception:  # even what reports failures may fail; the thread goes on
            with self._condition:
                self._counts["dropped.internal"] += 1
        finally:
            with self._condition:
                self._is_working = False
        return True

    def _process(self, job: _Job) -> None:
        clock, observation, submitted_s = StageClock(), job.observation, job.submitted_s
        clock.stage_ms["queue"] = job.queue_ms
        try:
            result = job.compute()
            clock.stage_ms.update(result.stage_ms)
            with clock.measure("publish"):
                self._on_result(observation, result)
        except Exception as error:  # one bad observation must not end the vehicle's perception
            with self._condition:
                self._counts[f"dropped.{type(error).__name__}"] += 1
            self._on_problem("bundle", error)
            self._on_drop(observation, error)
            return
        tasks = result.sight.tasks.values() if result.sight is not None else ()
        degraded = {what for task in tasks for what in task.reasons if what != "result"}
        for task, failure in result.failures.items():
            self._on_problem(task, failure)
        with self._condition:
            self._counts["published"] += 1
            self._counts.update(f"{task}.failed.{type(e).__name__}" for task, e in result.failures.items())
            self._counts.update(f"degraded.{what}" for what in degraded)
            self._latency.add(clock.stage_ms | {"bundle_to_output": (time.perf_counter() - submitted_s) * 1e3})


def _repeat(step: Callable[[], bool]) -> None:
    """Calls until it is told to stop. What a step held is free again before the next one waits."""
    while step():
        pass


def _fail(error: Exception) -> NoReturn:
    raise error
