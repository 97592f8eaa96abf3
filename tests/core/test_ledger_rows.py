"""How rows are let go, and written anew where little is left of them; and how what is known of callers stays small."""

import pytest

from mesh import ids
from mesh.core import ledger as ledger_module
from mesh.core.ledger import LINGER_S, LOOK_AFTER, NEWS_LINGER_S, SLACK_BYTES
from mesh.core.notes import NOTES_BYTES
from mesh.core.ready import Block
from mesh.core.records import ITEM_BYTES, RowKind
from mesh.core.rows import Facts
from mesh.core.sequences import SequenceSet
from mesh.core.task import NO_ROW, REVIVED
from mesh.messages import Flag
from tests.core.book import Book
from tests.core.builders import PREFIX, make_task

OTHER = ids.prefix(b"owner!", 2)


@pytest.fixture
def book(checked):
    return checked(Book())


@pytest.fixture
def tidy_at_once(monkeypatch):
    """Dead bytes are looked for all the time, and any are too many."""
    monkeypatch.setattr(ledger_module, "LOOK_AFTER", 1)
    monkeypatch.setattr(ledger_module, "SLACK_BYTES", 0)


def removed(book):
    """Every row that was removed, in order."""
    return [one for commit in book.journal.commits for one in commit.removed]


# --- what is known of a row ----------------------------------------------------------------------


def test_a_row_knows_its_ids_as_ranges_and_what_of_it_is_dead():
    # Given a row with ids of two clients
    facts = Facts()
    assert facts.dead_bytes == 0
    facts.add(PREFIX, 1, 1, 10)
    facts.add(PREFIX, 2, 4, 30)
    facts.add(OTHER, 5, 5, 7)
    facts.add(PREFIX, 6, 6, 0)
    facts.add(PREFIX, 8, 8, 0)

    # Then what follows on is joined, of one client only
    assert facts.spans == [(PREFIX, 1, 4), (OTHER, 5, 5), (PREFIX, 6, 6), (PREFIX, 8, 8)]
    assert (facts.live, facts.written, facts.paged) == (7, 7, 0)
    assert (facts.body_bytes, facts.dead_bytes) == (47 + 7 * ITEM_BYTES, 0)

    # And what has left it is dead, on average
    facts.live -= 3
    assert facts.dead_bytes == (47 + 7 * ITEM_BYTES) * 3 // 7


def test_a_row_with_a_block_knows_that_it_is_paged():
    facts = Facts()
    calls = [[n, "t", "q", 0, 0, b"body", 0, None] for n in range(3, 8)]
    facts.add_block(Block(PREFIX, calls, 20))
    assert facts.spans == [(PREFIX, 3, 7)]
    assert (facts.live, facts.written, facts.paged, facts.body_bytes) == (5, 5, 5, 20 + 5 * ITEM_BYTES)


# --- rows that go --------------------------------------------------------------------------------


def test_a_row_goes_when_nothing_stands_in_it_any_more(book):
    # Given two rows, of two tasks and of one
    first, second = book.publishes(2)
    book.settles()
    (third,) = book.publishes()
    book.settles()

    # When one of each ends, then the last
    book.ends(first, third, received=True)
    book.settles()
    assert removed(book) == [[2, 2]]
    book.ends(second, received=True)
    book.settles()

    # Then each row went with its last task, and notes alone are left
    assert removed(book) == [[2, 2], [1, 1]]
    assert book.live() == {}
    assert set(book.journal.kinds().values()) == {RowKind.NOTES}
    assert (book.ledger.rows.written_bytes, book.ledger.rows.dead_bytes) == (0, 0)


def test_rows_that_go_together_are_told_as_a_range(book):
    tasks = []
    for _ in range(3):
        tasks += book.publishes()
        book.settles()
    book.ends(*tasks, received=True)
    book.passes(NEWS_LINGER_S)
    assert book.journal.under_way.removed == [[1, 3]]
    book.commits()


