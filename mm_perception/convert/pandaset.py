"""A PandaSet sequence (see `datasets.pandaset`) to a bag.

Topics: /NAME/image_raw/compressed (the files' bytes) and /NAME/camera_info of each camera, /pandar64/points (x, y, z,
intensity, and label, the class of each point), /tf (map to the LiDAR and to each camera at their own stamps),
/ground_truth/detections (in the LiDAR's frame).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.detections import encode_detections
from mm_perception.codec.encode import encode_camera_info, encode_columns, encode_transforms, wrap_compressed
from mm_perception.datasets.files import read_bytes, read_image
from mm_perception.datasets.pandaset import LIDAR, PandaCamera, PandaSequence, PandaSweep
from mm_perception.geometry.camera import CameraModel

POSE_AHEAD_NS = 1000
REFERENCE = "front_camera"


def convert_pandaset(source: Path, out: Path, overwrite: bool = False) -> int:
    """Writes the bag; returns the number of reference frames (images of the front camera).

    Raises:
        DataError: a file is missing or not as expected.
        BagError: the bag exists or cannot be written.
    """
    sequence = PandaSequence(source)
    steps: list[tuple[int, str, Any]] = [
        (frame[0], camera.name, (camera, frame)) for camera in sequence.cameras for frame in camera.frames
    ]
    with BagWriter(out, overwrite) as bag:
        for stem in sequence.stems:
            sweep = sequence.sweep(stem)
            for step in sorted((s for s in steps if s[0] < sweep.stamp_ns), key=lambda s: (s[0], s[1])):
                _write_image(bag, *step[2])
            steps = [s for s in steps if s[0] >= sweep.stamp_ns]
            _write_sweep(bag, sweep)
        for step in sorted(steps, key=lambda s: (s[0], s[1])):
            _write_image(bag, *step[2])
    return sum(len(camera.frames) for camera in sequence.cameras if camera.name == REFERENCE)


def _write_image(bag: BagWriter, camera: PandaCamera, frame: Any) -> None:
    stamp_ns, path, map_from_camera = frame
    height, width = read_image(path).shape[:2]
    model = CameraModel(width, height, camera.intrinsics, np.zeros(0), "", camera.name)
    bag.write("/tf", encode_transforms(bag.factory, [map_from_camera], stamp_ns), stamp_ns - POSE_AHEAD_NS)
    bag.write(f"/{camera.name}/camera_info", encode_camera_info(bag.factory, model, stamp_ns), stamp_ns)
    message = wrap_compressed(bag.factory, read_bytes(path), "jpeg", stamp_ns, camera.name)
    bag.write(f"/{camera.name}/image_raw/compressed", message, stamp_ns)


def _write_sweep(bag: BagWriter, sweep: PandaSweep) -> None:
    stamp_ns = sweep.stamp_ns
    bag.write("/tf", encode_transforms(bag.factory, [sweep.map_from_lidar], stamp_ns), stamp_ns - POSE_AHEAD_NS)
    columns: dict[str, tuple[str, Any]] = {axis: ("f4", sweep.xyz[:, i]) for i, axis in enumerate("xyz")}
    columns["intensity"] = ("f4", sweep.intensity)
    if sweep.labels is not None:
        columns["label"] = ("u2", sweep.labels)
    bag.write("/pandar64/points", encode_columns(bag.factory, columns, stamp_ns, LIDAR), stamp_ns)
    if sweep.objects is not None:
        bag.write("/ground_truth/detections", encode_detections(bag.factory, sweep.objects), stamp_ns)
