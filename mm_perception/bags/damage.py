"""What of a bag could not be read: each piece once, however often it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class DamagedError(ValueError):
    """A piece of a bag file cannot be read: cut off, of another size than it says, or of an unknown kind."""


class DamageLog:
    """Pieces of bag files that were left out, and the messages that went with them.

    Attributes:
        notes: what a user should know of the files, a sentence each.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._pieces: dict[tuple[str, int], tuple[str, Mapping[str, int]]] = {}

    def add(self, file: str, position: int, reason: str, messages: Mapping[str, int] | None = None) -> None:
        """Args:
        position: where the piece lies in the file: a byte, or a row.
        messages: how many it held by topic, as far as that is known.
        """
        self._pieces[file, position] = reason, messages or {}

    def note(self, text: str) -> None:
        """Keeps a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def dropped(self) -> Counter[str]:
        """Lost messages by "topic: reason"; a piece of which it is not known what it held counts as one of `bag`."""
        counts: Counter[str] = Counter()
        for reason, messages in self._pieces.values():
            for topic, count in (messages or {"bag": 1}).items():
                counts[f"{topic}: {reason}"] += count
        return counts
