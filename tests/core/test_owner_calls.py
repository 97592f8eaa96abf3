"""What the router answers to calls: confirms and refusals, and what it journals."""

import pytest

from mesh import messages as m
from mesh.core.callers import CONFIRM_DELAY_S
from mesh.core.ledger import LINGER_S
from mesh.core.records import RowKind
from mesh.messages import Durability
from mesh.states import Status
from tests.core.builders import BOOT

# --- accepting -----------------------------------------------------------------------------------


def test_a_call_runs_and_its_result_comes_back(router):
    # Given a client and a slot
    client, slot = router.client(), router.slot()

    # When a call is made and ends
    task_id = client.call(body=b"args")
    assert slot.looks() == [task_id]
    assert (slot.held[1].name, slot.held[1].body, slot.held[1].attempt) == ("t", b"args", 0)
    slot.ends(task_id, body=b"value")

    # Then the client has the value, and nothing is left to be done
    assert client.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.dispatch.open == {}


def test_frames_go_with_their_own_tasks_and_results(router):
    # Given a call of three, the first and last with buffers, one of which had come before
    client, other = router.client(1), router.client(2)
    repeated = client.record(n_frames=1)
    client.publishes(repeated, frames=(b"z",))
    client.publishes(repeated, *[client.record(n_frames=n) for n in (2, 0, 1)], frames=(b"z", b"a", b"b", b"c"))

    # When all are leased, and two of them end with buffers
    slots = [router.slot() for _ in range(4)]
    assert [slot.buffers for slot in slots] == [[(b"z",)], [(b"a", b"b")], [], [(b"c",)]]
    other.says(m.Ask(1, True, [client.id(3)]))
    records = [[1, client.id(n), Status.SUCCESS, 5, b"", count, False] for n, count in ((2, 0), (3, 2))]
    for slot, record, frames in zip(slots[1:3], records, ((), (b"r", b"s")), strict=True):
        slot.says(m.Outcomes([record]), frames=frames)

    # Then each message has its own
    assert (client.buffers, other.buffers) == ([(b"r", b"s")], [(b"r", b"s")])
    assert router.owner.outcomes.get(client.id(3)).frames == (b"r", b"s")


def test_frames_of_outcomes_in_one_message_go_to_their_own_tasks(router):
    # Given a slot that is told to have run two tasks of an earlier router
    slot = router.slot(last_lease=40)
    client = router.client()
    records = [[n, client.id(n), Status.SUCCESS, 5, b"", count, False] for n, count in ((1, 1), (2, 0), (3, 2))]

    # When it says so in one message, with a repeated one among them
    slot.says(m.Outcomes([records[0], *records]), frames=(b"a", b"a", b"b", b"c"))

    # Then each is stored with its own
    assert [router.owner.outcomes.get(client.id(n)).frames for n in (1, 2, 3)] == [(b"a",), (), (b"b", b"c")]
    assert client.buffers == [(b"a", b"b", b"c")]


def test_repeated_calls_are_confirmed_and_not_run_twice(router):
    # Given three calls that have come, one of which has ended
    client = router.client()
    records = [client.record() for _ in range(3)]
    client.publishes(*records)
    slot = router.slot()
    slot.ends(client.id(1))

    # When all are sent again, with a new one among them
    client.take(m.Confirm)
    client.publishes(*records, client.record())

    # Then they are confirmed again, at the level that holds: none for what has ended. And only the new one is new
    assert client.take(m.Confirm) == [
        m.Confirm(Durability.NONE, [[1, 1]], []),
        m.Confirm(Durability.JOURNALED, [[2, 3]], []),
        m.Confirm(Durability.JOURNALED, [[4, 4]], []),
    ]
    assert [client.id(n) for n in (2, 3, 4)] == list(router.owner.dispatch.open)


