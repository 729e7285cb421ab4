"""The report folder: JSON for programs, Markdown and pictures for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.metrics.latency import LatencySummary
from mm_perception.metrics.segmentation import SegmentationScores

UNTRAINED = "The weights are random and untrained: the labels mean nothing."


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Writes a (H, W, 3) RGB image in the format of its suffix. Raises OSError."""
    data = encode_image_file(path, rgb)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def encode_image_file(path: Path, rgb: NDArray[np.uint8]) -> bytes:
    """A (H, W, 3) RGB image as a file of the format that a path's suffix names. Raises OSError."""
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise OSError(f"{path}: is of no image format that can be written, such as .png or .jpg") from error
    if not done:
        raise OSError(f"{path}: the image cannot be encoded")
    return data.tobytes()


def latency_rows(latency: Mapping[str, LatencySummary]) -> list[tuple[str, int, float, float]]:
    """(stage, count, median ms, 95th percentile ms) of each stage."""
    return [(stage, s.count, s.median_ms, s.p95_ms) for stage, s in latency.items()]


def scores_mapping(scores: SegmentationScores, classes: tuple[str, ...]) -> dict[str, Any]:
    """JSON form; NaN (a class that does not occur) becomes null."""

    def number(value: float) -> float | None:
        return None if math.isnan(value) else round(float(value), 6)

    return {
        "miou": number(scores.miou),
        "pixel_accuracy": number(scores.pixel_accuracy),
        "iou": {name: number(v) for name, v in zip(classes, scores.iou.tolist(), strict=True)},
    }


def write_report(folder: Path, title: str, facts: Mapping[str, Any], pictures: list[Path]) -> None:
    """Writes report.json (all facts) and report.md (the same for reading, with the pictures)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {title}", ""]
    if not facts.get("trained", True):
        lines += [f"**{UNTRAINED}**", ""]
    for key, value in facts.items():
        lines += _section(key, value)
    if pictures:
        lines += ["## Pictures", ""]
        lines += [f"![{p.stem}]({p.relative_to(folder).as_posix()})" for p in pictures]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _section(key: str, value: Any) -> list[str]:
    name = key.replace("_", " ")
    if isinstance(value, Mapping):
        rows = [f"- {k}: {_short(v)}" for k, v in value.items()]
        return [f"## {name.capitalize()}", "", *(rows or ["none"]), ""]
    return [f"- {name}: {_short(value)}", ""]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
