"""Reading sqlite3 bags of every age, and what can be read of damaged ones.

The format has no checksums: what is checked is that rows are of the types that they should be. Nothing is computed
that the file asks for. The file itself is never written to: where a journal lies beside it, a copy is opened.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import apsw

from mm_perception.bags.channels import Channel, Definition, parse_qos
from mm_perception.bags.damage import DamagedError, DamageLog
from mm_perception.core.limits import MAX_DEFINITION_BYTES, MAX_ROW_BYTES

SQLITE_MAGIC = b"SQLite format 3\0"
JOURNALS = ("-wal", "-journal")
"""What a recorder that was killed leaves beside its file; without it, messages are missing."""
_LIMIT_LENGTH = 0
"""sqlite's number of the limit on the length of a value."""
_MOST_TOPICS = 100_000
_LOOK_BACK_ROWS = 1000

_Index = list[tuple[int, int, int]]
"""(time, row, topic) of messages."""


class SqliteFile:
    """An open sqlite3 file (see `channels.Storage`).

    Raises:
        DamagedError: it is no bag, has views, triggers or computed columns, or nothing in it can be read.
    """

    def __init__(self, path: Path, shown: Path, damage: DamageLog, own: bool = False) -> None:
        """Args:
        shown: how messages call the file.
        own: it is a copy that may be written to: a journal beside it is taken in.
        """
        self._name, self._damage = str(shown), damage
        self._rows: _Index | None = None  # of a damaged file, what could be read
        try:
            self._open(path, own)
        except apsw.Error as error:
            self._close_quietly()
            raise DamagedError(f"cannot be read as an sqlite3 bag ({error}){_way_out(shown)}") from error
        except BaseException:
            self._close_quietly()
            raise

    def close(self) -> None:
        self._connection.close()

    def _close_quietly(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def _open(self, path: Path, own: bool) -> None:
        with path.open("rb") as file:
            if file.read(len(SQLITE_MAGIC)) != SQLITE_MAGIC:
                raise DamagedError("does not begin as an sqlite3 file does")
        uri = f"file:{_quoted(path)}" + ("" if own else "?immutable=1")
        mode = apsw.SQLITE_OPEN_READWRITE if own else apsw.SQLITE_OPEN_READONLY
        self._connection = apsw.Connection(uri, flags=mode | apsw.SQLITE_OPEN_URI)
        self._connection.limit(_LIMIT_LENGTH, MAX_ROW_BYTES)
        try:
            self._refuse_programs()
        except apsw.CorruptError:  # shorter than it says: its pages are read as far as they are there
            self._connection.execute("PRAGMA writable_schema=ON")
            self._refuse_programs()
        tables = {name for (name,) in self._query("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := sorted({"topics", "messages"} - tables):
            raise DamagedError(
                f"has no table {missing[0]}: no bag, or a recorder that wrote nothing{_way_out(self._name)}"
            )
        topics = self._topics(tables)
        try:
            counts = Counter(dict(self._query("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")))
            ((first, last),) = self._query("SELECT min(timestamp), max(timestamp) FROM messages")
        except apsw.Error as error:
            counts, first, last = self._salvage(error)
        self.channels: tuple[Channel, ...] = tuple(
            Channel(number, topic, kind, encoding, definition, counts[number], qos)
            for number, topic, kind, encoding, definition, qos in topics
        )
        whole = isinstance(first, int) and isinstance(last, int)
        self.span_ns = (first, last) if whole else None

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for row in self._connection.execute(sql, values):
            found.append(row)
            if len(found) > _MOST_TOPICS:
                raise DamagedError(f"has more than {_MOST_TOPICS} topics")
        return found

    def _refuse_programs(self) -> None:
        """A view or a computed column can run for ever, or make data of any size, out of a small file."""
        kinds = self._query("SELECT type, name, sql FROM sqlite_master")
        strange = [name for kind, name, sql in kinds if kind not in ("table", "index") or _computes(str(sql or ""))]
        if strange:
            raise DamagedError(f"{strange[0]} is no plain table or index")

    def _topics(self, tables: set[str]) -> list[tuple[Any, ...]]:
        """Number, name, type, encoding, definition and QoS of each topic; old files have fewer columns."""
        columns = {row[1] for row in self._query("PRAGMA table_info(topics)")}
        optional = ("serialization_format", "offered_qos_profiles")
        chosen = ", ".join(name if name in columns else f"'' AS {name}" for name in optional)
        rows = self._query(f"SELECT id, name, type, {chosen} FROM topics ORDER BY id")
        nameless = sum(not isinstance(name, str) or not isinstance(kind, str) for _, name, kind, *_ in rows)
        if nameless:
            raise DamagedError(f"damaged: {nameless} topic(s) without a name or type")
        definitions = self._definitions(tables)
        return [
            (number, name, kind, str(form or "cdr"), definitions.get(kind, Definition()), parse_qos(qos))
            for number, name, kind, form, qos in rows
        ]

    def _definitions(self, tables: set[str]) -> dict[str, Definition]:
        if "message_definitions" not in tables:
            return {}
        try:
            rows = self._query("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
        except apsw.Error as error:
            self._damage.add(self._name, -1, f"message definitions cannot be read ({error})")
            return {}
        return {
            kind: Definition(form, text)
            for kind, form, text in rows
            if all(isinstance(value, str) for value in (kind, form, text)) and len(text) <= MAX_DEFINITION_BYTES
        }

    # ---- damaged files

    def _salvage(self, error: apsw.Error) -> tuple[Counter[int], int | None, int | None]:
        """Finds the rows that can be read, from both ends of the table; what lies between is lost."""
        rows = self._readable("ASC", -(2**63))
        newest = max((row for _, row, _ in rows), default=-(2**63))
        rows += self._readable("DESC", newest)
        if not rows:
            raise error
        self._rows = sorted(rows)
        self._damage.add(self._name, -2, "database is damaged: messages are missing")
        self._damage.note(
            f"{self._name}: damaged or truncated ({error}): {len(rows)} messages can be read{_way_out(self._name)}"
        )
        return Counter(topic for _, _, topic in rows), self._rows[0][0], self._rows[-1][0]

    def _readable(self, order: str, above: int) -> _Index:
        found: _Index = []
        sql = f"SELECT id, topic_id, timestamp, length(data) FROM messages WHERE id > ? ORDER BY id {order}"
        try:
            for row, topic, stamp_ns, _ in self._connection.execute(sql, (above,)):
                if isinstance(stamp_ns, int) and isinstance(topic, int):
                    found.append((stamp_ns, row, topic))
        except apsw.Error:
            pass  # as far as it went
        return found

    # ---- messages

    def messages(self, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """See `channels.Storage`."""
        topics = {channel.number: channel.topic for channel in self.channels if channel.number in numbers}
        rows = self._ordered(tuple(topics)) if self._rows is None else self._salvaged(topics)
        for number, stamp_ns, row, data in rows:
            if isinstance(stamp_ns, int) and isinstance(data, bytes):
                yield stamp_ns, number, data
            else:
                self._damage.add(self._name, row, "row that holds no message", {topics[number]: 1})

    def _ordered(self, numbers: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
        marks = ",".join("?" for _ in numbers)
        sql = f"SELECT topic_id, timestamp, id, data FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp, id"
        try:
            yield from self._connection.execute(sql, numbers)
        except apsw.Error as error:
            self._damage.add(self._name, -3, f"database is damaged ({error}): its further messages are missing")

    def _salvaged(self, topics: dict[int, str]) -> Iterator[tuple[Any, ...]]:
        assert self._rows is not None
        for stamp_ns, row, number in self._rows:
            if number not in topics:
                continue
            try:
                for (data,) in self._connection.execute("SELECT data FROM messages WHERE id = ?", (row,)):
                    yield number, stamp_ns, row, data
            except apsw.Error:
                yield number, stamp_ns, row, None


def _computes(sql: str) -> bool:
    words = sql.upper().replace("(", " ( ").split()
    return "VIRTUAL" in words or "GENERATED" in words or ("AS" in words and "TABLE" in words)


def _quoted(path: Path) -> str:
    """As sqlite's URIs want it."""
    text = os.fspath(path.absolute())
    return text.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _way_out(name: object) -> str:
    return f"; `sqlite3 {name} .recover | sqlite3 whole.db3` saves what can be saved"
