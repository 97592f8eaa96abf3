"""Saves what can be read of a damaged journal into a new one, and sets the damaged file aside.

The new file is complete before the damaged one loses its name, so a crash at any point leaves one of the two in place.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import Final, NamedTuple

from mesh import journal_file as file

#: Where the header of a file has what only its own content can say.
_FORMATS: Final = slice(18, 20)
_CHANGES: Final = slice(24, 28)
_PAGES_AND_FREE_LIST: Final = slice(28, 40)
_CHANGES_COUNTED: Final = slice(92, 96)


class Damage(NamedTuple):
    """What became of a damaged journal."""

    reason: str
    set_aside: str  #: where the damaged file is now
    saved: int  #: rows that are in the new file
    lost: int | None  #: rows that are not; None where nobody can know

    def __str__(self) -> str:
        lost = "nobody can know how many are lost" if self.lost is None else f"{self.lost} are lost"
        return (
            f"the journal was damaged ({self.reason}): {self.saved} of its rows, which hold a call or many, "
            f"were saved and are in use, {lost}. "
            f"The damaged file is now {self.set_aside}; remove it when nothing in it is of use to you."
        )


def salvage(path: str, reason: str) -> Damage:
    """Replaces the damaged file at `path`, which nobody may have open.

    Raises:
        sqlite3.Error, OSError: the disk does not work; the damaged file is where it was.
    """
    rescued = _rescued(path)
    _remove(rescued)
    file.create(rescued)
    with contextlib.closing(file.open_checked(rescued, log=False)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN IMMEDIATE")
        lost = _save(path, db)
        if lost is None:
            _save_below_a_new_header(path, rescued, db)
        saved = file.value(db, "SELECT count(*) FROM row")
        db.execute("COMMIT")
    set_aside = _free_name(path)
    os.rename(path, set_aside)
    _put_in_place(path, set_aside)
    return Damage(reason, set_aside, saved, lost)


def finish_salvage(path: str) -> None:
    """Ends what a crash may have interrupted when the damaged file had already lost its name."""
    if os.path.exists(_rescued(path)) and not os.path.exists(path):
        _put_in_place(path, _free_name(path))


def _put_in_place(path: str, set_aside: str) -> None:
    # The log of the damaged file must never meet the new one.
    with contextlib.suppress(FileNotFoundError):
        os.rename(f"{path}-wal", f"{set_aside}-wal")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}-shm")
    os.rename(_rescued(path), path)
    file.sync_directory(os.path.dirname(path))


def _rescued(path: str) -> str:
    return f"{path.removesuffix('.db')}.rescued.db"


def _free_name(path: str) -> str:
    stem = f"{path.removesuffix('.db')}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (f"{stem}.db", *(f"{stem}-{n}.db" for n in range(2, 1000)))
    return next(name for name in names if not os.path.exists(name) and not os.path.exists(f"{name}-wal"))


def _remove(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _save(path: str, into: sqlite3.Connection) -> int | None:
    """Copies what is right. Returns how many rows are not; None where it could not see all of them."""
    try:
        with contextlib.closing(file.connect(path, read_only=True)) as db:
            # Also reads what is shorter than its header says.
            db.execute("PRAGMA writable_schema=ON")
            with contextlib.suppress(sqlite3.DatabaseError):
                into.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", db.execute("SELECT key, value FROM meta"))
            walk = file.Walk(db)
            into.executemany(
                file.INSERT,
                ((row.number, row.kind, file.checksum(*row), row.body) for row in walk),
            )
            return None if walk.gaps else len(walk.wrong)
    except sqlite3.DatabaseError as error:
        if not file.means_damage(error) and not _is_schema_gone(error):
            raise
        return None


def _is_schema_gone(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _save_below_a_new_header(path: str, rescued: str, into: sqlite3.Connection) -> None:
    """The first page holds only header and schema: with those of an empty journal the rest may be readable."""
    import shutil  # brings much along, which hardly a router needs

    copy = f"{rescued}.copy"
    _remove(copy)
    try:
        shutil.copyfile(path, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        with open(rescued, "rb") as made, open(copy, "r+b") as patched:
            patched.write(_first_page(made.read(file.PAGE_BYTES)))
        _save(copy, into)
    finally:
        _remove(copy)


def _first_page(of_empty: bytes) -> bytes:
    page = bytearray(of_empty)
    page[_FORMATS] = b"\2\2"  # it has a log
    page[_CHANGES] = b"\0\0\0\1"
    page[_PAGES_AND_FREE_LIST] = bytes(12)
    page[_CHANGES_COUNTED] = bytes(4)  # not those above: the number of pages is that of the file's size
    return bytes(page)
