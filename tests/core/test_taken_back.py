"""What becomes of tasks whose holder gives them back, or dies."""

import pytest

from mesh.core.credit import DOUBT_S, STALE_BUSY_S, STALE_S
from mesh.core.dispatch import CRASHED, MAY_HAVE_RUN, NODE_LOST
from mesh.messages import Flag
from tests.core.bench import START, Ended
from tests.core.builders import at, wall

# --- what comes back -----------------------------------------------------------------------------


def test_what_a_slot_returns_goes_to_the_front_in_order(bench):
    bench.learn("t", 10)
    slot = bench.slot()
    bench.accept(5)
    bench.assign()
    bench.accept()
    bench.dispatch.returned(slot, [4, 99, 3, 5, 3])
    assert (list(slot.held), bench.waiting()) == ([1, 2], [3, 4, 5, 6])


def test_slots_with_an_old_front_are_recalled_at_once_for_an_idle_slot(bench):
    # Given a slot whose task takes longer than was known, with others behind it
    bench.learn("t", 100)
    slot = bench.slot("busy")
    bench.accept(3)
    bench.assign()
    bench.slot("idle")

    # When it has been at it for 5 ms
    due = START.mono_s + STALE_S
    assert bench.dispatch.next_deadline_mono_s(START) == due
    assert bench.stale(at(due - 0.0001)) == []
    assert bench.stale(at(due)) == ["busy"]

    # Then its rest is recalled once, and goes to the idle slot when it is back
    assert bench.stale(at(due)) == []
    bench.dispatch.recalled(slot, begun=1, upto=3)
    assert (list(slot.held), slot.recalling) == ([1], False)
    assert bench.assign(at(due)) == {"idle": [2, 3]}


@pytest.mark.parametrize(
    "no_idle_slot",
    [
        pytest.param(lambda bench: None, id="nobody else"),
        pytest.param(lambda bench: bench.peer(), id="a peer"),
        pytest.param(lambda bench: setattr(bench.slot("other"), "quiet", True), id="a slot that takes nothing"),
    ],
)
def test_without_an_idle_slot_a_recall_waits_a_while(bench, no_idle_slot):
    bench.learn("t", 100)
    bench.slot("busy")
    bench.accept(3)
    bench.assign()
    no_idle_slot(bench)
    due = START.mono_s + STALE_BUSY_S
    assert bench.dispatch.next_deadline_mono_s(START) == due
    assert bench.stale(at(due - 0.0001)) == []
    assert bench.stale(at(due)) == ["busy"]


def test_the_next_deadline_is_the_earliest_of_all(bench):
    # Given two slots that may have to be recalled, and a task that is due later
    bench.learn("t", 100)
    first, second = bench.slot("first"), bench.slot("second")
    bench.accept(4)
    bench.assign()
    second.busy_since_mono_s += 0.01
    eta = START.mono_s + 2 * STALE_BUSY_S
    bench.accept(eta=wall(eta))

    # When each in turn has been seen to
    deadlines = []
    for slot in (first, second):
        deadlines.append(bench.dispatch.next_deadline_mono_s(START))
        bench.dispatch.recalled(slot, begun=slot.last_lease, upto=slot.last_lease)
    deadlines.append(bench.dispatch.next_deadline_mono_s(START))

    # Then the next one was told each time
    assert deadlines == pytest.approx([START.mono_s + STALE_BUSY_S, START.mono_s + STALE_BUSY_S + 0.01, eta])
    bench.accept(eta=wall(START.mono_s + 0.001))
    assert bench.dispatch.next_deadline_mono_s(START) == pytest.approx(START.mono_s + 0.001)


def test_a_slot_under_recall_gets_nothing_until_that_is_answered(bench):
    bench.learn("t", 100)
    slot = bench.slot()
    bench.accept(2)
    bench.assign()
    bench.stale(at(START.mono_s + 1))
    bench.ends(slot, at(START.mono_s + 1))
    bench.accept()
    assert bench.assign(at(START.mono_s + 1)) == {}
    bench.dispatch.recalled(slot, begun=2, upto=2)
    assert bench.assign(at(START.mono_s + 1)) == {"slot": [3]}


