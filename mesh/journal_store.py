"""The journal on disk: rows in order, written by whole commits or not at all, and there again after any crash (D12)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from mesh import journal_file as file
from mesh.exceptions import JournalUnavailable
from mesh.journal_salvage import Damage, finish_salvage, salvage
from mesh.messages import Buffer, Ranges

#: The log is folded into the file when it is this long: rows that are gone by then never get there.
FOLD_BYTES: Final = 16 << 20
#: Unused space that is no reason to make the file shorter: the next peak needs it again.
SPARE_BYTES: Final = 16 << 20
#: What a commit adds to the log beside its bodies, about.
_PAGES_OF_A_COMMIT: Final = 3
#: By how much one `tidy` makes the file shorter at most.
SHRINK_BYTES: Final = 4 << 20

_SET_META: Final = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
_DELETE: Final = "DELETE FROM row WHERE number BETWEEN ? AND ?"


class Size(NamedTuple):
    """What the journal takes on disk, without the log."""

    file_bytes: int
    unused_bytes: int  #: of rows that are gone: the next ones go there

    @property
    def is_wasteful(self) -> bool:
        """Whether so much is unused that the file had better be shorter."""
        return self.unused_bytes > SPARE_BYTES and self.unused_bytes * 2 > self.file_bytes


class Store:
    """1. Writes commits. 2. Reads rows. 3. Goes on after errors of the disk, from a new connection where that is due.
    4. Gives space back.

    `write`, `tidy`, `set_meta` and `close` belong to one thread at a time, `read` to another; `rows` to any.
    """

    def __init__(self, path: str, db: sqlite3.Connection, damage: Damage | None) -> None:
        self.path = path
        #: What was wrong with the file that was found, the latest; None where nothing was.
        self.damage = damage
        #: Rows that `rows` left out, as their content is not what was written.
        self.skipped = 0
        self._db = db
        #: As of the last commit. Any thread may look.
        self.size = Size(0, 0)
        #: Whether the connection syncs each transaction; None where that has not been said to it yet.
        self._synced: bool | None = None
        #: About how much of the log is not folded in.
        self._logged_bytes = 0
        #: The connection has seen an error after which it is not to be trusted.
        self._suspect = False
        self._reading = threading.Lock()
        #: Of `read`; made at the first.
        self._reader: sqlite3.Connection | None = None
        self._look_at_size()

    @classmethod
    def open(cls, directory: str) -> Store:
        """The journal of a state directory. Both are made where they are not there; a damaged file is set aside.

        Raises:
            NewerJournal: a later release wrote it.
            JournalUnavailable: the disk does not work.
        """
        path = os.path.join(directory, file.FILE_NAME)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            finish_salvage(path)
            file.create(path)
            db, damage = _open(path)
        except (sqlite3.Error, OSError) as error:
            raise file.unavailable(path, error) from error
        return cls(path, db, damage)

    def close(self) -> None:
        """Folds the log into the file and gives everything back."""
        with self._reading:
            self._close_all()

    # --- reading ---------------------------------------------------------------------------------

    def rows(self, kind: int | None = None, *, others: bool = False) -> Iterator[file.Found]:
        """All rows, or those of one kind, or all `others`: ascending, one at a time.

        What can't be read, or is not what was written, is left out and counted in `skipped`.

        Raises:
            JournalUnavailable: the disk does not work.
        """
        self.skipped = 0
        try:
            with contextlib.closing(file.connect(self.path, read_only=True)) as db:
                walk = file.Walk(db, kind, others=others)
                yield from walk
                self.skipped = len(walk.wrong) + walk.gaps
        except sqlite3.Error as error:
            raise file.unavailable(self.path, error) from error

    def read(self, number: int) -> file.Found | None:
        """One row; None where it is not there, or is not what was written.

        Raises:
            JournalUnavailable: the disk does not work.
        """
        with self._reading:
            try:
                if self._reader is None:
                    self._reader = file.connect(self.path, read_only=True)
                found = file.read_row(self._reader, number)
            except sqlite3.Error as error:
                if self._reader is not None:
                    self._reader.close()
                    self._reader = None
                if file.means_damage(error):
                    return None
                raise file.unavailable(self.path, error) from error
        return found

    def get_meta(self, key: str) -> str | None:
        """What `set_meta` said last; None where it said nothing."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row is not None else None

    # --- writing ---------------------------------------------------------------------------------

    def write(self, rows: Sequence[tuple[int, int, Buffer]], removed: Ranges, *, synced: bool) -> None:
        """Writes rows (number, kind, body) and removes those with numbers in `removed`: all of it or nothing.

        It survives the death of the process from here on; with `synced` the loss of power too, and all before it does.
        A number that is there already is written anew, so that a commit that failed may be repeated as it is.

        Raises:
            JournalUnavailable: the disk did not take it. It may be tried again.
        """
        values = [(number, kind, file.checksum(number, kind, body), body) for number, kind, body in rows]
        for _, _, _, body in values:
            self._refuse_too_large(len(body))
        with self._trusted() as db:
            self._set_level(synced)
            db.execute("BEGIN IMMEDIATE")
            if values:
                db.executemany(file.INSERT, values)
            if removed:
                db.executemany(_DELETE, removed)
            if synced and not values:
                # Only a transaction that changes something is synced, and those before it with it.
                db.execute(_SET_META, ("synced", ""))
            db.execute("COMMIT")
            self._logged_bytes += sum(len(body) for *_, body in values) + _PAGES_OF_A_COMMIT * file.PAGE_BYTES
            self._look_at_size()

    def set_meta(self, key: str, value: str) -> None:
        """Remembers something of the journal as a whole, on disk.

        Raises:
            JournalUnavailable: the disk did not take it.
        """
        with self._trusted() as db:
            self._set_level(True)
            db.execute(_SET_META, (key, value))

    def tidy(self) -> bool:
        """A bounded piece of what a commit's answer need not wait for: folds the log in, makes a file shorter that has
        been far larger. Returns whether there is more to do.

        Raises:
            JournalUnavailable: the disk does not work.
        """
        if self._logged_bytes < FOLD_BYTES and not self.size.is_wasteful:
            return False
        with self._trusted() as db:
            was_wasteful = self.size.is_wasteful
            if was_wasteful:
                self._set_level(False)
                db.execute(f"PRAGMA incremental_vacuum({SHRINK_BYTES // file.PAGE_BYTES})").fetchall()
                self._logged_bytes += SHRINK_BYTES
                self._look_at_size()
            if self._logged_bytes >= FOLD_BYTES or (was_wasteful and not self.size.is_wasteful):
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._logged_bytes = 0
        return self.size.is_wasteful

    def compact(self) -> int:
        """Writes the file anew, as short as can be, without rows that are not what was written. Returns their number.

        It takes as long as there is much, and as much space again meanwhile.

        Raises:
            JournalUnavailable: the disk does not work, or has no room for it; all is as it was.
        """
        with self._trusted() as db:
            walk = file.Walk(db)
            for _ in walk:
                pass
            self._set_level(True)
            db.executemany(_DELETE, [(number, number) for number in walk.wrong])
            db.execute("VACUUM")
            file.fold_log(db)
            self._look_at_size()
        return len(walk.wrong)

    def _look_at_size(self) -> None:
        unused = file.value(self._db, "PRAGMA freelist_count") * file.PAGE_BYTES
        self.size = Size(file.value(self._db, "PRAGMA page_count") * file.PAGE_BYTES, unused)

    def _refuse_too_large(self, row_bytes: int) -> None:
        if row_bytes > file.ROW_BYTES_MAX:
            reason = f"a row of {row_bytes} bytes is above what it can hold ({file.ROW_BYTES_MAX})"
            raise JournalUnavailable(self.path, reason, "Pass large data by a file, and its name to the task.")

    def _set_level(self, synced: bool) -> None:
        if synced is not self._synced:
            self._db.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}").close()
            self._synced = synced

    @contextlib.contextmanager
    def _trusted(self) -> Iterator[sqlite3.Connection]:
        """The connection, a new one after an error that calls for it; what fails in the block is undone and told."""
        try:
            if self._suspect:
                self._renew()
            yield self._db
        except (sqlite3.Error, OSError) as error:
            self._suspect = self._suspect or isinstance(error, OSError) or not file.leaves_it_usable(error)
            self._undo()
            if isinstance(error, sqlite3.ProgrammingError):
                raise
            raise file.unavailable(self.path, error) from error
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        try:
            self._db.rollback()
        except sqlite3.Error:
            self._suspect = True
            self._db.close()

    def _renew(self) -> None:
        """Takes a new connection, and moves what is in the log into the file, on disk, before anything is built on it.

        After a sync that failed the system may take for written what is not, and a second sync would not tell.
        """
        self._synced = None
        try:
            fresh = file.open_checked(self.path)
        except file.Damaged as error:
            with self._reading:  # nobody reads a file that is being set aside
                self._close_all()
                self.damage = salvage(self.path, str(error))
                self._db = file.open_checked(self.path)
        else:
            # The old one goes last: who comes when nobody has the file open would take over what a failed commit left.
            with self._reading:
                self._close_all()
            self._db = fresh
        if not file.fold_log(self._db):
            raise JournalUnavailable(self.path, "another process reads it", f'See "fuser -v {self.path}".')
        self._logged_bytes = 0
        self._suspect = False

    def _close_all(self) -> None:
        """To be called where nobody reads."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def _open(path: str) -> tuple[sqlite3.Connection, Damage | None]:
    try:
        return file.open_checked(path), None
    except file.Damaged as error:
        damage = salvage(path, str(error))
    return file.open_checked(path), damage
