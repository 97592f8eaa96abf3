"""What a task of a name is expected to take."""

import random

import pytest

from mesh.core import credit
from mesh.core.credit import FIRST_SAMPLES, MAX_NAMES, OVERHEAD_US, SAMPLES, WINDOW_US, Estimates


@pytest.fixture
def estimates(checked):
    return checked(Estimates())


def test_a_name_with_few_runs_takes_a_whole_window(estimates):
    # Given a name that has run, but not often enough
    for _ in range(FIRST_SAMPLES - 1):
        estimates.add("t", 10)
    assert (estimates.expected_us("t"), estimates.expected_us("never seen")) == (WINDOW_US, WINDOW_US)

    # When it has
    estimates.add("t", 10)

    # Then it takes what it took, and what a slot needs beside
    assert estimates.expected_us("t") == 10 + OVERHEAD_US


def test_one_slow_run_in_twenty_counts_and_one_in_forty_does_not(estimates):
    # Given a name whose runs are learnt in samples of 32
    def learn(*slow_us):
        for runtime_us in (*slow_us, *[100] * (SAMPLES - len(slow_us))):
            estimates.add("t", runtime_us)
        return estimates.expected_us("t")

    # When none, one or two of them are slow, then it is the 95th percentile that is expected
    assert learn() == 100 + OVERHEAD_US
    assert learn(9_000) == 100 + OVERHEAD_US
    assert learn(9_000, 8_000) == 8_000 + OVERHEAD_US


def test_names_are_learnt_apart(estimates):
    for _ in range(FIRST_SAMPLES):
        estimates.add("short", 10)
        estimates.add("long", 50_000)
    assert (estimates.expected_us("short"), estimates.expected_us("long")) == (25, 50_015)


def test_a_name_that_has_become_slow_is_learnt_anew(estimates):
    for _ in range(SAMPLES):
        estimates.add("t", 10)
    for _ in range(SAMPLES):
        estimates.add("t", 3_000)
    assert estimates.expected_us("t") == 3_000 + OVERHEAD_US


def test_no_more_names_are_remembered_than_there_is_room_for(estimates, monkeypatch):
    # Given room for two names, of which both are known
    monkeypatch.setattr(credit, "MAX_NAMES", 2)
    for name in ("first", "second"):
        for _ in range(FIRST_SAMPLES):
            estimates.add(name, 10)

    # When a third comes
    for _ in range(FIRST_SAMPLES):
        estimates.add("third", 20)

    # Then the oldest is forgotten
    assert [estimates.expected_us(name) for name in ("first", "second", "third")] == [WINDOW_US, 25, 35]
    assert len(estimates._samples) == 2 < MAX_NAMES


@pytest.mark.parametrize("seed", range(5))
def test_an_estimate_lies_at_the_95th_percentile_of_its_sample(estimates, seed):
    # Given runs of any length
    rng = random.Random(seed)
    runs = [rng.randrange(10_000) for _ in range(SAMPLES * 4)]

    # When they come in one after the other
    for at, runtime_us in enumerate(runs, start=1):
        estimates.add("t", runtime_us)
        estimates.check()

        # Then the estimate is that of the last sample that was full, or of the first few
        if at >= SAMPLES:
            sample = sorted(runs[(at // SAMPLES - 1) * SAMPLES : at // SAMPLES * SAMPLES])
        else:
            sample = sorted(runs[:FIRST_SAMPLES])
        if at >= FIRST_SAMPLES:
            below = sum(run <= estimates.expected_us("t") - OVERHEAD_US for run in sample)
            assert below >= 0.95 * len(sample) - 1e-9
            assert estimates.expected_us("t") - OVERHEAD_US in sample


def test_the_check_finds_more_names_than_there_is_room_for(monkeypatch):
    estimates = Estimates()
    estimates.add("a", 1)
    estimates.add("b", 1)
    monkeypatch.setattr(credit, "MAX_NAMES", 1)
    with pytest.raises(AssertionError):
        estimates.check()
