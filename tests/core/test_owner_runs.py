"""What the router does with slots and nodes: leases, receipts, recalls, and what a death does to tasks."""

import pytest

from mesh import messages as m
from mesh.core.credit import BLOCKED_S, FIRST_SAMPLES, STALE_BUSY_S, STALE_S
from mesh.core.crew import CAUSE_S
from mesh.core.dispatch import Budgets
from mesh.core.runs import RECEIPT_DELAY_S
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import Peer, wall


@pytest.fixture
def client(router):
    """A client of a router that knows that its tasks are short."""
    learn(router)
    return router.client(2)


def learn(router, name="t", runtime_us=10):
    for _ in range(FIRST_SAMPLES):
        router.owner.dispatch.estimates.add(name, runtime_us)


# --- leases and receipts -------------------------------------------------------------------------


def test_leases_are_numbered_on_from_what_the_slot_has_seen(router, client):
    slot = router.slot(last_lease=40)
    client.calls(2)
    slot.looks()
    assert list(slot.held) == [41, 42]


def test_tasks_say_whether_more_wait(router, client):
    slot = router.slot()
    client.calls(500)
    (tasks,) = slot.take(m.Tasks)
    assert tasks.more
    assert len(tasks.tasks) < 500


def test_tasks_say_when_no_more_wait_and_nothing_is_receipted(router, client):
    slot = router.slot()
    client.calls(2)
    (tasks,) = slot.take(m.Tasks)
    assert (tasks.first_lease, tasks.receipt, tasks.more, len(tasks.tasks)) == (1, 0, False, 2)


def test_a_receipt_is_told_once(router, client):
    # Given two slots, of which one has its receipt
    first, second = router.slot(), router.slot()
    first.ends(client.call())
    router.passes(RECEIPT_DELAY_S)
    assert first.take(m.Receipt) == [m.Receipt(1)]

    # When the other one gets its own
    client.calls(2)
    second.ends()
    router.passes(RECEIPT_DELAY_S)

    # Then the first hears nothing
    assert (first.take(m.Receipt), second.take(m.Receipt)) == ([], [m.Receipt(1)])


def test_receipts_go_along_with_tasks(router, client):
    # Given a slot with an outcome that has no receipt
    slot = router.slot()
    slot.ends(client.call())
    assert slot.receipts == []

    # When it gets more
    client.call()
    slot.looks()

    # Then it has the receipt, and no other comes
    assert slot.receipts == [1]
    router.passes(1.0)
    slot.looks()
    assert slot.receipts == [1]


def test_a_receipt_without_company_waits_a_little(router, client):
    slot = router.slot()
    slot.ends(*client.calls(3))
    assert router.owner.next_deadline_mono_s() == router.mono_s + RECEIPT_DELAY_S
    router.passes(RECEIPT_DELAY_S)
    slot.looks()
    assert slot.receipts == [3]
    assert router.owner.next_deadline_mono_s() is None


def test_a_receipt_covers_no_lease_behind_one_that_is_held(router, client):
    slot = router.slot()
    first, second, third = client.calls(3)
    slot.ends(first)
    slot.ends(third)
    router.passes(RECEIPT_DELAY_S)
    slot.looks()
    assert slot.receipts == [1]
    slot.ends(second)
    router.passes(RECEIPT_DELAY_S)
    slot.looks()
    assert slot.receipts == [1, 3]


def test_returned_leases_are_receipted_and_leased_anew(router, client):
    slot = router.slot()
    ids = client.calls(3)
    slot.looks()
    slot.says(m.Returned([2, 3]))
    assert slot.looks() == ids[1:]
    slot.ends(ids[0])
    router.passes(RECEIPT_DELAY_S)
    slot.looks()
    assert slot.receipts[-1] == 3


def test_returned_leases_are_receipted_though_nothing_comes_of_them(router, client):
    node = router.node()
    slot = node.slot()
    client.calls(2)
    slot.looks()
    node.says(m.Quiet("n"))
    slot.says(m.Returned([1, 2]))
    router.passes(RECEIPT_DELAY_S)
    slot.looks()
    assert slot.receipts == [2]


def test_tasks_that_could_not_be_handed_over_are_leased_anew_a_little_later(router, client):
    # Given a slot whose pipe is full
    slot = router.slot()
    ids = client.calls(2)
    (tasks,) = slot.take(m.Tasks)

    # When its tasks are refused
    router._do(router.owner.undelivered(slot.address, tasks, router.now))
    assert slot.take(m.Tasks) == []

    # Then they come again, under new numbers
    assert router.owner.next_deadline_mono_s() <= router.mono_s + BLOCKED_S
    router.passes(BLOCKED_S)
    assert slot.looks() == ids
    assert (list(slot.held), slot.receipts) == ([3, 4], [2])


