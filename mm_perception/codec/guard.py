"""One family of errors for malformed messages, and one policy: they are dropped, counted and told of."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mm_perception.core.errors import DataError, MmPerceptionError

P = ParamSpec("P")
R = TypeVar("R")


def refusing(what: str, kind: type[MmPerceptionError] = DataError) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator of decoders: errors of other families are raised anew as `kind`, with their cause.

    Decoders check what they know of a format by themselves. Beyond that, fields of any type and value come from the
    wire, and numpy, OpenCV and Python each refuse them in their own way.
    """

    def decorate(decode: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(decode)
        def decoded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return decode(*args, **kwargs)
            except MmPerceptionError:
                raise
            except Exception as error:
                reason = str(error).splitlines()[0][:200] if str(error) else "no reason given"
                raise kind(f"{what} cannot be decoded ({type(error).__name__}: {reason})") from error

        return decoded

    return decorate


class MessageGuard:
    """What becomes of messages that cannot be used: dropped, counted by topic and kind of error, and told of.

    Every way from a message to a measurement, a transform or a truth goes through one: whatever a broken or foreign
    sender puts on the wire costs that message, and nothing else.

    Attributes:
        dropped: counts by (topic, name of the error class).
    """

    def __init__(self, on_problem: Callable[[str, Exception], None] | None = None) -> None:
        """Args: on_problem: is told the topic and the error of each message that was dropped."""
        self.dropped: Counter[tuple[str, str]] = Counter()
        self._on_problem = on_problem

    def reject(self, topic: str, error: Exception) -> None:
        """Counts and reports a message, or what was made of it, that could not be used."""
        self.dropped[topic, type(error).__name__] += 1
        if self._on_problem is not None:
            self._on_problem(topic, error)

    def take(self, topic: str, decode: Callable[[], R]) -> R | None:
        """What `decode` gives; None where it fails, whatever the error."""
        try:
            return decode()
        except Exception as error:
            self.reject(topic, error)
            return None
