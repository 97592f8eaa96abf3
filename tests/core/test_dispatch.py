"""Which task goes to which consumer, and what becomes of it when it ends or its holder goes."""

import random
from typing import NamedTuple

import pytest

from mesh import ids
from mesh.core import dispatch as dispatch_module
from mesh.core.credit import (
    DOUBT_S,
    FIRST_SAMPLES,
    OVERHEAD_US,
    STALE_BUSY_S,
    STALE_S,
    WINDOW_BYTES,
    WINDOW_LEASES,
    WINDOW_US,
)
from mesh.core.dispatch import Budgets, Dispatch
from mesh.core.leases import Consumer, Kind
from mesh.messages import Flag
from mesh.states import Phase
from tests.core.builders import BUDGETS, at, make_task, sequences, wall

START = at(100.0)


class Ended(NamedTuple):
    """A task that was over without an outcome of a slot."""

    sequence: int
    kind: str
    reason: str


class Bench:
    """A dispatch and what it says has ended."""

    def __init__(self, budgets=BUDGETS):
        self.ended: list[Ended] = []
        self.dispatch = Dispatch(budgets, self._note)
        self.count = 0

    def _note(self, task, kind, reason):
        self.ended.append(Ended(ids.sequence_of(task.task_id), kind, reason))

    def check(self):
        self.dispatch.check()

    def learn(self, name, runtime_us):
        """Makes the run time of a name known."""
        for _ in range(FIRST_SAMPLES):
            self.dispatch.estimates.add(name, runtime_us)

    def accept(self, count=1, now=START, **fields):
        """Takes so many new tasks. They are numbered from 1."""
        tasks = []
        for _ in range(count):
            self.count += 1
            tasks.append(make_task(self.count, **fields))
            self.dispatch.accept(tasks[-1], now)
        return tasks if count > 1 else tasks[0]

    def slot(self, name="slot", queues=("q",), node="n"):
        consumer = Consumer(
            name.encode(), Kind.SLOT, tuple(queues), node=node, index=0, pid=len(self.dispatch.consumers)
        )
        self.dispatch.join(consumer)
        return consumer

    def peer(self, name="peer", credit=0, queues=("q",)):
        consumer = Consumer(name.encode(), Kind.PEER, tuple(queues), node="", index=0, pid=0)
        consumer.credit = credit
        self.dispatch.join(consumer)
        return consumer

    def assign(self, now=START):
        """{consumer: sequences of the tasks it is granted now}."""
        grants = self.dispatch.assign(now)
        assert len({grant.consumer.peer for grant in grants}) == len(grants), "one grant per consumer"
        for grant in grants:
            assert [grant.consumer.held[grant.first_lease + n] for n in range(len(grant.tasks))] == grant.tasks
        return {grant.consumer.peer.decode(): sequences(grant.tasks) for grant in grants}

    def ends(self, consumer, now=START, runtime_us=100):
        """The first lease of a consumer ends with an outcome."""
        number, task = next(iter(consumer.held.items()))
        return self.dispatch.outcome(consumer, number, task.task_id, now, runtime_us)

    def stale(self, now):
        return [consumer.peer.decode() for consumer in self.dispatch.stale(now)]

    def waiting(self):
        """What is ready, in order."""
        return [number for queue in self.dispatch.queues.values() for number in sequences(queue)]


@pytest.fixture
def make(checked):
    return lambda *budgets: checked(Bench(Budgets(*budgets) if budgets else BUDGETS))


@pytest.fixture
def bench(make):
    return make()


# --- placement -----------------------------------------------------------------------------------


def test_idle_slots_get_one_task_each_before_any_gets_a_second(bench):
    # Given two idle slots, and tasks that are known to be short
    bench.learn("t", 100)
    bench.slot("a")
    bench.slot("b")
    bench.accept(4)

    # When they are placed
    granted = bench.assign()

    # Then each has the one that it begins, and an equal share of the rest
    assert granted == {"a": [1, 3], "b": [2, 4]}


