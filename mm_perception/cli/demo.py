"""`mm-perception demo`: a bag through the real fusion node over DDS, with a table, pictures and a report."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite
from mm_perception.core.errors import ConfigError
from mm_perception.core.files import OutputFolder, check_outputs
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import OFF, FusionSettings
from mm_perception.engines.card import WeightsCard, find_card
from mm_perception.engines.detector_card import find_detector_card
from mm_perception.engines.stamp import default_cache_dir
from mm_perception.pipeline.detection import detector_taps
from mm_perception.pipeline.segmentation import choose_x_sensor
from mm_perception.replay.report import UNTRAINED, write_png, write_report
from mm_perception.sim.frames import WORLD_VERSION
from mm_perception.sim.scenario import load_scenario
from mm_perception.sim.simulate import simulate

if TYPE_CHECKING:
    from mm_perception.ros.session import SessionResult

DEMO_BAG = Path("rosbags/demo.mcap")
SHIPPED_DETECTOR = "deepinteraction-tiny"
DEMO_SCENARIO, DEMO_SECONDS, DEMO_RATE_HZ = "demo", 1.75, 4.0
FOLDERS = {"overlay": "overlays", "detection_overlay": "detections"}
PACED_WAIT_MS = 5000.0
"""A paced player may hold messages back for as long as one inference; bundles must not give up on them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--bag", type=Path, help="bag to play (default: a simulated drive, which is made if it is not there)"
    )
    parser.add_argument("--rig", help="sensors: a name in config/rigs or a path (default: sim; with --bag demo)")
    parser.add_argument("--model", default="", help="segmentation: a name in config/models or a path")
    parser.add_argument("--detector", help="3D detection: the same, or none (default: the shipped one, if it fits)")
    parser.add_argument("--engine", default="auto", help="auto, torch, onnxruntime or openvino")
    parser.add_argument("--output-frame", default="base_link", help="frame of the boxes")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for report and overlays")
    parser.add_argument(
        "--rate",
        type=numbers.real(0.0, 1000.0),
        default=0.0,
        help="speed of playing; 0: at the node's pace, so that no frame is lost",
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Plays, prints and writes; 0 if the node published and ended cleanly, else 1.

    Raises:
        MmPerceptionError: the output folder is not the demo's, or bag, rig or models cannot be used.
    """
    console = make_console()
    check_outputs({"--out": args.out}, (args.bag, args.rig, args.model, args.detector))
    # The demo's own folder is renewed when the new results are complete.
    with OutputFolder(args.out, "demo", args.overwrite, renew=True) as folder:
        return _run(args, console, folder.work)


def _run(args: argparse.Namespace, console: Console, out: Path) -> int:
    """As `run`, with the files in `out`."""
    model = args.model or FusionSettings().model
    rig_name = args.rig or ("demo" if args.bag else "sim")
    rig, card = load_rig(rig_name), find_card(model)
    choose_x_sensor(card, rig)
    cards: list[WeightsCard] = [card]
    parameters = {"rig": rig_name, "model": model, "engine": args.engine, "diagnostics_period_s": "0.1"}
    if detector := choose_detector(rig, args.detector):
        cards.append(find_detector_card(detector))
        parameters |= {"detector": detector, "output_frame": args.output_frame}
    trained = all(one.trained for one in cards)
    bag = args.bag or demo_bag(rig_name, console)
    choose_own_domain()
    try:
        from mm_perception.ros.session import FusionSession
    except ImportError as error:
        raise ConfigError(f"ROS 2 is not there ({error}): source an installation or run make setup") from error
    if not trained:
        console.print(UNTRAINED, style="bold yellow")
    if args.rate == 0:
        parameters["max_wait_ms"] = str(PACED_WAIT_MS)
    pictures: list[Path] = []

    def save(name: str, stamp_ns: int, picture: NDArray[np.uint8]) -> None:
        path = out / FOLDERS[name] / f"{stamp_ns}.png"
        write_png(path, picture)
        pictures.append(path)

    console.print(f"starting the fusion node (domain {os.environ['ROS_DOMAIN_ID']}) and playing {bag}")
    with (
        FusionSession(
            rig,
            parameters,
            out / "node.log",
            on_progress=lambda line: console.print(line, style="dim", highlight=False),
            lossless=args.rate == 0,
            on_overlay=save,
        ) as session,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("frames done", total=None)
        session.play(bag, args.rate, lambda done, total: progress.update(task, completed=done, total=total))
    result = session.result
    facts = _facts(str(bag), rig.name, trained, result)
    _print(console, facts)
    write_report(out, f"Fusion node on {bag.name}", facts, sorted(pictures))
    console.print(f"pictures: {args.out} ({len(pictures)})   report: {args.out / 'report.md'}")
    whole = bool(result.segmentations) and (bool(result.detections) or not detector)
    return 0 if whole and result.exit_code == 0 else 1


def choose_detector(rig: RigConfig, given: str | None) -> str:
    """The detector to run; empty for none."""
    if given is not None:
        return "" if given in OFF else given
    try:
        detector_taps(find_detector_card(SHIPPED_DETECTOR), rig)
    except ConfigError:
        return ""
    return SHIPPED_DETECTOR


def demo_bag(rig_name: str, console: Console) -> Path:
    """The drive of a shipped simulated vehicle; made on the first call.

    Raises:
        ConfigError: the rig is another one.
    """
    if rig_name not in ("demo", "sim"):
        raise ConfigError(f"--rig {rig_name}: there is no recording of it here: name one with --bag")
    made = default_cache_dir() / "bags" / f"{rig_name}-{WORLD_VERSION}.mcap"
    bag = DEMO_BAG if rig_name == "demo" else made
    if not bag.is_file():
        bag.parent.mkdir(parents=True, exist_ok=True)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"simulating {bag} (once)", total=None)
            simulate(
                load_scenario(DEMO_SCENARIO),
                load_rig(rig_name),
                DEMO_SECONDS,
                bag,
                rate_hz=DEMO_RATE_HZ,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    return bag


def choose_own_domain() -> None:
    """Keeps the demo's messages off other graphs, unless the user has chosen a domain."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(20, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def _facts(bag: str, rig: str, trained: bool, result: SessionResult) -> dict[str, Any]:
    pipeline = result.pipeline
    sensors = {name.split("sensor ")[-1]: values for name, values in result.status.items() if ": sensor " in name}
    dropped = {
        f"inference: {k.removeprefix('dropped.')}": int(v) for k, v in pipeline.items() if k.startswith("dropped.")
    }
    for name, values in sensors.items():
        for key, value in values.items():
            if key.startswith(("dropped.", "rejected.")):
                dropped[f"{name}: {key.partition('.')[2]}"] = int(value)
    stages = [key.removesuffix(".median_ms") for key in pipeline if key.endswith(".median_ms")]
    return {
        "bag": Path(bag).name,
        "rig": rig,
        "model": pipeline.get("model", ""),
        "detector": pipeline.get("detector", ""),
        "engine": pipeline.get("engine", ""),
        "trained": trained,
        "frames_in": result.frames,
        "bundles": int(pipeline.get("bundles", 0)),
        "segmented": len(result.segmentations),
        "detected": len(result.detections),
        "degraded": {
            key.removeprefix("degraded."): int(value) for key, value in pipeline.items() if key.startswith("degraded.")
        },
        "dropped": dropped,
        "received": {name: int(values["received"]) for name, values in sensors.items()},
        "skew_ms": {name: float(values["skew_ms"]) for name, values in sensors.items()},
        "latency_ms": {
            s: {"median": float(pipeline[f"{s}.median_ms"]), "p95": float(pipeline[f"{s}.p95_ms"])} for s in stages
        },
        "node_exit_code": result.exit_code,
    }


def _print(console: Console, facts: dict[str, Any]) -> None:
    kinds = ("frames_in", "bundles", "segmented", "detected", "node_exit_code")
    counts = Table(*(kind.replace("_", " ") for kind in kinds), title="counts")
    counts.add_row(*(str(facts[key]) for key in kinds))
    console.print(counts)
    sensors = Table("sensor", "messages received", "last skew [ms]", title="inputs")
    for name, received in facts["received"].items():
        sensors.add_row(name, str(received), f"{facts['skew_ms'][name]:.3f}")
    console.print(sensors)
    dropped = Table("dropped", "why", title="drops")
    for reason, count in sorted(facts["dropped"].items()):
        dropped.add_row(str(count), reason)
    if not facts["dropped"]:
        dropped.add_row("0", "nothing")
    console.print(dropped)
    for what, count in sorted(facts["degraded"].items()):
        console.print(f"degraded in {count} frame(s): {what}", highlight=False)
    latency = Table("stage", "median [ms]", "p95 [ms]", title=f"latency, engine {facts['engine']}")
    for stage, values in facts["latency_ms"].items():
        latency.add_row(stage, f"{values['median']:.2f}", f"{values['p95']:.2f}")
    console.print(latency)
