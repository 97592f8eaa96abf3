"""A task as its owner holds it: the moves between its phases, and what is counted against it."""

import pytest

from mesh.core.task import MAX_CAUSES, in_words
from mesh.exceptions import IllegalTransition
from mesh.messages import Flag
from mesh.states import PHASE_MOVES, Phase
from tests.core.builders import make_task


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_only_the_moves_of_the_table_are_made(before, after):
    # Given a task in one phase
    task = make_task(1)
    task.phase = before

    # When it is moved to another
    if after in PHASE_MOVES[before]:
        task.move(after)

        # Then it is there, if the table says so
        assert task.phase is after
    else:
        with pytest.raises(IllegalTransition) as caught:
            task.move(after)
        assert (task.phase, caught.value.state, caught.value.event) == (before, before.name, after.name)


def test_done_is_final():
    assert PHASE_MOVES[Phase.DONE] == frozenset()
    assert PHASE_MOVES.keys() == set(Phase)


def test_crashes_and_losses_are_counted_apart_and_their_causes_kept_in_order():
    # Given a fresh task
    task = make_task(1)

    # When a slot dies under it, then a node
    task.charge("signal 9", node_lost=False)
    task.charge("node n was lost", node_lost=True)

    # Then each counts against its own budget
    assert (task.crashes, task.losses, task.causes) == (1, 1, ["signal 9", "node n was lost"])


def test_a_task_that_dies_again_and_again_remembers_a_bounded_number_of_causes():
    task = make_task(1)
    for number in range(MAX_CAUSES + 5):
        task.charge(f"death {number}", node_lost=False)
    assert task.causes == [f"death {number}" for number in range(5, MAX_CAUSES + 5)]


def test_a_delivery_in_vain_makes_the_next_one_a_redelivery():
    # Given a task that asks for at most once
    task = make_task(1, flags=Flag.EARLY_ACK)

    # When a delivery had begun and brought nothing
    task.begun_in_vain()

    # Then the next one counts up and says so, without a charge
    assert (task.attempt, task.flags) == (1, Flag.EARLY_ACK | Flag.REDELIVERED)
    assert (task.crashes, task.losses, task.causes) == (0, 0, None)


@pytest.mark.parametrize(
    ("body", "frames", "size"),
    [
        pytest.param(b"", (), 0, id="nothing"),
        pytest.param(b"abc", (), 3, id="inline"),
        pytest.param(b"abc", (b"de", b"f"), 6, id="with frames"),
    ],
)
def test_the_size_of_a_body_includes_its_frames(body, frames, size):
    assert make_task(1, body=body, frames=frames).body_bytes == size


def test_a_custom_id_is_an_option():
    assert make_task(1).custom_id is None
    assert make_task(1, eta=5.0).custom_id is None
    assert make_task(1, id="order-17").custom_id == "order-17"


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        pytest.param([], "", id="none"),
        pytest.param(["a"], "a", id="one"),
        pytest.param(["a", "b", "a"], "a; b; a", id="in their order"),
        pytest.param(["a", "a", "a", "b", "a"], "a (3 times); b; a", id="the same in a row"),
    ],
)
def test_causes_are_put_into_words(causes, words):
    assert in_words(causes) == words
