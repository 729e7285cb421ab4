"""Boxes as nuScenes' JSON holds them: reading truth and predictions, writing a submission.

A sample is a list of boxes with `translation` (x, y, z of the middle [m]), `size` (width, length, height [m]),
`rotation` (quaternion w, x, y, z), `velocity` (vx, vy [m/s]), `detection_name`, `attribute_name`, and of predictions
`detection_score`; the metric also reads `ego_translation` (from the vehicle to the box [m]) and, of truth, `num_pts`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.core.errors import DataError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform
from mm_perception.metrics.detection import MOST_PER_FRAME, ScoredBoxes

_LENGTHS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2, "ego_translation": 3}
_MOVING_MPS = 0.2


def read_samples(path: Path, truth: bool) -> dict[str, ScoredBoxes]:
    """Boxes by sample.

    Args:
        truth: whether points are asked for, and not scores.

    Raises:
        DataError: the file is missing, is no JSON of this form, or holds impossible values (the place is named).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, Mapping) or not all(isinstance(rows, list) for rows in content.values()):
        raise DataError(f"{path}: expected a mapping from samples to lists of boxes")
    samples = {}
    for token, rows in content.items():
        try:
            samples[str(token)] = _boxes(rows, truth)
        except DataError as error:
            raise DataError(f"{path}: sample {token}: {error}") from error
    return samples


def _boxes(rows: list[Any], truth: bool) -> ScoredBoxes:
    columns: dict[str, list[Any]] = {name: [] for name in (*_LENGTHS, "names", "attributes", "scores", "points")}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"box {i}: expected a mapping, got {type(row).__name__}")
        for name, length in _LENGTHS.items():
            columns[name].append(_numbers(row, name, length, i))
        columns["names"].append(str(_entry(row, "detection_name", i)))
        columns["attributes"].append(str(row.get("attribute_name", "")))
        columns["scores"].append(0.0 if truth else _number(_entry(row, "detection_score", i), "detection_score", i))
        columns["points"].append(int(_number(_entry(row, "num_pts", i), "num_pts", i)) if truth else 0)
    count = len(rows)
    table = {name: np.array(columns[name], np.float64).reshape(count, length) for name, length in _LENGTHS.items()}
    return ScoredBoxes(
        table["translation"], table["size"][:, [1, 0, 2]], _yaw(table["rotation"]), table["velocity"],
        np.array(columns["names"], dtype=str), np.array(columns["scores"], np.float64),
        np.array(columns["attributes"], dtype=str), np.linalg.norm(table["ego_translation"][:, :2], axis=1),
        np.array(columns["points"], np.int64) if truth else None,
    )  # fmt: skip


def _entry(row: Mapping[str, Any], name: str, i: int) -> Any:
    if name not in row:
        raise DataError(f"box {i}: {name} is missing")
    return row[name]


def _number(value: Any, name: str, i: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"box {i}: {name}: expected a number, got {value!r}")
    return float(value)


def _numbers(row: Mapping[str, Any], name: str, length: int, i: int) -> list[float]:
    values = _entry(row, name, i)
    if not isinstance(values, list) or len(values) != length:
        raise DataError(f"box {i}: {name}: expected {length} numbers, got {values!r}")
    return [_number(value, name, i) for value in values]


def _yaw(rotation: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N,) heading of the box's x axis over the ground."""
    w, x, y, z = rotation.T
    return np.asarray(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def scored_boxes(boxes: Detections3D, points: np.ndarray[Any, np.dtype[np.int64]] | None = None) -> ScoredBoxes:
    """Boxes in the vehicle's frame for the metric.

    Args:
        points: LiDAR returns, of truth.
    """
    names = np.array([boxes.classes[i] for i in boxes.labels], dtype=str)
    return ScoredBoxes(
        boxes.centers.astype(np.float64), boxes.sizes_lwh.astype(np.float64), boxes.yaw_rad.astype(np.float64),
        boxes.velocity.astype(np.float64), names, boxes.scores.astype(np.float64),
        np.full(len(names), "", dtype=object).astype(str), np.linalg.norm(boxes.centers[:, :2].astype(float), axis=1),
        points,
    )  # fmt: skip


def submission(
    samples: Mapping[str, tuple[Detections3D, RigidTransform]], *, camera: bool = True, lidar: bool = True
) -> dict[str, Any]:
    """Detections as a nuScenes submission: at most 500 per sample, the best ones.

    Args:
        samples: by sample token, boxes and the transform that takes them to the map's frame.
    """
    meta = {"use_camera": camera, "use_lidar": lidar, "use_radar": False, "use_map": False, "use_external": False}
    results = {token: _rows(token, boxes, pose) for token, (boxes, pose) in samples.items()}
    return {"meta": meta, "results": results}


def _rows(token: str, boxes: Detections3D, global_from: RigidTransform) -> list[dict[str, Any]]:
    order = np.argsort(-boxes.scores, kind="stable")[:MOST_PER_FRAME]
    centers = global_from.apply(boxes.centers.astype(np.float64))
    turn = global_from.rotation
    heading = math.atan2(turn[1, 0], turn[0, 0])
    rows = []
    for i in order:
        length, width, height = (float(v) for v in boxes.sizes_lwh[i])
        half = (float(boxes.yaw_rad[i]) + heading) / 2
        velocity = turn[:2, :2] @ boxes.velocity[i].astype(np.float64)
        name = boxes.classes[int(boxes.labels[i])]
        rows.append({
            "sample_token": token, "translation": [float(v) for v in centers[i]], "size": [width, length, height],
            "rotation": [math.cos(half), 0.0, 0.0, math.sin(half)], "velocity": [float(v) for v in velocity],
            "detection_name": name, "detection_score": float(boxes.scores[i]),
            "attribute_name": attribute(name, float(np.hypot(*boxes.velocity[i]))),
        })  # fmt: skip
    return rows


def attribute(name: str, speed_mps: float) -> str:
    """The attribute that is likely of a class at a speed, as mmdetection3d submits it."""
    moving = speed_mps > _MOVING_MPS
    if name in ("car", "truck", "trailer", "construction_vehicle"):
        return "vehicle.moving" if moving else "vehicle.parked"
    if name == "bus":
        return "vehicle.moving" if moving else "vehicle.stopped"
    if name in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if name == "pedestrian":
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return ""
