"""What the death of a slot or node does to tasks, and what their orderly end."""

import pytest

from mesh import messages as m
from mesh.core.crew import CAUSE_S
from mesh.core.dispatch import Budgets
from mesh.core.records import RowKind
from mesh.ids import to_text
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import BUDGETS, Failure

# --- deaths --------------------------------------------------------------------------------------


def test_the_death_of_a_slot_waits_for_the_cause_that_its_node_tells(router, client):
    # Given a slot that holds two tasks and has begun the first, and another slot
    node = router.node()
    slot = node.slot(0)
    first, second = client.calls(2)
    slot.looks()
    other = node.slot(1)

    # When the kernel tells of its death, nothing happens yet
    router.process_ended(slot.pid, begun=1)
    assert other.looks() == []

    # Then the node tells the cause: both run again, in order, and only the first is charged
    node.says(m.SlotLost(0, slot.pid, 1, "signal 9", True))
    assert other.looks() == [first, second]
    assert [(one.attempt, one.flags) for one in other.held.values()] == [(1, Flag.REDELIVERED), (0, Flag.NONE)]
    assert router.owner.dispatch.open[first].causes == ["signal 9"]


def test_a_slot_that_is_dead_gets_nothing_while_its_cause_is_awaited(router, client):
    slot = router.slot()
    router.process_ended(slot.pid)
    client.call()
    assert slot.looks() == []


def test_the_cause_may_come_before_the_death(router, client):
    node = router.node()
    slot = node.slot(0)
    task_id = client.call()
    slot.looks()
    other = node.slot(1)
    node.says(m.SlotLost(0, slot.pid, 1, "signal 9", True))
    router.process_ended(slot.pid, begun=1)
    assert other.looks() == [task_id]
    assert router.owner.dispatch.open[task_id].crashes == 1


def test_a_death_whose_cause_nobody_tells_counts_after_a_while(router, client):
    node = router.node()
    slot = node.slot(0)
    task_id = client.call()
    slot.looks()
    other = node.slot(1)
    router.process_ended(slot.pid, begun=1)
    router.passes(CAUSE_S)
    assert other.looks() == [task_id]
    task = router.owner.dispatch.open[task_id]
    assert (task.crashes, task.losses, task.causes) == (1, 0, ["its process ended, nobody knows why"])


def test_each_death_has_its_own_time_to_be_explained(router):
    node = router.node()
    slots = [node.slot(index) for index in range(2)]
    router.process_ended(slots[0].pid)
    due = router.mono_s + CAUSE_S
    router.passes(CAUSE_S / 2)
    router.process_ended(slots[1].pid)
    assert router.owner.next_deadline_mono_s() == due
    router.passes(CAUSE_S / 2)
    assert router.owner.next_deadline_mono_s() == due + CAUSE_S / 2
    router.passes(CAUSE_S / 2)
    assert (router.owner.next_deadline_mono_s(), router.owner.dispatch.consumers) == (None, {})


def test_a_slot_that_dies_before_its_node_has_joined_waits_for_nobody(router, client):
    node = router.absent_node()
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    assert router.owner.slots_of_pid(slot.pid) == [("", 0)]
    router.process_ended(slot.pid, begun=1)
    assert router.slot().holds() == [task_id]


def test_slots_that_share_a_process_are_told_apart(router, client):
    # Given two slots of one process
    node = router.node()
    first, second = node.slot(0, pid=7), node.slot(1, pid=7)
    ids = client.calls(2)
    assert (first.holds(), second.holds()) == ([ids[0]], [ids[1]])

    # When the node takes back what one holds
    node.says(m.Quiet("n"), m.Recalled(1, 7, 0, 1))

    # Then it is that one's
    assert router.slot().holds() == [ids[1]]


def test_slots_that_die_with_their_node_count_as_lost(router, client):
    # Given a node whose slot has begun a task, and another node
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    other = router.node("n2").slot()

    # When the whole node dies, the supervisor first
    router.process_ended(node.pid)
    assert other.looks() == []
    router.process_ended(slot.pid, begun=1)

    # Then the task is charged with a loss, and runs elsewhere
    assert other.looks() == [task_id]
    task = router.owner.dispatch.open[task_id]
    assert (task.crashes, task.losses, task.causes) == (0, 1, ["node n1 was lost"])


