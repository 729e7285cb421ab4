"""Raw pixels of sensor_msgs/Image: what an encoding's bytes are, and how they become RGB.

Names are those of sensor_msgs/image_encodings.hpp, and the other spellings of them that drivers send.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import check_pixels
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pixels lie in memory.

    Attributes:
        code: numpy's code of a channel. channels: per pixel, in one plane.
        to_rgb: OpenCV's conversion to RGB; None: it is RGB already, or `_to_rgb_by_hand` knows.
        is_picture: whether it is a colour or grey picture.
        chroma: rows of width bytes that follow the picture's, per row of it (nv12: half a row).
    """

    code: str
    channels: int = 1
    to_rgb: int | None = None
    is_picture: bool = True
    chroma: float = 0.0


_BAYER = {
    # OpenCV names a Bayer pattern by its second row's second and third pixel.
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_COLORS = {
    "rgb": (3, None), "bgr": (3, cv2.COLOR_BGR2RGB), "rgba": (4, cv2.COLOR_RGBA2RGB), "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
}  # fmt: skip
_ABSTRACT = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
_DATA = {"8S": "i1", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}

ENCODINGS: dict[str, Encoding] = {
    **{f"{name}{8 * n}": Encoding(f"u{n}", channels, code)
       for n in (1, 2) for name, (channels, code) in _COLORS.items()},
    **{f"{8 * n}UC{c}": Encoding(f"u{n}", c, code) for n in (1, 2) for c, code in _ABSTRACT.items()},
    **{f"bayer_{pattern}{8 * n}": Encoding(f"u{n}", 1, code) for n in (1, 2) for pattern, code in _BAYER.items()},
    "yuv422": Encoding("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Encoding("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "nv12": Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV12, chroma=0.5),
    "nv21": Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV21, chroma=0.5),
    "nv24": Encoding("u1", 3, None, chroma=2.0),
    **{f"{size}C{c}": Encoding(code, c, None, is_picture=False) for size, code in _DATA.items() for c in (1, 2, 3, 4)},
    **{f"{8 * n}UC2": Encoding(f"u{n}", 2, None, is_picture=False) for n in (1, 2)},
}  # fmt: skip
"""By the name in image_encodings.hpp."""

_OTHER_NAMES = {
    "uyvy": "yuv422", "yuv422_uyvy": "yuv422", "yuyv": "yuv422_yuy2", "yuy2": "yuv422_yuy2",
    "yuv422_yuyv": "yuv422_yuy2", "rgb": "rgb8", "bgr": "bgr8", "rgba": "rgba8", "bgra": "bgra8",
    "mono": "mono8", "grey": "mono8", "gray": "mono8", "y8": "mono8", "y16": "mono16", "grey16": "mono16",
    "gray16": "mono16", "z16": "16UC1", "rgb888": "rgb8", "bgr888": "bgr8",
    # The names of machine vision (EMVA's pixel formats), which drivers of such cameras hand on.
    "rgb8packed": "rgb8", "bgr8packed": "bgr8", "yuv422packed": "yuv422", "yuv422_8_uyvy": "yuv422",
    "yuv422_8": "yuv422_yuy2", "bayerrg8": "bayer_rggb8", "bayerbg8": "bayer_bggr8", "bayergb8": "bayer_gbrg8",
    "bayergr8": "bayer_grbg8", "bayerrg16": "bayer_rggb16", "bayerbg16": "bayer_bggr16",
    "bayergb16": "bayer_gbrg16", "bayergr16": "bayer_grbg16",
}  # fmt: skip
_BY_LOWER_CASE = {name.lower(): name for name in ENCODINGS} | _OTHER_NAMES
_FILES = ("jpeg", "jpg", "mjpeg", "png", "h264", "h265", "hevc")


def is_known(name: str) -> bool:
    """Whether `find_encoding` finds it."""
    return _plain(name) in _BY_LOWER_CASE


def _plain(name: str) -> str:
    return name.strip(" \0\t").lower()


def find_encoding(name: str) -> str:
    """The name in image_encodings.hpp of what a driver wrote.

    Raises:
        DataError: nobody knows it.
    """
    plain = _plain(name)
    if plain in _BY_LOWER_CASE:
        return _BY_LOWER_CASE[plain]
    if plain in _FILES:
        raise DataError(f"image encoding {name!r}: compressed pictures belong in a CompressedImage, not in an Image")
    near = difflib.get_close_matches(plain, _BY_LOWER_CASE, 1)
    hint = f"did you mean {_BY_LOWER_CASE[near[0]]}? " if near else ""
    raise DataError(f"image encoding {name!r} is not supported ({hint}known: {', '.join(ENCODINGS)})")


