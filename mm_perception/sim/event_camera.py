"""The event camera: each pixel reports when its log intensity has moved by a threshold.

After Lichtsteiner, Posch, Delbruck (2008) and the simulators that followed (ESIM, v2e): luminance is rendered at
sub-frames, log intensity is taken as linear in time between them, and each crossing of a level gives an event with its
own time. Faults: thresholds that differ from pixel to pixel, a refractory time, background events (Poisson, both
polarities), a dark offset (0.6 cd/m2 are added to the luminance) that swallows contrast by night, and a read-out that
empties all pixels every 100 us, so that times are that coarse. Left out: the low-pass filter of dim pixels, loss when
the read-out is full.
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
_LONGEST_STEP_NS = 1 << 32

_I64 = NDArray[np.int64]
_Columns = tuple[_I64, _I64, _I64]
"""Times [ns], pixels (row by row) and polarities (1: rising) of events."""


class EventCamera:
    """The state of all pixels; feed it luminance in the order of time. Packets hold their events in that order."""

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
            DataError: the time is not after the last one, or more than 4.2 s after it.
        """
        if self._stamp_ns is not None and not 0 < stamp_ns - self._stamp_ns < _LONGEST_STEP_NS:
            raise DataError(f"event camera: time {stamp_ns} is not after, or long after, {self._stamp_ns}")
        log = np.log(luminance + np.float32(self._dark))
        if self._stamp_ns is None:
            self._stamp_ns, self._log, self._level = stamp_ns, log, log.copy()
            none = np.zeros(0, np.int64)
            return self._packet((none, none, none), stamp_ns)
        start_ns = self._stamp_ns
        crossings, background = self._crossings(log, start_ns, stamp_ns), self._background(start_ns, stamp_ns)
        t, pixel, rising = (np.concatenate(columns) for columns in zip(crossings, background, strict=True))
        t, pixel, rising = self._awake(t, pixel, rising, start_ns)
        t = np.minimum(-(-t // self._read_out_ns) * self._read_out_ns, stamp_ns - 1)
        # In the order of time, then row by row: one number per event sorts many times faster than columns do.
        pixels = self._size[0] * self._size[1]
        key = np.sort(((t - start_ns) * pixels + pixel) * 2 + rising)
        rest, rising = np.divmod(key, 2)
        t, pixel = np.divmod(rest, pixels)
        self._stamp_ns, self._log = stamp_ns, log
        return self._packet((t + start_ns, pixel, rising), start_ns)

    def _crossings(self, log: F32, start_ns: int, stop_ns: int) -> _Columns:
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
        return t_ns, active[pixel], rising[pixel].astype(np.int64)

    def _background(self, start_ns: int, stop_ns: int) -> _Columns:
        width, height = self._size
        count = int(self._generator.poisson(self._background_hz * width * height * (stop_ns - start_ns) * 1e-9))
        draw = self._generator.integers
        return draw(start_ns, stop_ns, count), draw(0, width * height, count), draw(0, 2, count)

    def _awake(self, t: _I64, pixel: _I64, rising: _I64, start_ns: int) -> _Columns:
        """The events that find their pixel awake.

        An event is lost within the refractory time of the last one that its pixel reported; a lost one does not
        lengthen the pause. So the first events of all pixels are judged at once, then the second ones, and so on.
        """
        rest, rising = np.divmod(np.sort((pixel * _LONGEST_STEP_NS + (t - start_ns)) * 2 + rising), 2)
        pixel, t = np.divmod(rest, _LONGEST_STEP_NS)
        t += start_ns
        starts = np.nonzero(np.diff(pixel, prepend=-1))[0]
        number = np.diff(starts, append=len(t))
        awake = np.zeros(len(t), bool)
        for nth in range(int(number.max(initial=0))):
            starts, number = starts[number > nth], number[number > nth]
            judged = starts + nth
            kept = judged[t[judged] - self._last_ns[pixel[judged]] >= self._refractory_ns]
            self._last_ns[pixel[kept]] = t[kept]
            awake[kept] = True
        return t[awake], pixel[awake], rising[awake]

    def _packet(self, events: _Columns, start_ns: int) -> EventPacket:
        width, height = self._size
        t_ns, pixel, rising = events
        y, x = np.divmod(pixel, width)
        # A decoder anchors a packet's first event to its stamp.
        stamp_ns = int(t_ns[0]) if len(t_ns) else start_ns
        return EventPacket(
            x.astype(np.uint16), y.astype(np.uint16), rising > 0, t_ns, width, height, stamp_ns, self._frame_id
        )
