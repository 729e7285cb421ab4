"""One training of a detector from frames to its curve: where frames come from, and what a card must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.engines.card import IMAGENET_MEAN, IMAGENET_STD
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.metrics.detection import DetectionScores
from mm_perception.models.deepinteraction.model import DeepInteraction
from mm_perception.sim.actors import DETECTION_CLASSES
from mm_perception.sim.detection_frames import CAMERAS, cached_detection_frames, load_detection_frame
from mm_perception.sim.frames import WORLD_VERSION
from mm_perception.training.curve import LOSS, QUALITY, Row, draw_panels
from mm_perception.training.detection_loop import COLUMNS, DetectorTraining, StepReport
from mm_perception.training.detection_recipe import DetectorRecipe
from mm_perception.training.loop import choose_device, machine
from mm_perception.training.world_data import SETS

VAL_SHARE = 0.1
BAG_SUFFIXES = (".mcap", ".db3")


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Files of `DetectionFrame`s, and in a few words what they show."""

    files: tuple[Path, ...]
    description: str

    def __len__(self) -> int:
        return len(self.files)

    def __str__(self) -> str:
        return f"{self.description}, {len(self)} frames"


def world_frames(
    folder: Path, name: str, count: int, on_progress: Callable[[int, int], None] | None = None
) -> FrameSet:
    """Frames of simulated scenes, made on first use.

    Args:
        name: "train" or "val".

    Raises:
        ConfigError: the count is impossible, or open3d is missing.
    """
    if count < 1:
        raise ConfigError(f"expected frames to train and to validate with, got {count}")
    seed = SETS[name]
    files = cached_detection_frames(folder, "train", seed, count, on_progress)
    return FrameSet(tuple(files), f"the simulated world (version {WORLD_VERSION}), training set {seed}")


def frames_at(path: Path, on_progress: Callable[[int, int], None] | None = None) -> FrameSet:
    """All frames of a folder of .npz files, in the order of their names; each is read once.

    Raises:
        ConfigError: there is no such folder.
        DataError: there are no frames, or one is damaged.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: expected a bag ({', '.join(BAG_SUFFIXES)}), or a folder of frames (.npz)")
    files = tuple(sorted(path.glob("*.npz")))
    if not files:
        raise DataError(f"{path}: holds no frames (.npz)")
    for i, file in enumerate(files):
        load_detection_frame(file)
        if on_progress is not None:
            on_progress(i + 1, len(files))
    return FrameSet(files, path.name)


def without_last(frames: FrameSet) -> tuple[FrameSet, FrameSet]:
    """Frames to train with, and the last tenth to choose the best weights with: neighbours in time stay together.

    Raises:
        DataError: there are fewer than two.
    """
    count = max(1, round(VAL_SHARE * len(frames)))
    if len(frames) < 2:
        raise DataError(f"{frames.description}: expected at least 2 frames, got {len(frames)}")
    return (
        FrameSet(frames.files[:-count], f"{frames.description} but its end"),
        FrameSet(frames.files[-count:], f"the end of {frames.description}"),
    )


def check_card(card: DetectorCard) -> None:
    """Raises ConfigError if a training cannot give weights for this card."""
    problems = []
    if card.classes != DETECTION_CLASSES:
        problems.append(f"has other classes than the frames ({', '.join(DETECTION_CLASSES)})")
    if card.sizes.front_end != "pillars" or card.sizes.views != len(CAMERAS):
        problems.append(f"is trained with pillars and {len(CAMERAS)} cameras only")
    as_fed = (card.channel_order, card.image_mean, card.image_std)
    if as_fed != ("rgb", IMAGENET_MEAN, IMAGENET_STD) or card.published_decoder_quirk:
        problems.append("is trained with rgb, the mean and deviation of ImageNet and no published quirk only")
    if card.random_seed is None:
        problems.append("has weights of a file, but detectors are trained from random ones (--from-scratch)")
    if problems:
        raise ConfigError(f"model {card.name}: " + "; ".join(problems))


def check_size(card: DetectorCard, frames: FrameSet) -> None:
    """Raises ConfigError if the pictures are of another size than the card's."""
    shape = load_detection_frame(frames.files[0]).images()[0].shape[:2]
    if shape != card.input_size:
        raise ConfigError(f"model {card.name}: takes pictures of {card.input_size} px, the frames have {shape}")


def train_detector(
    card: DetectorCard,
    recipe: DetectorRecipe,
    train: FrameSet,
    val: FrameSet,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    tell: Callable[[StepReport], None] = lambda report: None,
) -> tuple[DeepInteraction, DetectionScores]:
    """Both stages; the best weights by mAP and their scores. Writes what `DetectorTraining` writes, and curve.png.

    Raises:
        ConfigError: card, device or threads cannot be used.
        DataError: a frame is damaged.
        TrainingError: the loss is not finite, or last.pt is absent, damaged or of another run.
    """
    check_card(card)
    for frames in (train, val):
        check_size(card, frames)
    place = choose_device(device)
    with machine(threads, place):
        run = DetectorTraining(card.sizes, recipe, train.files, val.files, out, device=str(place), resume=resume)
        try:
            scores = run.run(tell)
        finally:
            draw_detector_curve(run.at.rows, recipe, out / "curve.png")
        return run.network.eval(), scores


def draw_detector_curve(rows: Sequence[Row], recipe: DetectorRecipe, path: Path) -> None:
    """Draws loss and mAP over the steps of both stages, the second after the first.

    Args:
        rows: of `detection_loop.COLUMNS`.

    Raises:
        OSError: the picture cannot be written.
    """
    column = {name: i for i, name in enumerate(COLUMNS)}
    before = {"lidar": 0, "fusion": recipe.lidar_steps}

    def points(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        pairs = [
            (before[str(row[column["stage"]])] + float(row[column["step"]]), row[column[name]])
            for row in rows
            if row[column[name]] != ""
        ]
        return np.array(pairs, np.float64).reshape(-1, 2)

    draw_panels([("loss", points("loss"), LOSS), ("mAP of validation frames", points("mAP"), QUALITY)], path)
