"""The caller's side: what is published, what becomes of it, and what the router is told of that."""

import pytest

from mesh import ids
from mesh import messages as m
from mesh.core import calls as calls_module
from mesh.core.calls import PUBLISH_BYTES, PUBLISH_CALLS, RECEIVED_AT_ONCE, RECONCILE_S
from mesh.exceptions import NotJournaled, OperationalError, QueueFull, TaskIdTaken
from mesh.messages import Durability, Flag
from mesh.states import Status
from tests.core.caller_side import OTHER_BOOT, Frame, add, confirm, numbers, publish, results

# --- publishing ----------------------------------------------------------------------------------


def test_calls_are_numbered_from_one_and_published_in_order(calls):
    # Given three calls
    pending = add(calls, 3)
    assert numbers(pending) == [1, 2, 3]

    # When they are published
    message, frames = calls.next_publish()

    # Then they are in one message, and there is nothing more
    assert message == m.Publish(False, [[n, "t", "q", 0, Flag.NONE, b"args", 0, None] for n in (1, 2, 3)])
    assert (frames, calls.has_unsent, calls.unconfirmed) == ((), False, 3)


def test_a_call_keeps_its_custom_id_and_its_options(calls):
    pending = add(calls, options={"id": "order-17", "eta": 5.0})
    message, _ = calls.next_publish()
    assert pending.custom_id == "order-17"
    assert message.calls[0][7] == {"id": "order-17", "eta": 5.0}


