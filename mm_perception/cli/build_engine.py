"""`mm-perception build-engine`: a TensorRT engine of a model, built, tried and kept before a drive."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.cli.console import make_console
from mm_perception.cli.outputs import add_overwrite, check_files
from mm_perception.core.errors import ConfigError, ModelError
from mm_perception.core.files import write_json
from mm_perception.core.rig import load_rig
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard, find_any_card
from mm_perception.engines.engine import Array
from mm_perception.engines.load import exported
from mm_perception.engines.stamp import default_cache_dir
from mm_perception.engines.tensorrt.settings import PRECISIONS, BuildSettings, Shape, ShapeRange, TensorRtSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="an exported .onnx file with its card beside it, a card, or a shipped card's name",
    )
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS), help="auto: fp16, checked")
    parser.add_argument("--no-ladder", action="store_true", help="fail where the precision misses its tolerance")
    parser.add_argument(
        "--refuse-stale", action="store_true", help="fail where a kept engine differs; never rebuild it"
    )
    parser.add_argument(
        "--keep-fp32", nargs="+", default=[], metavar="MODULE", help="modules of the network that stay in float32"
    )
    parser.add_argument("--bag", type=Path, help="recorded inputs for the self-test and for INT8's scales")
    parser.add_argument("--rig", default="demo", help="sensors of the bag: a name in config/rigs or a path")
    parser.add_argument(
        "--samples", type=numbers.count_or_none, default=16, help="observations of the bag, spread over it"
    )
    parser.add_argument("--calibration", type=Path, metavar="NPZ", help="inputs for INT8's scales instead of the bag's")
    parser.add_argument(
        "--shapes", nargs="+", default=[], metavar="NAME=SHAPES",
        help="range of an input with open sizes, e.g. rgb=1x3x240x320..1x3x480x640..1x3x720x1280",
    )  # fmt: skip
    parser.add_argument(
        "--workspace-mb", type=numbers.whole(1, 1_000_000), metavar="MIB", help="most scratch memory of one layer"
    )
    parser.add_argument(
        "--optimization-level", type=numbers.whole(0, 5), metavar="0-5", help="how long to look for fast kernels"
    )
    parser.add_argument("--version-compatible", action="store_true", help="later versions of TensorRT can run it")
    parser.add_argument("--hardware-compatible", action="store_true", help="other GPUs from Ampere on can run it")
    parser.add_argument(
        "--dla-core", type=numbers.whole(0, 7), metavar="N", help="deep-learning accelerator of an Orin or Xavier"
    )
    parser.add_argument(
        "--for-gpu", metavar="CC", help="build for this compute capability, e.g. 8.9, without a GPU (TensorRT-RTX)"
    )
    parser.add_argument("--library", choices=("tensorrt", "tensorrt_rtx"), help="default: the first that is installed")
    parser.add_argument("--cache", type=Path, help="folder of exported networks and engines")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the engine's stamp here, too")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Builds or finds the engine and prints what it is.

    Raises:
        ConfigError, ModelError, EngineError, BagError: with what is wrong or missing.
    """
    console = make_console(highlight=False)
    card, settings = find_model(args.model), read_settings(args)
    check_files(args, {"json": "json"}, (args.model, args.bag, args.rig, args.calibration, card.weights_path))
    cache = args.cache or default_cache_dir()

    def tell(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True)

    console.print(f"{card.name}: engine in {settings.precision}")
    from mm_perception.engines.tensorrt.opening import workshop

    shop = workshop(card, exported(card, cache, tell), settings, cache, tell)
    if args.bag is not None:
        samples = recorded_inputs(card, args.bag, args.rig, args.samples)
        tell(f"{len(samples)} recorded inputs from {args.bag}")
        shop.record(samples)
    stamp, engine = shop.ready()
    if engine is not None:
        engine.close()
    console.print(
        f"{shop.engine_file}  {shop.engine_file.stat().st_size / 1e6:.1f} MB, {stamp.precision}", soft_wrap=True
    )
    console.print(f"  self-test{'' if stamp.on_gpu else ', of the rounding, on the CPU'}: {stamp.tested}")
    if not stamp.on_gpu:
        console.print("  no GPU has run this engine yet: the self-test is repeated on the first that opens it")
    if not card.trained:
        console.print("  the weights are untrained: what comes out means nothing")
    if args.json is not None:
        write_json(args.json, dataclasses.asdict(stamp), args.overwrite)
    return 0


def find_model(name: str) -> ModelCard | DetectorCard:
    """The card of a name, of a card file, or of an ONNX file that `mm-perception export` wrote.

    Raises:
        ModelError: there is none.
    """
    path = Path(name)
    if path.suffix != ".onnx":
        return find_any_card(name)
    beside = path.with_suffix(".yaml")
    if not path.is_file() or not beside.is_file():
        raise ModelError(f"{path}: expected the file and its card {beside.name}, as `mm-perception export` writes them")
    card = find_any_card(beside)
    if card.weights_path is None or card.weights_path.resolve() != path.resolve():
        raise ModelError(f"{beside}: expected the card of {path.name}, got one of {card.weights}")
    return card


def read_settings(args: argparse.Namespace) -> TensorRtSettings:
    """Raises ConfigError for impossible values."""
    build = BuildSettings(
        workspace_mb=args.workspace_mb,
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        dla_core=args.dla_core,
        compute_capability=args.for_gpu,
        shapes=read_shapes(args.shapes),
    )
    return TensorRtSettings(
        precision=args.precision,
        ladder=not args.no_ladder,
        stale="refuse" if args.refuse_stale else "rebuild",
        build=build,
        keep_fp32=tuple(args.keep_fp32),
        calibration=args.calibration,
        library=args.library,
    )


def read_shapes(texts: list[str]) -> Mapping[str, ShapeRange]:
    """Ranges of `name=smallest..usual..largest`. Raises ConfigError for another form."""
    ranges = {}
    for text in texts:
        name, equals, shapes = text.partition("=")
        parts = shapes.split("..")
        if not (name and equals and len(parts) == 3 and all(re.fullmatch(r"\d+(x\d+)*", part) for part in parts)):
            raise ConfigError(f"--shapes: expected NAME=1x3x240x320..1x3x480x640..1x3x720x1280, got {text!r}")
        smallest, usual, largest = (_shape(part) for part in parts)
        ranges[name] = ShapeRange(smallest, usual, largest)
    return ranges


def _shape(text: str) -> Shape:
    return tuple(int(size) for size in text.split("x"))


def recorded_inputs(card: ModelCard | DetectorCard, bag: Path, rig_name: str, count: int) -> list[dict[str, Array]]:
    """The network's inputs at some observations of a bag, spread evenly.

    Raises:
        ConfigError: the rig does not fit the model, or `count` is below 1.
        BagError: the bag cannot be read, or has no observation of which the inputs could be made.
    """
    from mm_perception.replay.inputs import network_inputs

    if count < 1:
        raise ConfigError(f"--samples: expected at least 1, got {count}")
    return network_inputs(card, bag, load_rig(rig_name), count)
