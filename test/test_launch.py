"""The launch files, run by launch itself where it is installed; their text is checked everywhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mm_perception.core.config import setting_info
from mm_perception.core.errors import ConfigError
from mm_perception.core.settings import FusionSettings
from mm_perception.ros.launch_arguments import setting_arguments, setting_values

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))


def own_arguments(path: Path) -> dict[str, str]:
    """Descriptions of the arguments that a launch file itself names."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    assert isinstance(value.elts[1], ast.Constant)
                    found[str(key.value)] = str(value.elts[1].value)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_own_argument_is_described_and_none_is_a_setting(path):
    own = own_arguments(path)
    assert own and all(len(text) > 5 for text in own.values())
    assert not own.keys() & setting_arguments().keys()
    assert "setting_arguments(" in path.read_text()


def test_settings_are_arguments_with_their_own_descriptions():
    arguments = setting_arguments("some.yaml")
    assert list(arguments) == [field.name for field in dataclasses.fields(FusionSettings)]
    for field in dataclasses.fields(FusionSettings):
        default, text = arguments[field.name]
        assert default == "" and text.startswith(setting_info(field).description)
        assert text.endswith("empty: as in some.yaml")
    assert "one of auto, tensorrt" in arguments["engine"][1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"rig": "", "threads": ""}, {}),
        (
            {"threads": "4", "deadline_ms": "250", "autostart": "False", "rig": "a b.yaml", "rviz": "true"},
            {"threads": 4, "deadline_ms": 250.0, "autostart": False, "rig": "a b.yaml"},
        ),
    ],
)
def test_arguments_become_parameters_of_their_types(given, expected):
    found = setting_values(given)
    assert found == expected
    assert {type(value) for value in found.values()} == {type(value) for value in expected.values()}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("threads", "four", "a whole number"), ("deadline_ms", "x", "a number"), ("autostart", "maybe", "true or false")],
)
def test_arguments_of_another_type_are_refused(name, text, expected):
    with pytest.raises(ConfigError, match=f"{name}: expected {expected}"):
        setting_values({name: text})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_launch_reads_the_file(path, monkeypatch, tmp_path):
    pytest.importorskip(
        "launch_ros", reason="launch and launch_ros are in no package registry; needs a ROS installation"
    )
    import ament_index_python.packages
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from launch import LaunchContext

    monkeypatch.setattr(ament_index_python.packages, "get_package_share_directory", lambda _: str(ROOT))
    spec = importlib.util.spec_from_file_location("launch_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    declared = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert {d.name for d in declared} == own_arguments(path).keys() | setting_arguments().keys()
    assert all(d.description for d in declared)
    context = LaunchContext()
    for argument in declared:
        if argument.default_value is not None:
            context.launch_configurations[argument.name] = "".join(s.perform(context) for s in argument.default_value)
    context.launch_configurations.update(bag="a.mcap 'b c/'", rviz="true", namespace="/robot1/")
    (action,) = (one for one in description.entities if isinstance(one, OpaqueFunction))
    made = action.execute(context)
    if path.name == "fusion.launch.py":
        assert made[0].node_executable == "fusion_node"
        assert len(made) == 2  # RViz, or that there is none
    else:
        words = ["".join(part.perform(context) for part in word) for word in made[0].cmd]
        assert words[words.index("play") + 1 :][:2] == ["a.mcap", "b c/"]
        assert words[words.index("--wait-for") + 1] == "/robot1/fusion_node"


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(one.split(":=", 1)) for one in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of an installation that has this checkout for its package."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    programs = tmp_path / "lib" / "mm_perception"
    for folder in (index, programs):
        folder.mkdir(parents=True)
    (index / "mm_perception").touch()
    (tmp_path / "share" / "mm_perception").symlink_to(ROOT)
    program = programs / "fusion_node"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mm_perception.ros.fusion_node "$@"\n')
    program.chmod(0o755)
    return os.environ | {
        "AMENT_PREFIX_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "ROS_DOMAIN_ID": str(150 + os.getpid() % 80),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }


@pytest.mark.ros
@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["rviz:=true", "namespace:=robot1"], 0, ["rviz2 is not installed", "robot1/fusion_node: pipeline", "played "]),
        (["model:=nonesuch"], 1, ["'nonesuch' is neither", "fusion_node ended with code 2"]),
        (["rate:=0"], 1, ["--rate", "the player ended with code 2"]),
    ],
)
def test_a_replay_ends_by_itself_and_leaves_nothing(installed, demo_bag, small_card, arguments, code, expected):
    pytest.importorskip(
        "launch_ros", reason="launch and launch_ros are in no package registry; needs a ROS installation"
    )
    given = [f"bag:={demo_bag}", "rig:=demo", f"model:={small_card}", "engine:=onnxruntime", *arguments]
    line = [sys.executable, "-c", RUN, str(ROOT / "launch" / "replay.launch.py"), *given]
    done = subprocess.run(line, env=installed, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    for text in expected:
        if text != "rviz2 is not installed" or not (Path("/opt/ros").is_dir()):
            assert text in said
    assert "SIGKILL" not in said
