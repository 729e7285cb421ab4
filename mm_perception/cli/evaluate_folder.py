"""`mm-perception evaluate segmentation --model CARD --data DIR`: scores of a model on labelled images."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli.console import make_console
from mm_perception.cli.labels import label_options
from mm_perception.cli.outputs import check_files
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import write_json
from mm_perception.engines.card import find_card
from mm_perception.training.folder_scores import FolderScores, score_folder


def run_folder(args: argparse.Namespace) -> int:
    """Scores and prints; 0 when done.

    Raises:
        ConfigError: not exactly one model is named, or options do not go with --data.
        DataError, EngineError, ModelError: see `score_folder`.
    """
    if len(args.model) != 1:
        raise ConfigError(f"--data: expected one --model CARD, got {len(args.model)}")
    if args.pictures is not None:
        raise ConfigError("--pictures: shows simulated frames; leave it out with --data")
    check_files(args, {"json": "json"}, (args.data, args.label_map, args.split))
    card = find_card(args.model[0])
    labels = label_options(args)
    console = make_console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("frames scored", total=None)
        scores = score_folder(
            card,
            args.data,
            labels,
            engine=args.engine,
            split=args.split,
            x_folder=args.x_folder,
            multi_scale=args.multi_scale,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _print(console, scores, card.name, str(args.data))
    if not card.trained:
        console.print("untrained weights, whose labels mean nothing", style="bold yellow")
    if args.json:
        write_json(args.json, scores.figures(), args.overwrite)
        console.print(f"figures: {args.json}")
    return 0


def _print(console: Console, scores: FolderScores, model: str, data: str) -> None:
    columns = {"all": (scores.frames, scores.overall), **scores.splits}
    table = Table("class", *columns, title=f"IoU (%) of {model} on {data}")
    for i, name in enumerate(scores.classes):
        cells = [f"{100 * s.iou[i]:.1f}" if s.pixels[i] or s.iou[i] else "-" for _, s in columns.values()]
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("mean of all classes", *(f"{100 * s.miou:.2f}" for _, s in columns.values()))
    table.add_row("mean of those in the truth", *(f"{100 * s.miou_present:.2f}" for _, s in columns.values()))
    table.add_row("accuracy", *(f"{100 * s.accuracy:.2f}" for _, s in columns.values()))
    table.add_row("frames", *(str(n) for n, _ in columns.values()))
    console.print(table)
    console.print("-: no pixel of that class in the labels; it counts as 0 in the mean of all classes", highlight=False)
    if scores.assumption:
        console.print(f"assumed: {scores.assumption} (say it with --data-classes or --label-map)", highlight=False)
