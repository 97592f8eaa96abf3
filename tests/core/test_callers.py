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
        caller.unconfirmed.add_range(first, last)
    caller.refused.append([8, "it is full"])
    caller.confirm_by(10.0)

    # When they are told
    confirm = caller.take_confirm(Durability.JOURNALED)

    # Then it is all in one, and nothing is left
    assert confirm == Confirm(Durability.JOURNALED, [[1, 7]], [[8, "it is full"]])
    assert caller.take_confirm(Durability.JOURNALED) == Confirm(Durability.JOURNALED, [], [])
    assert caller.confirm_due_mono_s is None


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


def test_the_check_finds_what_would_never_be_told():
    caller = Caller(b"prefix", 7)
    caller.unconfirmed.add(1)
    with pytest.raises(AssertionError):
        caller.check()
