"""event_camera_msgs/EventPacket to events.

Encodings: `evt3` (Prophesee EVT 3.0, 16-bit words whose decoder state lives across packets) and `mono`
(64-bit words, times relative to the header's stamp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.fields import decode_frame, decode_stamp, octets_of
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import check_pixels
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_EVENT_PIXELS, MAX_EVENTS, WORDS_PER_EVENT
from mm_perception.core.types import EventPacket

_ADDR_Y, _ADDR_X, _VECT_BASE_X, _VECT_12, _VECT_8 = 0x0, 0x2, 0x3, 0x4, 0x5
_TIME_LOW, _TIME_HIGH, _EXT_TRIGGER = 0x6, 0x8, 0xA
_IGNORED = (0x7, 0xE, 0xF)
_KNOWN = (_ADDR_Y, _ADDR_X, _VECT_BASE_X, _VECT_12, _VECT_8, _TIME_LOW, _TIME_HIGH, _EXT_TRIGGER, *_IGNORED)
_CHUNK_WORDS = 1 << 16
"""Words are decoded in pieces: the intermediate arrays take some hundred bytes per word."""
_HIGH_JITTER = 10
"""A smaller TIME_HIGH counts as a wrap only where it is smaller by more than this."""


@dataclass(frozen=True, slots=True, eq=False)
class RawEvents:
    """Decoded events in sensor time: x, y (N,) uint16, polarity (N,) bool, t_us (N,) int64."""

    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    polarity: NDArray[np.bool_]
    t_us: NDArray[np.int64]


class Evt3Decoder:
    """EVT 3.0 words to events, vectorised; feed it the packets of one sensor in order.

    Attributes:
        triggers, unknown_words, outside: counts of external triggers, words of unknown code and events that
            lay outside of the sensor and were dropped.
    """

    def __init__(self, width: int, height: int, max_events: int = MAX_EVENTS) -> None:
        self.width, self.height = width, height
        self._max_events = max_events
        self.triggers = self.unknown_words = self.outside = 0
        self.reset()

    def reset(self) -> None:
        """Forgets address and time, as after a gap in the stream."""
        self._y = self._base_x = 0
        self._base_polarity = False
        self._high: int | None = None
        self._low: int | None = None
        self._wraps = 0

    def decode(self, words: NDArray[np.uint16]) -> RawEvents:
        """Decodes (W,) words; before the first TIME_HIGH and TIME_LOW of the stream they are dropped.

        Raises:
            DataError: there are more words or events than a packet may have; the decoder then starts anew.
        """
        most_words = WORDS_PER_EVENT * self._max_events
        if len(words) > most_words:
            self.reset()
            raise DataError(f"evt3 packet of {len(words)} words: expected at most {most_words}")
        pieces: list[RawEvents] = []
        count = 0
        for start in range(0, len(words), _CHUNK_WORDS):
            piece = self._decode_piece(words[start : start + _CHUNK_WORDS])
            count += len(piece.x)
            if count > self._max_events:
                self.reset()
                raise DataError(f"evt3 packet of more than {self._max_events} events (max_events in the rig)")
            pieces.append(piece)
        return _joined(pieces)

    def _decode_piece(self, words: NDArray[np.uint16]) -> RawEvents:
        words = self._after_sync(words)
        code, low12 = (words >> 12).astype(np.uint16), (words & 0xFFF).astype(np.int64)
        self.triggers += int(np.count_nonzero(code == _EXT_TRIGGER))
        self.unknown_words += int(np.count_nonzero(~np.isin(code, _KNOWN)))
        t_us = self._times(code, low12)
        y = _carry_forward(code == _ADDR_Y, low12 & 0x7FF, self._y)
        is_base = code == _VECT_BASE_X
        base_polarity = _carry_forward(is_base, low12 >> 11, int(self._base_polarity))
        base = self._vector_bases(code, is_base, low12)
        events = self._emit(code, low12, t_us, y, base, base_polarity)
        if len(words):
            self._y, self._base_polarity = int(y[-1]), bool(base_polarity[-1])
        return events

    def _after_sync(self, words: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Drops words until both halves of the time are known."""
        if self._high is None:
            found = np.nonzero(words >> 12 == _TIME_HIGH)[0]
            if len(found) == 0:
                return words[:0]
            self._high = int(words[found[0]] & 0xFFF)
            words = words[found[0] :]
        if self._low is None:
            found = np.nonzero(words >> 12 == _TIME_LOW)[0]
            if len(found) == 0:
                highs = words[words >> 12 == _TIME_HIGH]
                if len(highs):
                    self._high = int(highs[-1] & 0xFFF)
                return words[:0]
            before = words[: found[0]]
            highs = before[before >> 12 == _TIME_HIGH]
            if len(highs):
                self._high = int(highs[-1] & 0xFFF)
            words = words[found[0] :]
            self._low = int(words[0] & 0xFFF)
        return words

    def _times(self, code: NDArray[np.uint16], low12: NDArray[np.int64]) -> NDArray[np.int64]:
        is_high = code == _TIME_HIGH
        highs = np.concatenate([[self._high or 0], low12[is_high]])
        fell = (highs[:-1] - highs[1:] > _HIGH_JITTER).astype(np.int64)
        epochs = np.zeros(len(code), np.int64)
        epochs[is_high] = fell
        epochs = self._wraps + np.cumsum(epochs)
        high = _carry_forward(is_high, low12, self._high or 0)
        low = _carry_forward(code == _TIME_LOW, low12, self._low or 0)
        if len(code):
            self._high, self._low, self._wraps = int(high[-1]), int(low[-1]), int(epochs[-1])
        return (epochs << 24) | (high << 12) | low

    def _vector_bases(
        self, code: NDArray[np.uint16], is_base: NDArray[np.bool_], low12: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The x at which each word's vector starts: the last base plus what vectors since then consumed."""
        consumed = np.where(code == _VECT_12, 12, np.where(code == _VECT_8, 8, 0)).astype(np.int64)
        before = np.cumsum(consumed) - consumed
        base = _carry_forward(is_base, (low12 & 0x7FF) - before, self._base_x) + before
        if len(code):
            self._base_x = int(base[-1] + consumed[-1])
        return base

    def _emit(
        self,
        code: NDArray[np.uint16],
        low12: NDArray[np.int64],
        t_us: NDArray[np.int64],
        y: NDArray[np.int64],
        base: NDArray[np.int64],
        base_polarity: NDArray[np.int64],
    ) -> RawEvents:
        single = np.nonzero(code == _ADDR_X)[0]
        vector = np.nonzero((code == _VECT_12) | (code == _VECT_8))[0]
        masks = np.where(code[vector] == _VECT_12, low12[vector], low12[vector] & 0xFF)
        bits = (masks[:, None] >> np.arange(12)) & 1
        row, bit = np.nonzero(bits)
        word = np.concatenate([single, vector[row]])
        x = np.concatenate([low12[single] & 0x7FF, base[vector[row]] + bit])
        polarity = np.concatenate([low12[single] >> 11, base_polarity[vector[row]]])
        order = np.argsort(word, kind="stable")
        word, x, polarity = word[order], x[order], polarity[order].astype(bool)
        y, t_us = y[word], t_us[word]
        inside = (x < self.width) & (y < self.height)
        if not inside.all():
            self.outside += int(len(x) - np.count_nonzero(inside))
            x, y, polarity, t_us = x[inside], y[inside], polarity[inside], t_us[inside]
        return RawEvents(x.astype(np.uint16), y.astype(np.uint16), polarity, t_us)


def _joined(pieces: list[RawEvents]) -> RawEvents:
    if len(pieces) == 1:
        return pieces[0]
    none = RawEvents(np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, bool), np.zeros(0, np.int64))
    pieces = pieces or [none]
    return RawEvents(
        np.concatenate([p.x for p in pieces]), np.concatenate([p.y for p in pieces]),
        np.concatenate([p.polarity for p in pieces]), np.concatenate([p.t_us for p in pieces]),
    )  # fmt: skip


