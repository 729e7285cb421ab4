"""The DDS profile with which commands send."""

from __future__ import annotations

import os

from mm_perception.core.resources import config_dir


def use_shipped_dds_profile() -> None:
    """Large messages of several sensors at one instant overflow Fast DDS's default shared memory; see
    docs/troubleshooting.md. Whoever has chosen a profile keeps it."""
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(config_dir() / "dds" / "fastdds.xml"))
