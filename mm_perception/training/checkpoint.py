"""The state of a training run on disk: written whole or not at all, and bound to its card, recipe and frames."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mm_perception.core.config import to_mapping
from mm_perception.core.errors import TrainingError
from mm_perception.core.scratch import scratch_file
from mm_perception.engines.card import ModelCard
from mm_perception.models.checkpoint import load_tensors
from mm_perception.training.recipe import Recipe
from mm_perception.training.samples import SampleSource, source_digest

FORMAT = 1
CURVE_COLUMNS = ("step", "epoch", "share", "lr", "loss", "miou", "conditions")


@dataclass(slots=True)
class Progressed:
    """How far a run has come.

    Random numbers are no part of it: each is derived from seed, epoch, step or frame.

    Attributes:
        epoch, batch: finished epochs, and finished batches of the one after them.
        step: finished batches in all.
        elapsed_s: wall time spent, validation included.
        best_miou: of the weights in best.pt; -1 before the first validation.
        best_step: step after which they were taken.
        validation_s: wall time of the last validation.
        curve: rows of `CURVE_COLUMNS`; empty cells are "".
    """

    epoch: int
    batch: int
    step: int
    elapsed_s: float
    best_miou: float
    best_step: int
    validation_s: float
    curve: list[list[float | str]]


def run_identity(card: ModelCard, recipe: Recipe, train: SampleSource, val: SampleSource) -> dict[str, Any]:
    """What a checkpoint belongs to. Where the card's weights lie does not matter, their content does."""
    known = to_mapping(replace(card, weights=card.weights if card.weights_path is None else card.weights_path.name))
    return {
        "recipe": to_mapping(recipe),
        "card": known,
        "data": {"train": source_digest(train), "val": source_digest(val)},
    }


def write_atomically(content: dict[str, Any], path: Path) -> None:
    """Saves by torch under a temporary name, and renames when all of it is on the disk."""
    with scratch_file(path) as temporary:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises TrainingError if the file is missing, cut off, damaged or no checkpoint of this command."""
    if not path.is_file():
        raise TrainingError(f"checkpoint {path}: does not exist, there is nothing to resume")
    try:
        content = load_tensors(path, f"checkpoint {path}", TrainingError)
    except TrainingError as error:
        raise TrainingError(f"checkpoint {path}: is damaged or cut off; delete it to start anew ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"checkpoint {path}: is no checkpoint of format {FORMAT}")
    return content


def check_identity(expected: dict[str, Any], got: dict[str, Any], path: Path) -> None:
    """Raises TrainingError that names every setting in which the run on disk is another one."""
    lines = []
    for part in expected:
        mine, theirs = expected[part], got.get(part, {})
        for key in sorted(set(mine) | set(theirs)):
            if mine.get(key) != theirs.get(key):
                there, here = _short(theirs.get(key)), _short(mine.get(key))
                lines.append(f"{part}.{key}: expected {there} as in the checkpoint, got {here}")
    if lines:
        raise TrainingError(f"checkpoint {path}: belongs to another run\n  " + "\n  ".join(lines))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
