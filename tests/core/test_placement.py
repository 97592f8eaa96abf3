"""Which task goes to which consumer."""

import pytest

from mesh.core import dispatch as dispatch_module
from mesh.core.credit import OVERHEAD_US, STALE_S, WINDOW_BYTES, WINDOW_LEASES, WINDOW_US
from mesh.messages import Flag
from tests.core.bench import START
from tests.core.builders import at

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
