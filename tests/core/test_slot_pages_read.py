"""What a router that starts makes of slot pages: who has begun what, who is to join, and which pages are needed."""

import pytest

from mesh import messages as m
from mesh.core.crew import LivingSlot
from mesh.core.effects import RemovePage
from mesh.core.recovery import Pages, SlotRecord, pages_of
from mesh.core.task import Begun
from mesh.messages import Flag
from mesh.states import Phase, Status

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def record(slot=0, *beginnings, node="n", alive=True, page="n.page", withdrawn=9):
    return SlotRecord(node, slot, 70 + slot, alive, page, withdrawn, list(beginnings))


def read(*records, complete=True, **keepers):
    return pages_of(list(records), are_complete=complete, keepers=keepers)


# --- who has begun what --------------------------------------------------------------------------


def test_a_slot_that_lives_has_what_it_has_begun():
    pages = read(record(0, (A, 1, 5.0, True), (B, 2, 6.0, True)), record(1, (C, 7, 5.5, True), withdrawn=8))
    assert pages.living == [
        LivingSlot("n", 0, 70, "n.page", 9, {A: 1, B: 2}),
        LivingSlot("n", 1, 71, "n.page", 8, {C: 7}),
    ]
    assert (pages.begun_by_the_dead, pages.are_complete, pages.stale, pages.keepers) == (set(), True, frozenset(), {})


@pytest.mark.parametrize(
    ("desc", "records", "has_it", "by_the_dead"),
    [
        ("the later of two slots", [record(0, (A, 1, 5.0, True)), record(1, (A, 4, 6.0, True))], {1: {A: 4}}, set()),
        ("the first was later", [record(0, (A, 1, 6.0, True)), record(1, (A, 4, 5.0, True))], {0: {A: 1}}, set()),
        ("both at the same time", [record(0, (A, 1, 5.0, True)), record(1, (A, 4, 5.0, True))], {0: {A: 1}}, set()),
        ("the later lease of one slot", [record(0, (A, 1, 5.0, True), (A, 3, 6.0, True))], {0: {A: 3}}, set()),
        ("a process before it", [record(0, (A, 1, 5.0, False))], {}, {A}),
        ("a dead slot", [record(0, (A, 1, 5.0, True), alive=False)], {}, {A}),
        ("a dead slot, later", [record(0, (A, 1, 5.0, True)), record(1, (A, 2, 6.0, True), alive=False)], {}, {A}),
        ("a dead slot, earlier", [record(0, (A, 1, 6.0, True)), record(1, (A, 2, 5.0, True), alive=False)],
         {0: {A: 1}}, set()),
    ],
)  # fmt: skip
def test_who_has_begun_a_task_last_has_it(desc, records, has_it, by_the_dead):
    pages = read(*records)
    assert {one.slot: one.begun for one in pages.living if one.begun} == has_it
    assert pages.begun_by_the_dead == by_the_dead


def test_a_slot_that_is_dead_is_not_waited_for():
    pages = read(record(0, alive=False), record(1))
    assert [one.slot for one in pages.living] == [1]


def test_the_page_of_a_dead_node_without_a_living_slot_is_stale():
    pages = read(
        record(0, page="a"),
        record(1, page="b", alive=False),
        complete=False,
        **{"a": None, "b": None, "c": 7, "d": 8},
    )
    assert pages.stale == frozenset({"b"})
    assert pages.keepers == {7: "c", 8: "d"}
    assert pages.are_complete is False


# --- pages that are needed -----------------------------------------------------------------------


def test_a_stale_page_goes_when_the_journal_says_what_was_made_of_it(router, client, restart):
    # Given a task that may run at most once, and that a dead slot had begun
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    slot.holds()
    router.settles()
    pages = Pages([], {task_id}, True, frozenset({"old.page"}))

    # When the next router starts, on a disk that takes its time
    later = restart(router, pages=pages)

    # Then what was made of the page is written at once, and the page removed then
    later.settles()
    assert later.removed == [RemovePage("old.page")]
    assert task_id in restart(later).owner.outcomes


def test_a_node_that_lives_and_does_not_come_back_leaves_its_page(make_router):
    # Given a node of before that lives
    router = make_router()
    router.recover(Pages([], set(), True, frozenset(), {77: "n.page"}))
    assert router.watched == [77]
    assert router.removed == []

    # When it ends without having joined
    router.process_ended(77)

    # Then its page is removed
    assert router.removed == [RemovePage("n.page")]


