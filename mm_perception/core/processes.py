"""Subprocesses that end with their parent, and at once when it is told to end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

from mm_perception.core.errors import MmPerceptionError

_PR_SET_PDEATHSIG = 1
_ORPHANED = 3


class EndedError(MmPerceptionError):
    """Work was given up because this process has been told to end; no other way is to be tried."""


def die_with_parent(parent: int | None = None) -> None:
    """To be called by a subprocess as it starts: it is killed when the thread that started it ends (Linux).

    Args:
        parent: id of the process that started this one; if that has died before this call, this process ends.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(_ORPHANED)


class _Children:
    """The subprocesses that are running now."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[Any]] = set()
        self.has_ended = False


_children = _Children()


@contextlib.contextmanager
def child(line: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A subprocess that is killed at the end of the block, by `end_children`, and with this process.

    Args:
        line: its arguments; options: of `subprocess.Popen`.

    Raises:
        EndedError: `end_children` was called.
        OSError: it cannot be started.
    """
    with _children.lock:  # so that none is started behind the back of `end_children`
        check_not_ended()
        process = subprocess.Popen(line, **options)
        _children.running.add(process)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        with _children.lock:
            _children.running.discard(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def check_not_ended() -> None:
    """Raises EndedError after `end_children`: for long work to look at between its steps."""
    if _children.has_ended:
        raise EndedError("given up: the process has been told to end")


def end_children() -> int:
    """Kills every subprocess of this package and lets no other begin; returns how many there were.

    Whoever waits for one gets an `EndedError`. Callable from any thread; not from a signal handler, which may have
    interrupted the thread that holds the lock.
    """
    with _children.lock:
        _children.has_ended = True
        for process in _children.running:
            process.kill()
        return len(_children.running)


def allow_children() -> None:
    """Takes back `end_children`, for a process that goes on after all."""
    with _children.lock:
        _children.has_ended = False


def end_within(timeout_s: float, code: int = 0) -> threading.Thread:
    """Ends the children now and this process within a time, wherever its other threads are.

    What they are at work on stays whole: files appear under their names only when they are complete, and what is left
    of others is removed at the next start. Callable as `end_children`.

    Args:
        timeout_s: for an orderly end; then the process exits with `code`.
    """

    def leave() -> None:
        end_children()
        time.sleep(timeout_s)
        os._exit(code)

    thread = threading.Thread(target=leave, name="end_within", daemon=True)
    thread.start()
    return thread
