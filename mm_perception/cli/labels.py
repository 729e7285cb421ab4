"""What commands that read folders of labelled images ask about labels and folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from mm_perception.cli import numbers
from mm_perception.core.errors import ConfigError
from mm_perception.datasets.classes import find_class_list
from mm_perception.datasets.label_map import LabelOptions, load_label_map

AS_CARD = "card"


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--label-map", type=Path, metavar="FILE", help="YAML file that says what the numbers in label files mean"
    )
    parser.add_argument(
        "--label-offset",
        type=numbers.whole(0, 65535),
        metavar="N",
        help="labels start at N and lower numbers are void (1: 0 is void, 1 the first class)",
    )
    parser.add_argument(
        "--ignore-id",
        type=numbers.whole(0, 65535),
        action="append",
        default=[],
        metavar="ID",
        help="a number in label files that stands for nothing, beside 255; may be given several times",
    )
    parser.add_argument(
        "--data-classes",
        metavar="NAME",
        help="whose classes the labels are: a name in config/classes or a file, or card for the model card's own "
        "(default: the data set's where it is known, else the card's)",
    )
    parser.add_argument("--x-folder", metavar="NAME", help="name of the folder of second images (Thermal, HHA, …)")


def label_options(args: argparse.Namespace) -> LabelOptions:
    """What the options say.

    Raises:
        ConfigError: a file cannot be used, or options contradict each other.
    """
    if args.label_map is not None and (args.label_offset is not None or args.data_classes is not None):
        raise ConfigError("--label-map: says all about labels; leave --label-offset and --data-classes out")
    own = args.data_classes is not None and args.data_classes != AS_CARD
    return LabelOptions(
        load_label_map(args.label_map) if args.label_map is not None else None,
        args.label_offset,
        tuple(args.ignore_id),
        find_class_list(args.data_classes) if own else None,
        args.data_classes == AS_CARD,
    )


def given_labels(args: argparse.Namespace) -> list[str]:
    """The label options that were given, for messages."""
    names = ("label_map", "label_offset", "ignore_id", "data_classes", "x_folder")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, [])]
