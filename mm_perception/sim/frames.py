"""Labelled frames of a front head in many small worlds: what networks are trained and judged on.

Frame i of a seed is the same wherever and in whatever order it is made. Training and judging draw from separate ranges
of world seeds, so no street of the one is in the other.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.rig import load_rig
from mm_perception.core.scratch import scratch_file
from mm_perception.sim.conditions import CONDITIONS, ConditionName, make_environment
from mm_perception.sim.rig import SimRig, simulated_rig
from mm_perception.sim.scenario import Ego, Scenario, Style
from mm_perception.sim.sensors import Sensors
from mm_perception.sim.workers import prepare_nothing, worker_pool
from mm_perception.sim.world import World

T = TypeVar("T")
Split = Literal["train", "held-out"]
FRAMES_PER_WORLD = 7
SECONDS_BETWEEN = 3.1
JPEG_QUALITY = 90
WORLD_VERSION = 2
"""To be raised when the same seed gives other frames, so that caches are not mistaken for them."""

_FIRST_SEED: dict[str, int] = {"train": 1_000_000, "held-out": 1_500_000_000}
_SEEDS_PER_SET = 100_000
_STYLES: tuple[Style, ...] = ("urban", "residential", "rural")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """One view of the head: the pixel grids are the same.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth_m: (H, W) float32 [m], NaN in holes.
        thermal: (H, W) uint16 counts.
        class_ids: (H, W) uint8, index into `surfaces.CLASSES`, 255: no class.
        world_seed: of the scenario.
    """

    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    thermal: NDArray[np.uint16]
    class_ids: NDArray[np.uint8]
    condition: ConditionName
    world_seed: int


def make_frames(
    split: Split, seed: int, count: int, workers: int | None = None, conditions: Sequence[ConditionName] = CONDITIONS
) -> Iterator[LabelledFrame]:
    """Makes frames in order.

    Args:
        split: which range of worlds.
        seed: which set of worlds within the range, 0..999.
        workers: processes; None: one per core.
        conditions: taken in turn, so that each has its share.

    Raises:
        ConfigError: a seed or count out of range.
    """
    yield from frames_of_worlds(_world_frames, split, seed, count, workers, conditions)


def frames_of_worlds(
    make: Callable[[Split, int, int, Sequence[ConditionName], int], list[T]],
    split: Split,
    seed: int,
    count: int,
    workers: int | None = None,
    conditions: Sequence[ConditionName] = CONDITIONS,
) -> Iterator[T]:
    """Runs `make(split, seed, index of the world, conditions, frames)` for world after world, in order.

    Args: see `make_frames`.
    """
    worlds = -(-count // FRAMES_PER_WORLD)
    if not 0 <= seed < 1000 or not 0 < worlds <= _SEEDS_PER_SET:
        raise ConfigError(f"expected a seed in 0..999 and a count in 1..{_SEEDS_PER_SET * FRAMES_PER_WORLD}")
    jobs = [
        (split, seed, i, tuple(conditions), min(FRAMES_PER_WORLD, count - i * FRAMES_PER_WORLD)) for i in range(worlds)
    ]
    workers = workers or os.cpu_count() or 1
    if workers == 1 or worlds == 1:
        for job in jobs:
            yield from make(*job)
        return
    with worker_pool(workers, prepare_nothing) as pool:  # and the queue must not hold all frames at once
        pending = []
        for job in jobs:
            pending.append(pool.submit(make, *job))
            if len(pending) > 2 * workers:
                yield from pending.pop(0).result()
        for future in pending:
            yield from future.result()


def _head() -> SimRig:
    """The first camera of the simulated vehicle, alone."""
    rig = simulated_rig(load_rig("sim"))
    return SimRig(rig.config, rig.cameras[:1], ())


def draw_world(split: Split, seed: int, index: int) -> tuple[World, np.random.Generator]:
    """One world of a set, and the generator that goes on to draw its conditions."""
    world_seed = _FIRST_SEED[split] + seed * _SEEDS_PER_SET + index
    generator = np.random.default_rng([world_seed, 1])
    scenario = Scenario(
        seed=world_seed,
        style=_STYLES[generator.choice(3, p=[0.45, 0.35, 0.2])],
        ego=Ego(speed_mps=float(generator.uniform(3, 13)), lane=int(generator.integers(2))),
        traffic=float(generator.uniform(0.6, 1.6)),
        parked=float(generator.uniform(0.3, 1.4)),
        people=float(generator.uniform(0.6, 2.2)),
    )
    return World(scenario, duration_s=(FRAMES_PER_WORLD + 1) * SECONDS_BETWEEN), generator


def frame_time_s(number: int) -> float:
    """When a world's frames are taken."""
    return 0.5 + number * SECONDS_BETWEEN