def test_a_node_that_joins_keeps_its_page_and_leaves_it_when_it_ends(make_router):
    router = make_router()
    router.recover(Pages([], set(), True, frozenset(), {77: "n.page"}))
    node = router.node("n", pid=77)
    assert router.removed == []
    node.says(m.Bye("the node ends"))
    router.process_ended(77)
    assert router.removed == [RemovePage("n.page")]


# --- what had run before -------------------------------------------------------------------------


def restarted_with_one(router, client, restart, **fields):
    """A router that starts while a slot has one task, as its page says; and the task."""
    slot = router.slot()
    task_id = client.call(**fields)
    slot.holds()
    router.settles()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})
    later = restart(router, pages=Pages([living], set(), True))
    return later, later.owner.dispatch.open[task_id], slot


def rejoin(later, slot):
    """The slot is back, and has nothing to tell: an earlier router had its outcome."""
    return later.node(slot.node.name, pid=7).slot(0, pid=slot.pid, last_lease=1)


def test_what_ran_and_was_told_to_an_earlier_router_runs_again_where_that_lost_it(router, client, restart):
    later, task, slot = restarted_with_one(router, client, restart)
    assert rejoin(later, slot).holds() == [task.task_id]
    assert (task.attempt, task.crashes, task.losses) == (0, 0, 0)


def test_what_had_asked_to_run_again_later_waits_for_its_time(router, client, restart):
    # Given a task that asked for another run in a hundred seconds, and whose slot's page still tells of the first
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    slot.says(m.Outcomes([[1, task_id, Status.RETRY, 5, b"", 0, True, [router.now.wall_s + 100.0, None]]]))
    router.settles()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})
    later = restart(router, pages=Pages([living], set(), True))

    # When the slot joins and owes no outcome
    again = rejoin(later, slot)

    # Then the task waits, and runs in its time
    assert again.holds() == []
    assert later.owner.dispatch.open[task_id].phase is Phase.WAITING
    later.passes(100.0)
    assert again.holds() == [task_id]


def test_what_may_run_at_most_once_and_whose_outcome_was_lost_has_failed(router, client, restart):
    later, task, slot = restarted_with_one(router, client, restart, flags=Flag.EARLY_ACK)
    assert task.begun is Begun.MAYBE_HERE
    assert rejoin(later, slot).holds() == []
    stored = later.owner.outcomes.get(task.task_id)
    assert stored.status == Status.FAILURE
    assert "an earlier router lost its outcome" in stored.body.decode()
    assert task.crashes == task.losses == 0


def test_a_running_task_that_is_found_again_still_expires(router, client, restart):
    # Given a task that runs in a slot and expires in fifty seconds
    later, task, slot = restarted_with_one(router, client, restart, options={"expires": router.now.wall_s + 50.0})

    # When it comes back after that, unbegun as it turns out
    later.passes(60.0)
    assert task.phase is Phase.LEASED
    assert rejoin(later, slot).holds() == []

    # Then it is over
    assert later.owner.outcomes.get(task.task_id).status == Status.REVOKED


def test_a_placeholder_of_another_slot_is_left_alone(router, client, restart):
    # Given two slots of one node that live
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    living = [
        LivingSlot("n", 0, 71, "n.page", 4097, {task_id: 1}),
        LivingSlot("n", 1, 72, "n.page", 4097, {}),
    ]
    later = restart(router, pages=Pages(living, set(), True))

    # When the second joins
    joined = later.node("n", pid=7).slot(1, pid=72)

    # Then the first still has its task, and keeps its place
    assert joined.holds() == []
    assert sorted(one.pid for one in later.owner.dispatch.consumers.values()) == [71, 72]
    assert later.owner.dispatch.open[task_id].phase is Phase.LEASED
    assert later.owner.slots_of_pid(71) == [("n.page", 0)]


def test_a_slot_that_joins_is_no_placeholder_and_gets_tasks_beyond_what_was_withdrawn(router, client, restart):
    later = restart(router, pages=Pages([LivingSlot("n", 0, 71, "n.page", 4097, {})], set(), True))
    joined = later.node("n", pid=7).slot(0, pid=71, last_lease=3)
    (consumer,) = later.owner.dispatch.consumers.values()
    assert (consumer.quiet, consumer.last_lease, consumer.peer) == (False, 4097, joined.address)
    other = later.client(9)
    task_id = other.call()
    assert joined.holds() == [task_id]
    assert list(joined.held) == [4098]
