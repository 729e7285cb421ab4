"""Events as lists: dvs_msgs and prophesee_event_msgs (a message per event), and CARLA's cloud (a point per event)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.codec.events import in_order
from mm_perception.codec.evt3 import RawEvents
from mm_perception.codec.fields import decode_frame, decode_stamp
from mm_perception.codec.guard import refusing
from mm_perception.codec.image_header import check_pixels
from mm_perception.codec.point_cloud import decode_columns
from mm_perception.core.clocks import CLOCK_OFFSET_NS, known_offset, seconds_in_words
from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_EVENT_PIXELS, MAX_EVENTS
from mm_perception.core.types import EventPacket

_S = 1_000_000_000
_COLUMNS = ("x", "y", "t", "pol")


class EventArrayDecoder:
    """The messages of one event camera, in order.

    Events whose times are more than a second off the header's stamp are on another clock: the first then counts as
    measured at the stamp.

    Attributes:
        notes: what is worth saying of the messages, in words; each is said once.
    """

    def __init__(
        self, max_pixels: int = MAX_EVENT_PIXELS, max_events: int = MAX_EVENTS, size_px: tuple[int, ...] = ()
    ) -> None:
        """Args: size_px: width and height of the sensor, for messages that do not say it."""
        self._max_pixels, self._max_events, self._size_px = max_pixels, max_events, size_px
        self._outside = 0
        self._notes: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes.values())

    @property
    def losses(self) -> dict[str, int]:
        """Counts of what was lost, by what it was."""
        return {"events_outside_the_image": self._outside}

    @refusing("event array")
    def decode(self, msg: Any) -> EventPacket:
        """Decodes one message.

        Raises:
            DataError: zero or too large a size, too many events, or a cloud of a sensor whose size nobody told.
        """
        stamp_ns, is_cloud = decode_stamp(msg.header), hasattr(msg, "fields")
        width, height = self._size() if is_cloud else (int(msg.width), int(msg.height))
        check_pixels("event array", width, height, self._max_pixels)
        raw, t_ns = self._cloud(msg) if is_cloud else self._list(msg.events)
        inside = (raw.x < width) & (raw.y < height)
        if not inside.all():
            self._outside += int(len(inside) - np.count_nonzero(inside))
            raw = RawEvents(raw.x[inside], raw.y[inside], raw.polarity[inside], raw.t_us[inside])
            t_ns = t_ns[inside]
        return in_order(
            raw, self._on_the_stamps_clock(t_ns, stamp_ns), width, height, stamp_ns, decode_frame(msg.header)
        )

    def _size(self) -> tuple[int, int]:
        if len(self._size_px) != 2:
            raise DataError(
                "a cloud of events does not say how large its sensor is: set its size_px: [width, height] in the rig"
            )
        return self._size_px[0], self._size_px[1]

    def _list(self, events: Any) -> tuple[RawEvents, NDArray[np.int64]]:
        """Of objects, or of a structured array with x, y, sec, nanosec, polarity."""
        count = len(events)
        if count > self._max_events:
            raise DataError(
                f"event array of {count} events: expected at most {self._max_events} (max_events in the rig)"
            )
        if isinstance(events, np.ndarray) and events.dtype.names:
            x, y, polarity = events["x"], events["y"], events["polarity"]
            t_ns = events["sec"].astype(np.int64) * _S + events["nanosec"]
        else:
            x, y = (np.fromiter((getattr(one, axis) for one in events), np.uint16, count) for axis in "xy")
            polarity = np.fromiter((one.polarity for one in events), bool, count)
            t_ns = np.fromiter((one.ts.sec * _S + one.ts.nanosec for one in events), np.int64, count)
        return RawEvents(x.astype(np.uint16), y.astype(np.uint16), polarity.astype(bool), t_ns // 1000), t_ns

    def _cloud(self, msg: Any) -> tuple[RawEvents, NDArray[np.int64]]:
        columns = decode_columns(msg, _COLUMNS, self._max_events)
        x, y, t, polarity = (columns[name] for name in _COLUMNS)
        if min(x.min(initial=0), y.min(initial=0)) < 0 or max(x.max(initial=0), y.max(initial=0)) > 65535:
            raise DataError("event cloud: x or y is no pixel")
        # CARLA counts in nanoseconds, as whole numbers or doubles.
        t_ns = t.astype(np.int64)
        return RawEvents(x.astype(np.uint16), y.astype(np.uint16), polarity > 0, t_ns // 1000), t_ns

    def _on_the_stamps_clock(self, t_ns: NDArray[np.int64], stamp_ns: int) -> NDArray[np.int64]:
        if not len(t_ns):
            return t_ns
        first_ns = int(t_ns.min())
        off_ns = first_ns - stamp_ns
        if abs(off_ns) < CLOCK_OFFSET_NS:
            return t_ns
        known = known_offset(off_ns, first_ns, stamp_ns)
        reason = f", {known.name}" if known else ""
        self._notes.setdefault(
            "clock",
            f"times of events are on another clock ({seconds_in_words(off_ns)} off the stamp{reason}): "
            "re-based, the first of a message is taken to be at the stamp",
        )
        return t_ns - off_ns
