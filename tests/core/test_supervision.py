"""Which slots a node should have, who follows whom, and what is said of one that has ended."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mesh.core.supervision import (
    BACKOFF_MAX_S,
    BACKOFF_S,
    STAND_IN_S,
    YOUNG_S,
    Dismiss,
    Go,
    Report,
    Retire,
    Says,
    Spawn,
    Supervision,
    SupervisionEffect,
    cause_of,
)

KILLED = 9
EXITED_1 = 1 << 8

Make = Callable[..., Supervision]


@pytest.fixture
def make(checked: Callable[[Any], Any]) -> Make:
    return lambda size, **more: checked(Supervision(size, **more))


def arrive(
    supervision: Supervision, effects: list[SupervisionEffect], mono_s: float = 0.0, says: Says = Says.STARTING
) -> None:
    """Ordered slots are there: the one in seat n as process 100 + n."""
    for effect in effects:
        if isinstance(effect, Spawn):
            supervision.spawned(effect.seat, 100 + effect.seat, mono_s)
            supervision.told(effect.seat, min(says, Says.WARM) if effect.standby else says, blocked=False)


def start(supervision: Supervision, mono_s: float = 0.0, says: Says = Says.WORKING) -> None:
    """Starts what is due."""
    arrive(supervision, supervision.tick(mono_s), mono_s, says)


def say(supervision: Supervision, seat: int, says: Says, mono_s: float = 0.0) -> list[SupervisionEffect]:
    """A slot says something of itself. What follows."""
    supervision.told(seat, says, blocked=False)
    return supervision.tick(mono_s)


def die_young(supervision: Supervision, mono_s: float) -> float | None:
    """The only slot dies at once. When the next is due."""
    start(supervision, mono_s)
    supervision.exited(0, KILLED, mono_s)
    return supervision.next_deadline_mono_s()


def seats(effects: list[SupervisionEffect], kind: type[SupervisionEffect]) -> list[int]:
    return [effect.seat for effect in effects if isinstance(effect, kind) and not isinstance(effect, Dismiss)]


# --- how many ------------------------------------------------------------------------------------


def test_every_slot_is_ordered_once(make: Make) -> None:
    # Given a node of three slots
    supervision = make(3)
    assert supervision.next_deadline_mono_s() == 0.0

    # When it looks, twice
    effects = [supervision.tick(0.0), supervision.tick(0.0)]

    # Then each was ordered once, and the node is complete when all have joined a router
    assert effects == [[Spawn(seat, 0, False) for seat in range(3)], []]
    assert supervision.next_deadline_mono_s() is None
    for seat in range(3):
        supervision.spawned(seat, 100 + seat, 0.0)
        assert not supervision.is_complete()
        assert say(supervision, seat, Says.WORKING) == []
    assert supervision.is_complete()
    assert [supervision.pid_of(seat) for seat in range(4)] == [100, 101, 102, None]
    assert supervision.living == {seat: (100 + seat, 0.0) for seat in range(3)}


def test_more_slots_are_ordered_when_there_are_to_be_more(make: Make) -> None:
    supervision = make(1, seats=4)
    start(supervision)
    supervision.resize(3)
    assert supervision.next_deadline_mono_s() == 0.0
    assert supervision.tick(1.0) == [Spawn(1, 0, False), Spawn(2, 0, False)]


def test_who_came_last_leaves_first_when_there_are_to_be_fewer_and_is_not_replaced(make: Make) -> None:
    # Given three slots
    supervision = make(3, seats=5)
    start(supervision)

    # When one is enough
    supervision.resize(1)
    effects = supervision.tick(1.0)

    # Then the youngest leave, once, and nobody follows them
    assert effects == [Retire(2), Retire(1)]
    assert supervision.tick(1.0) == []
    assert seats(say(supervision, 2, Says.DONE, 2.0), Spawn) == []
    assert supervision.exited(2, 0, 2.0) == [Report(2, 102, "its process exited with code 0", False)]
    assert supervision.exited(1, 0, 2.0) == [Report(1, 101, "its process exited with code 0", False)]
    assert list(supervision.living) == [0]


def test_a_place_that_goes_takes_its_heir_with_it(make: Make) -> None:
    # Given a slot whose successor is there
    supervision = make(2, seats=6)
    start(supervision)
    arrive(supervision, say(supervision, 1, Says.SPENT))

    # When there are to be fewer
    supervision.resize(1)

    # Then both leave
    assert supervision.tick(1.0) == [Retire(1), Retire(2)]


# --- who follows whom ----------------------------------------------------------------------------


def test_a_successor_is_ordered_when_a_slot_is_spent_and_begins_only_when_that_one_is_done(make: Make) -> None:
    # Given a slot
    supervision = make(1, seats=3)
    start(supervision)

    # When it says that it is spent, then a successor is ordered, once, and waits though it is warm
    assert say(supervision, 0, Says.SPENT) == [Spawn(1, 0, True)]
    supervision.spawned(1, 101, 0.1)
    assert say(supervision, 1, Says.WARM) == []

    # When the first begins nothing any more, then the successor begins, once
    assert say(supervision, 0, Says.DONE) == [Go(1)]
    assert say(supervision, 1, Says.WORKING) == []

    # And when the first has ended, then nobody is charged and nobody follows it again
    assert supervision.exited(0, 0, 5.0) == [Report(0, 100, "its process exited with code 0", False)]
    assert supervision.is_complete()


def test_a_slot_that_is_done_before_a_successor_was_ordered_has_one_that_begins_at_once(make: Make) -> None:
    supervision = make(1, seats=3)
    start(supervision)
    assert say(supervision, 0, Says.DONE) == [Spawn(1, 0, True), Go(1)]


def test_a_slot_that_dies_is_followed_by_the_successor_it_has(make: Make) -> None:
    # Given a spent slot with a successor
    supervision = make(1, seats=3)
    start(supervision)
    arrive(supervision, say(supervision, 0, Says.SPENT))

    # When it crashes, late or young
    effects = supervision.exited(0, KILLED, 0.1)

    # Then that is charged, and the successor begins at once: no other is started
    assert effects == [Report(0, 100, "its process was ended by signal 9 (SIGKILL)", True), Go(1)]
    assert supervision.next_deadline_mono_s() is None


def test_a_slot_that_dies_while_its_successor_is_on_its_way_is_followed_by_it(make: Make) -> None:
    # Given a spent slot whose successor is ordered
    supervision = make(1, seats=3)
    start(supervision)
    assert say(supervision, 0, Says.SPENT) == [Spawn(1, 0, True)]

    # When it dies first
    effects = supervision.exited(0, KILLED, 5.0)

    # Then its successor may begin as soon as it comes
    assert seats(effects, Go) == [1]
    assert seats(effects, Spawn) == []


@pytest.mark.parametrize(
    ("lived_s", "wait_s"),
    [pytest.param(0.0, BACKOFF_S, id="one that could not start"), pytest.param(YOUNG_S, 0.0, id="one that was killed")],
)
def test_a_successor_that_dies_is_ordered_again_and_the_slot_goes_on(make: Make, lived_s: float, wait_s: float) -> None:
    # Given a spent slot with a successor
    supervision = make(1, seats=3)
    start(supervision)
    arrive(supervision, say(supervision, 0, Says.SPENT, 10.0), 10.0)

    # When the successor dies
    now = 10.0 + lived_s
    effects = supervision.exited(1, KILLED, now)

    # Then another one is ordered when its wait is over, and the slot is left alone
    assert seats(effects, Retire) == []
    if wait_s:
        assert supervision.next_deadline_mono_s() == pytest.approx(now + wait_s)
        effects = supervision.tick(now + wait_s)
    assert Spawn(1, 0, True) in effects
    assert supervision.pid_of(0) == 100


def test_a_slot_says_only_more_of_itself_and_no_stranger_is_heard(make: Make) -> None:
    supervision = make(1, seats=3)
    start(supervision)
    say(supervision, 0, Says.SPENT)
    assert say(supervision, 0, Says.WARM) == []
    assert say(supervision, 2, Says.DONE) == []
    supervision.told(0, 200, blocked=False)  # nonsense in the page
    assert supervision.tick(0.0) == []
    assert supervision.is_complete()


def test_without_a_free_seat_a_successor_is_ordered_once_there_is_one(make: Make) -> None:
    # Given two slots that are spent, and one seat more
    supervision = make(2, seats=3)
    start(supervision)
    supervision.told(1, Says.SPENT, blocked=False)
    assert say(supervision, 0, Says.SPENT) == [Spawn(2, 0, True)]
    assert supervision.next_deadline_mono_s() is None

    # When the first has left
    arrive(supervision, [Spawn(2, 0, True)], says=Says.WARM)
    assert say(supervision, 0, Says.DONE) == [Go(2)]

    # Then the second gets a successor in its seat
    assert supervision.exited(0, 0, 1.0)[1:] == [Spawn(0, 0, True)]


# --- slots that are blocked ----------------------------------------------------------------------


def block(supervision: Supervision, seat: int, mono_s: float = 0.0, *, blocked: bool = True) -> list[SupervisionEffect]:
    supervision.told(seat, Says.WORKING, blocked=blocked)
    return supervision.tick(mono_s)


def test_another_slot_stands_in_for_one_that_is_blocked_up_to_the_most(make: Make) -> None:
    # Given a node of one slot where two may be blocked
    supervision = make(1, blocked_max=2, seats=6)
    start(supervision)

    # When one after the other is blocked, then each time another one is ordered, but for the third
    for seat in range(2):
        effects = block(supervision, seat)
        assert effects == [Spawn(seat + 1, 0, False)]
        arrive(supervision, effects, says=Says.WORKING)
    assert block(supervision, 2) == []
    assert (supervision.blocked, supervision.target) == (3, 3)


def test_stand_ins_leave_newest_first_and_never_one_that_is_blocked(make: Make) -> None:
    # Given a slot that is blocked, and so are those that stand in for it but the last
    supervision = make(1, blocked_max=5, seats=12)
    start(supervision)
    for seat in range(3):
        arrive(supervision, block(supervision, seat), says=Says.WORKING)

    # When the first goes on, then the last stand-in leaves
    assert block(supervision, 0, 1.0, blocked=False) == []
    assert supervision.tick(1.0 + STAND_IN_S) == [Retire(3)]

    # And when the second goes on, then it leaves, as the third is still blocked; the first stays
    assert block(supervision, 1, 2.0, blocked=False) == []
    assert supervision.tick(2.0 + STAND_IN_S) == [Retire(1)]
    assert block(supervision, 2, 3.0, blocked=False) == []
    assert supervision.tick(3.0 + STAND_IN_S) == [Retire(2)]
    assert supervision.tick(9.0) == []
    assert supervision.is_complete()


def test_a_stand_in_stays_while_a_slot_is_blocked_again_and_again(make: Make) -> None:
    # Given a slot that was blocked, and its stand-in, and no room for another one
    supervision = make(1, blocked_max=1, seats=2)
    start(supervision)
    arrive(supervision, block(supervision, 0), says=Says.WORKING)
    assert block(supervision, 0, 5.0, blocked=False) == []
    assert supervision.next_deadline_mono_s() == 5.0 + STAND_IN_S

    # When it is blocked again soon, and for long, then the same one stands in for it
    assert block(supervision, 0, 5.1) == []
    assert supervision.tick(8.0) == []
    assert block(supervision, 0, 9.0, blocked=False) == []

    # And when it is not, then that one leaves
    assert supervision.next_deadline_mono_s() == 9.0 + STAND_IN_S
    assert supervision.tick(9.0 + STAND_IN_S) == [Retire(1)]
    assert supervision.next_deadline_mono_s() is None


def test_a_blocked_slot_that_dies_is_followed_by_who_stood_in_for_it(make: Make) -> None:
    # Given a blocked slot and its stand-in
    supervision = make(1, blocked_max=5, seats=12)
    start(supervision)
    arrive(supervision, block(supervision, 0), says=Says.WORKING)

    # When the blocked one is killed
    effects = supervision.exited(0, KILLED, 5.0)

    # Then there is one slot again, or will be: nobody is left over
    arrive(supervision, effects, says=Says.WORKING)
    assert len(supervision.living) - len(seats(effects, Retire)) == 1


# --- another template ----------------------------------------------------------------------------


def test_slots_of_an_old_template_leave_one_by_one_once_their_heirs_are_warm_and_it_is_dismissed_then(
    make: Make,
) -> None:
    # Given two slots of the first template
    supervision = make(2, seats=6)
    start(supervision)

    # When there is another template, then each gets a successor from there, and goes on meanwhile
    assert supervision.renew() == 1
    assert supervision.tick(1.0) == [Spawn(2, 1, True), Spawn(3, 1, True)]
    supervision.spawned(2, 102, 1.0)
    supervision.spawned(3, 103, 1.0)
    assert supervision.tick(1.0) == []

    # When one successor is warm, then its predecessor is to leave, once, and the other one goes on
    assert say(supervision, 2, Says.WARM, 1.0) == [Retire(0)]
    assert supervision.tick(1.0) == []

    # When that one is done, then the successor begins; when it has ended the template is still needed
    assert say(supervision, 0, Says.DONE, 1.0) == [Go(2)]
    assert seats(supervision.exited(0, 0, 2.0), Report) == [0]
    assert supervision.generation_of(2) == 1
    assert supervision.slots_of(0) == [1]

    # When the last one has ended, then the template is dismissed, once
    assert say(supervision, 3, Says.WARM, 3.0) == [Retire(1)]
    assert say(supervision, 1, Says.DONE, 3.0) == [Go(3)]
    assert supervision.exited(1, 0, 3.0)[1:] == [Dismiss(0)]
    assert supervision.tick(3.0) == []


def test_a_slot_with_a_long_task_is_of_the_old_template_until_it_is_done(make: Make) -> None:
    # Given a slot that was told to leave for an heir, and runs a long task
    supervision = make(1, seats=4)
    start(supervision)
    supervision.renew()
    arrive(supervision, supervision.tick(1.0), 1.0, Says.WARM)
    assert supervision.tick(1.0) == [Retire(0)]

    # When time passes, then nothing begins beside it
    assert supervision.tick(1e6) == []
    assert supervision.next_deadline_mono_s() is None

    # And when it crashes at last, then that is charged
    effects = supervision.exited(0, KILLED, 1e6)
    assert effects == [
        Report(0, 100, "its process was ended by signal 9 (SIGKILL)", True),
        Go(1),
        Dismiss(0),
    ]


def test_an_heir_of_the_old_template_gives_way_too(make: Make) -> None:
    # Given a spent slot with an heir of the same template
    supervision = make(1, seats=5)
    start(supervision)
    arrive(supervision, say(supervision, 0, Says.SPENT), says=Says.WARM)

    # When there is another template, and the slot is done
    supervision.renew()
    assert supervision.tick(1.0) == []
    effects = say(supervision, 0, Says.DONE, 1.0)

    # Then the heir begins, and is given an heir of the new template in its turn
    assert seats(effects, Go) == [1]
    assert supervision.tick(1.0) == [Spawn(2, 1, True)]


def test_templates_that_were_overtaken_are_dismissed(make: Make) -> None:
    # Given a template that never got a slot, as another one came at once
    supervision = make(1, seats=5)
    start(supervision)
    supervision.renew()
    supervision.renew()

    # Then it is dismissed, and the slots come from the last
    assert supervision.tick(1.0) == [Spawn(1, 2, True), Dismiss(1)]


def test_slots_that_go_with_the_template_are_reported_without_a_charge_and_none_is_ordered_before_another(
    make: Make,
) -> None:
    # Given three slots, of which one is not there yet
    supervision = make(3)
    arrive(supervision, supervision.tick(0.0)[:2])

    # When the template dies
    effects = supervision.template_lost(0, 5.0)

    # Then the living are reported, and nothing is ordered
    assert effects == [Report(seat, 100 + seat, "the template process died", False) for seat in (0, 1)]
    assert (supervision.living, supervision.next_deadline_mono_s(), supervision.tick(6.0)) == ({}, None, [])

    # When there is another template, then all are due
    assert supervision.renew() == 1
    assert supervision.next_deadline_mono_s() == 5.0
    assert supervision.tick(6.0) == [*(Spawn(seat, 1, False) for seat in range(3)), Dismiss(0)]


def test_the_run_for_whose_limit_a_template_was_killed_is_told_and_no_other(make: Make) -> None:
    supervision = make(2)
    start(supervision)
    effects = supervision.template_lost(0, 5.0, "a task had reached its time limit", limited={1: 2.5})
    assert effects == [
        Report(0, 100, "a task had reached its time limit", False, 0.0),
        Report(1, 101, "a task had reached its time limit", False, 2.5),
    ]


def test_the_death_of_a_process_that_slots_share_is_charged_to_all_that_ran_in_it(make: Make) -> None:
    supervision = make(2)
    start(supervision)
    effects = supervision.template_lost(0, 5.0, "their process exited with code 7", charged=True)
    assert effects == [Report(seat, 100 + seat, "their process exited with code 7", True) for seat in range(2)]


def test_the_loss_of_an_old_template_leaves_the_new_one_at_work(make: Make) -> None:
    # Given a slot of the old template, and its heir of the new one
    supervision = make(1, seats=4)
    start(supervision)
    supervision.renew()
    arrive(supervision, supervision.tick(1.0), 1.0, Says.WARM)
    assert supervision.tick(1.0) == [Retire(0)]

    # When the old template dies
    effects = supervision.template_lost(0, 2.0)

    # Then the heir begins, and nothing is missing
    assert effects == [Report(0, 100, "the template process died", False), Go(1)]
    assert supervision.tick(2.0) == [Dismiss(0)]
    assert supervision.next_deadline_mono_s() is None


def test_the_loss_of_a_new_template_before_it_has_taken_over_leaves_the_old_slots_at_work(make: Make) -> None:
    # Given a slot of the old template whose heir is on its way
    supervision = make(1, seats=4)
    start(supervision)
    supervision.renew()
    supervision.tick(1.0)

    # When the new template dies
    effects = supervision.template_lost(1, 2.0)

    # Then nobody leaves, and the next template is waited for
    assert effects == []
    assert (supervision.tick(3.0), supervision.pid_of(0)) == ([], 100)
    supervision.renew()
    assert supervision.tick(3.0) == [Spawn(1, 2, True), Dismiss(1)]


# --- one ends ------------------------------------------------------------------------------------


def test_a_slot_that_ends_after_a_while_is_reported_and_replaced_at_once(make: Make) -> None:
    # Given two slots that have lived for a while
    supervision = make(2)
    start(supervision)

    # When one is killed
    effects = supervision.exited(1, KILLED, YOUNG_S)

    # Then its death is charged to what it ran, and another one starts
    assert effects == [Report(1, 101, "its process was ended by signal 9 (SIGKILL)", True), Spawn(1, 0, False)]
    assert not supervision.is_complete()


def test_the_death_of_a_stranger_is_nothing_to_a_node(make: Make) -> None:
    supervision = make(1, seats=2)
    start(supervision)
    assert supervision.exited(1, KILLED, 5.0) == []
    assert supervision.is_complete()


def test_slots_that_die_at_once_are_started_at_longer_and_longer_intervals(make: Make) -> None:
    # Given a slot that dies whenever it starts
    supervision, mono_s, waits = make(1), 0.0, []

    # When that goes on
    for _ in range(2_000):
        due = die_young(supervision, mono_s)
        assert due is not None
        waits.append(round(due - mono_s, 6))
        mono_s = due

    # Then the waits double from the first to the longest, and stay there
    assert waits[:4] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S]
    assert waits == sorted(waits)
    assert set(waits[20:]) == {BACKOFF_MAX_S}


def test_a_slot_that_could_not_even_be_started_is_waited_for_as_one_that_dies_at_once(make: Make) -> None:
    # Given a slot that was ordered, long after the start
    supervision = make(1)
    supervision.tick(5_000.0)

    # When it can't be started
    effects = supervision.exited(0, EXITED_1, 5_000.0)

    # Then there is nothing to report, and the next is not ordered at once
    assert effects == []
    assert supervision.next_deadline_mono_s() == pytest.approx(5_000.0 + BACKOFF_S)


def test_nothing_is_ordered_before_its_wait_is_over(make: Make) -> None:
    supervision = make(1)
    due = die_young(supervision, 10.0)
    assert due is not None
    assert supervision.tick(due - 0.001) == []
    assert supervision.tick(due) == [Spawn(0, 0, False)]


@pytest.mark.parametrize(
    ("lived_s", "worked"),
    [
        pytest.param(YOUNG_S, False, id="one that lived for a while"),
        pytest.param(0.0, True, id="one that had begun a task, however young"),
    ],
)
def test_a_slot_that_could_start_ends_the_waiting(make: Make, lived_s: float, worked: bool) -> None:
    # Given a slot that has died at once, three times
    supervision = make(1)
    mono_s: float | None = 0.0
    for _ in range(3):
        assert mono_s is not None
        mono_s = die_young(supervision, mono_s)
    assert mono_s is not None

    # When one ends that could start
    start(supervision, mono_s)
    effects = supervision.exited(0, KILLED, mono_s + lived_s, worked=worked)

    # Then the next starts at once, and one that dies at once waits as the first did
    assert effects[1:] == [Spawn(0, 0, False)]
    supervision.spawned(0, 100, mono_s)
    supervision.exited(0, KILLED, mono_s)
    assert supervision.next_deadline_mono_s() == pytest.approx(mono_s + BACKOFF_S)


def test_another_template_ends_the_waiting(make: Make) -> None:
    # Given slots that die at once, for long
    supervision = make(1)
    mono_s: float | None = 0.0
    for _ in range(10):
        assert mono_s is not None
        mono_s = die_young(supervision, mono_s)
    assert mono_s is not None

    # When there is another template, and its first slot dies at once too
    supervision.renew()
    due = die_young(supervision, mono_s)

    # Then it is waited as after the first
    assert due == pytest.approx(mono_s + BACKOFF_S)


def test_a_node_that_ends_starts_nothing_and_charges_nobody(make: Make) -> None:
    # Given two slots, of which one has died and waits for its turn
    supervision = make(2)
    start(supervision)
    supervision.exited(1, KILLED, 0.5)

    # When the node ends, and the other slot with it
    supervision.end()
    assert not supervision.is_over()
    effects = supervision.exited(0, KILLED, 0.6)

    # Then that is no charge, nothing is started, and it is over
    assert effects == [Report(0, 100, "its process was ended by signal 9 (SIGKILL)", False)]
    assert (supervision.tick(99.0), supervision.next_deadline_mono_s(), supervision.is_over()) == ([], None, True)


def test_a_slot_that_was_ordered_before_the_end_is_waited_for(make: Make) -> None:
    # Given a node that ends while a process is on its way
    supervision = make(1)
    supervision.tick(0.0)
    supervision.end()
    assert not supervision.is_over()

    # When the process is there, and ends
    supervision.spawned(0, 100, 0.1)
    assert not supervision.is_over()
    supervision.exited(0, 0, 0.2)

    # Then it is over
    assert supervision.is_over()


def test_the_template_of_a_node_that_ends_is_not_missed(make: Make) -> None:
    supervision = make(2)
    start(supervision)
    supervision.end()
    assert len(supervision.template_lost(0, 5.0)) == 2
    assert supervision.is_over()


def test_what_is_known_of_a_death_beyond_its_status_is_its_cause(make: Make) -> None:
    supervision = make(1)
    start(supervision)

    report, *_ = supervision.exited(0, KILLED, YOUNG_S, cause="out of memory", charged=False, limit_s=3.0)

    assert report == Report(0, 100, "out of memory", False, 3.0)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        pytest.param(0, "its process exited with code 0", id="exit 0"),
        pytest.param(EXITED_1, "its process exited with code 1", id="exit 1"),
        pytest.param(255 << 8, "its process exited with code 255", id="exit 255"),
        pytest.param(9, "its process was ended by signal 9 (SIGKILL)", id="kill -9"),
        pytest.param(11 | 0x80, "its process was ended by signal 11 (SIGSEGV)", id="a core dump"),
        pytest.param(50, "its process was ended by signal 50 (unknown)", id="a signal without a name here"),
    ],
)
def test_a_wait_status_is_put_into_words(status: int, cause: str) -> None:
    assert cause_of(status) == cause


# --- a random walk -------------------------------------------------------------------------------


class Walk:
    """A node of the test: does what supervision says, and has its slots live and die as chance will have it."""

    SIZE, BLOCKED_MAX, SEATS = 3, 4, 12

    def __init__(self, supervision: Supervision, seed: int) -> None:
        self.supervision = supervision
        self.random = random.Random(seed)
        self.mono_s, self.pid = 0.0, 100
        #: {seat: generation} of slots that were ordered and are not there yet.
        self.ordered: dict[int, int] = {}
        #: {seat: what it says} of slots that are there.
        self.says: dict[int, int] = {}
        #: Seats on standby, which have not been told to go.
        self.standby: set[int] = set()
        self.blocked: set[int] = set()
        #: Those that were told to leave.
        self.leaving: set[int] = set()
        self.templates = {0}

    def do(self, effects: list[SupervisionEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                assert effect.seat not in self.ordered
                assert effect.seat not in self.says
                assert effect.generation in self.templates
                self.ordered[effect.seat] = effect.generation
                self.standby.discard(effect.seat)
                if effect.standby:
                    self.standby.add(effect.seat)
            elif isinstance(effect, Go):
                self.standby.discard(effect.seat)
            elif isinstance(effect, Retire):
                assert effect.seat not in self.leaving
                self.leaving.add(effect.seat)
            elif isinstance(effect, Dismiss):
                assert self.supervision.slots_of(effect.generation) == []
                assert effect.generation != self.supervision.generation
                self.templates.discard(effect.generation)

    def step(self) -> None:
        self.mono_s += self.random.choice((0.0, 0.1, 2.0))
        self.do(self.supervision.tick(self.mono_s))
        happen = self.random.choices(
            (self.arrives, self.talks, self.blocks, self.exits, self.renews, self.loses, self.resizes),
            (6, 8, 2, 3, 0.3, 0.2, 0.3),
        )[0]
        happen()
        self.supervision.check()
        deadline = self.supervision.next_deadline_mono_s()
        assert deadline is None or deadline <= self.mono_s + BACKOFF_MAX_S
        # Nobody works that was not told to: those that do are the places' incumbents and who leaves.
        assert self.supervision.blocked <= len(self.blocked)

    def arrives(self) -> None:
        if self.ordered:
            seat = self.random.choice(list(self.ordered))
            del self.ordered[seat]
            self.pid += 1
            self.supervision.spawned(seat, self.pid, self.mono_s)
            self.says[seat] = Says.STARTING

    def talks(self) -> None:
        if self.says:
            seat = self.random.choice(list(self.says))
            most = Says.WARM if seat in self.standby else Says.DONE
            self.says[seat] = min(self.says[seat] + 1, most)
            self.supervision.told(seat, self.says[seat], blocked=seat in self.blocked)

    def blocks(self) -> None:
        working = [seat for seat, says in self.says.items() if Says.WORKING <= says <= Says.SPENT]
        if working:
            seat = self.random.choice(working)
            self.blocked ^= {seat}
            self.supervision.told(seat, self.says[seat], blocked=seat in self.blocked)

    def exits(self) -> None:
        if self.says:
            seat = self.random.choice(list(self.says))
            pid = self.supervision.pid_of(seat)
            self.forget(seat)
            report, *more = self.supervision.exited(seat, KILLED, self.mono_s, worked=self.random.random() < 0.5)
            assert isinstance(report, Report)
            assert (report.seat, report.pid, report.charged) == (seat, pid, True)
            self.do(more)

    def forget(self, seat: int) -> None:
        self.ordered.pop(seat, None)
        self.says.pop(seat, None)
        for seats_ in (self.standby, self.blocked, self.leaving):
            seats_.discard(seat)

    def renews(self) -> None:
        self.templates.add(self.supervision.renew())

    def loses(self) -> None:
        if not self.templates:
            self.renews()
        lost = self.random.choice(sorted(self.templates))
        for seat in self.supervision.slots_of(lost):
            self.forget(seat)
        self.do(self.supervision.template_lost(lost, self.mono_s))
        self.templates.discard(lost)
        if lost == self.supervision.generation and self.random.random() < 0.5:
            self.renews()

    def resizes(self) -> None:
        self.supervision.resize(self.random.randrange(1, self.SIZE + 2))

    def settle(self) -> None:
        """From here on all goes well: who is ordered comes, who is to leave does, and nobody is blocked."""
        self.blocked.clear()
        if self.supervision.generation not in self.templates:
            self.renews()
        for _ in range(60):
            self.mono_s += BACKOFF_MAX_S
            self.do(self.supervision.tick(self.mono_s))
            while self.ordered:
                self.arrives()
            for seat, says in list(self.says.items()):
                if says == Says.DONE:
                    self.forget(seat)
                    self.do(self.supervision.exited(seat, 0, self.mono_s))
                    continue
                self.says[seat] = max(says, Says.WARM if seat in self.standby else Says.WORKING)
                if seat in self.leaving or says == Says.SPENT:
                    self.says[seat] = Says.DONE
                self.supervision.told(seat, self.says[seat], blocked=False)


@pytest.mark.parametrize("seed", range(40))
def test_every_slot_is_in_exactly_one_place_whatever_comes_and_all_is_well_in_the_end(make: Make, seed: int) -> None:
    # Given a node to which anything happens
    walk = Walk(make(Walk.SIZE, blocked_max=Walk.BLOCKED_MAX, seats=Walk.SEATS), seed)
    for _ in range(400):
        walk.step()
    assert not walk.supervision.is_over()

    # When no harm is done any more
    walk.settle()

    # Then as many slots work as there are to be, all of the last template, and none waits for ever
    supervision = walk.supervision
    assert len(supervision.living) == supervision.size
    assert {supervision.generation_of(seat) for seat in supervision.living} == {supervision.generation}
    assert walk.templates == {supervision.generation}
    assert not walk.standby
    assert supervision.is_complete()
