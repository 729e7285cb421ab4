"""From the numbers in label files to class ids: offsets, ignored numbers, and label maps.

A label map is a YAML file:

    ignore: [11]
    classes:
      - {name: sky, ids: [0], predicted: [sky]}
      - {name: building, ids: [1], predicted: [building, wall]}

`ids` are numbers in the label files (or `colors`, RGB, where these hold colours); `predicted` are the names of a
model's classes that count as the class; without it, the model's class of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_perception.core.config import load_yaml, setting
from mm_perception.core.errors import ConfigError, DataError
from mm_perception.core.types import IGNORE_LABEL
from mm_perception.datasets.classes import MAX_CLASSES, ClassList, Colour, index_of, nearest, same_classes

_NUMBERS = 2**16
_UNKNOWN = 256
ALWAYS_IGNORED = (IGNORE_LABEL, _NUMBERS - 1)
"""255, and -1 in 16 bits."""


@dataclass(frozen=True, slots=True)
class MappedClass:
    """One class of a label map."""

    name: str = setting(description="what scores call it")
    ids: tuple[int, ...] = setting((), "numbers in the label files", minimum=0, maximum=_NUMBERS - 1)
    colors: tuple[Colour, ...] = setting((), "colours in label files that hold colours, RGB")
    predicted: tuple[str, ...] | None = setting(None, "the model's classes that count as it (default: its name)")


@dataclass(frozen=True, slots=True)
class LabelMap:
    """What the numbers in label files mean; see the module."""

    classes: tuple[MappedClass, ...] = setting(description="classes that are scored or learned")
    ignore: tuple[int, ...] = setting((), "numbers in the label files that stand for nothing", minimum=0, maximum=65535)

    def __post_init__(self) -> None:
        problems = []
        names = [one.name for one in self.classes]
        if not 1 <= len(names) < MAX_CLASSES or len(set(names)) != len(names) or "" in names:
            problems.append(f"classes: expected 1 to {MAX_CLASSES - 1} distinct names, got {len(names)}")
        seen: dict[Any, str] = dict.fromkeys(self.ignore, "ignore")
        for one in self.classes:
            if not one.ids and not one.colors:
                problems.append(f"class {one.name!r}: no ids and no colors")
            for key in (*one.ids, *one.colors):
                if key in seen:
                    problems.append(f"{key} is in {seen[key]!r} and in {one.name!r}")
                seen[key] = one.name
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.classes)

    def predicted_as(self, model_classes: Sequence[str], model: str = "the model") -> NDArray[np.uint8]:
        """(len(model_classes),) the mapped class that each class of a model counts as; len(classes) where as none.

        Raises:
            ConfigError: a name is none of the model's, one counts as two classes, or none counts at all.
        """
        out = np.full(len(model_classes), len(self.classes), np.uint8)
        problems = []
        for i, one in enumerate(self.classes):
            for name in (one.name,) if one.predicted is None else one.predicted:
                at = index_of(name, model_classes)
                if at is None:
                    problems.append(f"class {one.name!r}: {model} has no class {name!r}{nearest(name, model_classes)}")
                elif out[at] < len(self.classes):
                    problems.append(f"{name!r} counts as {self.classes[out[at]].name!r} and as {one.name!r}")
                else:
                    out[at] = i
        if problems:
            problems.append(f"its classes are {', '.join(model_classes)}")
            problems.append("say by `predicted: [...]` which of them count, `predicted: []` where none does")
            raise ConfigError("label map: " + "; ".join(problems))
        return out

    def learned_as(self, model_classes: Sequence[str], model: str = "the model") -> list[int]:
        """The model's class that each class is learned as: the one of its name, or the only one that counts as it.

        Raises:
            ConfigError: several count as it, and none has its name.
        """
        self.predicted_as(model_classes, model)
        out = []
        for one in self.classes:
            named = index_of(one.name, model_classes)
            counted = one.predicted or ()
            if named is not None and (not counted or index_of(one.name, counted) is not None):
                out.append(named)
            elif len(counted) == 1:
                out.append(int(index_of(counted[0], model_classes) or 0))
            else:
                raise ConfigError(
                    f"label map: class {one.name!r} cannot be learned: "
                    f"{', '.join(counted) or 'no class'} of {model} stand(s) for it, expected one"
                )
        return out


def load_label_map(path: Path) -> LabelMap:
    """Reads a label map. Raises ConfigError with all that is wrong with it."""
    return load_yaml(path, LabelMap)


@dataclass(frozen=True, slots=True, eq=False)
class LabelRule:
    """How the numbers in label files become class ids.

    Attributes:
        classes: what the ids mean.
        table: (65536,) uint16: the id of each number; 255: ignored, 256: unknown.
        colours: ids by colour, for files that hold colours.
        assumption: what was taken for granted about the numbers; empty if nothing was.
        first: the lowest number that stands for a class, for messages.
    """

    classes: tuple[str, ...]
    table: NDArray[np.uint16]
    colours: dict[Colour, int] = field(default_factory=dict)
    assumption: str = ""

    def apply(self, numbers: NDArray[Any], where: str) -> NDArray[np.uint8]:
        """(H, W) class ids, 255 where ignored.

        Raises:
            DataError: a number or colour stands for nothing that is known; the message names it, the file, and what
                to do.
        """
        if numbers.ndim == 3:
            return self._from_colours(numbers, where)
        ids = self.table[numbers]
        unknown = np.unique(numbers[ids == _UNKNOWN])
        if len(unknown):
            raise DataError(self._complaint(unknown, where))
        return np.asarray(ids, np.uint8)

    def _complaint(self, unknown: NDArray[Any], where: str) -> str:
        known = np.nonzero(self.table < IGNORE_LABEL)[0]
        shown = ", ".join(map(str, unknown[:5].tolist())) + (", …" if len(unknown) > 5 else "")
        text = f"{where}: label {shown}: expected ids below {len(self.classes)}, or {IGNORE_LABEL} to ignore"
        if len(known) and not np.array_equal(known, np.arange(len(self.classes))):
            text = f"{where}: label {shown}: expected one of {_ranges(known)}, or {IGNORE_LABEL} to ignore"
        way = f"ignore with --ignore-id {unknown[0]}, or say what the numbers mean with --label-map FILE"
        if unknown.tolist() == [len(self.classes)] and 0 in known:
            way = f"if labels start at 1 and 0 is void, --label-offset 1; else {way}"
        return f"{text} ({way})"

    def _from_colours(self, pixels: NDArray[Any], where: str) -> NDArray[np.uint8]:
        keys = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
        values, inverse = np.unique(keys, return_inverse=True)
        colours = [(int(v) >> 16, int(v) >> 8 & 255, int(v) & 255) for v in values[:1024]]
        missing = [colour for colour in colours if colour not in self.colours]
        if missing or len(values) > len(colours):
            shown = ", ".join(map(str, missing[:4]))
            raise DataError(
                f"{where}: the label file holds colours, of which {shown} stand(s) for no class: "
                "expected class ids in grey or a palette; say what colours mean with `colors` in a --label-map FILE"
            )
        ids = np.array([self.colours[colour] for colour in colours], np.uint8)
        return np.asarray(ids[inverse].reshape(pixels.shape[:2]))


def _ranges(numbers: NDArray[Any]) -> str:
    """ "1 to 40", or the numbers, the first twenty of them."""
    low, high = int(numbers[0]), int(numbers[-1])
    if high - low + 1 == len(numbers):
        return f"{low} to {high}"
    return ", ".join(map(str, numbers[:20].tolist())) + (", …" if len(numbers) > 20 else "")


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """What the user says about label files.

    Attributes:
        label_map: takes the place of everything else.
        offset: labels start at this number; lower ones are ignored. None: as the data set has it.
        ignore: further numbers that stand for nothing.
        classes: whose classes the numbers are; None: the data set's where it is known, else the model's.
        as_card: the numbers are the model's classes whatever the data set is.
    """

    label_map: LabelMap | None = None
    offset: int | None = None
    ignore: tuple[int, ...] = ()
    classes: ClassList | None = None
    as_card: bool = False


AS_FOUND = LabelOptions()
"""Nothing was said."""


def scored_map(known: ClassList | None, options: LabelOptions, model_classes: Sequence[str], where: str) -> LabelMap:
    """The label map that a folder is scored by: the user's, or one of its class list, by names.

    Raises:
        ConfigError: the data set's classes are not the model's, and no label map says what counts as what.
    """
    if options.label_map is not None:
        return _more_ignored(options.label_map, options.ignore)
    own = None if options.as_card else options.classes or known
    names = tuple(own.classes) if own is not None else tuple(model_classes)
    if own is not None:
        strange = [name for name in own.classes if index_of(name, model_classes) is None]
        if strange:
            raise ConfigError(_mismatch(own, strange, model_classes, where))
    numbers = _numbers(own, options, len(names))
    ignored = tuple(sorted({*(own.ignore if own else ()), *options.ignore} - set(numbers)))
    classes = tuple(MappedClass(name, (number,)) for name, number in zip(names, numbers, strict=True))
    return LabelMap(classes, ignored)


def scored_rule(label_map: LabelMap, known: ClassList | None, options: LabelOptions) -> LabelRule:
    """The rule that gives the mapped classes' own ids: 0 for the first of the map."""
    return _rule(label_map, list(range(len(label_map.classes))), label_map.names, known, options)


