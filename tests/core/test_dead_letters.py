"""What is kept of tasks that were given up: within bounds, to be found, and to be run again."""

import pytest

from mesh.core.dead_letters import ENTRY_BYTES, REPLAYED, Chosen, DeadLetter, DeadLetters, letter_record, replayed
from mesh.core.dispatch import CRASHED, DAMAGED, MAY_HAVE_RUN, NODE_LOST
from mesh.core.task import MAX_CAUSES, NO_ROW, Begun
from mesh.messages import Flag, Unrunnable
from mesh.states import Phase
from tests.core.builders import make_task, sequences


@pytest.fixture
def gone():
    """The sequences of what is kept no longer."""
    return []


@pytest.fixture
def make(checked, gone):
    def make(max_letters=100, max_bytes=1 << 20):
        return checked(DeadLetters(max_letters, max_bytes, lambda letter: gone.extend(sequences([letter.task]))))

    return make


@pytest.fixture
def letters(make):
    return make()


def letter(sequence, cause=CRASHED, reason="signal 9", died_wall_s=0.0, row=0, **fields):
    return DeadLetter(make_task(sequence, **fields), cause, reason, died_wall_s, row)


def kept(letters, **chosen):
    return sequences(one.task for one in letters.select(Chosen(**chosen)))


# --- bounds --------------------------------------------------------------------------------------


def test_the_oldest_goes_where_there_are_too_many(make, gone):
    letters = make(max_letters=2)
    for sequence in (1, 2, 3):
        letters.add(letter(sequence))
    assert (kept(letters), gone, letters.crowded_out, len(letters)) == ([2, 3], [1], 1, 2)


def test_as_many_of_the_oldest_go_as_take_the_room_of_one_that_is_large(make, gone):
    # Given room for three small ones
    letters = make(max_bytes=3 * (ENTRY_BYTES + 100))
    for sequence in (1, 2, 3):
        letters.add(letter(sequence, body=b"x" * 100))
    assert gone == []

    # When one comes that takes as much as two
    letters.add(letter(4, body=b"x" * 100, frames=(b"y" * (ENTRY_BYTES + 100),)))

    # Then the two oldest make room
    assert (kept(letters), gone, letters.crowded_out) == ([3, 4], [1, 2], 2)


@pytest.mark.parametrize(
    ("bounds", "body"),
    [
        pytest.param({"max_bytes": 2 * ENTRY_BYTES}, b"x" * 2 * ENTRY_BYTES, id="larger than all room there is"),
        pytest.param({"max_letters": 0}, b"", id="none may be kept"),
    ],
)
def test_what_can_not_be_kept_drives_nothing_out(make, gone, bounds, body):
    letters = make(**bounds)
    letters.add(letter(1, body=b""))
    before = kept(letters)
    letters.add(letter(2, body=body))
    assert kept(letters) == before
    assert gone[-1] == 2
    assert letters.crowded_out == len(gone)


def test_a_task_that_dies_again_is_kept_once_as_the_latest(letters, gone):
    letters.add(letter(1, reason="first"))
    letters.add(letter(2))
    letters.add(letter(1, reason="second"))
    assert [(one.task.task_id[-1], one.reason) for one in letters.select(Chosen())] == [(2, "signal 9"), (1, "second")]
    assert (gone, letters.crowded_out) == ([1], 0)


def test_what_is_taken_is_gone_and_what_is_not_there_is_left_out(letters, gone):
    for sequence in (1, 2):
        letters.add(letter(sequence))
    one, other, unknown = (make_task(sequence).task_id for sequence in (1, 2, 9))
    assert sequences(taken.task for taken in letters.take([one, unknown])) == [1]
    assert (kept(letters), gone, letters.take([one])) == ([2], [1], [])
    letters.take([other])
    assert letters.kept_bytes == 0


# --- which are meant -----------------------------------------------------------------------------

MEANT = [
    pytest.param({}, [1, 2, 3], id="all"),
    pytest.param({"ids": frozenset()}, [], id="none named"),
    pytest.param({"ids": frozenset([make_task(2).task_id])}, [2], id="an id"),
    pytest.param({"ids": frozenset(["order-3", b"?" * 16])}, [3], id="an id of the caller's, and an unknown one"),
    pytest.param({"name": "mail"}, [1, 2], id="a task"),
    pytest.param({"name": "mai"}, [], id="a part of a name is no name"),
    pytest.param({"cause": "crashed"}, [1, 2], id="a word"),
    pytest.param({"cause": "Unknown Task"}, [3], id="a word in other letters"),
    pytest.param({"cause": "out of memory"}, [2], id="a part of the reason"),
    pytest.param({"since_wall_s": 20.0}, [2, 3], id="since, that moment included"),
    pytest.param({"until_wall_s": 20.0}, [1, 2], id="until, that moment included"),
    pytest.param({"since_wall_s": 15.0, "until_wall_s": 25.0, "name": "mail"}, [2], id="all that is said must hold"),
    pytest.param({"cause": "crashed", "name": "pay"}, [], id="all that is said must hold, and does not"),
]


