"""What README promises must exist."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from mm_perception.cli.main import COMMANDS
from mm_perception.core.config import to_mapping
from mm_perception.core.settings import FusionSettings
from mm_perception.ros.launch_arguments import setting_arguments

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("mm-perception")])
def test_command_is_understood(line):
    _, command, *arguments = shlex.split(line)
    assert command in COMMANDS
    module = importlib.import_module(f"mm_perception.cli.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.parse_args(arguments)


def test_every_command_has_its_file():
    for command in COMMANDS:
        module = importlib.import_module(f"mm_perception.cli.{command.replace('-', '_')}")
        assert callable(module.run)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make")])
def test_make_target_and_its_options_exist(line):
    makefile = (ROOT / "Makefile").read_text()
    _, target, *options = line.split()
    assert re.search(rf"^{target}:", makefile, re.M)
    for option in options:
        assert f"$({option.split('=')[0]})" in makefile


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ros2 launch")])
def test_launch_file_and_its_arguments_exist(line):
    _, _, package, file, *arguments = line.split()
    assert package == "mm_perception"
    text = (ROOT / "launch" / file).read_text()
    for argument in arguments:
        name = argument.split(":=")[0]
        assert name in setting_arguments() or f'"{name}": (' in text


def test_parameter_table_is_the_settings():
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\|", README.partition("## Parameters")[2], re.M)
    defaults = {name: str(value) for name, value in to_mapping(FusionSettings()).items()}
    assert dict(rows) == defaults


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:config|pipeline|rosbags|launch)/[\w./-]+)`", README))))
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists() or (ROOT / "mm_perception" / path).exists()


@pytest.mark.parametrize("topic", re.findall(r"^\| `(~/output/\w+)`", README, re.M))
def test_output_topics_are_published(topic):
    assert f'"{topic}"' in (ROOT / "mm_perception" / "ros" / "outputs.py").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(test/[\w./-]+)`", README))))
def test_tests_that_hold_promises_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[\w./-]+)\)", README))))
def test_pages_that_are_linked_exist(path):
    assert (ROOT / path).exists()
