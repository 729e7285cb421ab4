"""sensor_msgs/Image and CompressedImage to the image types.

Depth follows REP 118, unless the rig says what a number means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.compressed import decode_compressed
from mm_perception.codec.encodings import ENCODINGS, brightness, decode_pixels, to_rgb
from mm_perception.codec.fields import decode_frame, decode_stamp
from mm_perception.codec.guard import refusing
from mm_perception.codec.ros_bridge import rgb_of_bridge
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.core.types import DepthFrame, ImageFrame, LabelImage, ThermalFrame, ThermalUnit

__all__ = [
    "decode_any_image", "decode_compressed", "decode_depth", "decode_image", "decode_labels", "decode_pixels",
    "decode_thermal", "to_rgb",
]  # fmt: skip

_DEPTH = ("32FC1", "16UC1", "mono16", "64FC1", "16SC1")
_MILLIMETRE = 0.001
_ZERO_CELSIUS_K = 273.15
_KELVIN: dict[str, tuple[float, float]] = {
    "centikelvin": (0.01, 0.0), "decikelvin": (0.1, 0.0), "kelvin": (1.0, 0.0),
    "centicelsius": (0.01, _ZERO_CELSIUS_K), "decicelsius": (0.1, _ZERO_CELSIUS_K), "celsius": (1.0, _ZERO_CELSIUS_K),
}  # fmt: skip
"""Kelvin per unit, and kelvin at zero, by thermal_scale."""
PLAUSIBLE_K = (150.0, 1200.0)
"""Of what most of a thermal image shows."""


def decode_any_image(msg: Any, max_pixels: int = MAX_PIXELS) -> tuple[NDArray[Any], str]:
    """Pixels and encoding of an Image or a CompressedImage, told apart by their fields."""
    return decode_compressed(msg, max_pixels) if hasattr(msg, "format") else decode_pixels(msg, max_pixels)


@refusing("colour image")
def decode_image(msg: Any, max_pixels: int = MAX_PIXELS, bit_depth: int = 16) -> ImageFrame:
    """A colour or grey image to RGB of 8 bits.

    Args:
        bit_depth: bits that 16-bit pixels use; the largest number that they hold becomes 255.

    Raises:
        DataError: it cannot be decoded, or is no picture.
    """
    rgb = rgb_of_bridge(msg, max_pixels)
    if rgb is None:
        pixels, encoding = decode_any_image(msg, max_pixels)
        rgb = to_rgb(pixels, encoding, bit_depth)
    return ImageFrame(rgb, decode_stamp(msg.header), decode_frame(msg.header))


@refusing("depth image")
def decode_depth(msg: Any, max_pixels: int = MAX_PIXELS, unit_m: float = 0.0) -> DepthFrame:
    """Depth in metres, NaN where there is none.

    Args:
        unit_m: metres per unit; 0: as REP 118 has it, 1 of floats (32FC1) and 0.001 of integers (16UC1). Integers of 0
            and floats that are not finite are no measurement.

    Raises:
        DataError: any other encoding, or negative depth.
    """
    pixels, encoding = decode_any_image(msg, max_pixels)
    if encoding not in _DEPTH:
        raise DataError(f"depth image: expected 16UC1 [mm] or 32FC1 [m] (or {', '.join(_DEPTH[2:])}), got {encoding}")
    is_float = pixels.dtype.kind == "f"
    with np.errstate(over="ignore"):
        depth = pixels.astype(np.float32)
        depth *= np.float32(unit_m or (1.0 if is_float else _MILLIMETRE))
    if is_float:
        depth[~np.isfinite(depth)] = np.nan
    if pixels.dtype.kind != "u" and bool((depth < 0).any()):
        raise DataError("depth image with negative distances")
    depth[depth == 0] = np.nan
    return DepthFrame(depth, decode_stamp(msg.header), decode_frame(msg.header))


@refusing("thermal image")
def decode_thermal(
    msg: Any, scale: str, max_pixels: int = MAX_PIXELS, gain_k: float = 0.0, offset_k: float = 0.0
) -> ThermalFrame:
    """A thermal image: one channel, or colour channels that are equal (video of a UVC camera, jpeg of a grey picture).

    Args:
        scale: the sensor's `thermal_scale` (there is no standard that would tell).
        gain_k, offset_k: kelvin per unit and kelvin at 0; a gain of 0: as `scale` says.

    Raises:
        DataError: a false-colour palette, 8 bits that are said to be radiometric, or 16 that are said to be AGC.
    """
    pixels, encoding = decode_any_image(msg, max_pixels)
    channel = brightness(pixels, encoding)
    if channel is None and (not ENCODINGS[encoding].is_picture or encoding.startswith("bayer")):
        raise DataError(f"thermal image: expected one channel, or a grey picture in colour channels, got {encoding}")
    if channel is None:
        raise DataError(
            f"thermal image: {encoding} with different channels is a false-colour palette, and its colours are no "
            "temperatures: set the camera to grey (white hot), or to 16 bits"
        )
    eight_bit = channel.dtype == np.uint8
    if not gain_k and eight_bit != (scale == "agc"):
        advice = "set thermal_scale: agc" if eight_bit else "set another thermal_scale, such as counts or centikelvin"
        raise DataError(f"thermal image: encoding {encoding} does not fit thermal_scale {scale!r}: {advice}")
    values = channel.astype(np.float32)
    if not bool(np.isfinite(values).all()):
        raise DataError("thermal image with values that are not finite")
    unit: ThermalUnit = "kelvin"
    if gain_k:
        values = values * np.float32(gain_k) + np.float32(offset_k)
    elif scale in _KELVIN:
        per_unit, zero = _KELVIN[scale]
        values = values * np.float32(per_unit) + np.float32(zero)
    else:
        unit = "agc" if scale == "agc" else "counts"
    return ThermalFrame(values, unit, decode_stamp(msg.header), decode_frame(msg.header))


class ThermalDecoder:
    """Thermal images of one camera.

    Attributes:
        notes: what is worth saying of the messages, in words; each is said once.
    """

    def __init__(self, scale: str, max_pixels: int, gain_k: float = 0.0, offset_k: float = 0.0) -> None:
        self._scale, self._max_pixels, self._gain_k, self._offset_k = scale, max_pixels, gain_k, offset_k
        self.notes: tuple[str, ...] = ()

    def __call__(self, msg: Any) -> ThermalFrame:
        """Raises DataError."""
        frame = decode_thermal(msg, self._scale, self._max_pixels, self._gain_k, self._offset_k)
        if frame.unit == "kelvin" and not self.notes:
            middle = float(np.median(frame.values[::8, ::8]))
            if not PLAUSIBLE_K[0] <= middle <= PLAUSIBLE_K[1]:
                self.notes = (self._doubt(middle),)
        return frame

    def _doubt(self, middle_k: float) -> str:
        said = f"thermal_gain {self._gain_k:g}" if self._gain_k else f"thermal_scale {self._scale}"
        per_unit, zero = (self._gain_k, self._offset_k) if self._gain_k else _KELVIN[self._scale]
        units = (middle_k - zero) / per_unit
        fits = [name for name, (k, z) in _KELVIN.items() if 250 <= units * k + z <= 350]
        hint = f": is {' or '.join(fits)} meant?" if fits else ": set thermal_gain and thermal_offset_k, or counts"
        return f"by {said} most of the image is at {middle_k:.0f} K{hint}"


@refusing("label image")
def decode_labels(msg: Any, max_pixels: int = MAX_PIXELS) -> LabelImage:
    """True class ids: a mono8 or 8UC1 image or a grey png. Raises DataError for anything else."""
    pixels, encoding = decode_any_image(msg, max_pixels)
    if encoding not in ("mono8", "8UC1"):
        raise DataError(f"label image: expected mono8, got {encoding}")
    return LabelImage(np.ascontiguousarray(pixels), decode_stamp(msg.header), decode_frame(msg.header))
