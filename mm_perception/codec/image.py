"""sensor_msgs/Image and CompressedImage to pixels and to the image types.

Encodings are those of sensor_msgs/image_encodings.hpp; depth follows REP 118; compressedDepth follows
image_transport_plugins (a 12-byte header, then a PNG).
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import PNG_MAGIC, ImageHeader, check_pixels, read_header
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.core.types import DepthFrame, ImageFrame, LabelImage, ThermalFrame, ThermalUnit

_LAYOUT: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    "bayer_rggb8": ("u1", 1),
    "bayer_bggr8": ("u1", 1),
    "bayer_gbrg8": ("u1", 1),
    "bayer_grbg8": ("u1", 1),
    "yuv422": ("u1", 2),
    "uyvy": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    "yuyv": ("u1", 2),
}

_TO_RGB: dict[str, int | None] = {
    "rgb8": None,
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "8UC1": cv2.COLOR_GRAY2RGB,
    # OpenCV names a Bayer pattern by its second row's second and third pixel.
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}

_KELVIN_PER_COUNT = {"centikelvin": 0.01, "decikelvin": 0.1, "kelvin": 1.0}
_DECODE_FLAGS = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION


@refusing("image")
def decode_pixels(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """The pixels of an Image as they are, in native byte order.

    Args:
        max_pixels: the largest image that is taken; here and below, the sensor's limit in the rig.

    Returns:
        (H, W) or (H, W, C) array (a view of the message where its bytes allow that) and the encoding.

    Raises:
        DataError: unknown encoding, zero or too large a size, a step shorter than a row, or fewer bytes than
            step * height.
    """
    encoding = str(msg.encoding)
    if encoding not in _LAYOUT:
        raise DataError(f"image encoding {encoding!r} is not supported (known: {', '.join(_LAYOUT)})")
    kind, channels = _LAYOUT[encoding]
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    check_pixels("image", width, height, max_pixels)
    dtype = np.dtype((">" if msg.is_bigendian else "<") + kind)
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise DataError(f"image step {step} is shorter than a row of {width} {encoding} pixels ({row_bytes})")
    data = octets_of(msg.data)
    if len(data) < step * height:
        raise DataError(f"image truncated: {len(data)} bytes, expected {step} x {height} = {step * height}")
    shape: tuple[int, ...] = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    pixels = np.ndarray(shape, dtype, data, strides=strides)
    return pixels.astype(dtype.newbyteorder("="), copy=False), encoding


def to_rgb(pixels: NDArray[Any], encoding: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 red, green, blue of the pixels of `decode_pixels`.

    Raises:
        DataError: the encoding holds no colour or grey picture of 8 bits, or its size is odd where pixels
            come in pairs.
    """
    if encoding not in _TO_RGB:
        raise DataError(f"encoding {encoding!r} is no 8-bit colour or grey image")
    code = _TO_RGB[encoding]
    if code is None:
        return np.ascontiguousarray(pixels)
    if encoding.startswith(("yuv", "uyvy", "yuyv")) and pixels.shape[1] % 2:
        raise DataError(f"{encoding} image of odd width {pixels.shape[1]}")
    if encoding.startswith("bayer") and min(pixels.shape) < 3:
        raise DataError(f"{encoding} image of {pixels.shape[1]}x{pixels.shape[0]} is too small to demosaic")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), dtype=np.uint8)


@refusing("compressed image")
def decode_compressed(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """The pixels of a CompressedImage (jpeg, png or compressedDepth png) and their encoding.

    Colour comes as rgb8, grey as mono8 or mono16, depth as 16UC1 [mm] or 32FC1 [m].

    Raises:
        DataError: unknown format, a header that names too large a size, or data that is damaged or ends early
            (a decoder would fill in grey).
    """
    data, fmt = octets_of(msg.data), str(msg.format)
    if len(data) == 0:
        raise DataError("compressed image without data")
    if "compressedDepth" in fmt:
        return _decode_compressed_depth(data, fmt, max_pixels)
    header = _read_whole(data, max_pixels)
    if header.channels > 1 and header.bits > 8:
        raise DataError(f"compressed colour image of {header.bits} bits per channel is not supported")
    pixels = _decode_file(data, header)
    if pixels.ndim == 2:
        encodings = {"uint8": "mono8", "uint16": "mono16", "float32": "32FC1"}
        encoding = encodings.get(pixels.dtype.name, pixels.dtype.name)
        return pixels, "16UC1" if encoding == "mono16" and fmt.startswith("16UC1") else encoding
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (3, 4):
        raise DataError(f"compressed image of {pixels.shape[2]} channels of {pixels.dtype} is not supported")
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code), "rgb8"


def _read_whole(data: NDArray[np.uint8], max_pixels: int) -> ImageHeader:
    """The header of a file that has its end mark: a truncated one decodes to a picture with an invented rest."""
    octets = data.tobytes()
    header = read_header(octets, max_pixels)
    if octets.startswith(PNG_MAGIC):
        if b"IEND" not in octets[-64:]:
            raise DataError(f"png truncated: no end mark within {len(data)} bytes")
    elif b"\xff\xd9" not in octets[-4096:]:
        raise DataError(f"jpeg truncated: no end mark within {len(data)} bytes")
    return header


