"""The journal's file, an SQLite database in WAL mode: how it is made, opened, checked, and brought to its schema.

A row is written once, read rarely and deleted soon. Hence pages of 8 KiB (one call takes a page of the log, a batch of
thousands few enough of them), no zeroing of what is deleted, and a log that is folded into the file in large portions,
so that most rows are gone before they would get there. docs/decisions/0001-journal-store.md has the figures.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple
from zlib import crc32

from mesh.exceptions import JournalUnavailable, NewerJournal

FILE_NAME: Final = "journal.db"
PAGE_BYTES: Final = 8192
#: Stands in the header of the file: "mesh".
APPLICATION_ID: Final = 0x6D657368
#: SQLite holds less than 10^9 bytes in a value.
ROW_BYTES_MAX: Final = 900_000_000
#: What the log keeps on disk once it is folded in; a commit larger than that gives the rest back.
LOG_BYTES_KEPT: Final = 32 << 20
#: How long another process may hold the file, which none does but `mesh journal` and a curious `sqlite3`.
_BUSY_S: Final = 5.0

INSERT: Final = "INSERT OR REPLACE INTO row (number, kind, crc, body) VALUES (?, ?, ?, ?)"
_SELECT: Final = "SELECT number, kind, crc, body FROM row"
#: Where the header of an SQLite file has these (https://www.sqlite.org/fileformat2.html#the_database_header).
_HEADER_BYTES: Final = 100
_USER_VERSION_AT: Final = 60
_APPLICATION_ID_AT: Final = 68

#: Primary result codes of SQLite that mean: the content is wrong.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Damaged(Exception):
    """What is in the file can't be right."""


class Found(NamedTuple):
    """A row as it lies in the file."""

    number: int
    kind: int
    body: bytes


def _first_schema(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE row (number INTEGER PRIMARY KEY, kind INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL)"
    )
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID")
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")


#: {schema version: the step that leads there from the one before}. A step that has been released is never changed.
MIGRATIONS: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {1: _first_schema}


def schema_version() -> int:
    """What this release writes."""
    return max(MIGRATIONS)


# --- connections ---------------------------------------------------------------------------------


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a file that exists. Any thread may use it, one at a time. Nothing is read yet."""
    mode = "ro" if read_only else "rw"
    if read_only and _is_at_rest(path):
        mode += "&immutable=1"
    db = sqlite3.connect(
        f"file:{_quoted(path)}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_S
    )
    try:
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "secure_delete=OFF", "wal_autocheckpoint=0"):
            db.execute(f"PRAGMA {pragma}").close()
        db.execute(f"PRAGMA journal_size_limit={LOG_BYTES_KEPT}").close()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _quoted(path: str) -> str:
    """As it stands in a URI (https://www.sqlite.org/uri.html). Every router would hold `urllib.parse` just for this."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _is_at_rest(path: str) -> bool:
    """Whether nobody can write to the file, and its log has nothing to add: SQLite could make no file to share."""
    log = f"{path}-wal"
    return not os.access(os.path.dirname(path), os.W_OK) and not (os.path.exists(log) and os.path.getsize(log))


def create(path: str) -> None:
    """An empty file that only its owner can read, to be filled by `open_checked`; nothing where one is there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    sync_directory(os.path.dirname(path))


def sync_directory(directory: str) -> None:
    """Names that were made or changed in it survive power loss from here on."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_checked(path: str, *, log: bool = True) -> sqlite3.Connection:
    """A connection to a sound file of the current schema that can be written; an empty file becomes one.

    `log`: False for a file that is filled at one go, and is in rollback mode until it is opened with True.

    Raises:
        NewerJournal: it has been left as it is.
        Damaged: its structure is broken. Flipped bits inside a row are found by the row's CRC.
        sqlite3.Error: the disk does not work; see `unavailable`.
    """
    refuse_newer(path)
    db = connect(path)
    try:
        version = _version(db, path)
        if version == 0:
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        if log and value(db, "PRAGMA journal_mode=WAL") != "wal":
            raise JournalUnavailable(path, "its file system has no shared memory", "Keep it on a local disk.")
        _migrate(db, version, path)
        check(db)
        db.execute("DELETE FROM row WHERE number < 0")  # what can't be written tells now
    except sqlite3.Error as error:
        db.close()
        if means_damage(error) or _primary(error) == sqlite3.SQLITE_ERROR or _claims_read_only(error, path):
            raise Damaged(str(error)) from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def open_to_look(path: str) -> sqlite3.Connection:
    """A connection that reads what is there and changes nothing. A router may use the file meanwhile.

    Raises:
        NewerJournal, Damaged, sqlite3.Error: as `open_checked`.
    """
    refuse_newer(path)
    db = connect(path, read_only=True)
    try:
        if _version(db, path):
            check(db)
    except sqlite3.Error as error:
        db.close()
        if means_damage(error) or _primary(error) == sqlite3.SQLITE_ERROR:
            raise Damaged(str(error)) from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def _claims_read_only(error: sqlite3.Error, path: str) -> bool:
    """Whether it is but the header that says so: one flipped bit is enough."""
    return _primary(error) == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)


