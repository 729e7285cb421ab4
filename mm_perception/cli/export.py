"""`mm-perception export`: a model card's network as an ONNX file with its own card."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.cli.outputs import add_overwrite
from mm_perception.core.errors import ConfigError, EngineError, ModelError
from mm_perception.core.files import check_new_file, check_outputs
from mm_perception.datasets.classes import find_class_list
from mm_perception.engines.card import ModelCard
from mm_perception.engines.detector_card import DetectorCard, find_any_card
from mm_perception.engines.load import EXPORT_TOOLS, installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--model", metavar="CARD", help="name of a shipped model card, or a card file")
    parser.add_argument(
        "--classes",
        metavar="NAME",
        help="instead of --model, with --weights: published weights for a data set (a name in config/classes, or a "
        "file), from which classes, colours, normalisation, channel order and input size are taken",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help=".pth or .safetensors instead of the card's")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="an .onnx file, or a folder")
    parser.add_argument("--height", type=numbers.side_px, metavar="PX", help="input height instead of the card's")
    parser.add_argument("--width", type=numbers.side_px, metavar="PX", help="input width instead of the card's")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Exports, compares with torch and prints what was written.

    Raises:
        ModelError: card or weights are missing or do not fit, or the outputs differ from torch's.
        EngineError: torch, onnx or onnxscript is missing.
        ConfigError: the file or its card exists.
    """
    missing = [tool for tool in EXPORT_TOOLS if not installed(tool)]
    if missing:
        raise EngineError(f"the export needs {', '.join(missing)}: pip install {' '.join(missing)}")
    from mm_perception.engines.export import export_onnx
    from mm_perception.engines.stamp import weights_identity
    from mm_perception.engines.torch_engine import deployed_network

    card = _adjusted(_card(args), args)
    weights_identity(card)
    out = args.out if args.out.suffix == ".onnx" else args.out / f"{card.name}.onnx"
    card_path = _card_path(out, args.model)
    check_outputs({"--out": out, "--out's card": card_path}, (args.model, args.weights, card.weights_path))
    check_new_file(out, args.overwrite, "onnx")
    check_new_file(card_path, args.overwrite, "text")
    height, width = card.input_size
    print(f"exporting {card.name}, {height}x{width} px …", flush=True)
    report = export_onnx(deployed_network(card), card, out, card_path)
    print(f"  {report.path}  {report.path.stat().st_size / 1e6:.1f} MB, {report.export_s:.1f} s")
    print(f"  {report.card_path}")
    if report.max_abs_diff is None:
        print("  outputs were NOT compared with torch: neither onnxruntime nor openvino is installed")
    else:
        print(f"  {report.verified_with} equals torch to {report.max_abs_diff:.2g} (largest difference)")
    if not card.trained:
        print("  the weights are untrained: what comes out means nothing")
    return 0


def _card_path(out: Path, model: str | None) -> Path:
    """x.yaml of x.onnx; x.onnx.yaml where x.yaml is the card that is exported."""
    usual = out.with_suffix(".yaml")
    is_input = model is not None and usual.exists() and Path(model).exists() and usual.samefile(model)
    return out.with_name(out.name + ".yaml") if is_input else usual


def _card(args: argparse.Namespace) -> ModelCard | DetectorCard:
    """The card of --model, or one for the weights of --weights and the data set of --classes.

    Raises:
        ConfigError: not exactly one of --model and --classes is given, or --classes without --weights.
        ModelError: the weights have another number of classes than the data set.
    """
    if (args.model is None) == (args.classes is None):
        raise ConfigError("expected either --model CARD, or --classes NAME with --weights FILE")
    if args.model is not None:
        return find_any_card(args.model)
    if args.weights is None:
        raise ConfigError(f"--classes {args.classes}: expected the published weights, too: --weights FILE")
    from mm_perception.models.checkpoint import checkpoint_sizes

    known = find_class_list(args.classes)
    variant, count, decoder_dim = checkpoint_sizes(args.weights)
    if count != len(known.classes):
        raise ModelError(f"{args.weights}: has {count} classes, {known.name} has {len(known.classes)}")
    return ModelCard(
        name=f"cmx-{variant}-{known.name}",
        variant=variant,
        classes=known.classes,
        palette=known.palette,
        modality=known.modality,  # type: ignore[arg-type]  # the card checks it
        encoding=known.encoding,
        input_height=known.input_height,
        input_width=known.input_width,
        channel_order=known.channel_order,  # type: ignore[arg-type]
        trained=True,
        weights=str(args.weights.resolve()),
        decoder_dim=decoder_dim,
        rgb_mean=known.rgb_mean,
        rgb_std=known.rgb_std,
        x_mean=known.x_mean,
        x_std=known.x_std,
        provenance=f"{args.weights.name}; classes of {known.name} ({known.source})",
    )


def _adjusted(card: ModelCard | DetectorCard, args: argparse.Namespace) -> ModelCard | DetectorCard:
    changes: dict[str, object] = {}
    if args.weights is not None:
        changes |= {"weights": str(args.weights.resolve()), "weights_sha256": None, "trained": True}
    if isinstance(card, DetectorCard) and (args.height or args.width):
        raise ModelError(f"model {card.name}: a detector has a fixed size, leave --height and --width out")
    if args.height is not None:
        changes["input_height"] = args.height
    if args.width is not None:
        changes["input_width"] = args.width
    try:
        return replace(card, **changes)  # type: ignore[arg-type]
    except ConfigError as error:
        raise ModelError(f"model {card.name}: {error}") from error
