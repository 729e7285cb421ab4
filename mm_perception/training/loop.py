"""The training loop of CMX (arXiv:2203.04838, section IV): AdamW, poly rate, cross entropy.

On a CPU a run gives the same weights to the bit for the same card, frames, recipe and number of threads, whether it
is interrupted or not. On a GPU sums are ordered by chance; with a budget in minutes the steps follow the clock.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mm_perception.core.errors import ConfigError, DataError, ModelError, TrainingError
from mm_perception.core.types import IGNORE_LABEL
from mm_perception.engines.card import ModelCard
from mm_perception.engines.torch_engine import load_network
from mm_perception.models.checkpoint import load_checkpoint
from mm_perception.models.cmx import Cmx
from mm_perception.training.batches import epoch_order, stack, varied_sample
from mm_perception.training.checkpoint import (
    FORMAT,
    Progressed,
    check_identity,
    read_checkpoint,
    run_identity,
    write_atomically,
)
from mm_perception.training.curve import append_curve, draw_curve, write_curve
from mm_perception.training.evaluate import Evaluation, evaluate
from mm_perception.training.recipe import Recipe, learning_rate
from mm_perception.training.samples import Sample, SampleSource

SAVE_EVERY_S = 120.0
LOG_EVERY = 20  # steps
MAX_CLASS_WEIGHT = 20.0  # of the rarest class against the commonest: a handful of pixels must not lead the rest
_FETCHERS = 4  # threads that prepare frames for a GPU; on a CPU they would take the network's cores


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """What is told after each step.

    Attributes:
        share: of the run, 0..1.
        miou: of the last validation, None before it.
    """

    share: float
    step: int
    epoch: int
    loss: float
    lr: float
    miou: float | None
    elapsed_s: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """What a run gave.

    Attributes:
        model: the best weights by mIoU of the validation frames, on the CPU in evaluation mode.
        evaluation: of the last weights.
        seconds_per_step: median over the steps of this call, preparation of the frames included.
    """

    model: Cmx
    best_miou: float
    best_step: int
    steps: int
    elapsed_s: float
    seconds_per_step: float
    evaluation: Evaluation


OnProgress = Callable[[TrainingProgress], None]


def train(
    card: ModelCard,
    source_train: SampleSource,
    source_val: SampleSource,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    device: str = "auto",
    threads: int | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> TrainingResult:
    """Trains the card's network, from the card's weights.

    Writes into `out`: last.pt (everything that `resume` needs; after each epoch and about every two minutes),
    best.pt (weights of the best validation), curve.csv, curve.png. An interrupted call raises what interrupted
    it; what it had written can be resumed. Torch's global random state is left as it was.

    Args:
        resume: go on from last.pt; otherwise a finished or begun run in `out` is an error.
        device: auto (cuda where there is one), cpu, cuda or cuda:N.
        threads: CPU threads of the network; None: as torch is set.

    Raises:
        ConfigError: the device is not there, or threads is below 1.
        DataError: frames do not fit the card.
        ModelError: the card's weights cannot be loaded.
        TrainingError: the loss is not finite, or last.pt is absent, damaged or of another run.
    """
    place = choose_device(device)
    check_sources(card, source_train, source_val)
    check_folder(out, resume)
    out.mkdir(parents=True, exist_ok=True)
    with machine(threads, place):
        run = _Run(card, source_train, source_val, recipe, out, place, save_every_s)
        if resume:
            run.restore()
        return run.finish(on_progress or (lambda _: None))


RUN_FILES = ("last.pt", "best.pt", "lidar.pt", "fusion.pt", "curve.csv", "curve.png")
"""What trainings write into their folder, beside the published weights and card."""


def check_folder(out: Path, resume: bool, be_empty: bool = False) -> None:
    """Refuses a folder in which a training would replace what it did not make.

    Args:
        be_empty: refuse other files, too.

    Raises:
        TrainingError: a run lies in `out` that is not to be resumed, or something else.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out}: expected a folder for the run, got a file; choose another")
    if resume or not out.is_dir():
        return
    if (out / "last.pt").exists():
        raise TrainingError(f"{out / 'last.pt'}: a run is there already: resume it, or choose another folder")
    there = sorted(entry.name for entry in out.iterdir() if be_empty or entry.name in RUN_FILES)
    if there:
        raise TrainingError(f"{out}: expected a new or empty folder for the run, it holds {there[0]}; choose another")


def choose_device(name: str) -> torch.device:
    """Raises ConfigError if there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: expected auto, cpu or cuda, got {name!r}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device: {name!r} is not there")
    return device


def check_sources(card: ModelCard, *sources: SampleSource) -> None:
    """Raises DataError if a source is empty or has other classes than the card."""
    for source in sources:
        if len(source) == 0:
            raise DataError(f"{source.description}: no frames")
        if tuple(source.classes) != card.classes:
            raise DataError(
                f"{source.description}: classes: expected {', '.join(card.classes)} as on card {card.name}, "
                f"got {', '.join(source.classes)}"
            )


@contextlib.contextmanager
def machine(threads: int | None, device: torch.device) -> Iterator[None]:
    """Holds torch and OpenCV to some threads and keeps torch's random state; both are put back afterwards."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: expected at least 1, got {threads}")
    torch_before, cv_before = torch.get_num_threads(), cv2.getNumThreads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(threads or torch_before)
        cv2.setNumThreads(1)
        try:
            yield
        finally:
            torch.set_num_threads(torch_before)
            cv2.setNumThreads(cv_before)


