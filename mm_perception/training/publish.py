"""A trained network as the files that are shipped: weights in half precision and their card.

Batch-norm statistics stay in float32: variances near zero would vanish in fp16.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mm_perception.core.errors import ConfigError, ModelError
from mm_perception.core.files import check_outputs
from mm_perception.core.scratch import scratch_file
from mm_perception.engines.card import CardT, ModelCard, WeightsCard, load_card, read_card, save_card
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
    place = device or torch.device("cpu")
    card = replace(
        base,
        name=published_name(base.name, name),
        palette=base.palette or source_train.palette,
        provenance=provenance(
            "segmentation", told(source_train), told(source_val), starting_weights(base), recipe.seed, recipe.digest()
        ),
    )
    figures: list[tuple[Evaluation, float]] = []

    def check(written: ModelCard) -> ModelCard:
        again = load_network(written)
        difference = _compare(model, again, written, source_val)
        evaluation = evaluate(again.to(place), written, source_val, place, recipe.batch_size)
        figures.append((evaluation, difference))
        return replace(written, measured=evaluation.figures())

    weights, card_file = write_checked(model, card, folder, check)
    return PublishReport(weights, card_file, load_card(card_file), *figures[0])


def published_name(base: str, given: str = "") -> str:
    """The new card's name: the given one, else the base's without "-untrained"."""
    return given or base.removesuffix("-untrained")


def check_published(folder: Path, name: str, base: WeightsCard, card: Path | str) -> None:
    """Refuses a name under which something else than an earlier end of this training lies.

    Args:
        base: the card that the training begins with; card: its file or name.

    Raises:
        ConfigError: the new weights or card would replace those that it begins with, or another's.
    """
    weights, card_file = folder / f"{name}.safetensors", folder / f"{name}.yaml"
    check_outputs({"weights": weights, "card": card_file}, (card, base.weights_path))
    if os.path.lexists(card_file):
        try:
            ours = "trained by `mm-perception train" in card_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            ours = False
        if not ours:
            raise ConfigError(f"{card_file}: no training made it; give the new card another --name")


def write_checked(model: nn.Module, card: CardT, folder: Path, check: Callable[[CardT], CardT]) -> tuple[Path, Path]:
    """Writes `<name>.safetensors` and `<name>.yaml`, which appear only when `check` has passed.

    A card of that name that lies there is removed before its weights are replaced: an interruption between leaves
    weights without a card, never a card of other weights.

    Args:
        card: whose `weights` and `trained` are filled in here.
        check: is given the card as it was read again, beside the weights that it names; returns it with its figures,
            or raises.

    Returns:
        The paths of both.

    Raises:
        ModelError: a weight does not fit fp16, or the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights, card_file = folder / f"{card.name}.safetensors", folder / f"{card.name}.yaml"
    with (
        scratch_file(weights, ".safetensors") as temporary,
        scratch_file(card_file, ".yaml") as temporary_card,
        scratch_file(card_file, ".yaml") as final_card,
    ):
        try:
            save_file(half_state(model), temporary)
        except SafetensorError as error:
            raise ModelError(f"{weights}: cannot be written ({error})") from error
        named = replace(  # type: ignore[type-var]
            card, weights=str(temporary.resolve()), weights_sha256=file_sha256(temporary), trained=True
        )
        save_card(named, temporary_card)
        checked = check(read_card(temporary_card, type(card)))
        save_card(replace(checked, weights=str(weights.resolve())), final_card)  # type: ignore[type-var]
        card_file.unlink(missing_ok=True)
        temporary.replace(weights)
        final_card.replace(card_file)
    return weights, card_file


def half_state(model: nn.Module) -> dict[str, Tensor]:
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


def told(source: SampleSource) -> str:
    """The frames in a few words."""
    return f"{source.description}, {len(source)} frames"


def starting_weights(base: WeightsCard) -> str:
    """What a training that began with this card began with."""
    return base.weights if base.weights_path is None else base.weights_path.name


def provenance(task: str, train: str, val: str, start: str, seed: int, recipe: str) -> str:
    """Where weights come from, for their card.

    Args:
        train, val: the frames in a few words. start: the first weights. recipe: its digest.
    """
    return (
        f"trained by `mm-perception train {task}` on {train}; best weights chosen on {val}; started from {start}; "
        f"seed {seed}; recipe {recipe}; commit {source_commit()}"
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