@pytest.mark.parametrize(
    ("count", "body", "frames", "sizes"),
    [
        pytest.param(PUBLISH_CALLS + 1, b"", None, [PUBLISH_CALLS, 1], id="many calls"),
        pytest.param(5, b"x" * (PUBLISH_BYTES // 2), None, [2, 2, 1], id="large bodies"),
        pytest.param(3, b"", [b"x" * PUBLISH_BYTES], [1, 1, 1], id="large frames"),
        pytest.param(3, b"", [b"x"] * (m.FRAMES_MAX // 2), [2, 1], id="many frames"),
        pytest.param(2, b"", [b"x"] * m.FRAMES_MAX, [1, 1], id="as many frames as fit a message"),
        pytest.param(2, b"", [b"x"] * (m.FRAMES_MAX + 1), [1, 1], id="more frames than fit a message"),
    ],
)
def test_a_message_is_bounded(calls, count, body, frames, sizes):
    add(calls, count, body=body, frames=frames)
    assert [len(one) for one in publish(calls)] == sizes


def test_frames_follow_in_the_order_of_their_calls(calls):
    add(calls, frames=[b"a", b"b"])
    add(calls)
    add(calls, frames=[b"c"])
    message, frames = calls.next_publish()
    assert ([record[6] for record in message.calls], frames) == ([2, 0, 1], (b"a", b"b", b"c"))


def test_what_could_not_be_handed_over_is_next_again(calls):
    add(calls, 3)
    publish(calls, handed_over=False)
    add(calls)
    assert publish(calls) == [[1, 2, 3, 4]]


def test_a_wish_for_a_confirm_goes_with_the_next_message_that_is_handed_over(calls):
    # Given somebody who waits for a confirm
    add(calls)
    calls.confirm_wanted = True

    # When the message is not handed over the first time
    assert calls.next_publish()[0].confirm_now
    calls.not_sent()
    assert calls.next_publish()[0].confirm_now
    calls.sent()

    # Then the wish has gone with the second
    add(calls)
    assert not calls.next_publish()[0].confirm_now


def test_the_table_of_unconfirmed_calls_is_bounded(make_calls):
    calls = make_calls(unconfirmed_max=2)
    add(calls)
    assert not calls.is_full
    add(calls)
    assert calls.is_full
    calls.confirm(confirm((1, 1)))
    assert not calls.is_full


# --- confirms ------------------------------------------------------------------------------------


def test_confirms_settle_calls_once_and_only_those_that_were_made(calls):
    # Given four calls, one of which has ended already
    pending = add(calls, 4)
    calls.results(results(2), ())

    # When confirms come, also again, and for what was never called
    first = calls.confirm(confirm((1, 2)))
    second = calls.confirm(confirm((1, 3), (9, 20)))

    # Then each call is settled once
    assert (numbers(first), numbers(second)) == ([1], [3])
    assert [one.confirmed for one in pending] == [True, True, True, False]
    assert calls.unconfirmed == 1


def test_a_refused_call_has_failed_and_says_why(calls):
    # Given two calls
    refused, taken = add(calls, 2)

    # When one is refused, in a confirm that covers both
    settled = calls.confirm(confirm((1, 2), refused=[(1, m.Refused.FULL, "it is full")]))

    # Then only the other one counts as taken
    assert settled == [refused, taken]
    assert (type(refused.failure), refused.failure.queue, refused.failure.reason) == (QueueFull, "q", "it is full")
    assert (taken.failure, taken.confirmed) == (None, True)
    assert list(calls.open) == [taken.task_id]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        pytest.param(
            m.Refused.FULL,
            QueueFull,
            "the router refused a task for queue 'q': the reason",
            id="full",
        ),
        pytest.param(
            m.Refused.ID,
            TaskIdTaken,
            "the router refused a task: task_id 'order-1' is taken by an earlier call. "
            "Read that one with app.AsyncResult('order-1'), or give another id.",
            id="its id is taken",
        ),
        pytest.param(
            m.Refused.DISK,
            NotJournaled,
            "the router refused task 't': the reason. Send it again when that is mended, "
            "or with durability='none', which needs no disk.",
            id="it can't be journaled",
        ),
        pytest.param(
            "of a later release", QueueFull, "the router refused a task for queue 'q': the reason", id="unknown"
        ),
    ],
)
def test_a_refusal_is_an_error_of_its_own_kind_and_says_what_to_do(calls, code, kind, words):
    refused = add(calls, options={"id": "order-1"})
    calls.confirm(confirm(refused=[(1, code, "the reason")]))
    assert type(refused.failure) is kind
    assert isinstance(refused.failure, OperationalError)
    assert str(refused.failure) == words


@pytest.mark.parametrize("level", Durability)
def test_a_confirm_says_what_its_calls_survive(calls, level):
    pending, later = add(calls, 2)
    calls.confirm(confirm((1, 1), durability=level))
    assert (pending.durability, later.durability) == (level, None)


def test_a_confirmed_call_whose_result_is_ignored_is_done_with(calls):
    add(calls, flags=Flag.IGNORE_RESULT)
    calls.confirm(confirm((1, 1)))
    assert (calls.open, calls.unconfirmed) == ({}, 0)
    assert calls.hello_info() == {"ended_upto": 1}


@pytest.mark.parametrize(
    ("durability", "flags", "again"),
    [
        pytest.param(Durability.NONE, Flag.NONE, [[1, 2]], id="a router that keeps nothing"),
        pytest.param(Durability.JOURNALED, Flag.NONE, [], id="a router with a journal"),
        pytest.param(Durability.NONE, Flag.EARLY_ACK, [], id="calls that may run at most once"),
    ],
)
def test_bodies_are_kept_for_a_router_that_keeps_nothing_itself(calls, durability, flags, again):
    # Given calls that were confirmed
    add(calls, 2, flags=flags)
    publish(calls)
    calls.confirm(confirm((1, 2), durability=durability))

    # When another router comes
    question = calls.joined(OTHER_BOOT)

    # Then what is kept is sent again, and what is not is asked about
    assert publish(calls) == again
    assert question == (None if again else m.Reconcile([[1, 2]]))


def test_the_oldest_kept_bodies_are_dropped_where_they_are_too_many(calls, monkeypatch):
    # Given room for the bodies of ten calls, in frames or not
    monkeypatch.setattr(calls_module, "RETAINED_BYTES_MAX", 1_000)
    add(calls, 4, body=b"x" * 100)
    add(calls, 4, body=b"", frames=[b"x" * 50, b"y" * 50])
    unconfirmed = add(calls, 4, body=b"x" * 100)

    # When more than that is confirmed
    calls.confirm(confirm((1, 8)))

    # Then the oldest are dropped; those that were not confirmed stay whatever they take
    publish(calls)
    calls.joined(OTHER_BOOT)
    (kept,) = publish(calls)
    assert kept == list(range(5, 13))
    assert [one.confirmed for one in unconfirmed] == [False] * 4


# --- results -------------------------------------------------------------------------------------


def test_a_result_ends_its_call_once(calls):
    # Given two calls
    first, second = add(calls, 2)

    # When the result of one comes, twice, and confirms it too
    frame = Frame(b"frame")
    message = m.Results([[first.task_id, Status.FAILURE, b"why", 1]])
    ended = calls.results(message, (frame,))
    repeated = calls.results(message, (frame,))

    # Then it has ended so, and the other one has not
    assert (ended, repeated) == ([first], [])
    assert (first.ending, first.confirmed) == ((Status.FAILURE, b"why", (b"frame",)), True)
    assert (second.ending, calls.unconfirmed) == (None, 1)


def test_frames_of_results_go_to_their_own_calls(calls):
    pending = add(calls, 3)
    records = [[one.task_id, Status.SUCCESS, b"", n] for one, n in zip(pending, (1, 0, 2), strict=True)]
    calls.results(m.Results(records), tuple(map(Frame, (b"a", b"b", b"c"))))
    assert [one.ending.frames for one in pending] == [(b"a",), (), (b"b", b"c")]


def test_results_of_others_are_no_concern(calls):
    add(calls)
    foreign = m.Results([[ids.stamp(ids.prefix(b"owner!", 2), 1), Status.SUCCESS, b"", 0]])
    assert calls.results(foreign, ()) == []
    assert calls.received_rest() is None


def test_a_call_that_has_ended_is_not_published_any_more(calls):
    # Given calls that are to be sent again to another router
    add(calls, 3)
    publish(calls)
    calls.joined(OTHER_BOOT)

    # When one of them ends meanwhile
    calls.results(results(2), ())

    # Then only the others are sent
    assert publish(calls) == [[1, 3]]


# --- what is told of results ---------------------------------------------------------------------


def test_what_was_received_is_told_at_the_next_look(calls):
    add(calls, 3)
    calls.results(results(1, 2), ())
    due = calls.next_deadline_mono_s(10.0)
    assert due == 10.0 + RECONCILE_S
    assert calls.look(due - 0.1) == []
    assert calls.look(due)[0] == m.Received([[1, 2]])
    assert calls.received_rest() is None


def test_much_that_was_received_is_told_by_itself(calls):
    add(calls, RECEIVED_AT_ONCE)
    calls.results(results(*range(1, RECEIVED_AT_ONCE)), ())
    assert calls.received_at_once() is None
    calls.results(results(RECEIVED_AT_ONCE), ())
    assert calls.received_at_once() == m.Received([[1, RECEIVED_AT_ONCE]])
    assert calls.received_at_once() is None


def test_what_was_received_goes_along_with_the_next_publish(calls):
    # Given outcomes that have come, of which the router has not been told
    add(calls, 3)
    publish(calls)
    calls.results(results(1, 2), ())

    # When another call is published
    add(calls)
    message, _ = calls.next_publish()
    calls.sent()

    # Then it is told of them, once
    assert message == m.Publish(False, [[4, "t", "q", 0, Flag.NONE, b"args", 0, None]], [[1, 2]])
    assert calls.received_rest() is None


def test_what_was_received_is_told_again_where_the_publish_was_not_sent(calls):
    # Given a publish that takes along what was received
    add(calls, 3)
    publish(calls)
    calls.results(results(1, 3), ())
    add(calls)
    calls.next_publish()

    # When it can't be handed over, and another outcome comes
    calls.not_sent()
    calls.results(results(2), ())

    # Then the next one tells of all
    message, _ = calls.next_publish()
    assert ([call[0] for call in message.calls], message.received) == ([4], [[1, 3]])


def test_a_publish_of_calls_that_have_all_ended_takes_nothing_along(calls):
    # Given a call that ends before it is published
    add(calls)
    calls.results(results(1), ())

    # When the next message is made
    message, _ = calls.next_publish()

    # Then it says nothing, and the outcome is told otherwise
    assert message == m.Publish(False, [], [])
    assert calls.received_rest() == m.Received([[1, 1]])


def test_the_rest_is_told_before_the_link_is_closed(calls):
    add(calls)
    calls.results(results(1), ())
    assert calls.received_rest() == m.Received([[1, 1]])
    assert calls.received_rest() is None