def test_duplicates_are_told_by_ranges_however_many_calls_there_are(router):
    client = router.client()
    for first in range(1, 5_001, 500):
        client.publishes(*[client.record() for _ in range(first, first + 500)])
    (caller,) = router.owner.intake.callers.values()
    assert caller.seen.ranges() == [[1, 5_000]]


def test_calls_out_of_order_are_taken_as_they_are(router):
    client = router.client()
    records = [client.record() for _ in range(5)]
    client.publishes(records[0], records[2], records[4])
    client.publishes(records[1], records[3])
    assert client.confirmed() == [[1, 1], [3, 3], [5, 5], [2, 2], [4, 4]]
    assert len(router.owner.dispatch.open) == 5


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(m.Publish(True, [[1, "t", "q", 0, 0, b"", 0, None]]), id="calls"),
        pytest.param(m.Received([[1, 1]]), id="receipts"),
        pytest.param(m.Reconcile([[1, 1]]), id="a reconcile"),
        pytest.param(m.Ask(1, True, ["x"]), id="a question"),
        pytest.param(m.Outcomes([[1, b"x" * 16, 0, 1, b"", 0, True]]), id="outcomes"),
        pytest.param(m.Returned([1]), id="returned leases"),
    ],
)
def test_what_a_stranger_says_is_answered_with_need_hello(router, message):
    # Given a client that has gone
    client = router.client()
    client.says(m.Bye("done"))
    client.told.clear()

    # When it says something
    client.says(message)

    # Then it is told to introduce itself, and nothing else happens
    assert client.told == [m.NeedHello(BOOT)]
    assert (router.owner.dispatch.open, router.owner.answers.watchers, len(router.owner.outcomes)) == ({}, {}, 0)


# --- confirms ------------------------------------------------------------------------------------


def test_confirms_wait_a_little_and_are_then_told_together(make_router):
    # Given a client that does not wait for its confirms, of a router without a journal
    router = make_router(journaled=False)
    client = router.client()

    # When it makes calls in several messages
    for _ in range(3):
        client.publishes(client.record(), client.record(), now=False)
    assert client.confirmed() == []
    assert router.owner.next_deadline_mono_s() == router.mono_s + CONFIRM_DELAY_S
    router.passes(CONFIRM_DELAY_S * 0.9)
    assert client.confirmed() == []
    router.passes(CONFIRM_DELAY_S * 0.2)

    # Then one confirm covers all, and there is no other
    assert client.confirmed() == [[1, 6]]
    assert router.owner.next_deadline_mono_s() is None


def test_the_confirm_of_what_is_to_be_journaled_comes_when_the_commit_has_waited_for_others(router):
    # Given a client that does not wait for its confirms, and calls that are to be journaled
    client = router.client()

    # When it makes calls in several messages
    for _ in range(3):
        client.publishes(client.record(), client.record(), now=False)
    router.passes(LINGER_S * 0.9)
    assert (client.confirmed(), router.journal.commits) == ([], [])
    assert router.owner.next_deadline_mono_s() == 100.0 + LINGER_S
    router.passes(LINGER_S * 0.2)

    # Then one commit holds all, and one confirm covers them
    assert client.confirmed() == [[1, 6]]
    assert len(router.journal.commits) == 1
    assert router.owner.next_deadline_mono_s() is None


def test_a_confirm_that_is_waited_for_comes_at_once_and_takes_the_others_along(router):
    client = router.client()
    client.publishes(client.record(), now=False)
    client.publishes(client.record(), now=True)
    assert client.confirmed() == [[1, 2]]


def test_nothing_is_confirmed_before_the_journal_holds_it(router):
    # Given a journal that takes its time
    router.journal.waits = True
    client = router.client()

    # When a call is made, and long after it is journaled
    client.publishes(client.record(), now=True)
    router.passes(1.0)
    assert client.take(m.Confirm) == []
    router.commit()

    # Then it is confirmed at that moment, with the level that was met
    assert client.take(m.Confirm) == [m.Confirm(Durability.JOURNALED, [[1, 1]], [])]