@refusing("image")
def decode_pixels(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """The pixels of an Image as they are, in native byte order.

    Args:
        max_pixels: the largest image that is taken; here and below, the sensor's limit in the rig.

    Returns:
        (H, W) or (H, W, C) array (a view of the message where its bytes allow that) and the encoding's name in
        image_encodings.hpp. nv12 and nv21 are (3 H / 2, W): the brightness, below it the interleaved chroma; nv24 is
        (H, W, 3).

    Raises:
        DataError: unknown encoding, zero or too large a size, an odd size where chroma comes for two by two pixels, a
            step shorter than a row, or fewer bytes than step * height.
    """
    name = find_encoding(str(msg.encoding))
    encoding = ENCODINGS[name]
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    check_pixels("image", width, height, max_pixels)
    dtype = np.dtype((">" if msg.is_bigendian else "<") + encoding.code)
    channels = 1 if encoding.chroma else encoding.channels
    row_bytes = width * channels * dtype.itemsize
    step = step or row_bytes  # some drivers leave it out
    if step < row_bytes:
        raise DataError(f"image step {step} is shorter than a row of {width} {name} pixels ({row_bytes})")
    if encoding.chroma == 0.5 and (width % 2 or height % 2):
        raise DataError(f"{name} image of odd size {width}x{height}: its chroma comes for two by two pixels")
    data = octets_of(msg.data)
    if encoding.chroma and len(data) == round(width * height * (1 + encoding.chroma)):
        step = width  # rows that touch: some drivers count the chroma into the step
    needed = round(step * height * (1 + encoding.chroma))
    rows = f"{step} x {height}" + (f" and {encoding.chroma:g} times that of chroma" if encoding.chroma else "")
    if len(data) < needed:
        raise DataError(f"image truncated: {len(data)} bytes, expected {rows} = {needed}")
    if name == "nv24":
        return _from_nv24(data, width, height, step), name
    height += round(height * encoding.chroma)
    shape: tuple[int, ...] = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    pixels = np.ndarray(shape, dtype, data, strides=strides)
    return pixels.astype(dtype.newbyteorder("="), copy=False), name


def _from_nv24(data: NDArray[np.uint8], width: int, height: int, step: int) -> NDArray[np.uint8]:
    """(H, W, 3) of brightness and two chroma of each pixel, which come in a plane of their own."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = np.ndarray((height, width), np.uint8, data, strides=(step, 1))
    pixels[..., 1:] = np.ndarray((height, width, 2), np.uint8, data, offset=step * height, strides=(2 * step, 2, 1))
    return pixels


def to_rgb(pixels: NDArray[Any], encoding: str, bit_depth: int = 16) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 red, green, blue of the pixels of `decode_pixels`.

    Args:
        encoding: as `decode_pixels` gives it.
        bit_depth: how many bits of 16-bit pixels are used: the largest number that they hold becomes 255.

    Raises:
        DataError: the encoding holds no colour or grey picture, or its size is odd where pixels come in pairs.
    """
    found = ENCODINGS.get(encoding)
    if found is None or not found.is_picture:
        raise DataError(f"encoding {encoding!r} is no colour or grey picture (of 8 or 16 bits a channel)")
    if encoding == "nv24":
        return _yuv_to_rgb(pixels)
    if encoding.startswith("yuv") and pixels.shape[1] % 2:
        raise DataError(f"{encoding} image of odd width {pixels.shape[1]}")
    if encoding.startswith("bayer") and min(pixels.shape) < 3:
        raise DataError(f"{encoding} image of {pixels.shape[1]}x{pixels.shape[0]} is too small to demosaic")
    rgb = np.ascontiguousarray(pixels)
    if found.to_rgb is not None:
        rgb = np.asarray(cv2.cvtColor(rgb, found.to_rgb))
    return rgb if rgb.dtype == np.uint8 else _to_8_bits(rgb, bit_depth)


def brightness(pixels: NDArray[Any], encoding: str) -> NDArray[Any] | None:
    """The one channel of a picture without colour, as it is; None where there is colour.

    Three channels count as one where they are equal, up to what jpeg and chroma subsampling leave.
    """
    if encoding.startswith("yuv"):
        luma = 1 if encoding == "yuv422" else 0
        return pixels[..., luma] if _is_grey(pixels[..., 1 - luma], 128) else None
    if encoding in ("nv12", "nv21"):
        height = 2 * len(pixels) // 3
        return pixels[:height] if _is_grey(pixels[height:], 128) else None
    if encoding == "nv24":
        return pixels[..., 0] if _is_grey(pixels[..., 1:], 128) else None
    if pixels.ndim == 2:
        return None if encoding.startswith("bayer") else pixels
    if pixels.dtype.kind != "u" or pixels.shape[2] < 3:
        return None
    middle = pixels[..., 1].astype(np.int32)
    return pixels[..., 1] if all(_is_grey(pixels[..., c], middle) for c in (0, 2)) else None


_GREY_WITHIN = 2.0


def _is_grey(values: NDArray[Any], expected: Any) -> bool:
    scale = 257.0 if values.dtype.itemsize == 2 else 1.0
    return float(np.abs(values.astype(np.int32) - expected).mean()) <= _GREY_WITHIN * scale


def _to_8_bits(pixels: NDArray[np.uint16], bit_depth: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bit_depth - 1)), np.uint8)


def _yuv_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """ITU-R BT.601 of limited range, as OpenCV takes the other YUV encodings."""
    shifted = np.maximum(pixels.astype(np.float32) - (16, 128, 128), (0, -128, -128))
    rgb_from_yuv = np.array([[1.164, 0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0]])
    return np.asarray(np.clip(np.rint(shifted @ rgb_from_yuv.T), 0, 255), np.uint8)