def test_a_name_that_is_not_known_goes_out_alone(bench):
    # Given one slot, and tasks of which nothing is known
    slot = bench.slot()
    bench.accept(3)

    # When they are placed, and one ends
    first = bench.assign()
    bench.ends(slot)
    second = bench.assign()

    # Then there is never one behind another
    assert (first, second) == ({"slot": [1]}, {"slot": [2]})


def test_a_known_task_waits_behind_no_unknown_one_and_no_unknown_one_behind_it(bench):
    bench.learn("short", 10)
    slot = bench.slot()
    bench.accept(name="unknown")
    bench.accept(name="short")
    bench.accept(name="unknown")
    assert bench.assign() == {"slot": [1]}
    bench.ends(slot)
    assert bench.assign() == {"slot": [2]}


@pytest.mark.parametrize(
    "runtime_us",
    [
        pytest.param(0, id="empty tasks"),
        pytest.param(100, id="a tenth of a millisecond"),
        pytest.param(700, id="three to a window"),
        pytest.param(WINDOW_US // 4 - OVERHEAD_US, id="exactly four to a window"),
        pytest.param(WINDOW_US - OVERHEAD_US - 1, id="hardly less than a window"),
        pytest.param(WINDOW_US - OVERHEAD_US, id="a window"),
        pytest.param(1_000_000, id="a second"),
    ],
)
def test_what_waits_in_a_slot_is_due_within_two_milliseconds(bench, runtime_us):
    # Given far more tasks than a slot may hold, whose run time is known
    bench.learn("t", runtime_us)
    slot = bench.slot()
    bench.accept(1_000)

    # When they are placed
    bench.assign()

    # Then whatever is behind another begins within the window, as far as one can tell, and nothing long waits at all
    expected_us = runtime_us + OVERHEAD_US
    assert (len(slot.held) - 1) * expected_us < WINDOW_US
    assert len(slot.held) == 1 or expected_us < WINDOW_US
    assert len(slot.held) == (1 if expected_us >= WINDOW_US else len(slot.held))
    assert runtime_us > 100 or len(slot.held) >= 10
    assert slot.held_us == len(slot.held) * expected_us
    assert bench.assign() == {}


@pytest.mark.parametrize(
    ("inline", "held"),
    [
        pytest.param(0, 4, id="exactly a quarter each"),
        pytest.param(1, 3, id="a little more"),
    ],
)
def test_bodies_that_wait_in_a_slot_are_at_most_a_mebibyte(bench, inline, held):
    # Given tiny tasks with large bodies, in frames and inline
    bench.learn("t", 0)
    slot = bench.slot()
    bench.accept(8, body=b"x" * inline, frames=(b"y" * (WINDOW_BYTES // 4),))

    # When they are placed
    bench.assign()

    # Then few are held
    assert len(slot.held) == held
    assert slot.held_bytes <= WINDOW_BYTES


def test_a_body_larger_than_the_window_goes_to_an_idle_slot(bench):
    slot = bench.slot()
    bench.accept(2, frames=(b"y" * (WINDOW_BYTES + 1),))
    assert bench.assign() == {"slot": [1]}
    bench.ends(slot)
    assert bench.assign() == {"slot": [2]}


def test_a_slot_holds_no_more_leases_than_fit_a_message(bench, monkeypatch):
    # Given a bound that is met before the window is full
    monkeypatch.setattr(dispatch_module, "WINDOW_LEASES", 8)
    bench.learn("t", 0)
    slot = bench.slot()
    bench.accept(1_000)

    # When tiny tasks are placed, again and again
    for _ in range(3):
        bench.assign()

    # Then no more are held
    assert len(slot.held) == 8 < WINDOW_LEASES


def test_nothing_goes_behind_a_lease_older_than_five_milliseconds(bench):
    # Given a slot that has been at a task, meant to be short, for a while
    bench.learn("t", 100)
    bench.slot()
    bench.accept()
    bench.assign()
    bench.accept()

    # When it is looked at just before and at the limit
    young, old = at(START.mono_s + STALE_S * 0.9), at(START.mono_s + STALE_S)

    # Then the window is open before, and closed from there on
    assert bench.assign(old) == {}
    assert bench.assign(young) == {"slot": [2]}


def test_an_outcome_makes_the_next_lease_the_front(bench):
    bench.learn("t", 100)
    slot = bench.slot()
    bench.accept(2)
    bench.assign()
    later = at(START.mono_s + 0.004)
    bench.ends(slot, later)
    bench.accept()
    assert bench.assign(at(later.mono_s + STALE_S * 0.9)) == {"slot": [3]}


def test_a_slot_gets_only_what_it_consumes(bench):
    bench.slot("a", queues=("a",))
    bench.accept(queue="b")
    assert bench.assign() == {}
    bench.slot("b", queues=("b",))
    assert bench.assign() == {"b": [1]}


def test_the_highest_priority_of_all_queues_goes_first(bench):
    slot = bench.slot(queues=("a", "b"))
    bench.accept(queue="a", priority=1)
    bench.accept(queue="b", priority=5)
    bench.accept(queue="a", priority=9)
    order = []
    for _ in range(3):
        order += bench.assign()["slot"]
        bench.ends(slot)
    assert order == [3, 2, 1]


def test_equal_queues_take_turns(bench):
    slot = bench.slot(queues=("a", "b", "c"))
    for queue in "aaabbbccc":
        bench.accept(queue=queue)
    order = []
    for _ in range(9):
        order += bench.assign()["slot"]
        bench.ends(slot)
    assert [(one - 1) // 3 for one in order] == [0, 1, 2] * 3


def test_an_empty_queue_costs_the_others_no_turn(bench):
    slot = bench.slot(queues=("a", "b", "c"))
    for queue in "aaaccc":
        bench.accept(queue=queue)
    order = []
    for _ in range(6):
        order += bench.assign()["slot"]
        bench.ends(slot)
    assert order == [1, 4, 2, 5, 3, 6]


def test_a_queue_of_long_tasks_gets_its_turn_beside_one_of_short_tasks(bench):
    # Given a queue of tasks that fit no window, and one that never runs out of tasks that do
    bench.learn("short", 10)
    slot = bench.slot(queues=("long", "short"))
    bench.accept(20, queue="short", name="short")
    bench.accept(4, queue="long", name="long")

    # When the slot ends eight rounds of what it gets
    rounds = []
    for number in range(8):
        moment = at(START.mono_s + number)
        rounds.append(bench.assign(moment)["slot"])
        while slot.held:
            bench.ends(slot, moment, 10)
        bench.accept(5, moment, queue="short", name="short")

    # Then every other round is one of the long tasks
    assert [one for one in rounds if one[0] in range(21, 25)] == [[21], [22], [23], [24]]


@pytest.mark.parametrize("change", ["quiet", "recalling"])
def test_a_slot_that_takes_nothing_gets_nothing(bench, change):
    slot = bench.slot()
    setattr(slot, change, True)
    bench.accept()
    assert bench.assign() == {}


# --- peers ---------------------------------------------------------------------------------------


def test_a_peer_comes_after_idle_slots_and_before_windows(bench):
    # Given two idle slots and a peer that wants two, whoever came first
    bench.learn("t", 10)
    bench.peer(credit=2)
    bench.slot("a")
    bench.slot("b")
    bench.accept(6)

    # When short tasks are placed
    granted = bench.assign()

    # Then the slots begin the first two, the peer the next two, and the rest waits in the slots
    assert granted == {"a": [1, 5], "b": [2, 6], "peer": [3, 4]}


@pytest.mark.parametrize("credit", [0, 1, 3])
def test_a_peer_never_gets_more_than_its_credit(bench, credit):
    # Given a peer, and more tasks than it wants, all of them short
    bench.learn("t", 10)
    peer = bench.peer(credit=credit)
    bench.accept(10)

    # When they are placed, again and again
    granted = [bench.assign() for _ in range(3)]

    # Then it holds what it wanted, and has no credit left
    assert granted == [{"peer": list(range(1, credit + 1))} if credit else {}, {}, {}]
    assert (peer.credit, len(peer.held)) == (0, credit)


def test_a_peer_gets_long_tasks_up_to_its_credit(bench):
    bench.peer(credit=2)
    bench.accept(3)
    assert bench.assign() == {"peer": [1, 2]}


def test_what_a_peer_returns_goes_to_the_front(bench):
    # Given a peer that holds two of three tasks
    peer = bench.peer(credit=2)
    bench.accept(3)
    bench.assign()

    # When it returns both
    bench.dispatch.returned(peer, [2, 1])

    # Then they are first again, uncharged, and no credit comes back with them
    assert bench.waiting() == [1, 2, 3]
    assert (peer.credit, peer.held) == (0, {})
    assert {task.attempt for task in bench.dispatch.open.values()} == {0}


def test_a_peer_that_is_lost_had_begun_what_it_held(bench):
    # Given a peer with three tasks, one of which may run at most once
    bench.peer(credit=3)
    tasks = [bench.accept(), bench.accept(flags=Flag.EARLY_ACK), bench.accept()]
    bench.assign()

    # When it is lost
    bench.dispatch.lost(b"peer", 0, "the link was lost", node_lost=True, charged=False)

    # Then the others run again, in order, and say so; the one does not
    assert bench.waiting() == [1, 3]
    assert [one.sequence for one in bench.ended] == [2]
    assert [task.attempt for task in tasks] == [1, 1, 1]


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
    assert sorted((one.sequence, one.kind) for one in bench.ended) == [(number, "lost") for number in failed]
    assert all("at most once: signal 9" in one.reason for one in bench.ended)
    assert bench.waiting() == again


@pytest.mark.parametrize(
    ("node_lost", "budgets"),
    [
        pytest.param(False, (2, 0), id="crashes"),
        pytest.param(True, (0, 2), id="losses"),
    ],
)
def test_a_task_survives_as_many_deaths_as_its_budget_allows(make, node_lost, budgets):
    # Given a task that takes its holder with it each time, and a budget of two for that
    bench = make(*budgets)
    bench.accept()

    # When that goes on
    for number in range(1, 4):
        assert bench.ended == []
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, f"death {number}", node_lost=node_lost)

    # Then the third death is beyond the budget, and all causes are named
    assert bench.ended == [Ended(1, "lost", "3 deliveries died: death 1; death 2; death 3")]
    assert bench.dispatch.open == {}


def test_crashes_and_losses_do_not_share_a_budget(make):
    bench = make(2, 2)
    bench.accept()
    for number, node_lost in enumerate((False, True, False, True)):
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, "death", node_lost=node_lost)
    assert (bench.ended, bench.waiting()) == ([], [1])


def test_uncharged_deliveries_exhaust_no_budget(make):
    bench = make(0, 0)
    bench.accept()
    for number in range(5):
        bench.slot(f"slot{number}")
        bench.assign()
        bench.dispatch.lost(b"slot%d" % number, 1, "ended", node_lost=False, charged=False)
    assert (bench.ended, bench.waiting()) == ([], [1])


def test_the_loss_of_a_stranger_changes_nothing(bench):
    bench.dispatch.lost(b"stranger", 1, "signal 9", node_lost=False)
    assert bench.dispatch.leave(b"stranger") is None


# --- outcomes ------------------------------------------------------------------------------------


def test_an_outcome_ends_its_lease_and_its_task(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    assert bench.ends(slot) is task
    assert (task.phase, slot.held, bench.dispatch.open) == (Phase.DONE, {}, {})


@pytest.mark.parametrize(
    ("lease", "sequence"),
    [
        pytest.param(2, 1, id="a lease that is not held"),
        pytest.param(1, 2, id="a lease that is held for another task"),
    ],
)
def test_an_outcome_that_belongs_to_no_lease_ends_none(bench, lease, sequence):
    slot = bench.slot()
    bench.accept()
    bench.assign()
    assert bench.dispatch.outcome(slot, lease, make_task(sequence).task_id, START, 1) is None
    assert list(slot.held) == [1]


@pytest.mark.parametrize("flags", [Flag.NONE, Flag.EARLY_ACK])
@pytest.mark.parametrize("back", ["returned", "recalled", "lost", "lost with its node", "outcome"])
def test_a_task_that_has_its_outcome_is_not_run_again_when_its_holder_gives_it_back(bench, back, flags):
    # Given a task that is leased when the outcome of its earlier attempt comes
    slot = bench.slot()
    task = bench.accept(flags=flags)
    bench.assign()
    bench.dispatch.finish(task)

    # When the holder gives it back in whatever way
    match back:
        case "returned":
            bench.dispatch.returned(slot, [1])
        case "recalled":
            bench.dispatch.recalled(slot, 0, 1)
        case "outcome":
            assert bench.ends(slot) is None
        case _:
            bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=back != "lost")

    # Then it is over
    assert (bench.waiting(), bench.ended, slot.held, bench.dispatch.open) == ([], [], {}, {})


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.READY])
def test_a_task_can_end_wherever_it_is(bench, phase):
    task = bench.accept(eta=wall(999.0)) if phase is Phase.WAITING else bench.accept()
    bench.dispatch.finish(task)
    assert (bench.waiting(), bench.dispatch.open, len(bench.dispatch.schedule)) == ([], {}, 0)


def test_run_times_are_learnt_from_slots_and_not_from_peers(bench):
    peer = bench.peer(credit=FIRST_SAMPLES)
    bench.accept(2 * FIRST_SAMPLES)
    bench.assign()
    for _ in range(FIRST_SAMPLES):
        bench.ends(peer, runtime_us=10)
    assert bench.dispatch.estimates.expected_us("t") == WINDOW_US
    slot = bench.slot()
    for _ in range(FIRST_SAMPLES):
        bench.assign()
        bench.ends(slot, runtime_us=10)
    assert bench.dispatch.estimates.expected_us("t") == 10 + OVERHEAD_US


# --- time ----------------------------------------------------------------------------------------


def test_a_task_with_an_eta_waits_for_it_and_then_joins_the_queue(bench):
    # Given a task that is due in a second, and a slot
    bench.slot()
    task = bench.accept(eta=wall(START.mono_s + 1))
    assert (bench.assign(), task.phase) == ({}, Phase.WAITING)

    # When its time comes
    assert bench.dispatch.next_deadline_mono_s(START) == START.mono_s + 1
    now = at(START.mono_s + 1)
    bench.dispatch.tick(now)

    # Then it is placed
    assert bench.assign(now) == {"slot": [1]}


def test_a_task_whose_eta_has_passed_does_not_wait(bench):
    bench.slot()
    bench.accept(eta=wall(START.mono_s))
    assert bench.assign() == {"slot": [1]}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="ready"),
        pytest.param({"eta": wall(999.0)}, id="waiting for its eta"),
    ],
)
def test_what_expires_before_it_begins_is_over(bench, options):
    task = bench.accept(expires=wall(START.mono_s + 1), **options)
    bench.dispatch.tick(at(START.mono_s + 0.9))
    assert bench.ended == []
    bench.dispatch.tick(at(START.mono_s + 1))
    assert bench.ended == [Ended(1, "expired", "it expired before it began")]
    assert (task.phase, bench.dispatch.open) == (Phase.DONE, {})