def test_a_slow_journal_makes_no_busy_loop(router):
    router.journal.waits = True
    client = router.client()
    client.publishes(client.record(), now=True)
    router.passes(1.0)
    deadline = router.owner.next_deadline_mono_s()
    assert deadline is None or deadline > router.mono_s
    router.commit()


def test_what_is_journaled_after_a_confirm_is_confirmed_too(router):
    # Given two calls, of which the journal holds the first
    router.journal.waits = True
    client = router.client()
    client.publishes(client.record(), now=True)
    client.publishes(client.record(), now=False)
    router.passes(CONFIRM_DELAY_S)
    router.commit(1)
    assert client.confirmed() == [[1, 1]]

    # When it holds the second
    router.passes(LINGER_S)
    router.commit()

    # Then that is told as well
    assert client.confirmed() == [[2, 2]]


def test_a_confirm_that_is_due_goes_when_the_journal_holds_its_calls(router):
    router.journal.waits = True
    client = router.client()
    client.publishes(client.record(), now=False)
    router.passes(LINGER_S)
    assert client.confirmed() == []
    router.commit()
    assert client.confirmed() == [[1, 1]]


def test_calls_with_gaps_between_them_wait_for_their_own_record(router):
    # Given calls in two messages, the second of which leaves some out
    router.journal.waits = True
    client = router.client()
    records = [client.record() for _ in range(5)]
    client.publishes(records[0])
    client.publishes(records[1], records[3])

    # When the journal holds the first message, then the second
    router.commit(1)
    assert client.confirmed() == [[1, 1]]
    router.commit()

    # Then each is confirmed in its turn
    assert client.confirmed() == [[2, 2], [4, 4]]


def test_a_client_that_comes_back_gets_the_confirms_it_missed(router):
    # Given a client that loses its link before its confirm is due
    client = router.client(pid=7)
    client.publishes(client.record(), now=False)
    client.says(m.Bye("cut"))
    router.passes(1.0)

    # When it is back
    again = router.client(pid=7)
    router.passes(0.0)

    # Then it is told
    assert again.confirmed() == [[1, 1]]


def test_a_confirm_of_one_client_leaves_that_of_another_due(make_router):
    # Given two clients of a router without a journal, of which only one waits for its confirm
    router = make_router(journaled=False)
    first, second = router.client(1), router.client(2)
    second.publishes(second.record(), now=False)
    first.publishes(first.record(), now=True)
    assert (first.confirmed(), second.confirmed()) == ([[1, 1]], [])

    # When the time of the other has come
    assert router.owner.next_deadline_mono_s() == router.mono_s + CONFIRM_DELAY_S
    router.passes(CONFIRM_DELAY_S)

    # Then it is told too
    assert second.confirmed() == [[1, 1]]


def test_a_caller_that_asks_is_told_of_nothing_that_the_journal_does_not_hold(router):
    router.journal.waits = True
    client = router.client()
    client.publishes(client.record(), now=True)
    client.says(m.Reconcile([[1, 1]]))
    router.passes(1.0)
    assert client.confirmed() == []
    router.commit()
    assert client.confirmed() == [[1, 1]]


def test_a_lost_confirm_is_told_again_when_the_caller_asks(router):
    client = router.client()
    client.call()
    client.take(m.Confirm)
    client.says(m.Reconcile([[1, 1]]))
    assert client.confirmed() == [[1, 1]]


# --- what is journaled ---------------------------------------------------------------------------


def test_what_happens_at_the_same_time_is_one_commit(router):
    # Given a client and a slot that holds a task
    client, slot = router.client(), router.slot()
    first = client.call()

    # When its outcome and further calls arrive together
    records = [client.record(), client.record()]
    outcome, publish = slot.outcome(first), m.Publish(True, records)
    router.receive([slot.arrival(outcome), client.arrival(publish)])

    # Then all of it is in the next commit, and the first row goes: nothing stands in it any more
    assert [commit.number for commit in router.journal.commits] == [1, 2]
    assert router.journal.last() == {
        RowKind.TASKS: [[client.prefix, records, []]],
        RowKind.OUTCOMES: [[first, Status.SUCCESS, b"done", [], router.now.wall_s, None, False]],
    }
    assert router.journal.commits[-1].removed == [[1, 1]]


