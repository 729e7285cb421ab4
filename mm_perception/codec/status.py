"""What one result is worth, as diagnostic_msgs/DiagnosticStatus on `~/output/perception_status`.

The contract is in docs/planner.md. The message has no header, so the stamp stands among its values; it is that of the
set, and so that of the results that belong to it.
"""

from __future__ import annotations

from typing import Any, Protocol

from mm_perception.codec.encode import make_status
from mm_perception.codec.fields import NANOSECONDS, MessageFactory
from mm_perception.core.errors import DataError

SCHEMA = "1"
MODE_LEVELS = {"full": 0, "degraded": 1, "blind": 2}
"""DiagnosticStatus levels: OK, WARN, ERROR."""


class Describable(Protocol):
    """What a set is worth; `pipeline.sight.Sight`."""

    @property
    def stamp_ns(self) -> int: ...

    @property
    def mode(self) -> str: ...

    def values(self) -> dict[str, str]: ...


def encode_perception_status(factory: MessageFactory, name: str, sight: Describable, hardware_id: str) -> Any:
    """diagnostic_msgs/DiagnosticStatus of one set.

    Args:
        name: of the status; the node's name and ": perception".
        hardware_id: the rig's name.
    """
    sec, nanosec = divmod(sight.stamp_ns, NANOSECONDS)
    head = {"schema": SCHEMA, "stamp": f"{sec}.{nanosec:09d}", "mode": sight.mode}
    return make_status(factory, (name, MODE_LEVELS[sight.mode], sight.mode, {**head, **sight.values()}), hardware_id)


def decode_perception_status(msg: Any) -> tuple[int, dict[str, str]]:
    """The stamp [ns] and all values of `encode_perception_status`.

    Raises:
        DataError: it is of another schema.
    """
    values = {str(item.key): str(item.value) for item in msg.values}
    if values.get("schema") != SCHEMA:
        raise DataError(f"perception status: expected schema {SCHEMA}, got {values.get('schema')!r}")
    sec, _, nanosec = values["stamp"].partition(".")
    return int(sec) * NANOSECONDS + int(nanosec), values
