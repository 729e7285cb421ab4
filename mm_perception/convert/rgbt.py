"""RGB-thermal pairs to a bag, with true labels where there are some.

Read are: `vi/` and `ir/` with files of the same names (MSRS), optionally `labels/`; `image/` with four-channel PNGs
(MFNet: Q. Ha et al., MFNet: Towards real-time semantic segmentation for autonomous vehicles with multi-spectral
scenes, IROS 2017), optionally `labels/`; and `tiles.npz` with rgb, thermal and gt.

Both sensors share one frame name, since the pairs are pixel-aligned. There is no calibration and there are no stamps:
pair i gets i seconds after a fixed start, in the order of the names.

Topics: /rgb/image_raw/compressed, /thermal/image_raw/compressed (8-bit grey), /ground_truth/segmentation (8-bit png).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_compressed
from mm_perception.convert.files import FIRST_NS, read_image, require_folder
from mm_perception.core.errors import DataError

PERIOD_NS = 1_000_000_000
FRAME = "rgbt_optical_frame"


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
    if (source / "vi").is_dir():
        yield from _two_folders(source)
    elif (source / "image").is_dir():
        yield from _four_channels(source)
    elif (source / "tiles.npz").is_file():
        yield from _tiles(source / "tiles.npz")
    else:
        raise DataError(f"{source}: expected vi/ and ir/, or image/, or tiles.npz")


def _two_folders(source: Path) -> Iterator[Pair]:
    require_folder(source, "ir")
    visible, thermal = ({p.name: p for p in (source / d).glob("*.png")} for d in ("vi", "ir"))
    single = sorted(set(visible) ^ set(thermal))
    if single or not visible:
        raise DataError(f"{source}: no pair for {', '.join(single[:5]) or 'any name'}")
    for name in sorted(visible):
        yield Pair(name, _red_first(read_image(visible[name])), _grey(read_image(thermal[name])), _label(source, name))


def _four_channels(source: Path) -> Iterator[Pair]:
    paths = sorted((source / "image").glob("*.png"))
    if not paths:
        raise DataError(f"{source / 'image'}: no png files")
    for path in paths:
        pixels = read_image(path)
        if pixels.ndim != 3 or pixels.shape[2] != 4:
            raise DataError(f"{path}: expected four channels, got shape {pixels.shape}")
        rgb, thermal = _red_first(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])
        yield Pair(path.name, rgb, thermal, _label(source, path.name))


def _tiles(path: Path) -> Iterator[Pair]:
    with np.load(path) as tiles:
        missing = {"rgb", "thermal"} - set(tiles.files)
        if missing:
            raise DataError(f"{path}: no {', '.join(sorted(missing))}")
        rgb, thermal = tiles["rgb"], tiles["thermal"]
        labels = tiles["gt"] if "gt" in tiles.files else [None] * len(rgb)
    for i in range(len(rgb)):
        yield Pair(f"tile {i}", rgb[i], thermal[i], labels[i])


def _label(source: Path, name: str) -> NDArray[np.uint8] | None:
    path = source / "labels" / name
    return _grey(read_image(path)) if path.is_file() else None


def _red_first(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2RGB), np.uint8)


def _grey(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(pixels if pixels.ndim == 2 else pixels[..., 0], np.uint8)


def _check(pair: Pair) -> None:
    height, width = pair.rgb.shape[:2]
    for what, pixels in (("thermal", pair.thermal), ("labels", pair.labels)):
        if pixels is not None and (pixels.shape != (height, width) or pixels.dtype != np.uint8):
            raise DataError(
                f"{pair.name}: rgb of {width}x{height}, {what} of {pixels.shape} {pixels.dtype}; they do not align"
            )