def test_what_expires_while_it_runs_runs_on(bench):
    slot = bench.slot()
    task = bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)
    assert bench.ended == []
    assert bench.ends(slot, now) is task


@pytest.mark.parametrize("back", ["returned", "recalled", "lost"])
def test_what_expired_while_it_was_leased_and_comes_back_is_over(bench, back):
    # Given a task that expires while a slot holds it
    slot = bench.slot()
    bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)

    # When it comes back without having run to its end
    match back:
        case "returned":
            bench.dispatch.returned(slot, [1])
        case "recalled":
            bench.dispatch.recalled(slot, 0, 1)
        case _:
            bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=False)
            bench.slot("other")
    bench.dispatch.tick(now)

    # Then it is over, and not run
    assert [one.kind for one in bench.ended] == ["expired"]
    assert bench.assign(now) == {}


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay_s", "phase"),
    [
        pytest.param(5.0, Phase.WAITING, id="later"),
        pytest.param(0.0, Phase.READY, id="at once"),
    ],
)
def test_a_task_that_asks_for_another_run_waits_for_it(bench, delay_s, phase):
    # Given a task that runs
    slot = bench.slot()
    task = bench.accept()
    bench.assign()

    # When it asks to be run again
    assert bench.dispatch.retried(slot, 1, task.task_id, START, wall(START.mono_s + delay_s)) is task

    # Then it is no longer leased, is not charged, and comes when it is due
    assert (task.phase, slot.held, task.attempt, task.crashes) == (phase, {}, 0, 0)
    now = at(START.mono_s + delay_s)
    bench.dispatch.tick(now)
    assert bench.assign(now) == {"slot": [1]}


