"""Messages that are long lists of small messages of one fixed layout, read in one go from their bytes.

An event or a point as a Python object of its own takes microseconds, and hundreds of bytes; a message holds 100,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Layout = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FlatArray:
    """A message of a header, some numbers and one list.

    Attributes:
        numbers: (name, numpy code) between the header and the list.
        items: name of the list. layout: (name, numpy code) of one item, messages within it written out.
    """

    numbers: Layout
    items: str
    layout: Layout


_EVENTS = FlatArray(
    (("height", "u4"), ("width", "u4")),
    "events",
    (("x", "u2"), ("y", "u2"), ("sec", "i4"), ("nanosec", "u4"), ("polarity", "u1")),
)
_LIVOX = FlatArray(
    (("timebase", "u8"), ("point_num", "u4"), ("lidar_id", "u1"), ("_0", "u1"), ("_1", "u1"), ("_2", "u1")),
    "points",
    (
        *(("offset_time", "u4"), ("x", "f4"), ("y", "f4"), ("z", "f4")),
        *(("reflectivity", "u1"), ("tag", "u1"), ("line", "u1")),
    ),
)
_EVENT_TEXT = "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n"
_ARRAY_TEXT = "std_msgs/Header header\nuint32 height\nuint32 width\n{}/Event[] events\n"
_POINT_TEXT = "uint32 offset_time\nfloat32 x\nfloat32 y\nfloat32 z\nuint8 reflectivity\nuint8 tag\nuint8 line\n"
_CUSTOM_TEXT = (
    "std_msgs/Header header\nuint64 timebase\nuint32 point_num\nuint8 lidar_id\nuint8[3] rsvd\n"
    "{}/CustomPoint[] points\n"
)
_EVENT_PACKAGES = ("dvs_msgs", "prophesee_event_msgs")
_LIVOX_PACKAGES = ("livox_ros_driver", "livox_ros_driver2", "livox_interfaces")

FLAT_ARRAYS = {f"{package}/msg/EventArray": _EVENTS for package in _EVENT_PACKAGES} | {
    f"{package}/msg/CustomMsg": _LIVOX for package in _LIVOX_PACKAGES
}
ITEM_TYPES = {f"{package}/msg/EventArray": f"{package}/msg/Event" for package in _EVENT_PACKAGES} | {
    f"{package}/msg/CustomMsg": f"{package}/msg/CustomPoint" for package in _LIVOX_PACKAGES
}
"""The type of the list's items."""
FLAT_DEFINITIONS = (
    {f"{package}/msg/Event": _EVENT_TEXT for package in _EVENT_PACKAGES}
    | {f"{package}/msg/EventArray": _ARRAY_TEXT.format(package) for package in _EVENT_PACKAGES}
    | {f"{package}/msg/CustomPoint": _POINT_TEXT for package in _LIVOX_PACKAGES}
    | {f"{package}/msg/CustomMsg": _CUSTOM_TEXT.format(package) for package in _LIVOX_PACKAGES}
)
"""Their definitions; a bag whose own definitions are others is not read by these layouts."""


def read_flat_array(cdr: bytes, flat: FlatArray) -> Any:
    """The message, with its list as one structured array.

    Args:
        cdr: as ROS 2 writes it: 4 bytes of encapsulation, then fields at multiples of their size.

    Raises:
        ValueError: fewer bytes than the message says.
    """
    order = "<" if cdr[1] & 1 else ">"
    body = np.frombuffer(cdr, np.uint8, offset=4)
    at, values = 0, {}
    for name, code in (("sec", "i4"), ("nanosec", "u4"), ("length", "u4")):
        values[name], at = _number(body, at, order + code)
    end = at + values.pop("length")
    frame_id = body[at : max(at, end - 1)].tobytes().decode()
    header = SimpleNamespace(stamp=SimpleNamespace(**values), frame_id=frame_id)
    at, numbers = end, {}
    for name, code in flat.numbers:
        numbers[name], at = _number(body, at, order + code)
    count, at = _number(body, at, order + "u4")
    items = _items(body, at, count, order, flat.layout)
    return SimpleNamespace(header=header, **numbers, **{flat.items: items})


def _number(body: NDArray[np.uint8], at: int, code: str) -> tuple[int, int]:
    """An aligned number, and where it ends."""
    dtype = np.dtype(code)
    at += -at % dtype.itemsize
    if at + dtype.itemsize > len(body):
        raise ValueError(f"truncated: {len(body)} bytes, expected {at + dtype.itemsize}")
    return int(body[at : at + dtype.itemsize].view(dtype)[0]), at + dtype.itemsize


def _items(body: NDArray[np.uint8], at: int, count: int, order: str, layout: Layout) -> NDArray[Any]:
    """The first item may be padded in another way than the others; those are alike."""
    first, end = _placed(at, layout)
    second, _ = _placed(end, layout)
    third, _ = _placed(_placed(end, layout)[1], layout)
    stride, size = third[0] - second[0], _placed(second[0], layout)[1] - second[0]
    needed = at if not count else end if count == 1 else second[0] + (count - 2) * stride + size
    if needed > len(body):
        raise ValueError(f"truncated: {len(body)} bytes, expected {needed}")
    names, codes = [name for name, _ in layout], [order + code for _, code in layout]
    out = np.empty(count, np.dtype(list(zip(names, codes, strict=True))))
    for start, places, part in ((first[0], first, out[:1]), (second[0], second, out[1:])):
        if len(part):
            offsets = [place - start for place in places]
            width = offsets[-1] + np.dtype(codes[-1]).itemsize
            dtype = np.dtype({"names": names, "formats": codes, "offsets": offsets, "itemsize": width})
            rows: NDArray[Any] = np.ndarray(len(part), dtype, body.data, start, (stride,))
            for name in names:
                part[name] = rows[name]
    return out


def _placed(at: int, layout: Layout) -> tuple[list[int], int]:
    """Where the fields of an item lie that begins at or after `at`, and where it ends."""
    places = []
    for _, code in layout:
        size = np.dtype(code).itemsize
        at += -at % size
        places.append(at)
        at += size
    return places, at