def test_a_row_of_its_own_is_written_and_removed(book):
    # Given something else that is to be written
    first = book.ledger.also(RowKind.DEAD, ["letter"], book.now)
    assert book.ledger.next_deadline_mono_s() == book.mono_s + LINGER_S
    book.settles()
    assert [(row.number, row.records) for row in book.journal.rows(RowKind.DEAD)] == [(first, ["letter"])]

    # When it is needed no more
    book.ledger.remove(first, book.now)
    assert book.ledger.next_deadline_mono_s() == book.mono_s + LINGER_S
    book.settles()

    # Then it is removed; and one that was not written yet never is
    assert (removed(book), book.journal.rows(RowKind.DEAD)) == ([[first, first]], [])
    never = book.ledger.also(RowKind.DEAD, ["never"], book.now)
    book.ledger.remove(never, book.now)
    book.settles()
    assert (removed(book), len(book.journal.commits)) == ([[first, first]], 2)
    assert never == first + 1


# --- rows that are written anew ------------------------------------------------------------------


def test_what_is_left_of_a_row_moves_where_most_of_it_is_dead(book, tidy_at_once):
    # Given a row of which one in three is left, and one of which two in three are
    thin, full = book.publishes(3, body=b"x" * 36), None
    book.settles()
    full = book.publishes(3)
    book.settles()
    book.ends(thin[0], thin[2], full[0], received=True)

    # When much is dead
    assert book.ledger.rows.dead_bytes == 0
    book.settles()

    # Then what is left of the first is in a row of its own, as it was, and the second stays
    assert book.journal.tasks() == {2: [(PREFIX, [4, 5, 6])]}
    ((number, kept),) = book.journal.ids(RowKind.CHANGED).items()
    assert (kept, thin[1].row, full[1].row, full[2].row) == ([thin[1].task_id], number, 2, 2)
    assert book.live() == {2: 2, number: 1}
    assert book.ledger.rows.written_bytes == 3 * (4 + ITEM_BYTES) + 36 + ITEM_BYTES
    assert book.ledger.rows.dead_bytes == 4 + ITEM_BYTES
    (record,) = book.journal.rows(RowKind.CHANGED)[0].records
    assert record[:9] == [thin[1].task_id, "t", "q", 0, Flag.NONE, b"x" * 36, [], None, 0]


def test_outcomes_that_are_left_move_too_and_keep_their_time(book, tidy_at_once):
    # Given a row of three outcomes
    tasks = book.publishes(3)
    book.settles()
    ended_wall_s = book.now.wall_s
    book.ends(*tasks)
    book.settles()

    # When the callers have all but the last
    book.passes(5.0)
    book.receives(tasks[0], tasks[1])
    book.settles()

    # Then that is in a row of its own
    ((number, kept),) = book.journal.ids(RowKind.OUTCOMES).items()
    assert (kept, book.live()) == ([tasks[2].task_id], {number: 1})
    assert number > 2
    assert book.journal.rows(RowKind.OUTCOMES)[0].records[0][4] == pytest.approx(ended_wall_s)


def test_a_row_of_which_half_is_left_is_moved_and_one_with_more_is_not(book, tidy_at_once):
    # Given rows of which half is left, more than half, and little
    rows = []
    for count in (2, 5, 10):
        rows.append(book.publishes(count))
        book.settles()
    half, more, little = rows

    # When the rest has ended
    book.ends(half[0], *more[:2], *little[:9], received=True)
    book.settles()

    # Then the first and the last have moved
    assert half[1].row == little[9].row > 3
    assert {task.row for task in more[2:]} == {2}


def test_nothing_moves_before_enough_is_dead(book, monkeypatch):
    # Given rows of ten, and a bound: so much slack, and half of what is there
    monkeypatch.setattr(ledger_module, "LOOK_AFTER", 1)
    size = 4 + ITEM_BYTES
    tasks = book.publishes(10)
    book.settles()
    monkeypatch.setattr(ledger_module, "SLACK_BYTES", size)
    assert book.ledger.rows.written_bytes == 10 * size

    # When six are dead, which is just as much
    book.ends(*tasks[:6], received=True)
    book.settles()
    book.ends(tasks[6], received=True)
    assert book.ledger.rows.dead_bytes == 6 * size
    assert {task.row for task in tasks[6:]} == {1}

    # Then it takes one more
    book.settles()
    (other,) = book.publishes()
    book.settles()
    assert {task.row for task in tasks[7:]} != {1}
    assert other.row != tasks[7].row


