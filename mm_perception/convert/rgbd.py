"""RGB-D pairs to a bag, with true labels where there are some.

Read are folders of pairs by name in all layouts of `datasets.layouts` (RGB/ and Depth/, …), folders whose files are
named frame-000000.color.png and frame-000000.depth.png, and sequences of the TUM RGB-D benchmark (rgb.txt, depth.txt,
whose stamps are kept; pairs are those within 20 ms).

Depth is that of the image's own pixels: both sensors share one frame name, and there is no calibration. Without stamps
pair i gets i seconds after a fixed start.

Topics: /rgb/image_raw/compressed, /depth/image_raw (32FC1 [m]), /ground_truth/segmentation (8-bit png).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mm_perception.bags.writer import BagWriter
from mm_perception.codec.encode import encode_compressed, encode_image
from mm_perception.core.errors import DataError
from mm_perception.datasets.files import FIRST_NS, read_image, require_folder
from mm_perception.datasets.folder import open_folder, read_frame, red_first

PERIOD_NS = 1_000_000_000
FRAME = "rgbd_optical_frame"
MILLIMETRE = 0.001
_KINDS = ("depth", "any")
_COLOR_NAME = re.compile(r"(.*?)([._-]?)(color|colour|rgb)\.(png|jpe?g)", re.IGNORECASE)
_MOST_APART_S = 0.02
ROTATIONS = {"plain": 0, "rotated": 3}
"""Bits by which 16-bit numbers are rotated to the right, as SUN RGB-D and some tools write them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """rgb (H, W, 3) uint8, red first; depth (H, W), numbers as in the file; labels (H, W) uint8 or None."""

    name: str
    rgb: NDArray[np.uint8]
    depth: NDArray[np.generic]
    labels: NDArray[np.uint8] | None = None
    stamp_ns: int | None = None


def convert_rgbd(
    source: Path, out: Path, overwrite: bool = False, unit_m: float = MILLIMETRE, form: str = "plain"
) -> int:
    """Writes the bag; returns the number of pairs.

    Args:
        unit_m: metres per number of the depth files. form: plain, or rotated (see `ROTATIONS`).

    Raises:
        DataError: the folder holds no pairs, files do not align, or depth is a coloured picture.
        BagError: the bag exists or cannot be written.
    """
    require_folder(source)
    with BagWriter(out, overwrite) as bag:
        count = 0
        for pair in _pairs(source):
            depth_m = metres(pair.depth, unit_m, ROTATIONS[form], pair.name)
            if depth_m.shape != pair.rgb.shape[:2]:
                raise DataError(
                    f"{pair.name}: rgb of {pair.rgb.shape[:2]}, depth of {depth_m.shape}; they do not align"
                )
            stamp_ns = FIRST_NS + count * PERIOD_NS if pair.stamp_ns is None else pair.stamp_ns
            color = encode_compressed(bag.factory, pair.rgb, "png", stamp_ns, FRAME)
            bag.write("/rgb/image_raw/compressed", color, stamp_ns)
            bag.write("/depth/image_raw", encode_image(bag.factory, depth_m, "32FC1", stamp_ns, FRAME), stamp_ns)
            if pair.labels is not None:
                labels = encode_compressed(bag.factory, pair.labels, "png", stamp_ns, FRAME)
                bag.write("/ground_truth/segmentation", labels, stamp_ns)
            count += 1
    return count


def metres(numbers: NDArray[np.generic], unit_m: float, rotated_bits: int, name: str) -> NDArray[np.float32]:
    """(H, W) depth [m], NaN where the file has 0.

    Raises:
        DataError: the file holds colours or 8 bits, which are no distances.
    """
    if numbers.ndim != 2 or numbers.dtype not in (np.uint16, np.float32):
        raise DataError(
            f"{name}: depth of {numbers.shape} {numbers.dtype}: expected one channel of 16 bits; a picture of depth in "
            "colours or in 8 bits is no distance"
        )
    if rotated_bits and numbers.dtype == np.uint16:
        wide = numbers.astype(np.uint32)
        numbers = ((wide >> rotated_bits | wide << (16 - rotated_bits)) & 0xFFFF).astype(np.uint16)
    depth_m: NDArray[np.float32] = numbers.astype(np.float32) * np.float32(unit_m)
    depth_m[~(depth_m > 0)] = np.nan
    return depth_m


def _pairs(source: Path) -> Iterator[Pair]:
    if (source / "rgb.txt").is_file() and (source / "depth.txt").is_file():
        yield from _benchmark(source)
        return
    beside = [(path, match) for path in sorted(source.iterdir()) if (match := _COLOR_NAME.fullmatch(path.name))]
    depths = [source / f"{match[1]}{match[2]}depth.png" for _, match in beside]
    if beside and all(depth.is_file() for depth in depths):
        for (path, _), depth in zip(beside, depths, strict=True):
            yield Pair(path.name, red_first(read_image(path), path), read_image(depth))
        return
    folder = open_folder(source)
    for frame in folder.frames:
        pixels = read_frame(folder, frame, _KINDS, labelled=False)
        assert pixels.x is not None
        numbers = pixels.numbers
        fits = numbers is not None and numbers.ndim == 2 and int(numbers.max(initial=0)) <= 255
        yield Pair(frame.key, pixels.rgb, pixels.x, np.asarray(numbers, np.uint8) if fits else None)


def _benchmark(source: Path) -> Iterator[Pair]:
    """TUM RGB-D: lists of "stamp path" for each of the two."""
    colors, depths = (_listed(source / name) for name in ("rgb.txt", "depth.txt"))
    stamps = np.array([stamp for stamp, _ in depths])
    for stamp_s, path in colors:
        nearest = int(np.abs(stamps - stamp_s).argmin())
        if abs(stamps[nearest] - stamp_s) <= _MOST_APART_S:
            depth = read_image(source / depths[nearest][1])
            picture = source / path
            yield Pair(path, red_first(read_image(picture), picture), depth, stamp_ns=round(stamp_s * 1e9))


def _listed(path: Path) -> list[tuple[float, str]]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        found = [(float(line[0]), line[1]) for line in lines if not line[0].startswith("#")]
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: expected lines of a stamp and a file ({error})") from error
    if not found:
        raise DataError(f"{path}: names no files")
    return found
