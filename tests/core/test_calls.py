"""The caller's side: what is published, what becomes of it, and what the router is asked."""

import random

import pytest

from mesh import ids
from mesh import messages as m
from mesh.core import calls as calls_module
from mesh.core.calls import PUBLISH_BYTES, PUBLISH_CALLS, RECEIVED_ALONG, RECONCILE_S, Calls
from mesh.exceptions import QueueFull, ResultExpired, TaskLost
from mesh.interfaces import PendingCall
from mesh.messages import Durability, Flag
from mesh.states import Status

PREFIX = ids.prefix(b"owner!", 1)
BOOT, OTHER_BOOT = b"boot1", b"boot2"


class Frame(bytes):
    """A buffer as the transport hands it over."""

    @property
    def buffer(self):
        return bytes(self)


@pytest.fixture
def make(checked):
    def make_calls(unconfirmed_max=1_000_000):
        calls = checked(Calls(PREFIX, unconfirmed_max))
        calls.joined(BOOT)
        return calls

    return make_calls


@pytest.fixture
def calls(make):
    return make()


def add(calls, count=1, *, flags=Flag.NONE, body=b"args", frames=None, options=None):
    """Makes so many calls."""
    pending = [calls.add("t", "q", 0, flags, body, frames, options) for _ in range(count)]
    return pending if count > 1 else pending[0]


def publish(calls, *, handed_over=True):
    """Sends everything. The sequences, one list a message."""
    published = []
    while calls.has_unsent:
        message, _ = calls.next_publish()
        if not handed_over:
            calls.not_sent()
            break
        calls.sent()
        published.append([record[0] for record in message.calls])
    return published


def results(*sequences, status=Status.SUCCESS, body=b"value"):
    return m.Results([[ids.stamp(PREFIX, one), status, body, 0] for one in sequences])


def confirm(*ranges, refused=(), durability=Durability.NONE):
    return m.Confirm(durability, [list(one) for one in ranges], [list(one) for one in refused])


def numbers(pending):
    return [ids.sequence_of(one.task_id) for one in pending]


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


def test_the_table_of_unconfirmed_calls_is_bounded(make):
    calls = make(unconfirmed_max=2)
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
    settled = calls.confirm(confirm((1, 2), refused=[(1, "it is full")]))

    # Then only the other one counts as taken
    assert settled == [refused, taken]
    assert (type(refused.failure), refused.failure.queue, refused.failure.reason) == (QueueFull, "q", "it is full")
    assert (taken.failure, taken.confirmed) == (None, True)
    assert list(calls.open) == [taken.task_id]


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


def test_much_that_was_received_goes_along_with_a_publish(calls):
    add(calls, RECEIVED_ALONG)
    calls.results(results(*range(1, RECEIVED_ALONG)), ())
    assert calls.received_along() is None
    calls.results(results(RECEIVED_ALONG), ())
    assert calls.received_along() == m.Received([[1, RECEIVED_ALONG]])
    assert calls.received_along() is None


def test_the_rest_is_told_before_the_link_is_closed(calls):
    add(calls)
    calls.results(results(1), ())
    assert calls.received_rest() == m.Received([[1, 1]])
    assert calls.received_rest() is None


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


def test_a_known_router_gets_what_it_has_not_confirmed_and_is_asked_about_everything(calls):
    # Given calls that were confirmed, refused, ended, and none of it
    add(calls, 4)
    publish(calls)
    calls.confirm(confirm((1, 1), refused=[(2, "full")]))
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


def test_a_first_router_is_asked_nothing(make):
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


# --- anything ------------------------------------------------------------------------------------