def test_slots_that_die_before_their_node_count_as_lost_too(router, client):
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    other = router.node("n2").slot()
    router.process_ended(slot.pid, begun=1)
    router.process_ended(node.pid)
    assert other.looks() == [task_id]
    assert router.owner.dispatch.open[task_id].losses == 1


def test_a_slot_outlives_its_node_and_ends_its_task(router, client):
    # Given a slot that runs a task when its node dies
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    router.process_ended(node.pid)
    client.call()

    # When it ends it
    slot.ends(task_id, body=b"value")

    # Then that counts, and it gets nothing more
    assert client.results() == {task_id: (Status.SUCCESS, b"value")}
    assert slot.holds() == []


def test_a_slot_that_outlived_its_node_is_not_waited_for_by_another_node_of_that_name(router, client):
    # Given a slot whose node has died, and a new node under the same name
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    assert router.owner.slots_of_pid(slot.pid) == [("n1.page", 0)]
    router.process_ended(node.pid)
    other = router.node("n1", page="other.page").slot()
    assert router.owner.slots_of_pid(slot.pid) == [("n1.page", 0)]
    assert router.owner.slots_of_pid(other.pid) == [("other.page", 0)]

    # When the slot dies
    router.process_ended(slot.pid, begun=1)

    # Then its task runs again at once, charged with the loss of the node
    assert other.looks() == [task_id]
    assert router.owner.dispatch.open[task_id].losses == 1


def test_a_slot_that_leaves_keeps_what_it_had_begun_until_it_has_ended(router, client):
    # Given a slot that holds a task that may run at most once, which it has begun, and another one behind it
    node = router.node()
    slot = node.slot(0)
    first = client.call(flags=Flag.EARLY_ACK)
    second = client.call()
    slot.looks()

    # When it says bye, nothing is run twice, and it gets no more
    slot.says(m.Bye("the slot ends"))
    third = client.call()
    assert slot.looks() == []
    other = node.slot(1)
    assert other.holds() == [third]

    # Then what had begun counts as begun when its process ends
    slot.dies(begun=1)
    assert client.failures()[first].error.startswith("WorkerLostError")
    assert other.looks() == [second]


def test_an_early_acknowledged_task_fails_with_the_slot_that_had_begun_it(router, client):
    # Given a slot that holds two tasks that may run at most once
    node = router.node()
    slot = node.slot(0)
    first, second = client.calls(2, flags=Flag.EARLY_ACK)
    slot.looks()
    other = node.slot(1)

    # When it dies with the first
    slot.dies(begun=1, cause="its process was ended by signal 9 (SIGKILL)")

    # Then that has failed, and says why; the other one runs
    failure = client.failures()[first]
    assert failure.status is Status.FAILURE
    assert failure.error == (
        "WorkerLostError: task t was given up: it had begun and may run at most once: "
        f'its process was ended by signal 9 (SIGKILL). See "mesh dead show {to_text(first)}".'
    )
    assert other.looks() == [second]


def test_a_task_beyond_its_crash_budget_fails_and_names_the_causes(make_router):
    # Given a task that kills every slot, and a budget of one
    router = make_router(budgets=Budgets(crash=1, lost=20))
    client, node = router.client(), router.node()
    task_id = client.call(flags=Flag.IGNORE_RESULT)

    # When it has killed two
    for cause in ("signal 9", "exit 3"):
        slot = node.slot()
        assert slot.holds() == [task_id]
        slot.dies(begun=1, cause=cause)

    # Then it has failed with both causes, and though its result is ignored, that is told
    assert client.failures()[task_id].error == (
        "WorkerLostError: task t was given up: it took down 2 slots, and crash_budget is 1: signal 9; exit 3. "
        f'See "mesh dead show {to_text(task_id)}".'
    )
    assert task_id in router.owner.outcomes
    router.settles()
    assert router.journal.ids(RowKind.OUTCOMES) == {}
    (letter,) = router.journal.rows(RowKind.DEAD)
    assert letter.records[1:3] == ["crashed", "it took down 2 slots, and crash_budget is 1: signal 9; exit 3"]
    assert node.slot().holds() == []


def test_a_task_whose_slot_died_has_not_started(router, client):
    node = router.node()
    slot = node.slot()
    task_id = client.call(flags=Flag.TRACK_STARTED)
    slot.looks()
    slot.says(m.Started(1, 5.0))
    assert router.state(client, task_id)[2] == "STARTED"
    slot.dies(begun=1)
    assert router.state(client, task_id)[2] == "PENDING"


