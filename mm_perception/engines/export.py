"""Torch networks into ONNX files whose outputs are compared with torch's before anybody uses them."""

from __future__ import annotations

import ast
import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mm_perception.core.errors import EngineError, ModelError
from mm_perception.core.scratch import scratch_file
from mm_perception.engines.card import ModelCard, WeightsCard, save_card
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array, check_specs
from mm_perception.engines.reference import made_inputs
from mm_perception.engines.stamp import file_sha256
from mm_perception.engines.torch_engine import TorchEngine
from mm_perception.models.cmx import Cmx, fold_for_inference

OPSET = 18
TOLERANCES = {"segmentation": 1e-4, "detection": 1e-3}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote and how well it agrees with torch."""

    path: Path
    card_path: Path
    card: WeightsCard  # of the ONNX file
    verified_with: str | None  # the engine that ran the file; None where none is installed
    max_abs_diff: float | None  # of the outputs
    export_s: float


def export_onnx(
    model: nn.Module, card: WeightsCard, out_path: Path | str, card_path: Path | None = None
) -> ExportReport:
    """Writes `model` as ONNX (opset 18, static shapes, float32) with its card beside it (`.yaml`).

    Inputs and outputs are those of `card.specs`. The file appears under its name only after it has been run and
    compared with torch.

    Args:
        model: of the card's kind, as `deployed_network` gives it; a `Cmx` may still have its batch norms.
        card_path: another name for the card.

    Raises:
        ModelError: model and card differ, or the outputs differ from torch's by more than `TOLERANCES` (of the
            largest value where that is above 1).
        EngineError: a package that the export needs is missing.
    """
    out_path = Path(out_path)
    if isinstance(card, ModelCard):
        assert isinstance(model, Cmx)
        _check_model(model, card)
        model = fold_for_inference(model)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    card_path = card_path or out_path.with_suffix(".yaml")
    started = time.perf_counter()
    with scratch_file(out_path, ".onnx") as temporary, scratch_file(card_path) as temporary_card:
        examples = {name: torch.from_numpy(value) for name, value in made_inputs(card)[0].items()}
        _write_graph(model, card, examples, temporary)
        seconds = time.perf_counter() - started
        engine_name, difference = _compare(model, card, examples, temporary)
        onnx_card: WeightsCard = replace(  # type: ignore[type-var]
            card, weights=str(out_path.resolve()), weights_sha256=file_sha256(temporary)
        )
        save_card(onnx_card, temporary_card)
        temporary.replace(out_path)
        temporary_card.replace(card_path)
    return ExportReport(out_path, card_path, onnx_card, engine_name, difference, seconds)


def _check_model(model: Cmx, card: ModelCard) -> None:
    got = (model.variant, model.num_classes, model.decoder_dim)
    expected = (card.variant, card.num_classes, card.decoder_dim)
    if got != expected:
        raise ModelError(
            f"model {card.name}: variant, classes, decoder width: expected {expected}, got {got} in the network"
        )


def _write_graph(model: nn.Module, card: WeightsCard, examples: dict[str, torch.Tensor], path: Path) -> None:
    inputs, outputs = card.specs()
    arguments = tuple(examples.values())
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                model,
                arguments,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                verbose=False,
            )
        except ImportError as error:
            raise EngineError(f"the ONNX export needs {error.name}: pip install onnx onnxscript") from error
    _name_by_module(program.model)
    _forget_sources(program.model)
    program.save(str(path), external_data=False)


def _name_by_module(model: Any) -> None:
    """Names each node `<module of the network>/<its own name>`: what a report says of a node then leads to its code.

    A node that the exporter made by itself belongs to the module of its first input.
    """
    module_of: dict[str, str] = {}
    for node in model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        inputs = [value.name for value in node.inputs if value is not None]
        module = ast.literal_eval(scopes)[-2:-1] if scopes else [module_of.get(n, "") for n in inputs[:1]]
        name = next(iter(module), "")
        module_of |= {value.name: name for value in node.outputs}
        node.name = f"{name or 'network'}/{(node.name or '').removeprefix('node_')}"


def _forget_sources(model: Any) -> None:
    """Removes the exporter's notes (source lines, paths): the file then depends on the network alone."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about packages that it could use for networks that this is not, and about what it leaves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(
    model: nn.Module, card: WeightsCard, examples: dict[str, torch.Tensor], path: Path
) -> tuple[str | None, float | None]:
    """The engine that ran the file and the largest difference of its outputs from torch's."""
    inputs, outputs = card.specs()
    from mm_perception.engines.load import open_float32

    engine = open_float32(path)
    if engine is None:
        return None, None
    try:
        check_specs((*inputs, *outputs), (*engine.inputs, *engine.outputs), f"exported {card.name}")
        tensors: dict[str, Array] = {name: value.numpy() for name, value in examples.items()}
        expected, got = TorchEngine(model, inputs, outputs).run(tensors), engine.run(tensors)
        largest = 0.0
        for spec in outputs:
            difference = float(np.abs(got[spec.name] - expected[spec.name]).max())
            limit = _tolerance(card) * max(1.0, float(np.abs(expected[spec.name]).max()))
            if difference > limit:
                raise ModelError(
                    f"exported {card.name}: {spec.name} of {engine.name} differs from torch's by {difference:.3g}, "
                    f"expected at most {limit:.3g}"
                )
            largest = max(largest, difference)
        return engine.name, largest
    finally:
        engine.close()


def _tolerance(card: WeightsCard) -> float:
    return TOLERANCES["detection" if isinstance(card, DetectorCard) else "segmentation"]
