"""`mm-perception check RIG BAG...`: before a drive, whether all that a rig names is there and fits together."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.cli.rig import LIVE_SECONDS, check_source
from mm_perception.core.config import to_mapping
from mm_perception.core.errors import ConfigError, MmPerceptionError
from mm_perception.core.files import write_json
from mm_perception.core.resources import config_dir
from mm_perception.core.rig import RigConfig, load_rig
from mm_perception.core.settings import FusionSettings
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import find_any_card
from mm_perception.survey.readiness import Readiness, SensorReadiness
from mm_perception.survey.recording import Recording, check_recording

_COLUMNS = ("came", "[Hz]", "what", "tf", "info", "matched", "skew [ms]")
_WIDE = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("rig", help="sensors: a name in config/rigs or a path")
    parser.add_argument("bag", nargs="*", type=Path, help="an .mcap or .db3 file, or a rosbag2 folder; several are one")
    parser.add_argument("--live", type=LIVE_SECONDS, metavar="SECONDS", help="listen to the running topics instead")
    parser.add_argument(
        "--seconds", type=numbers.real(0.1, 1e6), default=120.0, help="how much of the bag is looked at (default 120)"
    )
    parser.add_argument(
        "--required-only", action="store_true", help="exit with 0 where only sensors that may be missing are not ready"
    )
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures as JSON")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Checks, prints the table and what to do; 0: ready, 1: not ready.

    Raises:
        MmPerceptionError: the rig or a bag cannot be used.
    """
    check_source(args.bag, args.live)
    check_files(args, {"json": "json"}, (*args.bag, args.rig))
    rig = load_rig(args.rig)
    readiness = _live(rig, args.live) if args.live else _recorded(rig, args.bag, args.seconds)
    ready = readiness.is_ready(args.required_only)
    models = list(_models(rig, readiness))
    _print(make_console(), readiness, models, ready)
    if args.json:
        write_json(args.json, _mapping(readiness, models, ready), args.overwrite)
    return 0 if ready else 1


def _recorded(rig: RigConfig, paths: list[Path], seconds: float) -> Readiness:
    with Recording(paths) as recording:
        return check_recording(rig, recording, seconds)


def _live(rig: RigConfig, seconds: float) -> Readiness:
    try:
        from mm_perception.ros.live_survey import check_live
    except ImportError as error:
        raise ConfigError(f"--live needs ROS 2 (rclpy): source its setup.bash first ({error})") from error
    print(f"listening for {seconds:g} s", file=sys.stderr)
    return check_live(rig, seconds)


def _models(rig: RigConfig, readiness: Readiness) -> Iterator[tuple[str, str, bool]]:
    """Each shipped card with trained weights, what it would be fed, and whether all of that is ready."""
    default = {FusionSettings().model, FusionSettings().detector}
    for path in sorted((config_dir() / "models").glob("*.yaml")):
        try:
            card = find_any_card(path)
        except MmPerceptionError:  # a card that is not whole is the business of whoever loads it
            continue
        if not card.trained and card.name not in default:
            continue
        name = card.name + (" (default)" if card.name in default else "")
        kinds = [card.modality] if isinstance(card, ModelCard) else ["lidar", "rgb"]
        usable = {kind: readiness.usable(kind) for kind in kinds}
        if isinstance(card, ModelCard):  # it sees one sensor, an RGB model the reference
            own = [rig.reference] if card.modality == "rgb" else [one.name for one in rig.of_kind(card.modality)][:1]
            usable = {kind: tuple(name for name in own if name in names) for kind, names in usable.items()}
        missing = [kind for kind in kinds if not usable[kind]]
        fed = [f"{kind} from {', '.join(usable[kind])}" for kind in kinds if usable[kind]]
        lacks = [f"no {kind} that is ready" if rig.of_kind(kind) else f"no {kind} in the rig" for kind in missing]
        yield name, "; ".join([*fed, *lacks]), not missing


def _print(console: Console, readiness: Readiness, models: list[tuple[str, str, bool]], ready: bool) -> None:
    wide = console.width >= _WIDE
    table = Table(title=f"rig {readiness.rig} on {readiness.source}")
    for column in ("sensor", *(["topic"] if wide else []), *_COLUMNS, ""):
        table.add_column(column, no_wrap=column not in ("topic", "what"))
    for one in readiness.sensors:
        cells = [one.name, *([one.topic] if wide else []), *_cells(one)]
        table.add_row(*cells, Text("ready", "green") if one.is_ready else Text("NOT READY", "red"))
    console.print(table)
    share = f", {readiness.complete / readiness.bundles:.0%}" if readiness.bundles else ""
    console.print(
        f"frames {readiness.frames}   bundles {readiness.bundles}   complete {readiness.complete}{share}",
        highlight=False,
    )
    for name, text, fits in models:
        console.print(f"model {name}: {text}", style=None if fits else "dim", highlight=False, soft_wrap=True)
    for one in readiness.sensors:
        for text, style in [*((r, "red") for r in one.reasons), *((r, "yellow") for r in one.remarks)]:
            console.print(f"{one.name}: {text}", style=style, highlight=False, soft_wrap=True)
    for text in readiness.others:
        console.print(text, style="red", highlight=False, soft_wrap=True)
    console.print("READY" if ready else "NOT READY", style="bold green" if ready else "bold red")


def _cells(one: SensorReadiness) -> list[str]:
    mark = {"": "-", "ok": "ok"}
    came = one.messages > 0
    return [
        str(one.messages), f"{one.rate_hz:.3g}" if one.rate_hz else "-",
        one.form or "-", mark.get(one.transform, "no"), mark.get(one.camera_info, "no"),
        f"{one.matched:.0%}" if came else "-", f"{one.skew_ms[0]:.1f} / {one.skew_ms[1]:.1f}" if one.matched else "-",
    ]  # fmt: skip


def _mapping(readiness: Readiness, models: list[tuple[str, str, bool]], ready: bool) -> dict[str, Any]:
    return {
        "rig": readiness.rig,
        "source": readiness.source,
        "ready": ready,
        "frames": readiness.frames,
        "bundles": readiness.bundles,
        "complete": readiness.complete,
        "reasons": list(readiness.others),
        "models": [{"name": name, "inputs": text, "ready": fits} for name, text, fits in models],
        "sensors": [to_mapping(one) | {"ready": one.is_ready} for one in readiness.sensors],
    }
