"""`mm-perception replay`: a bag through the pipeline without ROS."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_image, encode_label_info
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import ImageFrame
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.overlay import class_colors, draw_overlay
from mm_perception.pipeline.perception import Perception, PerceptionResult, build_perception
from mm_perception.replay.replay import ReplayReport, replay_bag
from mm_perception.replay.report import UNTRAINED, latency_rows, scores_mapping, write_png, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("bag", type=Path, help="an .mcap or .db3 file, or a rosbag2 folder")
    parser.add_argument("--rig", default="demo", help="sensors: a name in config/rigs or a path")
    parser.add_argument("--model", default=FusionSettings().model, help="model card")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the engine; 0: all cores")
    parser.add_argument("--x-sensor", default="", help="sensor for the X input")
    parser.add_argument("--max-wait-ms", type=float, default=-1.0, help="negative: as the rig says")
    parser.add_argument("--out", type=Path, help="folder for report and overlay pictures")
    parser.add_argument("--pictures", type=int, default=12, help="how many overlays at most")
    parser.add_argument("--save-bag", type=Path, metavar="OUT.mcap", help="write the results as a bag")


def run(args: argparse.Namespace) -> int:
    """Replays, prints the tables and writes what was asked for."""
    console = Console()
    settings = FusionSettings(
        rig=args.rig,
        model=args.model,
        engine=args.engine,
        threads=args.threads,
        x_sensor=args.x_sensor,
        max_wait_ms=args.max_wait_ms,
    )
    perception = build_perception(settings, on_progress=console.print)
    if not perception.card.trained:
        console.print(f"[bold yellow]{UNTRAINED}")
    sink = _Sink(args, perception)
    try:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("replay", total=None)
            report = replay_bag(
                args.bag,
                perception,
                on_result=sink.take,
                on_problem=lambda where, error: console.print(f"[yellow]{where}: {error}", highlight=False),
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except BaseException:
        sink.discard()
        raise
    sink.close()
    _print_report(console, report)
    if args.out:
        write_report(args.out, f"Replay of {args.bag.name}", _facts(args, perception, report), sink.pictures)
        console.print(f"report: {args.out / 'report.md'}")
    return 0


class _Sink:
    """Where results go: pictures and a bag."""

    def __init__(self, args: argparse.Namespace, perception: Perception) -> None:
        self.pictures: list[Path] = []
        self._args = args
        card = perception.card
        self._colors = class_colors(len(card.classes), card.palette)
        self._classes = card.classes
        self._bag = BagWriter(args.save_bag, overwrite=True) if args.save_bag else None
        self._labelled = False

    def take(self, observation: Observation, result: PerceptionResult) -> None:
        reference = observation.bundle.measurements[observation.bundle.reference]
        assert isinstance(reference, ImageFrame)
        segmentation = result.segmentation
        if self._args.out and len(self.pictures) < self._args.pictures:
            path = self._args.out / "overlays" / f"{segmentation.stamp_ns}.png"
            write_png(path, draw_overlay(reference.image, segmentation, self._colors))
            self.pictures.append(path)
        if self._bag is not None:
            stamp_ns, frame_id = segmentation.stamp_ns, segmentation.frame_id
            if not self._labelled:
                info = encode_label_info(self._bag.factory, self._classes, stamp_ns, frame_id)
                self._bag.write("/fusion_node/output/label_info", info, stamp_ns, latched=True)
                self._labelled = True
            message = encode_image(self._bag.factory, segmentation.class_ids, "mono8", stamp_ns, frame_id)
            self._bag.write("/fusion_node/output/segmentation", message, stamp_ns)

    def close(self) -> None:
        if self._bag is not None:
            self._bag.close()

    def discard(self) -> None:
        if self._bag is not None:
            self._bag.discard()


def _facts(args: argparse.Namespace, perception: Perception, report: ReplayReport) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "bag": args.bag.name,
        "rig": perception.rig.name,
        "model": perception.card.name,
        "engine": perception.segmentation.engine.name,
        "trained": report.trained,
        "frames": report.frames,
        "bundles": report.bundles,
        "segmented": report.segmented,
        "dropped": dict(report.dropped),
        "latency_ms": {s: {"count": n, "median": m, "p95": p} for s, n, m, p in latency_rows(report.latency)},
    }
    if report.scores is not None:
        facts["scored"] = report.scored
        facts["segmentation"] = scores_mapping(report.scores, report.classes)
    return facts


def _print_report(console: Console, report: ReplayReport) -> None:
    console.print(
        f"frames {report.frames}   bundles {report.bundles}   segmented {report.segmented}   scored {report.scored}"
    )
    for reason, count in sorted(report.dropped.items()):
        console.print(f"dropped {count:6d}  {reason}", highlight=False)
    console.print(latency_table(report))
    if report.scores is not None:
        console.print(_scores_table(report))


def latency_table(report: ReplayReport) -> Table:
    table = Table("stage", "count", "median [ms]", "p95 [ms]", title="latency")
    for stage, count, median, p95 in latency_rows(report.latency):
        table.add_row(stage, str(count), f"{median:.2f}", f"{p95:.2f}")
    return table


def _scores_table(report: ReplayReport) -> Table:
    assert report.scores is not None
    note = "" if report.trained else " (untrained weights)"
    table = Table("class", "IoU", "accuracy", title=f"segmentation on {report.scored} frames{note}")
    for name, iou, accuracy in zip(report.classes, report.scores.iou, report.scores.accuracy, strict=True):
        table.add_row(name, f"{iou:.4f}", f"{accuracy:.4f}")
    table.add_row("mean", f"{report.scores.miou:.4f}", f"{report.scores.pixel_accuracy:.4f} of all pixels")
    return table
