"""The event camera: each pixel reports when its log intensity has moved by a threshold.

After Lichtsteiner, Posch, Delbruck (2008) and the simulators that followed (ESIM, v2e): luminance is rendered at
sub-frames, log intensity is taken as linear in time between them, and each crossing of a level gives an event with its
own time. Faults: thresholds that differ from pixel to pixel, a refractory time, background events (Poisson, both
polarities), a dark offset that swallows contrast by night, and a read-out that empties the pixels every 100 us, row by
row, so that times are that coarse. Left out: the low-pass filter of dim pixels, loss when the read-out is full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import EventPacket
from mm_perception.sim.scene import F32

THRESHOLD = 0.3
MISMATCH = 0.04
DARK_CDM2 = 0.6
REFRACTORY_NS = 1_000_000
BACKGROUND_HZ = 0.3
READ_OUT_NS = 100_000
_MOST_PER_STEP = 40


class EventCamera:
    """The state of all pixels; feed it luminance in the order of time."""

    def __init__(
        self,
        width: int,
        height: int,
        frame_id: str,
        generator: np.random.Generator,
        *,
        threshold: float = THRESHOLD,
        mismatch: float = MISMATCH,
        refractory_ns: int = REFRACTORY_NS,
        background_hz: float = BACKGROUND_HZ,
        dark_cdm2: float = DARK_CDM2,
        read_out_ns: int = READ_OUT_NS,
    ) -> None:
        self._size, self._frame_id, self._generator = (width, height), frame_id, generator
        spread = 1.0 + mismatch * generator.standard_normal((2, height, width))
        self._thresholds = (threshold * np.maximum(spread, 0.3)).astype(np.float32)  # falling, rising
        self._least = float(self._thresholds.min())
        self._refractory_ns, self._background_hz, self._dark = refractory_ns, background_hz, dark_cdm2
        self._read_out_ns = read_out_ns
        self._stamp_ns: int | None = None
        self._log = np.zeros((height, width), np.float32)
        self._level = np.zeros((height, width), np.float32)
        self._last_ns = np.full(height * width, np.iinfo(np.int64).min // 2, np.int64)

    def expose(self, luminance: F32, stamp_ns: int) -> EventPacket:
        """Takes (H, W) luminance [cd/m2] at a time; gives the events since the last one (none at first).

        Raises:
            DataError: the time is not after the last one.
        """
        if self._stamp_ns is not None and stamp_ns <= self._stamp_ns:
            raise DataError(f"event camera: time {stamp_ns} is not after {self._stamp_ns}")
        log = np.log(luminance + np.float32(self._dark))
        if self._stamp_ns is None:
            self._stamp_ns, self._log, self._level = stamp_ns, log, log.copy()
            return self._packet(np.zeros((0, 4), np.int64), stamp_ns)
        start_ns = self._stamp_ns
        events = np.concatenate([self._crossings(log, start_ns, stamp_ns), self._background(start_ns, stamp_ns)])
        events = events[self._ready(events)]
        events[:, 0] = np.minimum(-(-events[:, 0] // self._read_out_ns) * self._read_out_ns, stamp_ns - 1)
        events = events[np.lexsort((events[:, 1], events[:, 2], events[:, 0]))]
        self._stamp_ns, self._log = stamp_ns, log
        return self._packet(events, start_ns)

    def _crossings(self, log: F32, start_ns: int, stop_ns: int) -> NDArray[np.int64]:
        """(E, 4) rows of time, x, y, polarity."""
        moved = (log - self._level).reshape(-1)
        active = np.nonzero(np.abs(moved) >= self._least)[0]
        moved = moved[active]
        rising = moved > 0
        threshold = self._thresholds.reshape(2, -1)[rising.astype(np.int64), active]
        number = np.minimum(np.abs(moved) / threshold, _MOST_PER_STEP).astype(np.int64)
        level_now = self._level.reshape(-1)
        pixel = np.repeat(np.arange(len(active)), number)
        nth = np.arange(len(pixel)) - np.repeat(np.cumsum(number) - number, number) + 1
        step = np.where(rising, threshold, -threshold)
        before = self._log.reshape(-1)[active]
        change = log.reshape(-1)[active] - before
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (level_now[active][pixel] + step[pixel] * nth - before[pixel]) / change[pixel]
        share = np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
        t_ns = start_ns + (share.astype(np.float64) * (stop_ns - start_ns - 1)).astype(np.int64)
        level_now[active] += step * number
        y, x = np.divmod(active[pixel], self._size[0])
        return np.stack([t_ns, x, y, rising[pixel]], axis=1).astype(np.int64)

    def _background(self, start_ns: int, stop_ns: int) -> NDArray[np.int64]:
        width, height = self._size
        count = int(self._generator.poisson(self._background_hz * width * height * (stop_ns - start_ns) * 1e-9))
        draw = self._generator.integers
        return np.stack(
            [draw(start_ns, stop_ns, count), draw(0, width, count), draw(0, height, count), draw(0, 2, count)], axis=1
        ).astype(np.int64)

    def _ready(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the events find their pixel awake.

        Events within the refractory time of the pixel's previous event are lost. (A lost event does not lengthen the
        pause of a pixel that was silent before: chains are judged against each event's predecessor.)
        """
        t, pixel = events[:, 0], events[:, 2] * self._size[0] + events[:, 1]
        order = np.lexsort((t, pixel))
        sorted_t, key = t[order], pixel[order]
        first = np.ones(len(key), bool)
        first[1:] = key[1:] != key[:-1]
        previous = np.empty_like(sorted_t)
        previous[1:] = sorted_t[:-1]
        previous[first] = self._last_ns[key[first]]
        awake = sorted_t - previous >= self._refractory_ns
        self._last_ns[key[awake]] = sorted_t[awake]  # of several, the last stays
        return np.sort(order[awake])

    def _packet(self, events: NDArray[np.int64], start_ns: int) -> EventPacket:
        width, height = self._size
        # A decoder anchors a packet's first event to its stamp.
        stamp_ns = int(events[0, 0]) if len(events) else start_ns
        return EventPacket(
            events[:, 1].astype(np.uint16), events[:, 2].astype(np.uint16), events[:, 3] > 0, events[:, 0].copy(),
            width, height, stamp_ns, self._frame_id,
        )  # fmt: skip