def test_it_is_looked_for_dead_bytes_after_so_many_ids_have_left(book, monkeypatch):
    # Given a bound of four
    assert (LOOK_AFTER, SLACK_BYTES) == (1 << 14, 16 << 20)
    monkeypatch.setattr(ledger_module, "LOOK_AFTER", 4)
    monkeypatch.setattr(ledger_module, "SLACK_BYTES", 0)
    tasks = book.publishes(6)
    book.settles()

    # When three have left, and then a fourth
    book.ends(*tasks[:3], received=True)
    book.settles()
    book.publishes(urgent=True)
    book.settles()
    assert {task.row for task in tasks[3:]} == {1}
    book.ends(tasks[3], received=True)
    book.settles()

    # Then what is left has moved
    assert 1 not in book.live()


def test_rows_are_moved_a_part_at_a_time(book, tidy_at_once, monkeypatch):
    # Given three rows of which little is left, and commits that move a few bytes each
    monkeypatch.setattr(ledger_module, "MOVE_BYTES", 4)
    rows = []
    for _ in range(3):
        rows.append(book.publishes(3))
        book.settles()
    for tasks in rows:
        book.ends(*tasks[:2], received=True)

    # When they are moved
    book.passes(NEWS_LINGER_S)
    book.commits()
    moved = [[tasks[2].row > 3 for tasks in rows]]
    while not book.ledger.is_settled:
        assert book.ledger.next_deadline_mono_s() <= book.mono_s + LINGER_S
        if book.passes(LINGER_S) is not None and book.journal.under_way is not None:
            book.commits()
            moved.append([tasks[2].row > 3 for tasks in rows])

    # Then each commit moves the next, the oldest first
    assert moved[:3] == [[True, False, False], [True, True, False], [True, True, True]]
    assert len(book.live()) == 3


def test_a_row_is_not_moved_into_itself(book, tidy_at_once):
    # Given tasks that change again and again before they are written
    tasks = book.publishes(2)
    for attempt in range(5):
        book.changes(*tasks, attempt=attempt)

    # When they are written
    book.settles()

    # Then they stand in one row
    assert len(set(book.live())) == 1
    assert sum(book.live().values()) == 2


def test_a_row_with_a_block_is_not_moved(book, tidy_at_once):
    # Given a row with a block and a task beside it
    block = book.publishes_block(3, urgent=False)
    tasks = book.publishes(9)
    book.settles()
    assert (block.row, block.calls) == (1, None)

    # When the tasks end
    book.ends(*tasks, received=True)
    book.settles()

    # Then the block stays where it can be read again
    assert (book.live(), book.ledger.rows.by_number[1].paged) == ({1: 3}, 3)


# --- blocks --------------------------------------------------------------------------------------


def test_a_block_is_dropped_from_memory_when_the_journal_holds_it(book):
    block = book.publishes_block(3)
    book.passes(0.0)
    assert block.calls is not None
    (batch,) = book.commits()
    assert (block.calls, block.row, batch.block) == (None, 1, block)
    assert book.journal.tasks() == {1: [(PREFIX, [1, 2, 3])]}
    assert book.caller().durable.ranges() == [[1, 3]]


def unfold(book, block):
    tasks = [make_task(sequence) for sequence in range(block.first, block.last + 1)]
    book.ledger.rows.unfolded(block, tasks)
    block.tasks, block.calls = tasks, None
    book.open.update({task.task_id: task for task in tasks})
    return tasks


