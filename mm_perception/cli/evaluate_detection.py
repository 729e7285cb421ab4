"""`mm-perception evaluate detection`: what cameras add to LiDAR, on held-out scenes of the simulated world."""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli.console import make_console
from mm_perception.cli.held_out import add_frame_options, check_frame_options, open_pictures
from mm_perception.core.errors import ModelError
from mm_perception.core.files import write_json
from mm_perception.core.types import Detections3D
from mm_perception.engines.card import WEIGHT_SUFFIXES
from mm_perception.engines.detector_card import DetectorCard, find_detector_card
from mm_perception.engines.stamp import default_cache_dir
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.pipeline.box_overlay import detection_colors
from mm_perception.pipeline.detection import DetectionOutcome, SeenPicture
from mm_perception.pipeline.detection_overlay import draw_mosaic
from mm_perception.replay.held_out_detection import BASELINE, FUSION, WAYS, compare_ways, open_ways, summary
from mm_perception.replay.report import write_png
from mm_perception.sim.detection_frames import (
    CAMERAS,
    DetectionFrame,
    cached_detection_frames,
    load_detection_frame,
)

MODEL = "deepinteraction-tiny"
_SHOWN = ("cam_front_left", "cam_front", "cam_front_right", "cam_back_left", "cam_back", "cam_back_right")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_frame_options(parser)
    parser.add_argument("--model", default=MODEL, metavar="CARD", help=f"detector to evaluate (default: {MODEL})")
    parser.add_argument(
        "--lidar-model",
        metavar="CARD",
        help="card or weights file of the LiDAR's stream alone (default: that of --model, with the same weights)",
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write the boxes of each frame, with the truth")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints; 0 when done."""
    console = make_console()
    check_frame_options(args)
    card = find_detector_card(args.model)
    alone = _lidar_card(args.lidar_model, card)
    ways = open_ways(card, alone, args.engine)
    folder = args.cache or default_cache_dir() / "world"
    with open_pictures(args) as pictures, Progress(console=console, transient=True) as progress:
        making = progress.add_task(f"making frames in {folder} (once)", total=args.frames)
        task = progress.add_task("frames evaluated", total=args.frames)
        number = 0

        def show(frame: DetectionFrame, found: dict[str, Detections3D]) -> None:
            nonlocal number
            if pictures is not None:
                path = pictures.work / f"{number:04d}-{frame.condition}.jpg"
                write_png(path, all_round(frame, found[FUSION], card))
            number += 1
            progress.update(task, completed=number)

        paths = cached_detection_frames(
            folder, "held-out", args.seed, args.frames, lambda done, _: progress.update(making, completed=done)
        )
        comparison = compare_ways(card, ways, map(load_detection_frame, paths), show)
    with console.status("intervals"):
        facts = summary(comparison, args.seed)
    facts["model"] = {"card": card.name, "trained": card.trained, "weights_sha256": card.weights_sha256}
    facts["lidar_model"] = {"card": alone.name, "weights": alone.weights_path and alone.weights_path.name}
    facts["engine"] = {name: way.engine.name for name, way in ways.items()}
    facts["inference_ms"] = {n: round(float(np.median(v)), 2) for n, v in comparison.inference_ms.items()}
    facts["seed"], facts["machine"] = args.seed, f"{platform.machine()}, {platform.system()}"
    _print(console, facts)
    if args.json:
        write_json(args.json, facts, args.overwrite)
        console.print(f"figures: {args.json}")
    return 0


def _lidar_card(given: str | None, card: DetectorCard) -> DetectorCard:
    """The card whose LiDAR stream runs alone; a weights file is taken for the evaluated card's network."""
    if given is None:
        return card
    path = Path(given)
    if path.suffix not in WEIGHT_SUFFIXES:
        return find_detector_card(given)
    if not path.is_file():
        raise ModelError(f"--lidar-model: weights file {path} does not exist")
    return replace(card, name=f"{card.name}-lidar", weights=str(path.resolve()), weights_sha256=None, trained=True)


def all_round(frame: DetectionFrame, found: Detections3D, card: DetectorCard) -> NDArray[np.uint8]:
    """All cameras and the view from above; truth with a LiDAR return is white."""
    shown, truth = found.take(found.scores >= card.min_score), frame.boxes.take(frame.lidar_points > 0)
    seen = dict(zip(CAMERAS, map(SeenPicture, frame.images(), frame.lidar2img), strict=True))
    here = RigidTransform.identity(found.frame_id)
    outcome = DetectionOutcome(shown, {}, {}, seen, frame.points, here, card.trained)
    return draw_mosaic(outcome, _SHOWN, detection_colors(found.classes), card.sizes.reach_m, truth)


def _cell(value: float | None, interval: list[float] | None, form: str = ".1f") -> str:
    if value is None:
        return "-"
    text = f"{100 * value:{form}}"
    return text if interval is None else f"{text} ({100 * interval[0]:{form}} to {100 * interval[1]:{form}})"


def _print(console: Console, facts: dict[str, Any]) -> None:
    title = "mAP [%] on held-out scenes, with 95 % bootstrap intervals"
    table = Table("frames", "number", *WAYS, f"gain over {BASELINE}", title=title)
    rows = {c: {k: facts[k][c] for k in ("mAP", "interval_95", "gain", "gain_interval_95")} for c in facts["mAP"]}
    named = {**rows, f"beyond {facts['far']['beyond_m']:g} m": facts["far"], "small classes": facts["small"]}
    for name, row in named.items():
        cells = [_cell(row["mAP"][way], row["interval_95"][way]) for way in WAYS]
        gain = _cell(row["gain"], row["gain_interval_95"], "+.1f")
        table.add_row(name, str(facts["frames"].get(name, facts["frames"]["all"])), *cells, gain)
    console.print(table)
    classes = Table("class", "true boxes", *WAYS, title="AP [%] over all frames")
    for name, count in facts["true_boxes"].items():
        classes.add_row(name, str(count), *(f"{100 * facts['AP'][way][name]:.1f}" for way in WAYS))
    console.print(classes)
    nds = ", ".join(f"{way} {_cell(facts['NDS']['all'][way], None)}" for way in WAYS)
    console.print(f"NDS [%]: {nds}", highlight=False)
    if not facts["model"]["trained"]:
        console.print("untrained weights, whose boxes mean nothing", style="bold yellow")
