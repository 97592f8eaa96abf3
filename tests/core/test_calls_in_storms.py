"""A caller whose routers come and go, and forget, while what is said gets lost."""

import random

import pytest

from mesh import ids
from mesh import messages as m
from mesh.core.calls import RECONCILE_S, Calls
from mesh.exceptions import TaskLost
from mesh.interfaces import PendingCall
from mesh.messages import Durability, Flag
from mesh.states import Status
from tests.core.caller_side import OTHER_BOOT, PREFIX, add, publish, results


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
        refused = [[one, m.Refused.FULL, "it is full"] for one in sorted(self.refused)]
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
def test_every_call_ends_once_in_whatever_order_things_are_said(make_calls, seed):
    # Given a caller whose routers come and go
    routers = Routers(make_calls(), seed)
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
