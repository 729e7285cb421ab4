"""sqlite3 bags. The format has no checksums: what is checked is that rows are of the types that they should be."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from mm_perception.bags.damage import DamageLog
from mm_perception.core.limits import MAX_ROW_BYTES

if TYPE_CHECKING:
    from rosbags.interfaces.typing import RPath


_LIMIT_LENGTH = 0
"""sqlite's number of the limit on the length of a value."""


class CheckedSqlite3Reader(Sqlite3Reader):
    """The library's reader, which leaves rows out that are no messages, and computes nothing that the file asks for."""

    def __init__(self, path: RPath, damage: DamageLog) -> None:
        super().__init__(path)
        self._damage = damage

    def open(self) -> None:
        """Opens the file. Raises ReaderError as the library, and for views, triggers and computed columns."""
        _refuse_programs(str(self.path))
        super().open()
        assert self.dbconn is not None
        self.dbconn.limit(_LIMIT_LENGTH, MAX_ROW_BYTES)

    def messages(self, connections: Collection[Connection], start: int | None = None, stop: int | None = None) -> Any:
        """The messages of some connections by log time; see the library's reader."""
        for row, (connection, stamp_ns, data) in enumerate(super().messages(connections, start, stop)):
            if isinstance(stamp_ns, int) and isinstance(data, bytes):
                yield connection, stamp_ns, data
            else:
                self._damage.add(str(self.path), row, "row that holds no message", {str(connection.topic): 1})


def _refuse_programs(path: str) -> None:
    """A view or a computed column can run for ever, or make data of any size, out of a small file."""
    try:
        connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
        try:
            kinds = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            strange = [name for kind, name, sql in kinds if kind not in ("table", "index") or _computes(str(sql or ""))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ReaderError(f"cannot open database {path}: {error}") from error
    if strange:
        raise ReaderError(f"database {path}: {strange[0]} is no plain table or index")


def _computes(sql: str) -> bool:
    words = sql.upper().replace("(", " ( ").split()
    return "VIRTUAL" in words or "GENERATED" in words or ("AS" in words and "TABLE" in words)
