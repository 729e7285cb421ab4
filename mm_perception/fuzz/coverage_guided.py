"""The same targets for atheris, a coverage-guided fuzzer: `python -m mm_perception.fuzz.coverage_guided TARGET [DIR]`.

atheris is an extra of this package (pip install mm_perception[fuzz]). What follows the target is libFuzzer's: a folder
that collects inputs, and options such as -max_total_time=60.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from mm_perception.core.errors import ConfigError
from mm_perception.fuzz.targets import find_targets, runs_clean


def entry_point(name: str) -> Callable[[bytes], None]:
    """What atheris calls with each input. Raises ConfigError for an unknown target."""
    return partial(runs_clean, find_targets([name])[0])


def main(arguments: list[str]) -> None:
    """Runs until libFuzzer is told to end, or something foreign is found.

    Raises:
        ConfigError: no or an unknown target, or atheris is not installed.
    """
    if len(arguments) < 2:
        raise ConfigError("expected the name of a fuzz target")
    test = entry_point(arguments[1])
    try:
        import atheris
    except ImportError as error:
        raise ConfigError(f"atheris cannot be imported ({error}): pip install mm_perception[fuzz]") from error
    atheris.instrument_all()
    atheris.Setup([arguments[0], *arguments[2:]], test)
    atheris.Fuzz()


if __name__ == "__main__":
    try:
        main(sys.argv)
    except ConfigError as error:
        sys.exit(str(error))
