"""Tasks that may run at most once: they go out only when the journal says that they may have begun."""

from mesh import messages as m
from mesh.core.dispatch import CLEARED_AT_ONCE, MAY_HAVE_RUN
from mesh.core.records import RowKind
from mesh.core.task import Begun
from mesh.messages import Flag
from mesh.states import Status
from tests.core.bench import START


def marks(router):
    """{id: how it is marked} as the journal holds it."""
    return {record[0]: record[13] for row in router.journal.rows(RowKind.CHANGED) for record in row.records}


def test_it_goes_out_when_the_journal_says_that_it_may_have_begun(router, client):
    # Given a journal that takes its time, and a slot
    slot = router.slot()
    router.journal.waits = True

    # When a task comes that may run at most once
    task_id = client.call(flags=Flag.EARLY_ACK)
    assert (slot.looks(), marks(router)) == ([], {})
    router.commit(1)

    # Then one commit holds it and marks it, and it goes out when that is done, and not before
    assert marks(router) == {task_id: Begun.MAYBE_HERE}
    assert slot.looks() == [task_id]
    slot.ends(task_id)
    assert client.results() == {task_id: (Status.SUCCESS, b"done")}


def test_nobody_marks_what_nobody_would_run(router, client):
    client.call(flags=Flag.EARLY_ACK)
    router.passes(10.0)
    assert marks(router) == {}


def test_many_are_marked_in_one_commit(router, client):
    # Given more tasks than are marked together, and one that may run twice among them
    flags = [Flag.EARLY_ACK] * (CLEARED_AT_ONCE + 1)
    flags[1] = Flag.NONE
    client.publishes(*[client.record(flags=one) for one in flags])
    before = len(router.journal.commits)

    # When there is a slot
    router.journal.waits = True
    slot = router.slot()
    router.commit(1)

    # Then the first of them are, and the slot gets what it has room for, in order
    assert len(router.journal.commits) == before + 1
    assert len(marks(router)) == CLEARED_AT_ONCE - 1
    assert client.id(2) not in marks(router)
    assert client.id(CLEARED_AT_ONCE + 1) not in marks(router)
    held = slot.holds()
    assert held == [client.id(number) for number in range(1, len(held) + 1)]
    router.commit()


def test_what_waits_for_its_mark_holds_up_those_behind_it_and_no_other_queue(router, client):
    # Given a task that may run at most once at the head of a queue
    slot = router.slot(queues=("q", "other"))
    router.journal.waits = True
    first = client.call(flags=Flag.EARLY_ACK)
    second = client.call()
    elsewhere = client.call(queue="other")
    assert slot.holds() == [elsewhere]

    # When it is marked, then all go, in order
    router.commit()
    assert slot.holds() == [elsewhere, first, second]


def test_a_transient_task_needs_no_mark(router, client):
    slot = router.slot()
    router.journal.waits = True
    task_id = client.call(flags=Flag.EARLY_ACK | Flag.TRANSIENT)
    assert slot.holds() == [task_id]
    assert router.journal.under_way is None


def test_a_disk_that_fails_holds_it_back_and_nothing_else(router, client):
    # Given a slot, two tasks that are journaled, and a disk that fails from then on
    first = client.call(flags=Flag.EARLY_ACK)
    second = client.call(queue="other")
    router.journal.failure = "no space left"
    slot = router.slot(queues=("q", "other"))
    assert slot.holds() == [second]
    for _ in range(20):
        router.passes(1.0)
    assert slot.looks() == []

    # When it works again
    router.journal.failure = ""
    slot.ends(second)
    router.passes(10.0)

    # Then it goes out
    assert slot.holds() == [first]


def test_it_is_marked_once_while_it_waits(router, client):
    task_id = client.call(flags=Flag.EARLY_ACK)
    router.journal.waits = True
    slot = router.slot()
    commit = router.journal.under_way
    for _ in range(3):
        router.passes(0.01)
    router.commit()
    assert router.journal.commits[-1] == commit
    assert slot.holds() == [task_id]
    router.settles()
    assert len(router.journal.rows(RowKind.CHANGED)) == 1


def test_what_comes_back_unbegun_is_told_so_and_marked_anew(router, client):
    # Given a task that went out and is given back
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    assert slot.looks() == [task_id]
    router.journal.waits = True
    slot.says(m.Returned([1]))

    # When nothing is on disk yet, it does not go out again
    assert slot.looks() == []
    router.commit()

    # Then it does, under a new number
    assert slot.looks() == [task_id]
    assert list(slot.held) == [1, 2]
    assert marks(router) == {task_id: Begun.MAYBE_HERE}


