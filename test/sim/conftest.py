"""Small worlds that several tests look at."""

from __future__ import annotations

import pytest

pytest.importorskip("open3d", reason="the simulated world needs open3d-cpu", exc_type=ImportError)

from mm_perception.sim.scenario import Scenario
from mm_perception.sim.world import World


@pytest.fixture(scope="session")
def city() -> World:
    """A busy street by day."""
    return World(Scenario(seed=5, condition="day"), duration_s=3.0)
