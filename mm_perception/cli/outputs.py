"""The option that every command with named outputs has, and the check of them before any work."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from mm_perception.core.files import check_new_file, check_outputs


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declares `--overwrite`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that exist and are of the same kind; nothing else"
    )


def check_files(
    args: argparse.Namespace,
    kinds: dict[str, str],
    inputs: Iterable[Path | str | None] = (),
    folders: Iterable[str] = (),
) -> None:
    """Refuses files, as named by options, that must not be written.

    Args:
        kinds: by option ("json"), the kind of its file, see `core.files.KINDS`.
        inputs: what the command reads.
        folders: options whose folders are checked when they are opened.

    Raises:
        ConfigError: see `core.files`.
    """
    named = {f"--{name.replace('_', '-')}": getattr(args, name) for name in (*kinds, *folders)}
    check_outputs(named, inputs)
    for name, kind in kinds.items():
        if (path := getattr(args, name)) is not None:
            check_new_file(path, args.overwrite, kind)