def test_what_comes_back_and_stays_is_not_said_to_have_begun(router, client):
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    slot.looks()
    slot.node.says(m.Quiet(slot.node.name))
    slot.says(m.Returned([1]))
    router.settles()
    assert router.owner.dispatch.open[task_id].begun is Begun.NO
    assert marks(router) == {task_id: Begun.NO}


def test_a_retry_may_begin_once_more(router, client):
    # Given a task that asks to be run again
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    slot.looks()
    slot.says(m.Outcomes([[1, task_id, Status.RETRY, 5, b"why", 0, True, [router.now.wall_s + 5.0, None]]]))
    router.settles()
    assert marks(router) == {task_id: Begun.NO}

    # When its time has come, it is marked again and runs
    router.passes(5.0)
    assert slot.looks() == [task_id]
    assert marks(router) == {task_id: Begun.MAYBE_HERE}


def test_a_router_that_ends_says_that_what_has_not_gone_out_has_not_begun(router, client, restart):
    # Given tasks that are marked, of which a slot has room for one
    router.owner.dispatch.estimates.add("t", 10)
    slot = router.slot()
    client.calls(3, flags=Flag.EARLY_ACK, name="long")
    (first,) = slot.holds()
    assert set(marks(router).values()) == {Begun.MAYBE_HERE}
    assert router.owner.dispatch.clearing == {}

    # When the router ends in good order
    router._do(router.owner.stop(router.now))
    router.settles()

    # Then only the one that went out may have begun
    found = {task_id: Begun(mark) for task_id, mark in marks(router).items()}
    assert found == {first: Begun.MAYBE_HERE, client.id(2): Begun.NO, client.id(3): Begun.NO}


def test_an_early_acknowledged_task_that_was_lost_is_not_run_by_the_next_router(router, client, restart):
    node = router.node()
    slot = node.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    slot.looks()
    slot.dies(begun=1)
    assert client.failures()[task_id].status is Status.FAILURE
    router.settles()
    later = restart(router)
    assert (later.slot().holds(), task_id in later.owner.outcomes) == ([], True)


# --- by itself -----------------------------------------------------------------------------------


def test_a_peer_is_elsewhere_and_a_slot_is_here(bench):
    # Given two tasks that may run at most once
    first, second = bench.accept(2, flags=Flag.EARLY_ACK)
    first.row = second.row = 1

    # When a slot would take them, both are marked for here
    bench.slot()
    assert bench.dispatch.assign(START) == []
    assert bench.clear() == [1, 2]
    assert (first.begun, second.begun) == (Begun.MAYBE_HERE, Begun.MAYBE_HERE)
    assert bench.assign() == {"slot": [1]}

    # When a peer would take the other, it is marked once more, for anywhere
    bench.peer(credit=1)
    assert bench.dispatch.assign(START) == []
    assert bench.clear() == [2]
    assert second.begun is Begun.MAYBE_ANYWHERE
    assert bench.assign() == {"peer": [2]}


def test_what_may_have_begun_anywhere_may_go_to_a_slot_without_a_further_mark(bench):
    task = bench.accept(flags=Flag.EARLY_ACK)
    task.begun = Begun.MAYBE_ANYWHERE
    bench.slot()
    assert {consumer.peer: len(tasks) for consumer, _, tasks in bench.dispatch.assign(START)} == {b"slot": 1}
    assert bench.dispatch.to_clear == []


def test_only_those_at_the_top_of_the_queue_are_marked(bench):
    # Given tasks of two priorities, and one that has ended in the queue
    high = bench.accept(2, flags=Flag.EARLY_ACK, priority=5)
    low = bench.accept(flags=Flag.EARLY_ACK)
    bench.dispatch.finish(high[0])

    # When there is a slot
    bench.slot()
    bench.dispatch.assign(START)

    # Then the one that goes next is marked
    assert bench.clear() == [2]
    assert low.begun is Begun.NO


def test_a_task_that_may_run_at_most_once_and_was_lost_is_given_up(make_bench):
    bench = make_bench()
    bench.accept(flags=Flag.EARLY_ACK)
    bench.slot()
    bench.assign()
    bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=False)
    assert [(one.sequence, one.kind) for one in bench.ended] == [(1, MAY_HAVE_RUN)]
    assert bench.ended[0].reason == "it had begun and may run at most once: signal 9"
    assert bench.changed == []


def test_what_is_taken_back_unbegun_is_told_to_the_journal_where_it_was_marked(bench):
    bench.learn("t", 10)
    slot = bench.slot()
    bench.accept(2)
    marked = bench.accept(flags=Flag.EARLY_ACK)
    bench.assign()
    bench.dispatch.returned(slot, [1, 2, 3])
    assert (bench.changed, marked.begun) == ([3], Begun.NO)
    assert bench.waiting() == [1, 2, 3]
