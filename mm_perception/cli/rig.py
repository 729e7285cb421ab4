"""`mm-perception rig init BAG... [--out rig.yaml]`: a commented rig from a recording or a running vehicle."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_new_file
from mm_perception.survey.facts import SurveyFacts
from mm_perception.survey.propose import propose
from mm_perception.survey.recording import Recording, survey_recording
from mm_perception.survey.write import write_rig

LIVE_SECONDS = numbers.real(1.0, 600.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    text = "write a commented rig from a bag or from the topics that are there"
    init = tasks.add_parser("init", help=text, description=text)
    init.add_argument("bag", nargs="*", type=Path, help="an .mcap or .db3 file, or a rosbag2 folder; several are one")
    init.add_argument("--live", type=LIVE_SECONDS, metavar="SECONDS", help="listen to the running topics instead")
    init.add_argument("--out", type=Path, metavar="RIG.yaml", help="the file to write (default: standard output)")
    init.add_argument("--name", default="", help="how reports call the rig (default: as the bag)")
    init.add_argument(
        "--seconds", type=numbers.real(0.1, 1e6), default=120.0, help="how much of the bag is looked at (default 120)"
    )
    add_overwrite(init)


def run(args: argparse.Namespace) -> int:
    """Looks, and writes.

    Raises:
        MmPerceptionError: neither a bag nor --live, both, a bag that cannot be read, or nothing to make a rig of.
    """
    check_source(args.bag, args.live)
    check_files(args, {"out": "text"}, args.bag)
    facts = _live(args.live) if args.live else _recorded(args.bag, args.seconds)
    name = args.name or (args.bag[0].stem if args.bag else "vehicle")
    proposal = propose(facts)
    text = write_rig(proposal, facts, re.sub(r"[^A-Za-z0-9_.-]+", "_", name) or "rig")
    if args.out is None:
        print(text, end="")
        return 0
    write_new_file(args.out, text, args.overwrite, "text")
    for one in proposal.sensors:
        print(f"{one.name}: {one.kind} on {one.facts.topic}")
    print(f"{args.out}: {len(proposal.sensors)} sensor(s), reference {proposal.reference}; look over its guesses, then")
    print(f"mm-perception check {args.out} {' '.join(str(bag) for bag in args.bag) or '--live 10'}")
    return 0


def check_source(bags: list[Path], live: float | None) -> None:
    """Raises ConfigError unless there are either bags or a time to listen."""
    if bool(bags) == (live is not None):
        raise ConfigError("expected one or more bags, or --live SECONDS" + (", not both" if bags else ""))


def _recorded(paths: list[Path], seconds: float) -> SurveyFacts:
    with Recording(paths) as recording:
        return survey_recording(recording, seconds)


def _live(seconds: float) -> SurveyFacts:
    try:
        from mm_perception.ros.live_survey import survey_live
    except ImportError as error:
        raise ConfigError(f"--live needs ROS 2 (rclpy): source its setup.bash first ({error})") from error
    print(f"listening for {seconds:g} s", file=sys.stderr)
    return survey_live(seconds)