def test_a_block_that_has_become_tasks_stands_where_it_stood(book):
    # Given a block in the journal
    block = book.publishes_block(3)
    book.settles()

    # When it is tasks, and one of them ends
    first, *others = unfold(book, block)
    assert {task.row for task in (first, *others)} == {1}
    assert (book.live(), book.ledger.rows.by_number[1].paged) == ({1: 3}, 0)
    book.ends(first)
    book.settles()

    # Then only that has left the row
    assert book.live() == {1: 2, 2: 1}


def test_a_block_that_has_become_tasks_before_its_commit_is_written_as_tasks(book):
    # Given a block that is needed at once, and of which one task has ended by the time it is written
    block = book.publishes_block(3)
    tasks = unfold(book, block)
    assert [task.row for task in tasks] == [0, 0, 0]
    book.ends(tasks[1], received=True)

    # When it is written
    book.passes(0.0)
    (batch,) = book.commits()

    # Then its tasks are
    assert (batch.block, batch.tasks) == (None, tasks)
    assert book.journal.tasks() == {1: [(PREFIX, [1, 3])]}
    assert (book.live(), book.ledger.rows.by_number[1].paged) == ({1: 2}, 0)


def test_a_block_that_becomes_tasks_while_its_commit_is_under_way_is_one_no_more(book):
    block = book.publishes_block(3)
    book.passes(0.0)
    tasks = unfold(book, block)
    book.commits()
    assert ([task.row for task in tasks], block.tasks is tasks) == ([1, 1, 1], True)
    assert book.ledger.rows.by_number[1].paged == 0


# --- callers -------------------------------------------------------------------------------------


def test_many_notes_are_replaced_by_what_is_known_of_all_callers(book, monkeypatch):
    # Given a bound for notes, and two callers with tasks that stay, and others that come and go
    assert NOTES_BYTES == 1 << 18
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", 3 * (11 + 8))
    first, *_ = book.publishes(3)
    book.publishes(2, caller=2)
    book.settles()
    rows = []
    for number in range(4):
        tasks = book.publishes(2)
        book.settles()
        rows.append(tasks[1].row)
        book.ends(tasks[0] if number else first, received=True)
        book.settles()

    # Then each note says a little, until there are too many
    notes = [row.records for row in book.journal.rows(RowKind.NOTES)]
    assert notes == [[[PREFIX, [[1, 1]]]], [[PREFIX, [[6, 6]]]], [[PREFIX, [[8, 8]]]], [[PREFIX, [[10, 10]]]]]

    # When there is one more
    last = book.publishes(2)
    book.settles()
    book.ends(last[0], received=True)
    book.settles()

    # Then one row says all: what is known of every caller, and what is gone of that which rows still mention
    assert book.journal.rows(RowKind.NOTES) == []
    (row,) = book.journal.rows(RowKind.CALLERS)
    assert row.records == [
        [PREFIX, 1, [[1, 13]], [[1, 1], [6, 6], [8, 8], [10, 10], [12, 12]]],
        [OTHER, 2, [[1, 2]], []],
    ]

    # And notes begin anew after it
    book.ends(last[1], received=True)
    book.settles()
    assert [row.records for row in book.journal.rows(RowKind.NOTES)] == [[[PREFIX, [[13, 13]]]]]
    assert len(book.journal.rows(RowKind.CALLERS)) == 1


def test_notes_may_take_as_much_as_the_callers_twice(book, monkeypatch):
    # Given callers who take 32 bytes each and 8 a range, and no slack
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", -1)
    (stays, first) = book.publishes(2)
    book.settles()
    book.ends(first, received=True)
    book.settles()
    assert book.journal.rows(RowKind.CALLERS)[0].records == [[PREFIX, 1, [[1, 2]], [[2, 2]]]]

    # When notes come, of 19 bytes each, then they are too many once there are six: five are 95 bytes, below 2 × 48
    kinds = []
    for _ in range(8):
        _, task = book.publishes(2)
        book.settles()
        book.ends(task, received=True)
        book.settles()
        kinds.append(RowKind(book.journal.commits[-1].rows[-1][1]))
    assert kinds == [*[RowKind.NOTES] * 6, RowKind.CALLERS, RowKind.NOTES]
    assert stays.row == 1


