"""What a call costs: processor time, and how far the process's memory rises above where it stood."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of processor time, however busy the machine is, and bytes of memory at the peak beyond those before."""

    seconds: float
    bytes: int


def measured(call: Callable[[], object]) -> Cost:
    """The cost of a call. On Linux the kernel's high-water mark is reset first; elsewhere an older peak hides a lower.

    Raises whatever the call raises.
    """
    before = resident_bytes()
    with contextlib.suppress(OSError):
        _RESET.write_text("5")
    start = time.process_time()
    call()
    return Cost(time.process_time() - start, max(0, peak_bytes() - before))


def resident_bytes() -> int:
    """Memory of this process that lies in RAM."""
    return _status("VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """The most that it was, since the start or since the mark was reset."""
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
