"""`sensing.image` in torch: pictures onto the network's pixel grid, and normalised.

On the device a picture is (3, H, W) float32 of whole grey levels 0..255, or an X image of about 0..1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_perception.gpu.transfer import constant, upload, upload_to_keep
from mm_perception.sensing.image import GREY_LEVELS, Placement, scale_and_shift


def upload_picture(image: NDArray[Any], device: torch.device) -> Tensor:
    """(H, W, 3) uint8 or float32 to (3, H, W) of the same type on the device."""
    return upload(image, device).permute(2, 0, 1)


def resized(picture: Tensor, placement: Placement, border: float = 0.0) -> Tensor:
    """`Placement.resize` of a (3, H, W) picture; the result is float32.

    OpenCV's methods are products with one matrix of weights for the rows and one for the columns. uint8 is rounded to
    whole grey levels: OpenCV's own where a picture shrinks (but for means within float32's rounding of a half), and at
    most one level off where it grows, for there OpenCV computes in whole numbers. float32 differs by rounding alone.

    Args:
        border: value around a letterboxed picture; its fraction is cut off for uint8.
    """
    whole, inner = picture.dtype == torch.uint8, picture.float()
    source, target = (picture.shape[1], picture.shape[2]), (placement.height, placement.width)
    if source != target:
        rows, columns = _weights(source, target, placement.interpolation(source[1]), picture.device)
        inner = rows @ inner @ columns.T
        inner = _rounded(inner, halved=source == (2 * target[0], 2 * target[1])) if whole else inner
    if target == (placement.dst_height, placement.dst_width):
        return inner
    shape = (len(picture), placement.dst_height, placement.dst_width)
    outer = torch.full(shape, int(border) if whole else border, dtype=torch.float32, device=picture.device)
    outer[:, placement.top : placement.top + target[0], placement.left : placement.left + target[1]] = inner
    return outer


def _rounded(values: Tensor, halved: bool) -> Tensor:
    """Whole grey levels; of halves the even one, but where both sides are halved OpenCV rounds them up."""
    return (values + 0.5).floor() if halved else values.round()


@lru_cache(maxsize=32)
def _weights(
    source: tuple[int, int], target: tuple[int, int], method: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(h, H) weights of the rows and (w, W) of the columns, float32, by which OpenCV resizes (H, W) to (h, w).

    They are what OpenCV makes of unit matrices. Where a picture shrinks one way and grows the other, its INTER_AREA is
    another method, by which the side that shrinks is then resized along with one that grows to twice its size.
    """
    mixed = method == cv2.INTER_AREA and (target[0] > source[0]) != (target[1] > source[1])

    def along(size: int, new_size: int) -> NDArray[Any]:
        unit = np.eye(size, dtype=np.float32)
        if mixed and new_size <= size:
            return np.asarray(cv2.resize(unit, (2 * size, new_size), interpolation=method))[:, ::2]
        return np.asarray(cv2.resize(unit, (size, new_size), interpolation=method))

    rows, columns = along(source[0], target[0]), along(source[1], target[1])
    return upload_to_keep(rows, device), upload_to_keep(columns, device)


def normalised(
    picture: Tensor,
    full_scale: float,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool = False,
) -> Tensor:
    """`sensing.image.to_tensor`: a (3, H, W) picture of 0..full_scale to a normalised (1, 3, H, W) float32 tensor."""
    scale, shift = scale_and_shift(mean, std, full_scale)
    picture = picture.flip(0) if reverse_channels else picture
    scaled = picture * _per_channel(scale, picture.device) - _per_channel(shift, picture.device)
    return scaled[None].contiguous()


def normalised_views(
    images: NDArray[np.uint8],
    present: NDArray[np.bool_],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    device: torch.device,
) -> Tensor:
    """(V, H, W, 3) uint8 to (V, 3, H, W) float32: normalised, and 0 where a camera is not `present` (V,)."""
    scaled = upload(images, device).permute(0, 3, 1, 2) / GREY_LEVELS
    scaled = (scaled - _per_channel(mean, device)) / _per_channel(std, device)
    return (scaled * upload(present, device)[:, None, None, None]).contiguous()


def _per_channel(values: NDArray[np.float32], device: torch.device) -> Tensor:
    """(3, 1, 1)."""
    return constant(tuple(values.tolist()), torch.float32, device)[:, None, None]
