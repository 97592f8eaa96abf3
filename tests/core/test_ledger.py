"""What is written to the journal, and what never is."""

import pytest

from mesh import ids
from mesh.core.effects import Commit
from mesh.core.ledger import LAZY_S, LINGER_S, NEWS_LINGER_S
from mesh.core.outcomes import Stored
from mesh.core.records import ITEM_BYTES, Row, RowKind, task_record
from mesh.core.task import NO_ROW, Begun
from mesh.messages import Durability, Flag
from mesh.states import Status
from tests.core.book import Book
from tests.core.builders import PREFIX, make_task


@pytest.fixture
def book(checked):
    return checked(Book())


def ended(book):
    """{row: ids} of outcomes."""
    return book.journal.ids(RowKind.OUTCOMES)


def gone(book):
    """{client prefix: ranges} of what notes and callers say is gone."""
    told = [record for row in book.journal.rows(RowKind.NOTES) for record in row.records]
    told += [[record[0], record[3]] for row in book.journal.rows(RowKind.CALLERS) for record in row.records]
    return {prefix: ranges for prefix, ranges in told if ranges}


# --- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_it_came", [True, False], ids=["the message", "the calls"])
def test_a_batch_is_written_as_it_came(book, as_it_came):
    # Given calls that came together
    tasks = book.publishes(3, as_it_came=as_it_came, name="pay", queue="shop", priority=4, options={"eta": 5.0})

    # When they are written
    commit = book.passes(LINGER_S)
    book.commits()

    # Then they are one record of one row: the message itself, where it had nothing else
    (row,) = commit.rows
    ((prefix, calls, frames),) = row.records
    assert (row.number, row.kind, prefix, frames) == (1, RowKind.TASKS, PREFIX, [])
    assert type(calls) is (bytes if as_it_came else list)
    assert book.journal.rows(RowKind.TASKS)[0].records[0][1] == [
        [n, "pay", "shop", 4, Flag.NONE, b"body", 0, {"eta": 5.0}] for n in (1, 2, 3)
    ]
    assert [task.row for task in tasks] == [1, 1, 1]


def test_batches_that_wait_together_are_written_in_one_row_each_as_it_came(book):
    book.publishes(2)
    book.publishes(1, caller=2)
    book.publishes(2)
    book.passes(LINGER_S)
    book.commits()
    other = ids.prefix(b"owner!", 2)
    assert book.journal.tasks() == {1: [(PREFIX, [1, 2]), (other, [1]), (PREFIX, [3, 4])]}
    assert book.ledger.rows.by_number[1].spans == [(PREFIX, 1, 2), (other, 1, 1), (PREFIX, 3, 4)]
    assert (book.live(), book.ledger.rows.by_number[1].written) == ({1: 5}, 5)


def test_frames_are_written_behind_the_calls_that_own_them(book):
    book.publishes(2, frames=(b"a", b"bc"))
    book.passes(LINGER_S)
    book.commits()
    assert book.journal.rows(RowKind.TASKS)[0].records[0][2] == [b"a", b"bc", b"a", b"bc"]
    assert book.ledger.rows.written_bytes == 2 * (len(b"bodyabc") + ITEM_BYTES)


def test_what_is_in_a_commit_is_known_of_its_caller_also_where_sequences_are_missing(book):
    book.publishes(3, gap=4)
    assert not book.caller().durable
    book.passes(LINGER_S)
    assert book.caller().durable.ranges() == [[1, 2], [7, 7]]
    assert book.ledger.rows.by_number[1].spans == [(PREFIX, 1, 2), (PREFIX, 7, 7)]
    book.publishes(2)
    book.commits()
    book.passes(LINGER_S)
    assert book.caller().durable.ranges() == [[1, 2], [7, 9]]
    book.commits()


