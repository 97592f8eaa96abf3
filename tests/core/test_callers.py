"""What the owner knows of a client, and what it has yet to tell it."""

import pytest

from mesh.core.callers import Caller
from mesh.messages import Confirm, Durability


@pytest.fixture
def caller(checked):
    return checked(Caller(b"prefix", 7))


def test_confirms_are_cumulative_and_told_once(caller):
    # Given calls that were journaled in pieces, and one that was refused
    for first, last in ((1, 3), (6, 7), (4, 5)):
        caller.reached(Durability.JOURNALED, first, last)
    caller.refused.append([8, "full", "it is full"])
    caller.confirm_by(10.0)

    # When they are told
    confirms = caller.take_confirms()

    # Then all of a level is in one, refusals are in one of their own, and nothing is left
    assert confirms == [
        Confirm(Durability.JOURNALED, [[1, 7]], []),
        Confirm(Durability.NONE, [], [[8, "full", "it is full"]]),
    ]
    assert caller.take_confirms() == []
    assert caller.confirm_due_mono_s is None


def test_each_level_is_confirmed_by_itself(caller):
    # Given calls for which different levels were reached
    caller.reached(Durability.SYNCED, 2, 3)
    caller.reached(Durability.NONE, 1, 1)
    caller.reached(Durability.SYNCED, 4, 4)
    caller.confirm_by(10.0)

    # When they are told
    confirms = caller.take_confirms()

    # Then there is one message a level, in the order in which the levels were reached
    assert confirms == [Confirm(Durability.SYNCED, [[2, 4]], []), Confirm(Durability.NONE, [[1, 1]], [])]


@pytest.mark.parametrize(
    ("moments", "due"),
    [
        pytest.param([5.0], 5.0, id="one"),
        pytest.param([5.0, 7.0], 5.0, id="a later one joins it"),
        pytest.param([5.0, 3.0], 3.0, id="an earlier one hastens it"),
    ],
)
def test_a_confirm_is_due_at_the_earliest_moment_that_was_asked_for(caller, moments, due):
    for mono_s in moments:
        caller.confirm_by(mono_s)
    assert caller.confirm_due_mono_s == due


@pytest.mark.parametrize(
    "untold",
    [
        pytest.param(lambda caller: caller.reached(Durability.NONE, 1, 1), id="a confirm"),
        pytest.param(lambda caller: caller.refused.append([1, "full", "it is full"]), id="a refusal"),
    ],
)
def test_the_check_finds_what_would_never_be_told(untold):
    caller = Caller(b"prefix", 7)
    caller.check()
    untold(caller)
    with pytest.raises(AssertionError):
        caller.check()
    caller.confirm_by(0.0)
    caller.check()
