"""When a slot has run all it may, or has grown too large, and when its successor is wanted."""

import pytest

from mesh.core.backoff import Backoff
from mesh.core.wear import HEIR_AHEAD_MAX, Wear


@pytest.fixture
def make(checked):
    return lambda tasks_max=0, memory_max_kib=0: checked(Wear(tasks_max, memory_max_kib))


def run(wear, count):
    """The numbers of the runs with which it asked for its successor."""
    return [number for number in range(1, count + 1) if wear.begins()]


@pytest.mark.parametrize(
    ("tasks_max", "asks_with"),
    [
        pytest.param(2, 1, id="two: with the first"),
        pytest.param(9, 8, id="a few: one ahead"),
        pytest.param(100, 90, id="a tenth ahead"),
        pytest.param(50_000, 50_000 - HEIR_AHEAD_MAX, id="many: a thousand ahead"),
    ],
)
def test_the_successor_is_asked_for_before_the_last_runs(make, tasks_max, asks_with):
    wear = make(tasks_max)
    assert not wear.wants_heir_from_the_start
    assert run(wear, tasks_max) == [asks_with]


def test_a_slot_for_a_single_task_has_its_successor_from_the_start(make):
    wear = make(1)
    assert wear.wants_heir_from_the_start
    assert run(wear, 1) == []
    assert wear.is_over(0)


def test_it_is_over_with_the_last_run_and_not_before(make):
    wear = make(3)
    over = []
    for _ in range(3):
        wear.begins()
        over.append(wear.is_over(1 << 40))
    assert over == [False, False, True]


def test_a_slot_that_grows_asks_at_nine_tenths_and_is_over_at_its_limit(make):
    wear = make(memory_max_kib=1000)
    assert [wear.wants_heir(kib) for kib in (899, 900, 1000)] == [False, True, True]
    assert [wear.is_over(kib) for kib in (900, 999, 1000)] == [False, False, True]
    assert run(wear, 50) == []


def test_a_slot_without_limits_has_no_end(make):
    wear = make()
    assert not wear.is_bounded
    assert not wear.wants_heir_from_the_start
    assert (run(wear, 50), wear.wants_heir(1 << 40), wear.is_over(1 << 40)) == ([], False, False)


def test_waits_double_up_to_the_longest_and_begin_anew_with_a_success():
    backoff = Backoff(0.5, 3.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.worked() == 0.0
    assert backoff.failed() == 0.5