def learned_rule(known: ClassList | None, options: LabelOptions, model_classes: Sequence[str], where: str) -> LabelRule:
    """The rule that gives the model's class ids.

    Raises:
        ConfigError: the data set's classes are not the model's, and nothing says what is learned as what.
    """
    label_map = scored_map(known, options, model_classes, where)
    targets = label_map.learned_as(model_classes)
    return _rule(label_map, targets, tuple(model_classes), known, options)


def _rule(
    label_map: LabelMap, targets: list[int], classes: tuple[str, ...], known: ClassList | None, options: LabelOptions
) -> LabelRule:
    own = None if options.label_map is not None or options.as_card else options.classes or known
    start = options.offset if options.offset is not None and options.label_map is None else 0
    table = np.full(_NUMBERS, _UNKNOWN, np.uint16)
    if own is not None and own.other_ids_ignored:
        table[:] = IGNORE_LABEL
    table[:start] = IGNORE_LABEL
    table[list(ALWAYS_IGNORED)] = IGNORE_LABEL
    table[list(label_map.ignore)] = IGNORE_LABEL
    colours: dict[Colour, int] = {}
    for one, target in zip(label_map.classes, targets, strict=True):
        table[list(one.ids)] = target
        colours |= dict.fromkeys(one.colors, target)
    if own is not None and own.palette is not None:
        named = zip(own.palette, targets, strict=True)
        colours = {**dict(named), **colours}
    assumed = ""
    if own is None and options.label_map is None and not options.as_card:
        last = start + len(classes) - 1
        assumed = f"numbers {start} to {last} in the label files are taken for the model's classes in their order"
    return LabelRule(classes, table, colours, assumed)


