"""Boxes as nuScenes' JSON holds them: reading truth and predictions, writing a submission.

A sample is a list of boxes with `translation` (x, y, z of the middle [m]), `size` (width, length, height [m]),
`rotation` (quaternion w, x, y, z), `velocity` (vx, vy [m/s]), `detection_name`, `attribute_name`, and of predictions
`detection_score`; the metric also reads `ego_translation` (from the vehicle to the box [m]) and, of truth, `num_pts`.
Only a velocity may be NaN: the data set has true boxes whose velocity is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.core.errors import CalibrationError, DataError
from mm_perception.core.files import write_new_file
from mm_perception.core.types import Detections3D
from mm_perception.geometry.transforms import RigidTransform, heading_of_quat
from mm_perception.metrics.detection import MOST_PER_FRAME, RANGES_M, ScoredBoxes

_LENGTHS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2, "ego_translation": 3}
_MOVING_MPS = 0.2
ATTRIBUTES = (
    "vehicle.moving", "vehicle.parked", "vehicle.stopped", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down",
)  # fmt: skip


def read_samples(path: Path, truth: bool) -> dict[str, ScoredBoxes]:
    """Boxes by sample, in the file's order.

    Args:
        truth: whether points are asked for, and not scores.

    Raises:
        DataError: the file is missing, is no JSON of this form, or holds impossible values (the place is named).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
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
        if min(columns["size"][-1]) <= 0:
            raise DataError(f"box {i}: size: expected positive lengths, got {row['size']}")
        if not any(columns["rotation"][-1]):
            raise DataError(f"box {i}: rotation: expected a quaternion that is not zero")
        columns["names"].append(_name(row, "detection_name", "class", tuple(RANGES_M), i))
        columns["attributes"].append(_name(row, "attribute_name", "attribute", ("", *ATTRIBUTES), i))
        columns["scores"].append(0.0 if truth else _number(_entry(row, "detection_score", i), "detection_score", i))
        columns["points"].append(_points(row, i) if truth else 0)
    count = len(rows)
    table = {name: np.array(columns[name], np.float64).reshape(count, length) for name, length in _LENGTHS.items()}
    heading = heading_of_quat(table["rotation"][:, [1, 2, 3, 0]])
    return ScoredBoxes(
        table["translation"], table["size"][:, [1, 0, 2]], heading, table["velocity"],
        np.array(columns["names"], dtype=str), np.array(columns["scores"], np.float64),
        np.array(columns["attributes"], dtype=str), np.linalg.norm(table["ego_translation"][:, :2], axis=1),
        np.array(columns["points"], np.int64) if truth else None,
    )  # fmt: skip


def _entry(row: Mapping[str, Any], name: str, i: int) -> Any:
    if name not in row:
        raise DataError(f"box {i}: {name} is missing")
    return row[name]


def _name(row: Mapping[str, Any], key: str, what: str, known: tuple[str, ...], i: int) -> str:
    value = _entry(row, key, i)
    if value not in known:
        raise DataError(f"box {i}: {key}: unknown {what} {value} (known: {', '.join(filter(None, known))})")
    return str(value)


def _points(row: Mapping[str, Any], i: int) -> int:
    value = _entry(row, "num_pts", i)
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 2**63:
        raise DataError(f"box {i}: num_pts: expected a count, or -1 where unknown, got {value!r}")
    return value


