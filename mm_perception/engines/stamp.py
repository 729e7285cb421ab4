"""Stamps: what an engine file was made from, so that a stale or half-written one is never used.

A file `m.onnx` has its stamp in `m.onnx.stamp.json`. The stamp is removed before the file is replaced and
written after it, so an interrupted write leaves a file without a stamp or with a wrong hash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from mm_perception import __version__
from mm_perception.core.config import from_mapping
from mm_perception.core.errors import ConfigError, EngineError, ModelError
from mm_perception.core.files import read_json, replace_file
from mm_perception.core.processes import check_not_ended
from mm_perception.core.progress import Caution
from mm_perception.core.scratch import remove_orphans
from mm_perception.engines.card import WeightsCard

LOCK_POLL_S = 0.1
LOCK_TIMEOUT_S = 600.0
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
"""Why a folder of complete files may refuse to take a lock's."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an engine file is made from, and the file's own hash."""

    artefact_sha256: str
    weights: str  # sha256 of the weights file, or random:<seed>
    card_sha256: str
    package_version: str
    tools: Mapping[str, str]  # versions of what made the file
    input_size: tuple[int, int]  # height, width [px]


def differences(expected: Any, got: Any) -> list[str]:
    """One line per field in which two dataclasses of one kind differ."""
    lines = []
    for field in dataclasses.fields(expected):
        want, have = getattr(expected, field.name), getattr(got, field.name)
        if want != have:
            lines.append(f"{field.name}: expected {_short(want)}, got {_short(have)}")
    return lines


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits.

    Raises:
        ModelError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"model file {path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def weights_identity(card: WeightsCard) -> str:
    """What stands for the card's weights in a stamp: `random:<seed>` or the sha256 of the file.

    Raises:
        ModelError: the file is missing, or its hash is not the one on the card.
    """
    path = card.weights_path
    if path is None:
        return card.weights
    if not path.is_file():
        raise ModelError(f"model {card.name}: weights file {path} does not exist")
    digest = file_sha256(path)
    if card.weights_sha256 is not None and digest != card.weights_sha256:
        raise ModelError(
            f"model {card.name}: {path} is not the file of this card: "
            f"weights_sha256: expected {card.weights_sha256}, got {digest}"
        )
    return digest


def make_stamp(card: WeightsCard, weights: str, artefact_sha256: str, tools: tuple[str, ...]) -> Stamp:
    """The stamp that a file made now from `card` would have; `tools` are names of installed packages."""
    return Stamp(
        artefact_sha256=artefact_sha256,
        weights=weights,
        card_sha256=card.content_sha256(),
        package_version=__version__,
        tools={tool: installed_version(tool) for tool in tools},
        input_size=card.input_size,
    )


def installed_version(package: str) -> str:
    """The version of an installed package, "none" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def stamp_path(artefact: Path) -> Path:
    """Where the stamp of a file lies."""
    return artefact.with_name(artefact.name + ".stamp.json")


def write_stamp(artefact: Path, stamp: Any) -> None:
    """Writes the stamp of a finished file (a dataclass), atomically."""
    text = json.dumps(dataclasses.asdict(stamp), indent=1, sort_keys=True)
    replace_file(stamp_path(artefact), text.encode())


def remove_stamp(artefact: Path) -> None:
    """To be called before the file is replaced."""
    stamp_path(artefact).unlink(missing_ok=True)


def read_stamp(artefact: Path) -> Stamp | None:
    """The stamp of a file; None where it is missing or unreadable: such a file cannot be trusted."""
    path = stamp_path(artefact)
    try:
        return from_mapping(Stamp, read_json(path), str(path))
    except ConfigError:
        return None


def stamp_problems(artefact: Path, card: WeightsCard, weights: str, tools: tuple[str, ...]) -> list[str]:
    """Why `artefact` may not be used for this card and these weights; empty where it may.

    Args:
        artefact: the engine file.
        card: the card that it should belong to.
        weights: `weights_identity(card)`.
        tools: packages whose version matters; one that is not installed cannot rebuild and is not compared.
    """
    if not artefact.is_file():
        return ["the file does not exist"]
    stamp = read_stamp(artefact)
    if stamp is None:
        return ["it has no readable stamp: writing it was interrupted, or it is not from this cache"]
    expected = make_stamp(card, weights, file_sha256(artefact), tools)
    known = {t: stamp.tools.get(t, "none") if v == "none" else v for t, v in expected.tools.items()}
    return differences(dataclasses.replace(expected, tools=known), stamp)


def require_stamp(artefact: Path, card: WeightsCard, weights: str, tools: tuple[str, ...]) -> None:
    """Refuses a file that is not from this card and these weights.

    Raises:
        ModelError: it names every difference.
    """
    problems = stamp_problems(artefact, card, weights, tools)
    if problems:
        raise ModelError(f"engine file {artefact}: does not belong to {card.name}\n  " + "\n  ".join(problems))


def default_cache_dir() -> Path:
    """`$MM_PERCEPTION_CACHE`, else `~/.cache/mm_perception`."""
    given = os.environ.get("MM_PERCEPTION_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "mm_perception"


@contextlib.contextmanager
def locked(
    artefact: Path, timeout_s: float = LOCK_TIMEOUT_S, tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds the file's lock against other processes; the lock dies with its process.

    Where the folder cannot be written (it is read-only, or the disk is full) what is complete in it can still be read:
    then `tell` hears a `Caution`, and the lock is taken if its file is there.

    Args:
        tell: is told if another process has to be waited for, or the folder cannot be written.

    Raises:
        EngineError: another process holds it for longer than `timeout_s`, or there can be no such folder.
        EndedError: this process has been told to end.
    """
    path = artefact.with_name(artefact.name + ".lock")
    file = _open_lock(path, tell or (lambda text: None))
    if file is None:
        yield
        return
    with file:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(file.fileno()):
            check_not_ended()
            if tell is not None:
                tell(f"waiting for another process that works on {artefact.name}")
                tell = None
            if time.monotonic() > deadline:
                raise EngineError(f"{path}: another process has held this lock for {timeout_s:g} s")
            time.sleep(LOCK_POLL_S)
        remove_orphans(path.parent)
        yield


def _open_lock(path: Path, tell: Callable[[str], None]) -> IO[str] | None:
    """The lock's file; None where there is none and none can be made. Raises EngineError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno not in UNWRITABLE:
            raise EngineError(f"{path}: cannot be written ({why})") from error
    tell(
        Caution(
            f"cache {path.parent} cannot be written ({why}): what is complete in it is used, and what is missing "
            "cannot be kept there; set MM_PERCEPTION_CACHE to a folder that can be written"
        )
    )
    try:
        return path.open()
    except OSError:
        return None


def check_writable(folder: Path, what: str) -> None:
    """Raises EngineError, before work of minutes, if what is to be kept in a folder of the cache cannot be."""
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise EngineError(
            f"{what}, but {folder} cannot be written: set MM_PERCEPTION_CACHE to a folder that can, or fill this one "
            "from where it can be written"
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items())) or "nothing"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
