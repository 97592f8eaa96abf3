"""What the router answers to those who call: confirms, refusals, results, and where a task is."""

import pytest

from mesh import messages as m
from mesh.core import intake as intake_module
from mesh.core import owner as owner_module
from mesh.core.callers import CONFIRM_DELAY_S
from mesh.core.effects import Persist
from mesh.messages import Durability, Flag
from mesh.states import Status
from tests.core.builders import BOOT, wall

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

    # Then they are confirmed again, and only the new one is new
    assert client.confirmed() == [[1, 4]]
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


def test_confirms_wait_a_little_and_are_then_told_together(router):
    # Given a client that does not wait for its confirms
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


def test_a_confirm_that_is_waited_for_comes_at_once_and_takes_the_others_along(router):
    client = router.client()
    client.publishes(client.record(), now=False)
    client.publishes(client.record(), now=True)
    assert sorted(client.confirmed()) == [[1, 1], [2, 2]]


def test_nothing_is_confirmed_before_the_journal_holds_it(make_router):
    # Given a journal that takes its time
    router = make_router(durability=Durability.JOURNALED)
    router.uncommitted = []
    client = router.client()

    # When a call is made, and long after it is journaled
    client.publishes(client.record(), now=True)
    router.passes(1.0)
    assert client.take(m.Confirm) == []
    router.commit()

    # Then it is confirmed at that moment, with the level that was met
    assert client.take(m.Confirm) == [m.Confirm(Durability.JOURNALED, [[1, 1]], [])]


def test_a_slow_journal_makes_no_busy_loop(router):
    router.uncommitted = []
    client = router.client()
    client.publishes(client.record(), now=True)
    router.passes(1.0)
    deadline = router.owner.next_deadline_mono_s()
    assert deadline is None or deadline > router.mono_s
    router.commit()


def test_what_is_journaled_after_a_confirm_is_confirmed_too(router):
    # Given two calls, of which the journal holds the first when the confirm is due
    router.uncommitted = []
    client = router.client()
    client.publishes(client.record(), now=False)
    client.publishes(client.record(), now=False)
    router.commit(1)
    router.passes(CONFIRM_DELAY_S)
    assert client.confirmed() == [[1, 1]]

    # When it holds the second
    router.commit()

    # Then that is told as well
    assert client.confirmed() == [[2, 2]]


def test_a_confirm_that_is_due_goes_when_the_journal_holds_its_calls(router):
    router.uncommitted = []
    client = router.client()
    client.publishes(client.record(), now=False)
    router.mono_s += CONFIRM_DELAY_S
    router.commit()
    assert client.confirmed() == [[1, 1]]


def test_calls_with_gaps_between_them_wait_for_their_own_record(router):
    # Given calls in two messages, the second of which leaves some out
    router.uncommitted = []
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


def test_a_confirm_of_one_client_leaves_that_of_another_due(router):
    # Given two clients, of which only one waits for its confirm
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
    router.uncommitted = []
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


def test_one_batch_is_one_record_for_the_journal(router):
    # Given a client and a slot that holds a task
    client, slot = router.client(), router.slot()
    first = client.call()
    router.persisted.clear()

    # When its outcome and further calls arrive together
    records = [client.record(), client.record()]
    outcome, publish = slot.outcome(first), m.Publish(True, records)
    router.receive(
        [
            owner_module.Arrival(False, slot.address, outcome),
            owner_module.Arrival(False, client.address, publish),
        ]
    )

    # Then all of it is one effect, under the next number
    assert router.persisted == [Persist(2, ((client.prefix, records),), (first,))]


def test_what_is_refused_is_neither_journaled_nor_confirmed(make_router):
    # Given a router with room for two tasks
    router = make_router(tasks_max=2)
    client = router.client()

    # When four calls come, then one more
    records = [client.record() for _ in range(4)]
    client.publishes(*records)
    client.publishes(client.record())

    # Then only what was taken is
    assert [persist.published for persist in router.persisted] == [((client.prefix, records[:2]),)]
    confirms = client.take(m.Confirm)
    assert [one for confirm in confirms for one in confirm.confirmed] == [[1, 2]]
    assert [sequence for confirm in confirms for sequence, _ in confirm.refused] == [3, 4, 5]