def test_what_is_gone_of_a_caller_that_is_forgotten_stays_known_while_a_row_mentions_it(book, monkeypatch):
    # Given a caller with a task that is gone beside one that stays, and the caller itself is forgotten
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", 0)
    gone, _stays = book.publishes(2, caller=2)
    book.settles()
    book.ends(gone, received=True)
    book.settles()
    del book.callers[OTHER]

    # When the callers are written anew
    first, _ = book.publishes(2)
    book.settles()
    book.ends(first, received=True)
    book.settles()

    # Then it is still told that the task is gone
    (row,) = book.journal.rows(RowKind.CALLERS)
    assert row.records == [[PREFIX, 1, [[1, 2]], [[1, 1]]], [OTHER, 0, [], [[1, 1]]]]


def test_what_was_said_wrongly_is_put_right_once(book):
    # Given a task that was revived, so that notes had to be written anew
    task, other = book.publishes(2)
    book.settles()
    book.ends(task, received=True)
    book.settles()
    book.revives(task)
    book.settles()
    assert len(book.journal.rows(RowKind.CALLERS)) == 1

    # When another task goes, then that is a note as ever
    book.ends(other, received=True)
    book.settles()
    assert [row.records for row in book.journal.rows(RowKind.NOTES)] == [[[PREFIX, [[2, 2]]]]]


def test_what_is_gone_and_no_row_mentions_is_forgotten(book, monkeypatch):
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", 0)
    for _ in range(3):
        tasks = book.publishes(3)
        book.settles()
        book.ends(*tasks, received=True)
        book.settles()
    (row,) = book.journal.rows(RowKind.CALLERS)
    assert [record[3] for record in row.records] == [[]]


# --- revivals ------------------------------------------------------------------------------------


def test_a_task_that_is_revived_takes_the_place_of_its_dead_letter_in_one_commit(book):
    # Given a task that has ended and is a dead letter, beside one that stays
    task, other = book.publishes(2)
    book.settles()
    book.ends(task, received=True)
    book.settles()
    assert [row.records for row in book.journal.rows(RowKind.NOTES)] == [[[PREFIX, [[1, 1]]]]]
    letter = book.ledger.also(RowKind.DEAD, ["letter"], book.now)
    book.settles()

    # When it is to run after all
    again = make_task(1)
    again.row = NO_ROW
    book.outcomes.forget(task.task_id)
    book.ledger.revived(again, letter, book.now)
    book.open[again.task_id] = again
    assert again.row == REVIVED
    book.passes(NEWS_LINGER_S)
    commit = book.journal.under_way
    book.commits()

    # Then one commit writes it, removes the letter, and says anew what is gone: it is not any more
    assert [letter, letter] in commit.removed or any(one[0] <= letter <= one[1] for one in commit.removed)
    assert book.journal.rows(RowKind.DEAD) == book.journal.rows(RowKind.NOTES) == []
    assert book.journal.ids(RowKind.CHANGED) == {again.row: [again.task_id]}
    assert [record[3] for record in book.journal.rows(RowKind.CALLERS)[0].records] == [[]]
    assert other.row == 1
    book.settles()


def test_a_task_that_was_revived_and_has_ended_again_is_gone(book):
    task, _ = book.publishes(2)
    book.settles()
    book.ends(task, received=True)
    book.settles()
    letter = book.ledger.also(RowKind.DEAD, ["letter"], book.now)
    book.settles()
    again = make_task(1)
    again.row = NO_ROW
    book.outcomes.forget(task.task_id)
    book.ledger.revived(again, letter, book.now)
    book.open[again.task_id] = again
    book.ends(again, received=True)
    book.settles()
    assert (book.journal.rows(RowKind.DEAD), again.row) == ([], NO_ROW)
    told = [record[3] for row in book.journal.rows(RowKind.CALLERS) for record in row.records]
    told += [record[1] for row in book.journal.rows(RowKind.NOTES) for record in row.records]
    assert [[1, 1]] in told


