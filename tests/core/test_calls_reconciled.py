"""The caller's side: what the router is asked, and what a new link or another router brings."""

import pytest

from mesh import ids
from mesh import messages as m
from mesh.core import calls as calls_module
from mesh.core.calls import RECONCILE_S, Calls
from mesh.exceptions import ResultExpired, TaskLost
from mesh.interfaces import PendingCall
from mesh.messages import Durability, Flag
from mesh.states import Status
from tests.core.caller_side import BOOT, PREFIX, add, confirm, publish, results

# --- reconciling ---------------------------------------------------------------------------------


def test_the_router_is_asked_about_calls_that_are_old(calls):
    # Given calls of which two are there when it looks
    add(calls, 3)
    first = calls.next_deadline_mono_s(0.0)
    assert calls.look(first) == []
    calls.results(results(2), ())
    add(calls)

    # When it looks again, and once more
    second = calls.look(calls.next_deadline_mono_s(first))
    third = calls.look(calls.next_deadline_mono_s(first + RECONCILE_S))

    # Then it asks about those that were there a look ago
    assert second == [m.Received([[2, 2]]), m.Reconcile([[1, 1], [3, 3]])]
    assert third == [m.Reconcile([[1, 1], [3, 4]])]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        pytest.param(7, [[[1, 3]], [[4, 6]], [[7, 7]], [[1, 3]]], id="some are left over"),
        pytest.param(6, [[[1, 3]], [[4, 6]], [[1, 3]], [[4, 6]]], id="none are left over"),
    ],
)
def test_many_calls_are_asked_about_in_turn(calls, monkeypatch, count, expected):
    monkeypatch.setattr(calls_module, "RECONCILE_CALLS", 3)
    add(calls, count)
    mono_s, asked = 0.0, []
    for _ in range(6):
        mono_s = calls.next_deadline_mono_s(mono_s)
        asked += [one.outstanding for one in calls.look(mono_s)]
    assert asked[:4] == expected


def test_a_round_of_questions_ends_at_the_first_call_that_is_young(calls, monkeypatch):
    # Given four calls that are old, of which three have been asked about
    monkeypatch.setattr(calls_module, "RECONCILE_CALLS", 3)
    add(calls, 4)
    mono_s = 0.0
    asked: list[m.Ranges] = []

    def look():
        nonlocal mono_s
        mono_s = calls.next_deadline_mono_s(mono_s)
        asked.extend(one.outstanding for one in calls.look(mono_s))

    look()
    look()

    # When others are made before the next look
    add(calls, 2)
    look()
    look()

    # Then it asks about the old one that was left, and begins anew
    assert asked == [[[1, 3]], [[4, 4]], [[1, 3]]]


def test_nothing_is_due_where_nothing_is_open(calls):
    assert calls.next_deadline_mono_s(0.0) is None
    assert calls.look(5.0) == []
    add(calls)
    calls.results(results(1), ())
    calls.look(calls.next_deadline_mono_s(0.0))
    assert calls.next_deadline_mono_s(10.0) is None


def test_calls_made_by_another_thread_meanwhile_disturb_no_look(calls, monkeypatch):
    # Given calls, and threads that make others whenever this one does anything
    add(calls, 50)
    calls.look(calls.next_deadline_mono_s(0.0))

    def sequence_of(task_id):
        calls.add("t", "q", 0, Flag.NONE, b"", None, None)
        return ids.sequence_of(task_id)

    monkeypatch.setattr(calls_module, "sequence_of", sequence_of)

    # When it looks, or joins
    calls.joined(BOOT)
    (question,) = calls.look(calls.next_deadline_mono_s(0.0))

    # Then it asks about those that were there
    assert question == m.Reconcile([[1, 50]])


def test_a_hello_made_while_a_call_is_added_does_not_tell_of_it_as_ended(calls, monkeypatch):
    # Given a call that is being added, and a thread that says HELLO meanwhile
    told = []

    def pending_call(*arguments):
        told.append(calls.hello_info())
        return PendingCall(*arguments)

    monkeypatch.setattr(calls_module, "PendingCall", pending_call)

    # When the call is added
    add(calls)

    # Then nothing was told to have ended
    assert told == [{"ended_upto": 0}]
    assert calls.hello_info() == {"ended_upto": 0}


def test_missing_calls_are_sent_again_and_lost_where_the_body_is_gone(calls):
    # Given two calls whose bodies are kept, and one whose is not
    kept, dropped, ended = add(calls, 3)
    publish(calls)
    calls.confirm(confirm((2, 3), durability=Durability.JOURNALED))
    calls.results(results(3), ())

    # When the router knows none of them, nor what was never called
    lost = calls.missing(m.Missing([[1, 9]]))

    # Then the one goes again, and the other has failed
    assert lost == [dropped]
    assert type(dropped.failure) is TaskLost
    assert ids.to_text(dropped.task_id) in str(dropped.failure)
    assert (publish(calls), kept.failure, ended.failure) == ([[1]], None, None)


# --- joining -------------------------------------------------------------------------------------


def test_only_what_the_router_misses_is_sent_again(calls):
    add(calls, 5)
    publish(calls)
    assert calls.missing(m.Missing([[2, 3], [5, 99]])) == []
    assert publish(calls) == [[2, 3, 5]]


