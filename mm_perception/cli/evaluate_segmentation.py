"""`mm-perception evaluate segmentation`: what a second sensor buys, on held-out scenes of the simulated world.

With --data: what one model is worth on a folder of labelled images.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli.console import make_console
from mm_perception.cli.evaluate_folder import run_folder
from mm_perception.cli.held_out import add_frame_options, check_frame_options, open_pictures
from mm_perception.cli.labels import add_label_options, given_labels
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_json
from mm_perception.engines.card import ModelCard, find_card
from mm_perception.engines.stamp import default_cache_dir
from mm_perception.pipeline.overlay import class_colors
from mm_perception.replay.held_out import compare, summary
from mm_perception.replay.report import write_png
from mm_perception.sim.frames import LabelledFrame, cached_frames

BASELINE = "rgb"
MODELS = {BASELINE: "cmx-tiny-rgb", "rgb-thermal": "cmx-tiny-rgb-thermal", "rgb-depth": "cmx-tiny-rgb-depth"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_frame_options(parser)
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=CARD",
        help=f"replace or add a model, e.g. rgb-thermal=out/train/x/x.yaml (default: {', '.join(MODELS.values())}); "
        "with --data: the card of the model to score, without NAME=",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="score labelled images of a folder, not simulated ones"
    )
    parser.add_argument("--split", type=Path, metavar="FILE", help="--data: list of the frames to score")
    parser.add_argument(
        "--multi-scale", action="store_true", help="--data: look at six scales, each mirrored, too, as papers do"
    )
    add_label_options(parser)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write each frame beside truth and predictions")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints; 0 when done."""
    if args.data is not None:
        return run_folder(args)
    only_with_data = [
        *given_labels(args),
        *(["--split"] if args.split else []),
        *(["--multi-scale"] if args.multi_scale else []),
    ]
    if only_with_data:
        raise ConfigError(f"{only_with_data[0]}: speaks of a folder of labelled images; give one with --data DIR")
    console = make_console()
    check_frame_options(args)
    cards = {name: find_card(card) for name, card in _models(args.model).items()}
    folder = args.cache or default_cache_dir() / "world"
    with open_pictures(args) as pictures, Progress(console=console, transient=True) as progress:
        making = progress.add_task(f"making frames in {folder} (once)", total=args.frames)
        task = progress.add_task("frames evaluated", total=args.frames)
        number = 0

        def show(frame: LabelledFrame, predicted: dict[str, NDArray[np.uint8]]) -> None:
            nonlocal number
            if pictures is not None:
                path = pictures.work / f"{number:04d}-{frame.condition}.png"
                write_png(path, side_by_side(frame, predicted, cards))
            number += 1
            progress.update(task, completed=number)

        frames = cached_frames(
            folder, "held-out", args.seed, args.frames, lambda done, _: progress.update(making, completed=done)
        )
        comparison = compare(cards, frames, args.engine, show)
    facts = summary(comparison, BASELINE, args.seed)
    facts["models"] = {
        n: {"card": c.name, "trained": c.trained, "weights_sha256": c.weights_sha256} for n, c in cards.items()
    }
    facts["inference_ms"] = {n: round(float(np.median(v)), 2) for n, v in comparison.inference_ms.items()}
    facts["seed"], facts["machine"] = args.seed, f"{platform.machine()}, {platform.system()}"
    _print(console, facts, list(cards))
    if args.json:
        write_json(args.json, facts, args.overwrite)
        console.print(f"figures: {args.json}")
    return 0


def _models(given: list[str]) -> dict[str, str]:
    models = dict(MODELS)
    for text in given:
        name, equals, card = text.partition("=")
        if not (name and equals and card):
            raise ConfigError(f"--model: expected NAME=CARD, got {text!r}")
        models[name] = card
    return models


def side_by_side(
    frame: LabelledFrame, predicted: dict[str, NDArray[np.uint8]], cards: dict[str, ModelCard]
) -> NDArray[np.uint8]:
    """The image, the truth and each model's classes in a row, at half size."""
    colors = np.zeros((256, 3), np.uint8)
    card = next(iter(cards.values()))
    colors[: card.num_classes] = class_colors(card.num_classes, card.palette)
    pictures = [frame.rgb, colors[frame.class_ids], *(colors[ids] for ids in predicted.values())]
    return np.concatenate([picture[::2, ::2] for picture in pictures], axis=1)


def _range(interval: list[float] | None, form: str) -> str:
    return "" if interval is None else f" ({100 * interval[0]:{form}} to {100 * interval[1]:{form}})"


def _print(console: Console, facts: dict[str, Any], models: list[str]) -> None:
    table = Table("condition", "frames", *models, title="mIoU [%] on held-out scenes, with 95 % bootstrap intervals")
    for condition, row in facts["miou"].items():
        cells = []
        for name in models:
            cells.append(f"{100 * row[name]:.1f}{_range(facts['interval_95'][condition][name], '.1f')}")
        table.add_row(condition, str(facts["frames"][condition]), *cells)
    console.print(table)
    gains = Table("condition", *(m for m in models if m != BASELINE), title="gain over RGB alone [points of mIoU]")
    for condition, row in facts["gain"].items():
        cells = []
        for name, value in row.items():
            cells.append(f"{100 * value:+.1f}{_range(facts['gain_interval_95'][condition][name], '+.1f')}")
        gains.add_row(condition, *cells)
    console.print(gains)
    classes = Table("class", *models, title="IoU [%] over all frames")
    for name in next(iter(facts["iou"]["all"].values())):
        values = [facts["iou"]["all"][m][name] for m in models]
        if all(v is not None for v in values):
            classes.add_row(name, *(f"{100 * v:.1f}" for v in values))
    console.print(classes)
    untrained = [name for name, model in facts["models"].items() if not model["trained"]]
    if untrained:
        console.print(f"untrained weights, whose labels mean nothing: {', '.join(untrained)}", style="bold yellow")