def test_a_retry_makes_the_next_lease_the_front(bench):
    bench.learn("t", 100)
    slot = bench.slot()
    task, _ = bench.accept(2)
    bench.assign()
    later = at(START.mono_s + 0.004)
    bench.dispatch.retried(slot, 1, task.task_id, later, wall(999.0))
    bench.accept()
    assert bench.assign(at(later.mono_s + STALE_S * 0.9)) == {"slot": [3]}


@pytest.mark.parametrize(
    ("lease", "sequence"),
    [
        pytest.param(2, 1, id="a lease that is not held"),
        pytest.param(1, 2, id="a lease that is held for another task"),
    ],
)
def test_a_retry_that_belongs_to_no_lease_changes_nothing(bench, lease, sequence):
    slot = bench.slot()
    bench.accept()
    bench.assign()
    assert bench.dispatch.retried(slot, lease, make_task(sequence).task_id, START, wall(999.0)) is None
    assert list(slot.held) == [1]


def test_a_retry_of_a_task_that_has_its_outcome_comes_to_nothing(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    bench.dispatch.finish(task)
    assert bench.dispatch.retried(slot, 1, task.task_id, START, wall(999.0)) is None
    assert (slot.held, len(bench.dispatch.schedule), task.phase) == ({}, 0, Phase.DONE)


def test_a_slot_under_recall_that_has_only_a_retry_left_gets_more(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    now = at(START.mono_s + DOUBT_S)
    assert bench.stale(now) == ["slot"]
    bench.dispatch.retried(slot, 1, task.task_id, now, wall(999.0))
    bench.accept()
    assert bench.assign(now) == {"slot": [2]}


def test_a_task_that_expired_while_it_ran_is_not_run_once_more(bench):
    slot = bench.slot()
    task = bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)
    bench.dispatch.retried(slot, 1, task.task_id, now, wall(START.mono_s + 5))
    bench.dispatch.tick(now)
    assert [one.kind for one in bench.ended] == ["expired"]


# --- queues --------------------------------------------------------------------------------------


def test_queues_that_nobody_needs_are_forgotten(bench):
    bench.slot(queues=("consumed",))
    bench.slot("left", queues=("left",))
    bench.dispatch.leave(b"left")
    bench.accept(queue="held")
    bench.dispatch.finish(bench.accept(queue="past"))
    bench.dispatch.forget_empty_queues()
    assert sorted(bench.dispatch.queues) == ["consumed", "held"]
    assert "left" not in bench.dispatch._by_queue


def test_a_consumer_that_leaves_is_none_of_its_queues_any_more(bench):
    slot = bench.slot(queues=("a", "b"))
    assert bench.dispatch.consumers_of("a") == [slot]
    assert bench.dispatch.leave(b"slot") is slot
    assert (bench.dispatch.consumers_of("a"), bench.dispatch.consumers_of("never")) == ([], [])


# --- anything ------------------------------------------------------------------------------------


def something(bench, rng, now):
    """One random thing happens. The sequences of tasks that have their outcome by it."""
    consumers = list(bench.dispatch.consumers.values())
    consumer = rng.choice(consumers) if consumers else None
    leases = list(consumer.held) if consumer else []
    what = ("accept", "join", "ends", "returned", "recalled", "lost", "credit")
    match rng.choices(what, (8, 1.2, 8, 1, 2, 1, 1))[0]:
        case "accept":
            options = rng.choice(({}, {}, {"eta": now.wall_s + 2}, {"expires": now.wall_s + 1}))
            name, flags = rng.choice(("tiny", "short", "new")), rng.choice((0, 0, Flag.EARLY_ACK))
            bench.accept(rng.randint(1, 6), now, name=name, priority=rng.choice((0, 9)), flags=flags, **options)
        case "join" if len(consumers) < 5:
            (bench.slot if rng.random() < 0.7 else bench.peer)(f"c{now.mono_s}")
        case "ends" if consumer and leases:
            task = consumer.held[leases[0]]
            over = bench.dispatch.outcome(consumer, leases[0], task.task_id, now, rng.randrange(2_000))
            return [] if over is None else sequences([over])
        case "returned" if leases:
            bench.dispatch.returned(consumer, rng.sample(leases, rng.randint(1, len(leases))))
        case "recalled" if leases:
            bench.dispatch.recalled(consumer, rng.choice([0, *leases]), rng.choice(leases))
        case "lost" if consumer:
            begun, charged = rng.choice([None, 0, *leases]), rng.random() < 0.7
            bench.dispatch.lost(consumer.peer, begun, "died", node_lost=rng.random() < 0.5, charged=charged)
        case "credit" if consumer and consumer.kind is Kind.PEER:
            consumer.credit = rng.randint(0, 4)
    return []


@pytest.mark.parametrize("seed", range(8))
def test_no_task_is_lost_doubled_or_held_beyond_credit_whatever_happens(make, seed):
    rng = random.Random(seed)
    bench, mono_s = make(2, 3), 100.0
    done: list[int] = []
    for name, runtime_us in (("tiny", 10), ("short", 600)):
        bench.learn(name, runtime_us)
    for _ in range(500):
        # Given whatever came before, when something happens, and the dispatch looks around
        mono_s += rng.choice((0.0001, 0.001, 0.02, 1.0))
        now = at(mono_s)
        done += something(bench, rng, now)
        bench.dispatch.tick(now)
        credit = {name.decode(): one.credit for name, one in bench.dispatch.consumers.items() if one.kind is Kind.PEER}
        granted = bench.assign(now)
        list(bench.dispatch.stale(now))

        # Then every task is in one place or has ended once, and no peer got more than it wanted
        bench.check()
        ended = [one.sequence for one in bench.ended]
        assert sorted([*ended, *done, *sequences(bench.dispatch.open.values())]) == list(range(1, bench.count + 1))
        assert all(len(granted.get(peer, ())) <= wanted for peer, wanted in credit.items())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: setattr(d, "ready_count", 5), id="the count of what is ready"),
        pytest.param(lambda d: d.open.clear(), id="a task that is held and not open"),
        pytest.param(lambda d: d.consumers.clear(), id="a task that is leased to nobody"),
        pytest.param(lambda d: d.queues.clear(), id="a task that is ready and in no queue"),
    ],
)
def test_the_check_finds_damage(damage):
    bench = Bench()
    bench.slot()
    bench.accept(2)
    bench.assign()
    damage(bench.dispatch)
    with pytest.raises((AssertionError, StopIteration)):
        bench.check()