# --- refusals ------------------------------------------------------------------------------------


def refusals(client):
    """{sequence: reason} of what was refused since it looked last."""
    return dict(one for confirm in client.take(m.Confirm) for one in confirm.refused)


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
    assert router.persisted[-1].ended == (task_id,)


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
    router = make_router(results_max_bytes=10 * 1256)
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
    assert set(router.owner.outcomes._unreceived) == set(ids[1:])


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
    assert client.confirmed() == [[1, 2]]
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


# --- questions -----------------------------------------------------------------------------------


def test_a_task_is_told_to_be_where_it_is(router):
    # Given a task that a slot begins, one that is due later, and one that is ready
    client, slot = router.client(), router.slot()
    running = client.call(flags=Flag.TRACK_STARTED)
    ready = client.call(queue="elsewhere")
    waiting = client.call(options={"eta": wall(router.mono_s + 60)})

    # When its slot says that it begins
    assert router.state(client, running)[2:] == ["PENDING", {"known": True, "queue": "q", "phase": "LEASED"}]
    slot.says(m.Started(slot.lease_of(running), 5.0))

    # Then each is told apart
    state, info = router.state(client, running)[2:]
    assert (state, info["started"], info["pid"], info["hostname"]) == ("STARTED", 5.0, slot.pid, slot.node.name)
    assert router.state(client, ready)[2:] == ["PENDING", {"known": True, "queue": "elsewhere", "phase": "READY"}]
    assert router.state(client, waiting)[2:] == ["PENDING", {"known": True, "queue": "q", "phase": "WAITING"}]


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.REVOKED])
def test_a_task_that_has_ended_is_told_by_its_outcome(router, status):
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.says(m.Outcomes([[slot.lease_of(task_id), task_id, status, 1, b"", 0, True]]))
    assert router.state(client, task_id) == [task_id, task_id, status.name, {"known": True}]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(lambda client: client.id(99), lambda client: [client.id(99), "PENDING", None], id="an unknown id"),
        pytest.param(lambda client: "order-17", lambda client: [None, "PENDING", None], id="an unknown custom id"),
        pytest.param(
            lambda client: client.id(1),
            lambda client: [client.id(1), "PENDING", {"known": True, "gone": True}],
            id="one whose outcome is gone",
        ),
    ],
)
def test_what_is_unknown_is_told_from_what_is_gone(make_router, asked, expected):
    # Given a call whose outcome has expired
    router = make_router(result_expires_s=1.0)
    client, slot = router.client(), router.slot()
    slot.ends(client.call())
    router.passes(1.0)

    # When somebody asks
    record = router.state(client, asked(client))

    # Then it is told what is known of the id
    assert record[1:] == expected(client)


def test_who_watches_is_told_when_the_task_ends(router):
    # Given a client that asks about another's call, by its id or by a custom one
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call(options={"id": "order-17"})
    other.says(m.Ask(5, True, ["order-17", client.id(1)]))
    (states,) = other.take(m.States)
    assert [(asked, known) for asked, known, _, _ in states.states] == [("order-17", task_id), (task_id, task_id)]

    # When the task ends
    slot.ends(task_id, body=b"value")

    # Then both have it, and nobody is remembered
    assert other.results() == client.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


def test_who_only_asks_is_not_told_later(router):
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call()
    other.says(m.Ask(5, False, [task_id]))
    slot.ends(task_id)
    assert other.results() == {}