def test_a_task_that_is_not_as_it_was_published_is_written_anew_and_leaves_its_row(book):
    # Given two tasks that the journal holds
    first, second = book.publishes(2)
    book.settles()

    # When one has been run in vain
    book.changes(first, attempt=1, crashes=1, causes=["signal 9"], options={"eta": 7.0}, retry_reason=b"why")
    book.settles()

    # Then it stands in a row of its own, and the other where it was
    assert [row.records for row in book.journal.rows(RowKind.CHANGED)] == [
        [
            [
                first.task_id,
                "t",
                "q",
                0,
                0,
                b"body",
                [],
                {"eta": 7.0},
                1,
                1,
                0,
                ["signal 9"],
                b"why",
                0,
                *task_record(first)[14:],
            ]
        ]
    ]
    assert (first.row, second.row, book.live()) == (2, 1, {1: 1, 2: 1})
    assert book.journal.kinds() == {1: RowKind.TASKS, 2: RowKind.CHANGED}


def test_a_task_that_changes_twice_before_a_commit_is_written_as_it_is_then(book):
    (task,) = book.publishes()
    book.settles()
    book.changes(task, attempt=1)
    book.changes(task, attempt=2)
    book.settles()
    (row,) = book.journal.rows(RowKind.CHANGED)
    assert {record[8] for record in row.records} == {2}
    assert book.live() == {2: 1}


def test_a_task_that_changes_before_it_was_written_stands_where_it_has_become(book):
    (task, other) = book.publishes(2)
    book.changes(task, attempt=1)
    book.settles()
    assert (book.live(), task.row, other.row) == ({1: 1, 2: 1}, 2, 1)
    assert book.journal.ids(RowKind.CHANGED) == {2: [task.task_id]}


# --- ends ----------------------------------------------------------------------------------------


def test_what_has_ended_and_is_received_before_the_commit_is_never_written(book):
    # Given a call that ends, and whose caller has the outcome, before anything is written
    tasks = book.publishes(2)
    book.ends(*tasks, received=True)

    # When the time of the commit has come, and long after
    commits = [book.passes(seconds) for seconds in (LINGER_S, NEWS_LINGER_S, LAZY_S)]

    # Then one has nothing to write, and at last there is only that their ids were here
    was_here = Row(1, RowKind.NOTES, [[PREFIX, [[1, 2]]]])
    assert commits == [Commit(1, [], [], False), None, Commit(2, [was_here], [], False)]
    book.settles()
    assert book.journal.ever_written() == set()
    assert (book.live(), [task.row for task in tasks]) == ({}, [NO_ROW, NO_ROW])


def test_of_a_batch_only_what_is_still_needed_is_written(book):
    # Given a batch of four, of which one has been received, one has ended and is not received, and two are open
    first, received, unreceived, last = book.publishes(4)
    book.ends(received, received=True)
    book.ends(unreceived, body=b"later")
    stored_wall_s = book.now.wall_s

    # When it is written
    book.passes(LINGER_S)
    book.commits()

    # Then there are the open tasks and the outcome, in the same commit, and nothing of the other
    assert book.journal.tasks() == {1: [(PREFIX, [1, 4])]}
    assert book.journal.rows(RowKind.OUTCOMES)[0].records == [
        [unreceived.task_id, Status.SUCCESS, b"later", [], stored_wall_s, None, False]
    ]
    assert book.journal.ever_written() == {first.task_id, last.task_id, unreceived.task_id}
    assert book.live() == {1: 2, 2: 1}
    book.settles()
    assert gone(book) == {PREFIX: [[2, 2]]}  # that it was here


def test_a_task_leaves_the_journal_only_as_an_outcome_in_the_same_commit(book):
    # Given a task in the journal
    (task,) = book.publishes(body=b"12345678")
    book.settles()

    # When it ends, and its caller does not say that it has the outcome
    book.ends(task, body=b"xyz")
    commit = book.passes(NEWS_LINGER_S)

    # Then one commit writes the outcome and removes the task
    assert [row.kind for row in commit.rows] == [RowKind.OUTCOMES]
    assert commit.removed == [[1, 1]]
    book.commits()
    assert (ended(book), book.live(), task.row) == ({2: [task.task_id]}, {2: 1}, NO_ROW)
    assert book.ledger.rows.written_bytes == 3 + ITEM_BYTES
    assert gone(book) == {}


