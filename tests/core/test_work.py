"""A slot's side: leases to run, outcomes to send, and what has no receipt yet."""

import pytest

from mesh import ids
from mesh import messages as m
from mesh.core.work import (
    GAP_MAX,
    HOLD_BYTES,
    HOLD_S,
    RESEND_S,
    TINY_US,
    UNRECEIPTED_MAX,
    Work,
    outcomes_message,
    results_message,
)
from mesh.messages import Flag
from mesh.states import Status
from tests.core.slot_side import CALLER, OTHER, assignment, run, send, tasks, unreceipted, waiting


@pytest.fixture
def make(checked):
    return lambda last_lease=0: checked(Work(last_lease))


@pytest.fixture
def work(make):
    return make()


# --- leases --------------------------------------------------------------------------------------


def test_leases_are_run_in_the_order_of_their_numbers_and_with_their_own_frames(work):
    # Given two messages with tasks, some of which have frames
    records = [assignment(1, n_frames=2), assignment(2), assignment(3, n_frames=1)]
    work.take(m.Tasks(1, 0, records), (b"a", b"b", b"c"))
    work.take(tasks(4, 1), ())

    # When they are taken, then each has what is its own
    assert [(lease.number, lease.frames) for lease in work.waiting] == [
        *((1, (b"a", b"b")), (2, ())),
        *((3, (b"c",)), (4, ())),
    ]


def test_a_repeated_message_is_taken_once(work):
    work.take(tasks(1, 3), ())
    run(work)
    work.take(tasks(1, 3), ())
    work.take(tasks(2, 4), ())
    assert (waiting(work), work.last_lease) == ([2, 3, 4, 5], 5)


def test_a_slot_goes_on_where_its_predecessor_left_off(make):
    work = make(last_lease=40)
    work.take(tasks(39, 3), ())
    assert waiting(work) == [41]


def test_leases_that_were_lost_on_the_way_are_given_back(work):
    # Given leases up to 2
    work.take(tasks(1, 2), ())

    # When the next that come begin at 5
    work.take(tasks(5, 1), ())

    # Then those between are returned at once, and again until there is a receipt
    assert waiting(work) == [1, 2, 5]
    assert work.overdue(10.0) == ([], m.Returned([3, 4]))
    assert work.overdue(10.0 + RESEND_S) == ([], m.Returned([3, 4]))
    work.receipt(4)
    assert work.overdue(99.0) == ([], None)


def test_a_gap_that_can_not_be_is_given_back_in_part(work):
    work.take(tasks(1 << 30, 1), ())
    _, returned = work.overdue(0.0)
    assert len(returned.leases) == GAP_MAX


def test_what_was_returned_is_said_again_until_it_is_receipted(work):
    work.take(tasks(1, 3), ())
    assert work.returned([2, 3], 5.0) == m.Returned([2, 3])
    assert work.overdue(5.0 + RESEND_S * 0.9) == ([], None)
    assert work.overdue(5.0 + RESEND_S) == ([], m.Returned([2, 3]))
    work.receipt(2)
    assert work.overdue(5.0 + 2 * RESEND_S) == ([], m.Returned([3]))


# --- outcomes ------------------------------------------------------------------------------------


def test_an_outcome_goes_to_its_owner_and_to_its_caller(work):
    # Given tasks of two callers, one of whom wants no result
    work.take(m.Tasks(1, 0, [assignment(1), assignment(2, caller=OTHER), assignment(3), assignment(4)]), ())
    work.waiting[3].record[3] = Flag.IGNORE_RESULT
    for _ in range(4):
        run(work)

    # When all is sent
    leases, told = send(work)

    # Then the owner has all of it, each caller its own, and it is sent once
    assert (leases, told) == ([1, 2, 3, 4], {CALLER: [1, 3], OTHER: [2]})
    assert send(work) == ([], {})
    assert unreceipted(work) == [1, 2, 3, 4]


def test_an_ignored_result_travels_without_its_body(work):
    work.take(tasks(1, 1, flags=Flag.IGNORE_RESULT), ())
    run(work, body=b"large", frames=(b"frame",))
    (ended,), _ = work.take_unsent(0.0)
    assert (ended.record[4:6], ended.frames) == ([b"", 0], ())


