"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

from mm_perception import __version__
from mm_perception.engines.stamp import installed_version

PACKAGES = ("torch", "tensorrt", "tensorrt_rtx", "onnxruntime", "onnxruntime-gpu")
UNKNOWN = "unknown"
QUERY = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def cpu_name() -> str:
    """Model and number of cores."""
    models = re.findall(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return f"{models[0] if models else 'unknown CPU'}, {os.cpu_count()} cores"


def software() -> dict[str, str]:
    """Versions of this package and of the libraries that run networks; those that are not installed are left out."""
    versions = {package: installed_version(package) for package in PACKAGES}
    return {
        "mm_perception": __version__,
        "python": platform.python_version(),
        **{package: version for package, version in versions.items() if version != "none"},
    }


def driver_version() -> str:
    """Of the NVIDIA driver; a container may hide the kernel's own word on it."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d[\d.]*)\s", _read("/proc/driver/nvidia/version"), re.MULTILINE)
    if found:
        return found.group(1)
    try:
        told = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        told = []
    return told[0] if told else UNKNOWN


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