# --- recalls -------------------------------------------------------------------------------------


def test_what_waits_behind_a_long_task_is_recalled_for_an_idle_slot(router, client):
    # Given a slot that holds three tasks, and an idle one
    node = router.node()
    busy = node.slot(0)
    ids = client.calls(3)
    busy.looks()
    idle = node.slot(1)

    # When the first takes longer than was known
    router.passes(STALE_S * 1.01)

    # Then the node is asked for the rest, which goes to the idle one
    assert node.recalls() == [m.Recall(0, 3)]
    node.says(m.Recalled(0, busy.pid, begun=1, upto=3))
    assert idle.looks() == ids[1:]
    assert node.recalls() == []


def test_a_slot_that_holds_outcomes_back_is_not_recalled_in_a_loop(router, client):
    # Given a slot that has run two tasks, says nothing, and is long at the third
    node = router.node()
    slot = node.slot()
    client.calls(3)
    slot.looks()
    router.passes(STALE_BUSY_S * 1.01)
    assert node.recalls() == [m.Recall(0, 3)]

    # When the node answers that all had begun
    node.says(m.Recalled(0, slot.pid, begun=3, upto=3))

    # Then nothing more is asked, and nothing is due
    assert node.recalls() == []
    deadline = router.owner.next_deadline_mono_s()
    assert deadline is None or deadline > router.mono_s
    router.passes(60.0)
    assert node.recalls() == []


def test_a_recall_is_sent_again_when_its_node_joins_anew(router, client):
    # Given a slot under recall, whose node loses its link
    node = router.node(pid=7)
    node.slot()
    client.calls(3)
    router.passes(STALE_BUSY_S * 1.01)
    assert len(node.recalls()) == 1

    # When the node joins over another link
    again = router.node(pid=7)

    # Then it is asked too
    assert again.recalls() == [m.Recall(0, 3)]


def test_a_slot_whose_node_is_unknown_is_recalled_when_that_joins(router, client):
    # Given a slot that has joined a new router before its node did, and is long at its first task
    node = router.absent_node()
    slot = node.slot()
    client.calls(3)
    router.passes(STALE_BUSY_S * 1.01)
    assert node.recalls() == []
    deadline = router.owner.next_deadline_mono_s()
    assert deadline is None or deadline > router.mono_s
    client.call()
    assert len(slot.looks()) == 3

    # When the node joins
    node.joins()

    # Then it is asked for the rest
    assert node.recalls() == [m.Recall(0, 3)]


@pytest.mark.parametrize(
    "recalled",
    [
        pytest.param(m.Recalled(1, 0, 1, 3), id="of another slot"),
        pytest.param(m.Recalled(0, 99, 1, 3), id="of another process"),
    ],
)
def test_answers_about_another_process_take_nothing_back(router, client, recalled):
    node = router.node()
    slot = node.slot()
    client.calls(3)
    node.says(recalled)
    assert len(slot.holds()) == 3
    assert slot.looks() == []


def test_a_stranger_takes_nothing_back(router, client):
    slot = router.slot()
    client.calls(3)
    slot.looks()
    router.asker().says(m.Recalled(0, slot.pid, 1, 3), m.SlotLost(0, slot.pid, 1, "lies", True), m.Quiet("n"))
    assert slot.looks() == []
    assert len(router.owner.dispatch.consumers[slot.address].held) == 3


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
    assert router.owner.slot_of_pid(slot.pid) == ("", 0)
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
    assert router.owner.slot_of_pid(slot.pid) == ("n1.page", 0)
    router.process_ended(node.pid)
    other = router.node("n1", page="other.page").slot()
    assert router.owner.slot_of_pid(slot.pid) == ("n1.page", 0)
    assert router.owner.slot_of_pid(other.pid) == ("other.page", 0)

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
        "its process was ended by signal 9 (SIGKILL)"
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
        "WorkerLostError: task t was given up: 2 deliveries died: signal 9; exit 3"
    )
    assert task_id in router.owner.outcomes
    assert router.persisted[-1].ended == (task_id,)
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
    slot.says(m.Bye("the slot ends"))
    slot.dies(begun=1, cause="exit 0", charged=False)
    node.says(m.Bye("the node ends"))
    assert router.owner.membership.nodes == {}
    assert router.owner.dispatch.consumers == {}
    assert router.owner.is_idle()


