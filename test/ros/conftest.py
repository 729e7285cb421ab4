from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")

from mm_perception.core.rig import load_rig
from mm_perception.ros.session import FusionSession


@pytest.fixture
def start_session(tmp_path: Path, small_card: Path):
    """A function that starts a fusion node process; every one is stopped at the end."""
    sessions: list[FusionSession] = []

    def start(rig: str = "demo", overlays: bool = True, **parameters: str) -> FusionSession:
        given = {
            "rig": rig,
            "model": str(small_card),
            "engine": "onnxruntime",
            "diagnostics_period_s": "0.1",
            "max_wait_ms": "5000.0",
        }
        sessions.append(
            FusionSession(load_rig(rig), given | parameters, tmp_path / f"node{len(sessions)}.log", overlays=overlays)
        )
        return sessions[-1]

    yield start
    for session in sessions:
        session.stop()