def test_the_age_of_an_outcome_is_written_by_the_wall_clock(book):
    (task,) = book.publishes()
    book.settles()
    ended_wall_s = book.now.wall_s
    book.ends(task)
    book.passes(7.0)
    book.commits()
    assert book.journal.rows(RowKind.OUTCOMES)[0].records[0][4] == ended_wall_s


def test_what_has_ended_and_is_received_leaves_a_note_and_no_outcome(book):
    # Given three tasks in one row
    first, second, third = book.publishes(3)
    book.settles()

    # When two of them end and are received
    book.ends(first, second, received=True)
    commit = book.passes(NEWS_LINGER_S)
    book.commits()

    # Then the journal is told that they are gone, as a range, and the row stays for the third
    assert [(row.kind, row.records) for row in commit.rows] == [(RowKind.NOTES, [[PREFIX, [[1, 2]]]])]
    assert commit.removed == []
    assert book.live() == {1: 1}
    assert (first.row, second.row, third.row) == (NO_ROW, NO_ROW, 1)


def test_an_outcome_that_is_received_later_is_gone_then_and_there_is_no_hurry(book):
    # Given an outcome that the journal holds, beside another
    first, second = book.publishes(2)
    book.settles()
    book.ends(first, second)
    book.settles()
    assert book.live() == {2: 2}

    # When its caller has it
    book.receives(first)
    assert book.ledger.next_deadline_mono_s() == book.mono_s + LAZY_S
    commit = book.passes(LAZY_S)
    book.commits()

    # Then that is noted
    assert [(row.kind, row.records) for row in commit.rows] == [(RowKind.NOTES, [[PREFIX, [[1, 1]]]])]
    assert (book.live(), commit.removed) == ({2: 1}, [])

    # And when the other one is received, the row goes with it
    book.receives(second)
    commit = book.passes(LAZY_S)
    book.commits()
    assert (book.live(), commit.removed) == ({}, [[2, 2]])
    assert book.ledger.rows.written_bytes == 0


def test_what_becomes_of_tasks_does_not_wait_for_what_only_saves_space(book):
    # Given an outcome that was received late, of which the journal is to hear some time
    first, second = book.publishes(2)
    book.settles()
    book.ends(first)
    book.settles()
    book.receives(first)

    # When a task ends
    book.ends(second)

    # Then that is written as soon as ever
    assert book.ledger.next_deadline_mono_s() == book.mono_s + NEWS_LINGER_S
    assert book.passes(NEWS_LINGER_S * 0.9) is None
    assert book.passes(NEWS_LINGER_S * 0.2) is not None
    book.commits()


def test_an_outcome_that_is_to_be_kept_stays_though_its_caller_has_it(book):
    before, after = book.publishes(2, flags=Flag.KEEP_RESULT)
    book.settles()
    book.ends(before, received=True)
    book.ends(after)
    book.settles()
    book.receives(after)
    assert book.ledger.is_settled
    assert ended(book) == {2: [before.task_id, after.task_id]}
    assert [record[6] for record in book.journal.rows(RowKind.OUTCOMES)[0].records] == [True, True]


def test_a_task_that_was_revived_before_it_was_ever_written_is_not_gone(book):
    # Given a task that ended, was received and is to run again, all before the disk knew of it
    (task,) = book.publishes()
    book.ends(task, received=True)
    again = book.revives(task)

    # When everything is written, what there is no hurry for too
    book.settles()
    book.passes(LAZY_S)
    book.settles()

    # Then the task is there, and nothing says that it is gone
    assert book.journal.ids(RowKind.CHANGED) == {again.row: [task.task_id]}
    assert gone(book) == {}


def test_an_outcome_that_had_to_make_room_is_gone(checked):
    # Given room for one outcome, which the journal holds
    book = checked(Book(results_max_bytes=500))
    first, second = book.publishes(2)
    book.settles()
    book.ends(first)
    book.settles()

    # When there is another
    book.ends(second)
    book.settles()

    # Then only that is left, and the first is not there any more
    assert list(ended(book).values()) == [[second.task_id]]
    assert gone(book) == {PREFIX: [[1, 1]]}


