"""Both devices, and a scene of six cameras round a LiDAR."""

from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.detector import VARIANTS

SIZE = VARIANTS["tiny"].image_size


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, one_thread):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def lidar2img() -> np.ndarray:
    """(6, 4, 4) of cameras about 60 degrees apart, none of which is at a round place."""
    generator = np.random.default_rng(3)
    height, width = SIZE
    k = np.array([[width / 1.2, 0, width / 2 + 1.7], [0, width / 1.2, height / 2 - 2.3], [0, 0, 1]])
    out = np.tile(np.eye(4), (6, 1, 1))
    for i in range(6):
        angle = i * np.pi / 3 + generator.normal(0, 0.05)
        cos, sin = np.cos(angle), np.sin(angle)
        axes = np.array([[sin, -cos, 0], [0, 0, -1.0], [cos, sin, 0]])
        out[i, :3, :3] = k @ axes
        out[i, :3, 3] = k @ generator.normal(0, 0.3, 3)
    return out


def street_points(count: int, seed: int = 1) -> np.ndarray:
    """(count, 5) float32 ground and things on it, some of them out of range, with intensity and age."""
    generator = np.random.default_rng(seed)
    out = generator.uniform((-60, -60, -1.9, 0, 0), (60, 60, -1.7, 255, 0.3), (count, 5))
    things = generator.random(count) < 0.3
    out[things, :3] = generator.normal((8, 2, 0), (6, 6, 1), (int(things.sum()), 3))
    return out.astype(np.float32)


@pytest.fixture(scope="session")
def points_of():
    return street_points


@pytest.fixture(scope="session")
def augmentation() -> np.ndarray:
    """(4, 4): turned, mirrored, scaled and shifted."""
    out = np.eye(4)
    out[:2, :2] = 1.05 * np.array([[np.cos(0.6), np.sin(0.6)], [np.sin(0.6), -np.cos(0.6)]])
    out[2, 2] = 1.05
    out[:2, 3] = 0.4, -0.7
    return out
