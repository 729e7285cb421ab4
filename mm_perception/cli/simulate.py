"""`mm-perception simulate`: a bag of a drive through the simulated world, with the truth."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.progress import Progress

from mm_perception.bags.writer import check_new_bag
from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import check_outputs, write_new_file
from mm_perception.core.rig import load_rig
from mm_perception.replay.report import encode_image_file
from mm_perception.sim.scenario import load_scenario
from mm_perception.sim.sheet import draw_sheet
from mm_perception.sim.simulate import simulate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--scenario", default="city-day", help="a name in config/scenarios or a path")
    parser.add_argument("--seconds", type=numbers.real(1e-3, 86_400.0), default=10.0, help="length of the drive")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="bag to write: .mcap, or a rosbag2 folder")
    target.add_argument(
        "--sheet", type=Path, metavar="PICTURE", help="instead of a bag, one picture: all modalities in all conditions"
    )
    parser.add_argument("--rig", default="sim", help="sensors: a name in config/rigs or a path")
    parser.add_argument("--rate", type=numbers.real(0.1, 1000.0), default=10.0, help="bundles per second")
    parser.add_argument("--seed", type=numbers.seed, help="replaces the scenario's seed")
    parser.add_argument("--workers", type=numbers.threads, default=0, help="rendering processes; 0: one per core")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Simulates and says how fast, or draws the sheet; 0 when bag or picture is whole."""
    console = make_console()
    if args.workers < 0 or (args.seed is not None and not 0 <= args.seed < 2**31):
        raise ConfigError(
            f"expected --workers of at least 0 and --seed in 0..2147483647, got {args.workers} and {args.seed}"
        )
    if args.sheet is not None:
        if args.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ConfigError(f"--sheet: expected a .png or .jpg file, got {args.sheet}")
        check_files(args, {"sheet": "image"})
        sheet = encode_image_file(args.sheet, draw_sheet(seed=args.seed or 0))
        write_new_file(args.sheet, sheet, args.overwrite, "image")
        console.print(f"sheet: {args.sheet}")
        return 0
    scenario, rig = load_scenario(args.scenario, args.seed), load_rig(args.rig)
    check_new_bag(args.out, args.overwrite)
    check_outputs({"--out": args.out}, (args.scenario, args.rig))
    begin, first, frames = time.monotonic(), 0.0, 0
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{scenario.name} ({scenario.condition}, seed {scenario.seed})", total=None)

        def show(done: int, total: int) -> None:
            nonlocal first, frames
            first, frames = first or time.monotonic(), total
            progress.update(task, completed=done, total=total)

        simulate(
            scenario, rig, args.seconds, args.out, rate_hz=args.rate, workers=args.workers or None,
            overwrite=args.overwrite, on_progress=show,
        )  # fmt: skip
    end = time.monotonic()
    size = sum(f.stat().st_size for f in args.out.rglob("*")) if args.out.is_dir() else args.out.stat().st_size
    steady = f", {(frames - 1) / (end - first):.2f} bundles/s after the first" if frames > 1 else ""
    console.print(f"{args.out}: {frames} bundles, {size / 1e6:.1f} MB, {end - begin:.1f} s{steady}")
    console.print(f"see it: mm-perception replay {args.out} --rig {args.rig} --out out/replay")
    return 0
