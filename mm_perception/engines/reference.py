"""Reference inputs: what an engine is tried on before it is used.

Recorded ones are kept in an .npz file beside the engines and are the better judges; where there are none, inputs
that look like what the network sees are made from the card alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import ModelError
from mm_perception.core.limits import MAX_REFERENCE_BYTES
from mm_perception.core.scratch import scratch_file
from mm_perception.engines.card import ModelCard, WeightsCard
from mm_perception.engines.detector_card import DetectorCard
from mm_perception.engines.engine import Array, TensorSpec

SEED = 20220309


def made_inputs(card: WeightsCard, count: int = 1) -> list[dict[str, Array]]:
    """Inputs that look like what the network sees, the same ones each time.

    Segmentation: coloured rectangles with texture, the same ones in both pictures, normalised as the card says.
    Detection: places within maps and indices within their tables; the pictures are noise.
    """
    generator = np.random.default_rng(SEED)
    if isinstance(card, ModelCard):
        return [_segmentation_inputs(card, generator) for _ in range(count)]
    assert isinstance(card, DetectorCard)
    return [_detection_inputs(card, seed) for seed in range(count)]


def _segmentation_inputs(card: ModelCard, generator: np.random.Generator) -> dict[str, Array]:
    scene = _scene(card.input_height, card.input_width, generator)
    other = 1.0 - 0.7 * scene[..., ::-1] + 0.05 * generator.standard_normal(scene.shape)
    named = {
        "rgb": (scene, card.rgb_mean, card.rgb_std),
        "x": (scene if card.modality == "rgb" else other, card.x_mean, card.x_std),
    }
    return {
        name: np.ascontiguousarray(((np.clip(picture, 0, 1) - mean) / std).transpose(2, 0, 1)[None], np.float32)
        for name, (picture, mean, std) in named.items()
    }


def _scene(height: int, width: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """(height, width, 3) in 0..1: overlapping rectangles over a gradient."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows / height, columns / width, 1 - rows / height], axis=-1)
    for _ in range(40):
        h, w = (
            generator.integers(height // 12 + 1, height // 2 + 2),
            generator.integers(width // 12 + 1, width // 2 + 2),
        )
        top, left = generator.integers(-h // 2, height), generator.integers(-w // 2, width)
        inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
        picture[inside] = generator.uniform(0, 1, 3) + 0.1 * generator.standard_normal((int(inside.sum()), 3))
    return np.clip(picture + 0.02 * generator.standard_normal(picture.shape), 0, 1)


def _detection_inputs(card: DetectorCard, seed: int) -> dict[str, Array]:
    from mm_perception.models.deepinteraction.deploy import example_inputs

    made = example_inputs(card.sizes, seed)
    return {name: value.numpy() for name, value in made.items()}


def save_references(path: Path, samples: Sequence[Mapping[str, Array]]) -> None:
    """Writes samples of inputs, stacked along a new first axis, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    with scratch_file(path, ".npz") as temporary:
        np.savez_compressed(temporary, **stacked)  # type: ignore[arg-type]
        temporary.replace(path)


def check_unpacked(path: Path) -> None:
    """Raises ValueError for an archive of arrays that says that it unpacks to more than a set of inputs takes."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_REFERENCE_BYTES:
            raise ValueError(f"unpacks to more than {MAX_REFERENCE_BYTES} bytes")


def load_references(path: Path, specs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """The samples of a file.

    Raises:
        ModelError: it cannot be read, or is of another network's inputs.
    """
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as file:
            stacked = {name: file[name] for name in file.files}
    except Exception as error:  # damaged archives and headers end in many ways
        raise ModelError(f"reference inputs {path}: cannot be read ({error})") from error
    got = {name: TensorSpec(name, value.shape[1:], value.dtype.name) for name, value in stacked.items()}
    problems = [f"expected {spec}, got {got.get(spec.name)}" for spec in specs if got.get(spec.name) != spec]
    counts = {len(stacked[spec.name]) for spec in specs if spec.name in stacked}
    if problems or len(counts) != 1 or counts == {0}:
        raise ModelError(f"reference inputs {path}: are not this network's\n  " + "\n  ".join(problems))
    return [{spec.name: stacked[spec.name][i] for spec in specs} for i in range(counts.pop())]
