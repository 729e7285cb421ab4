from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(autouse=True)
def _quietly(one_thread):
    """Every test here runs on one core."""


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data that lies beside a checkout; skips where there is none."""
    default = Path(__file__).resolve().parents[2].parent / "shared"
    path = Path(os.environ.get("MM_PERCEPTION_SHARED", default))
    if not path.is_dir():
        pytest.skip(f"no reference data in {path} (set MM_PERCEPTION_SHARED)")
    return path