def _decode_file(data: NDArray[np.uint8], header: ImageHeader) -> NDArray[Any]:
    """The pixels of a jpeg or png. Raises DataError if it is damaged, or of another size than its header says."""
    pixels = cv2.imdecode(data, _DECODE_FLAGS)
    if pixels is None:
        raise DataError(f"compressed image of {header.width}x{header.height} is damaged ({len(data)} bytes)")
    if pixels.shape[:2] != (header.height, header.width):
        raise DataError(f"compressed image: header of {header.width}x{header.height}, pixels of {pixels.shape[:2]}")
    return np.asarray(pixels)


def _decode_compressed_depth(data: NDArray[np.uint8], fmt: str, max_pixels: int) -> tuple[NDArray[Any], str]:
    if len(data) <= 12:
        raise DataError(f"compressedDepth truncated: {len(data)} bytes")
    if "rvl" in fmt:
        raise DataError("compressedDepth in rvl is not supported, only png")
    _, quant_a, quant_b = struct.unpack("<iff", data[:12].tobytes())
    png = data[12:]
    header = _read_whole(png, max_pixels)
    if (header.bits, header.channels) != (16, 1):
        raise DataError(f"compressedDepth of format {fmt!r} holds no 16-bit png")
    raw = _decode_file(png, header)
    if raw.dtype != np.uint16 or raw.ndim != 2:
        raise DataError(f"compressedDepth of format {fmt!r} holds no 16-bit png")
    if not fmt.startswith("32FC1"):
        return raw, "16UC1"
    # Depth was stored as quantised inverse depth: raw = quant_a / depth + quant_b; 0 marks no measurement.
    depth = raw.astype(np.float32)
    with np.errstate(all="ignore"):
        depth -= np.float32(quant_b)
        np.divide(np.float32(quant_a), depth, out=depth)
    depth[(raw == 0) | ~np.isfinite(depth) | (depth <= 0)] = np.nan
    return depth, "32FC1"


def decode_any_image(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """Pixels and encoding of an Image or a CompressedImage, told apart by their fields."""
    return decode_compressed(msg, max_pixels) if hasattr(msg, "format") else decode_pixels(msg, max_pixels)


@refusing("colour image")
def decode_image(msg: Any, max_pixels: int = MAX_PIXELS) -> ImageFrame:
    """A colour or 8-bit grey image to RGB. Raises DataError."""
    pixels, encoding = decode_any_image(msg, max_pixels)
    return ImageFrame(to_rgb(pixels, encoding), decode_stamp(msg.header), decode_frame(msg.header))


@refusing("depth image")
def decode_depth(msg: Any, max_pixels: int = MAX_PIXELS) -> DepthFrame:
    """REP 118: 32FC1 [m] with NaN or infinity for no measurement, 16UC1 [mm] with 0 for none.

    Raises:
        DataError: any other encoding, or negative depth.
    """
    pixels, encoding = decode_any_image(msg, max_pixels)
    if encoding not in ("32FC1", "16UC1", "mono16"):
        raise DataError(f"depth image: expected 16UC1 [mm] or 32FC1 [m], got {encoding}")
    depth = pixels.astype(np.float32)
    if encoding == "32FC1":
        depth[~np.isfinite(depth)] = np.nan
        if bool((depth < 0).any()):
            raise DataError("depth image with negative distances")
    else:
        depth *= np.float32(0.001)
    depth[depth == 0] = np.nan
    return DepthFrame(depth, decode_stamp(msg.header), decode_frame(msg.header))


@refusing("thermal image")
def decode_thermal(msg: Any, scale: str, max_pixels: int = MAX_PIXELS) -> ThermalFrame:
    """A thermal image; `scale` is the sensor's `thermal_scale` (there is no standard that would tell).

    Raises:
        DataError: a colour image, an 8-bit one that is said to be radiometric, or a 16-bit one said to be AGC.
    """
    pixels, encoding = decode_any_image(msg, max_pixels)
    if pixels.ndim != 2 or encoding.startswith("bayer"):
        raise DataError(f"thermal image: expected one channel, got {encoding}")
    eight_bit = pixels.dtype == np.uint8
    if eight_bit != (scale == "agc"):
        raise DataError(f"thermal image: encoding {encoding} does not fit thermal_scale {scale!r}")
    values = pixels.astype(np.float32)
    if not bool(np.isfinite(values).all()):
        raise DataError("thermal image with values that are not finite")
    unit: ThermalUnit = "agc" if scale == "agc" else "counts" if scale == "counts" else "kelvin"
    values *= np.float32(_KELVIN_PER_COUNT.get(scale, 1.0))
    return ThermalFrame(values, unit, decode_stamp(msg.header), decode_frame(msg.header))


@refusing("label image")
def decode_labels(msg: Any, max_pixels: int = MAX_PIXELS) -> LabelImage:
    """True class ids: a mono8 or 8UC1 image or a grey png. Raises DataError for anything else."""
    pixels, encoding = decode_any_image(msg, max_pixels)
    if encoding not in ("mono8", "8UC1"):
        raise DataError(f"label image: expected mono8, got {encoding}")
    return LabelImage(np.ascontiguousarray(pixels), decode_stamp(msg.header), decode_frame(msg.header))