# --- links of slots ------------------------------------------------------------------------------


def test_a_slot_that_joins_over_another_link_is_one_slot(router, client):
    # Given a slot whose HELLO was slow to be answered, so that it dialled again
    node = router.node()
    slot = node.slot(0, pid=7)
    task_id = client.call()

    # When the HELLO over its second link arrives
    again = node.slot(0, pid=7, link=2)

    # Then what was meant for the first goes over the second, once
    assert again.holds() == [task_id]
    assert list(router.owner.dispatch.consumers) == [again.address]
    assert slot.address not in router.owner.dispatch.consumers

    # And when it dies, nothing is left behind
    again.dies(begun=1)
    assert node.slot(1).holds() == [task_id]


def test_what_a_slot_that_joins_anew_has_seen_may_have_run_and_is_not_charged(router, client):
    # Given a slot that has seen a task, and may run another at most once
    node = router.node()
    slot = node.slot(0, pid=7)
    late = client.call()
    once = client.call(flags=Flag.EARLY_ACK)
    unseen = client.call()
    assert slot.holds() == [late, once, unseen]

    # When it joins over another link
    again = node.slot(0, pid=7, link=2, last_lease=2)

    # Then the one that may run twice does, with what it has not seen, and the other one is lost
    assert again.holds() == [late, unseen]
    assert client.failures()[once].error.startswith("WorkerLostError")
    task = router.owner.dispatch.open[late]
    assert (task.attempt, task.crashes, task.losses) == (1, 0, 0)


def test_a_hello_over_an_earlier_link_that_arrives_late_changes_nothing(router, client):
    node = router.node()
    slot = node.slot(0, pid=7, link=2)
    late = node.slot(0, pid=7, link=1)
    assert list(router.owner.dispatch.consumers) == [slot.address]
    assert late.take(m.HelloOk) == []


def test_a_hello_said_twice_over_one_link_is_answered_twice_and_changes_nothing(router, client):
    slot = router.slot()
    client.calls(2)
    held = slot.holds()
    slot.take(m.HelloOk)
    info = {"node": slot.node.name, "index": 0, "queues": ["q"], "last_lease": 0}
    slot.says(slot.hello(m.Role.SLOT, slot.pid, 1, **info))
    assert len(slot.take(m.HelloOk)) == 1
    assert slot.holds() == held


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"node": 5}, id="a node that is no name"),
        pytest.param({"index": -1}, id="an index below zero"),
        pytest.param({"index": "0"}, id="an index that is no number"),
        pytest.param({"queues": []}, id="no queues"),
        pytest.param({"queues": "q"}, id="queues that are no list"),
        pytest.param({"queues": ["q", 5]}, id="a queue that is no name"),
        pytest.param({"last_lease": -1}, id="a lease below zero"),
        pytest.param({"last_lease": 1 << 61}, id="a lease beyond what fits"),
        pytest.param({"last_lease": None}, id="no lease"),
    ],
)
def test_a_slot_that_says_what_can_not_be_is_not_joined(router, change):
    slot = router.slot()
    stranger = Peer(router, b"stranger")
    info = {"node": "n", "index": 0, "queues": ["q"], "last_lease": 0, **change}
    stranger.says(stranger.hello(m.Role.SLOT, 99, 1, **info))
    assert stranger.told == []
    assert list(router.owner.dispatch.consumers) == [slot.address]


# --- time ----------------------------------------------------------------------------------------


def test_a_task_that_expires_before_it_begins_is_revoked(router, client):
    # Given a call that expires in a second, and nobody who runs it
    task_id = client.call(options={"expires": wall(router.mono_s + 1)})

    # When that has passed
    assert router.owner.next_deadline_mono_s() == pytest.approx(router.mono_s + 1)
    router.passes(1.0)

    # Then its caller is told, and it is not run
    assert client.failures()[task_id] == (
        Status.REVOKED,
        "TaskRevokedError: task t was not run: it expired before it began",
    )
    assert router.slot().holds() == []
    assert router.state(client, task_id)[2] == "REVOKED"


def test_a_task_that_has_begun_before_it_expires_runs_on(router, client):
    slot = router.slot()
    task_id = client.call(options={"expires": wall(router.mono_s + 1)})
    slot.looks()
    router.passes(2.0)
    assert client.results() == {}
    slot.ends(task_id, body=b"value")
    assert client.results() == {task_id: (Status.SUCCESS, b"value")}


