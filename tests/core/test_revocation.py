"""What becomes of calls that are revoked, wherever they are."""

import pytest

from mesh import messages as m
from mesh.core import dispatch as dispatch_module
from mesh.core import ready as ready_module
from mesh.core.records import RowKind
from mesh.core.revocation import IDS_MAX, Fate
from mesh.messages import Flag
from mesh.states import Status


def revoke(router, *ids):
    """{id as asked: what becomes of it}"""
    asker = router.asker()
    asker.says(m.Request(5, "revoke", {"ids": list(ids)}, None, 1.0))
    (replies,) = asker.take(m.Replies)
    assert (replies.number, replies.errors) == (5, {})
    return dict(replies.values["router"]["fates"])


def revoked(client):
    """{id: what is said} of what ended as REVOKED since the client looked last."""
    found = client.failures()
    assert {one.status for one in found.values()} <= {Status.REVOKED}
    return {task_id: one.error for task_id, one in found.items()}


# --- tasks that wait -----------------------------------------------------------------------------


def test_a_task_that_waits_is_taken_out_and_its_caller_told(router, client):
    # Given a task in its queue and one whose time has not come
    ready = client.call()
    later = client.call(options={"eta": router.now.wall_s + 100.0, "id": "order-17"})

    # When both are revoked, one by the id of its caller
    assert revoke(router, ready, "order-17") == {ready: Fate.REMOVED, "order-17": Fate.REMOVED}

    # Then they never run, and have their outcome, in the journal too
    words = "TaskRevokedError: task t was not run: it was revoked before it began"
    assert revoked(client) == {ready: words, later: words}
    assert router.owner.dispatch.open == {}
    router.settles()
    assert {one for ids in router.journal.ids(RowKind.OUTCOMES).values() for one in ids} == {ready, later}
    router.passes(200.0)
    assert router.slot().holds() == []


def test_a_revoked_task_is_revoked_for_the_next_router_too(router, client, restart):
    task_id = client.call()
    revoke(router, task_id)
    router.settles()
    later = restart(router)
    assert (later.slot().holds(), later.owner.outcomes.get(task_id).status) == ([], Status.REVOKED)


# --- tasks that a slot holds ---------------------------------------------------------------------


def test_a_task_that_a_slot_holds_is_recalled_and_ends_if_it_had_not_begun(router, client):
    # Given a slot that holds two tasks
    node = router.node()
    slot = node.slot()
    first, second = client.calls(2)
    slot.holds()

    # When the second is revoked, and its slot has begun the first
    assert revoke(router, second) == {second: Fate.RECALLED}
    assert node.recalls() == [m.Recall(0, 2)]
    assert revoked(client) == {}
    node.says(m.Recalled(0, slot.pid, begun=1, upto=2))

    # Then it is over, and the first runs on
    assert revoked(client) == {second: "TaskRevokedError: task t was not run: it was revoked before it began"}
    assert list(router.owner.dispatch.open) == [first]
    slot.ends(first)
    assert client.results() == {first: (Status.SUCCESS, b"done")}


def test_a_revoked_task_that_has_begun_runs_on(router, client):
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    assert revoke(router, task_id) == {task_id: Fate.RECALLED}
    slot.ends(task_id)
    assert client.results() == {task_id: (Status.SUCCESS, b"done")}


def test_it_is_recalled_and_written_once_however_often_it_is_revoked(router, client):
    node = router.node()
    slot = node.slot()
    task_id = client.call()
    slot.holds()
    router.settles()
    told = router.owner.ledger.told
    assert revoke(router, task_id) == revoke(router, task_id) == {task_id: Fate.RECALLED}
    assert node.recalls() == [m.Recall(0, 1)]
    assert router.owner.ledger.told == told + 1
    router.settles()
    (row,) = router.journal.rows(RowKind.CHANGED)
    assert [record[14] for record in row.records] == [True]


