"""`mm-perception bench sync`: matched sets, worst delay and CPU per message, beside message_filters if it is there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.files import write_json
from mm_perception.sync.synchronizer import Stream, Synchronizer

RATES_HZ = {"rgb": 30.0, "depth": 30.0, "thermal": 25.0, "lidar": 10.0, "radar": 20.0}
OFFSETS_MS = {"rgb": 0.0, "depth": 2.0, "thermal": 9.0, "lidar": -20.0, "radar": 5.0}
TOLERANCE_NS = 50_000_000
MAX_WAIT_NS = 150_000_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that arrives at `now_ns`; both times in ns."""

    name: str
    stamp_ns: int
    now_ns: int


@dataclass(slots=True)
class Figures:
    """What a policy made of a stream.

    Attributes:
        complete_sets: those with all five sensors (message_filters gives no others).
        worst_delay_ms: from the arrival of a set's reference to the set, the largest.
    """

    policy: str
    scenario: str
    references: int
    sets: int
    complete_sets: int
    mean_skew_ms: float
    worst_delay_ms: float
    us_per_message: float
    held_at_the_end: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--seconds", type=numbers.real(0.1, 86_400.0), default=60.0, help="length of the streams")
    parser.add_argument("--seed", type=numbers.seed, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measures and prints a table."""
    check_files(args, {"json": "json"})
    console = make_console()
    figures = []
    for scenario, options in (
        ("all sensors", {}),
        ("5 % lost", {"loss": 0.05}),
        ("lidar stops half way", {"stop": "lidar"}),
    ):
        arrivals = make_arrivals(args.seconds, np.random.default_rng(args.seed), **options)
        figures.append(_measure_ours(scenario, arrivals))
        try:
            figures.append(_measure_message_filters(scenario, arrivals))
        except ImportError as error:
            console.print(f"message_filters left out: {error}")
    columns = (
        "policy",
        "scenario",
        "references",
        "sets",
        "complete",
        "mean skew [ms]",
        "worst delay [ms]",
        "us/message",
        "held",
    )
    table = Table(*columns, title="synchronizers on the same streams")
    for f in figures:
        table.add_row(
            f.policy, f.scenario, str(f.references), str(f.sets), str(f.complete_sets), f"{f.mean_skew_ms:.2f}",
            f"{f.worst_delay_ms:.1f}", f"{f.us_per_message:.1f}", str(f.held_at_the_end),
        )  # fmt: skip
    console.print(table)
    if args.json:
        write_json(args.json, [asdict(f) for f in figures], args.overwrite)
    return 0


def make_arrivals(seconds: float, generator: np.random.Generator, loss: float = 0.0, stop: str = "") -> list[Arrival]:
    """Five free-running sensors with 1 ms of stamp jitter and 5 to 25 ms of transport delay, in order of arrival."""
    arrivals = []
    for name, rate in RATES_HZ.items():
        count = int(seconds * rate)
        stamps = np.arange(count) / rate + OFFSETS_MS[name] * 1e-3 + 1.0 + generator.normal(0, 1e-3, count)
        kept = generator.random(count) >= loss
        if name == stop:
            kept &= np.arange(count) < count // 2
        latest = 0
        for stamp in np.sort(stamps[kept]):
            latest = max(latest, int((stamp + generator.uniform(0.005, 0.025)) * 1e9))
            arrivals.append(Arrival(name, int(stamp * 1e9), latest))
    return sorted(arrivals, key=lambda a: a.now_ns)


def _measure_ours(scenario: str, arrivals: list[Arrival]) -> Figures:
    streams = [Stream(n, round(OFFSETS_MS[n] * 1e6), TOLERANCE_NS) for n in RATES_HZ if n != "rgb"]
    sync: Synchronizer[Arrival] = Synchronizer("rgb", streams, MAX_WAIT_NS)
    delays: list[int] = []
    skews: list[float] = []
    complete = 0
    start = time.process_time()
    for arrival in arrivals:
        for matched in sync.push(arrival.name, arrival.stamp_ns, arrival, arrival.now_ns):
            delays.append(arrival.now_ns - matched.items["rgb"][0].now_ns)
            complete += not matched.missing
            skews += [abs(skew) for name, skew in matched.skew_ns.items() if name != "rgb"]
    cpu_s = time.process_time() - start
    return _figures("nearest (ours)", scenario, arrivals, delays, complete, skews, cpu_s, len(sync))


def _measure_message_filters(scenario: str, arrivals: list[Arrival]) -> Figures:
    import message_filters
    from rclpy.time import Time

    filters = {name: message_filters.SimpleFilter() for name in RATES_HZ}
    sync = message_filters.ApproximateTimeSynchronizer(list(filters.values()), 30, TOLERANCE_NS * 1e-9)
    found: list[tuple[Any, ...]] = []
    sync.registerCallback(lambda *messages: found.append(messages))
    messages = [
        (a, SimpleNamespace(header=SimpleNamespace(stamp=Time(nanoseconds=a.stamp_ns).to_msg()), arrival=a))
        for a in arrivals
    ]
    delays: list[int] = []
    skews: list[float] = []
    start = time.process_time()
    for arrival, message in messages:
        filters[arrival.name].signalMessage(message)
        for matched in _drain(found):
            reference = matched[0].arrival
            delays.append(arrival.now_ns - reference.now_ns)
            for other in matched[1:]:
                target = reference.stamp_ns + OFFSETS_MS[other.arrival.name] * 1e6
                skews.append(abs(other.arrival.stamp_ns - target))
    cpu_s = time.process_time() - start
    held = sum(len(queue) for queue in sync.queues)
    return _figures("message_filters", scenario, arrivals, delays, len(delays), skews, cpu_s, held)


def _drain(found: list[Any]) -> Iterator[Any]:
    while found:
        yield found.pop(0)


def _figures(
    policy: str,
    scenario: str,
    arrivals: list[Arrival],
    delays: list[int],
    complete: int,
    skews: list[float],
    cpu_s: float,
    held: int,
) -> Figures:
    return Figures(
        policy,
        scenario,
        sum(a.name == "rgb" for a in arrivals),
        len(delays),
        complete,
        float(np.mean(skews)) * 1e-6 if skews else float("nan"),
        max(delays, default=0) * 1e-6,
        cpu_s / len(arrivals) * 1e6,
        held,
    )