def _number(value: Any, name: str, i: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"box {i}: {name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        number = math.inf
    if math.isinf(number) or (math.isnan(number) and name != "velocity"):
        raise DataError(f"box {i}: {name}: expected a finite number, got {number}")
    return number


def _numbers(row: Mapping[str, Any], name: str, length: int, i: int) -> list[float]:
    values = _entry(row, name, i)
    if not isinstance(values, list) or len(values) != length:
        raise DataError(f"box {i}: {name}: expected {length} numbers, got {values!r}")
    return [_number(value, name, i) for value in values]


def scored_boxes(
    boxes: Detections3D,
    points: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    origin: np.ndarray[Any, np.dtype[np.float64]] | None = None,
) -> ScoredBoxes:
    """Boxes for the metric.

    Args:
        boxes: the detector names no attributes, so there are none.
        points: (N,) LiDAR returns, of truth.
        origin: (2,) the vehicle's place in the frame of the boxes [m]; None: that frame's origin.

    Raises:
        DataError: a size is zero, a velocity infinite, or a class not one of nuScenes.
    """
    names = np.array([boxes.classes[i] for i in boxes.labels], dtype=str)
    away = boxes.centers[:, :2].astype(float) - (np.zeros(2) if origin is None else origin)
    return ScoredBoxes(
        boxes.centers.astype(np.float64), boxes.sizes_lwh.astype(np.float64), boxes.yaw_rad.astype(np.float64),
        boxes.velocity.astype(np.float64), names, boxes.scores.astype(np.float64),
        np.full(len(names), "", dtype=object).astype(str), np.linalg.norm(away, axis=1), points,
    )  # fmt: skip


def submission(
    samples: Mapping[str, tuple[Detections3D, RigidTransform]], *, camera: bool = True, lidar: bool = True
) -> dict[str, Any]:
    """Detections as a nuScenes submission: at most 500 per sample, the best ones.

    Args:
        samples: by sample token, boxes and the transform that takes them to the map's frame. A sample without boxes is
            an empty list, which the devkit asks for.
        camera, lidar: which sensors the detector saw.

    Raises:
        CalibrationError: a transform is not from the frame of its boxes.
        DataError: a class is not one of nuScenes, or a velocity is not finite (JSON has no NaN).
    """
    meta = {"use_camera": camera, "use_lidar": lidar, "use_radar": False, "use_map": False, "use_external": False}
    results = {token: _rows(token, boxes, pose) for token, (boxes, pose) in samples.items()}
    return {"meta": meta, "results": results}


def write_submission(
    path: Path,
    samples: Mapping[str, tuple[Detections3D, RigidTransform]],
    *,
    camera: bool = True,
    lidar: bool = True,
    overwrite: bool = False,
) -> None:
    """Writes `submission` as JSON; folders are made.

    Raises:
        CalibrationError, DataError: as `submission`; nothing is written then.
        ConfigError: the file exists; with `overwrite`: and is no JSON file.
    """  # fmt: skip
    content = json.dumps(submission(samples, camera=camera, lidar=lidar), allow_nan=False)
    write_new_file(path, content, overwrite, "json")


def _rows(token: str, boxes: Detections3D, global_from: RigidTransform) -> list[dict[str, Any]]:
    _check_rows(token, boxes, global_from)
    # In float64: maps are kilometres wide, where float32 has steps of 0.1 mm and the transform's `apply` gives those.
    turn = global_from.rotation
    centers = boxes.centers.astype(np.float64) @ turn.T + global_from.translation
    velocity = boxes.velocity.astype(np.float64) @ turn[:2, :2].T
    rotation = _turned_wxyz(global_from.quat_xyzw, boxes.yaw_rad.astype(np.float64))
    rows = []
    for i in np.argsort(-boxes.scores, kind="stable")[:MOST_PER_FRAME]:
        length, width, height = boxes.sizes_lwh[i].tolist()
        name, speed_mps = boxes.classes[int(boxes.labels[i])], math.hypot(*boxes.velocity[i])
        rows.append({
            "sample_token": token, "translation": centers[i].tolist(), "size": [width, length, height],
            "rotation": rotation[i].tolist(), "velocity": velocity[i].tolist(), "detection_name": name,
            "detection_score": float(boxes.scores[i]), "attribute_name": attribute(name, speed_mps),
        })  # fmt: skip
    return rows


def _check_rows(token: str, boxes: Detections3D, global_from: RigidTransform) -> None:
    if boxes.frame_id != global_from.src:
        raise CalibrationError(
            f"sample {token}: the transform {global_from.dst} <- {global_from.src} is not for boxes in {boxes.frame_id}"
        )
    unknown = sorted({boxes.classes[i] for i in boxes.labels} - set(RANGES_M))
    if unknown:
        raise DataError(f"sample {token}: unknown class {', '.join(unknown)} (known: {', '.join(RANGES_M)})")
    if not np.isfinite(boxes.velocity).all():
        raise DataError(f"sample {token}: velocity: expected finite values, which a submission needs")


def _turned_wxyz(
    quat_xyzw: np.ndarray[Any, np.dtype[np.float64]], yaw_rad: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, 4) quaternions w, x, y, z of turns by (N,) yaws about z, followed by a rotation."""
    x, y, z, w = quat_xyzw
    cosine, sine = np.cos(yaw_rad / 2), np.sin(yaw_rad / 2)
    return np.stack(
        [w * cosine - z * sine, x * cosine + y * sine, y * cosine - x * sine, z * cosine + w * sine], axis=1
    )


def attribute(name: str, speed_mps: float) -> str:
    """The attribute that is likely of a class at a speed, as mmdetection3d submits it; "" for classes without."""
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
