"""How results come back, and what the router does with outcomes of earlier attempts and routers."""

import pytest

from mesh import messages as m
from mesh.core.outcomes import ENTRY_BYTES
from mesh.core.records import RowKind
from mesh.messages import Durability, Flag
from mesh.states import Status

# --- results -------------------------------------------------------------------------------------


def test_what_the_slot_has_delivered_itself_is_stored_and_not_sent_again(router):
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.ends(task_id, delivered=True)
    assert client.results() == {}
    assert router.owner.outcomes.get(task_id).body == b"done"


def test_an_ignored_result_is_neither_sent_nor_kept(router):
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=Flag.IGNORE_RESULT)
    slot.ends(task_id)
    assert (client.results(), task_id in router.owner.outcomes) == ({}, False)
    router.settles()
    assert (router.journal.tasks(), router.journal.ids(RowKind.OUTCOMES)) == ({}, {})


def test_a_client_that_comes_back_is_given_what_it_missed(router):
    # Given two calls, of which one ends while the client has no link
    client, slot = router.client(pid=7), router.slot()
    first, second = client.calls(2)
    client.says(m.Bye("cut"))
    slot.ends(first)

    # When it comes back and asks
    again = router.client(pid=7)
    again.says(m.Reconcile([[1, 2]]))

    # Then it has the one, and the other when that ends
    assert list(again.results()) == [first]
    slot.ends(second)
    assert list(again.results()) == [second]
    assert client.results() == {}


def test_what_the_router_has_never_heard_of_is_missing(router):
    client = router.client()
    client.calls(3)
    client.says(m.Reconcile([[2, 5], [9, 9]]))
    assert client.take(m.Missing) == [m.Missing([[4, 5], [9, 9]])]
    assert client.results() == {}


@pytest.mark.parametrize("others", [0, 40])
def test_a_call_whose_outcome_had_to_make_room_is_told_so(make_router, others):
    # Given a caller that missed an outcome, which has expired since, among few or many others
    router = make_router(result_expires_s=10.0)
    client, slot = router.client(pid=7), router.slot()
    task_id = client.call()
    client.says(m.Bye("cut"))
    slot.ends(task_id)
    router.passes(10.0)
    other = router.client(2)
    for one in other.calls(others):
        slot.ends(one)
    again = router.client(pid=7)

    # When it asks
    again.says(m.Reconcile([[1, 1]]))

    # Then it does not wait for ever
    (failure,) = again.failures().values()
    assert failure.status is Status.FAILURE
    assert failure.error.startswith("ResultExpired")


def test_what_the_caller_has_is_the_first_to_go(make_router):
    # Given room for few outcomes, all of them stored
    router = make_router(results_max_bytes=10 * (1000 + ENTRY_BYTES))
    client, slot = router.client(), router.slot()
    ids = client.calls(11)
    for task_id in ids[:10]:
        slot.ends(task_id, body=b"x" * 1000)

    # When the client has some of them, and one more comes
    client.says(m.Received([[5, 6], [8, 8]]))
    slot.ends(ids[10], body=b"x" * 1000)

    # Then those it has made room
    kept = [number for number, task_id in enumerate(ids, start=1) if task_id in router.owner.outcomes]
    assert set(kept) >= {1, 2, 3, 4, 7, 9, 10, 11}
    assert len(kept) < 11


@pytest.mark.parametrize(
    "received",
    [
        pytest.param([[1, 1]], id="exactly"),
        pytest.param([[1, 1], [3, 1 << 39]], id="in ranges wider than anything that is kept"),
    ],
)
def test_only_what_a_caller_says_it_has_counts_as_received(router, received):
    # Given outcomes of two callers
    client, other, slot = router.client(1), router.client(2), router.slot()
    ids = [*client.calls(2), *other.calls(1)]
    for task_id in ids:
        slot.ends(task_id)

    # When one says what it has
    client.says(m.Received(received))

    # Then the others are still waited for
    assert set(router.owner.outcomes._received) == {ids[0]}
    assert set(router.owner.outcomes.unreceived) == set(ids[1:])


@pytest.mark.parametrize(
    "received",
    [
        pytest.param([[1, 1]], id="exactly"),
        pytest.param([[1, 1], [3, 1 << 39]], id="in ranges wider than anything that is known"),
    ],
)
def test_a_caller_may_say_that_it_has_an_outcome_before_the_router_hears_of_it(router, received):
    # Given two calls, of which the caller has got the first one's outcome from the slot
    router.learns("t")
    client, slot = router.client(), router.slot()
    first, second = client.calls(2)
    client.says(m.Received(received))

    # When the outcomes reach the router
    slot.ends(first, second, delivered=True)
    router.settles()

    # Then the first is not waited for, nor was it written
    assert set(router.owner.outcomes.unreceived) == {second}
    assert set(router.owner.ledger.rows.of_outcomes) == {second}


def test_a_call_can_not_say_itself_what_only_a_router_says(router):
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=Flag.RECEIVED | Flag.REDELIVERED)
    assert slot.held[slot.lease_of(task_id)].flags == Flag.NONE
    slot.ends(task_id)
    assert set(router.owner.outcomes.unreceived) == {task_id}