def set_condition(world: World, condition: ConditionName, time_s: float, generator: np.random.Generator) -> None:
    """Changes a world's light and weather."""
    heading = world.road.heading(world.ego.at(time_s)[0])
    world.environment = make_environment(condition, generator, heading)


def _world_frames(
    split: Split, seed: int, index: int, conditions: Sequence[ConditionName], count: int
) -> list[LabelledFrame]:
    world, generator = draw_world(split, seed, index)
    world_seed = world.scenario.seed
    sensors = Sensors(world, _head(), world_seed)
    frames = []
    for i in range(count):
        condition, time_s = conditions[(i + index) % len(conditions)], frame_time_s(i)
        set_condition(world, condition, time_s, generator)
        scene = sensors.scene(time_s)
        frame = sensors.frame(scene, sensors.view(scene, sensors.rig.cameras[0]), i)
        assert frame.depth_m is not None and frame.thermal is not None
        depth_m = depth_of_millimetres(millimetres(frame.depth_m))
        frames.append(LabelledFrame(frame.rgb, depth_m, frame.thermal, frame.class_ids, condition, world_seed))
    return frames


def millimetres(depth_m: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Depth as 16UC1 messages hold it (REP 118): millimetres, 0 where there is none."""
    return np.where(np.isfinite(depth_m), np.rint(np.nan_to_num(depth_m) * 1000.0), 0).astype(np.uint16)


def depth_of_millimetres(values: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The inverse of `millimetres`."""
    return np.asarray(np.where(values > 0, values.astype(np.float32) / np.float32(1000.0), np.nan), np.float32)


def jpeg_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of a (H, W, 3) picture as a jpeg."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].reshape(-1)


def save_frame(frame: LabelledFrame, path: Path) -> None:
    """Writes one frame without loss; the file appears whole or not at all."""
    pictures: dict[str, NDArray[Any]] = {
        "rgb": frame.rgb[..., ::-1],
        "depth": millimetres(frame.depth_m),
        "thermal": frame.thermal,
        "labels": frame.class_ids,
    }
    packed: dict[str, Any] = {
        name: cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1] for name, picture in pictures.items()
    }
    write_arrays(path, condition=np.array(frame.condition), world_seed=np.array(frame.world_seed), **packed)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes an .npz file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_file(path, ".npz") as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)


def load_frame(path: Path) -> LabelledFrame:
    """Reads what `save_frame` wrote.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(path) as file:
            names = ("rgb", "depth", "thermal", "labels")
            read: dict[str, Any] = {k: cv2.imdecode(file[k], cv2.IMREAD_UNCHANGED) for k in names}
            condition, world_seed = str(file["condition"]), int(file["world_seed"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, cv2.error) as error:
        raise DataError(f"{path}: is no frame ({error}); remove it") from error
    rgb = np.ascontiguousarray(read["rgb"][..., ::-1])
    depth_m = depth_of_millimetres(read["depth"])
    return LabelledFrame(rgb, depth_m, read["thermal"], read["labels"], cast(ConditionName, condition), world_seed)


def cached_frames(
    folder: Path, split: Split, seed: int, count: int, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[LabelledFrame]:
    """As `make_frames`, but frames that lie in `folder` already are read, and new ones are kept there."""
    place = folder / f"{split}-{seed}-{WORLD_VERSION}"
    for path in cached_files(place, count, lambda: make_frames(split, seed, count), save_frame, on_progress):
        yield load_frame(path)


def cached_files(
    folder: Path,
    count: int,
    make: Callable[[], Iterator[T]],
    save: Callable[[T, Path], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """The files of `count` frames in a folder. If any is missing, all are made (each follows from those before it in
    its world), and what is missing is saved."""
    paths = [folder / f"{i:06d}.npz" for i in range(count)]
    if any(not path.is_file() for path in paths):
        for i, frame in enumerate(make()):
            if not paths[i].is_file():
                save(frame, paths[i])
            if on_progress is not None:
                on_progress(i + 1, count)
    return paths
