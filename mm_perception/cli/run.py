"""`mm-perception run`: the fusion node, where there is no `ros2 run`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import config_dir
from mm_perception.ros.arguments import check_arguments

OPTIONS = ("rig", "model", "detector", "output_frame", "engine", "precision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--config", type=Path, help="parameter file (default: the shipped config/fusion.yaml)")
    parser.add_argument("--rig", help="sensors: a name in config/rigs or a path")
    parser.add_argument("--model", help="segmentation: a name in config/models, a path, or none")
    parser.add_argument("--detector", help="3D detection: the same")
    parser.add_argument("--output-frame", help="frame of the boxes (default: the LiDAR's)")
    parser.add_argument("--engine", help="auto, tensorrt, torch, onnxruntime or openvino")
    parser.add_argument("--precision", help="of TensorRT engines: auto, fp32, tf32, bf16, fp16, int8 or mixed")
    parser.add_argument("--build-only", action="store_true", help="build the engines that are missing, and end")
    parser.add_argument("--namespace", default="", help="namespace of the node")
    parser.add_argument("--use-sim-time", action="store_true", help="take the time from /clock")
    parser.add_argument("--log-level", default="info", help="debug, info, warn, error or fatal")
    parser.add_argument("ros_args", nargs="*", help="further ROS arguments, after --, e.g. -- -r old:=new")


def node_arguments(args: argparse.Namespace) -> list[str]:
    """The ROS command line of the node.

    Raises:
        ConfigError: the parameter file does not exist, or an argument is one that the node cannot take.
    """
    config = args.config or config_dir() / "fusion.yaml"
    if not config.is_file():
        raise ConfigError(f"{config}: no such parameter file")
    line = ["--ros-args", "--params-file", str(config), "--log-level", args.log_level]
    for name in OPTIONS:
        value = getattr(args, name)
        if value:
            line += ["-p", f"{name}:={value}"]
    if args.build_only:
        line += ["-p", "build_only:=true"]
    if args.use_sim_time:
        line += ["-p", "use_sim_time:=true"]
    if args.namespace:
        line += ["-r", f"__ns:=/{args.namespace.strip('/')}"]
    line += args.ros_args
    check_arguments(line)
    return line


def run(args: argparse.Namespace) -> int:
    """Runs the node until it is told to end."""
    line = node_arguments(args)
    try:
        from mm_perception.ros.fusion_node import main
    except ImportError as error:
        raise ConfigError(f"ROS 2 is not there ({error}): source an installation or run make setup") from error
    return main(line)