@pytest.mark.parametrize(("chosen", "found"), MEANT)
def test_dead_letters_are_found_by_all_that_is_said_of_them(letters, chosen, found):
    letters.add(letter(1, reason="its process exited with code 3", died_wall_s=10.0, name="mail"))
    letters.add(letter(2, reason="killed by the kernel: out of memory", died_wall_s=20.0, name="mail"))
    letters.add(letter(3, Unrunnable.UNKNOWN, Unrunnable.UNKNOWN, died_wall_s=30.0, name="pay", id="order-3"))
    assert kept(letters, **chosen) == found


def test_what_is_told_of_one(letters):
    # Given a task that had died twice, once with its node
    one = letter(1, reason="2 deliveries died", died_wall_s=5.0, queue="mail", priority=3, body=b"1234", id="order-1")
    one.task.charge("signal 9", node_lost=False)
    one.task.charge("node n was lost", node_lost=True)
    one.task.begun_in_vain()

    # When it is told of
    facts = one.facts()

    # Then all of that is there
    assert facts == {
        **{"id": one.task.task_id, "custom_id": "order-1", "name": "t", "queue": "mail", "priority": 3},
        **{"cause": CRASHED, "reason": "2 deliveries died", "causes": ["signal 9", "node n was lost"]},
        **{"attempts": 1, "crashes": 1, "losses": 1, "died_wall_s": 5.0, "body_bytes": 4},
    }


@pytest.mark.parametrize(
    ("cause", "causes", "history"),
    [
        pytest.param(CRASHED, ["a", "b"], ["a", "b"], id="what ended each delivery"),
        pytest.param(NODE_LOST, ["a"], ["a"], id="lost with its node"),
        pytest.param(CRASHED, [], ["why"], id="causes that nobody knows"),
        pytest.param(Unrunnable.UNKNOWN, [], ["why"], id="what could not run"),
        pytest.param(MAY_HAVE_RUN, ["a"], ["a", "why"], id="given up after a death for another reason"),
    ],
)
def test_the_history_ends_with_why_it_was_given_up(cause, causes, history):
    one = letter(1, cause, "why")
    for each in causes:
        one.task.charge(each, node_lost=False)
    assert one.history == history


# --- the journal ---------------------------------------------------------------------------------


def test_a_dead_letter_comes_back_from_its_row_as_it_was(letters):
    # Given a dead letter with all that a task can have
    one = letter(1, died_wall_s=7.5, priority=2, flags=Flag.KEEP_RESULT, frames=(b"frame",), headers={"a": 1})
    one.task.charge("signal 9", node_lost=False)

    # When it is read from its row
    letters.recover(12, letter_record(one.task, one.cause, one.reason, one.died_wall_s))

    # Then the same is told of it, and the row is known
    (again,) = letters.select(Chosen())
    assert (again.facts(), again.row, again.died_wall_s) == (one.facts(), 12, 7.5)
    assert (again.task.body, again.task.frames, again.task.options) == (b"body", (b"frame",), {"headers": {"a": 1}})
    assert (again.task.flags, again.task.row) == (Flag.KEEP_RESULT, NO_ROW)


# --- once more -----------------------------------------------------------------------------------


def test_a_replayed_task_has_its_id_and_history_fresh_budgets_and_no_time_to_wait_for():
    # Given a task that could only run until some time ago, and had died twice
    one = letter(1, flags=Flag.EARLY_ACK, eta=5.0, expires=6.0, headers={"a": 1}, id="order-1", retries=2)
    for _ in range(2):
        one.task.charge("signal 9", node_lost=False)
        one.task.begun_in_vain()
    one.task.charge("node n was lost", node_lost=True)
    one.task.begun = Begun.MAYBE_HERE
    one.task.retry_reason = b"busy"
    one.task.phase = Phase.DONE

    # When it is replayed
    task = replayed(one)

    # Then it is ready at once, and still that task
    assert (task.task_id, task.phase, task.attempt) == (one.task.task_id, Phase.READY, 2)
    assert (task.crashes, task.losses, task.begun, task.retry_reason) == (0, 0, Begun.NO, b"")
    assert task.causes == ["signal 9", "signal 9", "node n was lost", REPLAYED]
    assert task.flags == Flag.EARLY_ACK | Flag.REDELIVERED
    assert task.options == {"headers": {"a": 1}, "id": "order-1", "retries": 2}
    assert one.task.crashes == 2, "the dead letter has changed"


def test_a_task_that_is_replayed_over_and_over_remembers_the_latest():
    one = letter(1)
    for _ in range(MAX_CAUSES):
        one = one._replace(task=replayed(one))
    assert one.task.causes is not None
    assert len(one.task.causes) == MAX_CAUSES


@pytest.mark.parametrize(("cause", "can"), [(CRASHED, True), (Unrunnable.UNDECODABLE, True), (DAMAGED, False)])
def test_what_has_no_arguments_any_more_can_not_be_replayed(cause, can):
    assert letter(1, cause).can_be_replayed is can
