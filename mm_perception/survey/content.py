"""What a few decoded messages of a topic show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.camera_info import decode_camera_info
from mm_perception.codec.decoders import make_decoder
from mm_perception.codec.image import decode_any_image
from mm_perception.core.errors import MmPerceptionError
from mm_perception.core.limits import MAX_PIXELS
from mm_perception.core.rig import MESSAGE_TYPES, SensorConfig
from mm_perception.core.types import PointCloud
from mm_perception.geometry.camera import CameraModel
from mm_perception.survey.facts import CloudContent, Content, EventContent, ImageContent, InfoContent, OdometryContent

CAMERA_INFO, ODOMETRY = "sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"
_STRIDE_PIXELS = 20_000
_WIDEST_INTENSITY = 1e6
"""The rig's largest full scale; raw intensities up to it come back out of the decoder."""


def is_sampled(type_name: str) -> bool:
    """Whether messages of the type tell something to `describe`."""
    known = {name for names in MESSAGE_TYPES.values() for name in names}
    return type_name in known or type_name in (CAMERA_INFO, ODOMETRY)


def describe(type_name: str, msg: Any) -> tuple[Content | None, str]:
    """What one message shows, and why it could not be decoded (empty if it could)."""
    if type_name == CAMERA_INFO:
        return _info(msg), ""
    if type_name == ODOMETRY:
        return OdometryContent(str(msg.header.frame_id).lstrip("/"), str(msg.child_frame_id).lstrip("/")), ""
    if type_name in MESSAGE_TYPES["rgb"]:
        return _image(msg)
    if type_name in MESSAGE_TYPES["lidar"]:
        return _cloud(type_name, msg)
    return _events(type_name, msg)


def combine(samples: Sequence[Content]) -> Content | None:
    """One content of several samples: typical values, the widest range, the last form."""
    if not samples:
        return None
    clouds = [one for one in samples if isinstance(one, CloudContent)]
    if clouds:
        sweeps = [one.sweep_ms for one in clouds if one.sweep_ms is not None]
        return CloudContent(
            clouds[-1].fields,
            int(np.median([one.points for one in clouds])),
            max(one.coverage_deg for one in clouds),
            max(one.intensity_max for one in clouds),
            max(one.range_m for one in clouds),
            (min(a for a, _ in sweeps), max(b for _, b in sweeps)) if sweeps else None,
        )
    images = [one for one in samples if isinstance(one, ImageContent) and one.channels]
    if images:
        last = images[-1]
        middle = {
            name: float(np.median([getattr(one, name) for one in images]))
            for name in ("low", "median", "high", "zero_share")
        }
        return replace(last, **middle, is_grey=all(one.is_grey for one in images))  # type: ignore[arg-type]
    return samples[-1]


def _info(msg: Any) -> InfoContent:
    width, height = int(msg.width), int(msg.height)
    try:
        camera: CameraModel = decode_camera_info(msg)
    except MmPerceptionError as error:
        return InfoContent(width, height, problem=str(error))
    distortion = str(msg.distortion_model) if np.any(np.asarray(msg.d, np.float64)) else ""
    fov_deg = math.degrees(2 * math.atan2(camera.width / 2, float(camera.intrinsics[0, 0])))
    return InfoContent(width, height, distortion, fov_deg)


def _image(msg: Any) -> tuple[ImageContent, str]:
    encoding = str(getattr(msg, "encoding", getattr(msg, "format", "")))
    try:
        pixels, decoded = decode_any_image(msg, MAX_PIXELS)
    except MmPerceptionError as error:
        return ImageContent(int(getattr(msg, "width", 0)), int(getattr(msg, "height", 0)), encoding), str(error)
    height, width = pixels.shape[:2]
    step = max(1, math.isqrt(height * width // _STRIDE_PIXELS))
    some = pixels[::step, ::step]
    channels = 1 if pixels.ndim == 2 else int(pixels.shape[2])
    if decoded.startswith("bayer"):
        channels = 3
    is_grey = some.ndim == 3 and channels >= 3 and bool((some[..., :2] == some[..., 1:3]).all())
    low, median, high, zero_share = _spread(some)
    return ImageContent(
        width, height, encoding, channels, 8 * pixels.itemsize, pixels.dtype.kind == "f", low, median, high, zero_share,
        is_grey,
    ), ""  # fmt: skip


def _spread(values: NDArray[Any]) -> tuple[float, float, float, float]:
    flat = values.reshape(-1).astype(np.float64)
    good = flat[np.isfinite(flat) & (flat != 0)]
    if not len(good):
        return 0.0, 0.0, 0.0, 1.0
    low, median, high = (float(v) for v in np.percentile(good, (1, 50, 99)))
    return low, median, high, 1 - len(good) / len(flat)


def _cloud(type_name: str, msg: Any) -> tuple[CloudContent, str]:
    fields = tuple(str(one.name) for one in getattr(msg, "fields", ()))
    try:
        decode = make_decoder(SensorConfig("lidar", "lidar", type=type_name, intensity_max=_WIDEST_INTENSITY))
        cloud = decode(msg)
    except MmPerceptionError as error:
        return CloudContent(fields), str(error)
    assert isinstance(cloud, PointCloud)
    if not len(cloud):
        return CloudContent(fields), ""
    x, y = cloud.xyz[:, 0].astype(np.float64), cloud.xyz[:, 1].astype(np.float64)
    sweep = None
    if cloud.offset_ns is not None:
        sweep = (float(cloud.offset_ns.min()) * 1e-6, float(cloud.offset_ns.max()) * 1e-6)
    largest = 0.0 if cloud.intensity is None else float(cloud.intensity.max()) * _WIDEST_INTENSITY / 255.0
    range_m = float(np.percentile(np.hypot(x, y), 99))
    return CloudContent(fields, len(cloud), covered_deg(np.arctan2(y, x)), largest, range_m, sweep), ""


def covered_deg(azimuth_rad: NDArray[np.float64]) -> float:
    """The full circle without the widest gap between neighbouring points [deg]; (N,) azimuths."""
    angles = np.unique(np.round(np.degrees(azimuth_rad) % 360.0, 2))
    if len(angles) < 2:
        return 0.0
    gaps = np.diff(np.append(angles, angles[0] + 360.0))
    return float(360.0 - gaps.max())


def _events(type_name: str, msg: Any) -> tuple[EventContent, str]:
    content = EventContent(
        int(getattr(msg, "width", 0)), int(getattr(msg, "height", 0)), str(getattr(msg, "encoding", ""))
    )
    try:
        make_decoder(SensorConfig("events", "events", type=type_name))(msg)
    except MmPerceptionError as error:
        return content, str(error)
    return content, ""
