"""A folder of images as it was downloaded: its frames, whose classes its labels are, and reading one frame.

Training, evaluation and conversion all come through here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mm_perception.core.errors import DataError
from mm_perception.core.limits import MAX_YAML_BYTES
from mm_perception.core.yaml_file import read_text
from mm_perception.datasets.classes import ClassList, find_class_list
from mm_perception.datasets.files import read_image
from mm_perception.datasets.label_image import read_label_image, read_red_channel
from mm_perception.datasets.layouts import Frame, find_frames, is_mfnet_name

OPAQUE = 255
SAME_PROPORTIONS = 0.005
_CAMVID_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class FrameFolder:
    """Frames of a folder.

    Attributes:
        root: the folder.
        frames: all frames, by key.
        classes: what the labels mean, where the data set is known or the folder holds classes.txt; else None.
        ids_in_red: label files hold their ids in the red channel.
        alone: keys of second images ("x:thermal") and label files ("label") without an image, by role.
    """

    root: Path
    frames: tuple[Frame, ...]
    classes: ClassList | None
    ids_in_red: bool = False
    alone: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class FramePixels:
    """A frame as its files hold it.

    Attributes:
        rgb: (H, W, 3) uint8, red first.
        x: (H, W) or (H, W, 3) (red first) of uint8 or uint16: the second image; None where none was asked for.
        numbers: (H, W) uint8 or uint16, or (H, W, 3) uint8 colours: the label file; None where there is none.
    """

    rgb: NDArray[np.uint8]
    x: NDArray[Any] | None
    numbers: NDArray[Any] | None


def open_folder(root: Path, x_folder: str | None = None) -> FrameFolder:
    """Finds a folder's frames.

    Raises:
        DataError: there is no folder of images; see `layouts.find_frames`.
    """
    found, alone = find_frames(root, x_folder)
    frames = tuple(found)
    classes = _own_classes(root)
    name = known_set(frames)
    if classes is None and name is not None:
        classes = find_class_list(name)
    return FrameFolder(root, frames, classes, ids_in_red=name == "deliver", alone=alone)


def known_set(frames: Sequence[Frame]) -> str | None:
    """The class list of a data set that is known by how its files are named; None where it is another."""
    labelled = [frame for frame in frames if frame.labels is not None]
    if not labelled:
        return None
    first = labelled[0]
    assert first.labels is not None
    stem, folders = first.labels.stem.lower(), {part.lower() for part in first.labels.parts[:-1]}
    if stem.endswith("_labeltrainids"):
        return "cityscapes"
    if stem.endswith("_labelids"):
        return "cityscapes-ids"
    if "semantic" in folders and "_semantic" in stem:
        return "deliver"
    if sum(is_mfnet_name(frame.name) for frame in labelled) > len(labelled) // 2:
        return "mfnet"
    if sum(_CAMVID_NAME.match(frame.name) is not None for frame in labelled) > len(labelled) // 2:
        return "camvid"
    if "_rect_rgb_frame" in first.image.stem.lower():
        return "pst900"
    if first.image.parent.name == "Visible" and first.labels.parent.name == "Label" and first.split:
        return "fmb"
    return None


def _own_classes(root: Path) -> ClassList | None:
    """The names in classes.txt of a folder, one a line, in the order of their numbers."""
    path = root / "classes.txt"
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in read_text(path, MAX_YAML_BYTES).splitlines() if line.strip())
    return ClassList(f"{root.name}/classes.txt", names, source=str(path))


def read_frame(folder: FrameFolder, frame: Frame, x_kinds: Sequence[str] = (), labelled: bool = True) -> FramePixels:
    """Reads a frame's files.

    Args:
        x_kinds: kinds of second images that will do, the best first; none: none is read.
        labelled: whether a frame without a label file is an error.

    Raises:
        DataError: a file is missing, no image, or of another size than the image.
    """
    image = read_image(frame.image)
    rgb = _eight_bits(red_first(image, frame.image))
    x = _second(folder, frame, image, x_kinds) if x_kinds else None
    numbers = None
    if frame.labels is not None:
        numbers = (read_red_channel if folder.ids_in_red else read_label_image)(frame.labels)
    elif labelled:
        raise DataError(f"{folder.root}: no label file for {frame.key} (image {frame.image})")
    if x is not None and x.shape[:2] != rgb.shape[:2]:
        x = _same_view(x, rgb.shape[0], rgb.shape[1])
    for what, pixels in (("x", x), ("labels", numbers)):
        if pixels is not None and pixels.shape[:2] != rgb.shape[:2]:
            raise DataError(f"{frame.image}: rgb {rgb.shape[:2]}, {what} {pixels.shape[:2]}: they do not align")
    if not frame.mirrored:
        return FramePixels(rgb, x, numbers)
    return FramePixels(_mirror(rgb), None if x is None else _mirror(x), None if numbers is None else _mirror(numbers))


def has_second(folder: FrameFolder, frame: Frame, x_kinds: Sequence[str]) -> bool:
    """Whether a frame has a second image in a file of its own, of one of the kinds."""
    return any(kind in frame.x for kind in x_kinds)


def red_first(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """(H, W, 3) red first of what OpenCV read; grey is repeated, a fourth channel left out."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] not in (3, 4):
        raise DataError(f"{path}: expected 1, 3 or 4 channels, got {pixels.shape[2]}")
    return np.ascontiguousarray(pixels[..., 2::-1])


def _second(folder: FrameFolder, frame: Frame, image: NDArray[Any], x_kinds: Sequence[str]) -> NDArray[Any]:
    for kind in x_kinds:
        if kind in frame.x:
            pixels = read_image(frame.x[kind])
            return pixels if pixels.ndim == 2 else red_first(pixels, frame.x[kind])
    if image.ndim == 3 and image.shape[2] == 4 and "thermal" in x_kinds:
        fourth = np.ascontiguousarray(image[..., 3])
        if (fourth == OPAQUE).all():
            raise DataError(f"{frame.image}: the fourth channel is {OPAQUE} everywhere: opacity, no thermal image")
        return fourth
    there = ", ".join(sorted(frame.x)) or "none"
    channels = 1 if image.ndim == 2 else image.shape[2]
    raise DataError(
        f"{frame.image}: expected a second image ({' or '.join(x_kinds)}) of the same name, or four channels; got "
        f"{channels} channels and second images: {there}; if the folder has another name, say --x-folder NAME"
    )


def _same_view(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """A second image of other size but of the same proportions at the image's size; others are left as they are."""
    if abs(pixels.shape[0] * width - pixels.shape[1] * height) > SAME_PROPORTIONS * pixels.shape[1] * height:
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return np.asarray(pixels, np.uint8)
    if pixels.dtype != np.uint16:
        raise DataError(f"expected an image of 8 or 16 bits, got {pixels.dtype}")
    return (pixels >> 8).astype(np.uint8)


def _mirror(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(pixels[:, ::-1])
