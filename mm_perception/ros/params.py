"""The node's parameters, declared from `FusionSettings`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from mm_perception.core.config import SettingInfo, from_mapping, setting_info
from mm_perception.core.errors import ConfigError
from mm_perception.core.settings import FusionSettings
from mm_perception.ros.arguments import FOREIGN_PARAMETERS, FOREIGN_PREFIXES


def declare_settings(node: Node) -> FusionSettings:
    """Declares every setting as a parameter and reads them.

    Raises:
        ConfigError: wrong types, values out of range and unknown parameters, all in one message.
    """
    hints = typing.get_type_hints(FusionSettings)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for field in dataclasses.fields(FusionSettings):
        descriptor = _descriptor(setting_info(field), hints[field.name])
        try:
            values[field.name] = node.declare_parameter(field.name, field.default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            problems.append(str(error))
    given = node._parameter_overrides  # rclpy has no public view of what was passed but never declared
    for name in given:
        if name not in hints and name not in FOREIGN_PARAMETERS and not name.startswith(FOREIGN_PREFIXES):
            problems.append(f"{name}: unknown parameter (known: {', '.join(sorted(hints))})")
    try:
        settings = from_mapping(FusionSettings, values, "parameters")
    except ConfigError as error:
        problems.extend(line.strip() for line in str(error).splitlines()[1:])
    if problems:
        raise ConfigError(f"parameters: {len(problems)} problem(s)\n  " + "\n  ".join(problems))
    return settings


def _descriptor(info: SettingInfo, hint: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=info.description, read_only=info.read_only)
    if typing.get_origin(hint) is Literal:
        descriptor.additional_constraints = "one of " + ", ".join(map(str, typing.get_args(hint)))
    if info.minimum is not None and info.maximum is not None:
        if hint is float:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(info.minimum), to_value=float(info.maximum))
            ]
        elif hint is int:
            descriptor.integer_range = [IntegerRange(from_value=int(info.minimum), to_value=int(info.maximum), step=1)]
    return descriptor
