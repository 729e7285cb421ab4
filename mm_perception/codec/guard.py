"""One family of errors: what a library says about a malformed message becomes an error of this package."""

from __future__ import annotations

import functools
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
