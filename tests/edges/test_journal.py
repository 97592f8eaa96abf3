"""The journal: commits are taken at once, written by a thread and answered; what was written comes back as it was."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from mesh import codec, journal
from mesh.core.effects import Commit
from mesh.core.records import Row, RowKind
from mesh.exceptions import JournalUnavailable
from mesh.journal import AnyJournal, Committed, Failed, Journal, MemoryJournal
from mesh.journal_store import Store
from mesh.messages import Call, Publish, Received

PATIENCE_S = 30.0
PREFIX = b"12345678"


class Loop:
    """What the router's loop does with a journal: it is woken and takes the answers."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def notify(self) -> None:
        self._woken.set()

    def answers(self, journal: AnyJournal, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            assert self._woken.wait(PATIENCE_S)
            self._woken.clear()
            found += journal.answers()
        return found


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def opened(tmp_path: Path, loop: Loop) -> Iterator[Callable[[], Journal]]:
    """Opens the journal of the test; the one before it is closed."""
    made: list[Journal] = []

    def open_again() -> Journal:
        if made:
            made.pop().close()
        made.append(Journal.open(str(tmp_path / "state"), loop.notify))
        return made[0]

    yield open_again
    made[0].close()


def call(sequence: int, n_frames: int = 0) -> list[Any]:
    return [*Call(sequence, "proj.tasks.add", "celery", 5, 0, b"body", n_frames, {"eta": 1.5})]


def written(opened: Callable[[], Journal], loop: Loop, rows: list[Row]) -> Journal:
    """The journal, reopened after these rows were written to it."""
    first = opened()
    first.append(Commit(1, rows, [], synced=False))
    assert loop.answers(first, 1) == [Committed(1)]
    return opened()


def everything(journal: AnyJournal) -> list[Row]:
    return [*journal.recovered(tasks=False), *journal.recovered(tasks=True)]


@pytest.mark.parametrize(
    ("desc", "kind", "records", "read"),
    [
        (
            "calls as they came over the wire are read as records",
            RowKind.TASKS,
            [[PREFIX, codec.encode(Publish(False, [call(1), call(7)])), []]],
            [[PREFIX, [call(1), call(7)], []]],
        ),
        (
            "with the frames that belong to them, in whatever form the transport has them",
            RowKind.TASKS,
            [[PREFIX, codec.encode(Publish(True, [call(1, 3)])), [b"one", memoryview(b"two"), zmq.Frame(b"three")]]],
            [[PREFIX, [call(1, 3)], [b"one", b"two", b"three"]]],
        ),
        (
            "the message itself may be a frame of the transport",
            RowKind.TASKS,
            [[PREFIX, zmq.Frame(codec.encode(Publish(False, [call(2)]))), []]],
            [[PREFIX, [call(2)], []]],
        ),
        (
            "calls that are records already stay so, with those of other clients in one row",
            RowKind.TASKS,
            [[PREFIX, [call(1), Call(*call(2))], []], [b"87654321", codec.encode(Publish(False, [call(1)])), []]],
            [[PREFIX, [call(1), call(2)], []], [b"87654321", [call(1)], []]],
        ),
        (
            "other kinds are what they were, tuples are lists",
            RowKind.OUTCOMES,
            [[b"id", 0, b"body", [zmq.Frame(b"frame")], 1.5, None, True], ("name", {"key": (1, 2), 3: None})],
            [[b"id", 0, b"body", [b"frame"], 1.5, None, True], ["name", {"key": [1, 2], 3: None}]],
        ),
        ("a row without records", RowKind.NOTES, [], []),
    ],
)
def test_a_row_is_read_as_it_was_written(opened, loop, desc, kind, records, read):
    # Given a row that was written before a restart
    journal = written(opened, loop, [Row(5, kind, records)])

    # Then it is read like that, alone and with all others
    assert journal.fetch(5) == read, desc
    assert everything(journal) == [Row(5, kind, read)], desc


def test_a_row_of_thousands_of_calls_is_read_as_it_was_written(opened, loop):
    calls = [call(sequence) for sequence in range(1, 10 * journal.SLICE + 2)]

    there = written(opened, loop, [Row(1, RowKind.TASKS, [[PREFIX, calls, []]])])

    assert there.fetch(1) == [[PREFIX, calls, []]]


def test_packing_thousands_of_calls_lets_the_loop_run_now_and_then(opened, loop, monkeypatch):
    # Given a count of the moments at which others may run
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    calls = [call(sequence) for sequence in range(1, 10 * journal.SLICE + 1)]

    # When a row of many slices is written
    written(opened, loop, [Row(1, RowKind.TASKS, [[PREFIX, calls, []]])])

    # Then there is one between any two
    assert len(pauses) >= 9


@pytest.mark.parametrize(
    ("desc", "kind", "body"),
    [
        ("no msgpack", RowKind.OUTCOMES, b"\xc1"),
        ("msgpack that ends too early", RowKind.OUTCOMES, b"\x92\x01"),
        ("no list", RowKind.OUTCOMES, b"\x01"),
        ("calls that are no message", RowKind.TASKS, b"\x91\x93\xc4\x01p\xc4\x01m\x90"),
        ("calls without a prefix", RowKind.TASKS, b"\x91\x92\x90\x90"),
        ("another message", RowKind.TASKS, b"\x91\x93\xc4\x01p\xc4\x03" + codec.encode(Received([])) + b"\x90"),
        ("no records", RowKind.TASKS, b"\x91\x01"),
    ],
)
def test_a_row_that_is_not_understood_is_left_out_and_counted(opened, tmp_path, desc, kind, body):
    # Given a row that this release can't read, between two that it can
    store = Store.open(str(tmp_path / "state"))
    store.write([(1, 4, b"\x90"), (2, kind, body), (3, 4, b"\x90")], [], synced=False)
    store.close()

    # When
    journal = opened()
    rows = everything(journal)

    # Then
    assert rows == [Row(1, 4, []), Row(3, 4, [])], desc
    assert journal.skipped == 1, desc
    assert journal.fetch(2) is None, desc


def test_tasks_and_what_became_of_them_are_read_apart(opened, loop):
    # Given rows of both in turns
    rows = [Row(1, 1, []), Row(2, 3, []), Row(3, 1, []), Row(4, 2, []), Row(5, 1, [])]
    there = written(opened, loop, rows)

    # When / Then
    assert list(there.recovered(tasks=False)) == [rows[1], rows[3]]
    assert list(there.recovered(tasks=True)) == [rows[0], rows[2], rows[4]]


def test_a_row_that_is_not_there_is_none(opened):
    assert opened().fetch(77) is None


def test_commits_are_written_and_answered_in_order(opened, loop):
    # When commits are appended faster than any disk
    first = opened()
    for number in range(1, 101):
        removed = [[number - 10, number - 10]] if number > 10 else []
        first.append(Commit(number, [Row(number, RowKind.NOTES, [number])], removed, synced=number % 9 == 0))

    # Then each is answered, and what they say is there
    assert loop.answers(first, 100) == [Committed(number) for number in range(1, 101)]
    assert everything(opened()) == [Row(number, RowKind.NOTES, [number]) for number in range(91, 101)]


def test_what_is_remembered_beside_rows_is_there_after_the_next_commit(opened, loop):
    first = opened()
    first.remember("boot_id", "this one")
    assert first.store.get_meta("boot_id") is None
    first.append(Commit(1, [Row(1, RowKind.NOTES, [1])], [], synced=False))
    assert loop.answers(first, 1) == [Committed(1)]
    assert opened().store.get_meta("boot_id") == "this one"


def test_closing_writes_what_was_appended(opened):
    first = opened()
    for number in range(1, 51):
        first.append(Commit(number, [Row(number, RowKind.NOTES, [bytes(10_000)])], [], synced=False))

    first.close()

    assert first.answers() == [Committed(number) for number in range(1, 51)]
    assert len(everything(opened())) == 50


def test_a_commit_that_the_disk_refuses_is_answered_with_the_reason(opened, loop, monkeypatch):
    # Given a disk that refuses one commit
    first = opened()
    with monkeypatch.context() as failing:
        failing.setattr(first.store, "write", _refuse)

        # When
        first.append(Commit(1, [Row(1, RowKind.NOTES, [])], [], synced=False))

        # Then
        assert loop.answers(first, 1) == [
            Failed(1, "the journal /state/journal.db can't be used: the disk is full. Make room.")
        ]

    # And it may be given again
    first.append(Commit(1, [Row(1, RowKind.NOTES, [])], [], synced=False))
    assert loop.answers(first, 1) == [Committed(1)]


def _refuse(*_: Any, **__: Any) -> None:
    raise JournalUnavailable("/state/journal.db", "the disk is full", "Make room.")


def test_a_commit_that_can_not_be_packed_is_answered_and_ends_nothing(opened, loop, caplog):
    first = opened()
    first.append(Commit(1, [Row(1, RowKind.NOTES, [object()])], [], synced=False))
    first.append(Commit(2, [Row(2, RowKind.NOTES, [])], [], synced=False))

    failed, committed = loop.answers(first, 2)

    assert (failed.number, committed) == (1, Committed(2))
    assert "object" in failed.reason
    assert "a commit can't be written" in caplog.text


def test_a_disk_that_can_not_be_tidied_fails_no_commit_and_is_told_once(opened, loop, monkeypatch, caplog):
    # Given a disk that takes commits and nothing else
    first = opened()
    monkeypatch.setattr(first.store, "tidy", _refuse)

    # When
    for number in (1, 2, 3):
        first.append(Commit(number, [], [], synced=False))

    # Then
    assert loop.answers(first, 3) == [Committed(1), Committed(2), Committed(3)]
    first.close()
    assert [one.action for one in caplog.records] == ["journal_untidy"]


def test_nothing_of_a_commit_is_kept_in_memory_when_it_is_written(opened, loop):
    # Given a commit that was written
    first = opened()
    first.append(Commit(1, [Row(1, RowKind.NOTES, [b"a body that is nowhere else" * 100])], [], synced=False))
    loop.answers(first, 1)

    # Then nobody has it any more, though no other has come
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is Commit and one.rows]


def test_a_journal_in_memory_takes_everything_and_has_nothing(loop):
    memory = MemoryJournal(loop.notify)
    memory.append(Commit(1, [Row(1, RowKind.NOTES, [])], [], synced=True))
    memory.append(Commit(2, [], [[1, 1]], synced=False))

    assert loop.answers(memory, 2) == [Committed(1), Committed(2)]
    assert memory.fetch(1) is None
    assert everything(memory) == []
    memory.close()