def test_a_task_whose_result_is_ignored_is_gone_when_it_has_ended(book):
    # Given a task that the journal holds and one that it does not hold yet
    (written,) = book.publishes(flags=Flag.IGNORE_RESULT)
    book.settles()
    (unwritten,) = book.publishes(flags=Flag.IGNORE_RESULT)

    # When both end
    book.ends_ignored(written, unwritten)
    book.settles()

    # Then both are gone: the one has no outcome to tell by that it has run, should its call come again
    assert gone(book) == {PREFIX: [[1, 2]]}
    assert (book.live(), book.journal.ever_written()) == ({}, {written.task_id})


def test_an_outcome_of_a_task_that_only_its_slot_knew_is_written_or_gone(book):
    # Given two outcomes of tasks of an earlier router, of which one is received
    known, received = ids.stamp(PREFIX, 8), ids.stamp(PREFIX, 9)
    for task_id in (known, received):
        book.outcomes.put(task_id, stored(book))
        book.ledger.news_of_lost(task_id, book.now)
    book.outcomes.received(received)

    # When they are written
    book.settles()

    # Then the one is there, and of the other that it is gone
    assert (ended(book), gone(book)) == ({1: [known]}, {PREFIX: [[9, 9]]})


def stored(book):
    return Stored(Status.SUCCESS, b"value", (), book.mono_s)


def test_an_outcome_is_written_once_however_often_it_is_told(book):
    (task,) = book.publishes()
    book.settles()
    book.ends(task)
    book.ledger.news_of_lost(task.task_id, book.now)
    book.ledger.news([task], book.now)
    book.settles()
    book.ledger.news_of_lost(task.task_id, book.now)
    book.settles()
    assert (ended(book), book.live()) == ({2: [task.task_id]}, {2: 1})


# --- what is never written -----------------------------------------------------------------------


def test_of_a_transient_task_nothing_is_ever_told(book):
    task = make_task(1, flags=Flag.TRANSIENT)
    book.open[task.task_id] = task
    book.changes(task, attempt=1)
    book.ends(task)
    assert (task.row, book.ledger.told, book.ledger.is_settled) == (NO_ROW, 0, True)


def test_a_task_that_may_run_at_most_once_is_marked_in_the_journal(book):
    (task,) = book.publishes(flags=Flag.EARLY_ACK)
    book.settles()
    book.changes(task, begun=Begun.MAYBE_HERE, urgent=True)
    commit = book.passes(0.0)
    book.commits()
    assert (commit.rows[0].records[0][13], commit.synced) == (1, False)
    assert book.live() == {2: 1}


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "synced"),
    [
        ([Durability.JOURNALED], False),
        ([Durability.SYNCED], True),
        ([Durability.JOURNALED, Durability.SYNCED, Durability.JOURNALED], True),
    ],
)
def test_a_commit_survives_power_loss_where_one_of_its_calls_is_to(book, levels, synced):
    for level in levels:
        book.publishes(level=level)
    commit = book.passes(LINGER_S)
    assert commit.synced is synced
    batches, survives = book.ledger.committed(book.journal.take())
    assert (survives, [batch.level for batch in batches]) == (synced, levels)
    book.changes(book.publishes()[0])
    commit = book.passes(LINGER_S)
    assert commit.synced is False
    book.commits()


@pytest.mark.parametrize(
    ("flags", "begun", "synced"),
    [
        (Flag.EARLY_ACK | Flag.SYNCED, Begun.MAYBE_HERE, True),
        (Flag.EARLY_ACK | Flag.SYNCED, Begun.NO, False),
        (Flag.EARLY_ACK, Begun.MAYBE_HERE, False),
    ],
)
def test_that_a_synced_task_may_have_begun_once_survives_power_loss_too(book, flags, begun, synced):
    (task,) = book.publishes(flags=flags)
    book.settles()
    book.changes(task, begun=begun, urgent=True)
    assert book.passes(0.0).synced is synced
    book.commits()
