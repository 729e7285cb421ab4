"""EVT 3.0 of Prophesee: 16-bit words whose decoder state lives across packets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_EVENTS, WORDS_PER_EVENT

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
        return joined(pieces)

    def _decode_piece(self, words: NDArray[np.uint16]) -> RawEvents:
        words = self._after_sync(words)
        code, low12 = (words >> 12).astype(np.uint16), (words & 0xFFF).astype(np.int64)
        self.triggers += int(np.count_nonzero(code == _EXT_TRIGGER))
        self.unknown_words += int(np.count_nonzero(~np.isin(code, _KNOWN)))
        t_us = self._times(code, low12)
        y = carry_forward(code == _ADDR_Y, low12 & 0x7FF, self._y)
        is_base = code == _VECT_BASE_X
        base_polarity = carry_forward(is_base, low12 >> 11, int(self._base_polarity))
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
        high = carry_forward(is_high, low12, self._high or 0)
        low = carry_forward(code == _TIME_LOW, low12, self._low or 0)
        if len(code):
            self._high, self._low, self._wraps = int(high[-1]), int(low[-1]), int(epochs[-1])
        return (epochs << 24) | (high << 12) | low

    def _vector_bases(
        self, code: NDArray[np.uint16], is_base: NDArray[np.bool_], low12: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The x at which each word's vector starts: the last base plus what vectors since then consumed."""
        consumed = np.where(code == _VECT_12, 12, np.where(code == _VECT_8, 8, 0)).astype(np.int64)
        before = np.cumsum(consumed) - consumed
        base = carry_forward(is_base, (low12 & 0x7FF) - before, self._base_x) + before
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


def joined(pieces: list[RawEvents]) -> RawEvents:
    if len(pieces) == 1:
        return pieces[0]
    none = RawEvents(np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(0, bool), np.zeros(0, np.int64))
    pieces = pieces or [none]
    return RawEvents(
        np.concatenate([p.x for p in pieces]), np.concatenate([p.y for p in pieces]),
        np.concatenate([p.polarity for p in pieces]), np.concatenate([p.t_us for p in pieces]),
    )  # fmt: skip


def carry_forward(is_set: NDArray[np.bool_], values: NDArray[np.int64], initial: int) -> NDArray[np.int64]:
    """At each position the value of the last position that was set, `initial` before the first."""
    last = np.maximum.accumulate(np.where(is_set, np.arange(len(is_set)), -1)) if len(is_set) else is_set
    return np.where(last >= 0, values[last], initial) if len(is_set) else values
