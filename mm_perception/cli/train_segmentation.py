"""`mm-perception train segmentation`: from labelled frames to weights with a card."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.labels import add_label_options, label_options
from mm_perception.cli.training import WORLD, advance, bar, check_apart, check_counts, check_tools, overruled
from mm_perception.core.errors import ConfigError
from mm_perception.core.rig import load_rig
from mm_perception.engines.card import ModelCard, find_card
from mm_perception.training.recipe import Recipe

if TYPE_CHECKING:
    from mm_perception.training.evaluate import Evaluation
    from mm_perception.training.loop import TrainingProgress, TrainingResult
    from mm_perception.training.samples import SampleSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--card", required=True, help="what to train and from which weights: a model card")
    parser.add_argument(
        "--data",
        type=Path,
        default=WORLD,
        help="folder of arrays or images, or a labelled bag; world (the default): scenes of the simulator",
    )
    parser.add_argument("--val", type=Path, help="frames that choose the best weights (default: a share of --data)")
    parser.add_argument("--frames", type=numbers.count_or_none, default=2401, help="world: frames to train on")
    parser.add_argument("--val-frames", type=numbers.count_or_none, default=140, help="world: frames to validate with")
    parser.add_argument("--world-cache", type=Path, default=Path("out/world"), help="world: where frames are kept")
    parser.add_argument(
        "--from-scratch", action="store_true", help="start from random weights of --seed, not from the card's"
    )
    parser.add_argument("--rig", default="demo", help="sensors of a bag: a name in config/rigs or a path")
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/train/CARD)")
    parser.add_argument("--name", default="", help="of the new card (default: the base card's, without -untrained)")
    parser.add_argument("--recipe", help="settings: a name in config/recipes or a path; the options below go before it")
    parser.add_argument("--epochs", type=numbers.count_or_none)
    parser.add_argument("--minutes", type=numbers.minutes, help="a budget of wall time instead of epochs")
    parser.add_argument("--batch", type=numbers.count_or_none, help="frames per step")
    parser.add_argument("--lr", type=numbers.real(0.0, 1.0), help="peak learning rate")
    parser.add_argument("--seed", type=numbers.seed)
    parser.add_argument("--crop", metavar="HxW", help="size of training crops [px]")
    parser.add_argument("--threads", type=numbers.whole(1, numbers.MAX_THREADS), help="CPU threads")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out was interrupted")
    add_label_options(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, publishes and prints what came out.

    Raises:
        MmPerceptionError: options, card, data or checkpoint cannot be used; see `training.loop.train`.
    """
    check_tools()
    from mm_perception.training.loop import check_folder, choose_device, train
    from mm_perception.training.publish import check_published, publish, published_name

    console = make_console()
    card, recipe = find_card(args.card), read_recipe(args)
    if args.from_scratch:
        card = replace(card, weights=f"random:{recipe.seed}", weights_sha256=None, trained=False, measured=None)
    out = args.out or Path("out/train") / card.name
    known = None if args.data == WORLD else _sources(args, card)
    check_folder(out, args.resume, be_empty=True)  # before frames are made for half an hour
    check_published(out, published_name(card.name, args.name), card, args.card)
    source_train, source_val = _world(args, card, console) if known is None else known
    device = choose_device(args.device)
    assumption = getattr(source_train, "assumption", "")
    if assumption:
        console.print(f"assumed: {assumption} (say it with --data-classes or --label-map)", highlight=False)
    console.print(
        f"{card.name}: {len(source_train)} frames, {len(source_val)} that choose the best weights, on {device}; {out}"
    )
    with bar(console) as progress:
        task = progress.add_task("training", total=1.0)
        result = train(
            card,
            source_train,
            source_val,
            recipe,
            out,
            resume=args.resume,
            on_progress=lambda now: progress.update(task, completed=now.share, description=_line(now)),
            device=str(device),
            threads=args.threads,
        )
    report = publish(result.model, card, source_train, source_val, recipe, out, name=args.name, device=device)
    _print_result(console, card, result, report.evaluation)
    console.print(f"weights {report.weights_path}, logits within {report.max_abs_diff:.2g} of float32")
    console.print(f"card    {report.card_path}\ncurve   {out / 'curve.csv'}, {out / 'curve.png'}")
    console.print(f"run it: mm-perception replay BAG --rig {args.rig} --model {report.card_path}", highlight=False)
    return 0


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe of `--recipe`, with the options in its place where they are given.

    Raises:
        ConfigError: a value is impossible.
    """
    options = {
        "epochs": args.epochs,
        "minutes": args.minutes,
        "batch_size": args.batch,
        "learning_rate": args.lr,
        "seed": args.seed,
    }
    if args.crop:
        height, cross, width = args.crop.lower().partition("x")
        if not (cross and height.isdigit() and width.isdigit()):
            raise ConfigError(f"--crop: expected HxW such as 240x320, got {args.crop!r}")
        options |= {"crop_height": int(height), "crop_width": int(width)}
    return overruled(Recipe, args.recipe, options)


def _sources(args: argparse.Namespace, card: ModelCard) -> tuple[SampleSource, SampleSource]:
    from mm_perception.training.sources import open_source, separate_split

    check_apart(args)
    said: dict[str, Any] = {"rig": load_rig(args.rig), "labels": label_options(args), "x_folder": args.x_folder}
    if args.val is not None:
        train = open_source(args.data, card, separate_split(args.data, "train"), **said)
        return train, open_source(args.val, card, separate_split(args.val, "val"), **said)
    return open_source(args.data, card, "train", **said), open_source(args.data, card, "val", **said)


def _world(args: argparse.Namespace, card: ModelCard, console: Console) -> tuple[SampleSource, SampleSource]:
    """Frames of simulated scenes, made on first use."""
    from mm_perception.training.sources import ArraySource
    from mm_perception.training.world_data import SETS, check_card, write_world_data

    check_counts(args)
    check_card(card)
    sources = []
    for name, count in (("train", args.frames), ("val", args.val_frames)):
        folder = args.world_cache / f"{name}-{count}-{card.input_width}x{card.input_height}"
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"making {folder} (once)", total=count)
            write_world_data(
                folder,
                SETS[name],
                count,
                card.input_height,
                card.input_width,
                on_progress=partial(advance, progress, task),
            )
        sources.append(ArraySource(folder, card.modality, "all", encoding=card.encoding))
    return sources[0], sources[1]


def _line(now: TrainingProgress) -> str:
    miou = "" if now.miou is None else f"  mIoU {now.miou:.3f}"
    return f"epoch {now.epoch}  step {now.step}  loss {now.loss:.4f}{miou}"


def _print_result(console: Console, card: ModelCard, result: TrainingResult, evaluation: Evaluation) -> None:
    console.print(
        f"{result.steps} steps, {result.seconds_per_step:.3f} s each, {result.elapsed_s / 60:.1f} min; "
        f"best mIoU {result.best_miou:.4f} after step {result.best_step}",
        highlight=False,
    )
    scores = {"all": evaluation.overall, **evaluation.by_condition}
    table = Table(
        "class", *scores, title=f"IoU of the published weights on the {evaluation.frames} frames that chose them"
    )
    for i, name in enumerate(card.classes):
        table.add_row(name, *(f"{s.iou[i]:.4f}" for s in scores.values()))
    table.add_row("mean", *(f"{s.miou:.4f}" for s in scores.values()))
    console.print(table)
