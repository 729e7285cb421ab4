"""Rendering processes that do not get in each other's way."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import cv2

from mm_perception.core.processes import die_with_parent

_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def worker_pool(workers: int, prepare: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes keep to one core and one thread each, after `prepare(*arguments)` in each.

    The ray caster and BLAS would start a thread per core in every process; their threads wait by spinning, so that
    two processes on two cores would take twice as long. Processes are spawned: forked copies of the ray caster's
    threads would hang. They are killed when the thread that began the pool ends, however it does.

    Raises:
        ChildProcessError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    cores = sorted(os.sched_getaffinity(0))
    for i in range(workers):
        places.put(cores[i % len(cores)])
    before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, "1"))  # read by the children as they start
    try:
        with ProcessPoolExecutor(workers, context, _start, (os.getpid(), places, prepare, arguments)) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a rendering process was killed, for lack of memory perhaps; fewer workers need less of it"
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start(parent: int, places: Any, prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    os.sched_setaffinity(0, {places.get()})
    cv2.setNumThreads(1)
    prepare(*arguments)


def prepare_nothing() -> None:
    """For pools whose work needs no preparation."""
