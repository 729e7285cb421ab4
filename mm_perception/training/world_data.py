"""Training data from the simulated world: frames made once, encoded as the pipeline encodes them, kept as arrays.

The folder is what `sources.ArraySource` reads. It is whole when meta.json is there, which is written last; a run that
was cut short starts over. Of several runs that want the same folder, one makes it and the others wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError
from mm_perception.core.scratch import scratch_folder
from mm_perception.core.types import ThermalFrame
from mm_perception.engines.card import ModelCard
from mm_perception.engines.stamp import locked
from mm_perception.sensing.depth import raw_depth_image
from mm_perception.sensing.image import Placement
from mm_perception.sensing.thermal import thermal_image
from mm_perception.sim.frames import WORLD_VERSION, LabelledFrame, make_frames
from mm_perception.sim.surfaces import CLASSES, PALETTE

SETS = {"train": 0, "val": 1}
"""Sets of training worlds: what is trained on, and what chooses the best weights. (Judging uses other worlds.)"""

ENCODINGS = {"thermal": "agc", "depth": "raw"}

_FILES = {"meta.json", *(f"{name}.npy" for name in ("rgb", "thermal", "depth", "labels"))}
_LONGEST_WAIT_S = 24 * 3600.0


def check_card(card: ModelCard) -> None:
    """Raises ConfigError if frames of the world cannot train a network of this card."""
    if card.classes != CLASSES:
        raise ConfigError(f"model {card.name}: has other classes than the simulated world ({', '.join(CLASSES)})")
    if ENCODINGS.get(card.modality, "rgb") != card.encoding:
        known = ", ".join(f"{modality} {encoding}" for modality, encoding in [("rgb", "rgb"), *ENCODINGS.items()])
        raise ConfigError(
            f"model {card.name}: wants {card.modality} {card.encoding}; frames for training hold {known} "
            "(for others, train on a bag of `mm-perception simulate`)"
        )


def write_world_data(
    folder: Path,
    seed: int,
    count: int,
    height: int,
    width: int,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Makes `count` frames of height x width pixels, unless the folder holds exactly these already.

    Args:
        seed: which set of training worlds, see `sim.frames.make_frames`.
        workers: processes; None: one per core.

    Raises:
        ConfigError: a seed or count out of range, open3d is missing, or something else lies in the folder.
        EngineError: another process has been making the folder for a day.
        OSError: the folder cannot be written, or the disk is full.
    """
    with locked(folder, _LONGEST_WAIT_S):
        _write(folder, seed, count, height, width, workers, on_progress)


def _write(
    folder: Path, seed: int, count: int, height: int, width: int, workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    identity = {"world": WORLD_VERSION, "seed": seed, "frames": count, "height": height, "width": width}
    if _is_there(folder, identity):
        return
    _check_replaceable(folder)
    with scratch_folder(folder) as scratch:
        _fill(scratch, identity, workers, on_progress)
        _check_replaceable(folder)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)


def _check_replaceable(folder: Path) -> None:
    """Raises ConfigError if something else than frames of an older world lies there."""
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or there - _FILES):
        strange = min(there - _FILES, default="no folder of frames")
        raise ConfigError(f"{folder}: holds {strange}, expected frames that this command made; name another folder")
    if there and not _made_from(folder):
        raise ConfigError(
            f"{folder}: holds files that this command did not make; move them away, or name another folder"
        )


def _fill(
    scratch: Path, identity: dict[str, int], workers: int | None, on_progress: Callable[[int, int], None] | None
) -> None:
    seed, count, height, width = (identity[k] for k in ("seed", "frames", "height", "width"))
    frames = make_frames("train", seed, count, workers)
    shapes = {"rgb": (count, height, width, 3), "thermal": (count, height, width), "depth": (count, height, width),
              "labels": (count, height, width)}  # fmt: skip
    arrays = {name: _allocated(scratch / f"{name}.npy", shape) for name, shape in shapes.items()}
    conditions: list[str] = []
    for i, frame in enumerate(frames):
        for name, picture in encode_frame(frame, height, width).items():
            arrays[name][i] = picture
        conditions.append(frame.condition)
        if on_progress is not None:
            on_progress(i + 1, count)
    for array in arrays.values():
        array.flush()
    meta = {
        "classes": CLASSES, "palette": PALETTE, "conditions": conditions, "encodings": ENCODINGS,
        "description": f"{count} frames of the simulated world, training set {seed}", "complete": True,
        "made_from": identity,
    }  # fmt: skip
    (scratch / "meta.json").write_text(json.dumps(meta))


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A file of zeros that has its place on the disk: writing into a sparse one kills the process on a full disk."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _is_there(folder: Path, identity: dict[str, int]) -> bool:
    return _made_from(folder) == identity


def _made_from(folder: Path) -> object:
    """What a folder of frames was made from; None: it is no such folder."""
    try:
        return json.loads((folder / "meta.json").read_text())["made_from"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def encode_frame(frame: LabelledFrame, height: int, width: int) -> dict[str, NDArray[np.uint8]]:
    """The pictures of one frame as a network of that input size gets them, 8 bits each."""
    rows, columns = frame.class_ids.shape
    placement = Placement.fit(columns, rows, width, height, "stretch")
    thermal = ThermalFrame(frame.thermal.astype(np.float32), "counts", 0, "camera")
    depth_m = placement.resize(frame.depth_m, nearest=True, border=float("nan"))
    return {
        "rgb": placement.resize(frame.rgb),
        "thermal": _eight_bits(placement.resize(thermal_image(thermal, "agc"))[..., 0]),
        "depth": _eight_bits(raw_depth_image(depth_m)[..., 0]),
        "labels": placement.resize(frame.class_ids, nearest=True),
    }


def _eight_bits(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(values * 255.0), 0, 255), np.uint8)
