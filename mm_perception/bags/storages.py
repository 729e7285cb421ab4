"""Opening one file of a bag: by what it begins with, unpacked if it is packed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mm_perception.bags.channels import Storage
from mm_perception.bags.compression import unpack_file
from mm_perception.bags.damage import DamagedError, DamageLog
from mm_perception.bags.mcap import MAGIC as MCAP_MAGIC
from mm_perception.bags.mcap_reader import McapFile
from mm_perception.bags.ros1_file import Ros1File
from mm_perception.bags.sqlite import JOURNALS, SQLITE_MAGIC, SqliteFile
from mm_perception.core.errors import BagError
from mm_perception.core.limits import MIN_FREE_DISK_BYTES
from mm_perception.core.scratch import make_scratch_folder

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ROS1_MAGIC = b"#ROSBAG V"
_FOREIGN = {
    b"\x1f\x8b": "a gzip archive: `gunzip` it",
    b"PK\x03\x04": "a zip archive: unzip it",
    b"\x04\x22\x4d\x18": "an lz4 file: `lz4 -d` it",
    b"BZh": "a bzip2 file: `bunzip2` it",
    b"\xfd7zXZ": "an xz file: `unxz` it",
    b"version https://git-lfs": "a pointer of Git LFS, not the bag: `git lfs pull` fetches it",
    b"<!DOCTYPE": "a web page, not a bag: the download went wrong",
    b"<html": "a web page, not a bag: the download went wrong",
}


class Scratch:
    """A folder for unpacked files, made when it is needed and removed by `close`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._count = 0

    def place(self, name: str) -> Path:
        """A new path. Raises OSError."""
        if self._folder is None:
            self._folder = make_scratch_folder(Path(tempfile.gettempdir()) / "mm_perception-bag")
        self._count += 1
        return self._folder / f"{self._count}-{name}"

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def open_storage(path: Path, damage: DamageLog, scratch: Scratch) -> Storage:
    """Opens a file.

    Raises:
        DamagedError, BagError: it is no bag, cannot be unpacked, or nothing in it can be read.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    place = path
    if head.startswith(ZSTD_MAGIC):
        place = scratch.place("unpacked")
        if not unpack_file(path, place):
            damage.note(f"{path}: is cut off (unfinished copy?): what its beginning holds is read")
        with place.open("rb") as file:
            head = file.read(64)
    kinds: dict[bytes, Callable[[], Storage]] = {
        MCAP_MAGIC: lambda: McapFile(place, path, damage),
        _ROS1_MAGIC: lambda: Ros1File(place, path, damage),
        SQLITE_MAGIC: lambda: _open_database(place, path, damage, scratch),
    }
    for magic, opened in kinds.items():
        if head.startswith(magic):
            return opened()
    raise DamagedError(_what_it_is(head))


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if not any(head):
        return "begins with zeros only: a power cut, or a copy that was not finished"
    what = next((text for magic, text in _FOREIGN.items() if head.startswith(magic)), "")
    return f"is {what}" if what else "is neither MCAP, nor sqlite3, nor a ROS 1 bag (nor one of those as .zstd)"


def _open_database(place: Path, shown: Path, damage: DamageLog, scratch: Scratch) -> Storage:
    journals = [one for one in JOURNALS if _size(place.with_name(place.name + one)) > 0]
    if not journals:
        return SqliteFile(place, shown, damage)
    names = " and ".join(shown.name + one for one in journals)
    needed = _size(place) + sum(_size(place.with_name(place.name + one)) for one in journals)
    copy = scratch.place("copy.db3")
    if needed > shutil.disk_usage(copy.parent).free - MIN_FREE_DISK_BYTES:
        damage.note(
            f"{shown}: {names} beside it (killed recorder) may hold more messages; there is no room in {copy.parent}"
            " for the copy with which they could be read: let TMPDIR name a larger folder"
        )
        return SqliteFile(place, shown, damage)
    shutil.copyfile(place, copy)
    for one in journals:
        shutil.copyfile(place.with_name(place.name + one), copy.with_name(copy.name + one))
    try:
        storage: Storage = SqliteFile(copy, shown, damage, own=True)
    except (DamagedError, BagError):  # a journal that is damaged, too, or of a recorder that still runs
        damage.note(f"{shown}: {names} beside it cannot be used: the file is read without")
        return SqliteFile(place, shown, damage)
    damage.note(f"{shown}: was not closed (killed recorder): read together with {names}")
    return storage


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
