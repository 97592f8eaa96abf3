"""When commits are handed out, what they vouch for, and what happens while the disk fails."""

import pytest

from mesh.core import ledger as ledger_module
from mesh.core.ledger import (
    LAZY_S,
    LINGER_S,
    NEWS_LINGER_S,
    RETRY_MAX_S,
    RETRY_S,
    WAITING_BYTES_MAX,
)
from mesh.core.records import RowKind
from mesh.core.task import NO_ROW
from mesh.messages import Durability
from tests.core.book import Book
from tests.core.builders import PREFIX, sequences


@pytest.fixture
def book(checked):
    return checked(Book())


def vouched(batches):
    """The sequences of each batch."""
    return [[call[0] for call in batch.calls] for batch in batches]


# --- when ----------------------------------------------------------------------------------------


def test_calls_wait_a_little_for_more(book):
    # Given calls that came one after the other
    book.publishes()
    assert book.ledger.next_deadline_mono_s() == 100.0 + LINGER_S
    assert book.passes(LINGER_S / 2) is None
    book.publishes()
    assert book.ledger.next_deadline_mono_s() == 100.0 + LINGER_S

    # When the first have waited long enough, the others are not due yet
    commit = book.passes(LINGER_S / 2)
    assert vouched(book.commits()) == [[1]]
    assert commit.number == 1

    # Then these wait as long once more, so that commits don't come in quick succession
    assert book.ledger.next_deadline_mono_s() == book.mono_s + LINGER_S
    assert book.passes(LINGER_S / 2) is None
    assert book.passes(LINGER_S / 2).number == 2
    assert vouched(book.commits()) == [[2]]
    assert (book.ledger.next_deadline_mono_s(), book.ledger.is_settled) == (None, True)


def test_where_news_of_many_tasks_wait_the_older_half_is_written_at_once(book, monkeypatch):
    # Given as many news as may wait
    monkeypatch.setattr(ledger_module, "NEWS_MAX", 4)
    tasks = book.publishes(6)
    book.settles()
    for task in tasks[:4]:
        book.ends(task, received=True)
        assert book.passes(0.001) is None

    # When there are more
    book.ends(tasks[4], received=True)
    book.passes(0.0)
    book.commits()

    # Then the older ones are written, and the others wait as long as ever
    assert [task.row == NO_ROW for task in tasks] == [True, True, True, False, False, False]
    assert book.passes(0.001) is None
    book.passes(NEWS_LINGER_S)
    assert [task.row == NO_ROW for task in tasks] == [True, True, True, True, True, False]


def test_what_has_become_of_tasks_waits_longer_than_calls(book):
    (task,) = book.publishes()
    book.settles()
    book.ends(task)
    assert book.ledger.next_deadline_mono_s() == book.mono_s + NEWS_LINGER_S
    assert book.passes(NEWS_LINGER_S * 0.99) is None
    assert book.passes(NEWS_LINGER_S * 0.02) is not None
    book.commits()
    assert LINGER_S < NEWS_LINGER_S < LAZY_S


def test_a_hurry_is_over_with_its_commit(book):
    # Given a commit that was in a hurry
    book.publishes(urgent=True)
    book.passes(0.0)
    book.commits()

    # When calls come that are not, one after the other
    book.publishes()
    book.passes(LINGER_S / 2)
    book.publishes()

    # Then the second waits its own time again
    book.passes(LINGER_S / 2)
    assert vouched(book.commits()) == [[2]]
    book.settles()


def test_somebody_who_waits_for_a_confirm_takes_all_that_waits_along(book):
    # Given calls, and news of a task, that have time
    (task,) = book.publishes()
    book.settles()
    book.publishes(2)
    book.ends(task)

    # When there is a call whose confirm is waited for
    book.publishes(urgent=True)
    assert book.ledger.next_deadline_mono_s() == book.mono_s
    commit = book.passes(0.0)

    # Then all is written at once
    assert sorted(row.kind for row in commit.rows) == [RowKind.TASKS, RowKind.OUTCOMES]
    assert vouched(book.commits()) == [[2, 3], [4]]
    assert book.ledger.is_settled

    # And what comes next has time again
    book.publishes()
    assert book.passes(LINGER_S / 2) is None
    book.settles()


def test_news_that_are_waited_for_are_written_at_once(book):
    tasks = book.publishes(2)
    book.settles()
    book.changes(tasks[0], attempt=1)
    book.changes(tasks[1], attempt=1, urgent=True)
    assert book.ledger.next_deadline_mono_s() == book.mono_s
    commit = book.passes(0.0)
    assert [record[0] for record in commit.rows[0].records] == [task.task_id for task in tasks]
    book.commits()


def test_there_is_nothing_to_take_before_anything_has_happened(book):
    assert book.passes(1000.0) is None
    assert (book.ledger.next_deadline_mono_s(), book.ledger.is_settled, book.ledger.commits) == (None, True, 0)
    book.ledger.hurry()
    assert book.ledger.next_deadline_mono_s() is None


