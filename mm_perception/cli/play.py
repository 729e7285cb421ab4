"""`mm-perception play BAG...`: publishes what bags hold over ROS, without rosbag2."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from mm_perception.bags.reader import BagReader
from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.dds import use_shipped_dds_profile
from mm_perception.core.errors import ConfigError

if TYPE_CHECKING:
    from mm_perception.ros.playing import PlayReport

DEFAULT_CLOCK_HZ = 40.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("bag", nargs="+", type=Path, help="bags of any kind; several: one timeline")
    parser.add_argument("--rate", type=numbers.real(0.001, 1000.0), default=1.0, help="speed of playing")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument(
        "--start-offset", type=numbers.real(0.0, 1e9), default=0.0, metavar="S", help="leave out the first seconds"
    )
    parser.add_argument(
        "--clock", type=numbers.real(0.0, 10_000.0), nargs="?", const=DEFAULT_CLOCK_HZ, default=0.0, metavar="HZ",
        help=f"send the bag's time on /clock, this often ({DEFAULT_CLOCK_HZ:g}); 0: do not",
    )  # fmt: skip
    parser.add_argument("--topics", nargs="+", default=[], help="play only these")
    parser.add_argument("--remap", nargs="+", default=[], metavar="OLD:=NEW", help="publish topics under other names")
    parser.add_argument(
        "--wait-for", nargs="+", default=[], metavar="NAME",
        help="begin when these are there: topics with a subscriber; nodes, if they have a lifecycle active ones",
    )  # fmt: skip
    parser.add_argument(
        "--wait-timeout", type=numbers.real(0.0, 1e6), default=600.0, metavar="S", help="give up waiting after that"
    )
    parser.add_argument("--report", default="", metavar="NODE", help="say at the end what a fusion node made of it")


def run(args: argparse.Namespace) -> int:
    """Plays; 0 also when it was interrupted.

    Raises:
        MmPerceptionError: a bag, an option or ROS is not what is needed, or nobody came who was waited for.
    """
    use_shipped_dds_profile()
    try:
        from mm_perception.ros.playing import BagPlayer, PlayOptions
    except ImportError as error:
        raise ConfigError(f"ROS 2 is not there ({error}): source an installation or run make setup") from error
    console = make_console()
    options = PlayOptions(
        args.rate, args.loop, args.start_offset, args.clock, tuple(args.topics), _renamed(args.remap),
        tuple(args.wait_for), args.wait_timeout, args.report,
    )  # fmt: skip

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    with BagReader(args.bag) as bag, Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("messages", total=None)
        player = BagPlayer(bag, options, lambda done, at_s: bar.update(task, completed=done))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: player.stop())
        try:
            for line in (*bag.notes, *(f"not played: {topic}: {why}" for topic, why in player.report.skipped.items())):
                say(line)
            player.wait(say)
            bar.update(task, total=player.total)
            if not player.stopped:
                say(f"playing {bag.name}: {player.total} messages in {bag.duration_s:.3f} s, rate {args.rate:g}")
            start_s = time.monotonic()
            report = player.play()
        finally:
            player.close()
        say(_summary(report, time.monotonic() - start_s))
        for name, values in sorted(report.status.items()):
            counts = [f"{key} {value}" for key, value in values.items() if value.isdigit() and value != "0"]
            say(f"{name}: {', '.join(counts) or 'nothing'}")
        for reason, count in sorted(bag.dropped.items()):
            say(f"dropped {count:6d}  {reason}")
    return 0


def _summary(report: PlayReport, took_s: float) -> str:
    rounds = f", {report.rounds} rounds" if report.rounds > 1 else ""
    late = f", at most {report.late_s:.3f} s late" if report.late_s > 0.1 else ""
    how = "played" if report.whole else "stopped after"
    return f"{how} {sum(report.sent.values())} messages of {len(report.sent)} topics in {took_s:.1f} s{rounds}{late}"


def _renamed(rules: list[str]) -> dict[str, str]:
    """Raises ConfigError for what is no OLD:=NEW."""
    pairs = [rule.partition(":=") for rule in rules]
    for rule, (old, _, new) in zip(rules, pairs, strict=True):
        if not old.startswith("/") or not new.startswith("/"):
            raise ConfigError(f"--remap {rule!r}: expected OLD:=NEW, both with a slash in front")
    return {old: new for old, _, new in pairs}
