"""A router that starts, and slot pages that still name runs whose end the journal knows."""

from __future__ import annotations

from mesh import messages as m
from mesh.core import intake as intake_module
from mesh.core.crew import LivingSlot
from mesh.core.recovery import Pages
from mesh.messages import Flag
from mesh.states import PENDING, Phase, Status
from tests.core.builders import wall

RETRY_IN_S = 60.0


def asks_for_another_run(router, slot, task_id, *, in_s=RETRY_IN_S):
    lease = slot.lease_of(task_id)
    del slot.held[lease]
    again = [wall(router.mono_s + in_s), None]
    slot.says(m.Outcomes([[lease, task_id, int(Status.RETRY), 100, b"why", 0, True, again]]))
    router.settles()


def restart_beside(restart, router, slot, task_id):
    """Another router starts while the slot, which has run the task before, is in a long one."""
    long = router.client(9).call(name="long")
    slot.looks()
    router.settles()
    begun = {task_id: 1, long: slot.lease_of(long)}
    pages = Pages(
        [LivingSlot("", 0, slot.pid, "p", 4098, begun)],
        set(),
        True,
        begun_mono_s={task_id: router.mono_s - 100.0, long: router.mono_s},
    )
    return restart(router, pages=pages)


def test_a_retry_does_not_wait_for_the_slot_that_ran_it_before(router, client, restart):
    # Given a task that is to be run again, while the slot that ran it is in a long one, and another router
    slot = router.slot()
    task_id = client.call()
    asks_for_another_run(router, slot, task_id)
    later = restart_beside(restart, router, slot, task_id)
    idle = later.slot()

    # When its time has come, it goes to another slot
    assert later.owner.dispatch.open[task_id].phase is Phase.WAITING
    later.passes(RETRY_IN_S / 2)
    assert idle.holds() == []
    later.passes(RETRY_IN_S / 2)
    assert idle.holds() == [task_id]


def test_a_retry_may_be_revoked_though_a_page_names_its_last_run(router, client, restart):
    # Given the same
    slot = router.slot()
    task_id = client.call()
    asks_for_another_run(router, slot, task_id)
    later = restart_beside(restart, router, slot, task_id)

    # When it is revoked, it will not run
    asker = later.asker()
    asker.says(m.Request(1, "revoke", {"ids": [task_id]}, None, 1.0))
    later.settles()
    (replies,) = asker.take(m.Replies)
    assert replies.values == {"router": {"fates": [[task_id, "revoked"]]}}


def test_a_retry_that_may_run_at_most_once_is_not_taken_for_what_its_dead_slot_had_begun(router, client, restart):
    # Given a task that may run at most once a time, has asked for another run, and whose slot is dead
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    router.settles()
    asks_for_another_run(router, slot, task_id)
    pages = Pages([], {task_id}, True, begun_mono_s={task_id: router.mono_s - 100.0})

    # When another router starts, it waits for its time
    later = restart(router, pages=pages)
    assert later.owner.dispatch.open[task_id].phase is Phase.WAITING


def test_a_page_that_names_a_lease_twice_wedges_nothing(router, client, restart):
    # Given a page of which two tasks claim one lease
    first, second = client.calls(2)
    router.settles()
    later = restart(router, pages=Pages([LivingSlot("", 0, 4242, "p", 4098, {first: 1, second: 1})], set(), True))

    # When one is revoked, there is an answer
    asker = later.asker()
    asker.says(m.Request(1, "revoke", {"ids": [first, second]}, None, 1.0))
    later.settles()
    assert len(asker.take(m.Replies)) == 1


def test_a_caller_with_calls_is_never_forgotten(router, restart, monkeypatch):
    # Given a client with a call that waits, and more clients after it than are remembered
    monkeypatch.setattr(intake_module, "MAX_CALLERS", 20)
    first = router.client(2)
    task_id = first.call()
    first.says(m.Bye("done"))
    for incarnation in range(100, 150):
        other = router.client(incarnation)
        router.passes(0.01)
        other.says(m.Bye("done"))

    # When it comes back and sends the call again
    again = router.client(2, pid=first.pid, link=2)
    again.publishes([1, "t", "q", 0, 0, b"args", 0, None])
    router.settles()

    # Then it waits once, also for the next router
    assert list(router.owner.dispatch.open) == [task_id]
    assert router.owner.dispatch.ready_count == restart(router).owner.dispatch.ready_count == 1
    assert len(router.owner.intake.callers) <= 25


def test_what_ended_before_it_was_written_is_known_to_the_next_router(router, client, restart):
    # Given a call that has ended, and whose caller has the outcome, before anything was written
    slot = router.slot()
    client.publishes(client.record(), now=False)
    slot.ends(client.id(1))
    client.says(m.Received([[1, 1]]))
    router.settles()

    # When somebody asks the next router for it, it is gone and not unknown
    later = restart(router)
    asked = later.state(later.client(9), client.id(1))
    assert asked == [client.id(1), client.id(1), PENDING, {"known": True, "gone": True}]


def test_calls_without_durability_leave_no_trace_in_what_is_known_of_their_caller(router, client):
    # Given calls at both levels in turns, all of which end and are received
    slot = router.slot()
    for _ in range(20):
        client.calls(1, flags=Flag.TRANSIENT)
        client.calls(1)
        router.settles()
        slot.ends()
    client.says(m.Received([[1, 40]]))
    router.settles()

    # Then what the journal knows of the caller is one range
    caller = router.owner.intake.callers[client.prefix]
    assert caller.durable.ranges() == caller.seen.ranges() == [[1, 40]]


def test_a_question_about_many_ranges_costs_no_more_than_one_about_a_long_one(router, monkeypatch):
    # Given a client that says that everything has ended
    monkeypatch.setattr(intake_module, "RECONCILED_MAX", 10)
    client = router.client(5, ended_upto=(1 << 40) - 1)
    looked_at = []
    dispatch = type(router.owner.dispatch)
    contains = dispatch.__contains__

    def contains_and_tells(self, one):
        looked_at.append(one)
        return contains(self, one)

    monkeypatch.setattr(dispatch, "__contains__", contains_and_tells)

    # When it asks about a hundred ranges
    client.says(m.Reconcile([[1 + at * 100, 50 + at * 100] for at in range(100)]))

    # Then ten sequences were looked at, for either reason
    assert 10 <= len(looked_at) <= 30
