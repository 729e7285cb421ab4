"""EVT 2.0 and EVT 2.1 of Prophesee: words of 32 and 64 bits whose upper half of the time comes in words of its own.

An EVT 2.0 word is one event; an EVT 2.1 word is up to 32 events of one instant, row and polarity, one per set bit.
Bits, from the top: 4 of code, 6 of time [us], 11 of x, 11 of y, and in EVT 2.1 32 of the mask. A TIME_HIGH word has the
28 bits of the time above those 6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.evt3 import RawEvents, carry_forward, joined
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_EVENTS, WORDS_PER_EVENT

_OFF, _ON, _TIME_HIGH, _EXT_TRIGGER, _OTHERS, _CONTINUED = 0x0, 0x1, 0x8, 0xA, 0xE, 0xF
_KNOWN = (_OFF, _ON, _TIME_HIGH, _EXT_TRIGGER, _OTHERS, _CONTINUED)
_CHUNK_WORDS = 1 << 16
_LOW_BITS, _HIGH_BITS = 6, 28
_VECTOR = 32


class Evt2Decoder:
    """EVT 2.0 words to events; feed it the packets of one sensor in order.

    Attributes:
        triggers, unknown_words, outside, untimed: counts of external triggers, words of unknown code, events outside
            of the sensor, and events before the first TIME_HIGH, whose time nobody knows; the latter two are dropped.
    """

    name, word = "evt2", "u4"

    def __init__(self, width: int, height: int, max_events: int = MAX_EVENTS) -> None:
        self.width, self.height = width, height
        self._max_events = max_events
        self.triggers = self.unknown_words = self.outside = self.untimed = 0
        self.reset()

    def reset(self) -> None:
        """Forgets the time, as after a gap in the stream."""
        self._high: int | None = None
        self._wraps = 0

    def decode(self, words: NDArray[np.unsignedinteger]) -> RawEvents:
        """Decodes (W,) words of the format's size.

        Raises:
            DataError: no word so far tells the time; or there are more words or events than a packet may have, after
                which the decoder starts anew.
        """
        if len(words) > WORDS_PER_EVENT * self._max_events:
            self.reset()
            raise DataError(f"{self.name} packet of {len(words)} words: expected at most {3 * self._max_events}")
        pieces: list[RawEvents] = []
        count = 0
        for start in range(0, len(words), _CHUNK_WORDS):
            piece = words[start : start + _CHUNK_WORDS]
            count += self._count(piece)
            if count > self._max_events:
                self.reset()
                raise DataError(f"{self.name} packet of more than {self._max_events} events (max_events in the rig)")
            pieces.append(self._decode_piece(piece))
        if len(words) and self._high is None:
            raise DataError(f"{self.name} packet of {len(words)} words, and none of the stream so far is a TIME_HIGH")
        return joined(pieces)

    def _decode_piece(self, words: NDArray[np.unsignedinteger]) -> RawEvents:
        code = self._bits(words, 4, 28)
        self.triggers += int(np.count_nonzero(code == _EXT_TRIGGER))
        self.unknown_words += int(np.count_nonzero(~np.isin(code, _KNOWN)))
        is_high = code == _TIME_HIGH
        is_event = code <= _ON
        if self._high is None:
            highs = np.nonzero(is_high)[0]
            first = int(highs[0]) if len(highs) else len(words)
            self.untimed += self._count(words[:first])
            words, code, is_high, is_event = words[first:], code[first:], is_high[first:], is_event[first:]
        if not len(words):
            return joined([])
        high_us = self._times(is_high, self._bits(words, _HIGH_BITS, 0))
        at = np.nonzero(is_event)[0]
        return self._emit(words[at], code[at] == _ON, high_us[at])

    def _times(self, is_high: NDArray[np.bool_], high: NDArray[np.int64]) -> NDArray[np.int64]:
        """The upper part of each word's time [us]; the counter starts anew every five hours."""
        before = int(high[np.argmax(is_high)]) if self._high is None else self._high
        seen = np.concatenate([[before], high[is_high]])
        epochs = np.zeros(len(high), np.int64)
        epochs[is_high] = seen[:-1] - seen[1:] > 1 << (_HIGH_BITS - 1)
        epochs = self._wraps + np.cumsum(epochs)
        current = carry_forward(is_high, high, before)
        self._high, self._wraps = int(current[-1]), int(epochs[-1])
        return ((epochs << _HIGH_BITS) | current) << _LOW_BITS

    def _emit(
        self, words: NDArray[np.unsignedinteger], polarity: NDArray[np.bool_], high_us: NDArray[np.int64]
    ) -> RawEvents:
        x, y = self._bits(words, 11, 11), self._bits(words, 11, 0)
        return self._inside(x, y, polarity, high_us + self._bits(words, 6, 22))

    def _inside(
        self, x: NDArray[np.int64], y: NDArray[np.int64], polarity: NDArray[np.bool_], t_us: NDArray[np.int64]
    ) -> RawEvents:
        inside = (x < self.width) & (y < self.height)
        if not inside.all():
            self.outside += int(len(x) - np.count_nonzero(inside))
            x, y, polarity, t_us = x[inside], y[inside], polarity[inside], t_us[inside]
        return RawEvents(x.astype(np.uint16), y.astype(np.uint16), polarity, t_us)

    @staticmethod
    def _bits(words: NDArray[np.unsignedinteger], count: int, shift: int) -> NDArray[np.int64]:
        """`count` bits of the upper 32 from `shift` on."""
        return np.asarray((words >> np.uint32(shift)) & np.uint32((1 << count) - 1), np.int64)

    @staticmethod
    def _count(words: NDArray[np.unsignedinteger]) -> int:
        """Events in some words."""
        return int(np.count_nonzero((words >> np.uint32(28)) <= _ON))


class Evt21Decoder(Evt2Decoder):
    """EVT 2.1 words to events, as `Evt2Decoder`."""

    name, word = "evt21", "u8"

    def _emit(
        self, words: NDArray[np.unsignedinteger], polarity: NDArray[np.bool_], high_us: NDArray[np.int64]
    ) -> RawEvents:
        set_bits = ((words[:, None] >> np.arange(_VECTOR, dtype=np.uint64)) & np.uint64(1)).astype(bool)
        row, bit = np.nonzero(set_bits)
        t_us = (high_us + self._bits(words, 6, 22))[row]
        return self._inside(self._bits(words, 11, 11)[row] + bit, self._bits(words, 11, 0)[row], polarity[row], t_us)

    @staticmethod
    def _bits(words: NDArray[np.unsignedinteger], count: int, shift: int) -> NDArray[np.int64]:
        return np.asarray((words >> np.uint64(32 + shift)) & np.uint64((1 << count) - 1), np.int64)

    @staticmethod
    def _count(words: NDArray[np.unsignedinteger]) -> int:
        masks = (words[(words >> np.uint64(60)) <= _ON] & np.uint64(0xFFFFFFFF)).astype("<u4")
        return int(np.unpackbits(masks.view(np.uint8)).sum(dtype=np.int64))
