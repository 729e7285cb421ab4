"""Which files of a downloaded folder belong together: one search for all layouts.

Every image lies below a folder whose name says what it shows (`RGB`, `vi`, `thermal`, `lwir`, `labels`, …), its role.
What is left of its path without the role, and of its name without words such as `_rgb` or `_semantic`, is the frame:

    MFNet             images/00001D.png (four channels)      labels/00001D.png
    CMX's             RGB/1.jpg        Modal|HHA|…/1.jpg     Label/1.png
    MSRS              train/vi/1D.png  train/ir/1D.png       train/Segmentation_labels/1D.png
    FMB, PST900       train/rgb/…      train/thermal/…       train/labels/…
    LLVIP             visible/train/1.jpg  infrared/train/1.jpg
    KAIST             set00/V000/visible/I0.jpg  set00/V000/lwir/I0.jpg
    SegNet, CamVid    train/1.png                            trainannot/1.png
    DELIVER           img/fog/train/MAP/0_rgb_front.png  hha/…/0_depth_front.png  semantic/…/0_semantic_front.png
    Cityscapes        leftImg8bit/train/CITY/A_leftImg8bit.png  gtFine/train/CITY/A_gtFine_labelTrainIds.png
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mm_perception.core.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEEPEST = 8
SPLITS = ("train", "val", "test")

_IMAGE_ROLES = (
    "images", "image", "rgb", "img", "imgs", "vi", "vis", "visible", "visual", "vis_images", "color_images", "left",
    "leftimg8bit", "image_2", "croplr_visible", "crop_lr_visible", "visible_images", "rgb_images",
)  # fmt: skip
_LABEL_ROLES = (
    "labels", "label", "gt", "semantic", "semantics", "segmentation_labels", "segmentation_label", "annot",
    "annotations", "mask", "masks", "gtfine", "ground_truth", "seg", "labels_color_free",
)  # fmt: skip
_X_ROLES: dict[str, tuple[str, ...]] = {
    "thermal": (
        "thermal", "ther", "ir", "infrared", "lwir", "tir", "th", "t", "cropinfrared", "infrared_images",
        "thermal_8bit", "thermal_images",
    ),
    "thermal_raw": ("thermal_raw",),
    "depth": ("depth", "depths", "depth_raw"),
    "hha": ("hha",),
    "event": ("event", "events", "event_image"),
    "lidar": ("lidar",),
    "disparity": ("disparity",),
    "any": ("modal", "x", "modal_x", "modality"),
}  # fmt: skip
_ROLE_OF = {
    **dict.fromkeys(_IMAGE_ROLES, "image"),
    **dict.fromkeys(_LABEL_ROLES, "label"),
    **{name: f"x:{kind}" for kind, names in _X_ROLES.items() for name in names},
}
X_KINDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("thermal", "agc"): ("thermal", "any"),
    ("thermal", "raw"): ("thermal_raw", "thermal", "any"),
    ("thermal", "kelvin"): ("thermal_raw", "thermal", "any"),
    ("depth", "hha"): ("hha", "any"),
    ("depth", "raw"): ("depth", "any"),
    ("events", "voxel"): ("event", "any"),
    ("lidar", "range_height_intensity"): ("lidar", "any"),
}
"""Kinds of second images by a card's modality and encoding, the fitting one first."""

