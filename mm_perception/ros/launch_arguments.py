"""The node's settings as arguments of launch files: each said once, in `core.settings`. Nothing here needs ROS."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mm_perception.core.config import setting_info
from mm_perception.core.errors import ConfigError
from mm_perception.core.settings import FusionSettings

_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def setting_arguments(config: str = "config") -> dict[str, tuple[str, str]]:
    """Default and description of each setting's argument; empty for what the parameter file says."""
    hints = typing.get_type_hints(FusionSettings)
    arguments = {}
    for field in dataclasses.fields(FusionSettings):
        choices = typing.get_args(hints[field.name]) if typing.get_origin(hints[field.name]) is Literal else ()
        one_of = f" (one of {', '.join(map(str, choices))})" if choices else ""
        arguments[field.name] = ("", f"{setting_info(field).description}{one_of}; empty: as in {config}")
    return arguments


def setting_values(given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that arguments say, in the types that the node wants; those that are empty are left out.

    Raises:
        ConfigError: an argument is no value of its setting's type.
    """
    hints = typing.get_type_hints(FusionSettings)
    return {name: _value(name, given[name], hints[name]) for name in hints if given.get(name, "") != ""}


def is_true(name: str, text: str) -> bool:
    """Raises ConfigError for what is neither true nor false."""
    if text.lower() not in _TRUTH:
        raise ConfigError(f"{name}: expected true or false, got {text!r}")
    return _TRUTH[text.lower()]


def _value(name: str, text: str, hint: Any) -> Any:
    if hint is bool:
        return is_true(name, text)
    if hint not in (int, float):
        return text
    try:
        return hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise ConfigError(f"{name}: expected {kind}, got {text!r}") from None
