"""The fusion node's command line, looked at before rclpy sees it: what is wrong is said in one line.

rclpy ends with a trace of its C libraries where a parameter file, a log level, a namespace or a remapping is not what
it wants. The forms are those of https://design.ros2.org/articles/ros_command_line_arguments.html; nothing here needs
ROS.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm_perception.core.config import from_mapping
from mm_perception.core.errors import ConfigError
from mm_perception.core.settings import FusionSettings
from mm_perception.core.yaml_file import parse_yaml, read_yaml

NODE_NAME = "fusion_node"
LOG_LEVELS = ("unset", "debug", "info", "warn", "error", "fatal")
FOREIGN_PARAMETERS = ("use_sim_time", "start_type_description_service")
FOREIGN_PREFIXES = ("qos_overrides.",)

_SWITCHES = tuple(
    f"--{how}-{what}-logs" for how in ("enable", "disable") for what in ("rosout", "stdout", "external-lib")
)
_LONGEST_NAME = 255
_TOKEN = r"[A-Za-z_][A-Za-z0-9_]*"
_NAME = re.compile(_TOKEN)
_NAMESPACE = re.compile(rf"/|(/{_TOKEN})+")
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*")
_FROM = re.compile(rf"(rostopic://|rosservice://)?(~/|/)?({_TOKEN}|\*\*?)(/({_TOKEN}|\*\*?))*")
_TO = re.compile(rf"(rostopic://|rosservice://)?(~/|/)?({_TOKEN}|\\[1-9])(/?({_TOKEN}|\\[1-9]))*")
_SCALARS = (bool, int, float, str)


def check_arguments(arguments: Sequence[str]) -> None:
    """Checks what the node is given, without the program's name.

    Raises:
        ConfigError: in one line: an argument is unknown or has no value; a parameter file cannot be read, is no YAML or
            no ROS parameter file, or gives a parameter of the node another type or an impossible value; a log level,
            namespace, name or remapping is invalid.
    """
    words = iter(arguments)
    for word in words:
        if word == "--ros-args":
            _check_ros_arguments(words)
        else:
            raise ConfigError(f"argument {word[:80]!r} is unknown: ROS arguments follow --ros-args")


def _check_ros_arguments(words: typing.Iterator[str]) -> None:
    problems: list[str] = []
    for word in words:
        if word == "--":
            break
        if word in _SWITCHES or word == "--ros-args":
            continue
        check = _CHECKS.get(word)
        if check is None:
            raise ConfigError(f"ROS argument {word[:80]!r} is unknown")
        value = next(words, None)
        if value is None:
            raise ConfigError(f"ROS argument {word} has no value")
        if "\0" in value:
            raise ConfigError(f"ROS argument {word}: expected a value without zero bytes")
        try:
            check(word, value)
        except ConfigError as error:  # whoever has several wrong values wants to hear of all
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))


def check_parameter_file(path: Path) -> None:
    """Raises ConfigError, in one line, unless ROS and the node can take the file."""
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path}: expected a mapping from nodes to ros__parameters, got {_kind(content)}")
    for node, parameters in _nodes(content, "", path):
        flat = _flat(parameters, "", f"{path}: {node}")
        if node.rpartition("/")[2] in (NODE_NAME, "*", "**"):
            _check_values(flat, f"{path}: {node}", strict=node.rpartition("/")[2] == NODE_NAME)


def _nodes(content: Mapping[Any, Any], above: str, path: Path) -> typing.Iterator[tuple[str, Any]]:
    """Name and parameters of each node of a file; namespaces may be nested."""
    for key, value in content.items():
        if key == "ros__parameters":
            if not above:
                raise ConfigError(f"{path}: expected the name of a node above ros__parameters")
            yield above, value
        elif isinstance(value, Mapping) and value and isinstance(key, str) and key:
            yield from _nodes(value, f"{above}/{key.strip('/')}" if above else key, path)
        else:
            raise ConfigError(f"{path}: {above or 'top level'}: expected ros__parameters under {key!r}")


def _flat(parameters: Any, above: str, where: str) -> dict[str, Any]:
    """Parameters by their full names, nested ones with points between. Raises ConfigError for what ROS cannot take."""
    if not isinstance(parameters, Mapping) or (not parameters and above):
        raise ConfigError(f"{where}: {above or 'ros__parameters'}: expected a mapping, got {_kind(parameters)}")
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            flat |= _flat(value, name, where)
        else:
            flat[name] = _ros_value(value, f"{where}: {name}")
    return flat


def _ros_value(value: Any, where: str) -> Any:
    """A value as ROS reads it. Raises ConfigError where it cannot."""
    if isinstance(value, (datetime.date, datetime.datetime)):
        return str(value)  # ROS knows no dates
    if isinstance(value, list):
        kinds = {type(_ros_value(one, where)) for one in value}
        if len(kinds) > 1 or list in kinds:
            raise ConfigError(f"{where}: expected a list of values of one type, got {_kind(value)}")
        return value
    if not isinstance(value, _SCALARS):
        raise ConfigError(f"{where}: expected a number, a text, true or false, or a list of those, got {_kind(value)}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where}: expected a number of 64 bits")
    return value


def _check_values(flat: Mapping[str, Any], where: str, strict: bool) -> None:
    """Types and ranges of the node's own parameters.

    Args:
        strict: whether others are errors; a file for all nodes may hold other nodes' parameters.
    """
    hints = typing.get_type_hints(FusionSettings)
    defaults = {field.name: field.default for field in dataclasses.fields(FusionSettings)}
    own = {name: value for name, value in flat.items() if name in hints}
    problems = [
        f"{name}: unknown parameter"
        for name in flat
        if strict and name not in hints and name not in FOREIGN_PARAMETERS and not name.startswith(FOREIGN_PREFIXES)
    ]
    whole = [name for name, value in own.items() if isinstance(value, int) and isinstance(defaults[name], float)]
    problems += [f"{name}: expected a number with a point, got {own[name]}" for name in whole if own[name] is not True]
    if not isinstance(flat.get("use_sim_time", False), bool):
        problems.append("use_sim_time: expected true or false")
    try:
        from_mapping(FusionSettings, own, where)
    except ConfigError as error:
        problems += [line.strip() for line in str(error).splitlines()[1:]]
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}")


def _check_file(word: str, value: str) -> None:
    check_parameter_file(Path(value))


def _check_parameter(word: str, value: str) -> None:
    name, assigns, text = value.partition(":=")
    node, _, name = name.rpartition(":")
    if not assigns or not _PARAMETER.fullmatch(name):
        raise ConfigError(f"{word} {value[:80]!r}: expected NAME:=VALUE")
    where = f"{word} {name}"
    parsed = _ros_value(parse_yaml(text, where) if text else None, where)
    if node in ("", NODE_NAME):
        _check_values({name: parsed}, where, strict=True)


def _check_remapping(word: str, value: str) -> None:
    rule, assigns, target = value.partition(":=")
    scheme, slashes, rest = rule.partition("://")
    prefix, _, source = rest.rpartition(":") if slashes else rule.rpartition(":")
    if slashes:
        source = f"{scheme}://{source}"
    if not assigns or (prefix and not _NAME.fullmatch(prefix)):
        raise ConfigError(f"{word} {value[:80]!r}: expected FROM:=TO")
    if source == "__ns":
        _require(_NAMESPACE, target, f"{word} {value[:80]!r}: expected a namespace such as /front, got {target[:80]!r}")
    elif source in ("__node", "__name"):
        _require(_NAME, target, f"{word} {value[:80]!r}: expected a node's name, got {target[:80]!r}")
    else:
        _require(_FROM, source, f"{word} {value[:80]!r}: {source[:80]!r} is no name of a topic or service")
        _require(_TO, target, f"{word} {value[:80]!r}: {target[:80]!r} is no name of a topic or service")


def _require(pattern: re.Pattern[str], text: str, message: str) -> None:
    if len(text) > _LONGEST_NAME or not pattern.fullmatch(text):
        raise ConfigError(message)


def _check_log_level(word: str, value: str) -> None:
    level = value.rpartition(":=")[2]
    if level.lower() not in LOG_LEVELS:
        raise ConfigError(f"{word}: expected one of {', '.join(LOG_LEVELS[1:])}, got {level[:80]!r}")


def _check_log_config(word: str, value: str) -> None:
    if not Path(value).is_file():
        raise ConfigError(f"{word}: {value[:200]} is no file")


def _check_enclave(word: str, value: str) -> None:
    _require(_NAMESPACE, value, f"{word}: expected a name such as /front, got {value[:80]!r}")


def _accept(word: str, value: str) -> None:
    pass


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


_CHECKS = {
    "--params-file": _check_file, "-p": _check_parameter, "--param": _check_parameter, "-r": _check_remapping,
    "--remap": _check_remapping, "--log-level": _check_log_level, "--log-config-file": _check_log_config,
    "--log-file-name": _accept, "-e": _check_enclave, "--enclave": _check_enclave,
}  # fmt: skip
