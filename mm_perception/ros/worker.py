"""Inference beside the executor: one thread and a short queue, from which the oldest falls out."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from mm_perception.metrics.latency import LatencyLog, LatencySummary, StageClock
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.perception import Perception, PerceptionResult


class InferenceWorker:
    """Runs `perception.step` and hands results to `on_result`, both in its own thread.

    A step or a callback that raises drops that observation: it is counted by the error's class and reported to
    `on_problem`.
    """

    def __init__(
        self,
        perception: Perception,
        on_result: Callable[[Observation, PerceptionResult], None],
        on_problem: Callable[[str, Exception], None],
        queue_depth: int = 1,
        on_drop: Callable[[Observation], None] = lambda observation: None,
    ) -> None:
        """Args:
        on_drop: is given each observation that gave no result, in the worker's thread.
        queue_depth: how many observations wait at most while one is worked on; 1: the latest wins.
        """
        self._perception = perception
        self._on_result = on_result
        self._on_problem = on_problem
        self._condition = threading.Condition()
        self._waiting: deque[tuple[Observation, float]] = deque()
        self._queue_depth = queue_depth
        self._is_working = False
        self._stopping = False
        self._counts: Counter[str] = Counter()
        self._latency = LatencyLog()
        self._degraded: dict[str, str] = {}
        self._on_drop = on_drop
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def submit(self, observation: Observation) -> None:
        """Queues the observation; the oldest that waits is dropped and counted if there is no room."""
        with self._condition:
            self._counts["bundles"] += 1
            if len(self._waiting) == self._queue_depth:
                self._waiting.popleft()
                self._counts["dropped.superseded"] += 1
            self._waiting.append((observation, time.perf_counter()))
            self._condition.notify()

    def snapshot(self) -> tuple[dict[str, int], dict[str, LatencySummary]]:
        """Counts (bundles, published, dropped.<reason>, <task>.failed.<reason>, degraded.<what>; unfinished: those that
        wait or are being worked on) and latencies."""
        with self._condition:
            unfinished = len(self._waiting) + self._is_working
            return {**self._counts, "unfinished": unfinished}, self._latency.summary()

    def degraded(self) -> dict[str, str]:
        """What the newest result lacked, by a short name, in words; "result" if there was none at all."""
        with self._condition:
            return dict(self._degraded)

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Ends the thread after the step that it is in; returns whether it ended in time."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                taken = self._waiting.popleft()
                self._is_working = True
            try:
                self._process(*taken)
            except Exception:  # even what reports failures may fail; the thread goes on
                with self._condition:
                    self._counts["dropped.internal"] += 1
            finally:
                with self._condition:
                    self._is_working = False

    def _process(self, observation: Observation, submitted_s: float) -> None:
        clock = StageClock()
        clock.stage_ms["queue"] = (time.perf_counter() - submitted_s) * 1e3
        try:
            result = self._perception.step(observation)
            clock.stage_ms.update(result.stage_ms)
            with clock.measure("publish"):
                self._on_result(observation, result)
        except Exception as error:  # one bad observation must not end the vehicle's perception
            with self._condition:
                self._counts[f"dropped.{type(error).__name__}"] += 1
                self._degraded = {"result": f"{type(error).__name__}: {error}"}
            self._on_problem("bundle", error)
            self._on_drop(observation)
            return
        degraded = result.detection.degraded if result.detection is not None else {}
        for task, failure in result.failures.items():
            self._on_problem(task, failure)
        with self._condition:
            self._counts["published"] += 1
            self._counts.update(f"{task}.failed.{type(e).__name__}" for task, e in result.failures.items())
            self._counts.update(f"degraded.{what}" for what in degraded)
            self._degraded = degraded | {f"{task}.failed": str(e) for task, e in result.failures.items()}
            self._latency.add(clock.stage_ms | {"bundle_to_output": (time.perf_counter() - submitted_s) * 1e3})
