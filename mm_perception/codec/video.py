"""Video topics: h264 and h265 packets to pictures, through PyAV (an extra: `pip install mm_perception[video]`).

Taken are ffmpeg_image_transport_msgs/FFMPEGPacket, foxglove_msgs/CompressedVideo, and CompressedImage that holds a
stream. A picture needs those since the last key frame: what comes before the first, and after a damaged packet until
the next, is lost and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import check_pixels
from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.types import ImageFrame

_CODECS = {"h264": "h264", "avc": "h264", "libx264": "h264", "x264": "h264", "h265": "hevc", "hevc": "hevc",
           "libx265": "hevc", "x265": "hevc", "vp9": "vp9", "av1": "av1"}  # fmt: skip
_KEY_FLAG = 1
_MOST_WAITING = 64
_START = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)


def video_codec(text: str) -> str | None:
    """FFmpeg's name of what a message calls its encoding ("h264", "hevc_nvenc;yuv420p"); None where it is no video."""
    first = re.split(r"[;, ]", text.strip().lower(), maxsplit=1)[0]
    return _CODECS.get(first) or _CODECS.get(first.partition("_")[0])


class VideoDecoder:
    """The packets of one camera, in order, to pictures.

    Attributes:
        losses: packets that gave no picture, by why.
    """

    def __init__(self, max_pixels: int) -> None:
        """Raises ConfigError if PyAV is not installed."""
        try:
            import av
        except ImportError as error:
            raise ConfigError(
                "video (FFMPEGPacket, CompressedVideo, h264) needs PyAV: pip install mm_perception[video], or pip "
                f"install av ({error})"
            ) from error
        self._av: Any = av
        self._max_pixels = max_pixels
        self.losses: Counter[str] = Counter()
        self._context: Any = None
        self._codec = ""
        self._has_key = False
        self._waiting: dict[int, tuple[int, str]] = {}
        self._number = 0

    @refusing("video packet")
    def __call__(self, msg: Any) -> ImageFrame:
        """The next picture, with the stamp of its own packet: encoders that reorder pictures give them later.

        Raises:
            DataError: this packet gave none: the stream has not had a key frame, the packet is damaged or of an
                encoding that is not known, or the picture is to come.
        """
        text = str(getattr(msg, "encoding", getattr(msg, "format", "")))
        codec = video_codec(text)
        if codec is None:
            raise DataError(f"video encoding {text!r} is not supported (known: {', '.join(_CODECS)})")
        data = octets_of(msg.data).tobytes()
        if not data:  # to the decoder no bytes would be the end of the stream
            raise DataError(f"{codec}: packet without data")
        # CompressedVideo has its stamp and frame without a header around them.
        header = getattr(msg, "header", None) or SimpleNamespace(stamp=msg.timestamp, frame_id=msg.frame_id)
        is_key = bool(int(getattr(msg, "flags", 0)) & _KEY_FLAG) or _holds_key(data, codec)
        self._start(codec, is_key)
        self._number += 1
        self._waiting[self._number] = decode_stamp(header), decode_frame(header)
        return self._picture(data, codec)

    def _start(self, codec: str, is_key: bool) -> None:
        if self._context is None or codec != self._codec:
            self._context = self._av.CodecContext.create(codec, "r")
            self._context.thread_count = 1  # threads would hold pictures back
            self._context.options = {"max_pixels": str(self._max_pixels)}
            self._codec, self._has_key = codec, False
        self._has_key = self._has_key or is_key
        if not self._has_key:
            self.losses["packets before a key frame"] += 1
            raise DataError(f"{codec}: no picture before the next key frame")

    def _picture(self, data: bytes, codec: str) -> ImageFrame:
        packet = self._av.Packet(data)
        packet.pts = packet.dts = self._number
        try:
            frames = self._context.decode(packet)
        except (self._av.FFmpegError, ValueError) as error:
            raise self._damaged(codec, str(error)) from error
        if any(frame.is_corrupt for frame in frames):
            raise self._damaged(codec, "parts of its picture would be invented")
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        if not frames:
            raise DataError(f"{codec}: the packet holds no whole picture, or one that later packets complete")
        self.losses["pictures at one time with another"] += len(frames) - 1
        frame = frames[-1]
        check_pixels("video picture", frame.width, frame.height, self._max_pixels)
        found = self._waiting.pop(frame.pts, None)
        if found is None:
            raise DataError(f"{codec}: a picture of no packet that is known")
        return ImageFrame(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), *found)

    def _damaged(self, codec: str, why: str) -> DataError:
        """Starts anew at the next key frame: pictures until then are made from this one."""
        self._context, self._has_key = None, False
        self._waiting.clear()
        self.losses["damaged packets"] += 1
        return DataError(f"{codec} packet (FFMPEGPacket, CompressedVideo) is damaged: {why}")


def _holds_key(data: bytes, codec: str) -> bool:
    """Whether an Annex B packet holds parameters or an independent picture (ITU-T H.264 table 7-1, H.265 table 7-1)."""
    if codec not in ("h264", "hevc"):
        return True
    kinds = {one[0] for one in _START.findall(data[:4096])}
    if codec == "h264":
        return any(kind & 31 in (5, 7) for kind in kinds)
    return any(kind >> 1 & 63 in (*range(16, 22), 32, 33, 34) for kind in kinds)