def test_a_known_router_gets_what_it_has_not_confirmed_and_is_asked_about_everything(calls):
    # Given calls that were confirmed, refused, ended, and none of it
    add(calls, 4)
    publish(calls)
    calls.confirm(confirm((1, 1), refused=[(2, m.Refused.FULL, "it is full")]))
    calls.results(results(3), ())

    # When the link to the same router is up again
    question = calls.joined(BOOT)

    # Then only what it has not confirmed goes again
    assert publish(calls) == [[4]]
    assert question == m.Reconcile([[1, 1], [4, 4]])


def test_calls_that_were_not_sent_when_the_link_broke_are_sent_once(calls):
    add(calls, 2)
    calls.joined(BOOT)
    assert publish(calls) == [[1, 2]]


def test_a_first_router_is_asked_nothing(make_calls):
    calls = Calls(PREFIX, 10)
    assert calls.joined(BOOT) is None
    calls.check()


@pytest.mark.parametrize(
    ("ended", "floor"),
    [
        pytest.param([], 0, id="nothing has ended"),
        pytest.param([2], 0, id="the second has ended"),
        pytest.param([1, 2], 2, id="the first two have ended"),
        pytest.param([1, 2, 3], 3, id="all have ended"),
    ],
)
def test_hello_says_up_to_where_all_calls_have_ended(calls, ended, floor):
    add(calls, 3)
    calls.results(results(*ended), ())
    assert calls.hello_info() == {"ended_upto": floor}


def test_calls_that_no_router_will_ever_know_have_failed(calls):
    # Given calls in all conditions
    pending = add(calls, 3)
    publish(calls)
    calls.confirm(confirm((1, 1)))
    late = add(calls)

    # When they are abandoned
    error = TaskLost("gone")
    lost = calls.abandon(error)

    # Then all have failed, and nothing is left of them
    assert lost == [*pending, late]
    assert {one.failure for one in lost} == {error}
    assert (calls.open, calls.unconfirmed, calls.has_unsent) == ({}, 0, False)


# --- calls made elsewhere ------------------------------------------------------------------------


def test_a_watched_call_ends_for_everybody_who_watches_it(calls):
    # Given two who watch a call of another process
    task_id = ids.stamp(ids.prefix(b"owner!", 2), 7)
    first, second = calls.watch(task_id), calls.watch(task_id)
    assert calls.asks() == [task_id]
    assert first.confirmed
    assert second.confirmed
    assert (first.task_id, first.custom_id) == (task_id, None)

    # When it ends
    ended = calls.results(m.Results([[task_id, Status.SUCCESS, b"value", 0]]), ())

    # Then both know, and the router is not asked again
    assert ended == [first, second]
    assert first.ending.body == second.ending.body == b"value"
    assert calls.asks() == []


def test_an_own_call_that_is_open_needs_no_question(calls):
    pending = add(calls)
    assert calls.watch(pending.task_id) is pending
    assert calls.asks() == []


def test_a_custom_id_becomes_known_by_its_real_one(calls):
    # Given somebody who watches a custom id
    task_id = ids.stamp(ids.prefix(b"owner!", 2), 7)
    pending = calls.watch("order-17")
    assert (pending.task_id, pending.custom_id) == (b"", "order-17")
    assert calls.states(m.States(0, [["order-17", None, "PENDING", None]])) == []
    assert calls.asks() == ["order-17"]

    # When the router says which task that is, and it ends
    assert calls.states(m.States(0, [["order-17", task_id, "PENDING", {"known": True}]])) == []
    assert (pending.task_id, calls.asks()) == (task_id, [task_id])

    # Then that is known to who watches
    assert calls.results(m.Results([[task_id, Status.SUCCESS, b"value", 0]]), ()) == [pending]


def test_a_watched_call_whose_outcome_is_gone_has_failed(calls):
    pending = calls.watch("order-17")
    task_id = ids.stamp(PREFIX, 7)
    failed = calls.states(m.States(0, [["order-17", task_id, "PENDING", {"known": True, "gone": True}]]))
    assert failed == [pending]
    assert (type(pending.failure), pending.failure.task_id) == (ResultExpired, ids.to_text(task_id))
    assert calls.asks() == []


def test_what_nobody_watches_is_no_concern(calls):
    assert calls.states(m.States(0, [["x", ids.stamp(PREFIX, 7), "PENDING", {"known": True, "gone": True}]])) == []


@pytest.mark.parametrize(
    ("custom_ids", "expected"),
    [
        pytest.param("abc", ["ab", "c", "ab"], id="some are left over"),
        pytest.param("ab", ["ab", "ab", "ab"], id="none are left over"),
    ],
)
def test_the_router_is_asked_again_about_watched_calls_and_about_many_in_turn(calls, monkeypatch, custom_ids, expected):
    # Given more watched calls than are asked about at once
    monkeypatch.setattr(calls_module, "RECONCILE_CALLS", 2)
    for custom_id in custom_ids:
        calls.watch(custom_id)

    # When it looks, three times
    asked, mono_s = [], 0.0
    for _ in range(3):
        mono_s = calls.next_deadline_mono_s(mono_s)
        asked += calls.look(mono_s)

    # Then it asks about all of them
    assert asked == [m.Ask(0, True, list(ids)) for ids in expected]
