"""Scores of a model on a folder of labelled images, with any engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.datasets.folder import open_folder
from mm_perception.datasets.label_map import LabelMap, LabelOptions, scored_map, scored_rule
from mm_perception.datasets.layouts import Frame
from mm_perception.datasets.splits import choose_frames, find_list, listed_frames
from mm_perception.engines.card import MIN_SIDE_PX, ModelCard
from mm_perception.engines.engine import Engine
from mm_perception.engines.load import load_engine
from mm_perception.metrics.segmentation import ConfusionMatrix, MappedScores, mapped_scores
from mm_perception.training.folder_source import FolderReader
from mm_perception.training.samples import Sample, input_tensors, to_input

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of multi-scale evaluation, as the published CMX code has them; each image is mirrored, too."""
STEP_PX = 32
"""Sides of scaled inputs are multiples of it: the encoder's coarsest step."""


@dataclass(frozen=True, slots=True, eq=False)
class FolderScores:
    """What came out.

    Attributes:
        classes: names of the label map.
        frames: how many frames were scored.
        overall: scores over all of them.
        splits: frames and scores by condition or folder, where there are several.
        assumption: what was taken for granted about the labels; empty if nothing was.
    """

    classes: tuple[str, ...]
    frames: int
    overall: MappedScores
    splits: dict[str, tuple[int, MappedScores]]
    assumption: str

    def figures(self) -> dict[str, Any]:
        """As JSON: frames, miou, miou_present, accuracy, iou by class; the same for each split where there are some."""
        out = _figures(self.classes, self.frames, self.overall)
        if self.splits:
            out["splits"] = {name: _figures(self.classes, n, scores) for name, (n, scores) in self.splits.items()}
        return out


