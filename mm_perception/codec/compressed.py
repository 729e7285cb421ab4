"""sensor_msgs/CompressedImage to pixels.

What `format` says follows compressed_image_transport and compressed_depth_image_transport: "rgb8; jpeg compressed
bgr8", "16UC1; compressedDepth png", and before them plainly "jpeg". What the bytes are is read from the bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.encodings import ENCODINGS
from mm_perception.codec.fields import octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import (
    JPEG_MAGIC,
    PNG_MAGIC,
    ImageHeader,
    check_pixels,
    read_header,
)
from mm_perception.codec.rvl import decode_rvl
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_PIXELS

_DECODE_FLAGS = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
_ONE_CHANNEL = {"uint8": "mono8", "uint16": "mono16", "float32": "32FC1"}
_CONFIG_BYTES = 12
_JPEG_END = b"\xff\xd9"


@refusing("compressed image")
def decode_compressed(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """The pixels of a CompressedImage (jpeg, png, webp, tiff, bmp; compressedDepth in png or rvl) and their encoding.

    Colour comes as rgb8 or rgb16, grey as mono8 or mono16, a mosaic under its Bayer pattern's name, depth as 16UC1 [mm]
    or 32FC1 [m].

    Raises:
        DataError: unknown format, a header that names too large a size, or data that is damaged or ends early
            (a decoder would fill in grey).
    """
    data, fmt = octets_of(msg.data), str(msg.format)
    if len(data) == 0:
        raise DataError("compressed image without data")
    if "compressedDepth" in fmt:
        return _decode_compressed_depth(data, fmt, max_pixels)
    pixels = _decode_file(data, _read_whole(data, max_pixels))
    source, _, transport = (part.strip() for part in fmt.partition(";"))
    if pixels.ndim == 2:
        return pixels, _one_channel(pixels, source, transport)
    if pixels.dtype.name not in ("uint8", "uint16") or pixels.shape[2] not in (3, 4):
        raise DataError(f"compressed image of {pixels.shape[2]} channels of {pixels.dtype} is not supported")
    name = "rgb8" if pixels.dtype == np.uint8 else "rgb16"
    if "compressed rgb" in transport:  # the sender handed red to the compressor for blue; see the transport's decoder
        return np.ascontiguousarray(pixels[..., :3]), name
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, code), name


def _one_channel(pixels: NDArray[Any], source: str, transport: str) -> str:
    name = _ONE_CHANNEL.get(str(pixels.dtype), str(pixels.dtype))
    if source == "16UC1" and name == "mono16":
        return source
    # A mosaic that was compressed as it is; with a third word the sender had made it a picture before.
    is_mosaic = source.startswith("bayer_") and source in ENCODINGS and transport.endswith("compressed")
    if is_mosaic and np.dtype(ENCODINGS[source].code) == pixels.dtype:
        return source
    return name


def _read_whole(data: NDArray[np.uint8], max_pixels: int) -> ImageHeader:
    """The header of a file that has its end mark: a truncated one decodes to a picture with an invented rest.

    Drivers that send whole buffers leave any number of bytes behind the end.
    """
    octets = data.tobytes()
    header = read_header(octets, max_pixels)
    if octets.startswith(PNG_MAGIC):
        if b"IEND" not in octets[-64:] and b"IEND" not in octets:
            raise DataError(f"png truncated: no end mark within {len(data)} bytes")
    elif octets.startswith(JPEG_MAGIC) and _JPEG_END not in octets[-4096:] and octets.rfind(_JPEG_END) < 0:
        raise DataError(f"jpeg truncated: no end mark within {len(data)} bytes")
    return header


def _decode_file(data: NDArray[np.uint8], header: ImageHeader) -> NDArray[Any]:
    """The pixels of a file. Raises DataError if it is damaged, or of another size than its header says."""
    pixels = cv2.imdecode(data, _DECODE_FLAGS)
    if pixels is None:
        raise DataError(f"compressed image of {header.width}x{header.height} is damaged ({len(data)} bytes)")
    if pixels.shape[:2] != (header.height, header.width):
        raise DataError(f"compressed image: header of {header.width}x{header.height}, pixels of {pixels.shape[:2]}")
    return np.asarray(pixels)


def _decode_compressed_depth(data: NDArray[np.uint8], fmt: str, max_pixels: int) -> tuple[NDArray[Any], str]:
    if data[: len(PNG_MAGIC)].tobytes() == PNG_MAGIC:  # a sender that left out the parameters
        if fmt.startswith("32FC1"):
            raise DataError(f"compressedDepth of format {fmt!r} without its {_CONFIG_BYTES} bytes of parameters")
        return _depth_of_png(data, fmt, max_pixels), "16UC1"
    if len(data) <= _CONFIG_BYTES:
        raise DataError(f"compressedDepth truncated: {len(data)} bytes")
    _, quant_a, quant_b = struct.unpack("<iff", data[:_CONFIG_BYTES].tobytes())
    body = data[_CONFIG_BYTES:]
    raw = _depth_of_rvl(body, max_pixels) if "rvl" in fmt.lower() else _depth_of_png(body, fmt, max_pixels)
    if not fmt.startswith("32FC1"):
        return raw, "16UC1"
    # Depth was stored as quantised inverse depth: raw = quant_a / depth + quant_b; 0 marks no measurement.
    depth = raw.astype(np.float32)
    with np.errstate(all="ignore"):
        depth -= np.float32(quant_b)
        np.divide(np.float32(quant_a), depth, out=depth)
    depth[(raw == 0) | ~np.isfinite(depth) | (depth <= 0)] = np.nan
    return depth, "32FC1"


def _depth_of_png(body: NDArray[np.uint8], fmt: str, max_pixels: int) -> NDArray[np.uint16]:
    header = _read_whole(body, max_pixels)
    if (header.bits, header.channels) != (16, 1):
        raise DataError(f"compressedDepth of format {fmt!r} holds no 16-bit png")
    raw = _decode_file(body, header)
    if raw.dtype != np.uint16 or raw.ndim != 2:
        raise DataError(f"compressedDepth of format {fmt!r} holds no 16-bit png")
    return raw


def _depth_of_rvl(body: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint16]:
    if len(body) < 8:
        raise DataError(f"compressedDepth rvl truncated: {len(body)} bytes")
    width, height = struct.unpack("<ii", body[:8].tobytes())
    check_pixels("compressedDepth rvl", width, height, max_pixels)
    return decode_rvl(body[8:], width, height)