def refuse_newer(path: str) -> None:
    """Raises NewerJournal by a look at the bytes of the header, before anything could write to the file."""
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    if int.from_bytes(header[_APPLICATION_ID_AT : _APPLICATION_ID_AT + 4], "big") == APPLICATION_ID:
        _refuse_newer(path, int.from_bytes(header[_USER_VERSION_AT : _USER_VERSION_AT + 4], "big"))


def _refuse_newer(path: str, found: int) -> None:
    if found > schema_version():
        raise NewerJournal(path, found, schema_version())


def _version(db: sqlite3.Connection, path: str) -> int:
    """The schema that is there, 0 for none. Nothing is written to what is not ours."""
    version = int(value(db, "PRAGMA user_version"))
    is_empty = value(db, "SELECT count(*) FROM sqlite_master") == 0
    if is_empty != (version == 0) or (version and value(db, "PRAGMA application_id") != APPLICATION_ID):
        raise Damaged("it is no journal of mesh")
    _refuse_newer(path, version)
    return version


def _migrate(db: sqlite3.Connection, version: int, path: str) -> None:
    """Goes from the schema that is there to the current one, each step whole or not at all."""
    if version == schema_version():
        return
    db.execute("PRAGMA synchronous=FULL")
    for step in range(version + 1, schema_version() + 1):
        try:
            db.execute("BEGIN IMMEDIATE")
            MIGRATIONS[step](db)
            db.execute(f"PRAGMA user_version={step}")
            db.execute("COMMIT")
        except sqlite3.Error as error:
            db.rollback()
            raise unavailable(path, error) from error
    # So that the header of the file says which schema it has: `refuse_newer` looks there.
    fold_log(db)