# --- recovery ------------------------------------------------------------------------------------


def test_numbers_go_on_behind_all_that_was_read(book):
    # Given rows that a router which starts has read
    facts = Facts()
    facts.add(PREFIX, 1, 3, 12)
    facts.live = 1
    book.open[ids.stamp(PREFIX, 2)] = task = make_task(2)
    task.row = 4
    book.ledger.recovered_row(4, facts)
    book.ledger.recovered_note(9, {PREFIX: SequenceSet([[1, 1], [3, 3]])})
    book.ledger.recovered_other(7)
    book.ledger.recovered_row(2, empty())

    # When it writes the next
    assert book.ledger.next_deadline_mono_s() == 0.0
    assert book.ledger.rows.written_bytes == 12 + 3 * ITEM_BYTES
    book.publishes(urgent=True)
    commit = book.passes(0.0)

    # Then that has the next number, and the row in which nothing stands goes
    assert ([row.number for row in commit.rows], commit.removed) == ([10], [[2, 2]])
    book.commits()
    assert book.live() == {4: 1, 10: 1}


def empty():
    facts = Facts()
    facts.add(PREFIX, 9, 9, 0)
    facts.live = 0
    return facts


@pytest.mark.parametrize(("read", "expected"), [("row", 10), ("note", 10), ("other", 10)])
def test_the_highest_number_counts_in_whatever_order_rows_are_read(book, read, expected):
    book.ledger.recovered_other(3)
    match read:
        case "row":
            book.ledger.recovered_row(9, empty())
        case "note":
            book.ledger.recovered_note(9, {})
        case _:
            book.ledger.recovered_other(9)
    book.ledger.recovered_other(8)
    book.ledger.recovered_note(8, {})
    book.ledger.recovered_row(8, empty())
    assert book.ledger.rows.new_row() == expected
    book.settles()


def test_notes_that_were_read_go_when_all_callers_are_written(book, monkeypatch):
    # Given notes that a router which starts has read, in whatever order
    book.caller()
    book.ledger.recovered_note(4, {})
    book.ledger.recovered_note(2, {PREFIX: SequenceSet([[7, 9]])})

    # When what is known of all callers is written
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", -1)
    first, _ = book.publishes(2)
    book.settles()
    book.ends(first, received=True)
    commit = book.passes(NEWS_LINGER_S)
    book.commits()

    # Then the notes go in the same commit, and what they said is not needed: no row mentions it
    assert [(row.kind, row.records) for row in commit.rows] == [(RowKind.CALLERS, [[PREFIX, 1, [[1, 2]], [[1, 1]]]])]
    assert commit.removed == [[2, 2], [4, 4]]


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda book: setattr(book.ledger, "_waiting_bytes", 1), id="the bytes that wait"),
        pytest.param(lambda book: setattr(book.ledger.rows, "written_bytes", 1), id="the bytes that are there"),
        pytest.param(lambda book: setattr(book.ledger.rows.by_number[1], "live", 3), id="more than were written"),
        pytest.param(lambda book: setattr(book.ledger.rows.by_number[1], "live", 1), id="fewer than stand there"),
        pytest.param(lambda book: setattr(book.ledger.rows.by_number[1], "live", 0), id="none"),
        pytest.param(lambda book: setattr(book.ledger.rows.by_number[1], "paged", 1), id="one in a block"),
        pytest.param(lambda book: book.ledger.rows.of_outcomes.update({b"x": 1}), id="an outcome too many"),
        pytest.param(lambda book: book.open.clear(), id="tasks that are lost"),
        pytest.param(lambda book: book.ledger._vouched.append(book.ledger._batches), id="a batch under way"),
    ],
)
def test_the_check_finds_damage(damage):
    book = Book()
    book.publishes(2)
    book.settles()
    book.check()
    damage(book)
    with pytest.raises((AssertionError, AttributeError)):
        book.check()
