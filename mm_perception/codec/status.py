"""What one result is worth, as diagnostic_msgs/DiagnosticStatus on `~/output/perception_status`.

The contract is in docs/planner.md. The message has no header, so the stamp stands among its values; it is that of the
set, and so that of the results that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mm_perception.codec.encode import make_status
from mm_perception.codec.fields import NANOSECONDS, MessageFactory
from mm_perception.core.errors import DataError

SCHEMA = "1"


def encode_perception_status(
    factory: MessageFactory,
    name: str,
    level: int,
    mode: str,
    stamp_ns: int,
    values: Mapping[str, str],
    hardware_id: str,
) -> Any:
    """diagnostic_msgs/DiagnosticStatus of one set.

    Args:
        mode: full, degraded or blind; the message's text.
        stamp_ns: of the set.
        values: the tasks' modes and reasons, and the covered ground.
    """
    sec, nanosec = divmod(stamp_ns, NANOSECONDS)
    head = {"schema": SCHEMA, "stamp": f"{sec}.{nanosec:09d}", "mode": mode}
    return make_status(factory, (name, level, mode, {**head, **values}), hardware_id)


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
