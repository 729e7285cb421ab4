"""Files that are whole or not there, and JSON that somebody else may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mm_perception.core.errors import ConfigError
from mm_perception.core.limits import MAX_JSON_BYTES
from mm_perception.core.yaml_file import read_text


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a file beside its place and moves it there: nobody reads half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ConfigError: it cannot be read, is too large or too deep, or is no JSON.
    """
    try:
        return json.loads(read_text(path, max_bytes))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON ({type(error).__name__}: {error})") from error
