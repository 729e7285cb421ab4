"""`mm-perception fuzz`: seeded mutations of valid inputs against everything that reads what somebody else wrote."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.core.errors import ConfigError
from mm_perception.fuzz.harness import TargetReport, check_input, fuzz, save_findings
from mm_perception.fuzz.targets import Target, find_targets, input_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--target", nargs="+", default=[], metavar="T", help="what is fuzzed (default: everything)")
    parser.add_argument("--inputs", type=numbers.whole(1, 10**9), default=10_000, help="in all (10000)")
    parser.add_argument("--seed", type=numbers.seed, default=0, help="of the mutations (0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write counts and findings")
    parser.add_argument(
        "--findings", type=Path, default=Path("out/fuzz"), metavar="DIR", help="folder for inputs that broke something"
    )
    parser.add_argument("--at", type=numbers.whole(0, 10**9), metavar="N", help="only input N of the one --target")
    parser.add_argument("--file", type=Path, metavar="F", help="only the input in this file, for the one --target")
    parser.add_argument("--list", action="store_true", help="name the targets, and end")


def run(args: argparse.Namespace) -> int:
    """Fuzzes and prints a table.

    Returns:
        0 without findings, 1 with some.

    Raises:
        ConfigError: an unknown target, or not one where one is needed.
    """
    targets, console = find_targets(args.target), make_console(highlight=False)
    if args.list:
        console.print("\n".join(target.name for target in targets))
        return 0
    if args.at is not None or args.file is not None:
        if len(args.target) != 1:
            raise ConfigError("--at and --file need one --target")
        return _run_one(console, targets[0], args)

    def show(name: str, done: int, wanted: int) -> None:
        console.print(f"{name}: {done} of {wanted}")

    reports = fuzz(targets, args.inputs, args.seed, show)
    paths = save_findings(reports, targets, args.findings)
    if args.json:
        facts = {"seed": args.seed, "inputs": sum(r.inputs for r in reports), "targets": [asdict(r) for r in reports]}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _print(console, reports)
    for path in paths:
        console.print(
            f"{path}: mm-perception fuzz --target {path.name.partition('-')[0]} --file {path}", soft_wrap=True
        )
    return 1 if paths else 0


def _run_one(console: Console, target: Target, args: argparse.Namespace) -> int:
    data = args.file.read_bytes() if args.file is not None else input_of(target, args.seed, args.at)
    finding = check_input(target, data)
    if finding is None:
        console.print(f"{target.name}: {len(data)} bytes: nothing found")
        return 0
    console.print(
        f"{target.name}: {len(data)} bytes: {finding.kind} {finding.text} "
        f"({finding.seconds:.2f} s, {finding.bytes / 1e6:.0f} MB)",
    )
    return 1


def _print(console: Console, reports: list[TargetReport]) -> None:
    table = Table("target", "inputs", "refused", "us/input", "slowest [ms]", "findings", title="fuzzing")
    for r in reports:
        table.add_row(
            r.target, str(r.inputs), str(r.refused), f"{r.seconds / max(1, r.inputs) * 1e6:.0f}",
            f"{r.slowest_s * 1e3:.1f}", str(len(r.findings)),
        )  # fmt: skip
    total = sum(r.inputs for r in reports)
    table.add_row("all", str(total), "", "", "", str(sum(len(r.findings) for r in reports)))
    console.print(table)
    for finding in (one for r in reports for one in r.findings):
        console.print(f"{finding.target} {finding.index}: {finding.kind}: {finding.text[:200]}")