def test_a_router_that_ends_has_everything_written(book):
    # Given calls, and news, that have time
    (task,) = book.publishes()
    book.settles()
    book.publishes()
    book.ends(task)

    # When the router ends
    book.ledger.hurry()

    # Then all is due
    assert book.ledger.next_deadline_mono_s() == 0.0
    commit = book.passes(0.0)
    assert sorted(row.kind for row in commit.rows) == [RowKind.TASKS, RowKind.OUTCOMES]
    book.commits()
    assert book.ledger.is_settled


def test_one_commit_is_under_way_at_a_time(book):
    # Given a commit that has no answer yet
    book.publishes(urgent=True)
    first = book.passes(0.0)
    assert not book.ledger.is_settled

    # When more happens
    book.publishes(urgent=True)
    assert book.passes(0.0) is None
    assert book.ledger.next_deadline_mono_s() is None

    # Then that goes into the next one
    assert vouched(book.commits()) == [[1]]
    assert book.ledger.next_deadline_mono_s() == book.mono_s
    second = book.passes(0.0)
    assert (first.number, second.number) == (1, 2)
    assert vouched(book.commits()) == [[2]]


def test_an_answer_to_another_commit_than_the_one_under_way_is_none(book):
    book.publishes(urgent=True)
    assert book.ledger.committed(1) == ([], False)
    book.passes(0.0)
    assert book.ledger.committed(2) == ([], False)
    book.ledger.failed(2, "no space", book.now)
    assert book.ledger.failing == ""
    assert vouched(book.commits()) == [[1]]
    book.ledger.failed(1, "no space", book.now)
    assert (book.ledger.failing, book.ledger.committed(1)) == ("", ([], False))


# --- how much ------------------------------------------------------------------------------------


def test_a_commit_holds_so_many_calls_and_the_next_follows_at_once(book, monkeypatch):
    # Given more batches than a commit is to hold, of which the second makes it full
    monkeypatch.setattr(ledger_module, "COMMIT_CALLS", 4)
    for count in (2, 2, 1, 1):
        book.publishes(count)

    # When they are written
    book.passes(LINGER_S)

    # Then the first commit ends there, and the second is due when it is done
    assert vouched(book.commits()) == [[1, 2], [3, 4]]
    assert book.ledger.next_deadline_mono_s() == book.mono_s
    book.passes(0.0)
    assert vouched(book.commits()) == [[5], [6]]
    assert book.ledger.is_settled


def test_a_commit_holds_so_many_bytes(book, monkeypatch):
    monkeypatch.setattr(ledger_module, "COMMIT_BYTES", 10)
    for _ in range(3):
        book.publishes(body=b"x" * 5)
    book.passes(LINGER_S)
    assert vouched(book.commits()) == [[1], [2]]
    book.passes(0.0)
    assert vouched(book.commits()) == [[3]]


def test_news_of_a_task_wait_for_its_batch(book, monkeypatch):
    # Given two batches, each a commit of its own, and news of tasks of both
    monkeypatch.setattr(ledger_module, "COMMIT_CALLS", 1)
    (first,) = book.publishes()
    second, _ = book.publishes(2)
    (third,) = book.publishes()
    book.changes(second, attempt=1)
    book.ends(third)
    book.changes(first, attempt=1, urgent=True)

    # When the first is written, then the news wait, as the second is in no row yet
    commit = book.passes(0.0)
    assert [row.kind for row in commit.rows] == [RowKind.TASKS]
    book.commits()
    assert (book.ledger.has(1), book.ledger.has(0)) == (False, True)

    # And so on, until all are told
    assert [row.kind for row in book.passes(0.0).rows] == [RowKind.TASKS, RowKind.CHANGED]
    book.commits()
    assert (book.ledger.has(1), book.ledger.has(2)) == (True, False)
    book.settles()
    assert book.ledger.has(3)
    assert third.row == NO_ROW
    assert book.journal.ids(RowKind.CHANGED) == {second.row: [second.task_id], first.row: [first.task_id]}
    assert book.journal.ids(RowKind.OUTCOMES) == {row_of_outcomes(book): [third.task_id]}


# --- what a commit covers ------------------------------------------------------------------------


def test_the_journal_holds_news_once_their_commit_is_done(book):
    # Given two tasks, and news of the first
    first, second = book.publishes(2)
    book.settles()
    assert (book.ledger.told, book.ledger.holds(0), book.ledger.has(0)) == (0, True, True)
    book.ends(first)
    assert (book.ledger.told, book.ledger.holds(1), book.ledger.has(1)) == (1, False, False)

    # When they are under way, and news of the second come
    book.passes(NEWS_LINGER_S)
    book.ends(second)
    assert (book.ledger.told, book.ledger.holds(1)) == (2, False)
    book.commits()

    # Then the first are held, and the others are not
    assert (book.ledger.holds(1), book.ledger.has(1), book.ledger.holds(2), book.ledger.has(2)) == (
        True,
        True,
        False,
        False,
    )
    book.settles()
    assert book.ledger.has(2)


