"""Journals that are damaged in known ways."""

import sqlite3
from pathlib import Path

from mesh.journal_file import PAGE_BYTES, Found
from mesh.journal_store import Store

ROWS = 200
#: Rows that are in the log alone.
LATE = 10


def rows(first: int, last: int) -> list[Found]:
    return [Found(number, 1, f"row {number} ".encode() * 40) for number in range(first, last + 1)]


def fill(directory: Path, first: int = 1, last: int = ROWS) -> Path:
    """A closed journal with these rows, some on each of several pages. Returns its file."""
    store = Store.open(str(directory))
    store.write(rows(first, last), [], synced=False)
    store.set_meta("owner", "abcd")
    store.close()
    return directory / "journal.db"


def fill_with_a_log(directory: Path) -> Path:
    """A journal as a killed writer leaves it: the last rows are in the log. Returns its file."""
    path = fill(directory)
    store = Store.open(str(directory))
    store.write(rows(ROWS + 1, ROWS + LATE), [], synced=False)
    left = {name: (directory / name).read_bytes() for name in ("journal.db", "journal.db-wal")}
    store.close()
    for name, content in left.items():
        (directory / name).write_bytes(content)
    return path


def break_page(path: Path) -> list[int]:
    """Makes nonsense of one page in the middle. Returns the numbers of the rows that stood there."""
    numbers = [number for (number,) in _query(path, "SELECT number FROM row ORDER BY number")]
    page = _page_of(path, numbers[len(numbers) // 2])
    lost = [number for number in numbers if _page_of(path, number) == page]
    with open(path, "r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xaa" * 64)
    return lost


def _page_of(path: Path, number: int) -> int:
    """The page that holds a row whose body is found nowhere else."""
    return path.read_bytes().index(rows(number, number)[0].body) // PAGE_BYTES + 1


def _query(path: Path, sql: str) -> list[tuple[int, ...]]:
    db = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()
