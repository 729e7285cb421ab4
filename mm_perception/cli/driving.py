"""What the commands that let a simulated vehicle drive before a live node have in common."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console

from mm_perception.cli import numbers
from mm_perception.cli.dds import use_shipped_dds_profile
from mm_perception.cli.demo import DEMO_RATE_HZ, choose_detector, choose_own_domain, demo_bag
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import FusionSettings
from mm_perception.pipeline.intake import Intake
from mm_perception.sim.drive_loop import DriveLoop


@dataclass(frozen=True, slots=True, eq=False)
class Drive:
    """A vehicle that can drive, and the node that shall see it.

    Attributes:
        detector: empty for none.
        parameters: of the node.
    """

    rig: RigConfig
    detector: str
    parameters: dict[str, str]
    loop: DriveLoop


def add_drive_options(parser: argparse.ArgumentParser, rate_hz: float) -> None:
    """Declares the options. Args: rate_hz: the default."""
    parser.add_argument("--rig", default="sim", help="a shipped simulated vehicle: sim or demo (no six cameras)")
    parser.add_argument(
        "--rate", type=numbers.real(0.01, 1000.0), default=rate_hz, help=f"sets per second: 4 / n ({rate_hz:g})"
    )
    parser.add_argument("--model", default=FusionSettings().model, help="segmentation card, or none")
    parser.add_argument("--detector", help="3D detection card, or none (default: the shipped one, if it fits)")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")


def prepare_drive(args: argparse.Namespace, console: Console) -> Drive:
    """Makes the recording if it is not there, and chooses a ROS domain and a DDS profile for this process.

    Raises:
        ConfigError: the options do not fit, or ROS is not there.
    """
    rig = load_rig(args.rig)
    detector = choose_detector(rig, args.detector)
    parameters = {
        "rig": args.rig,
        "model": args.model,
        "engine": args.engine,
        "detector": detector or "none",
        "diagnostics_period_s": "0.5",
    }
    loop = endless_drive(args.rig, rig, args.rate, console)
    choose_own_domain()
    use_shipped_dds_profile()
    try:
        import mm_perception.ros.listener  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ROS 2 is not there ({error}): source an installation or run make setup") from error
    return Drive(rig, detector, parameters, loop)


def endless_drive(name: str, rig: RigConfig, rate_hz: float, console: Console) -> DriveLoop:
    """The demo's drive without end, with fewer images of the reference, by which sets come.

    Raises:
        ConfigError: there is no recording of the rig, or it does not hold that rate.
    """
    every = round(DEMO_RATE_HZ / rate_hz) if rate_hz > 0 else 0
    if every < 1 or abs(DEMO_RATE_HZ / every - rate_hz) > 0.01:
        raise ConfigError(f"--rate: expected {DEMO_RATE_HZ:g} / n such as 4, 2, 1.33 or 1, got {rate_hz:g}")
    sensor = rig.sensor(rig.reference)
    topics = {one.topic for one in Intake(rig).inputs}
    thinned = dict.fromkeys(filter(None, (sensor.input_topic, sensor.camera_info)), every)
    return DriveLoop(
        demo_bag(name, console), topics, sensor.input_topic, rig.fixed_frame, thinned, rig.tf, rig.tf_static
    )
