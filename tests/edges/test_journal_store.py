"""The journal's store: what is written is there again, what is damaged is set aside, and space is given back."""

import sqlite3
import stat
import threading
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from mesh import journal_file, journal_store
from mesh.exceptions import JournalUnavailable, NewerJournal
from mesh.journal_file import Found
from mesh.journal_store import Store
from tests.edges import journal_damage as damage
from tests.edges import journal_load as load

ONE = (1, 2, b"one")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


# --- writing and reading -------------------------------------------------------------------------


class Failing:
    """A connection that can do nothing any more, not even undo what it has begun."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.close = db.close

    def execute(self, *_: object) -> sqlite3.Cursor:
        raise sqlite3.OperationalError("database is locked")

    executemany = rollback = execute


def test_a_connection_that_can_not_even_undo_is_replaced(directory, monkeypatch):
    # Given a store whose connection fails at everything
    store = Store.open(str(directory))
    monkeypatch.setattr(store, "_db", Failing(store._db))
    with pytest.raises(JournalUnavailable):
        store.write([ONE], [], synced=False)

    # When it writes again
    store.write([ONE], [], synced=False)

    # Then it does so over a new one
    assert list(store.rows()) == [Found(*ONE)]
    store.close()


def test_rows_are_there_again_in_the_order_of_their_numbers(directory):
    # Given rows of all sizes, not written in order, some of which are removed
    store = Store.open(str(directory))
    store.write([(7, 3, b""), (2, 1, b"\0" * 100_000), (5, 2, memoryview(b"five"))], [], synced=False)
    store.write([(9, 1, b"nine")], [[1, 4], [7, 7], [100, 200]], synced=True)
    store.close()

    # When it is opened again
    store = Store.open(str(directory))

    # Then the others are there
    assert list(store.rows()) == [Found(5, 2, b"five"), Found(9, 1, b"nine")]
    assert (store.damage, store.skipped) == (None, 0)
    store.close()


def test_a_directory_may_have_any_name(tmp_path):
    # Given a directory with characters that mean something in a URI
    directory = str(tmp_path / "j?a#b%41 ü")
    store = Store.open(directory)
    store.write([ONE], [], synced=False)
    store.close()

    # When it is opened again, then the file in it is the one
    store = Store.open(directory)
    assert list(store.rows()) == [Found(*ONE)]
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j?a#b%41 ü"]


def test_a_row_is_read_from_another_thread_while_commits_go_on(directory):
    # Given a row
    store = Store.open(str(directory))
    store.write([ONE], [], synced=False)

    # When another thread reads it, and one that is not there
    found = []
    reader = threading.Thread(target=lambda: found.extend([store.read(1), store.read(2)]))
    reader.start()
    store.write([(3, 1, b"three")], [], synced=False)
    reader.join()

    # Then it has the one, and sees later what was written meanwhile
    assert found == [Found(*ONE), None]
    assert store.read(3) == Found(3, 1, b"three")
    store.close()


def test_a_commit_may_be_repeated_as_it_is(directory):
    store = Store.open(str(directory))
    for _ in range(2):
        store.write([(1, 1, b"one"), (2, 1, b"two")], [[1, 1]], synced=False)

    assert list(store.rows()) == [Found(2, 1, b"two")]
    store.close()


def test_what_is_remembered_beside_rows_is_there_again(directory):
    store = Store.open(str(directory))
    assert store.get_meta("owner") is None
    store.set_meta("owner", "00ff")
    store.set_meta("owner", "abcd")
    store.close()

    store = Store.open(str(directory))
    assert store.get_meta("owner") == "abcd"
    store.close()


def test_nobody_else_can_read_it(directory):
    store = Store.open(str(directory))
    store.write([ONE], [], synced=False)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"journal.db": 0o600, "journal.db-wal": 0o600, "journal.db-shm": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    store.close()


def test_rows_are_read_one_at_a_time(directory):
    # Given rows that are together far larger than what may be in memory
    store = Store.open(str(directory))
    for number in range(1, 65):
        store.write([(number, 1, bytes(1 << 20))], [], synced=False)

    # When all are read
    tracemalloc.start()
    count = sum(1 for _ in store.rows())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Then few of them were in memory at once
    assert count == 64
    assert peak_bytes < 8 << 20
    store.close()


def test_a_row_that_is_too_large_is_refused_with_the_remedy(directory, monkeypatch):
    monkeypatch.setattr(journal_file, "ROW_BYTES_MAX", 10)
    store = Store.open(str(directory))

    with pytest.raises(JournalUnavailable, match=r"a row of 11 bytes is above .* \(10\)\. Pass large data by a file"):
        store.write([(1, 1, bytes(10)), (2, 1, bytes(11))], [], synced=False)

    assert list(store.rows()) == []
    store.close()


def test_a_commit_that_breaks_off_leaves_nothing(directory):
    store = Store.open(str(directory))

    with pytest.raises(sqlite3.Error) as failure:
        store.write([(1, 1, b"one"), (2, 1, b"two")], [["a", "b", "c"]], synced=False)  # type: ignore[list-item]
    assert isinstance(failure.value, sqlite3.ProgrammingError)

    assert list(store.rows()) == []
    store.close()


# --- space ---------------------------------------------------------------------------------------


def test_the_space_of_removed_rows_is_used_again(directory):
    # Given a store that holds the last eight of its rows
    store = Store.open(str(directory))
    for number in range(1, 201):
        store.write([(number, 1, bytes(100_000))], [[number - 8, number - 8]] if number > 8 else [], synced=False)
        store.tidy()

    # Then it is as large as those, and not as all there have been
    assert store.size.file_bytes < 2_000_000
    store.close()


def test_a_file_gets_shorter_after_a_peak_by_bounded_steps(directory, monkeypatch):
    # Given a peak that is over
    monkeypatch.setattr(journal_store, "SPARE_BYTES", 1 << 16)
    monkeypatch.setattr(journal_store, "SHRINK_BYTES", 1 << 18)
    store = Store.open(str(directory))
    store.write([(number, 1, bytes(50_000)) for number in range(1, 101)], [], synced=False)
    peak_bytes = store.size.file_bytes
    store.write([(101, 1, b"the last")], [[1, 100]], synced=False)

    # When it is tidied
    sizes = [peak_bytes]
    while store.tidy():
        sizes.append(store.size.file_bytes)
    store.close()

    # Then the file has become shorter, step by step, and holds what it should
    steps = [before - after for before, after in pairwise(sizes)]
    assert len(steps) > 5
    assert max(steps) <= 1 << 18
    assert (directory / "journal.db").stat().st_size < peak_bytes / 20
    store = Store.open(str(directory))
    assert list(store.rows()) == [Found(101, 1, b"the last")]
    store.close()


def test_the_log_does_not_grow_with_what_is_written(directory, monkeypatch):
    monkeypatch.setattr(journal_store, "FOLD_BYTES", 1 << 20)
    store = Store.open(str(directory))
    for number in range(1, 101):
        store.write([(number, 1, bytes(100_000))], [], synced=False)
        store.tidy()

    assert (directory / "journal.db-wal").stat().st_size < 2 << 20
    store.close()


# --- schema --------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused_and_left_as_it_is(directory, monkeypatch):
    # Given a journal of a later release
    with monkeypatch.context() as later:
        later.setitem(journal_file.MIGRATIONS, 2, lambda db: db.execute("CREATE TABLE more (a)"))
        path = damage.fill(directory)
    before = {one.name: one.read_bytes() for one in directory.iterdir()}

    # When / Then
    with pytest.raises(NewerJournal, match=r"has schema 2, .* up to 1; nothing was changed\. Install the release"):
        Store.open(str(directory))
    assert {one.name: one.read_bytes() for one in directory.iterdir()} == before
    assert list(before) == [path.name]


def test_an_older_schema_is_brought_up_step_by_step(directory, monkeypatch):
    # Given a journal of this release, and a later one that knows two schemas more
    path = damage.fill(directory)
    monkeypatch.setitem(journal_file.MIGRATIONS, 2, lambda db: db.execute("ALTER TABLE row ADD COLUMN note TEXT"))
    monkeypatch.setitem(journal_file.MIGRATIONS, 3, lambda db: db.execute("UPDATE row SET note = 'seen'"))

    # When that one opens it
    store = Store.open(str(directory))
    rows = list(store.rows())
    store.close()

    # Then nothing is lost, and the header tells the schema
    assert rows == damage.rows(1, damage.ROWS)
    monkeypatch.delitem(journal_file.MIGRATIONS, 3)
    with pytest.raises(NewerJournal):
        Store.open(str(directory))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT DISTINCT note FROM row").fetchall() == [("seen",)]
    db.close()


def test_a_migration_that_fails_leaves_the_schema_before_it(directory, monkeypatch):
    # Given a step that fails when half is done
    def fail(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (a)")
        db.execute("nonsense")

    damage.fill(directory)
    with monkeypatch.context() as later:
        later.setitem(journal_file.MIGRATIONS, 2, fail)

        # When / Then
        with pytest.raises(JournalUnavailable, match="nonsense"):
            Store.open(str(directory))

    # And this release can still use it
    store = Store.open(str(directory))
    assert list(store.rows()) == damage.rows(1, damage.ROWS)
    store.close()


# --- damage --------------------------------------------------------------------------------------


def _text(path: Path) -> None:
    path.write_text("this is no database, though it is long enough for one\n" * 2000)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, text TEXT)")
    db.close()


def _page(path: Path) -> None:
    damage.break_page(path)


@pytest.mark.parametrize(
    ("desc", "spoil", "least", "most"),
    [
        ("a header of zeros: all rows are still there", _zeros, damage.ROWS, damage.ROWS),
        ("a broken page: the rows on it are lost", _page, damage.ROWS - 40, damage.ROWS - 1),
        ("half a file: the rows in that half are there", _cut, 50, damage.ROWS - 1),
        ("another program's database", _foreign, 0, 0),
        ("no database at all", _text, 0, 0),
    ],
)
def test_a_damaged_file_is_set_aside_and_what_can_be_read_is_saved(directory, desc, spoil, least, most):
    # Given a journal that something happened to
    path = damage.fill(directory)
    spoil(path)
    damaged = path.read_bytes()

    # When it is opened
    store = Store.open(str(directory))
    rows = list(store.rows())

    # Then what can be read is there, and nothing else
    assert least <= len(rows) <= most, desc
    assert set(rows) <= set(damage.rows(1, damage.ROWS)), desc

    # And the damaged file is where the report says, as it was
    assert store.damage is not None, desc
    assert store.damage.saved == len(rows), desc
    assert store.damage.lost is None, desc
    assert Path(store.damage.set_aside).read_bytes() == damaged, desc
    assert store.damage.set_aside in str(store.damage)

    # And from here on all is well
    store.write([(1000, 1, b"new")], [], synced=True)
    store.close()
    store = Store.open(str(directory))
    assert store.damage is None, desc
    assert list(store.rows()) == [*rows, Found(1000, 1, b"new")], desc
    store.close()


def test_what_is_remembered_beside_rows_is_saved_too(directory):
    _zeros(damage.fill(directory))

    store = Store.open(str(directory))

    assert store.get_meta("owner") == "abcd"
    store.close()


@pytest.mark.parametrize("spoil", [_zeros, _page])
def test_rows_that_are_in_the_log_alone_are_saved_too(directory, spoil):
    spoil(damage.fill_with_a_log(directory))

    store = Store.open(str(directory))

    late = damage.rows(damage.ROWS + 1, damage.ROWS + damage.LATE)
    assert list(store.rows())[-len(late) :] == late
    store.close()


def test_an_empty_file_is_a_new_journal(directory):
    directory.mkdir()
    (directory / "journal.db").touch()

    store = Store.open(str(directory))

    assert store.damage is None
    store.write([ONE], [], synced=False)
    store.close()


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_byte_of_the_header_can_cost_a_row(tmp_path, flip):
    # Given a sound journal
    content = damage.fill(tmp_path / "sound").read_bytes()
    for position in range(100):
        # When one byte of its header is another
        directory = tmp_path / str(position)
        directory.mkdir()
        changed = bytearray(content)
        changed[position] ^= flip
        (directory / "journal.db").write_bytes(changed)

        # Then it is opened with all rows, or refused as the journal of a later release, which it says to be
        try:
            store = Store.open(str(directory))
        except NewerJournal:
            assert 60 <= position < 64
            continue
        assert list(store.rows()) == damage.rows(1, damage.ROWS), position
        store.write([ONE], [], synced=True)
        store.close()


def test_a_flipped_bit_in_a_row_costs_that_row_alone(directory):
    # Given a bit of a body that has changed, which SQLite does not notice
    path = damage.fill(directory)
    content = path.read_bytes()
    at = content.index(b"row 77 row 77") + 9
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])

    # When all rows are read, and that one
    store = Store.open(str(directory))
    rows, row = list(store.rows()), store.read(77)

    # Then that one is left out and counted
    assert rows == [one for one in damage.rows(1, damage.ROWS) if one.number != 77]
    assert row is None
    assert (store.damage, store.skipped) == (None, 1)

    # And its number can be used
    store.write([(77, 1, b"anew")], [], synced=False)
    assert store.read(77) == Found(77, 1, b"anew")
    store.close()


def test_a_row_of_another_kind_or_number_than_was_written_is_left_out(directory):
    path = damage.fill(directory)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE row SET kind = 2 WHERE number = 5")
        db.execute("UPDATE row SET number = 1000 WHERE number = 6")
        db.execute("UPDATE row SET body = 'text' WHERE number = 7")
    db.close()

    store = Store.open(str(directory))

    assert {5, 6, 7, 1000}.isdisjoint(row.number for row in store.rows())
    assert store.skipped == 3
    store.close()


@pytest.mark.parametrize("left", [1, 31, 32, 1000, 9000])
def test_a_log_whose_end_is_torn_gives_the_commits_before_it(tmp_path, left):
    # Given what a killed writer leaves after seven commits
    store = Store.open(str(tmp_path / "a"))
    ends = [0]
    for commit in range(1, 8):
        load.write(store, commit)
        ends.append((tmp_path / "a" / "journal.db-wal").stat().st_size)
    files = {name: (tmp_path / "a" / name).read_bytes() for name in ("journal.db", "journal.db-wal")}
    store.close()

    # When its log ends somewhere in the last commit
    files["journal.db-wal"] = files["journal.db-wal"][: ends[6] + left]
    assert ends[6] + left < ends[7]
    (tmp_path / "b").mkdir()
    for name, content in files.items():
        (tmp_path / "b" / name).write_bytes(content)

    # Then six are there
    store = Store.open(str(tmp_path / "b"))
    assert load.commits_in(store) == 6
    store.close()


def test_a_file_that_is_damaged_while_it_is_in_use_is_saved_at_the_next_commit(directory):
    # Given a store in use, whose file is spoiled behind its back (another's commit makes it look at the file again)
    path = damage.fill(directory)
    store = Store.open(str(directory))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE meta SET value = 'other'")
    lost = damage.break_page(path)
    other.close()

    # When a commit meets the damage
    with pytest.raises(JournalUnavailable, match="malformed"):
        store.write([], [[1, damage.ROWS]], synced=False)

    # Then the next one is written to a new file, with what could be saved
    store.write([(1000, 1, b"new")], [[1, 2]], synced=False)
    assert store.damage is not None
    saved = [row for row in damage.rows(3, damage.ROWS) if row.number not in lost]
    assert list(store.rows()) == [*saved, Found(1000, 1, b"new")]
    store.close()


def test_files_that_are_set_aside_in_the_same_second_have_names_of_their_own(directory, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101T000000Z")
    names = []
    for _ in range(3):
        _zeros(damage.fill(directory))
        store = Store.open(str(directory))
        assert store.damage is not None
        names.append(Path(store.damage.set_aside).name)
        store.close()

    stem = "journal.damaged-20260101T000000Z"
    assert names == [f"{stem}.db", f"{stem}-2.db", f"{stem}-3.db"]