def check(db: sqlite3.Connection) -> None:
    """Raises Damaged where the structure is broken. Reads the whole file."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"row", "meta"} <= tables:
        raise Damaged("its tables are gone")
    verdict = value(db, "PRAGMA quick_check(1)")
    if verdict != "ok":
        raise Damaged(" ".join(str(verdict).split()))


def fold_log(db: sqlite3.Connection) -> bool:
    """Moves all of the log into the file, on disk, and empties it. False where a reader keeps it from that."""
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def value(db: sqlite3.Connection, sql: str) -> Any:
    """The one value that a statement yields."""
    return db.execute(sql).fetchone()[0]


# --- rows ----------------------------------------------------------------------------------------


def checksum(number: int, kind: int, body: Any) -> int:
    """What tells a row from one with flipped bits: CRC-32 of the body, begun with the number and the kind."""
    return crc32(body, ((number << 8) | kind) & 0xFFFF_FFFF)


#: Numbers of rows are less.
_NUMBERS: Final = 1 << 61
_UNREADABLE: Final[tuple[Any, ...]] = ()


class Walk:
    """1. Yields the rows that are right, ascending, one at a time. 2. Counts the others, and goes on behind them."""

    def __init__(self, db: sqlite3.Connection, kind: int | None = None, *, others: bool = False) -> None:
        """Of all rows, of those of one kind, or of the others; the bodies of the rest are not read."""
        self._db = db
        self._select = f"{_SELECT} WHERE number >= ?"
        if kind is not None:
            self._select += f" AND kind {'<>' if others else '='} {int(kind)}"
        #: Numbers of the rows whose content is not what was written.
        self.wrong: list[int] = []
        #: Places where an unknown number of rows can't be read.
        self.gaps = 0

    def __iter__(self) -> Iterator[Found]:
        last = 0
        while True:
            try:
                for row in self._db.execute(f"{self._select} ORDER BY number", (last + 1,)):
                    if row[0] <= last:
                        raise sqlite3.DatabaseError("the numbers do not ascend")
                    last = row[0]
                    yield from self._right(row)
                return
            except sqlite3.DatabaseError as error:
                if not means_damage(error):
                    raise
            self.gaps += 1
            next_row = self._behind_the_gap(last)
            if next_row is None:
                return
            last = next_row[0]
            yield from self._right(next_row)

    def _right(self, row: tuple[Any, ...]) -> Iterator[Found]:
        found = intact(row)
        if found is not None:
            yield found
        else:
            self.wrong.append(row[0])

    def _behind_the_gap(self, last: int) -> tuple[Any, ...] | None:
        """The first row that can be read behind `last`; None where there is none.

        It looks ahead in growing steps and then halves the way back: a page that is broken takes all its rows along.
        """
        bad, step = last, 1
        while (row := self._seek(last + step)) is _UNREADABLE:
            bad, step = last + step, step * 2
            if step > _NUMBERS:
                return None
        good = last + step
        while good - bad > 1:
            middle = (good + bad) // 2
            nearer = self._seek(middle)
            if nearer is _UNREADABLE:
                bad = middle
            else:
                row, good = nearer, middle
        return row

    def _seek(self, number: int) -> tuple[Any, ...] | None:
        """The first row from this number on; None where there is none, _UNREADABLE where nobody knows."""
        try:
            row = self._db.execute(f"{self._select} ORDER BY number LIMIT 1", (number,)).fetchone()
        except sqlite3.DatabaseError as error:
            if not means_damage(error):
                raise
            return _UNREADABLE
        return row if row is None or row[0] >= number else _UNREADABLE


def read_row(db: sqlite3.Connection, number: int) -> Found | None:
    """One row; None where it is not there, or is not what was written."""
    row = db.execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()
    return intact(row) if row is not None else None


def intact(row: tuple[Any, ...]) -> Found | None:
    """The row, where its content is what was written."""
    number, kind, crc, body = row
    if type(kind) is not int or type(body) is not bytes or checksum(number, kind, body) != crc:
        return None
    return Found(number, kind, body)


# --- errors --------------------------------------------------------------------------------------


def means_damage(error: sqlite3.Error) -> bool:
    """Whether it is the content that is wrong, and not the disk."""
    code = _primary(error)
    return code in _DAMAGED or (code is None and not isinstance(error, sqlite3.ProgrammingError))


def _primary(error: sqlite3.Error) -> int | None:
    """SQLite's result code; None where the binding itself objects to what it reads, such as text that is none."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


#: {primary result code of SQLite: what happened, what to do}
_REASONS: Final = {
    sqlite3.SQLITE_FULL: ("the disk is full", "Make room; calls are taken again as soon as there is some."),
    sqlite3.SQLITE_READONLY: ("it is read-only", "Mount its file system for writing, or give the router access."),
    sqlite3.SQLITE_CANTOPEN: (
        "it can't be opened",
        "See that its directory is there and belongs to the router's user.",
    ),
    sqlite3.SQLITE_PERM: (
        "access is denied",
        "See that the directory and the files in it belong to the router's user.",
    ),
    sqlite3.SQLITE_BUSY: ("another process has locked it", 'End what has it open: see "fuser -v" on the file.'),
}


def unavailable(path: str, error: sqlite3.Error | OSError) -> JournalUnavailable:
    """What to tell the user of an error of the disk."""
    if isinstance(error, OSError):
        return JournalUnavailable(path, error.strerror or str(error), "See that its directory can be written.")
    code = _primary(error)
    if code == sqlite3.SQLITE_CANTOPEN and os.path.exists(path) and not os.access(path, os.W_OK):
        code = sqlite3.SQLITE_READONLY
    known = _REASONS.get(code or 0)
    if known is not None:
        return JournalUnavailable(path, *known)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return JournalUnavailable(
        path, f"the disk reports an error ({name}: {error})", 'Look into the log of the kernel ("dmesg") and the disk.'
    )


def leaves_it_usable(error: sqlite3.Error) -> bool:
    """Whether the connection may try the next commit. Not after an error of the disk, and least of all of a sync."""
    return _primary(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