def test_a_slot_that_has_run_all_it_held_needs_no_answer_to_its_recall(bench):
    # Given a slot that is asked to give back what it has not begun
    bench.learn("t", 100)
    slot = bench.slot()
    bench.accept(2)
    bench.assign()
    now = at(START.mono_s + 1)
    assert bench.stale(now) == ["slot"]

    # When it has run all of it
    bench.ends(slot, now)
    bench.ends(slot, now)

    # Then it gets more, and a late answer touches none of that
    bench.accept()
    assert bench.assign(now) == {"slot": [3]}
    bench.dispatch.recalled(slot, begun=2, upto=2)
    assert list(slot.held) == [3]


def test_a_slot_that_has_returned_all_it_held_needs_no_answer_to_its_recall(bench):
    bench.learn("t", 100)
    slot = bench.slot()
    bench.accept(2)
    bench.assign()
    now = at(START.mono_s + 1)
    assert bench.stale(now) == ["slot"]
    bench.dispatch.returned(slot, [1, 2])
    assert bench.assign(now) == {"slot": [1, 2]}


@pytest.mark.parametrize("how", ["an outcome", "a retry"])
def test_a_recall_stays_under_way_while_the_slot_holds_anything(bench, how):
    bench.learn("t", 100)
    slot = bench.slot()
    task, _, _ = bench.accept(3)
    bench.assign()
    now = at(START.mono_s + 1)
    assert bench.stale(now) == ["slot"]
    if how == "a retry":
        bench.dispatch.retried(slot, 1, task.task_id, now, wall(999.0))
    else:
        bench.ends(slot, now)
    bench.dispatch.returned(slot, [3])
    assert (list(slot.held), bench.assign(now)) == ([2], {})


def test_a_peer_is_not_recalled(bench):
    bench.peer(credit=3)
    bench.accept(3)
    bench.assign()
    assert bench.stale(at(START.mono_s + 1_000)) == []
    assert bench.dispatch.next_deadline_mono_s(START) is None


def test_what_a_recall_has_left_is_not_recalled_again(bench):
    # Given a slot that holds back the outcomes of two tasks while it runs a third
    bench.learn("t", 100)
    slot = bench.slot()
    bench.accept(4)
    bench.assign()
    now = at(START.mono_s + 1)
    assert bench.stale(now) == ["slot"]

    # When the answer is that all three had begun
    bench.dispatch.recalled(slot, begun=3, upto=4)

    # Then there is nothing to be asked any more, however long it takes
    assert list(slot.held) == [1, 2, 3]
    assert bench.stale(at(now.mono_s + 1_000)) == []
    assert bench.dispatch.next_deadline_mono_s(now) is None


def test_a_single_lease_is_looked_after_when_it_is_very_old(bench):
    slot = bench.slot()
    bench.accept()
    bench.assign()
    assert bench.dispatch.next_deadline_mono_s(START) == START.mono_s + DOUBT_S
    assert bench.stale(at(START.mono_s + DOUBT_S)) == ["slot"]
    bench.dispatch.recalled(slot, begun=0, upto=1)
    assert bench.waiting() == [1]


def test_what_was_refused_goes_back_and_the_slot_gets_nothing_for_a_moment(bench):
    slot = bench.slot()
    bench.accept(2)
    bench.assign()
    bench.dispatch.undelivered(slot, [1], START)
    assert (bench.assign(), bench.waiting()) == ({}, [1, 2])
    due = bench.dispatch.next_deadline_mono_s(START)
    assert bench.assign(at(due)) == {"slot": [1]}


# --- deaths --------------------------------------------------------------------------------------


def test_the_death_of_a_slot_charges_only_the_task_that_had_begun(bench):
    # Given a slot that holds three tasks and has begun the first
    bench.learn("t", 10)
    bench.slot()
    tasks = bench.accept(3)
    bench.assign()
    bench.accept()

    # When it dies
    bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=False)

    # Then all are in front again, in order, and only the first is charged and says that it had begun
    assert bench.waiting() == [1, 2, 3, 4]
    assert [(task.crashes, task.attempt, task.flags) for task in tasks] == [
        (1, 1, Flag.REDELIVERED),
        (0, 0, 0),
        (0, 0, 0),
    ]


