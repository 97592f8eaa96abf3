"""Which slots a node should have, and what it does when one ends."""

import random

import pytest

from mesh.core.supervision import BACKOFF_MAX_S, BACKOFF_S, YOUNG_S, Report, Spawn, Supervision, cause_of

KILLED = 9
EXITED_1 = 1 << 8


@pytest.fixture
def make(checked):
    return lambda slots: checked(Supervision(slots))


def start(supervision, mono_s=0.0):
    """Starts what is due: slot n as process 100 + n."""
    for effect in supervision.tick(mono_s):
        supervision.spawned(effect.slot, 100 + effect.slot, mono_s)


def die_young(supervision, mono_s):
    """The only slot dies at once. When the next is due."""
    start(supervision, mono_s)
    supervision.exited(100, KILLED, mono_s)
    return supervision.next_deadline_mono_s()


def test_every_slot_is_ordered_once(make):
    # Given a node of three slots
    supervision = make(3)
    assert supervision.next_deadline_mono_s() == 0.0

    # When it looks, twice
    effects = [supervision.tick(0.0), supervision.tick(0.0)]

    # Then each was ordered once, and the node is complete when all are there
    assert effects == [[Spawn(0), Spawn(1), Spawn(2)], []]
    assert supervision.next_deadline_mono_s() is None
    for index in range(3):
        assert not supervision.is_complete()
        supervision.spawned(index, 100 + index, 0.0)
    assert supervision.is_complete()
    assert supervision.slot_of(101) == 1


def test_a_slot_that_ends_after_a_while_is_reported_and_replaced_at_once(make):
    # Given two slots that have lived for a while
    supervision = make(2)
    start(supervision)

    # When one is killed
    effects = supervision.exited(101, KILLED, YOUNG_S)

    # Then its death is charged to what it ran, and another one starts
    assert effects == [Report(1, 101, "its process was ended by signal 9 (SIGKILL)", True), Spawn(1)]
    assert not supervision.is_complete()


def test_the_death_of_a_stranger_is_nothing_to_a_node(make):
    supervision = make(1)
    start(supervision)
    assert supervision.exited(999, KILLED, 5.0) == []
    assert supervision.is_complete()


def test_slots_that_die_at_once_are_started_at_longer_and_longer_intervals(make):
    # Given a slot that dies whenever it starts
    supervision, mono_s, waits = make(1), 0.0, []

    # When that goes on
    for _ in range(2_000):
        due = die_young(supervision, mono_s)
        waits.append(round(due - mono_s, 6))
        mono_s = due

    # Then the waits double from the first to the longest, and stay there
    assert waits[:4] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S]
    assert waits == sorted(waits)
    assert set(waits[20:]) == {BACKOFF_MAX_S}


def test_nothing_is_ordered_before_its_wait_is_over(make):
    supervision = make(1)
    due = die_young(supervision, 10.0)
    assert supervision.tick(due - 0.001) == []
    assert supervision.tick(due) == [Spawn(0)]


@pytest.mark.parametrize(
    ("lived_s", "worked"),
    [
        pytest.param(YOUNG_S, False, id="one that lived for a while"),
        pytest.param(0.0, True, id="one that had begun a task, however young"),
    ],
)
def test_a_slot_that_could_start_ends_the_waiting(make, lived_s, worked):
    # Given a slot that has died at once, three times
    supervision, mono_s = make(1), 0.0
    for _ in range(3):
        mono_s = die_young(supervision, mono_s)

    # When one ends that could start
    start(supervision, mono_s)
    effects = supervision.exited(100, KILLED, mono_s + lived_s, worked=worked)

    # Then the next starts at once, and one that dies at once waits as the first did
    assert effects[1:] == [Spawn(0)]
    supervision.spawned(0, 100, mono_s)
    supervision.exited(100, KILLED, mono_s)
    assert supervision.next_deadline_mono_s() == pytest.approx(mono_s + BACKOFF_S)


def test_a_node_that_ends_starts_nothing_and_charges_nobody(make):
    # Given two slots, of which one has died and waits for its turn
    supervision = make(2)
    start(supervision)
    supervision.exited(101, KILLED, 0.5)

    # When the node ends, and the other slot with it
    supervision.end()
    assert not supervision.is_over()
    effects = supervision.exited(100, 0, 0.6)

    # Then that is no charge, nothing is started, and it is over
    assert effects == [Report(0, 100, "its process exited with code 0", False)]
    assert (supervision.tick(99.0), supervision.next_deadline_mono_s(), supervision.is_over()) == ([], None, True)


def test_a_slot_that_was_ordered_before_the_end_is_waited_for(make):
    # Given a node that ends while a process is on its way
    supervision = make(1)
    supervision.tick(0.0)
    supervision.end()
    assert not supervision.is_over()

    # When the process is there, and ends
    supervision.spawned(0, 100, 0.1)
    assert not supervision.is_over()
    supervision.exited(100, 0, 0.2)

    # Then it is over
    assert supervision.is_over()


def test_slots_that_go_with_the_template_are_reported_without_a_charge(make):
    # Given three slots, of which one is not there yet
    supervision = make(3)
    for effect in supervision.tick(0.0)[:2]:
        supervision.spawned(effect.slot, 100 + effect.slot, 0.0)

    # When the template dies
    effects = supervision.template_lost(5.0)

    # Then the living are reported, and all are due
    assert effects == [Report(index, 100 + index, "the template process died", False) for index in (0, 1)]
    assert (supervision.living, supervision.next_deadline_mono_s()) == ({}, 5.0)


def test_the_template_of_a_node_that_ends_is_not_missed(make):
    supervision = make(2)
    start(supervision)
    supervision.end()
    assert len(supervision.template_lost(5.0)) == 2
    assert supervision.is_over()


def test_what_is_known_of_a_death_beyond_its_status_is_its_cause(make):
    supervision = make(1)
    start(supervision)

    report, *_ = supervision.exited(100, KILLED, YOUNG_S, cause="killed by the kernel: out of memory")

    assert report == Report(0, 100, "killed by the kernel: out of memory", True)


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
def test_a_wait_status_is_put_into_words(status, cause):
    assert cause_of(status) == cause


@pytest.mark.parametrize("seed", range(6))
def test_every_slot_is_in_exactly_one_state_whatever_comes(checked, seed):
    rng = random.Random(seed)
    supervision, mono_s, pid = checked(Supervision(4)), 0.0, 100
    ordered: list[int] = []
    for _ in range(400):
        # Given whatever came before, when time passes, a process comes or goes, or the template dies
        mono_s += rng.choice((0.0, 0.1, 2.0))
        effects = supervision.tick(mono_s)
        match rng.choices(("spawned", "exited", "template"), (5, 4, 0.2))[0]:
            case "spawned" if ordered:
                pid += 1
                supervision.spawned(ordered.pop(rng.randrange(len(ordered))), pid, mono_s)
            case "exited" if supervision.living:
                index, (dead, _) = rng.choice(list(supervision.living.items()))
                report, *more = supervision.exited(dead, KILLED, mono_s, worked=rng.random() < 0.5)
                assert (report.slot, report.pid, report.charged) == (index, dead, True)
                effects += more
            case "template":
                supervision.template_lost(mono_s)
                ordered.clear()
        ordered += [effect.slot for effect in effects if isinstance(effect, Spawn)]

        # Then each slot lives, is ordered, or is due; and the next look is not later than the longest wait
        supervision.check()
        deadline = supervision.next_deadline_mono_s()
        assert deadline is None or deadline <= mono_s + BACKOFF_MAX_S
    assert not supervision.is_over()
