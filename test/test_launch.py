"""The launch files, run by launch itself where it is installed; their text is checked everywhere."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))


def arguments(path: Path) -> dict[str, ast.expr]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            assert isinstance(node.value, ast.Dict)
            return {k.value: v for k, v in zip(node.value.keys, node.value.values, strict=True)}  # type: ignore[union-attr,misc]
    raise AssertionError(f"{path}: no ARGUMENTS")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_argument_is_described(path):
    for name, value in arguments(path).items():
        assert isinstance(value, ast.Tuple), name
        assert isinstance(value.elts[1], ast.Constant)
        assert len(str(value.elts[1].value)) > 5, name


def test_fusion_launch_has_the_promised_arguments():
    chosen = {"config", "rig", "model", "detector", "output_frame", "engine"}
    expected = chosen | {"use_sim_time", "namespace", "log_level", "rviz"}
    assert expected <= set(arguments(ROOT / "launch" / "fusion.launch.py"))


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
    assert {d.name for d in declared} == set(arguments(path))
    assert all(d.description for d in declared)
    context = LaunchContext()
    for argument in declared:
        if argument.default_value is not None:
            context.launch_configurations[argument.name] = "".join(s.perform(context) for s in argument.default_value)
    for action in description.entities:
        if isinstance(action, OpaqueFunction):
            (node,) = action.execute(context)
            assert node.node_executable == "fusion_node"