def test_messages_carry_records_and_their_frames_in_order(work):
    work.take(tasks(1, 3), ())
    run(work, body=b"a", frames=(b"1", b"2"), runtime_us=7)
    run(work, body=b"b")
    run(work, body=b"c", frames=(b"3",))
    unsent, by_caller = work.take_unsent(0.0)
    outcomes, frames = outcomes_message(unsent)
    assert outcomes.outcomes[0] == [1, ids.stamp(CALLER, 1), Status.SUCCESS, 7, b"a", 2, True]
    assert (len(outcomes.outcomes), frames) == (3, (b"1", b"2", b"3"))
    results, frames = results_message(by_caller[CALLER])
    assert results.results[2] == [ids.stamp(CALLER, 3), Status.SUCCESS, b"c", 1]
    assert (len(results.results), frames) == (3, (b"1", b"2", b"3"))


def test_a_task_that_asks_for_another_run_says_so_to_its_owner_alone(work):
    # Given a task that runs
    work.take(tasks(1, 2), ())

    # When it asks for another run, with the same or with another body
    work.retries(work.waiting.popleft(), 7, b"why", 99.0, None, 0.0)
    work.retries(work.waiting.popleft(), 7, b"why", 99.0, (b"body", (b"frame",)), 0.0)

    # Then the owner is told when, and the caller nothing
    unsent, by_caller = work.take_unsent(0.0)
    assert by_caller == {}
    assert [one.record for one in unsent] == [
        [1, ids.stamp(CALLER, 1), Status.RETRY, 7, b"why", 0, True, [99.0, None]],
        [2, ids.stamp(CALLER, 2), Status.RETRY, 7, b"why", 1, True, [99.0, b"body"]],
    ]
    assert outcomes_message(unsent)[1] == (b"frame",)


def test_a_task_that_could_not_run_says_why_to_its_owner_and_fails_for_its_caller(work):
    # Given a task, and one that wants no result
    work.take(tasks(1, 2), ())
    work.waiting[1].record[3] = Flag.IGNORE_RESULT

    # When neither can run
    for cause in (m.Unrunnable.UNKNOWN, m.Unrunnable.UNDECODABLE):
        work.ended(work.waiting.popleft(), Status.FAILURE, 7, b"error", (), 0.0, cause)

    # Then the owner is told why, and the caller gets the error
    unsent, by_caller = work.take_unsent(0.0)
    assert [one.record for one in unsent] == [
        [1, ids.stamp(CALLER, 1), Status.FAILURE, 7, b"error", 0, True, "unknown task"],
        [2, ids.stamp(CALLER, 2), Status.FAILURE, 7, b"", 0, True, "undecodable"],
    ]
    assert results_message(by_caller[CALLER])[0].results == [[ids.stamp(CALLER, 1), Status.FAILURE, b"error", 0]]


# --- when they must go ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known_us", "ran", "mono_s", "must"),
    [
        pytest.param(10, {}, HOLD_S * 0.9, False, id="a tiny task before young outcomes"),
        pytest.param(10, {}, HOLD_S, True, id="old outcomes"),
        pytest.param(TINY_US, {}, 0.0, True, id="a task that is not tiny"),
        pytest.param(None, {}, 0.0, True, id="a task of which nothing is known"),
        pytest.param(10, {"body": b"x" * HOLD_BYTES}, 0.0, True, id="a large outcome"),
        pytest.param(10, {"frames": (b"x",)}, 0.0, True, id="an outcome with frames"),
    ],
)
def test_outcomes_go_before_the_next_task_unless_that_is_tiny_and_they_are_young(work, known_us, ran, mono_s, must):
    # Given an outcome that has not been sent, and what is known of the next task
    work.take(m.Tasks(1, 0, [assignment(1, "before"), assignment(2, "first"), assignment(3, "next")]), ())
    if known_us is not None:
        work.waiting[0].record[1] = "next"
        run(work, runtime_us=known_us)
        send(work)
    else:
        work.waiting.popleft()
    run(work, 50.0, **ran)

    # When it is about to begin
    assert work.must_send_before(work.waiting[0], 50.0 + mono_s) == must

    # Then nothing must be sent where there is nothing
    send(work)
    assert not work.must_send_before(work.waiting[0], 99.0)


def test_one_slow_run_is_remembered_for_a_while(work):
    # Given a name that was tiny, and once was not
    work.take(tasks(1, 30), ())
    for runtime_us in (10, 5_000):
        run(work, runtime_us=runtime_us)
    answers = []

    # When it is tiny again
    for _ in range(27):
        run(work, runtime_us=10)
        answers.append(work.must_send_before(work.waiting[0], 0.0))

    # Then it is not trusted at once, and is in the end
    assert answers == sorted(answers, reverse=True)
    assert (answers[0], answers[-1]) == (True, True)
    for _ in range(10):
        work.take(tasks(work.last_lease + 1, 1), ())
        run(work, runtime_us=10)
    assert not work.must_send_before(work.waiting[0], 0.0)


