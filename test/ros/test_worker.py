"""What waits for the engine, and what falls out of the queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mm_perception.core.errors import DataError, EngineError
from mm_perception.pipeline.perception import PerceptionResult
from mm_perception.ros.worker import InferenceWorker


class Gate:
    """A perception that waits at each observation until it is let through."""

    overlaps = False

    def __init__(self) -> None:
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def step(self, observation: Any) -> Any:
        self.entered.release()
        assert self.open.acquire(timeout=20)
        if observation == "bad":
            raise DataError("bad")
        return PerceptionResult(stage_ms={"inference": 1.0})


def work_through(observations: list[Any], depth: int) -> tuple[list[Any], list[str], dict[str, int]]:
    """Submits all while the first is being worked on; what came out, the problems, and the counts."""
    gate = Gate()
    out: list[Any] = []
    problems: list[str] = []

    def take(observation: Any, result: PerceptionResult) -> None:
        out.append(observation)

    worker = InferenceWorker(gate, take, lambda where, error: problems.append(type(error).__name__), depth)  # type: ignore[arg-type]
    try:
        worker.submit(observations[0])
        assert gate.entered.acquire(timeout=20)
        for observation in observations[1:]:
            worker.submit(observation)
        done, deadline = 0, time.monotonic() + 20
        while done < len(observations) and time.monotonic() < deadline:
            gate.open.release()
            time.sleep(0.002)
            counts, _ = worker.snapshot()
            done = sum(n for name, n in counts.items() if name not in ("bundles", "unfinished"))
    finally:
        for _ in observations:
            gate.open.release()
        assert worker.stop()
    return out, problems, worker.snapshot()[0]


def test_latest_observation_wins_by_default():
    out, problems, counts = work_through([0, 1, 2, 3], 1)
    assert out == [0, 3]
    assert not problems
    assert counts == {"bundles": 4, "published": 2, "dropped.superseded": 2, "unfinished": 0}


@pytest.mark.parametrize(("depth", "expected"), [(2, [0, 3, 4]), (4, [0, 1, 2, 3, 4]), (100, [0, 1, 2, 3, 4])])
def test_as_many_as_asked_for_wait_in_order(depth, expected):
    out, _, counts = work_through([0, 1, 2, 3, 4], depth)
    assert out == expected
    assert counts.get("dropped.superseded", 0) == 5 - len(expected)


def test_bad_observation_is_counted_and_the_next_is_taken():
    out, problems, counts = work_through([0, "bad", 2], 10)
    assert out == [0, 2]
    assert problems == ["DataError"]
    assert counts == {"bundles": 3, "published": 2, "dropped.DataError": 1, "unfinished": 0}


class Halves:
    """A perception in two halves, each of which waits at each observation until it is let through.

    Attributes:
        log: what was begun, in order.
    """

    overlaps = True

    def __init__(self) -> None:
        self.log: list[str] = []
        self._gates: dict[str, tuple[threading.Event, threading.Event]] = {}
        self._lock = threading.Lock()

    def prepare(self, observation: Any) -> Any:
        self._pass(f"prepare {observation}")
        if observation == "bad":
            raise DataError("bad")
        return observation

    def finish(self, prepared: Any) -> PerceptionResult:
        self._pass(f"finish {prepared}")
        if prepared == "worse":
            raise EngineError("worse")
        return PerceptionResult(stage_ms={"inference": 1.0})

    def step(self, observation: Any) -> PerceptionResult:
        raise AssertionError("the halves are called apart")

    def wait_for(self, what: str) -> None:
        assert self._gate(what)[0].wait(20), f"{what} was not begun, but {self.log}"

    def let(self, *what: str) -> None:
        for one in what:
            self._gate(one)[1].set()

    def _pass(self, what: str) -> None:
        begun, may_end = self._gate(what)
        with self._lock:
            self.log.append(what)
        begun.set()
        assert may_end.wait(20), f"{what} was not let through"

    def _gate(self, what: str) -> tuple[threading.Event, threading.Event]:
        with self._lock:
            return self._gates.setdefault(what, (threading.Event(), threading.Event()))


class Overlapping:
    """A worker of `Halves`, and what it told: (kind, observation or error, thread)."""

    def __init__(self, depth: int = 10) -> None:
        self.halves = Halves()
        self.told: queue.Queue[tuple[str, Any, str]] = queue.Queue()
        self.worker = InferenceWorker(
            self.halves,  # type: ignore[arg-type]
            lambda observation, result: self._tell("result", observation),
            lambda where, error: self._tell("problem", str(error)),
            depth,
            lambda observation, error: self._tell("drop", observation),
        )

    def _tell(self, kind: str, what: Any) -> None:
        self.told.put((kind, what, threading.current_thread().name))

    def next_told(self) -> tuple[str, Any]:
        kind, what, thread = self.told.get(timeout=20)
        assert thread == "inference"
        return kind, what


@pytest.fixture
def overlapping(request) -> Iterator[Overlapping]:
    before = set(threading.enumerate())
    made = Overlapping(getattr(request, "param", 10))
    yield made
    made.halves.let(*(f"{half} {o}" for half in ("prepare", "finish") for o in (*range(9), "bad", "worse")))
    assert made.worker.stop(20)
    assert set(threading.enumerate()) == before


def submit(worker: InferenceWorker, *observations: Any) -> None:
    for observation in observations:
        worker.submit(observation)


def test_next_observation_is_prepared_while_the_last_is_finished(overlapping):
    halves = overlapping.halves
    submit(overlapping.worker, 0, 1, 2)
    halves.let("prepare 0")
    halves.wait_for("finish 0")
    halves.wait_for("prepare 1")  # both are at work now
    assert overlapping.worker.snapshot()[0]["unfinished"] == 3
    halves.let("prepare 1", "finish 0")
    halves.wait_for("finish 1")
    halves.wait_for("prepare 2")
    assert halves.log.index("prepare 2") > halves.log.index("finish 1"), "one is prepared ahead, not two"
    halves.let("prepare 2", "finish 1", "finish 2")
    assert [overlapping.next_told() for _ in range(3)] == [("result", 0), ("result", 1), ("result", 2)]


def test_results_of_slow_and_fast_halves_keep_their_order(overlapping):
    observations = list(range(9))
    submit(overlapping.worker, *observations)
    overlapping.halves.let(*(f"prepare {o}" for o in observations))
    for o in observations:
        overlapping.halves.let(f"finish {o}")
        assert overlapping.next_told() == ("result", o)
    assert overlapping.worker.stop(20)  # results are counted once they were told
    counts, latency = overlapping.worker.snapshot()
    assert (counts["bundles"], counts["published"]) == (9, 9)
    assert {"queue", "inference", "publish"} <= set(latency)


@pytest.mark.parametrize("overlapping", [1], indirect=True)
def test_latest_waiting_observation_wins_while_two_are_at_work(overlapping):
    halves = overlapping.halves
    submit(overlapping.worker, 0)
    halves.let("prepare 0")
    halves.wait_for("finish 0")
    submit(overlapping.worker, 1)
    halves.wait_for("prepare 1")
    submit(overlapping.worker, 2, 3, 4)
    counts, _ = overlapping.worker.snapshot()
    assert counts == {"bundles": 5, "dropped.superseded": 2, "unfinished": 3}
    halves.let("finish 0", "prepare 1", "finish 1", "prepare 4", "finish 4")
    assert [overlapping.next_told() for _ in range(3)] == [("result", 0), ("result", 1), ("result", 4)]


def test_errors_of_either_half_are_told_in_turn_and_the_next_is_taken(overlapping):
    halves = overlapping.halves
    submit(overlapping.worker, 0, "bad", "worse", 3)
    halves.let("prepare 0", "prepare bad", "prepare worse", "prepare 3", "finish worse", "finish 3")
    halves.wait_for("finish 0")
    halves.wait_for("prepare bad")  # fails while 0 is at work, but is told after it
    halves.let("finish 0")
    told = [overlapping.next_told() for _ in range(6)]
    assert told == [
        ("result", 0), ("problem", "bad"), ("drop", "bad"), ("problem", "worse"), ("drop", "worse"), ("result", 3),
    ]  # fmt: skip
    assert "finish bad" not in halves.log
    assert overlapping.worker.stop(20)
    counts, _ = overlapping.worker.snapshot()
    assert counts == {
        "bundles": 4, "published": 2, "dropped.DataError": 1, "dropped.EngineError": 1, "unfinished": 0,
    }  # fmt: skip


def test_stop_waits_for_what_is_at_work_and_leaves_the_rest(overlapping):
    halves, worker = overlapping.halves, overlapping.worker
    submit(worker, 0, 1, 2)
    halves.let("prepare 0")
    halves.wait_for("finish 0")
    halves.wait_for("prepare 1")
    assert not worker.stop(0.0), "two observations are at work"
    halves.let("finish 0", "prepare 1")
    assert worker.stop(20)
    assert overlapping.next_told() == ("result", 0)
    assert worker.snapshot()[0] == {"bundles": 3, "published": 1, "unfinished": 2}
    assert halves.log == ["prepare 0", "finish 0", "prepare 1"]


def test_idle_threads_stop_at_once(overlapping):
    assert overlapping.worker.stop(20)