def test_what_is_refused_is_neither_journaled_nor_confirmed(make_router):
    # Given a router with room for two tasks
    router = make_router(tasks_max=2)
    client = router.client()

    # When four calls come, then one more
    records = [client.record() for _ in range(4)]
    client.publishes(*records)
    client.publishes(client.record())

    # Then only what was taken is
    assert [row.records for row in router.journal.rows(RowKind.TASKS)] == [[[client.prefix, records[:2], []]]]
    confirms = client.take(m.Confirm)
    assert [one for confirm in confirms for one in confirm.confirmed] == [[1, 2]]
    assert [sequence for confirm in confirms for sequence, *_ in confirm.refused] == [3, 4, 5]


# --- refusals ------------------------------------------------------------------------------------


def refusals(client):
    """{sequence: reason} of what was refused since it looked last."""
    return {sequence: reason for confirm in client.take(m.Confirm) for sequence, _, reason in confirm.refused}


def test_a_full_router_refuses_and_takes_again_when_there_is_room(make_router):
    # Given a router with room for one task, which a slot holds
    router = make_router(tasks_max=1)
    client, slot = router.client(), router.slot()
    client.call()
    client.take(m.Confirm)

    # When another call comes, and once more when the first has ended
    late = client.record()
    client.publishes(late)
    reasons = refusals(client)
    slot.ends()
    client.publishes(late)

    # Then it was refused at once and with the remedy, and is taken the second time
    assert list(reasons) == [2]
    assert "it holds 1 tasks already; start more nodes, or raise queue_max_tasks" in reasons[2]
    assert client.confirmed() == [[2, 2]]
    assert slot.looks() == [client.id(2)]


def test_a_custom_id_that_is_taken_is_refused(router):
    # Given a call with an id of its own
    client, other = router.client(1), router.client(2)
    client.call(options={"id": "order-17"})

    # When another call comes under it, from whomever
    other.publishes(other.record(options={"id": "order-17"}))

    # Then it is refused, and the first one stays known by it
    assert refusals(other) == {1: "task_id 'order-17' is taken; give another, or none"}
    assert router.state(client, "order-17")[1] == client.id(1)
    assert len(router.owner.dispatch.open) == 1


def test_a_custom_id_of_a_call_that_was_refused_is_free(make_router):
    # Given a call with an id of its own that finds no room
    router = make_router(tasks_max=1)
    client, slot = router.client(), router.slot()
    client.call()
    record = client.record(options={"id": "order-17"})
    client.publishes(record)
    assert list(refusals(client)) == [2]

    # When there is room, and it comes again
    slot.ends()
    client.publishes(record)

    # Then it is taken
    assert refusals(client) == {}
    assert slot.looks() == [client.id(2)]


def test_a_refusal_is_told_at_once(router):
    client = router.client()
    client.publishes(client.record(options={"id": "taken"}), client.record(options={"id": "taken"}), now=False)
    assert list(refusals(client)) == [2]


def test_a_refused_call_that_comes_again_is_refused_again(router):
    # Given a call that was refused, and a refusal that got lost
    client = router.client()
    client.call(options={"id": "taken"})
    record = client.record(options={"id": "taken"})
    client.publishes(record)
    client.told.clear()

    # When the client sends it again, or asks about it
    client.says(m.Reconcile([[2, 2]]))
    client.publishes(record)

    # Then it is not known, and refused once more
    assert client.take(m.Missing) == [m.Missing([[2, 2]])]
    assert list(refusals(client)) == [2]
