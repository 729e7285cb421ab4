"""The other side of `apart.run_apart`.

Each line on standard output is a JSON object: {"progress": …} any number of times, then {"done": …}, {"refused": …}
or {"error": …}. The process ends with who asked for it: the kernel kills it then, and it ends by itself when its
standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.processes import die_with_parent
from mm_perception.engines.tensorrt.errors import RefusedError

STDOUT = 1


def _build(job: str, tell: Callable[[str], None]) -> dict[str, Any]:
    from mm_perception.engines.tensorrt.build import BuildJob, build

    return build(BuildJob.from_json(job), tell)


def _convert(job: str, tell: Callable[[str], None]) -> dict[str, Any]:
    from mm_perception.engines.tensorrt.precision import ConvertJob, convert

    convert(ConvertJob.from_json(job), tell)
    return {}


TASKS = {"build": _build, "conversion": _convert}


class _Voice:
    """Lines to whoever asked; the process's own standard output goes to its standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(STDOUT), "w", buffering=1, encoding="utf-8")
        os.dup2(2, STDOUT)

    def say(self, **line: Any) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def main(arguments: list[str]) -> int:
    """Does the task; 0 when it is done."""
    die_with_parent()
    voice = _Voice()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task, job = arguments
    try:
        voice.say(done=TASKS[task](job, lambda text: voice.say(progress=text)))
        return 0
    except (RefusedError, ConfigError) as error:
        voice.say(refused=str(error))
    except (EngineError, OSError) as error:
        voice.say(error=str(error))
    except MemoryError:
        voice.say(error=f"out of memory in the {task}")
    return 1


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