def test_an_ordered_end_charges_nobody_but_the_task_had_begun(bench):
    bench.slot()
    task = bench.accept()
    bench.assign()
    bench.dispatch.lost(b"slot", 1, "ended", node_lost=False, charged=False)
    assert (task.crashes, task.losses, task.attempt, task.flags) == (0, 0, 1, Flag.REDELIVERED)
    assert bench.waiting() == [1]


def test_tasks_that_had_run_when_their_slot_died_run_again_uncharged(bench):
    # Given a slot that has run two tasks whose outcomes never came, and has begun a third
    bench.learn("t", 10)
    bench.slot()
    tasks = bench.accept(4)
    bench.assign()

    # When it dies
    bench.dispatch.lost(b"slot", 3, "signal 9", node_lost=False)

    # Then only the third is charged
    assert [(task.crashes, task.attempt) for task in tasks] == [(0, 1), (0, 1), (1, 1), (0, 0)]
    assert bench.waiting() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("begun", "failed", "again"),
    [
        pytest.param(0, [], [1, 2], id="it had begun none"),
        pytest.param(1, [1], [2], id="it had begun the first"),
        pytest.param(2, [1, 2], [], id="it had run the first, and begun the second"),
        pytest.param(None, [1, 2], [], id="nobody knows what it had begun"),
    ],
)
def test_what_may_run_at_most_once_fails_with_its_slot_if_it_may_have_begun(bench, begun, failed, again):
    # Given a slot that holds two tasks that may run at most once
    bench.learn("t", 10)
    bench.slot()
    bench.accept(2, flags=Flag.EARLY_ACK)
    bench.assign()

    # When it dies
    bench.dispatch.lost(b"slot", begun, "signal 9", node_lost=False)

    # Then those that may have begun are lost, with the cause, and the others go back
    assert sorted((one.sequence, one.kind) for one in bench.ended) == [(number, MAY_HAVE_RUN) for number in failed]
    assert all("at most once: signal 9" in one.reason for one in bench.ended)
    assert bench.waiting() == again


@pytest.mark.parametrize(
    ("node_lost", "budgets", "kind", "why"),
    [
        pytest.param(False, (2, 0), CRASHED, "it took down 3 slots, and crash_budget is 2", id="crashes"),
        pytest.param(True, (0, 2), NODE_LOST, "it was lost with 3 nodes, and lost_budget is 2", id="losses"),
    ],
)
def test_a_task_survives_as_many_deaths_as_its_budget_allows(make_bench, node_lost, budgets, kind, why):
    # Given a task that takes its holder with it each time, and a budget of two for that
    bench = make_bench(*budgets)
    bench.accept()

    # When that goes on
    for number in range(1, 4):
        assert bench.ended == []
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, f"death {number}", node_lost=node_lost)

    # Then the third death is beyond the budget, and all causes are named
    assert bench.ended == [Ended(1, kind, f"{why}: death 1; death 2; death 3")]
    assert bench.dispatch.open == {}


def test_crashes_and_losses_do_not_share_a_budget(make_bench):
    bench = make_bench(2, 2)
    bench.accept()
    for number, node_lost in enumerate((False, True, False, True)):
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, "death", node_lost=node_lost)
    assert (bench.ended, bench.waiting()) == ([], [1])


def test_uncharged_deliveries_exhaust_no_budget(make_bench):
    bench = make_bench(0, 0)
    bench.accept()
    for number in range(5):
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, "ended", node_lost=False, charged=False)
    assert (bench.ended, bench.waiting()) == ([], [1])


def test_the_loss_of_a_stranger_changes_nothing(bench):
    bench.dispatch.lost(b"stranger", 1, "signal 9", node_lost=False)
    assert bench.dispatch.leave(b"stranger") is None