def starting_network(card: ModelCard, recipe: Recipe) -> Cmx:
    """The card's network; weights for another number of classes give all but the last layer (fine-tuning).

    Raises:
        ModelError: the weights are missing or of another network.
    """
    path = card.weights_path
    if path is None or path.suffix == ".onnx":
        return load_network(card)
    model = load_checkpoint(
        path, num_classes=card.num_classes, decoder_dim=card.decoder_dim, seed=recipe.seed, new_head=True
    )
    if model.variant != card.variant:
        raise ModelError(f"model {card.name}: variant: expected {card.variant}, got {model.variant} in {path}")
    return model


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels with weight decay; biases and norms, which are vectors, without."""
    named = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def class_weights(source: SampleSource, num_classes: int) -> Tensor:
    """(C,) weights 1 / sqrt(share of pixels), 1 for the commonest class and at most `MAX_CLASS_WEIGHT`.

    Classes that do not occur get 1.
    """
    counts = np.zeros(256, np.int64)
    for i in range(len(source)):
        counts += np.bincount(source[i].labels.reshape(-1), minlength=256)
    counts = counts[:num_classes]
    weights = np.sqrt(counts.max() / np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, np.minimum(weights, MAX_CLASS_WEIGHT), 1.0).astype(np.float32))


class _Run:
    """One run: the network, its optimiser and how far they have come."""

    def __init__(
        self,
        card: ModelCard,
        train: SampleSource,
        val: SampleSource,
        recipe: Recipe,
        out: Path,
        device: torch.device,
        save_every_s: float,
    ) -> None:
        self.card, self.recipe, self.out, self.device = card, recipe, out, device
        self.source_train, self.source_val = train, val
        self.last, self.best, self.csv = out / "last.pt", out / "best.pt", out / "curve.csv"
        self.model = starting_network(card, recipe).requires_grad_(True).to(device).train()
        self.average = copy.deepcopy(self.model).requires_grad_(False) if recipe.ema_decay else None
        groups = parameter_groups(self.model, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, recipe.learning_rate, recipe.betas)
        self.autocast_dtype = _autocast_dtype(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype is torch.float16)
        weighted = recipe.class_weights == "sqrt_inverse"
        self.weights = class_weights(train, card.num_classes).to(device) if weighted else None
        self.identity = run_identity(card, recipe, train, val)
        self.at = Progressed(0, 0, 0, 0.0, -1.0, 0, 0.0, [])
        self.evaluation: Evaluation | None = None
        self.step_s: list[float] = []
        self._losses: list[float] = []
        self._save_every_s, self._saved_at = save_every_s, time.monotonic()
        self._clock = time.monotonic()

    # --- the course of the run

    def finish(self, tell: OnProgress) -> TrainingResult:
        """Runs to the end."""
        write_curve(self.at.curve, self.csv)
        self._clock = time.monotonic()
        validated_at = -1
        while not self.done():
            self._epoch(tell)
            if self.at.batch == 0 and self.at.epoch % self.recipe.val_every == 0:
                self.validate()
                validated_at = self.at.step
            self.save()
        if validated_at != self.at.step:
            self.validate()
            self.save()
        draw_curve(self.at.curve, self.out / "curve.png")
        assert self.evaluation is not None
        return TrainingResult(
            self._best_model(),
            self.at.best_miou,
            self.at.best_step,
            self.at.step,
            self.at.elapsed_s,
            float(np.median(self.step_s)) if self.step_s else float("nan"),
            self.evaluation,
        )

    def share(self) -> float:
        """How much of the run is done, 0..1, in the middle of the coming step."""
        if self.recipe.minutes is not None:
            return min(1.0, self.at.elapsed_s / (60.0 * self.recipe.minutes))
        per_epoch = len(epoch_order(len(self.source_train), self.recipe, 0))
        return (self.at.step + 0.5) / (per_epoch * self.recipe.epochs)

    def done(self) -> bool:
        """Whether the last step was the last; of a budget the time of a closing validation is kept back."""
        if self.recipe.minutes is not None:
            return self.at.elapsed_s + self.at.validation_s >= 60.0 * self.recipe.minutes
        return self.at.epoch >= self.recipe.epochs

    def _epoch(self, tell: OnProgress) -> None:
        """The batches of the current epoch that are not done yet, until the run is done."""
        order = epoch_order(len(self.source_train), self.recipe, self.at.epoch)
        begun = time.monotonic()
        for samples in self._fetched(order[self.at.batch :]):
            share = self.share()
            rate = learning_rate(self.recipe, share)
            loss = self.step(samples, rate)
            self.at.step += 1
            self.at.batch += 1
            self._tick()
            self.step_s.append(time.monotonic() - begun)
            self._log(share, rate, loss)
            tell(TrainingProgress(share, self.at.step, self.at.epoch, loss, rate, self._last_miou(), self.at.elapsed_s))
            if self.at.batch < len(order) and time.monotonic() - self._saved_at >= self._save_every_s:
                self.save()
            if self.recipe.minutes is not None and self.done():
                break
            begun = time.monotonic()
        if self.at.batch == len(order):
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0

    def _fetched(self, batches: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> Iterator[list[Sample]]:
        """The varied frames of each batch, in order; for a GPU one batch ahead."""
        epoch = self.at.epoch

        def one(index: int) -> Sample:
            return varied_sample(self.source_train, index, self.card, self.recipe, epoch)

        if self.device.type == "cpu":
            for batch in batches:
                yield [one(int(i)) for i in batch]
            return
        with ThreadPoolExecutor(_FETCHERS) as pool:
            ahead = [pool.submit(one, int(i)) for batch in batches[:1] for i in batch]
            for following in [*batches[1:], np.zeros(0, np.int64)]:
                current, ahead = ahead, [pool.submit(one, int(i)) for i in following]
                yield [future.result() for future in current]

    def step(self, samples: list[Sample], rate: float) -> float:
        """One step of the optimiser; returns the loss.

        Raises:
            TrainingError: it is not finite.
        """
        rgb, x, labels = stack(samples, self.card, self.device)
        if bool((labels == IGNORE_LABEL).all()):
            return float("nan")  # nothing to learn from: crops of borders or of unlabelled ground
        # Dropout must not depend on what was drawn before an interruption.
        torch.manual_seed(int(np.random.SeedSequence((self.recipe.seed, self.at.step)).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            logits = self.model(rgb, x)
        loss = F.cross_entropy(
            logits.float(),
            labels,
            self.weights,
            ignore_index=IGNORE_LABEL,
            label_smoothing=self.recipe.label_smoothing,
        )
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"step {self.at.step}: the loss is {value} at a learning rate of {rate:.3g}: lower it, or set clip_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._follow()
        return value

    def _follow(self) -> None:
        """Moves the averaged weights; early in a run the average is short, so that the start is forgotten."""
        if self.average is None:
            return
        decay = min(self.recipe.ema_decay, (1.0 + self.at.step) / (10.0 + self.at.step))
        with torch.no_grad():
            pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
            for mean, value in pairs:
                if mean.is_floating_point():
                    mean.lerp_(value, 1.0 - decay)
                else:
                    mean.copy_(value)

    # --- what is measured and kept

    def validate(self) -> None:
        """Scores the weights, and keeps them where they are the best so far."""
        begun = time.monotonic()
        model = self.average or self.model
        self.evaluation = evaluate(model, self.card, self.source_val, self.device, self.recipe.batch_size)
        miou = self.evaluation.overall.miou
        if miou > self.at.best_miou:
            self.at.best_miou, self.at.best_step = miou, self.at.step
            write_atomically({"state_dict": model.state_dict()}, self.best)
        self.at.validation_s = time.monotonic() - begun
        self._tick()
        conditions = " ".join(f"{n}={s.miou:.4f}" for n, s in self.evaluation.by_condition.items())
        self._record([self.at.step, self.at.epoch, "", "", "", round(miou, 6), conditions])

    def _log(self, share: float, rate: float, loss: float) -> None:
        if np.isfinite(loss):
            self._losses.append(loss)
        if self.at.step % LOG_EVERY == 0 and self._losses:
            mean = float(np.mean(self._losses))
            self._record([self.at.step, self.at.epoch, round(share, 6), float(f"{rate:.6g}"), round(mean, 6), "", ""])
            self._losses.clear()

    def _record(self, row: list[float | str]) -> None:
        self.at.curve.append(row)
        append_curve(row, self.csv)

    def _last_miou(self) -> float | None:
        return None if self.evaluation is None else self.evaluation.overall.miou

    def _tick(self) -> None:
        now = time.monotonic()
        self.at.elapsed_s += now - self._clock
        self._clock = now

    def save(self) -> None:
        """Writes last.pt."""
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "at": asdict(self.at),
            "losses": list(self._losses),
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        write_atomically(content, self.last)
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Goes back to last.pt. Raises TrainingError if it is absent, damaged or of another run."""
        content = read_checkpoint(self.last)
        check_identity(self.identity, content["identity"], self.last)
        if content["at"]["best_step"] and not self.best.is_file():
            raise TrainingError(f"checkpoint {self.last}: {self.best.name}, which belongs to it, does not exist")
        self.model.load_state_dict(content["model"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.at = Progressed(**content["at"])
        self._losses = list(content["losses"])

    def _best_model(self) -> Cmx:
        return load_network(replace(self.card, weights=str(self.best.resolve()), weights_sha256=None)).eval()


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Half precision of a GPU; a CPU computes in float32."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
