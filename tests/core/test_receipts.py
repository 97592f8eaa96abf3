"""When slots may forget what they have run: once the journal holds what has become of it."""

import pytest

from mesh import messages as m
from mesh.core.effects import RemovePage
from mesh.core.ledger import NEWS_LINGER_S
from mesh.core.runs import RECEIPT_DELAY_S
from mesh.messages import Flag
from mesh.states import Status


def receipts(slot):
    slot.looks()
    told, slot.receipts = slot.receipts, []
    return told


def test_a_receipt_waits_for_the_journal_and_then_a_little_for_tasks(router, client):
    # Given a slot that has told an outcome, and a journal that takes its time
    slot = router.slot()
    slot.ends(client.call())
    router.journal.waits = True
    router.passes(NEWS_LINGER_S)
    router.passes(10.0)
    assert receipts(slot) == []

    # When the journal holds it
    router.commit()
    assert receipts(slot) == []
    assert router.owner.next_deadline_mono_s() == router.mono_s + RECEIPT_DELAY_S
    router.passes(RECEIPT_DELAY_S * 0.9)
    assert receipts(slot) == []
    router.passes(RECEIPT_DELAY_S * 0.2)

    # Then the slot may forget it, and is told once
    assert receipts(slot) == [1]
    router.passes(10.0)
    assert receipts(slot) == []


def test_a_receipt_goes_along_with_tasks_when_the_journal_holds_the_outcome(router, client):
    slot = router.slot()
    slot.ends(client.call())
    client.call()
    assert receipts(slot) == []
    router.passes(NEWS_LINGER_S)
    client.call()
    assert receipts(slot) == [1]


@pytest.mark.parametrize(
    ("flags", "received"),
    [
        pytest.param(Flag.TRANSIENT, False, id="a transient task"),
        pytest.param(Flag.TRANSIENT, True, id="a transient task whose caller has the outcome"),
        pytest.param(Flag.TRANSIENT | Flag.IGNORE_RESULT, False, id="a transient task whose result is ignored"),
    ],
)
def test_what_the_journal_never_hears_of_is_receipted_at_once(router, client, flags, received):
    slot = router.slot()
    slot.ends(client.call(flags=flags))
    if received:
        client.says(m.Received([[1, 1]]))
    router.passes(RECEIPT_DELAY_S)
    assert (receipts(slot), router.journal.commits) == ([1], [])


def test_what_was_never_written_is_receipted_without_a_commit(router, client):
    # Given a call that ends and is received before it is written
    slot = router.slot()
    client.publishes(client.record(), now=False)
    slot.ends(client.id(1))
    client.says(m.Received([[1, 1]]))

    # When its commit would have been due
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)

    # Then the slot has its receipt, and there was none
    assert (receipts(slot), router.journal.commits) == ([1], [])


def test_receipts_come_in_the_order_in_which_outcomes_did_and_as_far_as_the_journal_is(router, client):
    # Given a slot that has told an outcome which is being written, and another one since
    slot = router.slot()
    first, second, third = client.calls(3)
    slot.ends(first)
    router.journal.waits = True
    router.passes(NEWS_LINGER_S)
    slot.ends(second)

    # When the journal holds the first
    router.commit(1)
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [1]

    # Then the second waits for its own commit
    slot.ends(third)
    router.passes(NEWS_LINGER_S)
    router.commit(1)
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [3]


def test_each_slot_has_its_own_receipts(router, client):
    one, other = router.slot(), router.slot()
    first, second = client.calls(2)
    one.holds()
    other.holds()
    one.ends(*one.holds())
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)
    assert (receipts(one), receipts(other)) == ([1], [])
    other.ends(*other.holds())
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)
    assert (receipts(one), receipts(other)) == ([], [1])
    assert set(client.results()) == {first, second}


def test_a_retry_is_receipted_when_the_journal_knows_of_it(router, client):
    slot = router.slot()
    task_id = client.call()
    slot.looks()
    router.journal.waits = True
    eta_wall_s = router.now.wall_s + 100.0
    slot.says(m.Outcomes([[1, task_id, Status.RETRY, 5, b"why", 0, True, [eta_wall_s, None]]]))
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == []
    router.commit()
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [1]


def test_a_disk_that_fails_is_not_waited_for(router, client):
    # Given a disk that does not take the outcome
    slot = router.slot()
    slot.ends(client.call())
    router.journal.failure = "no space left"
    router.passes(NEWS_LINGER_S * 0.9)
    router.passes(RECEIPT_DELAY_S)
    assert router.owner.ledger.failing == "no space left"

    # Then the slot gets its receipt all the same, and whatever it tells later too
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [1]
    slot.ends(client.call(flags=Flag.TRANSIENT))
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [2]


def test_an_outcome_that_is_told_again_is_receipted_again(router, client):
    # Given a slot whose receipt was lost
    slot = router.slot()
    outcome = slot.outcome(client.call())
    slot.says(outcome)
    router.settles()
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [1]

    # When it tells the outcome once more
    slot.says(outcome)
    router.passes(RECEIPT_DELAY_S)

    # Then it is told once more, and nothing is written for it
    assert receipts(slot) == [1]
    commits = len(router.journal.commits)
    router.settles()
    assert len(router.journal.commits) == commits


def test_an_outcome_that_came_before_its_call_is_receipted_when_it_is_written(router):
    slot, client = router.slot(last_lease=40), router.client(ended_upto=6)
    router.journal.waits = True
    slot.says(m.Outcomes([[33, client.id(7), Status.SUCCESS, 5, b"value", 0, True]]))
    router.passes(NEWS_LINGER_S)
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == []
    router.commit()
    router.passes(RECEIPT_DELAY_S)
    assert receipts(slot) == [40]


# --- slot pages ----------------------------------------------------------------------------------


def test_a_page_stays_until_the_journal_knows_what_has_become_of_what_it_tells(router, client):
    # Given a node whose slot has run a task, and a journal that takes its time
    node = router.node("n1")
    slot = node.slot()
    task_id = client.call()
    slot.ends(task_id)
    router.journal.waits = True

    # When both leave
    slot.says(m.Bye("the slot ends"))
    slot.dies(begun=1, charged=False)
    node.says(m.Bye("the node ends"))
    router.passes(NEWS_LINGER_S)
    assert router.removed == []

    # Then the page goes when the outcome is written
    router.commit()
    assert router.removed == [RemovePage("n1.page")]


def test_a_page_is_kept_while_the_disk_fails(router, client):
    # Given a node that left, and a disk that does not take what has become of its tasks
    node = router.node("n1")
    slot = node.slot()
    slot.ends(client.call())
    slot.dies(begun=1, charged=False)
    node.says(m.Bye("the node ends"))
    router.journal.failure = "no space left"
    router.passes(NEWS_LINGER_S)
    router.passes(10.0)
    assert router.removed == []

    # When the disk works again
    router.journal.failure = ""
    router.settles()

    # Then nobody needs the page
    assert router.removed == [RemovePage("n1.page")]


def test_a_slot_that_leaves_is_not_kept_waiting_for_its_last_receipt(router, client):
    # Given a slot that has told an outcome
    slot = router.slot()
    slot.ends(client.call())
    assert receipts(slot) == []

    # When it leaves, then neither its outcome nor its receipt waits for others
    slot.says(m.Bye("the slot leaves"))
    router.passes(0.0)
    assert receipts(slot) == [1]
