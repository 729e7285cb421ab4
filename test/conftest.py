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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests wait for who asks for them, as `.ci/run` does."""
    if os.environ.get("SLOW", "0") not in ("", "0"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: runs in CI and with make test SLOW=1"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded data and parity numbers, which is no part of the repository."""
    folder = Path(os.environ.get("MM_PERCEPTION_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"recorded data is not here ({folder})")
    return folder


@pytest.fixture(scope="module")
def micro():
    """A detector's sizes that train and run in a moment; cards find them as variant "micro"."""
    from dataclasses import replace

    from mm_perception.core.detector import VARIANTS

    with pytest.MonkeyPatch.context() as patch:
        sizes = replace(
            VARIANTS["tiny"], max_pillars=600, max_cells=400, pillar_dim=8, pyramid_dim=16, bev_channels=(8, 8, 8),
            bev_layers=(1, 1, 1), neck_dim=8, dim=16, hidden=16, inner=8, queries=12, radii=8, heights=2,
        )  # fmt: skip
        patch.setitem(VARIANTS, "micro", sizes)
        yield sizes


@pytest.fixture
def one_thread():
    """Torch keeps to one core while a test runs."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of an untrained thermal network with a small input, quick to export and to run."""
    path = tmp_path_factory.mktemp("card") / "small.yaml"
    path.write_text(
        f"name: small\nvariant: b0\ndecoder_dim: 64\nclasses: [{', '.join('abcdefghijklmnopqrs')}]\n"
        "modality: thermal\nencoding: agc\n"
        "input_height: 96\ninput_width: 128\nchannel_order: rgb\ntrained: false\nweights: random:3\n"
    )
    return path


@pytest.fixture(scope="session")
def demo_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames at 10 Hz of a simulated street by day: all five modalities and labels."""
    pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)
    from mm_perception.core.rig import load_rig
    from mm_perception.sim.scenario import Ego, Scenario
    from mm_perception.sim.simulate import simulate

    path = tmp_path_factory.mktemp("bag") / "street.mcap"
    scenario = Scenario(seed=1, traffic=0.5, parked=0.5, people=0.5, ego=Ego(speed_mps=6.0))
    simulate(scenario, load_rig("demo"), 0.6, path, workers=1)
    return path
