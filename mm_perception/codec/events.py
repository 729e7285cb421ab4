"""event_camera_msgs/EventPacket to events.

Encodings: `evt3`, `evt2`, `evt21` (Prophesee, the decoder's state lives across packets), `libcaer` (iniVation) and
`mono` (64-bit words, times relative to the header's stamp).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.evt2 import Evt2Decoder, Evt21Decoder
from mm_perception.codec.evt3 import Evt3Decoder, RawEvents
from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import check_pixels
from mm_perception.codec.libcaer import BYTES_PER_EVENT, decode_libcaer
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_EVENT_PIXELS, MAX_EVENTS
from mm_perception.core.types import EventPacket

__all__ = ["ENCODINGS", "EventPacketDecoder", "Evt3Decoder", "RawEvents", "decode_mono", "in_order"]

_STREAMS: dict[str, tuple[type[Evt3Decoder] | type[Evt2Decoder], str]] = {
    "evt3": (Evt3Decoder, "u2"),
    "evt2": (Evt2Decoder, "u4"),
    "evt21": (Evt21Decoder, "u8"),
}
"""Decoders whose state lives across packets, and the size of their words."""
ENCODINGS = (*_STREAMS, "libcaer", "mono")
_ALIASES = {"evt2.1": "evt21", "evt2_1": "evt21", "evt2.0": "evt2", "evt3.0": "evt3"}
_WAY_OUT = f"known: {', '.join(ENCODINGS)}; event_camera_codecs decodes others and encodes mono or evt3"


def decode_mono(words: NDArray[np.uint64]) -> tuple[RawEvents, NDArray[np.int64]]:
    """(W,) 64-bit words: dt [ns] in bits 0-31, x in 32-47, y in 48-62, polarity in 63. Also gives dt."""
    dt_ns = (words & np.uint64(0xFFFFFFFF)).astype(np.int64)
    x = ((words >> np.uint64(32)) & np.uint64(0xFFFF)).astype(np.uint16)
    y = ((words >> np.uint64(48)) & np.uint64(0x7FFF)).astype(np.uint16)
    polarity = (words >> np.uint64(63)).astype(bool)
    return RawEvents(x, y, polarity, dt_ns // 1000), dt_ns


class EventPacketDecoder:
    """The packets of one event camera, in order, to `EventPacket`s in host time.

    The first event of each packet whose times are the sensor's own is anchored to the header's stamp; the sensor's
    clock gives the times within the packet. `lost_packets` counts gaps of `seq`; after one the state starts anew.
    """

    def __init__(self, max_pixels: int = MAX_EVENT_PIXELS, max_events: int = MAX_EVENTS) -> None:
        """Takes the largest sensor and the most events per packet that are believed; the sensor's limits in the rig."""
        self.lost_packets = 0
        self._max_pixels, self._max_events = max_pixels, max_events
        self._stream: Evt3Decoder | Evt2Decoder | None = None
        self._unusable = 0
        self._next_seq: int | None = None
        self._last: tuple[int, int] | None = None

    def __call__(self, msg: Any) -> EventPacket:
        """`decode`, as every sensor's decoder is called."""
        return self.decode(msg)

    @property
    def losses(self) -> dict[str, int]:
        """Counts of what was lost, by what it was."""
        stream = self._stream
        counts = {"lost_packets": self.lost_packets}
        if self._unusable:
            counts["events_outside_or_invalid"] = self._unusable
        if stream is not None:
            counts |= {"events_outside_the_image": stream.outside, "unknown_words": stream.unknown_words}
        if isinstance(stream, Evt2Decoder):
            counts["events_without_a_time"] = stream.untimed
        return counts

    def reset(self) -> None:
        self._stream = None
        self._next_seq = None
        self._last = None

    @refusing("event packet")
    def decode(self, msg: Any) -> EventPacket:
        """Decodes the next packet.

        Raises:
            DataError: unknown encoding, or content that is none of it; zero or too large a size, too many events, no
                whole words, mono events outside of the sensor, or the packet of before once more.
        """
        width, height = int(msg.width), int(msg.height)
        check_pixels("event packet", width, height, self._max_pixels)
        stamp_ns, frame_id = decode_stamp(msg.header), decode_frame(msg.header)
        self._follow_sequence(int(msg.seq), stamp_ns)
        encoding = str(msg.encoding).strip().lower()
        encoding = _ALIASES.get(encoding, encoding)
        data, big = octets_of(msg.events), bool(msg.is_bigendian)
        if encoding not in ENCODINGS:
            raise DataError(f"event encoding {str(msg.encoding)!r} is not supported ({_WAY_OUT})")
        if encoding == "mono":
            raw, t_ns = self._decode_mono(data, big, stamp_ns)
        else:
            raw = self._decode_sensor_time(encoding, data, width, height, big)
            t_ns = stamp_ns + (raw.t_us - (raw.t_us[0] if len(raw.t_us) else 0)) * 1000
        return in_order(raw, t_ns, width, height, stamp_ns, frame_id)

    def _decode_mono(self, data: NDArray[np.uint8], big: bool, stamp_ns: int) -> tuple[RawEvents, NDArray[np.int64]]:
        if len(data) % 8:
            raise DataError(f"mono event packet truncated: {len(data)} bytes are no whole words")
        if len(data) // 8 > self._max_events:
            raise DataError(f"mono packet of {len(data) // 8} events: expected at most {self._max_events}")
        raw, dt_ns = decode_mono(data.view(">u8" if big else "<u8").astype(np.uint64))
        return raw, stamp_ns + dt_ns

    def _decode_sensor_time(
        self, encoding: str, data: NDArray[np.uint8], width: int, height: int, big: bool
    ) -> RawEvents:
        """Raises DataError naming the encoding, and those that are known, where the content is not of it."""
        try:
            if encoding in _STREAMS:
                return self._decode_stream(encoding, data, width, height, big)
            if len(data) // BYTES_PER_EVENT > self._max_events:
                raise DataError(f"libcaer packet of {len(data) // 8} events (max_events in the rig)")
            raw, unusable = decode_libcaer(data, width, height, big)
        except DataError as error:
            raise DataError(f"event encoding {encoding!r}: {error} ({_WAY_OUT})") from error
        self._unusable += unusable
        return raw

    def _decode_stream(self, encoding: str, data: NDArray[np.uint8], width: int, height: int, big: bool) -> RawEvents:
        kind, word = _STREAMS[encoding]
        size = int(word[1])
        if len(data) % size:
            raise DataError(f"{encoding} packet truncated: {len(data)} bytes are no whole words")
        stream = self._stream
        if stream is None or type(stream) is not kind or (stream.width, stream.height) != (width, height):
            stream = self._stream = kind(width, height, self._max_events)
        words: NDArray[Any] = data.view((">" if big else "<") + word).astype(word)
        return stream.decode(words)

    def _follow_sequence(self, seq: int, stamp_ns: int) -> None:
        if (seq, stamp_ns) == self._last:
            raise DataError(f"event packet {seq} came twice")
        self._last = (seq, stamp_ns)
        if self._next_seq is not None and seq != self._next_seq:
            self.lost_packets += max(seq - self._next_seq, 0)
            if self._stream is not None:
                self._stream.reset()
        self._next_seq = seq + 1


def in_order(
    raw: RawEvents, t_ns: NDArray[np.int64], width: int, height: int, stamp_ns: int, frame_id: str
) -> EventPacket:
    """A packet whose events are in the order of their times.

    Sensors jitter by a few microseconds around a carry from the low to the high half of the time.
    """
    order = np.argsort(t_ns, kind="stable") if bool((t_ns[1:] < t_ns[:-1]).any()) else slice(None)
    return EventPacket(
        raw.x[order],
        raw.y[order],
        raw.polarity[order],
        np.ascontiguousarray(t_ns[order]),
        width,
        height,
        stamp_ns,
        frame_id,
    )
