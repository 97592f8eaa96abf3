"""What is kept apart where slots share a process and still end one by one."""

import pytest

from mesh.core.limits import Kill, LimitedRun, LimitWatch, RunLimits
from mesh.core.supervision import Spawn, Supervision

PID = 100


def a_run(slot, *, lease=1):
    return LimitedRun(slot, PID, lease, 10.0, RunLimits(5.0, 0.0))


def ordered(effects):
    return [effect.seat for effect in effects if isinstance(effect, Spawn)]


@pytest.fixture
def watch(checked):
    return checked(LimitWatch(apart=True))


def test_each_run_beyond_its_limit_is_killed(watch):
    runs = [a_run(0), a_run(1)]
    assert watch.look(runs[:1], 15.0) == [Kill(runs[0])]
    assert watch.look(runs, 15.0) == [Kill(runs[1])]


def test_the_end_of_a_slot_tells_for_which_run_it_was_killed(watch):
    # Given two slots that were killed
    watch.look([a_run(0), a_run(1)], 15.0)

    # When one ends, then that is for its limit, once
    verdict = watch.ended(PID, slot=1, killed=True, still_runs=lambda slot, lease: slot == 1)
    assert verdict is not None
    assert (verdict.seat, verdict.limit_s) == (1, 5.0)
    assert watch.ended(PID, slot=1, killed=True, still_runs=lambda slot, lease: True) is None

    # And then the other one
    verdict = watch.ended(PID, slot=0, killed=True, still_runs=lambda slot, lease: True)
    assert verdict is not None
    assert verdict.seat == 0


def test_a_slot_that_was_spared_has_its_next_limit_kept(watch):
    run = a_run(0)
    watch.look([run], 15.0)
    watch.spared(run)
    later = a_run(0, lease=2)
    assert watch.look([later], 20.0) == [Kill(later)]


def test_a_seat_is_not_taken_again_before_the_others(checked):
    # Given a slot in one of three seats
    supervision = checked(Supervision(1, seats=3, in_turn=True))
    assert ordered(supervision.tick(0.0)) == [0]

    # When slots end one after the other
    seats: list[int] = []
    for at_s in (10.0, 20.0, 30.0):
        seat = seats[-1] if seats else 0
        supervision.spawned(seat, PID, at_s)
        seats += ordered(supervision.exited(seat, 0, at_s + 5.0))

    # Then their successors take the seats in turn
    assert seats == [1, 2, 0]