def test_an_ordered_end_charges_nothing(router, client):
    node = router.node()
    slot = node.slot()
    task_id = client.call()
    slot.looks()
    slot.dies(begun=1, charged=False)
    other = node.slot()
    assert other.holds() == [task_id]
    assert (other.held[1].attempt, other.held[1].flags) == (1, Flag.REDELIVERED)
    assert router.owner.dispatch.open[task_id].crashes == 0


# --- nodes that end ------------------------------------------------------------------------------


def test_a_quiet_node_gets_nothing_and_gives_back_what_it_has_not_begun(router, client):
    # Given a node with a slot that holds three tasks, and a second node
    node = router.node("n1")
    slot = node.slot()
    first, second, third = client.calls(3)
    slot.looks()
    other = router.node("n2").slot()

    # When the node ends in order
    node.says(m.Quiet("n1"))
    node.says(m.Recalled(0, slot.pid, begun=1, upto=1 << 62))

    # Then the others run elsewhere, and what runs ends where it is
    assert other.looks() == [second, third]
    fourth = client.call()
    slot.ends(first)
    assert first in client.results()
    assert fourth not in slot.holds()


def test_a_node_that_leaves_in_order_loses_nothing(router, client):
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.ends(task_id)
    client.says(m.Received([[1, 1]]), m.Bye("done"))
    assert not router.owner.is_idle()  # the journal does not know yet
    slot.says(m.Bye("the slot ends"))
    slot.dies(begun=1, cause="exit 0", charged=False)
    node.says(m.Bye("the node ends"))
    assert router.owner.membership.nodes == {}
    assert router.owner.dispatch.consumers == {}
    router.settles()
    assert router.owner.is_idle()


# --- time limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [Flag.NONE, Flag.EARLY_ACK, Flag.EARLY_ACK | Flag.AGAIN_ON_TIMEOUT])
def test_a_task_that_was_killed_for_its_time_limit_has_failed_and_is_no_dead_letter(router, flags):
    # Given a slot that holds two tasks and has begun the first
    router.learns("t")
    client, node = router.client(), router.node()
    slot = node.slot()
    late, behind = client.calls(2, flags=flags)
    router.settles()
    lease = slot.lease_of(late)

    # When it is killed for the time limit of that one
    router.process_ended(slot.pid, lease)
    node.says(m.SlotLost(slot.index, slot.pid, lease, "its time", False, 2.5))

    # Then that one has failed, and the other goes to another slot, uncharged
    assert client.failures() == {
        late: Failure(
            Status.FAILURE, "TimeLimitExceeded: task t was killed: it ran longer than its time limit of 2.5 s"
        )
    }
    assert len(router.owner.graveyard.letters) == 0
    other = node.slot(1)
    router.settles()
    assert other.holds() == [behind]
    assert router.owner.dispatch.open[behind].crashes == 0


def test_a_task_that_may_hang_is_run_again_each_time_and_never_charged(router):
    # Given a task that is to be run again
    client, node = router.client(), router.node()
    task_id = client.call(flags=Flag.AGAIN_ON_TIMEOUT)

    # When its slot is killed for its time limit more often than its crash budget allows
    for attempt in range(BUDGETS.crash + 2):
        slot = node.slot(attempt)
        assert slot.holds() == [task_id]
        assert slot.held[slot.lease_of(task_id)].attempt == attempt
        lease = slot.lease_of(task_id)
        router.process_ended(slot.pid, lease)
        node.says(m.SlotLost(slot.index, slot.pid, lease, "its time", False, 2.5))

    # Then it waits to be run
    assert client.failures() == {}
    assert router.owner.dispatch.open[task_id].crashes == 0


def test_an_outcome_that_came_before_its_slot_was_killed_for_its_time_limit_counts(router):
    client, node = router.client(), router.node()
    slot = node.slot()
    task_id = client.call()
    lease = slot.lease_of(task_id)
    slot.ends(task_id)
    router.process_ended(slot.pid, lease)
    node.says(m.SlotLost(slot.index, slot.pid, lease, "its time", False, 2.5))
    assert client.results() == {task_id: (Status.SUCCESS, b"done")}
