"""What a detector is given of a frame that was kept for training or judging: as the node would give it."""

from __future__ import annotations

import numpy as np

from mm_perception.sensing.detector_inputs import DetectorView
from mm_perception.sensing.health import BLANK_DEVIATION
from mm_perception.sim.detection_frames import DetectionFrame


def frame_view(frame: DetectionFrame, *, bgr: bool = False) -> DetectorView:
    """The frame's pictures, projections and points; a picture that shows nothing counts as missing.

    Args:
        bgr: whether the network wants blue first.
    """
    images = np.stack(frame.images())
    present = np.array([image.std() >= BLANK_DEVIATION for image in images])
    return DetectorView(images[..., ::-1] if bgr else images, present, frame.lidar2img, frame.points)
