from __future__ import annotations

import numpy as np
import pytest

from mm_perception.core.errors import DataError
from mm_perception.core.types import (
    Detections3D,
    EventPacket,
    ImageFrame,
    PointCloud,
    SegmentationMap,
    SensorBundle,
    ThermalFrame,
)

IMAGE = np.zeros((4, 6, 3), np.uint8)


def events(x=(), y=(), t=(), width=8, height=8):
    return EventPacket(
        np.array(x, np.uint16),
        np.array(y, np.uint16),
        np.zeros(len(x), bool),
        np.array(t, np.int64),
        width,
        height,
        1,
        "e",
    )


def detections(n, **changes):
    fields = {
        "centers": np.zeros((n, 3), np.float32),
        "sizes_lwh": np.ones((n, 3), np.float32),
        "yaw_rad": np.zeros(n, np.float32),
        "velocity": np.full((n, 2), np.nan, np.float32),
        "scores": np.ones(n, np.float32),
        "labels": np.zeros(n, np.int32),
        "classes": ("car",),
        "frame_id": "map",
        "stamp_ns": 1,
    }
    return Detections3D(**(fields | changes))


def test_empty_measurements_are_legal():
    assert len(PointCloud(np.zeros((0, 3), np.float32), 1, "l")) == 0
    assert len(events()) == 0
    assert len(detections(0)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageFrame(IMAGE[..., :2], 1, "c"), "shape"),
        (lambda: ImageFrame(IMAGE.astype(np.float32), 1, "c"), "dtype"),
        (lambda: ImageFrame(IMAGE[:0], 1, "c"), "pixel"),
        (lambda: ImageFrame([[1]], 1, "c"), "numpy"),
        (lambda: ImageFrame(IMAGE, -1, "c"), "negative"),
        (lambda: ImageFrame(IMAGE, 1.5, "c"), "int"),
        (lambda: ThermalFrame(np.zeros((2, 2), np.float32), "celsius", 1, "t"), "celsius"),
        (lambda: PointCloud(np.full((1, 3), np.nan, np.float32), 1, "l"), "finite"),
        (lambda: PointCloud(np.zeros((2, 3), np.float32), 1, "l", ring=np.zeros(3, np.uint16)), "ring"),
        (lambda: events([9], [0], [0]), "outside"),
        (lambda: events([1, 1], [0, 0], [5, 4]), "non-decreasing"),
        (lambda: events(width=0), "size"),
        (lambda: SegmentationMap(np.full((2, 2), 3, np.uint8), ("a", "b"), 1, "c"), "id 3"),
        (lambda: SegmentationMap(np.zeros((2, 2), np.uint8), (), 1, "c"), "classes"),
        (lambda: detections(1, scores=np.array([1.5], np.float32)), "0..1"),
        (lambda: detections(1, labels=np.array([1], np.int32)), "classes"),
        (lambda: detections(1, sizes_lwh=-np.ones((1, 3), np.float32)), "negative"),
        (lambda: detections(1, yaw_rad=np.array([np.inf], np.float32)), "finite"),
        (lambda: detections(2, centers=np.zeros((1, 3), np.float32)), "shape"),
        (lambda: SensorBundle(1, "rgb", {}), "reference"),
        (lambda: SensorBundle(1, "rgb", {"rgb": ImageFrame(IMAGE, 1, "c")}, {}, ("rgb",)), "both"),
    ],
)
def test_malformed_values_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()
