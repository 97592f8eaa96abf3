"""What the router does when time passes: expiry, etas and further runs."""

import pytest

from mesh import messages as m
from mesh.core import ready
from mesh.core.crew import CAUSE_S
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import Peer, wall


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
            lambda router: router._do(router.owner.undelivered(b"nobody", m.Tasks(1, 0, []), router.now)),
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


def test_what_is_on_disk_behind_tasks_that_expire_has_its_turn(make_router, monkeypatch):
    # Given a long queue whose tasks in memory expire, and whose end is on disk
    monkeypatch.setattr(ready, "HUNGRY", 100)
    router = make_router(resident_max=8)
    client = router.client()
    for _ in range(17):
        client.calls(64, options={"expires": wall(router.mono_s + 10.0)})
    for _ in range(3):
        client.calls(64)
    router.settles()
    assert router.owner.dispatch.paged_count == 3 * 64

    # When they have expired and a slot comes
    router.passes(10.0)
    slot = router.slot()

    # Then it runs the others
    ran = 0
    while slot.holds():
        ran += len(slot.held)
        slot.ends()
    assert ran == 3 * 64


@pytest.mark.parametrize("flag", [Flag.TRANSIENT, Flag.SYNCED, Flag.KEEP_RESULT])
def test_a_further_run_has_the_durability_of_the_call(router, client, flag):
    # Given a task that asks to be run again in a while
    slot = router.slot()
    task_id = client.call(flags=flag)
    lease = slot.lease_of(task_id)
    retry = [lease, task_id, Status.RETRY, 9, b"busy", 0, True, [wall(router.mono_s + 5.0), None]]
    del slot.held[lease]
    slot.says(m.Outcomes([retry]))
    router.settles()

    # When it runs again, then it is what it was, and on disk only where it was
    router.passes(5.0)
    assert slot.holds() == [task_id]
    assert slot.held[slot.lease_of(task_id)].flags & flag
    assert (task_id in router.journal.ever_written()) is (flag != Flag.TRANSIENT)
