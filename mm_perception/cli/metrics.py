"""`mm-perception metrics nuscenes`: the detection metric of two files."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import DataError
from mm_perception.core.files import write_json
from mm_perception.metrics.detection import ERRORS, THRESHOLDS_M, DetectionMetric, DetectionScores
from mm_perception.metrics.nuscenes_format import read_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("metric", choices=["nuscenes"], help="which metric")
    parser.add_argument("--gt", type=Path, required=True, help="true boxes by sample, as JSON")
    parser.add_argument("--pred", type=Path, required=True, help="predicted boxes by sample, as JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the figures; 0 when done.

    Raises:
        DataError: a file is wrong, or the two do not have the same samples.
        ConfigError: the file of figures exists.
    """
    check_files(args, {"json": "json"}, (args.gt, args.pred))
    truth, predicted = read_samples(args.gt, truth=True), read_samples(args.pred, truth=False)
    for one, other, tokens in (
        (args.pred, args.gt, set(predicted) - set(truth)),
        (args.gt, args.pred, set(truth) - set(predicted)),
    ):
        if tokens:
            raise DataError(f"{one}: {len(tokens)} sample(s) that {other} does not have, such as {min(tokens)}")
    metric = DetectionMetric()
    # In the order of the predictions, by which the devkit decides between equal scores.
    for token, boxes in predicted.items():
        try:
            metric.add(truth[token], boxes)
        except DataError as error:
            raise DataError(f"{args.pred}: sample {token}: {error}") from error
    scores = metric.scores()
    console = make_console()
    print_scores(console, scores, f"{len(truth)} samples")
    if args.json:
        write_json(args.json, scores_mapping(scores), args.overwrite)
        console.print(f"figures: {args.json}")
    return 0


def print_scores(console: Console, scores: DetectionScores, title: str) -> None:
    """A table of all classes, and the means."""
    table = Table("class", "AP", *(f"AP {t:g} m" for t in THRESHOLDS_M), *ERRORS, title=f"nuScenes metric, {title}")
    for name, mean in scores.mean_dist_aps.items():
        aps = (f"{scores.label_aps[name][t]:.3f}" for t in THRESHOLDS_M)
        table.add_row(name, f"{mean:.3f}", *aps, *(_text(scores.label_errors[name][e]) for e in ERRORS))
    blank = ("",) * len(THRESHOLDS_M)
    table.add_row("mean", f"{scores.mean_ap:.3f}", *blank, *(_text(scores.errors[e]) for e in ERRORS))
    console.print(table)
    console.print(f"mAP {scores.mean_ap:.4f}   NDS {scores.nds:.4f}", highlight=False)


def _text(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def scores_mapping(scores: DetectionScores) -> dict[str, Any]:
    """JSON form, with the devkit's names; what is not asked of a class is null.

    `mAP` and `NDS` are the devkit's `mean_ap` and `nd_score`; an error that is null scores 0 in NDS.
    """

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "mAP": scores.mean_ap,
        "NDS": scores.nds,
        "mean_ap": scores.mean_ap,
        "nd_score": scores.nds,
        "tp_errors": {e: number(v) for e, v in scores.errors.items()},
        "tp_scores": {e: max(0.0, 1.0 - v) if math.isfinite(v) else 0.0 for e, v in scores.errors.items()},
        "mean_dist_aps": scores.mean_dist_aps,
        "label_aps": {n: {str(t): v for t, v in aps.items()} for n, aps in scores.label_aps.items()},
        "label_tp_errors": {n: {e: number(v) for e, v in es.items()} for n, es in scores.label_errors.items()},
    }
