"""Which runs have taken too long."""

import pytest

from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits


@pytest.fixture
def watch(checked):
    return checked(LimitWatch())


def a_run(slot=0, *, pid=100, lease=1, begun=10.0, hard_s=0.0, soft_s=0.0):
    return LimitedRun(slot, pid, lease, begun, RunLimits(hard_s, soft_s))


def test_nothing_happens_before_the_limit_and_then_the_process_is_killed_once(watch):
    run = a_run(hard_s=5.0)
    assert watch.look([run], 10.0) == []
    assert watch.next_deadline_mono_s() == 15.0
    assert watch.look([run], 14.9) == []
    assert watch.look([run], 15.0) == [Kill(run)]
    assert watch.next_deadline_mono_s() is None
    assert watch.look([run], 16.0) == []


def test_a_run_is_interrupted_once_and_killed_if_it_goes_on(watch):
    run = a_run(hard_s=5.0, soft_s=2.0)
    assert watch.look([run], 10.0) == []
    assert watch.next_deadline_mono_s() == 12.0
    assert watch.look([run], 12.0) == [Interrupt(run)]
    assert watch.next_deadline_mono_s() == 15.0
    assert watch.look([run], 13.0) == []
    assert watch.look([run], 15.5) == [Kill(run)]


def test_a_run_that_is_seen_too_late_for_its_soft_limit_is_killed(watch):
    run = a_run(hard_s=5.0, soft_s=2.0)
    assert watch.look([run], 20.0) == [Kill(run)]


@pytest.mark.parametrize(
    "later", [a_run(soft_s=2.0, lease=2, begun=20.0), a_run(soft_s=2.0, pid=101, begun=20.0)], ids=["lease", "process"]
)
def test_the_next_run_of_a_slot_has_a_limit_of_its_own(watch, later):
    run = a_run(soft_s=2.0)
    assert watch.look([run], 12.0) == [Interrupt(run)]
    assert watch.look([later], 20.0) == []
    assert watch.next_deadline_mono_s() == 22.0
    assert watch.look([later], 22.0) == [Interrupt(later)]


def test_after_a_run_that_was_over_at_once_the_next_look_is_a_limit_away(watch):
    assert watch.look([], 10.0, next_s=0.5) == []
    assert watch.next_deadline_mono_s() == 10.5
    assert watch.look([a_run(hard_s=5.0)], 10.5, next_s=0.5) == []
    assert watch.next_deadline_mono_s() == 15.0
    assert watch.look([], 15.0) == []
    assert watch.next_deadline_mono_s() is None


def test_the_nearest_limit_of_all_slots_counts(watch):
    runs = [a_run(0, hard_s=9.0), a_run(1, pid=101, hard_s=3.0), a_run(2, pid=102, soft_s=6.0)]
    assert watch.look(runs, 10.0) == []
    assert watch.next_deadline_mono_s() == 13.0
    assert watch.look(runs, 13.0) == [Kill(runs[1])]
    assert watch.next_deadline_mono_s() == 16.0


def test_the_end_of_a_process_tells_for_which_run_it_was_killed(watch):
    run, other = a_run(hard_s=5.0), a_run(1, pid=101, hard_s=50.0)
    watch.look([run, other], 15.0)
    assert watch.ended(101) is None
    assert watch.ended(100) == run
    assert watch.ended(100) is None


def test_limits_are_true_where_there_is_one():
    assert [bool(RunLimits(*both)) for both in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))] == [False, True, True]
