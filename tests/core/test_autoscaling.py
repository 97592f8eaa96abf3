"""How many slots a node has that may have more or fewer, and how a router tells it of work."""

import pytest

from mesh import messages as m
from mesh.core.autoscaling import Autoscaling, Use
from mesh.core.demand import TELL_AGAIN_S

IDLE_S = 30.0


@pytest.fixture
def scaling(checked):
    return checked(Autoscaling(10, 2, IDLE_S))


def uses(**begun):
    """{seat: what its slot does}, of `s0=5`: lease 5 was begun; a negative one runs."""
    return {int(name[1:]): Use(abs(lease), lease < 0) for name, lease in begun.items()}


@pytest.mark.parametrize(
    ("demands", "size"),
    [
        pytest.param([], 2, id="none: the least"),
        pytest.param([(3, 2)], 5, id="as many more as tasks wait"),
        pytest.param([(1, 0)], 2, id="a slot that has nothing to do takes one"),
        pytest.param([(3, 2), (3, 2)], 5, id="the same tasks are not counted twice while slots start"),
        pytest.param([(3, 2), (4, 5)], 9, id="again, when all are busy"),
        pytest.param([(10_000, 2)], 10, id="but not more than the most"),
        pytest.param([(3, 2), (0, 0)], 5, id="no work is no reason to shrink at once"),
        pytest.param([(-50, 2)], 2, id="nonsense changes nothing"),
    ],
)
def test_a_node_grows_to_as_many_slots_as_tasks_run_and_wait(scaling, demands, size):
    for tasks, busy in demands:
        scaling.demand(tasks, busy, 0.0)
    assert scaling.size == size


def test_slots_that_nobody_used_for_a_while_are_given_up_and_no_others(scaling):
    # Given a node that has grown to five
    scaling.demand(3, 2, 100.0)
    assert scaling.next_deadline_mono_s() == 100.0 + IDLE_S

    # When it looks for the first time, nothing is known of use
    assert scaling.look(uses(s0=4, s1=4, s2=4, s3=-4, s4=4), 100.0 + IDLE_S) == []

    # Then the next look finds those that have begun nothing since and run nothing, down to the least
    assert scaling.look(uses(s0=4, s1=5, s2=4, s3=-4, s4=4), 100.0 + 2 * IDLE_S) == [0, 2, 4]
    assert (scaling.size, scaling.next_deadline_mono_s()) == (2, None)


def test_it_looks_no_sooner_than_it_is_time(scaling):
    scaling.demand(3, 2, 0.0)
    scaling.look(uses(s0=1), IDLE_S)
    assert scaling.look(uses(s0=1), 2 * IDLE_S - 0.001) == []
    assert scaling.look(uses(s0=1), 2 * IDLE_S) == [0]


# --- what the router tells -----------------------------------------------------------------------


def scaled(router, **info):
    return router.node("n1", queues=["q"], wants_demand=True, **info)


def told(node):
    return [one.tasks for one in node.take(m.Demand)]


def test_a_node_that_asks_for_it_is_told_when_work_waits_and_when_it_is_gone(router, client):
    # Given a node without slots
    node = scaled(router)

    # When calls come, it is told how many wait; of more that come at once, a moment later
    client.calls(3)
    assert told(node) == [3]
    client.calls(2)
    assert told(node) == []
    router.passes(TELL_AGAIN_S)
    assert told(node) == [5]

    # And that nothing waits any more
    slot = node.slot()
    while slot.holds():
        slot.ends()
    router.passes(TELL_AGAIN_S)
    assert told(node)[-1] == 0


def test_a_node_hears_nothing_of_queues_that_are_not_its_own(router, client):
    node = scaled(router)
    client.calls(3, queue="other")
    router.passes(1.0)
    assert told(node) == []


def test_a_node_that_does_not_ask_is_told_nothing(router, client):
    node = router.node("n1", queues=["q"])
    client.calls(3)
    router.passes(1.0)
    assert told(node) == []


@pytest.mark.parametrize("queues", [None, 7, [None, 5, "q"], "q"])
def test_a_node_that_names_its_queues_wrongly_does_no_harm(router, client, queues):
    node = router.node("n1", queues=queues, wants_demand=True)
    client.calls(3)
    assert told(node) in ([], [3])


def test_of_several_nodes_the_one_that_is_due_first_is_told_first(router, client):
    # Given two nodes that were told at different times, and more work for both
    first = scaled(router)
    client.calls(1)
    router.passes(TELL_AGAIN_S / 2)
    second = router.node("n2", queues=["q"], wants_demand=True)
    assert (told(first), told(second)) == ([1], [1])
    client.calls(1)

    # Then it is looked again when the first is due
    due_mono_s = router.owner.next_deadline_mono_s()
    assert due_mono_s == pytest.approx(router.mono_s + TELL_AGAIN_S / 2)
    router.passes(due_mono_s - router.mono_s)
    assert (told(first), told(second)) == ([2], [])
    router.passes(TELL_AGAIN_S / 2)
    assert told(second) == [2]