_WORDS = re.compile(
    r"_(rgb|depth|hha|lidar|event|semantic|leftimg8bit|gtfine_labelids|gtfine_labeltrainids|gtfine|labelids|"
    r"labeltrainids|thermal|visible|infrared|label|mask|gt|ir|vis)(?=_|$)",
    re.IGNORECASE,
)
_SPLIT_WORDS = {"training": "train", "validation": "val", "testing": "test", **{name: name for name in SPLITS}}
_NOT_LABELS = ("_color", "_instanceids", "_polygons")
_MFNET_NAME = re.compile(r"\d{3,}([DN])(_flip)?")
_CONDITIONS = {"d": "day", "n": "night", "day": "day", "night": "night"}
_CONDITION_FOLDERS = (
    "cloud", "fog", "night", "rain", "sun", "day", "motionblur", "overexposure", "underexposure", "lidarjitter",
    "eventlowres",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The files of one frame.

    Attributes:
        key: the path without role and suffix ("set00/V000/I00000"); the order of frames.
        image: the camera's.
        x: the second image by kind ("thermal", "hha", …, "any").
        labels: the label file; None where there is none.
        split: "train", "val", "test", or empty where the path says nothing.
        condition: "night", "fog", …; empty if unknown.
        mirrored: left and right are changed after reading (MFNet lists such frames without files).
    """

    key: str
    image: Path
    x: dict[str, Path] = field(default_factory=dict)
    labels: Path | None = None
    split: str = ""
    condition: str = ""
    mirrored: bool = False

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class _Found:
    role: str
    key: str
    path: Path


def find_frames(root: Path, x_folder: str | None = None) -> tuple[list[Frame], dict[str, list[str]]]:
    """All frames below a folder, by name; and the keys of files without image, by role ("x:thermal", "label").

    Args:
        x_folder: name of the folder whose files are the second images, whatever it is called.

    Raises:
        DataError: there is no such folder, or nothing in it is known as a folder of images; the message lists what
            was looked for and what is there.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is no folder" if root.exists() else f"{root}: does not exist")
    files: dict[str, dict[str, Path]] = {}
    for found in _walk(root, x_folder):
        files.setdefault(found.role, {}).setdefault(found.key, found.path)
    images = files.pop("image", {})
    if not images:
        raise DataError(f"{root}: no folder of images was found; {_looked_for(root)}")
    if x_folder is not None and "x:any" not in files:
        raise DataError(f"{root}: no images in a folder named {x_folder!r}; {_looked_for(root)}")
    labels = files.pop("label", {})
    frames = []
    for key in sorted(images):
        x = {role[2:]: paths[key] for role, paths in files.items() if key in paths}
        split = next((_SPLIT_WORDS[part] for part in key.lower().split("/")[:-1] if part in _SPLIT_WORDS), "")
        frames.append(Frame(key, images[key], x, labels.get(key), split, condition_of(key)))
    alone = {role: sorted(set(paths) - set(images)) for role, paths in {**files, "label": labels}.items()}
    return frames, {role: keys for role, keys in alone.items() if keys}


def condition_of(key: str) -> str:
    """Day or night by names like MFNet's (00001D, 00002N), or the condition that a folder is named after."""
    *folders, name = key.split("/")
    match = _MFNET_NAME.fullmatch(name)
    if match:
        return _CONDITIONS[match.group(1).lower()]
    return next((part for part in (f.lower() for f in folders) if part in _CONDITION_FOLDERS), "")


def is_mfnet_name(name: str) -> bool:
    """Whether a frame is named as those of MFNet, which other sets took over (MSRS, CMX's folders)."""
    return _MFNET_NAME.fullmatch(name) is not None


def _walk(root: Path, x_folder: str | None) -> Iterator[_Found]:
    for folder, subfolders, names in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".")) if len(parts) < DEEPEST else []
        role, rest = _role(root, parts, x_folder)
        if role == "":
            continue
        files = [
            name
            for name in sorted(names)
            if Path(name).suffix.lower() in IMAGE_SUFFIXES
            and not name.startswith(".")
            and not (role == "label" and Path(name).stem.lower().endswith(_NOT_LABELS))
        ]
        for key, name in _keys(files, parts[-1].lower()).items():
            yield _Found(role, "/".join((*rest, key)), Path(folder) / name)


def _keys(names: list[str], folder: str) -> dict[str, str]:
    """File names by the frame that they belong to; where a shorter name would stand for two files, names stay whole."""
    short: dict[str, list[str]] = {}
    for name in names:
        short.setdefault(_plain_stem(Path(name).stem, folder), []).append(name)
    out: dict[str, str] = {}
    for key, found in short.items():
        preferred = [name for name in found if "gtfine_label" in name.lower()]
        if len(found) == 1 or preferred:  # of Cityscapes' kinds of labels the one for training
            out[key] = max(preferred or found, key=lambda name: "trainids" in name.lower())
        else:
            out |= {Path(name).stem: name for name in found}
    return out


def _role(root: Path, parts: tuple[str, ...], x_folder: str | None) -> tuple[str, tuple[str, ...]]:
    """The role of a folder's images, and its path without the part that says so. No role: an empty one."""
    lower = [part.lower() for part in parts]
    for i, part in enumerate(lower):
        if x_folder is not None and part == x_folder.lower():
            return "x:any", (*parts[:i], *parts[i + 1 :])
    order = sorted(range(len(lower)), key=lambda i: (len(lower[i]) <= 2 and lower[i] not in ("vi", "ir"), -i))
    for i in order:  # the last that says so; short names such as x after all others, they may be a town's
        part = lower[i]
        if part.endswith("annot") and part[:-5] in _SPLIT_WORDS:  # trainannot beside train
            return "label", (*parts[:i], parts[i][:-5], *parts[i + 1 :])
        if part in _ROLE_OF:
            return _ROLE_OF[part], (*parts[:i], *parts[i + 1 :])
    if lower and lower[-1] in _SPLIT_WORDS and (root.joinpath(*parts[:-1]) / f"{parts[-1]}annot").is_dir():
        return "image", parts
    return "", parts


def _plain_stem(stem: str, folder: str) -> str:
    """A file's name without the words that differ between the files of a frame."""
    short = _WORDS.sub("", stem)
    singular = folder[:-1] if folder.endswith("s") and len(folder) > 2 else folder
    for word in {folder, singular, "depth", "left", "label"} - {""}:
        if short.lower().startswith(word) and re.fullmatch(r"[_-]?\d+", short[len(word) :]):
            return short[len(word) :].lstrip("_-")
    return short or stem


def _looked_for(root: Path) -> str:
    """What was looked for, and what is there."""
    there = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    shown = ", ".join(there[:12]) + (", …" if len(there) > 12 else "")
    return (
        f"expected the folders images (or {', '.join(('RGB', 'rgb', 'vi', 'Vis', 'visible', 'img', 'left'))}), "
        "beside them thermal (or ir, Ir, infrared, lwir, depth, HHA, event, lidar, Modal, x) and labels (or Label, gt, "
        "semantic, Segmentation_labels), alone or below train/, val/ and test/; "
        f"found {shown or 'nothing'}"
    )
