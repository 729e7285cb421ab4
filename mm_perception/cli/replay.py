"""`mm-perception replay`: a bag through the pipeline without ROS."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.bags.writer import BagWriter, check_new_bag
from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.cli.problems import ProblemPrinter
from mm_perception.codec.detections import encode_detections, encode_velocities
from mm_perception.codec.encode import encode_image, encode_label_info
from mm_perception.codec.status import encode_perception_status
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import OutputFolder, check_new_folder
from mm_perception.core.settings import FusionSettings
from mm_perception.core.types import Detections3D, ImageFrame, SegmentationMap
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import DetectionScores
from mm_perception.metrics.nuscenes_format import write_submission
from mm_perception.pipeline.box_overlay import detection_colors
from mm_perception.pipeline.detection import DetectionOutcome
from mm_perception.pipeline.detection_overlay import draw_mosaic
from mm_perception.pipeline.intake import Observation
from mm_perception.pipeline.overlay import class_colors, draw_overlay
from mm_perception.pipeline.perception import Perception, PerceptionResult, build_perception
from mm_perception.pipeline.sight import Sight
from mm_perception.replay.replay import ReplayReport, replay_bag
from mm_perception.replay.report import UNTRAINED, latency_rows, scores_mapping, write_png, write_report

OUTPUT, STATUS_NAME = "/fusion_node/output", "fusion_node: perception"
"""As the node of that name says them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "bag", nargs="+", type=Path, help="an .mcap, .db3 or ROS 1 .bag file, or a folder; several: one timeline"
    )
    parser.add_argument("--rig", default="demo", help="sensors: a name in config/rigs or a path")
    parser.add_argument("--model", default=FusionSettings().model, help="segmentation: model card, or none")
    parser.add_argument("--detector", default=FusionSettings().detector, help="3D detection: model card, or none")
    parser.add_argument("--output-frame", default="", help="frame of the boxes (default: the LiDAR's)")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--threads", type=numbers.threads, default=0, help="CPU threads of the engine; 0: all cores")
    parser.add_argument("--x-sensor", default="", help="sensor for the X input")
    parser.add_argument(
        "--max-wait-ms", type=numbers.real(-1.0, 60_000.0), default=-1.0, help="negative: as the rig says"
    )
    parser.add_argument("--out", type=Path, help="folder for report and overlay pictures")
    parser.add_argument("--pictures", type=numbers.count_or_none, default=12, help="how many overlays at most")
    parser.add_argument("--save-bag", type=Path, metavar="OUT.mcap", help="write the results as a bag")
    parser.add_argument(
        "--submission", type=Path, metavar="OUT.json",
        help="write the boxes, in the rig's fixed frame, as a nuScenes submission; samples are named by their stamps",
    )  # fmt: skip
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Replays, prints the tables and writes what was asked for.

    Raises:
        MmPerceptionError: an output must not be written, or settings or bag cannot be used.
    """
    console = make_console()
    inputs = (*args.bag, args.rig, args.model, args.detector)
    check_files(args, {"submission": "json"}, inputs, folders=("out", "save_bag"))
    if args.save_bag:
        check_new_bag(args.save_bag, args.overwrite)
    if args.out:
        check_new_folder(args.out, "replay", args.overwrite)
    settings = FusionSettings(
        rig=args.rig,
        model=args.model,
        detector=args.detector,
        output_frame=args.output_frame,
        engine=args.engine,
        threads=args.threads,
        x_sensor=args.x_sensor,
        max_wait_ms=args.max_wait_ms,
    )
    perception = build_perception(settings, on_progress=console.print)
    if not all(card.trained for card in perception.cards):
        console.print(UNTRAINED, style="bold yellow")
    if args.submission and (perception.detection is None or not perception.rig.fixed_frame):
        raise ConfigError("--submission needs a --detector, and a rig with a fixed_frame")
    with contextlib.ExitStack() as outputs:
        folder = outputs.enter_context(OutputFolder(args.out, "replay", args.overwrite)) if args.out else None
        sink = outputs.enter_context(_Sink(args, perception, folder))
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("replay", total=None)
            report = replay_bag(
                args.bag,
                perception,
                on_result=sink.take,
                on_problem=ProblemPrinter(console),
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
                on_truth=sink.take_truth,
                on_pose=sink.take_pose if args.submission else None,
                on_sight=sink.take_sight,
                on_change=lambda sensor, text: console.print(f"{sensor}: {text}", highlight=False),
            )
        _print_report(console, report)
        if folder is not None:
            facts = _facts(args, perception, report)
            write_report(folder.work, f"Replay of {bag_names(args.bag)}", facts, sink.pictures)
    if args.out:
        console.print(f"report: {args.out / 'report.md'}")
    if not report.segmented and not report.detected:
        console.print(_why_nothing(report), style="bold red", highlight=False)
        return 1
    return 0


def _why_nothing(report: ReplayReport) -> str:
    """The commonest reason, and what to do."""
    most = ", ".join(f"{what} ({count} times)" for what, count in report.dropped.most_common(2))
    notes = "; ".join(f"{sensor}: {text}" for sensor, text in report.notes.items())
    return (
        f"nothing came out of {report.frames} frames: {most or 'no complete set of sensors'}"
        + (f"; {notes}" if notes else "")
        + ". See what the bag has for the rig: mm-perception check RIG BAG"
    )


class _Sink:
    """Where results go: images, a bag, a submission; the latter two are there when the `with` block ends well."""

    def __init__(self, args: argparse.Namespace, perception: Perception, folder: OutputFolder | None) -> None:
        self.pictures: list[Path] = []
        self._args, self._perception, self._folder = args, perception, folder
        self._bag = BagWriter(args.save_bag, args.overwrite, sources=args.bag) if args.save_bag else None
        self._labelled = False
        self._truth: Detections3D | None = None
        self._samples: dict[str, tuple[Detections3D, RigidTransform]] = {}

    def take_truth(self, truth: Detections3D) -> None:
        self._truth = truth

    def take_pose(self, found: Detections3D, fixed_from_found: RigidTransform) -> None:
        self._samples[str(found.stamp_ns)] = found, fixed_from_found

    def take_sight(self, sight: Sight) -> None:
        if self._bag is not None:
            message = encode_perception_status(self._bag.factory, STATUS_NAME, sight, self._perception.rig.name)
            self._bag.write(f"{OUTPUT}/perception_status", message, sight.stamp_ns)

    def take(self, observation: Observation, result: PerceptionResult) -> None:
        reference = observation.bundle.measurements[observation.bundle.reference]
        assert isinstance(reference, ImageFrame)
        draws = self._folder is not None and len(self.pictures) < self._args.pictures
        if result.segmentation is not None:
            self._take_segmentation(reference, result.segmentation, draws)
        if result.detection is not None:
            self._take_detection(result.detection, draws)
        self._truth = None

    def _take_segmentation(self, reference: ImageFrame, segmentation: SegmentationMap, draws: bool) -> None:
        assert self._perception.segmentation is not None
        card = self._perception.segmentation.card
        if draws:
            assert self._folder is not None
            path = self._folder.work / "overlays" / f"{segmentation.stamp_ns}.png"
            colors = class_colors(len(card.classes), card.palette)
            write_png(path, draw_overlay(reference.image, segmentation, colors))
            self.pictures.append(path)
        if self._bag is not None:
            stamp_ns, frame_id = segmentation.stamp_ns, segmentation.frame_id
            if not self._labelled:
                info = encode_label_info(self._bag.factory, card.classes, stamp_ns, frame_id)
                self._bag.write(f"{OUTPUT}/label_info", info, stamp_ns, latched=True)
                self._labelled = True
            message = encode_image(self._bag.factory, segmentation.class_ids, "mono8", stamp_ns, frame_id)
            self._bag.write(f"{OUTPUT}/segmentation", message, stamp_ns)

    def _take_detection(self, outcome: DetectionOutcome, draws: bool) -> None:
        assert self._perception.detection is not None
        card, taps, found = self._perception.detection.card, self._perception.detection.taps, outcome.detections
        if draws:
            assert self._folder is not None
            path = self._folder.work / "detections" / f"{found.stamp_ns}.png"
            colors = detection_colors(card.classes)
            write_png(path, draw_mosaic(outcome, taps.cameras, colors, card.sizes.reach_m, self._truth))
            self.pictures.append(path)
        if self._bag is not None:
            boxes = encode_detections(self._bag.factory, found, deviations=card.deviations)
            velocities = encode_velocities(self._bag.factory, found)
            self._bag.write(f"{OUTPUT}/detections", boxes, found.stamp_ns)
            self._bag.write(f"{OUTPUT}/detection_velocities", velocities, found.stamp_ns)

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bag is not None:
            self._bag.__exit__(kind)
        if self._args.submission and kind is None:
            write_submission(self._args.submission, self._samples, overwrite=self._args.overwrite)


def _facts(args: argparse.Namespace, perception: Perception, report: ReplayReport) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "bag": bag_names(args.bag),
        "rig": perception.rig.name,
        "engine": perception.engine_name,
        "models": [card.name for card in perception.cards],
        "trained": all(card.trained for card in perception.cards),
        "frames": report.frames,
        "bundles": report.bundles,
        "segmented": report.segmented,
        "detected": report.detected,
        "modes": dict(report.modes),
        "dropped": dict(report.dropped),
        "latency_ms": {s: {"count": n, "median": m, "p95": p} for s, n, m, p in latency_rows(report.latency)},
    }
    if report.scores is not None:
        facts["scored"] = report.scored
        facts["segmentation"] = scores_mapping(report.scores, report.classes)
    if report.left_out:
        facts["left_out"] = dict(report.left_out)
    if report.notes:
        facts["notes"] = dict(report.notes)
    if report.degraded:
        facts["degraded"] = dict(report.degraded)
    if report.detection_scores is not None:
        scores = report.detection_scores
        facts["detection_scored"] = report.detection_scored
        facts["detection"] = {"mAP": scores.mean_ap, "NDS": scores.nds, "AP": scores.mean_dist_aps}
    return facts


def _print_report(console: Console, report: ReplayReport) -> None:
    console.print(
        f"frames {report.frames}   bundles {report.bundles}   segmented {report.segmented}   scored {report.scored}"
        f"   detected {report.detected}   scored {report.detection_scored}"
    )
    for mode, count in sorted(report.modes.items()):
        console.print(f"mode    {count:6d}  {mode}", highlight=False)
    for what, count in sorted(report.degraded.items()):
        console.print(f"degraded {count:5d}  {what}", highlight=False)
    for reason, count in sorted(report.dropped.items()):
        console.print(f"dropped {count:6d}  {reason}", highlight=False)
    for what, count in sorted(report.left_out.items()):
        console.print(f"left out {count:5d}  {what}", highlight=False)
    for sensor, text in report.notes.items():
        console.print(f"{sensor}: {text}", style="yellow", highlight=False)
    console.print(latency_table(report))
    if report.scores is not None:
        console.print(_scores_table(report))
    if report.detection_scores is not None:
        console.print(_detection_table(report.detection_scores, report))


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


def _detection_table(scores: DetectionScores, report: ReplayReport) -> Table:
    note = "" if report.detector_trained else " (untrained weights)"
    table = Table(
        "class", "AP", "ATE [m]", "ASE", "AOE [rad]", "AVE [m/s]",
        title=f"nuScenes detection metric on {report.detection_scored} frames{note}",
    )  # fmt: skip
    kinds = ("trans_err", "scale_err", "orient_err", "vel_err")
    for name, ap in scores.mean_dist_aps.items():
        table.add_row(name, f"{ap:.4f}", *(f"{scores.label_errors[name][kind]:.3f}" for kind in kinds))
    table.add_row("mean", f"{scores.mean_ap:.4f}", *(f"{scores.errors[kind]:.3f}" for kind in kinds))
    table.add_row("NDS", f"{scores.nds:.4f}")
    return table


def bag_names(bags: list[Path]) -> str:
    """How reports call the bags."""
    return ", ".join(bag.name for bag in bags)