def test_news_of_which_nothing_is_to_be_written_are_held_without_a_commit(book):
    # Given a task that has ended and is received before its batch is written
    (task,) = book.publishes()
    book.ends(task, received=True)

    # When its batch is taken, and then its news
    book.passes(LINGER_S)
    assert not book.ledger.has(1)
    assert book.passes(NEWS_LINGER_S) is None

    # Then they are as good as written
    assert book.ledger.has(1)
    assert book.journal.commits == []


# --- the disk fails ------------------------------------------------------------------------------


def test_a_commit_that_failed_is_tried_again_the_same_less_and_less_often(book):
    # Given a commit that can't be written
    book.publishes(2, urgent=True)
    first = book.passes(0.0)
    book.fails("no space left")
    assert (book.ledger.failing, book.ledger.refusal) == ("no space left", "no space left")

    # When it goes on failing
    waits = []
    for _ in range(7):
        waits.append(book.ledger.next_deadline_mono_s() - book.mono_s)
        assert book.passes(waits[-1] * 0.99) is None
        assert book.passes(waits[-1] * 0.02) is first
        assert book.ledger.next_deadline_mono_s() is None
        assert book.passes(1000.0) is None  # its answer comes first
        book.fails("read-only")

    # Then it is tried less and less often, and never given up
    assert waits == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0])
    assert (RETRY_S, RETRY_MAX_S) == (0.25, 5.0)
    assert book.ledger.failing == "read-only"

    # And when it is written at last, all is well, and the next failure is waited for as shortly as the first
    book.passes(RETRY_MAX_S)
    assert vouched(book.commits()) == [[1, 2]]
    assert (book.ledger.failing, book.ledger.refusal, book.ledger.is_settled) == ("", "", True)
    book.publishes(urgent=True)
    book.passes(0.0)
    book.fails()
    assert book.ledger.next_deadline_mono_s() == book.mono_s + RETRY_S
    book.passes(RETRY_S)
    book.commits()


def test_a_disk_that_fails_is_not_waited_for_but_what_it_must_hold_is(book):
    # Given news that the disk does not take
    (task,) = book.publishes()
    book.settles()
    book.ends(task)
    book.passes(NEWS_LINGER_S)
    assert not book.ledger.holds(1)
    book.fails()

    # Then outcomes may be receipted; but what is to be on disk before a task goes out is not there
    assert (book.ledger.holds(1), book.ledger.holds(99), book.ledger.has(1)) == (True, True, False)

    # And when it works again, all is as ever
    book.passes(RETRY_S)
    book.commits()
    assert (book.ledger.holds(1), book.ledger.has(1), book.ledger.holds(2)) == (True, True, False)


def test_what_happens_while_the_disk_fails_is_written_when_it_works_again(book):
    # Given a commit that failed, and a task in it that ends and is received meanwhile
    first, second = book.publishes(2, urgent=True)
    book.passes(0.0)
    book.fails()
    book.ends(first, received=True)
    third = book.publishes()[0]
    book.ends(second)

    # When the disk works again
    book.passes(RETRY_S)
    assert vouched(book.commits()) == [[1, 2]]
    book.settles()

    # Then the first is gone, the second has its outcome and the third is there
    assert book.journal.ids(RowKind.OUTCOMES) == {row_of_outcomes(book): [second.task_id]}
    assert book.journal.tasks() == {third.row: [(PREFIX, [3])]}
    assert book.live() == {row_of_outcomes(book): 1, third.row: 1}


def row_of_outcomes(book):
    (row,) = book.journal.rows(RowKind.OUTCOMES)
    return row.number


def test_calls_are_refused_while_too_much_waits_for_a_slow_disk(book):
    # Given a commit under way, and as much behind it as may wait
    assert WAITING_BYTES_MAX == 256 << 20
    book.publishes(urgent=True, body=b"1234")
    book.passes(0.0)
    big = bytes(WAITING_BYTES_MAX - 4)
    (task,) = book.publishes(body=big, as_it_came=False)
    assert book.ledger.refusal == ""

    # When there is one byte more
    book.publishes(body=b"x")

    # Then nothing more is taken, until the disk has caught up
    assert book.ledger.refusal == "the disk is too slow for what comes in"
    assert book.ledger.failing == ""
    book.commits()
    assert book.ledger.refusal == ""
    assert len(task.body) == len(big)
    book.settles()


def test_a_commit_vouches_for_its_level_and_its_batches_in_order(book):
    book.publishes(level=Durability.SYNCED)
    book.publishes(caller=2, count=2)
    book.passes(LINGER_S)
    batches, synced = book.ledger.committed(book.journal.take())
    assert [(batch.caller.pid, batch.level, sequences(batch.tasks)) for batch in batches] == [
        (1, Durability.SYNCED, [1]),
        (2, Durability.JOURNALED, [1, 2]),
    ]
    assert synced
