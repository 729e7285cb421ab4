"""The node's command line without ROS; what ROS itself takes and refuses is compared where ROS is installed."""

from __future__ import annotations

import pytest

from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import config_dir
from mm_perception.ros.arguments import check_arguments, check_parameter_file

GOOD = [
    [],
    ["--ros-args"],
    ["--ros-args", "-r", "__ns:=/front/left", "-r", "__node:=eyes", "--log-level", "WARN", "-p", "rig:=sim"],
    ["--ros-args", "-r", "~/input/rgb:=/front/image_raw", "--remap", "fusion_node:a:=b", "--log-level", "rcl:=debug"],
    ["--ros-args", "-p", "overlay_alpha:=0.25", "-p", "use_sim_time:=true", "--disable-stdout-logs", "--"],
    ["--ros-args", "-p", "qos_overrides./tf.subscription.depth:=5", "-r", "rostopic://a:=/b"],
    ["--ros-args", "-p", "other_node:speed:=[1, 2]", "-e", "/car"],
]  # fmt: skip
BAD = [
    (["--rig", "demo"], "follow --ros-args"),
    (["--ros-args", "--params-fil", "x"], "unknown"),
    (["--ros-args", "--log-level"], "no value"),
    (["--ros-args", "--log-level", "loud"], "expected one of debug"),
    (["--ros-args", "--log-level", "rcl:=verbose"], "expected one of debug"),
    (["--ros-args", "-r", "__ns:=front"], "namespace"),
    (["--ros-args", "-r", "__ns:=/front//left"], "namespace"),
    (["--ros-args", "-r", "__ns:=/1st"], "namespace"),
    (["--ros-args", "-r", "__ns:=/" + "a" * 300], "namespace"),
    (["--ros-args", "-r", "__node:=my node"], "node's name"),
    (["--ros-args", "-r", "a b:=c"], "no name of a topic"),
    (["--ros-args", "-r", "a:=/b//c"], "no name of a topic"),
    (["--ros-args", "-r", "a=b"], "FROM:=TO"),
    (["--ros-args", "-r", "a:="], "no name of a topic"),
    (["--ros-args", "-p", "rig"], "NAME:=VALUE"),
    (["--ros-args", "-p", "rig:="], "got nothing"),
    (["--ros-args", "-p", "threads:=lots"], "threads: expected int"),
    (["--ros-args", "-p", "threads:=-1"], "threads: expected a value in"),
    (["--ros-args", "-p", "overlay_alpha:=1"], "with a point"),
    (["--ros-args", "-p", "overlay_alpha:=.nan"], "finite"),
    (["--ros-args", "-p", "speed:=3"], "unknown parameter"),
    (["--ros-args", "-p", "use_sim_time:=maybe"], "true or false"),
    (["--ros-args", "-p", "rig:=[a, 1]"], "one type"),
    (["--ros-args", "-p", "rig:={a"], "not YAML"),
    (["--ros-args", "-p", "threads:=99999999999999999999"], "64 bits"),
    (["--ros-args", "--params-file", "/no/such.yaml"], "cannot be read"),
    (["--ros-args", "--log-config-file", "/no/such"], "no file"),
]  # fmt: skip
FILES = [
    ("/**:\n  ros__parameters:\n    rig: demo\n    other: [1, 2]\n", ""),
    ("front:\n  fusion_node:\n    ros__parameters:\n      threads: 3\n", ""),
    ("/**:\n  ros__parameters: {}\n", ""),
    ("other_node:\n  ros__parameters:\n    threads: many\n", ""),
    ("fusion_node:\n  ros__parameters:\n    threads: many\n", "threads: expected int"),
    ("/front/fusion_node:\n  ros__parameters:\n    threads: -3\n", "expected a value in"),
    ("/**:\n  ros__parameters:\n    queue_depth: 1.5\n", "queue_depth: expected int"),
    ("fusion_node:\n  ros__parameters:\n    rigg: demo\n", "rigg: unknown"),
    ("fusion_node:\n  ros__parameters:\n    rig: null\n", "got nothing"),
    ("fusion_node:\n  ros__parameters:\n    rig: [[1]]\n", "one type"),
    ("fusion_node:\n  ros__parameters: 3\n", "expected a mapping"),
    ("fusion_node:\n  rig: demo\n", "expected ros__parameters"),
    ("ros__parameters:\n  rig: demo\n", "name of a node"),
    ("- 1\n", "expected a mapping"),
    ("", "expected a mapping"),
    ("a: [1\n", "not YAML"),
    ("a: !!float abc\n", "tags"),
    ("a: " + "[" * 100 + "]" * 100, "deeper"),
    ("\x00", "not YAML"),
]


@pytest.mark.parametrize("arguments", GOOD, ids=" ".join)
def test_what_ros_takes_is_taken(arguments):
    check_arguments(arguments)


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else None)
def test_what_is_wrong_is_said_in_one_line(arguments, said):
    with pytest.raises(ConfigError) as caught:
        check_arguments(arguments)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("text", "said"), FILES)
def test_parameter_files(tmp_path, text, said):
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    if not said:
        check_parameter_file(path)
        return
    with pytest.raises(ConfigError) as caught:
        check_parameter_file(path)
    assert said in str(caught.value) and "parameters.yaml" in str(caught.value)


def test_the_shipped_parameter_file_is_good():
    check_arguments(["--ros-args", "--params-file", str(config_dir() / "fusion.yaml")])


@pytest.mark.parametrize("arguments", GOOD, ids=" ".join)
def test_ros_agrees_on_what_is_good(arguments):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    context = rclpy.context.Context()
    rclpy.init(args=arguments, context=context)
    rclpy.try_shutdown(context=context)
