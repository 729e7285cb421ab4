"""What waits for the engine, and what falls out of the queue."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from mm_perception.core.errors import DataError
from mm_perception.pipeline.perception import PerceptionResult
from mm_perception.ros.worker import InferenceWorker


class Gate:
    """A perception that waits at each observation until it is let through."""

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