class Routers:
    """A caller, and routers one after the other that lose what they know; whatever is said may get lost."""

    def __init__(self, calls, seed):
        self.calls = calls
        self.rng = random.Random(seed)
        self.boots = 0
        self.durability = Durability.NONE
        self.mono_s = 0.0
        self.made: dict[int, PendingCall] = {}
        self.settled: list[PendingCall] = []
        #: What the present router has, has confirmed to nobody yet, has refused, and has outcomes of.
        self.known: set[int] = set()
        self.refused: set[int] = set()
        self.ended: set[int] = set()

    def add(self):
        for _ in range(self.rng.randint(1, 4)):
            flags = self.rng.choice((Flag.NONE, Flag.NONE, Flag.IGNORE_RESULT))
            frames = self.rng.choice((None, None, [b"frame"]))
            pending = self.calls.add("t", "q", 0, flags, b"x" * self.rng.randrange(9), frames, None)
            self.made[self.calls.last_sequence] = pending

    def publish(self, lost=0.2):
        if not self.calls.has_unsent:
            return
        message, frames = self.calls.next_publish()
        sequences = [record[0] for record in message.calls]
        assert sequences == sorted(set(sequences))
        assert len(frames) == sum(record[6] for record in message.calls)
        if self.rng.random() < lost / 2:
            self.calls.not_sent()
            return
        self.calls.sent()
        if self.rng.random() >= lost:
            refused = {one for one in sequences if one not in self.known and self.rng.random() < 0.05}
            self.refused |= refused
            self.known |= set(sequences) - refused

    def confirm(self, lost=0.2):
        ranges = [[one, one] for one in sorted(self.known)]
        refused = [[one, "full"] for one in sorted(self.refused)]
        self.refused.clear()
        if self.rng.random() >= lost:
            self._settle(self.calls.confirm(m.Confirm(self.durability, ranges, refused)))

    def end(self, lost=0.2):
        for sequence in self.rng.sample(sorted(self.known), min(3, len(self.known))):
            self.ended.add(sequence)
            if self.rng.random() >= lost:
                self._settle(self.calls.results(results(sequence), ()))

    def repeat(self):
        if self.ended:
            self._settle(self.calls.results(results(self.rng.choice(sorted(self.ended))), ()))

    def look(self):
        self.mono_s += self.rng.random()
        if self.calls.next_deadline_mono_s(self.mono_s) is not None:
            for said in self.calls.look(self.mono_s):
                if type(said) is m.Reconcile:
                    self._answer(said)

    def rejoin(self):
        self._answer(self.calls.joined(b"%d" % self.boots))

    def replace(self):
        self.boots += 1
        self.durability = self.rng.choice((Durability.NONE, Durability.JOURNALED))
        floor = self.calls.hello_info()["ended_upto"]
        assert all(ids.stamp(PREFIX, one) not in self.calls.open for one in range(1, floor + 1))
        self.known = set(range(1, floor + 1))
        self.ended = set(self.known)
        self.refused.clear()
        self.rejoin()

    def _answer(self, reconcile):
        if reconcile is None or self.rng.random() < 0.1:
            return
        asked = {one for first, last in reconcile.outstanding for one in range(first, last + 1)}
        self._settle(self.calls.results(results(*sorted(asked & self.ended)), ()))
        unknown = sorted(asked - self.known)
        if unknown:
            self._settle(self.calls.missing(m.Missing([[one, one] for one in unknown])))

    def _settle(self, pending):
        self.settled += [one for one in pending if one.ending is not None or one.failure is not None]


@pytest.mark.parametrize("seed", range(10))
def test_every_call_ends_once_in_whatever_order_things_are_said(make, seed):
    # Given a caller whose routers come and go
    routers = Routers(make(), seed)
    steps = (routers.add, routers.publish, routers.confirm, routers.end, routers.repeat, routers.look)
    for _ in range(500):
        (step,) = routers.rng.choices((*steps, routers.rejoin, routers.replace), (6, 8, 4, 6, 1, 4, 0.5, 0.2))
        step()
        routers.calls.check()

    # When nothing is lost any more
    for _ in range(200):
        routers.mono_s += RECONCILE_S
        routers.look()
        while routers.calls.has_unsent:
            routers.publish(lost=0.0)
        routers.confirm(lost=0.0)
        routers.ended |= routers.known
        routers.calls.check()
        if not routers.calls.open:
            break

    # Then every call has ended once, but for those whose result nobody wants
    assert (routers.calls.open, routers.calls.unconfirmed) == ({}, 0)
    assert len(set(map(id, routers.settled))) == len(routers.settled)
    unsettled = [one for one in routers.made.values() if one not in routers.settled]
    assert all(one.ending is None and one.failure is None and one.confirmed for one in unsettled)
    assert routers.calls.hello_info() == {"ended_upto": len(routers.made)}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda calls: setattr(calls, "unconfirmed", 0), id="the count of unconfirmed calls"),
        pytest.param(lambda calls: setattr(calls, "_retained_bytes", 1), id="the bytes that are kept"),
        pytest.param(lambda calls: setattr(calls, "open", dict(reversed(calls.open.items()))), id="the order of calls"),
    ],
)
def test_the_check_finds_damage(damage):
    calls = Calls(PREFIX, 10)
    add(calls, 2)
    damage(calls)
    with pytest.raises(AssertionError):
        calls.check()


def test_a_confirmed_call_that_may_run_at_most_once_is_never_sent_again(calls):
    # Given such a call, confirmed by a router that keeps nothing, and one that was not confirmed
    confirmed = add(calls, flags=Flag.EARLY_ACK)
    add(calls, flags=Flag.EARLY_ACK)
    publish(calls)
    calls.confirm(m.Confirm(Durability.NONE, [[1, 1]], []))

    # When another router takes its place and knows neither
    question = calls.joined(OTHER_BOOT)

    # Then the confirmed one is asked about and not sent, and is lost where nobody knows of it
    assert question == m.Reconcile([[1, 1]])
    assert publish(calls) == [[2]]
    assert calls.missing(m.Missing([[1, 1]])) == [confirmed]
    assert isinstance(confirmed.failure, TaskLost)


def test_what_is_said_of_a_call_whose_result_is_ignored_settles_it_and_is_no_result(calls):
    # Given such a call, whose confirm was lost
    ignored = add(calls, flags=Flag.IGNORE_RESULT)
    publish(calls)

    # When the router tells that nothing is kept of it
    settled = calls.results(m.Results([[ignored.task_id, Status.FAILURE, b"gone", 0]]), ())

    # Then it is settled and has no outcome
    assert settled == [ignored]
    assert (ignored.confirmed, ignored.ending) == (True, None)