def test_who_watches_what_has_ended_is_told_at_once(router):
    client, other, slot = router.client(1), router.client(2), router.slot()
    slot.ends(client.call(), body=b"value")
    other.says(m.Ask(5, True, [client.id(1)]))
    assert other.results() == {client.id(1): (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


def test_who_watches_what_is_gone_is_told_so(make_router):
    router = make_router(result_expires_s=1.0)
    client, other, slot = router.client(1), router.client(2), router.slot()
    task_id = client.call()
    slot.ends(task_id)
    router.passes(1.0)
    other.says(m.Ask(5, True, [task_id]))
    assert other.failures()[task_id].error.startswith("ResultExpired")
    assert router.owner.answers.watchers == {}


def test_watchers_beyond_the_bound_are_not_remembered(router, monkeypatch):
    monkeypatch.setattr("mesh.core.answers.MAX_WATCHED", 2)
    client = router.client()
    client.says(m.Ask(5, True, ["a", "b", "c"]))
    assert set(router.owner.answers.watchers) == {"a", "b"}


def test_who_watches_a_custom_id_before_there_is_a_call_is_told_of_both(router):
    # Given a client that watches a custom id that nobody has used
    other = router.client(2)
    other.says(m.Ask(5, True, ["order-17"]))
    other.told.clear()

    # When a call takes that id, and ends
    client, slot = router.client(1), router.slot()
    task_id = client.call(options={"id": "order-17"})
    slot.ends(task_id, body=b"value")

    # Then the watcher learns which task it is, then its outcome
    assert [type(message) for message in other.told] == [m.States, m.Results]
    assert other.take(m.States)[0].states == [["order-17", task_id, "PENDING", {"known": True}]]
    assert other.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


@pytest.mark.parametrize("leave", ["says bye", "dies", "comes back over another link"])
def test_who_leaves_watches_no_more(router, leave):
    client, other, slot = router.client(1), router.client(2, pid=7), router.slot()
    task_id = client.call()
    other.says(m.Ask(5, True, [task_id]))
    match leave:
        case "says bye":
            other.says(m.Bye("done"))
        case "dies":
            router.process_ended(7)
        case _:
            router.client(2, pid=7)
    assert router.owner.answers.watchers == {}
    slot.ends(task_id)
    assert other.results() == {}


def test_who_watches_an_ignored_result_is_told_that_there_is_none(router):
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=Flag.IGNORE_RESULT)
    client.says(m.Ask(5, True, [task_id]))
    slot.ends(task_id)
    assert client.failures()[task_id].error.startswith("ResultExpired")


# --- bounds --------------------------------------------------------------------------------------


def test_clients_longest_gone_are_forgotten_first_and_connected_ones_never(router, monkeypatch):
    # Given room for twenty clients, of which most have come and gone
    monkeypatch.setattr(intake_module, "MAX_CALLERS", 20)
    stays = router.client(1_000)
    for incarnation in range(19):
        client = router.client(incarnation)
        router.passes(1.0)
        client.says(m.Bye("done"))

    # When another one comes
    last = router.client(2_000)

    # Then the first that went are forgotten, and who is here is known
    known = router.owner.intake.callers
    assert len(known) <= 20
    assert last.prefix in known
    assert stays.prefix in known
    slot = router.slot()
    slot.ends(last.call())
    assert len(last.results()) == 1


def test_names_and_ids_of_what_is_past_are_forgotten_now_and_then(make_router, monkeypatch):
    # Given a router that looks for them often, a custom id, a queue and an early outcome, all of them past
    monkeypatch.setattr(owner_module, "FORGET_EVERY", 1)
    router = make_router(result_expires_s=1.0)
    client, slot = router.client(), router.slot()
    kept = client.call(queue="kept", options={"id": "kept"})
    slot.ends(client.call(options={"id": "past"}))
    slot.says(m.Outcomes([[9, client.id(50), Status.SUCCESS, 5, b"", 0, True]]))
    past = router.slot(queues=("past",))
    past.dies()
    assert set(router.owner.intake.custom) == {"kept", "past"}
    router.passes(1.0)

    # When anything more is journaled
    slot.ends(client.call())

    # Then only what is in use is known
    assert router.owner.intake.custom == {"kept": kept}
    assert router.owner.answers.orphans == set()
    assert set(router.owner.dispatch.queues) == {"kept", "q"}