def test_a_task_that_expired_in_a_window_is_revoked_when_it_is_taken_back(router, client):
    # Given a slot that is long at its first task, with another one behind that expires
    node = router.node()
    slot = node.slot()
    client.call()
    task_id = client.call(options={"expires": wall(router.mono_s + 1)})
    slot.looks()

    # When it expires, and then is taken back
    router.passes(2.0)
    assert client.results() == {}
    node.says(m.Recalled(0, slot.pid, begun=1, upto=2))

    # Then it is over
    assert client.failures()[task_id].status is Status.REVOKED


def test_a_task_is_leased_when_its_eta_has_come(router, client):
    slot = router.slot()
    task_id = client.call(options={"eta": wall(router.mono_s + 60)})
    router.passes(59.9)
    assert slot.looks() == []
    router.passes(0.1)
    assert slot.looks() == [task_id]


@pytest.mark.parametrize(
    "heard",
    [
        pytest.param(lambda router: router.receive([]), id="messages"),
        pytest.param(lambda router: router.process_ended(99), id="a death"),
        pytest.param(
            lambda router: router._do(router.owner.undelivered(b"nobody", m.Tasks(1, 0, False, []), router.now)),
            id="a message that could not be handed over",
        ),
        pytest.param(
            lambda router: router._do(router.owner.unreachable(b"nobody", router.now)),
            id="a node that can't be reached",
        ),
    ],
)
def test_whatever_the_router_hears_it_looks_at_the_time(router, client, heard):
    # Given a task that is due soon
    slot = router.slot()
    task_id = client.call(options={"eta": wall(router.mono_s + 1)})

    # When the router hears of anything after that
    router.mono_s += 1
    heard(router)

    # Then the task is leased
    assert slot.looks() == [task_id]


def test_a_retry_that_belongs_to_no_lease_is_dropped(router, client):
    slot = router.slot()
    task_id = client.call()
    slot.says(m.Outcomes([[9, task_id, Status.RETRY, 5, b"why", 0, True, [0.0, b"other"]]]))
    assert slot.holds() == [task_id]
    assert router.state(client, task_id)[2:] == ["PENDING", {"known": True, "queue": "q", "phase": "LEASED"}]


@pytest.mark.parametrize("lease", [1, 9])
def test_a_beginning_is_told_of_what_the_slot_holds(router, client, lease):
    slot = router.slot()
    task_id = client.call()
    slot.says(m.Started(lease, 5.0))
    Peer(router, b"stranger").says(m.Started(1, 6.0))
    assert router.state(client, task_id)[2] == ("STARTED" if lease == 1 else "PENDING")


def test_a_task_that_asks_for_another_run_gets_it_when_it_is_due(router, client):
    # Given a task that runs, and has said so
    slot = router.slot()
    task_id = client.call(body=b"first", flags=Flag.TRACK_STARTED)
    slot.looks()
    slot.says(m.Started(1, 5.0))

    # When it asks to be run again in a minute, with another body
    slot.says(m.Outcomes([[1, task_id, Status.RETRY, 5, b"why", 0, True, [wall(router.mono_s + 60), b"second"]]]))
    slot.held.clear()
    assert router.state(client, task_id)[2:] == [
        "RETRY",
        {"known": True, "queue": "q", "phase": "WAITING", "reason": b"why"},
    ]
    assert (slot.looks(), client.results()) == ([], {})

    # Then it comes then, and counts its runs
    router.passes(60.0)
    assert slot.looks() == [task_id]
    assert slot.held[2].body == b"second"
    assert slot.held[2].options["retries"] == 1
    slot.ends(task_id, body=b"value")
    assert client.results() == {task_id: (Status.SUCCESS, b"value")}


def test_the_end_of_a_slot_is_not_for_another_node_to_tell(router, client):
    # Given a slot that has died with a task, and whose node has yet to say why
    node = router.node("n1")
    slot = node.slot(0)
    task_id = client.call()
    slot.looks()
    router.process_ended(slot.pid, begun=1)

    # When another node claims to know
    other = router.node("n2")
    other.says(m.SlotLost(0, slot.pid, 1, "who knows", True))
    waiting = other.slot(0)
    assert waiting.looks() == []

    # Then the task still waits for the slot's own node, and goes on without it in the end
    router.passes(CAUSE_S)
    assert waiting.looks() == [task_id]
