"""Reading YAML that somebody else wrote: small, flat, without tags, and without double keys.

The file is looked at as a stream of events first, which costs little whatever it holds. Only one that is not too deep
and not too large with its aliases written out is built.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mm_perception.core.errors import ConfigError
from mm_perception.core.limits import MAX_NUMBER_CHARS, MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING_TAG = "tag:yaml.org,2002:str"
_NUMBER = re.compile(r"[+-]?(0x[0-9a-fA-F_]+|[0-9_.:eE+-]+)")
"""What YAML may take for a number; a checksum in hexadecimal is none."""


class _Loader(_FAST):  # type: ignore[misc, valid-type]
    """The safe loader; refuses a key that is there twice: of two values one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            own = node.start_mark.index <= key.start_mark.index < node.end_mark.index  # else it was merged in by <<
            if not own or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"double key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep=deep))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: it is no regular file, cannot be read, is too large, is no UTF-8 or no YAML, or holds tags, double
            keys, impossible dates, or more depth, aliases or digits than a configuration has.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a regular file. Raises ConfigError if it cannot be read, is too large or no UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: is no regular file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a name with a zero byte
        raise ConfigError(f"{str(path)!r}: cannot be read ({error})") from error
    if len(data) > max_bytes:
        raise ConfigError(f"{path}: is larger than {max_bytes} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse_yaml(text: str, where: str, max_nodes: int = MAX_YAML_NODES) -> Any:
    """The content of YAML text; see `read_yaml`. `where` is how messages name the source."""
    try:
        check_yaml(text, where, max_nodes)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: is not YAML: {_one_line(error)}") from error
    except Exception as error:  # impossible dates and numbers: the library lets Python's own errors through
        raise ConfigError(f"{where}: is not YAML: {type(error).__name__}: {_one_line(error)}") from error


def check_yaml(text: str, where: str, max_nodes: int = MAX_YAML_NODES) -> None:
    """Looks at YAML without building anything of it.

    Raises:
        ConfigError: it is too deep, has too many values, tags, or numbers of too many digits, or is no YAML.
    """
    try:
        _check_events(text, where, max_nodes)
    except ValueError as error:  # libyaml refuses some characters so
        raise ConfigError(f"{where}: is not YAML: {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: is not YAML: {_one_line(error)}") from error


def _check_events(text: str, where: str, max_nodes: int) -> None:
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_FAST):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(f"{where}: line {line}: alias of unknown or unfinished {event.anchor!r}")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            count += 1
            _check_tag(event, where, line)
            if isinstance(event, yaml.ScalarEvent):
                _check_number(event, where, line)
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                opened.append((event.anchor, count))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = count - before + 1
        if len(opened) > MAX_YAML_DEPTH:
            raise ConfigError(f"{where}: line {line}: deeper than {MAX_YAML_DEPTH} levels")
        if count > max_nodes:
            raise ConfigError(f"{where}: line {line}: more than {max_nodes} values (aliases written out)")


def _check_tag(event: Any, where: str, line: int) -> None:
    if event.tag not in (None, "!", _STRING_TAG):
        raise ConfigError(f"{where}: line {line}: tags are not supported, got {event.tag[:80]!r}")


def _check_number(event: yaml.ScalarEvent, where: str, line: int) -> None:
    value = event.value
    if event.implicit[0] and len(value) > MAX_NUMBER_CHARS and _NUMBER.fullmatch(value):
        raise ConfigError(f"{where}: line {line}: a number of {len(value)} characters")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