def test_a_revoked_task_that_asks_for_another_run_gets_none(router, client):
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    revoke(router, task_id)
    slot.says(m.Outcomes([[1, task_id, Status.RETRY, 5, b"why", 0, True, [router.now.wall_s, None]]]))
    assert revoked(client) == {
        task_id: "TaskRevokedError: task t was not run: it was revoked, and asked to be run again"
    }
    assert router.owner.dispatch.open == {}


def test_a_revoked_task_whose_slot_dies_does_not_run_again(router, client):
    node = router.node()
    slot = node.slot()
    task_id = client.call()
    slot.holds()
    revoke(router, task_id)
    slot.dies(begun=1)
    assert list(revoked(client)) == [task_id]
    assert node.slot().holds() == []


def test_a_revoked_task_that_no_slot_has_begun_is_over_when_the_next_router_starts(router, client, restart):
    # Given a task that a slot held when it was revoked, and the router died
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    revoke(router, task_id)
    router.settles()
    later = restart(router)
    assert later.owner.outcomes.get(task_id).status == Status.REVOKED
    assert later.recovered.tasks == 0
    assert later.slot().holds() == []


# --- tasks in blocks -----------------------------------------------------------------------------


@pytest.fixture
def paged(make_router, monkeypatch):
    """A router with a block of three tasks behind four; and their client."""
    monkeypatch.setattr(dispatch_module, "PAGED_FROM", 4)
    monkeypatch.setattr(ready_module, "HUNGRY", 2)
    router = make_router(resident_max=4)
    router.learns("t")
    client = router.client(2)
    client.calls(4)
    client.calls(3)
    assert router.owner.dispatch.paged_count == 3
    return router, client


def test_a_task_in_a_block_is_revoked_at_once_and_taken_out_when_the_block_is_read(paged):
    router, client = paged
    task_id = client.id(6)

    # When it is revoked, twice
    assert revoke(router, task_id) == {task_id: Fate.REMOVED}
    assert revoke(router, task_id) == {task_id: Fate.REMOVED}

    # Then its caller is told once
    text = revoked(client)
    assert list(text) == [task_id]
    assert text[task_id].endswith("was not run: it was revoked before it began")
    assert router.state(client, task_id)[2] == "REVOKED"

    # And the others run
    slot, ran = router.slot(), []
    while held := slot.holds():
        ran += held
        slot.ends(*held)
    assert ran == [client.id(number) for number in (1, 2, 3, 4, 5, 7)]
    assert len(router.owner.dispatch) == 0
    router.settles()


def test_a_revoked_task_of_a_block_is_revoked_for_the_next_router(paged, restart):
    router, client = paged
    revoke(router, client.id(6))
    router.settles()
    later = restart(router, resident_max=0)
    assert client.id(6) not in later.owner.dispatch
    assert later.owner.outcomes.get(client.id(6)).status == Status.REVOKED
    assert later.recovered.tasks == 6


# --- what is past or unknown ---------------------------------------------------------------------


def test_what_has_ended_can_not_be_revoked_and_what_nobody_knows_is_unknown(router, client):
    # Given a task that has ended, one whose outcome is gone, and ids of nobody
    slot = router.slot()
    ended, ignored = client.call(), client.call(flags=Flag.IGNORE_RESULT)
    slot.ends(ended)
    slot.ends(ignored)
    unknown = client.id(99)

    # Then each is told apart
    assert revoke(router, ended, ignored, unknown, "nobody") == {
        ended: Fate.ENDED,
        ignored: Fate.ENDED,
        unknown: Fate.UNKNOWN,
        "nobody": Fate.UNKNOWN,
    }
    assert client.results() == {ended: (Status.SUCCESS, b"done")}
    assert revoke(router) == {}


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (None, "revoke: ids is a list of ids"),
        ("order-17", "revoke: ids is a list of ids"),
        ([5], "revoke: ids is a list of ids"),
        ([b"no stamp"], "revoke: ids is a list of ids"),
        (["order-17", b"x" * 16], "revoke: ids is a list of ids"),
        (["x"] * (IDS_MAX + 1), "revoke: at most 10000 ids at once"),
    ],
    ids=["nothing", "a text", "a number", "other bytes", "one good and one bad", "too many"],
)
def test_a_request_that_can_not_be_says_why(router, ids, why):
    asker = router.asker()
    asker.says(m.Request(5, "revoke", {} if ids is None else {"ids": ids}, None, 1.0))
    assert asker.take(m.Replies) == [m.Replies(5, {}, {"router": why})]


