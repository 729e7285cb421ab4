"""`mm-perception soak`: a live node, a simulated vehicle and random faults: are they named, and is it well again?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.demo import DEMO_RATE_HZ
from mm_perception.cli.driving import add_drive_options, prepare_drive
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_json
from mm_perception.core.rig import RigConfig
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.pipeline.detection import detector_taps
from mm_perception.sim.drive_loop import DriveLoop
from mm_perception.sim.faults import KINDS, Fault, draw_faults

if TYPE_CHECKING:
    from mm_perception.ros.soak import SessionReport
    from mm_perception.ros.soak_judge import Verdict

CLOCK_S, CLOCK_SHARE = 60.0, 0.25
"""A second node that lives by /clock gets this long, at most this share of the time."""
CLOCK_KIND = "clock_dies"
FIRST_S = 6.0
"""Before the first fault, to know what is usual."""
DEADLINE_MS = 3000.0
"""The soak asks what is named and what recovers, not how fast the machine is."""
WARM_UP_S, WARM_UP_SHARE = 60.0, 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--minutes", type=numbers.real(0.1, numbers.MAX_MINUTES), default=30.0, help="how long the vehicle drives"
    )
    parser.add_argument("--seed", type=numbers.seed, default=1, help="of the faults")
    parser.add_argument("--faults", default="all", help=f"all, none, or some of: {', '.join(KINDS)}")
    add_drive_options(parser, rate_hz=1.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report")
    parser.add_argument("--log", type=Path, default=Path("out/soak"), help="folder for the nodes' logs")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Drives, prints and writes; 0 if everything held that is promised, else 1."""
    console = make_console()
    check_files(args, {"json": "json"})
    kinds = _kinds(args.faults)
    drive = prepare_drive(args, console)
    rig, loop, detector = drive.rig, drive.loop, drive.detector
    parameters = drive.parameters | {"deadline_ms": str(DEADLINE_MS)}
    if detector:
        parameters["output_frame"] = "base_link"
    lidar = detector_taps(find_detector_card(detector), rig).lidar if detector else ""
    rng = np.random.default_rng(args.seed)
    seconds = args.minutes * 60
    clock_s = min(CLOCK_S, CLOCK_SHARE * seconds) if CLOCK_KIND in kinds else 0.0
    others = [kind for kind in kinds if kind != CLOCK_KIND]
    plans = [("main", seconds - clock_s, draw_faults(rig, others, (FIRST_S, seconds - clock_s), rng), False)]
    if clock_s:
        plans.append(("clock", clock_s, draw_faults(rig, [CLOCK_KIND], (FIRST_S, clock_s), rng), True))
    reports: dict[str, SessionReport] = {}
    for name, span_s, faults, with_clock in plans:
        console.print(
            f"session {name}: {span_s:.0f} s, {len(faults)} faults, rig {rig.name} at {args.rate:g} sets per second, "
            f"domain {os.environ['ROS_DOMAIN_ID']}",
            highlight=False,
        )
        log = args.log / f"{name}.log"
        reports[name] = _live(
            console, rig, parameters, loop, log, span_s, faults, with_clock, lidar=lidar, period_s=1 / DEMO_RATE_HZ
        )
    facts = _facts(args, reports, {name: span_s for name, span_s, *_ in plans})
    _print(console, facts)
    if args.json is not None:
        write_json(args.json, facts, args.overwrite)
        console.print(f"report: {args.json}")
    return 0 if all(one["holds"] for one in facts["promises"].values()) else 1