def score_folder(
    card: ModelCard,
    folder: Path,
    labels: LabelOptions,
    *,
    engine: str = "auto",
    split: Path | None = None,
    x_folder: str | None = None,
    multi_scale: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> FolderScores:
    """Segments every frame with a label file and compares at the size of its labels.

    Args:
        split: a list of frames; None: those of test.txt or a folder test, if any (then val), else all.
        multi_scale: sums the probabilities of `SCALES`, plain and mirrored, instead of one look.

    Raises:
        DataError: no frame can be scored, or a file cannot be read or holds a label that stands for nothing.
        ConfigError: the label map names a class that the model does not have, or the data set's classes are others.
        EngineError, ModelError: the model cannot be run.
    """
    found = open_folder(folder, x_folder)
    frames = _chosen(folder, found.frames, split)
    label_map = scored_map(found.classes, labels, card.classes, str(folder))
    rule = scored_rule(label_map, found.classes, labels)
    counted_as = label_map.predicted_as(card.classes, f"model {card.name}")
    reader = FolderReader(found, frames, card, rule, x_folder)
    groups = _groups(folder, frames, found.frames)
    total, parts = _matrix(label_map), {name: _matrix(label_map) for name in groups}
    with _Looks(card, engine, multi_scale) as looks:
        for i in range(len(reader)):
            sample = reader[i]
            predicted = counted_as[looks.segment(sample)]
            total.add(sample.labels, predicted)
            for name, members in groups.items():
                if i in members:
                    parts[name].add(sample.labels, predicted)
            if on_progress is not None:
                on_progress(i + 1, len(reader))
    if not total.counts.any():
        raise DataError(f"{folder}: no pixel of its {len(frames)} frames is labelled")
    splits = {name: (len(members), mapped_scores(parts[name].counts)) for name, members in groups.items()}
    return FolderScores(label_map.names, len(frames), mapped_scores(total.counts), splits, rule.assumption)


def _matrix(label_map: LabelMap) -> ConfusionMatrix:
    return ConfusionMatrix(len(label_map.classes) + 1)


def _chosen(folder: Path, frames: Sequence[Frame], split: Path | None) -> list[Frame]:
    if split is not None:
        chosen = listed_frames(split, folder, frames)
        without = [frame.key for frame in chosen if frame.labels is None]
        if without:
            raise DataError(f"{folder}: no label file for {', '.join(without[:5])}, which {split} lists")
        return chosen
    test = find_list(folder, "test.txt")
    if test is not None:
        chosen = listed_frames(test, folder, frames)
    elif any(frame.split == "test" and frame.labels is not None for frame in frames):
        chosen = [frame for frame in frames if frame.split == "test"]
    elif find_list(folder, "val.txt") or any(frame.split == "val" for frame in frames):
        chosen = choose_frames(folder, frames, "val")
    else:
        chosen = list(frames)
    chosen = [frame for frame in chosen if frame.labels is not None]
    if not chosen:
        raise DataError(f"{folder}: no label file for any of its {len(frames)} images")
    return chosen


def _groups(folder: Path, frames: Sequence[Frame], everything: Sequence[Frame]) -> dict[str, set[int]]:
    """Places of the frames of each condition: by lists such as test_day.txt, else by names and folders."""
    groups: dict[str, set[int]] = {}
    for name in ("day", "night"):
        path = next((p for p in (find_list(folder, f"{s}_{name}.txt") for s in ("test", "val")) if p), None)
        if path is not None:
            listed = {frame.key for frame in listed_frames(path, folder, everything)}
            groups[name] = {i for i, frame in enumerate(frames) if frame.key in listed}
    if not any(groups.values()):
        groups = {}
        for i, frame in enumerate(frames):
            if frame.condition:
                groups.setdefault(frame.condition, set()).add(i)
    return {name: members for name, members in sorted(groups.items()) if members}


def _figures(classes: Sequence[str], frames: int, scores: MappedScores) -> dict[str, Any]:
    return {
        "frames": frames,
        "miou": _rounded(scores.miou),
        "miou_present": _rounded(scores.miou_present),
        "accuracy": _rounded(scores.accuracy),
        "iou": {name: _rounded(float(value)) for name, value in zip(classes, scores.iou, strict=True)},
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


class _Looks:
    """The looks that are taken at each frame: one, or one per scale, plain and mirrored."""

    def __init__(self, card: ModelCard, engine: str, multi_scale: bool) -> None:
        self._mirrored = multi_scale
        if multi_scale and card.weights_path is not None and card.weights_path.suffix == ".onnx":
            raise ConfigError(
                f"model {card.name}: an .onnx file has one input size, --multi-scale needs {len(SCALES)}: take the "
                "card of the weights that it was exported from"
            )
        self._networks: list[tuple[ModelCard, Engine]] = []
        for scale in SCALES if multi_scale else (1.0,):
            scaled = card if scale == 1.0 else _scaled(card, scale)
            self._networks.append((scaled, load_engine(scaled, engine)))

    def __enter__(self) -> _Looks:
        return self

    def __exit__(self, *_: object) -> None:
        for _card, network in self._networks:
            network.close()

    def segment(self, sample: Sample) -> NDArray[np.uint8]:
        """(H, W) class ids at the size of the sample."""
        if len(self._networks) == 1 and not self._mirrored:
            card, network = self._networks[0]
            placed, placement = to_input(sample, card)
            ids = _logits(network, card, placed).argmax(axis=0).astype(np.uint8)
            return placement.restore(ids)
        height, width = sample.labels.shape
        total: NDArray[np.float32] | None = None
        for card, network in self._networks:
            for mirrored in (False, True):
                part = _probabilities(network, card, _mirror(sample) if mirrored else sample, (height, width))
                part = part[:, :, ::-1] if mirrored else part
                total = part.copy() if total is None else total + part
        assert total is not None
        return np.asarray(total.argmax(axis=0).astype(np.uint8))


def _scaled(card: ModelCard, scale: float) -> ModelCard:
    sides = [max(STEP_PX, MIN_SIDE_PX, int(side * scale / STEP_PX + 0.5) * STEP_PX) for side in card.input_size]
    return replace(card, input_height=sides[0], input_width=sides[1])


def _logits(network: Engine, card: ModelCard, placed: Sample) -> NDArray[np.float32]:
    rgb, x = input_tensors(placed, card)
    return np.asarray(network.run({"rgb": rgb, "x": x})["logits"][0], np.float32)


def _probabilities(network: Engine, card: ModelCard, sample: Sample, size: tuple[int, int]) -> NDArray[np.float32]:
    """(C, H, W) at the size of the labels."""
    placed, placement = to_input(sample, card)
    logits = _logits(network, card, placed)
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    inner = shares[
        :, placement.top : placement.top + placement.height, placement.left : placement.left + placement.width
    ]
    height, width = size
    grown = [cv2.resize(np.ascontiguousarray(one), (width, height), interpolation=cv2.INTER_LINEAR) for one in inner]
    return np.stack(grown).astype(np.float32)


def _mirror(sample: Sample) -> Sample:
    def flip(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(pixels[:, ::-1])

    return replace(sample, rgb=flip(sample.rgb), x=flip(sample.x), labels=flip(sample.labels))
