"""`mm-perception metrics nuscenes`: the detection metric of two files."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mm_perception.core.errors import DataError
from mm_perception.metrics.detection import ERRORS, THRESHOLDS_M, DetectionMetric, DetectionScores, ScoredBoxes
from mm_perception.metrics.nuscenes_format import read_samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("metric", choices=["nuscenes"], help="which metric")
    parser.add_argument("--gt", type=Path, required=True, help="true boxes by sample, as JSON")
    parser.add_argument("--pred", type=Path, required=True, help="predicted boxes by sample, as JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def run(args: argparse.Namespace) -> int:
    """Prints the figures; 0 when done.

    Raises:
        DataError: a file is wrong, or there are predictions of samples without truth.
    """
    truth, predicted = read_samples(args.gt, truth=True), read_samples(args.pred, truth=False)
    strange = sorted(set(predicted) - set(truth))
    if strange:
        raise DataError(f"{args.pred}: {len(strange)} sample(s) that {args.gt} does not have, such as {strange[0]}")
    metric = DetectionMetric()
    for token, boxes in truth.items():
        metric.add(boxes, predicted.get(token, _none_of(boxes)))
    scores = metric.scores()
    console = Console()
    print_scores(console, scores, f"{len(truth)} samples")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(scores_mapping(scores), indent=2) + "\n")
        console.print(f"figures: {args.json}")
    return 0


def _none_of(boxes: ScoredBoxes) -> ScoredBoxes:
    return boxes.take(boxes.scores > math.inf)


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
    """JSON form; what is not asked of a class is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "mAP": scores.mean_ap,
        "NDS": scores.nds,
        "tp_errors": {e: number(v) for e, v in scores.errors.items()},
        "tp_scores": {e: number(max(0.0, 1.0 - v)) for e, v in scores.errors.items()},
        "mean_dist_aps": scores.mean_dist_aps,
        "label_aps": {n: {f"{t:g}": v for t, v in aps.items()} for n, aps in scores.label_aps.items()},
        "label_tp_errors": {n: {e: number(v) for e, v in es.items()} for n, es in scores.label_errors.items()},
    }