# --- receipts ------------------------------------------------------------------------------------


def test_receipts_are_cumulative(work):
    # Given five outcomes without a receipt
    work.take(tasks(1, 5), ())
    for _ in range(5):
        run(work)
    send(work)

    # When receipts come, alone or with tasks, also old ones
    work.receipt(2)
    assert unreceipted(work) == [3, 4, 5]
    work.receipt(1)
    work.take(tasks(6, 1, receipt=4), ())
    assert unreceipted(work) == [5]
    work.receipt(99)

    # Then everything up to there is done with, and nothing is due
    assert unreceipted(work) == []
    assert work.next_deadline_mono_s() is None


def test_outcomes_without_a_receipt_are_sent_again_after_a_while(work):
    work.take(tasks(1, 2), ())
    run(work)
    run(work)
    send(work, 10.0)
    assert work.next_deadline_mono_s() == 10.0 + RESEND_S
    assert work.overdue(10.0 + RESEND_S * 0.9) == ([], None)
    assert [one.record[0] for one in work.overdue(10.0 + RESEND_S)[0]] == [1, 2]
    assert work.overdue(10.0 + RESEND_S) == ([], None)
    work.receipt(1)
    assert [one.record[0] for one in work.overdue(10.0 + 2 * RESEND_S)[0]] == [2]


def test_further_tasks_hasten_no_resend(work):
    work.take(tasks(1, 1), ())
    run(work)
    send(work, 10.0)
    work.take(tasks(2, 1), ())
    assert work.next_deadline_mono_s() == 10.0 + RESEND_S


def test_the_names_a_slot_remembers_are_bounded(work):
    for number in range(1, 10_050):
        work.take(tasks(number, 1, name=f"name {number}"), ())
        run(work)
    assert len(work._recent_us) <= 10_000


def test_a_slot_that_joins_anew_forgets_its_leases_and_keeps_its_outcomes(work):
    # Given a slot with an outcome that was sent, one that was not, and a lease
    work.take(tasks(1, 3), ())
    run(work)
    send(work)
    run(work)

    # When it has said HELLO to another router
    again = work.rejoin()

    # Then what was sent goes once more, the rest in its turn, and the lease is void
    assert [one.record[0] for one in again] == [1]
    assert (waiting(work), work.last_lease) == ([], 3)
    assert send(work)[0] == [2]
    assert unreceipted(work) == [1, 2]


def test_a_slot_that_joins_anew_returns_nothing_of_what_it_held(work):
    work.take(tasks(1, 3), ())
    work.returned([2, 3], 0.0)
    work.rejoin()
    assert (work.overdue(99.0), work.next_deadline_mono_s()) == (([], None), None)


# --- what goes along with HELLO ------------------------------------------------------------------


def test_a_slot_tells_which_leases_it_has_run_without_a_receipt(work):
    # Given leases of which some have run and are sent, one has run and is not sent, and one has not run
    assert work.unreceipted_leases() == []
    work.take(tasks(1, 6), ())
    for _ in range(4):
        run(work)
    send(work)
    run(work)

    # Then the first five are told; and without those that have a receipt, the rest
    assert work.unreceipted_leases() == [[1, 5]]
    work.receipt(2)
    assert work.unreceipted_leases() == [[3, 5]]
    assert work.unreceipted_leases() == [[3, 5]]
    send(work)
    work.receipt(5)
    assert work.unreceipted_leases() == []


def test_what_was_given_back_leaves_a_gap_in_what_has_run(work):
    work.take(tasks(1, 3), ())
    run(work)
    work.returned([work.waiting.popleft().number], 0.0)
    run(work)
    assert work.unreceipted_leases() == [[1, 1], [3, 3]]


def test_a_slot_runs_no_more_than_its_page_remembers(work):
    # Given a slot that has run one less than it may without a receipt, most of which it has told
    work.take(tasks(1, UNRECEIPTED_MAX + 1), ())
    for _ in range(UNRECEIPTED_MAX - 2):
        run(work)
    send(work)
    run(work)
    assert not work.is_full

    # When it runs one more, then it is full, until it has a receipt for one
    run(work)
    assert work.is_full
    work.receipt(1)
    assert not work.is_full
    run(work)
    assert work.is_full
    send(work)
    assert work.is_full