def _carry_forward(is_set: NDArray[np.bool_], values: NDArray[np.int64], initial: int) -> NDArray[np.int64]:
    """At each position the value of the last position that was set, `initial` before the first."""
    last = np.maximum.accumulate(np.where(is_set, np.arange(len(is_set)), -1)) if len(is_set) else is_set
    return np.where(last >= 0, values[last], initial) if len(is_set) else values


def decode_mono(words: NDArray[np.uint64]) -> tuple[RawEvents, NDArray[np.int64]]:
    """(W,) 64-bit words: dt [ns] in bits 0-31, x in 32-47, y in 48-62, polarity in 63. Also gives dt."""
    dt_ns = (words & np.uint64(0xFFFFFFFF)).astype(np.int64)
    x = ((words >> np.uint64(32)) & np.uint64(0xFFFF)).astype(np.uint16)
    y = ((words >> np.uint64(48)) & np.uint64(0x7FFF)).astype(np.uint16)
    polarity = (words >> np.uint64(63)).astype(bool)
    return RawEvents(x, y, polarity, dt_ns // 1000), dt_ns


class EventPacketDecoder:
    """The packets of one event camera, in order, to `EventPacket`s in host time.

    The first event of each evt3 packet is anchored to the header's stamp; the sensor's own clock gives the
    times within the packet. `lost_packets` counts gaps of `seq`; after a gap the evt3 state starts anew.
    """

    def __init__(self, max_pixels: int = MAX_EVENT_PIXELS, max_events: int = MAX_EVENTS) -> None:
        """Takes the largest sensor and the most events per packet that are believed; the sensor's limits in the rig."""
        self.lost_packets = 0
        self._max_pixels, self._max_events = max_pixels, max_events
        self._evt3: Evt3Decoder | None = None
        self._next_seq: int | None = None
        self._last: tuple[int, int] | None = None

    def __call__(self, msg: Any) -> EventPacket:
        """`decode`, as every sensor's decoder is called."""
        return self.decode(msg)

    @property
    def losses(self) -> dict[str, int]:
        """Counts of what was lost, by what it was."""
        evt3 = self._evt3
        counts = {"lost_packets": self.lost_packets}
        if evt3 is not None:
            counts |= {"events_outside_the_image": evt3.outside, "unknown_words": evt3.unknown_words}
        return counts

    def reset(self) -> None:
        self._evt3 = None
        self._next_seq = None
        self._last = None

    @refusing("event packet")
    def decode(self, msg: Any) -> EventPacket:
        """Decodes the next packet.

        Raises:
            DataError: unknown encoding, zero or too large a size, too many events, no whole words, mono events outside
                of the sensor, or the packet of before once more.
        """
        width, height = int(msg.width), int(msg.height)
        check_pixels("event packet", width, height, self._max_pixels)
        stamp_ns, frame_id = decode_stamp(msg.header), decode_frame(msg.header)
        self._follow_sequence(int(msg.seq), stamp_ns)
        encoding = str(msg.encoding)
        data = octets_of(msg.events)
        if encoding == "evt3":
            raw = self._decode_evt3(data, width, height, bool(msg.is_bigendian))
            t_ns = stamp_ns + (raw.t_us - (raw.t_us[0] if len(raw.t_us) else 0)) * 1000
        elif encoding == "mono":
            if len(data) % 8:
                raise DataError(f"mono event packet truncated: {len(data)} bytes are no whole words")
            if len(data) // 8 > self._max_events:
                raise DataError(f"mono packet of {len(data) // 8} events: expected at most {self._max_events}")
            raw, dt_ns = decode_mono(data.view(">u8" if msg.is_bigendian else "<u8").astype(np.uint64))
            t_ns = stamp_ns + dt_ns
        else:
            raise DataError(f"event encoding {encoding!r} is not supported (known: evt3, mono)")
        return self._packet(raw, t_ns, width, height, stamp_ns, frame_id)

    def _decode_evt3(self, data: NDArray[np.uint8], width: int, height: int, big: bool) -> RawEvents:
        if len(data) % 2:
            raise DataError(f"evt3 packet truncated: {len(data)} bytes are no whole words")
        if self._evt3 is None or (self._evt3.width, self._evt3.height) != (width, height):
            self._evt3 = Evt3Decoder(width, height, self._max_events)
        return self._evt3.decode(data.view(">u2" if big else "<u2").astype(np.uint16))

    def _follow_sequence(self, seq: int, stamp_ns: int) -> None:
        if (seq, stamp_ns) == self._last:
            raise DataError(f"event packet {seq} came twice")
        self._last = (seq, stamp_ns)
        if self._next_seq is not None and seq != self._next_seq:
            self.lost_packets += max(seq - self._next_seq, 0)
            if self._evt3 is not None:
                self._evt3.reset()
        self._next_seq = seq + 1

    @staticmethod
    def _packet(
        raw: RawEvents, t_ns: NDArray[np.int64], width: int, height: int, stamp_ns: int, frame_id: str
    ) -> EventPacket:
        # Sensors jitter by a few microseconds around a carry from the low to the high half of the time.
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
