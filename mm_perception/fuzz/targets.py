"""What is fuzzed: for each target, how inputs are made and what reads them.

An input is bytes, so that other fuzzers can feed the same targets. What reads it may raise this package's errors and no
others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mm_perception.core.errors import ConfigError, MmPerceptionError


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that reads inputs.

    Attributes:
        make: an input from random numbers alone: the same numbers give the same input.
        run: reads an input; of errors only MmPerceptionError may leave it.
        share: how many inputs it gets for each one of the dearest target's.
    """

    name: str
    make: Callable[[Random], bytes]
    run: Callable[[bytes], object]
    share: int


def all_targets() -> dict[str, Target]:
    """Every target by name; those whose libraries are not installed are left out."""
    from mm_perception.fuzz.bag_targets import bag_targets
    from mm_perception.fuzz.file_targets import file_targets
    from mm_perception.fuzz.message_targets import message_targets

    return {target.name: target for target in (*message_targets(), *bag_targets(), *file_targets())}


def find_targets(names: list[str]) -> list[Target]:
    """The targets of some names; all without names. Raises ConfigError for an unknown one."""
    known = all_targets()
    for name in names:
        if name not in known:
            raise ConfigError(f"fuzz target: expected one of {', '.join(known)}, got {name!r}")
    return [known[name] for name in names or known]


def input_of(target: Target, seed: int, index: int) -> bytes:
    """The input of a number; it depends on nothing else."""
    return target.make(Random(f"{target.name}:{seed}:{index}"))


def runs_clean(target: Target, data: bytes) -> None:
    """For tests and coverage-guided fuzzers: lets nothing through but foreign errors."""
    try:
        target.run(data)
    except MmPerceptionError:
        return
