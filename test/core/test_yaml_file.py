"""YAML that is no configuration: refused as ConfigError, in no time, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mm_perception.core.config import from_mapping, load_yaml, setting
from mm_perception.core.errors import ConfigError, MmPerceptionError
from mm_perception.core.files import read_json
from mm_perception.core.resources import find_config
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.yaml_file import parse_yaml
from mm_perception.fuzz.cost import measured


def nested(form: str, item, joint: str) -> str:
    """Eight levels, each of nine aliases of the one above."""
    lines = ["a0: &a0 {b: c}"]
    for i in range(1, 9):
        lines.append(f"a{i}: &a{i} " + form.format(joint.join(item(j, f"*a{i - 1}") for j in range(9))))
    return "\n".join(lines)


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
BOMBS = {
    "aliases in lists": LAUGHS,
    "aliases in mappings": nested("{{{}}}", lambda j, above: f"k{j}: {above}", ", "),
    "aliases merged": nested("{{<<: [{}]}}", lambda j, above: above, ", "),
    "alias of itself": "a: &a [*a]",
    "alias of itself, deeper": "a: &a {b: {c: *a}}",
    "unknown alias": "a: *b",
    "deep list": "a: " + "[" * 100_000,
    "deep list, closed": "a: " + "[" * 3000 + "]" * 3000,
    "deep mapping": "{a: " * 3000,
    "deep block": "\n".join(" " * i + "a:" for i in range(600)),
    "deep sequence": "- " * 3000 + "a",
    "long": "a: " + "b" * 300_000,
    "many keys": "\n".join(f"k{i}: 1" for i in range(30_000)),
    "many items": "sensors: [" + "1, " * 60_000 + "1]",
    "digits": "a: " + "9" * 5000,
    "digits in hexadecimal": "a: 0x" + "f" * 5000,
    "digits in base 60": "a: " + ":".join(["59"] * 20_000),
    "digits of a float": "a: 1." + "0" * 5000,
    "impossible date": "a: 2026-13-45",
    "impossible time": "a: 2026-01-01T99:99:99Z",
    "float tag": "a: !!float abc",
    "int tag": "a: !!int abc",
    "timestamp tag": "a: !!timestamp abc",
    "binary tag": "a: !!binary '*'",
    "python tag": "a: !!python/object/apply:os.system ['true']",
    "own tag": "a: !own b",
    "set": "a: !!set {b, c}",
    "double key": "name: a\nname: b",
    "double key within": "sensors: [{name: a, kind: rgb, name: b}]",
    "key that is a list": "? [a, b]\n: c",
    "key that is a mapping": "? {a: b}\n: c",
    "zero byte": "a: \0",
    "control character": "a: \x07",
    "two documents": "a: 1\n---\nb: 2",
    "directive": "%YAML 9.9\n---\na: 1",
    "open quote": "a: 'b",
    "tabs": "a:\n\t- b",
    "infinity as key": ".inf: 1",
    "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_bombs_are_configuration_errors_and_cheap(tmp_path: Path, text):
    path = tmp_path / "bomb.yaml"
    path.write_text(text)

    def load():
        with pytest.raises(ConfigError, match="bomb"):
            load_yaml(path, RigConfig)

    cost = measured(load)
    assert cost.seconds < 2.0 and cost.bytes < 100_000_000, cost


def test_aliases_and_merges_of_a_sensible_size_are_fine():
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, z: [*a, *a]}\nd: !!str 5"
    assert parse_yaml(text, "t") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 3, "z": [{"x": 1, "y": 2}] * 2}, "d": "5",
    }  # fmt: skip


@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-.inf", "1e999", "9" * 40, "-" + "9" * 40, "true", "2026-01-01", "[1]"]
)
@pytest.mark.parametrize("field", ["max_wait_ms", "tolerance_ms", "intensity_max", "depth", "max_pixels"])
def test_numbers_of_a_rig_are_finite_and_of_sensible_size(tmp_path: Path, field, value):
    sensor = f", {field}: {value}" if field != "max_wait_ms" else ""
    rig = f"\nmax_wait_ms: {value}" if field == "max_wait_ms" else ""
    (tmp_path / "rig.yaml").write_text(f"reference: a\nsensors: [{{name: a, kind: rgb{sensor}}}]{rig}")
    with pytest.raises(ConfigError, match=field):
        load_rig(str(tmp_path / "rig.yaml"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_numbers_without_a_range_are_finite_too(value):
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Free:
        number: float = setting(0.0, "any")
        by_name: dict[str, float] | None = setting(None, "any")

    for data in ({"number": value}, {"by_name": {"a": value}}):
        with pytest.raises(ConfigError, match=r"number|by_name\.a"):
            from_mapping(Free, data, "t")


def test_what_is_no_regular_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, Path("/dev/zero"), tmp_path / "none", Path("a\0b")):
        with pytest.raises(ConfigError):
            load_yaml(path, RigConfig)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-this-name/x.yaml", "", "\ud800"])
def test_names_that_are_no_paths_are_refused(name):
    with pytest.raises(ConfigError):
        find_config("rigs", name)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "{", '"\\ud800', "[1" + " " * 5_000_000 + "]"]
)
def test_json_bombs_are_configuration_errors(tmp_path: Path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_messages_stay_short():
    assert len(str(MmPerceptionError("x" * 10**6))) < 10_000
