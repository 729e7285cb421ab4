from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from mm_perception.core.config import from_mapping, load_yaml, setting, to_mapping
from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import config_dir, find_config
from mm_perception.core.rig import RigConfig, SensorConfig, load_rig
from mm_perception.core.settings import FusionSettings


@dataclass(frozen=True)
class Inner:
    size: int = setting(description="a size", minimum=1, maximum=9)


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"] = setting(description="a kind")
    inners: tuple[Inner, ...] = setting((), "some")
    ratio: float = setting(0.5, "a ratio", minimum=0.0, maximum=1.0)
    note: str | None = setting(None, "optional")


def test_nested_values_are_built_and_written_back():
    data = {"kind": "a", "inners": [{"size": 3}], "ratio": 1, "note": None}
    outer = from_mapping(Outer, data, "test")
    assert outer == Outer("a", (Inner(3),), 1.0, None)
    assert from_mapping(Outer, to_mapping(outer), "test") == outer


def test_all_problems_are_reported_at_once():
    data = {"kind": "c", "inners": [{"size": 0}, {"sise": 1}], "ratio": "x", "extra": 1}
    with pytest.raises(ConfigError) as caught:
        from_mapping(Outer, data, "file.yaml")
    for part in ("file.yaml", "kind", "inners[0].size", "inners[1].sise", "inners[1].size: missing", "ratio", "extra"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("value", "accepted"), [(0.0, True), (1.0, True), (1.01, False), (float("nan"), False)])
def test_ranges_are_inclusive_and_refuse_nan(value, accepted):
    if accepted:
        assert from_mapping(Outer, {"kind": "a", "ratio": value}, "t").ratio == value
    else:
        with pytest.raises(ConfigError, match="ratio"):
            from_mapping(Outer, {"kind": "a", "ratio": value}, "t")


def test_true_is_no_number():
    with pytest.raises(ConfigError, match="size"):
        from_mapping(Inner, {"size": True}, "t")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", ""])
def test_file_that_is_no_mapping(tmp_path: Path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_yaml(path, Inner)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path / "none.yaml", Inner)


@pytest.mark.parametrize("path", sorted((config_dir() / "rigs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_rigs_load(path):
    assert load_rig(path.stem).reference


def test_unknown_rig_lists_the_known_ones():
    with pytest.raises(ConfigError, match="demo"):
        load_rig("nonesuch")
    with pytest.raises(ConfigError, match="neither a file nor a name"):
        find_config("rigs", "../rigs/demo")


def test_rig_contradictions_are_errors():
    rgb, lidar = SensorConfig("rgb", "rgb"), SensorConfig("lidar", "lidar")
    with pytest.raises(ConfigError, match="no sensor"):
        RigConfig((lidar,), "rgb")
    with pytest.raises(ConfigError, match="must be of kind rgb"):
        RigConfig((rgb, lidar), "lidar")
    with pytest.raises(ConfigError, match="double name"):
        RigConfig((rgb, rgb), "rgb")
    with pytest.raises(ConfigError, match="double topic"):
        RigConfig((rgb, SensorConfig("other", "rgb", topic="~/input/rgb")), "rgb")
    with pytest.raises(ConfigError, match="sends"):
        SensorConfig("rgb", "rgb", type="sensor_msgs/msg/PointCloud2")


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("rgb", {"depth_unit_m": 0.001}, "depth_unit_m: expected of a depth sensor, front is of kind rgb"),
        ("depth", {"bit_depth": 12}, "bit_depth: expected of a rgb sensor"),
        ("lidar", {"thermal_gain": 0.1}, "thermal_gain: expected of a thermal sensor"),
        ("thermal", {"thermal_offset_k": 273.15}, "thermal_offset_k: expected with a thermal_gain"),
        ("thermal", {"thermal_gain": 0.1, "thermal_scale": "celsius"}, "in the place of thermal_scale celsius"),
    ],
)
def test_units_of_another_kind_of_sensor_are_errors(kind, values, words):
    with pytest.raises(ConfigError, match=words):
        SensorConfig("front", kind, topic="/front", **values)


def test_node_parameter_file_has_exactly_the_settings():
    import yaml

    content = yaml.safe_load((config_dir() / "fusion.yaml").read_text())
    parameters = content["/**"]["ros__parameters"]
    assert set(parameters) == set(FusionSettings.__dataclass_fields__)
    assert from_mapping(FusionSettings, parameters, "fusion.yaml") == FusionSettings()
