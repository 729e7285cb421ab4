from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mm_perception.core.types import Detections3D
from mm_perception.engines.card import ModelCard, load_card
from mm_perception.sim.detection_frames import DetectionFrame
from mm_perception.sim.frames import jpeg_of
from mm_perception.training.samples import MemorySource, Sample

torch = pytest.importorskip("torch", reason="torch is not installed")

CLASSES = ("ground", "box")


@pytest.fixture(autouse=True)
def _quietly(one_thread):
    """Every test here runs on one core."""


@pytest.fixture
def make_card(tmp_path):
    """Writes a card of a tiny network with an input of 64x96 and reads it again."""

    def make(modality: str = "thermal", encoding: str = "agc", classes: tuple[str, ...] = CLASSES) -> ModelCard:
        path = tmp_path / f"toy-{modality}.yaml"
        path.write_text(
            f"name: toy-{modality}-untrained\nvariant: tiny\ndecoder_dim: 32\nclasses: [{', '.join(classes)}]\n"
            f"modality: {modality}\nencoding: {encoding}\ninput_height: 64\ninput_width: 96\nchannel_order: rgb\n"
            "trained: false\nweights: random:3\n"
        )
        return load_card(path)

    return make


@pytest.fixture
def make_source():
    """Boxes on noise. The box is bright in rgb, or in x alone; conditions alternate between day and night."""

    def make(count: int, seed: int, shown_in: str = "both", classes: tuple[str, ...] = CLASSES) -> MemorySource:
        generator = np.random.default_rng(seed)
        samples = []
        for i in range(count):
            rgb = generator.integers(60, 120, (64, 96, 3), np.uint8)
            x = generator.integers(60, 120, (64, 96, 3), np.uint8)
            labels = np.zeros((64, 96), np.uint8)
            top, left = int(generator.integers(0, 32)), int(generator.integers(0, 48))
            box = np.s_[top : top + int(generator.integers(16, 32)), left : left + int(generator.integers(24, 48))]
            labels[box] = 1
            x[box] += 110
            if shown_in == "both":
                rgb[box] += 110
            samples.append(Sample(rgb, x, labels, ("day", "night")[i % 2]))
        return MemorySource(samples, classes, "boxes")

    return make


@pytest.fixture
def array_folder(tmp_path) -> Path:
    """Ten frames as the simulator writes them; frame i is all i in rgb, 10 i in thermal and i % 2 in labels."""
    import json

    folder = tmp_path / "arrays"
    folder.mkdir()
    index = np.arange(10, dtype=np.uint8)
    np.save(folder / "rgb.npy", np.broadcast_to(index[:, None, None, None], (10, 64, 96, 3)))
    np.save(folder / "thermal.npy", np.broadcast_to(10 * index[:, None, None], (10, 64, 96)))
    np.save(folder / "labels.npy", np.broadcast_to(index[:, None, None] % 2, (10, 64, 96)))
    meta = {
        "classes": list(CLASSES),
        "palette": [[0, 0, 0], [255, 0, 0]],
        "conditions": ["day"] * 5 + ["night"] * 5,
        "encodings": {"thermal": "agc"},
        "description": "steps",
        "complete": True,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture
def frame():
    """Two cars full of points, before one camera and behind it; one that nothing sees."""
    generator = np.random.default_rng(0)
    centers = np.array([[12.0, 3.0, 0.0], [-15.0, -6.0, 0.2], [30.0, 30.0, 0.0]], np.float32)
    sizes, yaw = np.tile([4.4, 1.8, 1.5], (3, 1)).astype(np.float32), np.array([0.4, -2.0, 0.0], np.float32)
    local = generator.uniform(-0.5, 0.5, (2, 200, 3)) * sizes[:2, None]
    cos, sin = np.cos(yaw[:2, None]), np.sin(yaw[:2, None])
    xy = np.stack([cos * local[..., 0] - sin * local[..., 1], sin * local[..., 0] + cos * local[..., 1]], axis=-1)
    xyz = np.concatenate([xy, local[..., 2:]], axis=-1) + centers[:2, None]
    points = np.c_[xyz.reshape(-1, 3), np.full((400, 2), 0.1)].astype(np.float32)
    picture = np.zeros((256, 448, 3), np.uint8)
    picture[:, :224] = 200
    ahead = np.array([[224.0, -355, 0, 0], [128.0, 0, -355, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    boxes = Detections3D(
        centers, sizes, yaw, np.tile([[3.0, 1.0]], (3, 1)).astype(np.float32), np.ones(3, np.float32),
        np.zeros(3, np.int32), ("car",), "lidar", 0,
    )  # fmt: skip
    return DetectionFrame(
        (jpeg_of(picture),) * 6, np.stack([ahead] * 6), points, boxes, np.array([200, 200, 0]),
        np.array([1.0, 0.0, 0.1], np.float32), "day", 1,
    )  # fmt: skip
