"""Settings that every test shares: an own DDS domain, an own cache, and where recorded data may lie."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Runs on one machine must not hear each other; 1..101 are the domains whose ports lie below the ephemeral ones.
os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
_cache = tempfile.TemporaryDirectory(prefix="mm_perception-cache-")
os.environ["MM_PERCEPTION_CACHE"] = _cache.name


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded data and parity numbers, which is no part of the repository."""
    folder = Path(os.environ.get("MM_PERCEPTION_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"recorded data is not here ({folder})")
    return folder


@pytest.fixture(scope="session")
def small_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of an untrained thermal network with a small input, quick to export and to run."""
    path = tmp_path_factory.mktemp("card") / "small.yaml"
    path.write_text(
        "name: small\nvariant: b0\ndecoder_dim: 64\nclasses: [a, b, c, d, e, f, g, h, i]\n"
        "modality: thermal\nencoding: kelvin\n"
        "input_height: 96\ninput_width: 128\nchannel_order: rgb\ntrained: false\nweights: random:3\n"
    )
    return path


@pytest.fixture(scope="session")
def demo_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of the demo street, all five modalities and labels."""
    from mm_perception.sim.demo_bag import write_demo_bag

    path = tmp_path_factory.mktemp("bag") / "street.mcap"
    write_demo_bag(path, frames=6, seed=1)
    return path