def test_what_is_run_again_after_its_caller_got_a_first_outcome_is_not_waited_for(router):
    # Given a slot that told the caller, and died before it told the router
    client, slot = router.client(), router.slot()
    task_id = client.call()
    lease = slot.lease_of(task_id)
    client.says(m.Received([[1, 1]]))
    slot.dies(begun=lease)

    # When another slot ends it as well
    router.slot().ends(task_id)

    # Then that outcome is kept for whoever asks, and is among the first to go
    assert set(router.owner.outcomes._received) == {task_id}


# --- outcomes of earlier attempts and routers ----------------------------------------------------


def test_the_first_outcome_of_a_task_counts_be_it_of_an_earlier_attempt(router):
    # Given a task that was given back, though it had run, and that is leased anew
    client, slot = router.client(), router.slot()
    task_id = client.call()
    outcome = slot.outcome(task_id, b"first")
    slot.says(m.Returned([1]))
    assert slot.looks() == [task_id]

    # When the outcome of the first run arrives after all, twice
    slot.says(outcome, outcome)

    # Then it is the one that is told and stored, once, and nothing comes of the other run
    assert client.results() == {task_id: (Status.SUCCESS, b"first")}
    slot.says(m.Outcomes([[2, task_id, Status.SUCCESS, 1, b"second", 0, False]]))
    assert client.results() == {}
    assert router.owner.outcomes.get(task_id).body == b"first"
    assert router.owner.dispatch.open == {}


def test_a_second_outcome_changes_nothing(router):
    # Given a task that two slots have run, since the first was thought not to have begun it
    client, node = router.client(), router.node()
    slow = node.slot(0)
    task_id = client.call()
    outcome = slow.outcome(task_id, b"slow")
    node.says(m.Quiet("n"))
    node.says(m.Recalled(0, slow.pid, 0, 1))
    quick = router.slot()
    quick.ends(task_id, body=b"quick")
    assert client.results() == {task_id: (Status.SUCCESS, b"quick")}

    # When the outcome of the other comes too
    slow.says(outcome)

    # Then nobody is told, and the first stays
    assert client.results() == {}
    assert router.owner.outcomes.get(task_id).body == b"quick"


def test_an_outcome_that_came_before_its_call_answers_it_instead_of_another_run(router):
    # Given a slot that has run a task of an earlier router, and now knows this one
    slot = router.slot(last_lease=40)
    client = router.client(ended_upto=6)
    task_id = client.id(7)
    slot.says(m.Outcomes([[33, task_id, Status.SUCCESS, 5, b"value", 0, False]]))
    assert (slot.take(m.NeedHello), client.results()) == ([], {task_id: (Status.SUCCESS, b"value")})

    # When its caller sends the call once more
    client.last_sequence = 6
    client.publishes(client.record())

    # Then it has the outcome and its confirm, and nothing is run
    assert client.results() == {task_id: (Status.SUCCESS, b"value")}
    assert (client.confirmed(), slot.looks()) == ([[7, 7]], [])

    # And when the call comes a third time, nothing changes
    client.last_sequence = 6
    client.publishes(client.record())
    assert (client.results(), slot.looks(), router.owner.dispatch.open) == ({}, [], {})


def test_an_outcome_that_came_before_its_call_is_found_by_a_caller_that_asks(router):
    slot, client = router.slot(last_lease=40), router.client(ended_upto=6)
    slot.says(m.Outcomes([[33, client.id(7), Status.SUCCESS, 5, b"value", 0, True]]))
    client.says(m.Reconcile([[7, 7]]))
    assert client.results() == {client.id(7): (Status.SUCCESS, b"value")}
    assert client.take(m.Missing) == []
    client.last_sequence = 6
    client.publishes(client.record())
    assert (client.results(), slot.looks()) == ({}, [])


def test_an_outcome_that_came_before_its_call_needs_no_room(make_router):
    router = make_router(tasks_max=1)
    slot, client = router.slot(last_lease=40, queues=("other",)), router.client()
    slot.says(m.Outcomes([[33, client.id(2), Status.SUCCESS, 5, b"value", 0, True]]))
    client.calls(2)
    assert client.take(m.Confirm) == [
        m.Confirm(Durability.NONE, [[2, 2]], []),
        m.Confirm(Durability.JOURNALED, [[1, 1]], []),
    ]
    assert list(client.results()) == [client.id(2)]


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(lambda client: b"other!" + client.id(1)[6:], id="a task of another owner"),
        pytest.param(lambda client: client.id(3), id="a task that its caller says has ended"),
    ],
)
def test_outcomes_that_nobody_waits_for_are_dropped(router, foreign):
    slot, client = router.slot(), router.client(ended_upto=5)
    slot.says(m.Outcomes([[1, foreign(client), Status.SUCCESS, 5, b"value", 0, False]]))
    assert (len(router.owner.outcomes), client.results()) == (0, {})
