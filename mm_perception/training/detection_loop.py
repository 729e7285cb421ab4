"""The training loop of the detector: the LiDAR's stream first, then the fusion.

On a CPU a run gives the same weights for the same frames, recipe and number of threads, whether it is interrupted or
not: order, variation and start depend on seed, stage and step alone.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mm_perception.core.config import to_mapping
from mm_perception.core.detector import DetectorVariant
from mm_perception.core.errors import DataError, TrainingError
from mm_perception.core.scratch import scratch_file
from mm_perception.metrics.detection import DetectionMetric, DetectionScores, matched_frames
from mm_perception.metrics.nuscenes_format import scored_boxes
from mm_perception.models.checkpoint import read_state_dict
from mm_perception.models.deepinteraction.boxes import RawBoxes
from mm_perception.models.deepinteraction.decoder import Decoded
from mm_perception.models.deepinteraction.model import heatmap_layer, untrained_detector
from mm_perception.pipeline.detection_boxes import boxes_of
from mm_perception.replay.frame_view import frame_view
from mm_perception.sensing.detector_inputs import DetectorEncoder
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import DetectionFrame, load_detection_frame
from mm_perception.training.checkpoint import read_checkpoint, write_atomically
from mm_perception.training.detection_losses import detection_loss, hill_loss, image_hills
from mm_perception.training.detection_recipe import STAGES, DetectorRecipe, Stage
from mm_perception.training.detection_samples import DetectionSample, network_inputs, sample_of
from mm_perception.training.detection_targets import TargetGrid
from mm_perception.training.loop import check_folder, parameter_groups

FORMAT = 1
LOG_EVERY = 20  # steps
SAVE_EVERY_S = 120.0
COLUMNS = ("stage", "step", "rate", "loss", "heatmap", "classes", "boxes", "iou", "mAP", "NDS")
_LIDAR_STREAM = (
    "pts_middle_encoder", "pts_backbone", "pts_neck", "imgpts_neck.shared_conv_pts", "pts_bbox_head.heatmap_head.",
    "pts_bbox_head.class_encoding", "pts_bbox_head.decoder.", "pts_bbox_head.prediction_heads",
)  # fmt: skip


@dataclass(slots=True)
class Place:
    """How far a run has come.

    Attributes:
        stage: index into `STAGES`. step: finished steps of it.
        best: largest mAP of the stage's validations.
        rows: of the curve.
    """

    stage: int = 0
    step: int = 0
    best: float = -1.0
    elapsed_s: float = 0.0
    rows: list[list[float | str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepReport:
    """What is told after each step."""

    stage: Stage
    step: int
    steps: int
    loss: float
    seconds: float


def in_lidar_stream(name: str) -> bool:
    """Whether a parameter belongs to what the first stage trains and the second freezes."""
    return name.startswith(_LIDAR_STREAM)


class DetectorTraining:
    """One run in a folder: last.pt (all that going on needs), lidar.pt and fusion.pt (the best of each), curve.csv."""

    def __init__(
        self, variant: DetectorVariant, recipe: DetectorRecipe, train: Sequence[Path], val: Sequence[Path], out: Path,
        *, device: str = "cpu", resume: bool = False,
    ) -> None:  # fmt: skip
        """Args:
            train, val: files of `DetectionFrame`s.

        Raises:
            DataError: no frames.
            TrainingError: a run lies in `out` that is not to be resumed, or one of another recipe.
        """
        if not train or not val:
            raise DataError(f"detector training: expected frames, got {len(train)} and {len(val)}")
        self.variant, self.recipe, self.train, self.val, self.out = variant, recipe, list(train), list(val), out
        self.device = torch.device(device)
        self.encoder = DetectorEncoder(variant, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.grid = TargetGrid(variant.range_m, variant.bev_cells)
        self.network = untrained_detector(variant, len(DETECTION_CLASSES), recipe.seed).to(self.device)
        self.hills = heatmap_layer(variant.dim, len(DETECTION_CLASSES)).to(self.device)
        self.at = Place()
        self.identity = {"recipe": to_mapping(recipe), "frames": [len(train), len(val)], "variant": repr(variant)}
        self._parts: list[tuple[float, ...]] = []
        self._saved_at = time.monotonic()
        check_folder(out, resume)
        out.mkdir(parents=True, exist_ok=True)
        self._begin_stage()
        if resume:
            self._restore()

    @property
    def stage(self) -> Stage:
        return STAGES[self.at.stage]

    def run(self, tell: Callable[[StepReport], None] = lambda report: None) -> DetectionScores:
        """To the end of the last stage; the scores of the best weights on the validation frames."""
        while True:
            self._run_stage(tell)
            if self.at.stage + 1 == len(STAGES):
                break
            self.at.stage, self.at.step, self.at.best = self.at.stage + 1, 0, -1.0
            self._begin_stage()
            self.save()
        best = self.out / f"{self.stage}.pt"
        if best.is_file():
            self.network.load_state_dict(read_state_dict(best))
        return self.validate().scores()

    def _begin_stage(self) -> None:
        """Chooses what learns; the second stage goes on from the best weights of the first."""
        first = self.out / "lidar.pt"
        if self.stage == "fusion" and self.at.step == 0 and first.is_file():
            self.network.load_state_dict(read_state_dict(first))
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(in_lidar_stream(name) == (self.stage == "lidar"))
        groups = parameter_groups(nn.ModuleList([self.network, self.hills]), self.recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, self.recipe.rate(self.stage, 0))

    def _set_modes(self) -> None:
        """Frozen parts keep the statistics that they have learned."""
        self.network.train()
        if self.stage == "fusion":
            for name, module in self.network.named_modules():
                if in_lidar_stream(name + "."):
                    module.eval()

    def _run_stage(self, tell: Callable[[StepReport], None]) -> None:
        steps = self.recipe.steps(self.stage)
        while self.at.step < steps:
            begun = time.monotonic()
            loss = self._step()
            self.at.step += 1
            seconds = time.monotonic() - begun
            self.at.elapsed_s += seconds
            tell(StepReport(self.stage, self.at.step, steps, loss, seconds))
            if self.at.step % LOG_EVERY == 0:
                self._log()
            if self.at.step % self.recipe.val_every == 0 or self.at.step == steps:
                self._keep_best()
            if time.monotonic() - self._saved_at > SAVE_EVERY_S or self.at.step == steps:
                self.save()

    def _step(self) -> float:
        """One step of the optimiser. Raises TrainingError if the loss is not finite."""
        self._set_modes()
        rate = self.recipe.rate(self.stage, self.at.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for index, generator in self._chosen():
            sample = sample_of(load_detection_frame(self.train[index]), self.encoder, self.recipe.variation, generator)
            loss = self._loss(sample) / self.recipe.batch_size
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"{self.stage} step {self.at.step}: the loss is {loss.item()}; lower the rate")
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(learning, self.recipe.clip_norm)
        self.optimizer.step()
        return total

    def _chosen(self) -> list[tuple[int, np.random.Generator]]:
        """Frames of the coming step, each with its own generator: all frames of an epoch before the next begins."""
        size, count = self.recipe.batch_size, len(self.train)
        chosen = []
        for k in range(self.at.step * size, (self.at.step + 1) * size):
            order = np.random.default_rng((self.recipe.seed, self.at.stage, k // count)).permutation(count)
            generator = np.random.default_rng((self.recipe.seed, self.at.stage, k // count, k % count))
            chosen.append((int(order[k % count]), generator))
        return chosen

    def _loss(self, sample: DetectionSample) -> Tensor:
        images, lidar2img, lidar, maps = network_inputs(sample, self.device)
        network, plane = self.network, self.variant.plane
        if self.stage == "lidar":
            decoded = network.lidar_alone(lidar)
            kept = [torch.ones(1, self.variant.queries, dtype=torch.bool, device=self.device)]
            loss = detection_loss(decoded.heatmap_lidar, [decoded.first], kept, sample.truth, self.grid, plane)
            total = loss.total
        else:
            with torch.no_grad():
                bev = network.pts_middle_encoder(*lidar)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
                streams = network.streams(images, bev, maps)
            streams = type(streams)(*(stream.float() for stream in streams))
            decoded = network.pts_bbox_head(streams.image, streams.lidar, streams.fused, lidar2img)
            loss = detection_loss(decoded.heatmap_fused, decoded.layers, decoded.kept, sample.truth, self.grid, plane)
            shown = self.hills(streams.image_alone)
            wanted = image_hills(sample.places, sample.truth.labels, tuple(shown.shape[1:]))
            total = loss.total + self.recipe.image_hills * hill_loss(shown, torch.from_numpy(wanted).to(shown))
        parts = (total, loss.heatmap, loss.classes.sum(), loss.boxes.sum())
        self._parts.append((*(float(part.detach()) for part in parts), loss.iou))
        return total

    def _log(self) -> None:
        means = np.mean(self._parts, axis=0)
        self._parts.clear()
        rate = self.recipe.rate(self.stage, self.at.step - 1)
        self._record([self.stage, self.at.step, float(f"{rate:.4g}"), *(round(float(v), 5) for v in means), "", ""])

    def _record(self, row: list[float | str]) -> None:
        self.at.rows.append(row)
        with scratch_file(self.out / "curve.csv") as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([COLUMNS, *self.at.rows])
            temporary.replace(self.out / "curve.csv")

    def _keep_best(self) -> None:
        scores = self.validate().scores()
        blank: list[float | str] = [""] * 6
        self._record([self.stage, self.at.step, *blank, round(scores.mean_ap, 5), round(scores.nds, 5)])
        if scores.mean_ap > self.at.best:
            self.at.best = scores.mean_ap
            write_atomically({"state_dict": self.network.state_dict()}, self.out / f"{self.stage}.pt")

    def validate(self) -> DetectionMetric:
        """The validation frames, matched."""
        self.network.eval()
        pairs = []
        for path in self.val:
            frame = load_detection_frame(path)
            found = boxes_of(self.answer(frame), self.variant, DETECTION_CLASSES, "lidar", 0)
            pairs.append((scored_boxes(frame.boxes, frame.lidar_points), scored_boxes(found)))
        return matched_frames(pairs, DETECTION_CLASSES)

    def answer(self, frame: DetectionFrame) -> dict[str, np.ndarray]:
        """The network's outputs for a frame, at the current stage."""
        tensors = self.encoder.encode(frame_view(frame)).tensors
        sample = DetectionSample(tensors, None, np.zeros((0, 0, 2)), frame.condition)  # type: ignore[arg-type]
        images, lidar2img, lidar, maps = network_inputs(sample, self.device)
        with torch.inference_mode():
            if self.stage == "lidar":
                return outputs_of(decoded := self.network.lidar_alone(lidar), decoded.first)
            decoded = self.network(images, lidar, maps, lidar2img)
            return outputs_of(decoded, decoded.layers[-1])

    def save(self) -> None:
        """Writes last.pt."""
        content = {
            "format": FORMAT, "identity": self.identity, "at": asdict(self.at), "network": self.network.state_dict(),
            "hills": self.hills.state_dict(), "optimizer": self.optimizer.state_dict(), "parts": list(self._parts),
        }  # fmt: skip
        write_atomically(content, self.out / "last.pt")
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        path = self.out / "last.pt"
        content = read_checkpoint(path)
        for part, expected in self.identity.items():
            if content["identity"].get(part) != expected:
                raise TrainingError(f"checkpoint {path}: belongs to another run: its {part} differs")
        self.at = Place(**content["at"])
        self._begin_stage()
        self.network.load_state_dict(content["network"])
        self.hills.load_state_dict(content["hills"])
        self.optimizer.load_state_dict(content["optimizer"])
        self._parts = [tuple(part) for part in content["parts"]]


def outputs_of(decoded: Decoded, raw: RawBoxes) -> dict[str, np.ndarray]:
    """Arrays by name, as an engine gives them."""
    named = {**raw._asdict(), "prior": decoded.prior, "labels": decoded.labels}
    return {name: value.cpu().numpy() for name, value in named.items()}
