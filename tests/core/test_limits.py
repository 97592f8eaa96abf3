"""Which runs have taken too long."""

import pytest

from mesh.core.limits import Interrupt, Kill, LimitedRun, LimitWatch, RunLimits, Verdict


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


def still(slot, lease):
    return True


def no_longer(slot, lease):
    return False


def test_the_end_of_a_process_tells_for_which_run_it_was_killed(watch):
    # Given two processes, of which one is killed for its run
    run, other = a_run(hard_s=2.5), a_run(1, pid=101, hard_s=50.0)
    assert watch.look([run, other], 15.0) == [Kill(run)]

    # When both end
    verdicts = [watch.ended(pid, killed=True, still_runs=still) for pid in (101, 100, 100)]

    # Then it is told of this one, once
    assert verdicts == [None, Verdict("a task that it ran had reached its time limit of 2.5 s", 0, 2.5), None]


@pytest.mark.parametrize(
    ("killed", "still_runs", "verdict"),
    [
        pytest.param(True, still, (0, 5.0), id="killed in its run"),
        pytest.param(True, no_longer, (0, 0.0), id="the run had ended just before"),
        pytest.param(False, still, None, id="it died of something else just before"),
        pytest.param(False, no_longer, None, id="it has ended by itself"),
    ],
)
def test_a_process_that_was_to_be_killed_may_have_ended_otherwise(watch, killed, still_runs, verdict):
    run = a_run(hard_s=5.0)
    watch.look([run], 15.0)
    said = watch.ended(100, killed=killed, still_runs=still_runs)
    assert (None if said is None else said[1:]) == verdict


def test_it_is_asked_whether_just_this_run_of_the_slot_goes_on(watch):
    watch.look([a_run(3, lease=7, hard_s=5.0)], 15.0)
    verdict = watch.ended(100, killed=True, still_runs=lambda slot, lease: (slot, lease) == (3, 7))
    assert verdict.limit_s == 5.0


def test_of_runs_that_share_a_process_the_first_that_is_over_has_it_killed_once(watch):
    # Given two slots of one process, whose runs are both over
    runs = [a_run(0, hard_s=5.0), a_run(1, hard_s=4.0)]

    # When they are looked at, twice
    effects = [watch.look(runs, 20.0), watch.look(runs, 20.1)]

    # Then one is the reason
    assert effects == [[Kill(runs[0])], []]
    assert watch.ended(100, killed=True, still_runs=still)[1:] == (0, 5.0)


def test_a_process_that_was_spared_can_be_killed_for_a_later_run(watch):
    # Given a run that was over its limit and has ended before the kill
    run = a_run(hard_s=5.0)
    watch.look([run], 15.0)
    watch.spared(run)
    watch.spared(a_run(1, pid=999))

    # When its process dies of something else, or runs on and on
    later = a_run(lease=2, begun=15.0, hard_s=5.0)
    assert watch.look([later], 19.0) == []
    assert watch.look([later], 20.0) == [Kill(later)]

    # Then it is killed for that run
    assert watch.ended(100, killed=True, still_runs=still) == Verdict(
        "a task that it ran had reached its time limit of 5 s", 0, 5.0
    )


def test_a_slot_that_can_be_killed_alone_is_told_from_its_neighbours(checked):
    # Given two slots of one process, each of which can be killed alone
    watch = checked(LimitWatch(apart=True))
    run, other = a_run(0, hard_s=5.0), a_run(1, hard_s=6.0)
    assert watch.look([run, other], 15.0) == [Kill(run)]

    # When the time of the second is over too, then that is no reason not to kill it
    assert watch.look([run, other], 16.0) == [Kill(other)]

    # And each of their ends has its own reason
    limits = [watch.ended(100, killed=True, still_runs=still, slot=slot).limit_s for slot in (1, 0)]
    assert limits == [6.0, 5.0]


def test_limits_are_true_where_there_is_one():
    assert [bool(RunLimits(*both)) for both in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))] == [False, True, True]
