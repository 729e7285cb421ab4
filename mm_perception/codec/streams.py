"""The decoders of sensors that live across messages, and take whichever message a driver sends."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mm_perception.codec.event_arrays import EventArrayDecoder
from mm_perception.codec.events import EventPacketDecoder
from mm_perception.codec.image import decode_image
from mm_perception.codec.livox import decode_custom_msg, is_custom_msg
from mm_perception.codec.point_cloud import PointCloudDecoder
from mm_perception.codec.video import VideoDecoder, video_codec
from mm_perception.core.rig import SensorConfig
from mm_perception.core.types import EventPacket, ImageFrame, PointCloud

_VIDEO_TYPES = ("FFMPEGPacket", "CompressedVideo")


class ColorDecoder:
    """Image, CompressedImage or video packets to pictures.

    Attributes:
        losses: video packets that gave no picture, by why.
    """

    def __init__(self, sensor: SensorConfig) -> None:
        """Raises ConfigError if the rig names a video type and PyAV is not installed."""
        self._max_pixels, self._bit_depth = sensor.pixel_limit, sensor.bit_depth
        self._video = VideoDecoder(self._max_pixels) if sensor.type.endswith(_VIDEO_TYPES) else None

    def __call__(self, msg: Any) -> ImageFrame:
        """Raises DataError; ConfigError where an image topic holds video and PyAV is not installed."""
        if self._video is None:
            if video_codec(str(getattr(msg, "format", ""))) is None:
                return decode_image(msg, self._max_pixels, self._bit_depth)
            self._video = VideoDecoder(self._max_pixels)
        return self._video(msg)

    @property
    def losses(self) -> Counter[str]:
        return Counter() if self._video is None else self._video.losses


class LidarDecoder:
    """PointCloud2 or Livox's CustomMsg to clouds.

    Attributes:
        left_out: points that are no returns, by what marked them.
        notes: what is worth saying of the messages, in words; each is said once.
    """

    def __init__(self, sensor: SensorConfig) -> None:
        self._clouds = PointCloudDecoder(sensor.intensity_max, sensor.max_points)
        self._intensity_max, self._max_points = sensor.intensity_max, sensor.max_points

    def __call__(self, msg: Any) -> PointCloud:
        """Raises DataError."""
        if not is_custom_msg(msg):
            return self._clouds.decode(msg)
        cloud, no_returns = decode_custom_msg(msg, self._intensity_max, self._max_points)
        self._clouds.left_out["points without a return"] += no_returns
        return cloud

    @property
    def left_out(self) -> Counter[str]:
        return self._clouds.left_out

    @property
    def notes(self) -> tuple[str, ...]:
        return self._clouds.notes


class EventDecoder:
    """EventPacket, EventArray (a message per event) or a cloud of events to packets.

    Attributes:
        losses: counts of what was lost, by what it was.
        notes: what is worth saying of the messages, in words; each is said once.
    """

    def __init__(self, sensor: SensorConfig) -> None:
        self._packets = EventPacketDecoder(sensor.pixel_limit, sensor.max_events)
        self._arrays = EventArrayDecoder(sensor.pixel_limit, sensor.max_events, sensor.size_px)

    def __call__(self, msg: Any) -> EventPacket:
        """Raises DataError."""
        return self._packets.decode(msg) if hasattr(msg, "encoding") else self._arrays.decode(msg)

    @property
    def losses(self) -> Counter[str]:
        return Counter(self._packets.losses) + Counter(self._arrays.losses)

    @property
    def notes(self) -> tuple[str, ...]:
        return self._arrays.notes
