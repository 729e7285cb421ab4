"""Class lists of published data sets, and how names of one list are found in another."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mm_perception.core.config import load_yaml, setting
from mm_perception.core.errors import ConfigError
from mm_perception.core.resources import find_config

MAX_CLASSES = 255
Colour = tuple[int, int, int]
Triple = tuple[float, float, float]
_SPELLINGS = {"unlabelled": "unlabeled", "background": "unlabeled", "colourcone": "colorcone", "tv": "television"}
"""Other ways to write a name, both without case and blanks."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """What the labels of a data set mean, and how weights published for it take their input."""

    name: str = setting(description="short name, as in --classes NAME")
    classes: tuple[str, ...] = setting(description="names in the order of a network's outputs")
    source: str = setting(description="where names, order and colours were taken from")
    palette: tuple[Colour, ...] | None = setting(None, "one RGB colour per class, 0..255")
    ids: tuple[int, ...] | None = setting(None, "number of each class in the label files; none: its place in classes")
    ignore: tuple[int, ...] = setting((), "numbers in the label files that stand for nothing")
    other_ids_ignored: bool = setting(False, "every number that is not in ids stands for nothing")
    channel_order: str = setting("bgr", "channel order of the published weights")
    rgb_mean: Triple = setting((0.485, 0.456, 0.406), "subtracted from rgb / 255 by the published weights")
    rgb_std: Triple = setting((0.229, 0.224, 0.225), "divides rgb afterwards")
    x_mean: Triple = setting((0.485, 0.456, 0.406), "subtracted from x / 255 by the published weights")
    x_std: Triple = setting((0.229, 0.224, 0.225), "divides x afterwards")
    modality: str = setting("thermal", "what the second image of the published weights shows")
    encoding: str = setting("agc", "how it becomes three channels")
    input_height: int = setting(480, "height of the published weights' input [px]", minimum=29, maximum=8192)
    input_width: int = setting(640, "width of the published weights' input [px]", minimum=29, maximum=8192)

    def __post_init__(self) -> None:
        count = len(self.classes)
        problems = []
        if not 1 <= count <= MAX_CLASSES or len(set(self.classes)) != count or "" in self.classes:
            problems.append(f"classes: expected 1 to {MAX_CLASSES} distinct names, got {count}")
        if self.palette is not None and len(self.palette) != count:
            problems.append(f"palette: expected {count} colours, got {len(self.palette)}")
        if self.ids is not None and (len(self.ids) != count or len(set(self.ids)) != count):
            problems.append(f"ids: expected {count} distinct numbers, got {len(self.ids)}")
        if self.channel_order not in ("rgb", "bgr"):
            problems.append(f"channel_order: expected rgb or bgr, got {self.channel_order!r}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def raw_ids(self) -> tuple[int, ...]:
        """The number of each class in the label files."""
        return self.ids if self.ids is not None else tuple(range(len(self.classes)))


def find_class_list(name_or_path: str | Path) -> ClassList:
    """A class list by name ("mfnet", in config/classes) or of any file by path.

    Raises:
        ConfigError: there is none (the message lists those that ship), or it has unknown or impossible values.
    """
    return load_yaml(find_config("classes", str(name_or_path)), ClassList)


def plain(name: str) -> str:
    """A class name without case, spaces, hyphens, underscores: "Traffic-Light" is "traffic light"."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists name the same classes in the same order."""
    return [plain(name) for name in one] == [plain(name) for name in other]


def index_of(name: str, classes: Sequence[str]) -> int | None:
    """Where a name stands in a list; None where it does not."""
    names = [plain(known) for known in classes]
    wanted = plain(name)
    other = _SPELLINGS.get(wanted, wanted)
    for known, sought in ((names, wanted), (names, other), ([_SPELLINGS.get(one, one) for one in names], other)):
        if sought in known:
            return known.index(sought)
    return None


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing where no known name is near."""
    by_plain = {plain(one): one for one in known}
    found = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.6)
    return f"; did you mean {by_plain[found[0]]!r}?" if found else ""
