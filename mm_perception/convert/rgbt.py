"""RGB-thermal pairs to a bag, with true labels where there are some.

Read are folders of pairs by name in all layouts of `datasets.layouts` (MFNet's four channels, MSRS, FMB, PST900, KAIST,
LLVIP, M3FD, RoadScene, the folders of CMX's users, …), and `tiles.npz` with rgb, thermal and gt.

Both sensors share one frame name, since the pairs are pixel-aligned. There is no calibration and there are no stamps:
pair i gets i seconds after a fixed start, in the order of the names.

Topics: /rgb/image_raw/compressed, /thermal/image_raw/compressed (8-bit grey), /ground_truth/segmentation (8-bit png,
the numbers of the label files).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_compressed
from mm_perception.core.errors import DataError
from mm_perception.datasets.files import FIRST_NS, require_folder
from mm_perception.datasets.folder import FrameFolder, open_folder, read_frame

PERIOD_NS = 1_000_000_000
FRAME = "rgbt_optical_frame"
_KINDS = ("thermal", "any", "thermal_raw")


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """rgb (H, W, 3) uint8, red first; thermal (H, W) uint8; labels (H, W) uint8 or None."""

    name: str
    rgb: NDArray[np.uint8]
    thermal: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None


def convert_rgbt(source: Path, out: Path, overwrite: bool = False) -> int:
    """Writes the bag; returns the number of pairs.

    Raises:
        DataError: the folder holds none of the known layouts, or files do not pair.
        BagError: the bag exists or cannot be written.
    """
    require_folder(source)
    with BagWriter(out, overwrite) as bag:
        count = 0
        for pair in _pairs(source):
            _check(pair)
            stamp_ns = FIRST_NS + count * PERIOD_NS
            pictures = [
                ("/rgb/image_raw/compressed", pair.rgb),
                ("/thermal/image_raw/compressed", pair.thermal),
                ("/ground_truth/segmentation", pair.labels),
            ]
            for topic, pixels in pictures:
                if pixels is not None:
                    bag.write(topic, encode_compressed(bag.factory, pixels, "png", stamp_ns, FRAME), stamp_ns)
            count += 1
    return count


def _pairs(source: Path) -> Iterator[Pair]:
    if (source / "tiles.npz").is_file():
        yield from _tiles(source / "tiles.npz")
        return
    folder = open_folder(source)
    _check_pairs(folder)
    for frame in folder.frames:
        pixels = read_frame(folder, frame, _KINDS, labelled=False)
        assert pixels.x is not None
        labels = None if pixels.numbers is None else _label_ids(pixels.numbers, frame.labels)
        yield Pair(frame.key, pixels.rgb, _grey(pixels.x), labels)


def _check_pairs(folder: FrameFolder) -> None:
    """Raises DataError if some images have a second image of their own and others none, or the other way round."""
    single = [frame.image.name for frame in folder.frames if not any(kind in frame.x for kind in _KINDS)]
    single = single if len(single) < len(folder.frames) else []  # all: four channels
    single += [key for kind in _KINDS[:2] for key in folder.alone.get(f"x:{kind}", [])]
    if single:
        raise DataError(
            f"{folder.root}: no pair for {', '.join(single[:5])} ({len(single)} beside {len(folder.frames)} images): "
            "expected an image and a thermal image of the same name each"
        )


def _tiles(path: Path) -> Iterator[Pair]:
    with np.load(path) as tiles:
        missing = {"rgb", "thermal"} - set(tiles.files)
        if missing:
            raise DataError(f"{path}: no {', '.join(sorted(missing))}")
        rgb, thermal = tiles["rgb"], tiles["thermal"]
        labels = tiles["gt"] if "gt" in tiles.files else [None] * len(rgb)
    for i in range(len(rgb)):
        yield Pair(f"tile {i}", rgb[i], thermal[i], labels[i])


def _label_ids(numbers: NDArray[Any], path: Path | None) -> NDArray[np.uint8]:
    if numbers.ndim != 2 or int(numbers.max(initial=0)) > 255:
        raise DataError(f"{path}: expected class ids of 8 bits in grey or a palette, got colours or larger numbers")
    return np.asarray(numbers, np.uint8)


def _grey(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """One channel of 8 bits; 16 bits are stretched between the frame's 1st and 99th percentile."""
    one = pixels if pixels.ndim == 2 else pixels[..., 0]
    if one.dtype == np.uint8:
        return np.ascontiguousarray(one)
    low, high = np.percentile(one, (1, 99))
    scaled = (one.astype(np.float32) - low) * (255.0 / max(float(high - low), 1.0))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def _check(pair: Pair) -> None:
    height, width = pair.rgb.shape[:2]
    for what, pixels in (("thermal", pair.thermal), ("labels", pair.labels)):
        if pixels is not None and (pixels.shape != (height, width) or pixels.dtype != np.uint8):
            raise DataError(
                f"{pair.name}: rgb of {width}x{height}, {what} of {pixels.shape} {pixels.dtype}; they do not align"
            )
