"""Encodings that only cv_bridge reads, where a ROS installation has it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.encodings import is_known
from mm_perception.codec.image_header import check_pixels
from mm_perception.core.errors import DataError


def rgb_of_bridge(msg: Any, max_pixels: int) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 of an Image whose encoding this package does not know; None where nobody does.

    Raises:
        DataError: cv_bridge gives no picture of the message's size.
    """
    if hasattr(msg, "format") or is_known(str(msg.encoding)):
        return None
    width, height = int(msg.width), int(msg.height)
    check_pixels("image", width, height, max_pixels)
    try:
        found = importlib.import_module("cv_bridge").CvBridge().imgmsg_to_cv2(msg, "rgb8")
    except Exception:  # it is not there, was built for another numpy, or does not know the encoding either
        return None
    pixels = np.ascontiguousarray(found)
    if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3):
        raise DataError(f"image encoding {msg.encoding!r}: cv_bridge gives {pixels.dtype} of shape {pixels.shape}")
    return pixels
