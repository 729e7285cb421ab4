"""What a detector's outputs mean in metres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.detector import DetectorVariant, query_scores
from mm_perception.core.errors import EngineError
from mm_perception.core.types import Detections3D
from mm_perception.geometry.boxes import wrapped_rad

MIN_SCORE = 0.05
LARGEST_LOG_SIZE = 4.0  # 55 m


def boxes_of(
    outputs: Mapping[str, NDArray[Any]],
    variant: DetectorVariant,
    classes: tuple[str, ...],
    frame_id: str,
    stamp_ns: int,
    min_score: float = MIN_SCORE,
) -> Detections3D:
    """The boxes that are likely enough, in the LiDAR's frame; the best first.

    A score is that of the box's head times the heatmap's at its query's cell. Boxes beyond the variant's range or with
    values that are not finite are left out. There is no suppression: each object has one query.

    Args:
        outputs: center (1, 2, N) [cells], height (1, 1, N), dim (1, 3, N) log of w, l, h, rot (1, 2, N), vel (1, 2, N),
            heatmap (1, K, N) logits, prior (1, K, N), labels (1, N).
        classes: K names.

    Raises:
        EngineError: a label is none of the classes'.
    """
    labels = outputs["labels"][0].astype(np.int64)
    strange = labels[(labels < 0) | (labels >= len(classes))]
    if len(strange):
        raise EngineError(
            f"detector: labels: expected 0 to {len(classes) - 1}, one per class, got {strange[0]} "
            f"({len(strange)} of {len(labels)} queries lie outside)"
        )
    scores = query_scores(outputs)
    origin, cell = np.array(variant.plane.origin_m), np.array(variant.plane.cell_m)
    xy = outputs["center"][0].T * cell + origin
    centers = np.concatenate([xy, outputs["height"][0].T], axis=1)
    sizes = np.exp(np.minimum(outputs["dim"][0].T, LARGEST_LOG_SIZE))
    sine, cosine = outputs["rot"][0]
    yaw = -np.arctan2(sine, cosine) - np.pi / 2  # the heads' older convention, see models.deepinteraction.boxes
    velocity = outputs["vel"][0].T
    low, high = np.array(variant.range_m[:2]), np.array(variant.range_m[3:5])
    whole = np.isfinite(np.concatenate([centers, sizes, velocity, yaw[:, None]], axis=1)).all(axis=1)
    with np.errstate(invalid="ignore"):
        kept = whole & (scores >= min_score) & ((xy > low) & (xy < high)).all(axis=1)
    order = np.nonzero(kept)[0]
    order = order[np.argsort(-scores[order], kind="stable")]
    heading = wrapped_rad(yaw[order])
    return Detections3D(
        centers[order].astype(np.float32), sizes[order][:, [1, 0, 2]].astype(np.float32), heading.astype(np.float32),
        velocity[order].astype(np.float32), scores[order].astype(np.float32), labels[order].astype(np.int32), classes,
        frame_id, stamp_ns,
    )  # fmt: skip
