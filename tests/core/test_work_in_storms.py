"""A slot whose link to its router loses and repeats messages."""

import random
from collections import deque

import pytest

from mesh import messages as m
from mesh.core.work import RESEND_S, Work
from tests.core.slot_side import run, tasks, unreceipted


class Storm:
    """A slot, and what its router holds of it, with a link between them that loses and repeats."""

    def __init__(self, work, seed):
        self.work = work
        self.rng = random.Random(seed)
        self.mono_s = 0.0
        #: Tasks messages under way.
        self.under_way: deque[m.Tasks] = deque()
        #: Leases as the slot has run them.
        self.ran: list[int] = []
        #: The router's side: leases granted and neither ended nor returned, with an outcome, and returned.
        self.last_lease = 0
        self.held: set[int] = set()
        self.stored: set[int] = set()
        self.returned: set[int] = set()

    def grant(self):
        first, count = self.last_lease + 1, self.rng.randint(1, 5)
        self.last_lease += count
        self.held.update(range(first, first + count))
        self.under_way.append(tasks(first, count, self._stored_upto(), name=self.rng.choice("ab")))

    def deliver(self):
        if self.under_way:
            self.work.take(self.under_way.popleft(), ())

    def lose(self):
        if self.under_way:
            self.under_way.popleft()

    def repeat(self):
        if self.under_way:
            self.work.take(self.under_way[0], ())

    def run(self):
        if self.work.waiting:
            self.ran.append(run(self.work, self.mono_s, runtime_us=self.rng.choice((10, 1_000))))

    def give_back(self):
        if self.work.waiting:
            self._arrives([], self.work.returned([self.work.waiting.pop().number], self.mono_s))

    def send(self):
        self._arrives(self.work.take_unsent(self.mono_s)[0], None)

    def receipt(self):
        self.work.receipt(self._stored_upto())

    def look(self, lost=0.2):
        outcomes, back = self.work.overdue(self.mono_s)
        self._arrives(outcomes, back, lost)

    def _stored_upto(self):
        return min(self.held, default=self.last_lease + 1) - 1

    def _arrives(self, outcomes, back, lost=0.2):
        ended = {one.record[0] for one in outcomes} if self.rng.random() >= lost else set()
        given_back = set(back.leases) if back is not None and self.rng.random() >= lost else set()
        self.stored |= ended & self.held
        self.returned |= given_back & self.held - ended
        self.held -= ended | given_back


@pytest.mark.parametrize("seed", range(10))
def test_every_lease_is_run_or_returned_and_every_outcome_arrives_whatever_is_lost(checked, seed):
    # Given a slot in a storm
    storm = Storm(checked(Work(0)), seed)
    for _ in range(500):
        storm.mono_s += storm.rng.choice((0.0, 0.0005, 0.5))
        for what in storm.rng.choices(
            (
                storm.grant,
                storm.deliver,
                storm.run,
                storm.send,
                storm.receipt,
                storm.give_back,
                storm.lose,
                storm.repeat,
            ),
            (4, 4, 8, 4, 2, 1, 0.5, 0.5),
        ):
            what()
        storm.look()
        storm.work.check()

    # When it has passed, and one more task has come
    storm.grant()
    for _ in range(len(storm.under_way)):
        storm.deliver()
    while storm.work.waiting:
        storm.run()
    storm.send()
    storm.mono_s += 2 * RESEND_S
    storm.look(lost=0.0)
    storm.receipt()

    # Then no lease has run twice, each has an outcome or came back, and the slot has nothing left to say
    assert storm.ran == sorted(set(storm.ran))
    assert storm.stored == set(storm.ran)
    assert storm.stored | storm.returned == set(range(1, storm.last_lease + 1))
    assert not storm.stored & storm.returned
    assert (unreceipted(storm.work), storm.work.next_deadline_mono_s()) == ([], None)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda work: work.waiting.reverse(), id="leases out of order"),
        pytest.param(lambda work: setattr(work, "last_lease", 1), id="a lease beyond the last"),
        pytest.param(lambda work: setattr(work, "_resend_mono_s", 5.0), id="a resend of nothing"),
    ],
)
def test_the_check_finds_damage(damage):
    work = Work(0)
    work.take(tasks(1, 3), ())
    damage(work)
    with pytest.raises(AssertionError):
        work.check()
