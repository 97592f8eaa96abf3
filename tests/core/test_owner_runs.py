"""What the router does with slots: leases, receipts, recalls and links."""

import pytest

from mesh import messages as m
from mesh.core.credit import BLOCKED_S, STALE_BUSY_S, STALE_S
from mesh.core.ledger import NEWS_LINGER_S
from mesh.core.runs import RECEIPT_DELAY_S
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import Peer

# --- leases and receipts -------------------------------------------------------------------------


def until_receipts_are_told(router):
    """The journal gets to hold the outcomes; then receipts wait for tasks that take them along."""
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)


def test_leases_are_numbered_on_from_what_the_slot_has_seen(router, client):
    slot = router.slot(last_lease=40)
    client.calls(2)
    slot.looks()
    assert list(slot.held) == [41, 42]


def test_tasks_are_numbered_from_one_where_nothing_is_receipted(router, client):
    slot = router.slot()
    client.calls(2)
    (tasks,) = slot.take(m.Tasks)
    assert (tasks.first_lease, tasks.receipt, len(tasks.tasks)) == (1, 0, 2)


def test_a_receipt_is_told_once(router, client):
    # Given two slots, of which one has its receipt
    first, second = router.slot(), router.slot()
    first.ends(client.call())
    until_receipts_are_told(router)
    assert first.take(m.Receipt) == [m.Receipt(1)]

    # When the other one gets its own
    client.calls(2)
    second.ends()
    until_receipts_are_told(router)

    # Then the first hears nothing
    assert (first.take(m.Receipt), second.take(m.Receipt)) == ([], [m.Receipt(1)])


def test_receipts_go_along_with_tasks(router, client):
    # Given a slot with an outcome that the journal holds, and that has no receipt
    slot = router.slot()
    slot.ends(client.call())
    router.passes(NEWS_LINGER_S)
    slot.looks()
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
    router.passes(NEWS_LINGER_S)
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
    until_receipts_are_told(router)
    slot.looks()
    assert slot.receipts == [1]
    slot.ends(second)
    until_receipts_are_told(router)
    slot.looks()
    assert slot.receipts == [1, 3]


def test_returned_leases_are_receipted_and_leased_anew(router, client):
    slot = router.slot()
    ids = client.calls(3)
    slot.looks()
    slot.says(m.Returned([2, 3]))
    assert slot.looks() == ids[1:]
    slot.ends(ids[0])
    until_receipts_are_told(router)
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


def test_what_a_slot_that_joins_anew_has_run_stays_with_it_until_it_tells_how_that_ended(router, client):
    # Given a slot that has run two tasks, one of which may run at most once, and has not begun a third
    node = router.node()
    slot = node.slot(0, pid=7)
    late = client.call()
    once = client.call(flags=Flag.EARLY_ACK)
    unseen = client.call()
    assert slot.holds() == [late, once, unseen]
    outcomes = [slot.outcome(late), slot.outcome(once)]

    # When it joins over another link, and says which outcomes it has without a receipt
    again = node.slot(0, pid=7, link=2, last_lease=2, unreceipted=[[1, 2]])

    # Then it keeps these leases, and no other slot gets them
    assert list(router.owner.dispatch.consumers[again.address].held) == [1, 2]
    assert node.slot(1).holds() == [unseen]

    # And when it tells the outcomes, nothing runs a second time, and nobody is charged
    again.says(*outcomes)
    assert client.results() == {late: (Status.SUCCESS, b"done"), once: (Status.SUCCESS, b"done")}
    assert (list(router.owner.dispatch.open), again.holds()) == ([unseen], [])
    assert router.owner.dispatch.open[unseen].attempt == 0


def test_what_a_slot_that_joins_anew_has_no_outcome_of_has_not_begun_there(router, client):
    # Given a slot that was sent two tasks, and lost them with its link
    node = router.node()
    slot = node.slot(0, pid=7)
    first = client.call()
    once = client.call(flags=Flag.EARLY_ACK)
    assert slot.holds() == [first, once]

    # When it joins over another link and has nothing to tell, though it has seen both leases
    again = node.slot(0, pid=7, link=2, last_lease=2)

    # Then both go out again, under new numbers, as if for the first time
    assert again.holds() == [first, once]
    assert list(again.held) == [3, 4]
    assert [assignment.attempt for assignment in again.held.values()] == [0, 0]


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
