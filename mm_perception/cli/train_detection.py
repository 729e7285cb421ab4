"""`mm-perception train detection`: from frames with boxes to a detector's weights with a card."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.training import WORLD, advance, bar, check_apart, check_counts, check_tools, overruled
from mm_perception.core.errors import ConfigError, EngineError
from mm_perception.core.rig import load_rig
from mm_perception.engines.detector_card import DetectorCard, find_detector_card
from mm_perception.engines.load import installed
from mm_perception.replay.held_out_detection import check_world_card

if TYPE_CHECKING:
    from mm_perception.training.detection_loop import StepReport
    from mm_perception.training.detection_publish import DetectorReport
    from mm_perception.training.detection_recipe import DetectorRecipe
    from mm_perception.training.detection_run import FrameSet

CARD = "deepinteraction-tiny-untrained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--card", default=CARD, help=f"what to train: a detector's card (default: {CARD})")
    parser.add_argument(
        "--data",
        type=Path,
        default=WORLD,
        help="a bag with true boxes, or a folder of frames (.npz); world (the default): simulated scenes",
    )
    parser.add_argument(
        "--val", type=Path, help="the same: frames that choose the best weights (default: the last tenth of --data)"
    )
    parser.add_argument("--rig", default="sim", help="sensors of a bag: a name in config/rigs or a path")
    parser.add_argument("--frames", type=numbers.count_or_none, default=2800, help="world: frames to train on")
    parser.add_argument("--val-frames", type=numbers.count_or_none, default=140, help="world: frames to validate with")
    parser.add_argument("--world-cache", type=Path, default=Path("out/world"), help="world: where frames are kept")
    parser.add_argument(
        "--from-scratch", action="store_true", help="take a trained card's sizes, and random weights of --seed"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/train/CARD)")
    parser.add_argument("--name", default="", help="of the new card (default: the base card's, without -untrained)")
    parser.add_argument("--recipe", help="settings: a name in config/recipes or a path; the options below go before it")
    parser.add_argument("--lidar-steps", type=numbers.count_or_none, help="steps of the LiDAR's stream by itself")
    parser.add_argument("--fusion-steps", type=numbers.count_or_none, help="steps of what fuses")
    parser.add_argument("--batch", type=numbers.count_or_none, help="frames per step")
    parser.add_argument("--seed", type=numbers.seed)
    parser.add_argument("--threads", type=numbers.whole(1, numbers.MAX_THREADS), help="CPU threads")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out was interrupted")


def run(args: argparse.Namespace) -> int:
    """Trains, publishes and prints what came out.

    Raises:
        MmPerceptionError: options, card, frames or checkpoint cannot be used; see
            `training.detection_run.train_detector`.
    """
    check_tools()
    if not installed("scipy"):
        raise EngineError("training a detector needs scipy: pip install scipy")
    from mm_perception.training.detection_publish import publish_detector
    from mm_perception.training.detection_run import check_card, train_detector
    from mm_perception.training.loop import check_folder, choose_device
    from mm_perception.training.publish import check_published, published_name

    console = make_console()
    recipe, card = read_recipe(args), find_detector_card(args.card)
    if args.from_scratch:
        card = replace(
            card, weights=f"random:{recipe.seed}", weights_sha256=None, trained=False, measured=None,
            position_deviation_m=None, yaw_deviation_rad=None,
        )  # fmt: skip
    check_card(card)
    replace(card, name=published_name(card.name, args.name))  # an impossible name is told before the training
    out, device = args.out or Path("out/train") / card.name, str(choose_device(args.device))
    check_folder(out, args.resume, be_empty=True)  # before frames are made for an hour
    check_published(out, published_name(card.name, args.name), card, args.card)
    train, val = _world(args, card, console) if args.data == WORLD else _frames(args, card, console)
    console.print(
        f"{card.name}: {len(train)} frames, {len(val)} that choose the best weights, on {device}; {out}",
        highlight=False,
    )
    steps = recipe.lidar_steps + recipe.fusion_steps
    with bar(console) as progress:
        task = progress.add_task("training", total=max(steps, 1))

        def show(now: StepReport) -> None:
            done = now.step + (recipe.lidar_steps if now.stage == "fusion" else 0)
            progress.update(task, completed=done, description=_line(now))

        network, scores = train_detector(
            card, recipe, train, val, out, resume=args.resume, device=device, threads=args.threads, tell=show
        )
    console.print(f"trained: mAP {scores.mean_ap:.4f}  NDS {scores.nds:.4f} of the best weights", highlight=False)
    report = publish_detector(
        network, card, str(train), str(val), val.files, recipe, out, name=args.name, device=device
    )
    _print_result(console, report, len(val))
    console.print(f"weights {report.weights_path}, {_agreement(report)}", highlight=False)
    console.print(f"card    {report.card_path}\ncurve   {out / 'curve.csv'}, {out / 'curve.png'}")
    console.print(f"judge it: mm-perception evaluate detection --model {report.card_path}", highlight=False)
    return 0


def read_recipe(args: argparse.Namespace) -> DetectorRecipe:
    """The recipe of `--recipe`, with the options in its place where they are given.

    Raises:
        ConfigError: a value is impossible.
    """
    from mm_perception.training.detection_recipe import DetectorRecipe

    options = {
        "lidar_steps": args.lidar_steps,
        "fusion_steps": args.fusion_steps,
        "batch_size": args.batch,
        "seed": args.seed,
    }
    return overruled(DetectorRecipe, args.recipe, options)


def _world(args: argparse.Namespace, card: DetectorCard, console: Console) -> tuple[FrameSet, FrameSet]:
    """Frames of simulated scenes, made on first use."""
    from mm_perception.training.detection_run import world_frames

    check_counts(args)
    if args.val is not None:
        raise ConfigError("--val: belongs to --data; frames of the world are validated with others of it")
    check_world_card(card)
    sets = []
    for name, count in (("train", args.frames), ("val", args.val_frames)):
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"making frames to {name} with in {args.world_cache} (once)", total=count)
            sets.append(world_frames(args.world_cache, name, count, partial(advance, progress, task)))
    return sets[0], sets[1]


def _frames(args: argparse.Namespace, card: DetectorCard, console: Console) -> tuple[FrameSet, FrameSet]:
    """Frames of bags or folders; all are read once, so that a damaged one does not end a long training."""
    from mm_perception.training.detection_bags import bag_frames
    from mm_perception.training.detection_run import BAG_SUFFIXES, FrameSet, frames_at, without_last

    check_apart(args)
    sets = []
    for path in (args.data, args.val):
        if path is not None:
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task(f"reading {path}", total=None)
                show = partial(advance, progress, task)
                if path.suffix in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
                    files, unused = bag_frames(path, load_rig(args.rig), card, args.world_cache, show)
                    sets.append(FrameSet(tuple(files), path.name))
                    for why, count in unused.most_common(10):
                        console.print(f"{path}: {count} left out: {why}", style="yellow", highlight=False)
                else:
                    sets.append(frames_at(path, show))
    return (sets[0], sets[1]) if len(sets) == 2 else without_last(sets[0])


def _line(now: StepReport) -> str:
    return f"{now.stage} step {now.step} of {now.steps}  loss {now.loss:.4f}  {now.seconds:.2f} s"


def _agreement(report: DetectorReport) -> str:
    same = report.agreement
    return f"{same.same} of {same.boxes} boxes and heatmaps within {same.heatmap:.2g} as in float32"


def _print_result(console: Console, report: DetectorReport, frames: int) -> None:
    figures = report.figures
    table = Table("frames", "mAP", "NDS", title=f"the published weights on the {frames} frames that chose them")
    for name, value in figures.items():
        if name.startswith("mAP"):
            suffix = name.removeprefix("mAP")
            table.add_row(suffix.removeprefix(".") or "all", f"{value:.4f}", f"{figures['NDS' + suffix]:.4f}")
    console.print(table)
    position, yaw = report.card.position_deviation_m or {}, report.card.yaw_deviation_rad or {}
    classes = Table("class", "AP", "deviation of position [m]", "of heading [rad]")
    for name, value in figures.items():
        if name.startswith("AP."):
            label = name.removeprefix("AP.")
            found = (f"{d[label]:.3f}" if label in d else "-" for d in (position, yaw))
            classes.add_row(label, f"{value:.4f}", *found)
    console.print(classes)
