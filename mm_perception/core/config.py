"""Strict loading of configuration: YAML or mappings into frozen dataclasses.

Every problem of a file is collected and reported in one `ConfigError`; unknown keys are problems.
Fields carry their documentation in `dataclasses.field(metadata=...)`, see `setting`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from mm_perception.core.errors import ConfigError
from mm_perception.core.limits import MAX_LIST_ITEMS
from mm_perception.core.yaml_file import read_yaml

T = TypeVar("T")

_MOST_PROBLEMS = 50
_LARGEST_WHOLE = 2**63 - 1
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What a setting means and which values it takes; kept in the field's metadata."""

    description: str
    minimum: float | None = None
    maximum: float | None = None
    read_only: bool = True


def setting(
    default: Any = MISSING,
    description: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    read_only: bool = True,
) -> Any:
    """A dataclass field with its documentation and its inclusive numeric range.

    `read_only` settings of the node are fixed once it runs.
    """
    metadata = {"setting": SettingInfo(description, minimum, maximum, read_only)}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def setting_info(field: dataclasses.Field[Any]) -> SettingInfo:
    """The documentation of a field; empty where it was made without `setting`."""
    info = field.metadata.get("setting")
    return info if isinstance(info, SettingInfo) else SettingInfo("")


def load_yaml(path: Path, cls: type[T]) -> T:
    """Reads one YAML mapping into the dataclass `cls`.

    Raises:
        ConfigError: the file is missing, is no YAML mapping of a sensible size (see `read_yaml`), or has unknown,
            missing or impossible values (all of them are named).
    """
    data = read_yaml(path)
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: expected a mapping at top level, got {type(data).__name__}")
    return from_mapping(cls, data, str(path))


def from_mapping(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `cls` from a mapping, nested dataclasses included.

    Args:
        cls: a dataclass whose annotations are built of bool, int, float, str, Path, Literal, optional,
            tuple[X, ...], dict[str, X] and dataclasses.
        data: keys are field names.
        where: how messages name the source.

    Raises:
        ConfigError: with one line per problem.
    """
    problems: list[str] = []
    value = _build(cls, data, "", problems)
    if problems:
        shown, more = problems[:_MOST_PROBLEMS], len(problems) - _MOST_PROBLEMS
        shown += [f"and {more} more"] if more > 0 else []
        raise ConfigError(f"{where}: {len(problems)} problem(s)\n  " + "\n  ".join(shown))
    return typing.cast(T, value)


def to_mapping(value: Any) -> Any:
    """The plain YAML form of a configuration dataclass (tuples become lists)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _build(cls: type[Any], data: Any, at: str, problems: list[str]) -> Any:
    if not isinstance(data, Mapping):
        problems.append(f"{at or 'top level'}: expected a mapping, got {type(data).__name__}")
        return None
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy thinks that types have no hash
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    if len(data) > MAX_LIST_ITEMS:
        problems.append(f"{at or 'top level'}: expected at most {MAX_LIST_ITEMS} keys, got {len(data)}")
        return None
    for key in data:
        if key not in fields:
            known = ", ".join(sorted(fields))
            problems.append(f"{_join(at, _shown(key))}: unknown key (known: {known})")
    before = len(problems)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(at, name), problems, setting_info(field))
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{_join(at, name)}: missing")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.append(f"{at + ': ' if at else ''}{error}")
        return None


@functools.lru_cache(maxsize=64)
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, at: str, problems: list[str], info: SettingInfo) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        return _convert(inner[0], value, at, problems, info)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            problems.append(f"{at}: expected one of {', '.join(map(str, args))}, got {_shown(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, at, problems, info)
    if origin in (dict, Mapping):
        return _convert_mapping(args, value, at, problems, info)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, at, problems)
    return _convert_scalar(hint, value, at, problems, info)


def _convert_mapping(args: tuple[Any, ...], value: Any, at: str, problems: list[str], info: SettingInfo) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{at}: expected a mapping, got {type(value).__name__}")
        return None
    if len(value) > MAX_LIST_ITEMS:
        problems.append(f"{at}: expected at most {MAX_LIST_ITEMS} keys, got {len(value)}")
        return None
    strange = [key for key in value if not isinstance(key, (str, int, float)) or isinstance(key, bool)]
    if strange:
        problems.append(f"{at}: expected names as keys, got {_shown(strange[0])}")
        return None
    return {str(k): _convert(args[1], v, _join(at, _shown(k)), problems, info) for k, v in value.items()}


def _convert_tuple(args: tuple[Any, ...], value: Any, at: str, problems: list[str], info: SettingInfo) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        problems.append(f"{at}: expected a list, got {type(value).__name__}")
        return None
    if len(value) > MAX_LIST_ITEMS:
        problems.append(f"{at}: expected at most {MAX_LIST_ITEMS} values, got {len(value)}")
        return None
    repeated = len(args) == 2 and args[1] is Ellipsis
    if not repeated and len(value) != len(args):
        problems.append(f"{at}: expected {len(args)} values, got {len(value)}")
        return None
    kinds = [args[0]] * len(value) if repeated else list(args)
    return tuple(
        _convert(kind, item, f"{at}[{i}]", problems, info)
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, at: str, problems: list[str], info: SettingInfo) -> Any:
    if hint is Path and isinstance(value, str):
        value = Path(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and not -_LARGEST_WHOLE <= value <= _LARGEST_WHOLE:
        problems.append(f"{at}: expected a number of 64 bits, got one of {value.bit_length()}")
        return None
    if hint is float and whole:
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        problems.append(f"{at}: expected {hint.__name__}, got {_shown(value)}")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(value, at, problems, info)
    elif "\0" in str(value):
        problems.append(f"{at}: expected text without zero bytes, got {_shown(value)}")
    return value


def _check_range(value: float, at: str, problems: list[str], info: SettingInfo) -> None:
    low, high = info.minimum, info.maximum
    if not math.isfinite(value):
        problems.append(f"{at}: expected a finite number, got {value}")
    elif not (low is None or value >= low) or not (high is None or value <= high):
        problems.append(f"{at}: expected a value in [{low}, {high}], got {value}")


def _shown(value: Any) -> str:
    """A value or key in a message: as it is written, but not a page of it."""
    try:
        text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    except Exception:  # a number of too many digits, a list in itself
        text = type(value).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