def test_as_many_as_may_be_are_revoked_at_once(router):
    assert revoke(router, *["x"] * IDS_MAX) == {"x": Fate.UNKNOWN}


def test_the_words_are_those_that_users_read():
    assert (Fate.REMOVED, Fate.RECALLED, Fate.ENDED, Fate.UNKNOWN) == ("revoked", "recalled", "ended", "unknown")


# --- tasks that run and are to be ended ------------------------------------------------------------


def terminate(router, *ids, within_s=1.0, signal=15):
    """Asks for it. Who has asked."""
    asker = router.asker()
    asker.says(m.Request(6, "revoke", {"ids": list(ids), "signal": signal}, None, within_s))
    return asker


def fates(asker):
    """What the asker was told; None while it was told nothing."""
    replies = asker.take(m.Replies)
    return dict(replies[0].values["router"]["fates"]) if replies else None


@pytest.fixture
def running(router, client):
    """(slot, the task it runs, one that it has not begun)"""
    slot = router.slot()
    for _ in range(20):
        client.call(name="t")
        slot.ends()
    first, second = client.calls(2)
    assert slot.holds() == [first, second]
    client.results()
    return slot, first, second


def test_the_node_is_told_which_run_to_end_and_the_asker_when_it_has(router, client, running):
    # Given a slot that runs a task
    slot, first, second = running
    slot.node.take(m.Recall)

    # When that is to be terminated
    asker = terminate(router, first)

    # Then its node is told which lease of which process to end, and the asker nothing yet
    assert slot.node.take(m.Terminate) == [m.Terminate(slot.index, slot.pid, slot.lease_of(first), 15)]
    assert fates(asker) is None

    # And when the slot has died of it, the caller and the asker are told, and the other task goes elsewhere uncharged
    other = slot.node.slot(1)
    slot.dies(begun=slot.lease_of(first), charged=False)
    router.settles()
    assert revoked(client) == {first: "TaskRevokedError: task t was ended: it was terminated"}
    assert fates(asker) == {first: Fate.TERMINATED}
    assert other.holds() == [second]
    assert router.owner.dispatch.open[second].attempt == 0
    assert router.owner.dispatch.terminating == {}


def test_a_task_that_ends_before_its_termination_has_ended(router, client, running):
    slot, first, _ = running
    asker = terminate(router, first)
    slot.ends(first)
    router.settles()
    assert fates(asker) == {first: Fate.ENDED}
    assert client.results()[first][0] == Status.SUCCESS


def test_an_end_that_takes_too_long_is_told_as_under_way(router, running):
    _, first, _ = running
    asker = terminate(router, first, within_s=2.0)
    router.passes(1.0)
    assert fates(asker) is None
    router.passes(1.0)
    router.settles()
    assert fates(asker) == {first: Fate.TERMINATING}


def test_a_task_that_may_run_once_is_revoked_when_it_is_terminated(router, client):
    slot = router.slot()
    task = client.call(flags=Flag.EARLY_ACK)
    router.settles()
    slot.looks()
    asker = terminate(router, task)
    slot.dies(begun=slot.lease_of(task), charged=True)
    router.settles()
    assert list(revoked(client)) == [task]
    assert fates(asker) == {task: Fate.TERMINATED}


@pytest.mark.parametrize("signal", [-1, 65, "KILL", None, 2.0])
def test_what_is_no_signal_is_refused(router, running, signal):
    asker = terminate(router, running[1], signal=signal)
    (replies,) = asker.take(m.Replies)
    assert replies.errors == {"router": "revoke: signal is a number from 1 to 64"}
