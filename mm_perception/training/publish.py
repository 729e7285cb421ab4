"""A trained network as the files that are shipped: weights in half precision and their card.

Batch-norm statistics stay in float32: variances near zero would vanish in fp16.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mm_perception.core.errors import ModelError
from mm_perception.engines.card import ModelCard, load_card, save_card
from mm_perception.engines.stamp import file_sha256
from mm_perception.engines.torch_engine import load_network
from mm_perception.models.cmx import Cmx
from mm_perception.training.batches import stack
from mm_perception.training.evaluate import Evaluation, evaluate
from mm_perception.training.recipe import Recipe
from mm_perception.training.samples import SampleSource, to_input

TOLERANCE = 0.02  # largest difference of fp16 and fp32 logits, of the largest logit
_COMPARED = 4  # validation frames on which they are compared
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True, eq=False)
class PublishReport:
    """What was written.

    Attributes:
        evaluation: of the written weights on the validation frames.
        max_abs_diff: of their logits from those in float32.
    """

    weights_path: Path
    card_path: Path
    card: ModelCard
    evaluation: Evaluation
    max_abs_diff: float


def publish(
    model: Cmx,
    base: ModelCard,
    source_train: SampleSource,
    source_val: SampleSource,
    recipe: Recipe,
    folder: Path,
    *,
    name: str = "",
    device: torch.device | None = None,
) -> PublishReport:
    """Writes `<name>.safetensors` and `<name>.yaml` into `folder` and checks them by reading both again.

    The card's `measured` figures are those of the written weights, not of the float32 ones. The card appears only
    after the checks.

    Args:
        model: on the CPU, in evaluation mode.
        base: the card that the training began with.
        name: of the new card; empty: the base's without "-untrained".
        device: where the validation frames are segmented; None: the CPU.

    Raises:
        ModelError: a weight does not fit fp16, the logits differ by more than `TOLERANCE`, or the file cannot be
            written.
    """
    name = name or base.name.removesuffix("-untrained")
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{name}.safetensors"
    temporary = folder / f".{name}.{os.getpid()}.tmp.safetensors"
    card = replace(
        base,
        name=name,
        trained=True,
        weights=str(temporary.resolve()),
        palette=base.palette or source_train.palette,
        provenance=_provenance(base, source_train, source_val, recipe),
    )
    try:
        try:
            save_file(half_state(model), temporary)
        except SafetensorError as error:
            raise ModelError(f"{weights}: cannot be written ({error})") from error
        card = replace(card, weights_sha256=file_sha256(temporary))
        again = load_network(card)
        difference = _compare(model, again, card, source_val)
        place = device or torch.device("cpu")
        evaluation = evaluate(again.to(place), card, source_val, place, recipe.batch_size)
        temporary.replace(weights)
    finally:
        temporary.unlink(missing_ok=True)
    card = replace(card, weights=str(weights.resolve()), measured=evaluation.figures())
    save_card(card, weights.with_suffix(".yaml"))
    return PublishReport(
        weights, weights.with_suffix(".yaml"), load_card(weights.with_suffix(".yaml")), evaluation, difference
    )


def half_state(model: Cmx) -> dict[str, Tensor]:
    """The network's tensors in fp16, batch-norm statistics in float32 and counters as they are.

    Raises:
        ModelError: a value is not finite or beyond the range of fp16 (65504).
    """
    halves = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            half = value.half()
            if not bool(torch.isfinite(half).all()):
                raise ModelError(f"weights {key}: expected finite values up to 65504, got {float(value.abs().max())}")
            value = value.float() if key.endswith(_STATISTICS) else half
        halves[key] = value.detach().cpu().contiguous()
    return halves


def _compare(model: Cmx, again: Cmx, card: ModelCard, source: SampleSource) -> float:
    """The largest difference of the logits of both on some validation frames. Raises ModelError."""
    samples = [to_input(source[i], card)[0] for i in range(min(_COMPARED, len(source)))]
    rgb, x, _ = stack(samples, card, torch.device("cpu"))
    with torch.inference_mode():
        expected, got = model.eval()(rgb, x), again(rgb, x)
    difference, limit = float((expected - got).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= limit:
        raise ModelError(
            f"{card.name}: logits of the fp16 weights differ from float32 by {difference:.3g}, "
            f"expected at most {limit:.3g}"
        )
    return difference


def _provenance(base: ModelCard, train: SampleSource, val: SampleSource, recipe: Recipe) -> str:
    start = base.weights if base.weights_path is None else base.weights_path.name
    return (
        f"trained by `mm-perception train segmentation` on {train.description}, {len(train)} frames; "
        f"best weights chosen on {val.description}, {len(val)} frames; started from {start}; seed {recipe.seed}; "
        f"recipe {recipe.digest()}; commit {source_commit()}"
    )


def source_commit() -> str:
    """The commit of this code, with "-dirty" where it was changed; "unknown" outside of a git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
