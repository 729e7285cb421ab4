"""What a process uses, by Linux's /proc."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """At one moment. shared_mb, shared_files: what it has mapped of /dev/shm, by whomever it was made."""

    at_s: float
    rss_mb: float
    threads: int
    descriptors: int
    shared_mb: float
    shared_files: int

    @staticmethod
    def names() -> list[str]:
        return [one.name for one in fields(Usage) if one.name != "at_s"]


def usage(pid: int, at_s: float) -> Usage | None:
    """None if there is no such process (any more)."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        shared = _shared(folder)
        return Usage(
            at_s,
            int(status["VmRSS"].split()[0]) / 1024,
            int(status["Threads"]),
            sum(1 for _ in (folder / "fd").iterdir()),
            sum(shared.values()) / 2**20,
            len(shared),
        )
    except (OSError, KeyError):  # a process that ends loses its lines one by one
        return None


def _shared(folder: Path) -> dict[str, int]:
    """Mapped bytes by file of /dev/shm."""
    found: dict[str, int] = {}
    for line in (folder / "maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        if path.startswith("/dev/shm/"):
            first, last = (int(text, 16) for text in span.split("-"))
            found[path] = found.get(path, 0) + last - first
    return found