def _kinds(text: str) -> list[str]:
    if text == "all":
        return list(KINDS)
    kinds = [] if text == "none" else [one.strip() for one in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--faults: unknown fault {kind!r} (known: all, none, {', '.join(KINDS)})")
    return kinds


def _live(
    console: Console,
    rig: RigConfig,
    parameters: dict[str, str],
    loop: DriveLoop,
    log: Path,
    seconds: float,
    faults: Sequence[Fault],
    with_clock: bool,
    *,
    lidar: str,
    period_s: float,
) -> SessionReport:
    from mm_perception.ros.soak import SoakSession, blinding_spans

    def show(verdict: Verdict) -> None:
        fault = verdict.fault
        what = Text(f"{fault.start_s:7.1f} s  ")
        what.append(f"{fault.kind} of {fault.target}", "green" if verdict.is_good else "red")
        named = verdict.named_by or "nothing"
        after = "" if verdict.named_after_s is None else f" after {verdict.named_after_s:.1f} s"
        well = (
            "not well again" if verdict.recovered_after_s is None else f"well {verdict.recovered_after_s:.1f} s later"
        )
        console.print(what.append(f": {_short(named)}{after}; {well}"))

    with SoakSession(rig, parameters, loop, log, with_clock) as session:
        session.settle(lambda line: console.print(line, style="dim", highlight=False))
        session.run(seconds, faults, show, blinding_spans(faults, lidar, period_s))
    return session.report


def _facts(args: argparse.Namespace, reports: dict[str, SessionReport], seconds: dict[str, float]) -> dict[str, Any]:
    from mm_perception.ros.soak_judge import HARMLESS

    verdicts = [one for report in reports.values() for one in report.verdicts]
    faults = [one for one in verdicts if one.fault.kind != HARMLESS]
    named = sum(one.is_good for one in faults)
    facts: dict[str, Any] = {
        "minutes": args.minutes,
        "seed": args.seed,
        "rig": args.rig,
        "rate_hz": args.rate,
        "faults": [_row(one) for one in verdicts],
        "named": named,
        "named_share": named / len(faults) if faults else 1.0,
        "kinds": sorted({one.fault.kind for one in verdicts}),
        "sessions": {name: _session(report, seconds[name]) for name, report in reports.items()},
    }
    facts["promises"] = _promises(facts, reports, verdicts)
    return facts


def _row(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict.fault) | {
        "named": bool(verdict.named_by),
        "good": verdict.is_good,
        "named_by": verdict.named_by,
        "named_after_s": _rounded(verdict.named_after_s),
        "recovered_after_s": _rounded(verdict.recovered_after_s),
        "still": verdict.still,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _session(report: SessionReport, seconds: float) -> dict[str, Any]:
    from mm_perception.ros.process_watch import Usage
    from mm_perception.ros.soak_judge import slope_per_min

    warm = [one for one in report.usage if one.at_s >= max(WARM_UP_S, WARM_UP_SHARE * seconds)] or report.usage
    times = [one.at_s for one in warm]
    usage = {}
    for name in Usage.names():
        values = [float(getattr(one, name)) for one in warm]
        usage[name] = {
            "first": round(values[0], 2) if values else None,
            "last": round(values[-1], 2) if values else None,
            "per_min": round(slope_per_min(times, values), 3),
        }
    return {
        "seconds": seconds,
        "settled_s": round(report.settled_s, 1),
        "usage": usage,
        "usage_over_s": round(times[-1] - times[0], 1) if times else 0.0,
        "results": report.results,
        "alarms_without_fault": [{"at_s": round(t, 1), "what": text} for t, text in report.alarms],
        "blind_violations": report.violations,
        "internal_errors": report.internal_errors,
        "crashed": report.crashed,
        "exit_code": report.exit_code,
    }


def _promises(
    facts: dict[str, Any], reports: dict[str, SessionReport], verdicts: Sequence[Verdict]
) -> dict[str, dict[str, Any]]:
    """By name: whether it holds, and the figure; what was too short to judge holds, and says so."""
    from mm_perception.ros.soak_judge import HARMLESS, NAMED_SHARE, RECOVERED_WITHIN_S, RSS_MB_PER_MIN, SLOPE_AFTER_S

    main = facts["sessions"]["main"]
    bad_ends = [n for n, one in facts["sessions"].items() if one["crashed"] or one["exit_code"] != 0]
    errors = sum(len(one.internal_errors) for one in reports.values())
    violations = sum(one.violations for one in reports.values())
    slope, over_s = main["usage"]["rss_mb"]["per_min"], main["usage_over_s"]
    is_long = over_s >= SLOPE_AFTER_S
    last = [report.verdicts[-1].recovered_after_s for report in reports.values() if report.verdicts]
    late = [one for one in last if one is None or one > RECOVERED_WITHIN_S]
    worst = "-" if not last else "never" if None in last else f"{max(filter(None, [*last, 1e-3])):.1f} s"
    harmed = [one for one in verdicts if one.fault.kind == HARMLESS and not one.is_good]
    promises: dict[str, tuple[bool, str]] = {
        "no crash, exit code 0": (not bad_ends, ", ".join(bad_ends) or "0 crashes"),
        "no internal error": (errors == 0, str(errors)),
        f"RSS grows by less than {RSS_MB_PER_MIN:g} MB/min": (
            not is_long or slope < RSS_MB_PER_MIN,
            f"{slope:.2f} over {over_s:.0f} s" + ("" if is_long else ": too short to judge"),
        ),
        f"{NAMED_SHARE:.0%} of faults named": (
            facts["named_share"] >= NAMED_SHARE,
            f"{facts['named']} of {sum(one.fault.kind != HARMLESS for one in verdicts)}",
        ),
        f"all OK within {RECOVERED_WITHIN_S:g} s after the last fault": (not late, worst),
        "subscribers that come and go do no harm": (not harmed, str(len(harmed))),
        "no empty boxes of a blind detector": (violations == 0, str(violations)),
    }
    if not verdicts:
        alarms = sum(len(one.alarms) for one in reports.values())
        promises["no alarm without a fault"] = (alarms == 0, str(alarms))
    return {name: {"holds": holds, "figure": figure} for name, (holds, figure) in promises.items()}


def _print(console: Console, facts: dict[str, Any]) -> None:
    faults = Table("fault", "of", "named by", "after [s]", "well after [s]", title="faults")
    for one in facts["faults"]:
        cells = [one["kind"], one["target"], _short(one["named_by"] or "nothing")]
        cells += ["-" if one[key] is None else f"{one[key]:.1f}" for key in ("named_after_s", "recovered_after_s")]
        faults.add_row(*cells, style=None if one["good"] else "red")
    console.print(faults)
    usage = Table("session", "of the node", "first", "last", "per minute", title="usage after warm-up")
    for name, session in facts["sessions"].items():
        for what, values in session["usage"].items():
            usage.add_row(name, what, *(f"{values[key]}" for key in ("first", "last", "per_min")))
    console.print(usage)
    for name, session in facts["sessions"].items():
        results = ", ".join(f"{n} {what}" for what, n in sorted(session["results"].items()))
        console.print(f"{name}: {results}; settled after {session['settled_s']} s", highlight=False)
        for alarm in session["alarms_without_fault"][:5]:
            console.print(f"  {alarm['at_s']} s, without a fault: {_short(alarm['what'], 160)}", highlight=False)
    promises = Table("promise", "holds", "figure", title="verdict")
    for name, one in facts["promises"].items():
        promises.add_row(name, "yes" if one["holds"] else "NO", one["figure"], style=None if one["holds"] else "red")
    console.print(promises)


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
