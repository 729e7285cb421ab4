"""Events to a voxel grid.

A. Zhu, L. Yuan, K. Chaney, K. Daniilidis, Unsupervised Event-based Learning of Optical Flow, Depth, and Egomotion,
CVPR 2019, Eq. (1)-(3): each event gives its polarity to the two time bins beside it, in proportion to closeness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.types import EventPacket


def voxel_grid(events: EventPacket, start_ns: int, end_ns: int, bins: int = 3) -> NDArray[np.float32]:
    """Signed voxel grid of the events in [start_ns, end_ns].

    Bin centres are spread evenly from start to end, both included.

    Returns:
        (bins, H, W) float32, sums of polarities (+1, -1); all zero without events.

    Raises:
        DataError: the window is empty or `bins` is less than 2.
    """
    if end_ns <= start_ns or bins < 2:
        raise DataError(f"voxel grid of {bins} bins over [{start_ns}, {end_ns}] ns makes no sense")
    first = int(np.searchsorted(events.t_ns, start_ns, side="left"))
    last = int(np.searchsorted(events.t_ns, end_ns, side="right"))
    position = (events.t_ns[first:last] - start_ns) * ((bins - 1) / (end_ns - start_ns))  # Eq. (1)
    lower = np.minimum(position.astype(np.int64), bins - 2)
    weight = position - lower
    sign = np.where(events.polarity[first:last], 1.0, -1.0)
    pixels = events.height * events.width
    index = lower * pixels + events.y[first:last].astype(np.int64) * events.width + events.x[first:last]
    grid = np.bincount(index, sign * (1.0 - weight), minlength=bins * pixels)  # Eq. (2), (3)
    grid += np.bincount(index + pixels, sign * weight, minlength=bins * pixels)
    return grid.reshape(bins, events.height, events.width).astype(np.float32)


def event_image(events: EventPacket, start_ns: int, end_ns: int) -> NDArray[np.float32]:
    """(H, W, 3) voxel grid of three bins whose non-zero cells have mean 0 and standard deviation 1.

    The normalisation is RAM-Net's (D. Gehrig et al., RA-L 2021). Cells without events stay 0.
    """
    grid = np.ascontiguousarray(voxel_grid(events, start_ns, end_ns, bins=3).transpose(1, 2, 0))
    active = grid != 0
    if active.any():
        values = grid[active]
        spread = float(values.std())
        grid[active] = (values - values.mean()) / spread if spread > 1e-6 else np.sign(values)
    return grid


def concatenate(packets: tuple[EventPacket, ...], start_ns: int, end_ns: int) -> EventPacket:
    """The events of consecutive packets that lie in (start_ns, end_ns], in order of time.

    The result's stamp is `end_ns`.

    Raises:
        DataError: no packets, or packets of different sensors.
    """
    if not packets:
        raise DataError("no event packets to join")
    first = packets[0]
    for packet in packets[1:]:
        if (packet.width, packet.height, packet.frame_id) != (first.width, first.height, first.frame_id):
            raise DataError(f"event packets of different sensors: {first.frame_id!r}, {packet.frame_id!r}")
    t_ns = np.concatenate([packet.t_ns for packet in packets])
    keep = np.nonzero((t_ns > start_ns) & (t_ns <= end_ns))[0]
    # Packets are anchored to their stamps one by one, so their ends may overlap by some microseconds.
    keep = keep[np.argsort(t_ns[keep], kind="stable")]
    return EventPacket(
        np.concatenate([packet.x for packet in packets])[keep],
        np.concatenate([packet.y for packet in packets])[keep],
        np.concatenate([packet.polarity for packet in packets])[keep],
        t_ns[keep],
        first.width,
        first.height,
        end_ns,
        first.frame_id,
    )