def _numbers(own: ClassList | None, options: LabelOptions, count: int) -> tuple[int, ...]:
    if options.offset is not None:
        return tuple(range(options.offset, options.offset + count))
    return own.raw_ids if own is not None else tuple(range(count))


def _more_ignored(label_map: LabelMap, ignore: tuple[int, ...]) -> LabelMap:
    more = tuple(sorted({*label_map.ignore, *ignore}))
    return LabelMap(label_map.classes, more)


def _mismatch(own: ClassList, strange: list[str], model_classes: Sequence[str], where: str) -> str:
    hint = nearest(strange[0], model_classes)
    shown = ", ".join(repr(name) for name in strange[:4]) + (", …" if len(strange) > 4 else "")
    return (
        f"{where}: its labels are the classes of {own.name} ({len(own.classes)}: {', '.join(own.classes[:6])}, …), "
        f"the model has {len(model_classes)} classes and not {shown}{hint}; take a card with these classes, say what "
        "counts as what with --label-map FILE, or say --data-classes card if the numbers are the card's own classes"
    )


__all__ = [
    "ALWAYS_IGNORED",
    "AS_FOUND",
    "LabelMap",
    "LabelOptions",
    "LabelRule",
    "MappedClass",
    "learned_rule",
    "load_label_map",
    "same_classes",
    "scored_map",
    "scored_rule",
]
