"""Runs that are to end on request: how long they have, and whose end that was."""

import pytest

from mesh.core.limits import Verdict
from mesh.core.shutdown import GRACE_S
from mesh.core.terminations import DoomedRun, Terminations

RUN = DoomedRun(3, 100, 7)
VERDICT = Verdict("what it ran was terminated", 3, 0.0)


@pytest.fixture
def terminations(checked):
    return checked(Terminations())


def still(seat, lease):
    return True


def no_more(seat, lease):
    return False


def test_a_run_that_was_asked_to_end_has_a_moment_once(terminations):
    # Given a run that was asked, and asked again
    terminations.ask(RUN, 10.0)
    terminations.ask(RUN, 11.0)
    assert terminations.next_deadline_mono_s() == 10.0 + GRACE_S

    # Then it is to be killed after the first moment, and that is told once
    assert terminations.take_due(10.0 + GRACE_S - 0.001) == []
    assert terminations.take_due(10.0 + GRACE_S) == [RUN]
    assert (terminations.take_due(99.0), terminations.next_deadline_mono_s()) == ([], None)


def test_each_run_has_its_own_moment(terminations):
    other = RUN._replace(lease=8)
    terminations.ask(other, 12.0)
    terminations.ask(RUN, 10.0)
    assert terminations.next_deadline_mono_s() == 10.0 + GRACE_S
    assert terminations.take_due(12.0 + GRACE_S) == [other, RUN]


def test_the_end_of_a_process_that_was_sent_a_signal_is_that_of_the_run_if_it_still_ran(terminations):
    terminations.signalled(RUN)
    assert terminations.ended(101, still_runs=still) is None
    assert terminations.ended(100, still_runs=still) == VERDICT
    assert terminations.ended(100, still_runs=still) is None

    terminations.signalled(RUN)
    assert terminations.ended(100, still_runs=no_more) is None
    assert terminations.ended(100, still_runs=still) is None


def test_of_several_slots_of_a_process_only_that_one_ended_for_it(terminations):
    terminations.signalled(RUN)
    assert terminations.ended(100, still_runs=still, seat=4) is None
    assert terminations.ended(100, still_runs=still, seat=3) == VERDICT


def test_a_run_that_had_ended_before_the_signal_is_no_reason(terminations):
    terminations.signalled(RUN)
    terminations.spared(RUN)
    assert terminations.ended(100, still_runs=still) is None
