"""What a router that starts makes of its journal and of the slot pages."""

import msgpack
import pytest

from mesh import ids
from mesh import messages as m
from mesh.core.crew import LivingSlot
from mesh.core.ledger import NEWS_LINGER_S
from mesh.core.records import RowKind
from mesh.core.recovery import Pages, Recovered
from mesh.core.task import Begun
from mesh.messages import Flag
from mesh.states import Status
from tests.core.builders import sequences

# --- every kind of row ---------------------------------------------------------------------------


def test_an_empty_journal_tells_of_nothing(make_router):
    router = make_router()
    assert router.recover() == Recovered(0, 0, 0, 0)
    assert (router.owner.is_idle(), router.owner.intake.callers) == (True, {})


def test_tasks_come_back_as_they_were_published_and_run(router, client, restart):
    # Given calls with all that a call can have, which nobody has run
    client.publishes(
        client.record(name="pay", queue="shop", priority=7, flags=Flag.TRACK_STARTED, body=b"args", n_frames=2),
        client.record(options={"id": "order-17", "headers": {"a": 1}}),
        frames=(b"one", b"two"),
    )

    # When the router is started anew
    router = restart(router)

    # Then both are there, and run
    assert router.recovered == Recovered(2, 0, 0, 0)
    first, second = client.id(1), client.id(2)
    task = router.owner.dispatch.open[first]
    assert (task.name, task.queue, task.priority, task.flags) == ("pay", "shop", 7, Flag.TRACK_STARTED)
    assert (task.body, task.frames, task.options, task.attempt, task.row) == (b"args", (b"one", b"two"), None, 0, 1)
    assert router.state(router.client(99), "order-17")[1] == second
    slot = router.slot(queues=("shop", "q"))
    assert slot.holds() == [first]
    slot.ends(first)
    assert slot.holds() == [second]
    assert slot.held[2].options == {"id": "order-17", "headers": {"a": 1}}


def test_frames_go_to_the_calls_that_own_them(router, client, restart):
    client.publishes(client.record(n_frames=1), client.record(), client.record(n_frames=2), frames=(b"a", b"b", b"c"))
    router = restart(router)
    assert [task.frames for task in router.owner.dispatch.open.values()] == [(b"a",), (), (b"b", b"c")]


def test_what_a_caller_has_called_is_known_again_and_not_run_twice(router, client, restart):
    # Given calls of which some have ended and are received, and a client that does not know what was confirmed
    records = [client.record() for _ in range(4)]
    client.publishes(*records)
    slot = router.slot()
    slot.ends(client.id(2), client.id(3))
    client.says(m.Received([[2, 3]]))
    router.settles()

    # When it sends all of them again to the next router
    router = restart(router)
    again = router.client(2)
    again.publishes(*records)

    # Then none of them is new
    assert router.recovered == Recovered(2, 0, 0, 0)
    (caller,) = router.owner.intake.callers.values()
    assert caller.seen.ranges() == caller.durable.ranges() == [[1, 4]]
    assert again.take(m.Missing) == []
    assert router.slot().holds() == [client.id(1), client.id(4)]
    assert {tuple(one) for one in again.confirmed()} == {(1, 1), (4, 4), (2, 3)}


def test_an_outcome_comes_back_and_is_handed_out(router, client, restart):
    # Given an outcome with frames and a custom id, whose caller has not got it
    task_id = client.call(options={"id": "order-17"})
    slot = router.slot()
    lease = slot.lease_of(task_id)
    slot.says(m.Outcomes([[lease, task_id, Status.SUCCESS, 5, b"value", 2, True]]), frames=(b"x", b"y"))
    router.settles()

    # When its caller asks the next router
    router = restart(router)
    assert router.recovered == Recovered(0, 0, 1, 0)
    again = router.client(2)
    again.says(m.Reconcile([[1, 1]]))

    # Then it has it, and others find it by either id
    assert again.results() == {task_id: (Status.SUCCESS, b"value")}
    assert again.buffers == [(b"x", b"y")]
    assert router.state(again, "order-17")[1:3] == [task_id, "SUCCESS"]


@pytest.mark.parametrize("away_s", [0.0, 59.0, 60.0])
def test_an_outcome_is_as_old_as_it_is(router, client, restart, away_s):
    # Given an outcome that was stored ten seconds before the journal heard of it
    slot = router.slot()
    slot.ends(client.call())
    ended_s = router.mono_s
    router.passes(10.0)
    router.settles()

    # When the router was away for a while, and outcomes are kept for seventy seconds
    later = restart(router, later_s=away_s - (router.mono_s - ended_s - 10.0), result_expires_s=70.0)

    # Then it goes when its time has come
    assert (client.id(1) in later.owner.outcomes) is (away_s < 60.0)


def test_an_outcome_of_the_future_is_new(router, client, restart):
    # Given an outcome, and a wall clock that was set back since
    slot = router.slot()
    slot.ends(client.call())
    router.settles()
    router.mono_s -= 50.0

    # When the router starts, then the outcome counts as stored now
    later = restart(router)
    assert later.owner.outcomes.get(client.id(1)).stored_mono_s == later.mono_s


def test_the_age_of_an_outcome_is_counted_by_the_wall_clock(router, client, restart):
    slot = router.slot()
    slot.ends(client.call())
    ended_s = router.mono_s
    router.settles()
    later = restart(router, later_s=40.0)
    assert later.owner.outcomes.get(client.id(1)).stored_mono_s == pytest.approx(ended_s)


def test_a_task_that_has_changed_comes_back_as_it_is(router, client, restart):
    # Given a task that killed its slot and lost a node, and another that asked to be run again with other arguments
    node = router.node()
    task_id, other = client.call(), client.call()
    slot = node.slot()
    slot.holds()
    slot.dies(begun=1, cause="signal 9")
    slot = node.slot()
    assert slot.holds() == [task_id, other]
    slot.says(
        m.Outcomes([[2, other, Status.RETRY, 5, b"why", 1, True, [router.now.wall_s + 30.0, b"new"]]]), frames=(b"f",)
    )
    router.settles()

    # When the router is started anew
    router = restart(router)

    # Then both are as they were
    task = router.owner.dispatch.open[task_id]
    assert (task.attempt, task.crashes, task.losses, task.causes) == (1, 1, 0, ["signal 9"])
    assert task.flags == Flag.REDELIVERED
    retried = router.owner.dispatch.open[other]
    assert (retried.body, retried.frames, retried.retry_reason) == (b"new", (b"f",), b"why")
    assert (retried.options["retries"], retried.flags) == (1, Flag.NONE)
    assert router.slot().holds() == [task_id]
    assert router.state(router.client(99), other)[2] == "RETRY"
    router.passes(30.0)
    assert router.slot().holds() == [other]


def test_the_latest_row_of_an_id_holds(router, client, restart):
    # Given a task that was written, changed, changed again, and has ended, each in a commit of its own
    node = router.node()
    task_id = client.call()
    keeps_the_row = client.call()
    for number in (1, 2):
        slot = node.slot()
        slot.holds()
        slot.dies(begun=1, cause=f"death {number}")
        router.settles()
    slot = node.slot()
    slot.ends(task_id)
    router.settles()
    commits = len(router.journal.commits)

    # When the router dies after each of them
    found = []
    for commit in range(2, commits + 1):
        later = restart(router, commit)
        task = later.owner.dispatch.open.get(task_id)
        found.append("ended" if task is None else task.crashes)
        assert keeps_the_row in later.owner.dispatch
        assert (task_id in later.owner.outcomes) is (task is None)

    # Then it comes back as it was
    assert found == [0, 1, 2, "ended"]


def test_an_id_that_is_gone_is_gone_whatever_rows_say(router, client, restart):
    # Given rows that mention tasks which have ended since: as published, as changed, and as an outcome
    ids_ = client.calls(6)
    node = router.node()
    slot = node.slot()
    slot.holds()
    slot.dies(begun=1)
    slot = node.slot()
    slot.ends(*ids_[:4])
    router.settles()

    # When their callers have them, one of each row
    client.says(m.Received([[1, 2]]))
    router.settles()
    slot.ends(ids_[4])
    client.says(m.Received([[5, 5]]))
    router.settles()

    # Then they are not there
    later = restart(router)
    assert list(later.owner.dispatch.open) == [ids_[5]]
    assert set(later.owner.outcomes) == {ids_[2], ids_[3]}
    assert later.recovered == Recovered(1, 0, 2, 0)
    (caller,) = [one for one in later.owner.intake.callers.values() if one.seen]
    assert caller.seen.ranges() == [[1, 6]]


def test_a_transient_task_is_not_there_any_more(router, client, restart):
    task_id = client.call(flags=Flag.TRANSIENT)
    router.settles()
    router = restart(router)
    assert router.recovered == Recovered(0, 0, 0, 0)
    again = router.client(2)
    again.says(m.Reconcile([[1, 1]]))
    assert again.take(m.Missing) == [m.Missing([[1, 1]])]
    assert task_id not in router.owner.dispatch


def test_what_is_known_of_callers_comes_back_from_the_row_that_tells_of_all(router, restart, monkeypatch):
    # Given notes that are replaced by what is known of all callers
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", 0)
    router.learns("t")
    first, second, slot = router.client(1, pid=7), router.client(2), router.slot()
    first.calls(4)
    second.call(queue="nobody")
    for number in (1, 3):
        slot.ends(first.id(number))
        first.says(m.Received([[number, number]]))
        router.settles()
    assert len(router.journal.rows(RowKind.CALLERS)) == 1

    # When the router is started anew
    router = restart(router)

    # Then each is known, and what is gone does not come back
    seen = {prefix: caller.seen.ranges() for prefix, caller in router.owner.intake.callers.items()}
    assert seen == {first.prefix: [[1, 4]], second.prefix: [[1, 1]]}
    assert list(router.owner.dispatch.open) == [first.id(2), first.id(4), second.id(1)]


def test_an_outcome_without_room_goes_and_that_is_told_to_the_journal(router, client, restart):
    # Given three outcomes, the oldest first
    slot = router.slot()
    for task_id in client.calls(3):
        slot.ends(task_id, body=b"x" * 1000)
    router.settles()

    # When the next router has room for fewer
    later = restart(router, results_max_bytes=2 * 1256)
    assert list(later.owner.outcomes) == [client.id(3)]
    later.settles()

    # Then the others are gone from the journal too
    assert restart(later).recovered == Recovered(0, 0, 1, 0)


# --- order ---------------------------------------------------------------------------------------


def test_tasks_keep_their_order_and_what_had_been_begun_in_vain_comes_first(router, restart):
    # Given tasks of two clients in several commits, with priorities, of which one has been begun in vain
    first, second = router.client(1), router.client(2)
    for _ in range(3):
        first.publishes(first.record(), first.record(priority=5))
        second.publishes(second.record())
    node = router.node()
    slot = node.slot()
    assert slot.holds() == [first.id(2)]
    slot.dies(begun=1)
    slot = node.slot()
    slot.ends(first.id(2))
    assert slot.holds() == [first.id(4)]
    node.says(m.Quiet("n"))
    slot.dies(begun=2)
    router.settles()

    # When the router is started anew, then they are in the order in which they would have run
    order = [id_of(task) for task in router.owner.dispatch.queues["q"]]
    later = restart(router)
    assert [id_of(task) for task in later.owner.dispatch.queues["q"]] == order
    assert order[0] == first.id(4)


def id_of(task):
    return task.task_id


# --- slots that still run ------------------------------------------------------------------------


def pages(*living, dead=(), complete=True):
    return Pages(list(living), set(dead), complete)


def test_what_a_living_slot_has_begun_stays_with_it(router, client, restart):
    # Given a slot that runs one of three tasks when the router dies
    node = router.node()
    slot = node.slot(0)
    running, *others = client.calls(3)
    slot.holds()

    # When the next router starts, and the page says so
    router = restart(router, pages=pages(LivingSlot("n", 0, slot.pid, "n.page", 4099, {running: 1})))

    # Then that one runs on, the slot is watched, and others get the rest
    assert router.recovered == Recovered(3, 1, 0, 0)
    assert router.watched == [slot.pid]
    assert router.slot().holds() == others
    assert router.state(router.client(99), running)[3]["phase"] == "LEASED"

    # And when it has a link again, it tells how that has ended
    node = router.node("n", pid=node.pid)
    again = node.slot(0, pid=slot.pid, last_lease=1, unreceipted=[[1, 1]])
    assert again.holds() == []
    again.says(m.Outcomes([[1, running, Status.SUCCESS, 5, b"value", 0, True]]))
    router.settles()
    assert running not in router.owner.dispatch
    assert router.owner.outcomes.get(running).body == b"value"

    # And what it gets next is beyond what was withdrawn
    assert again.looks() == []
    last = client.id(9)
    other = router.client(3)
    last = other.call()
    assert again.holds() == [last]
    assert list(again.held) == [4100]


def test_a_placeholder_gets_no_tasks(router, client, restart):
    client.call()
    router = restart(router, pages=pages(LivingSlot("n", 0, 7, "n.page", 4096, {})))
    router.passes(100.0)
    (consumer,) = router.owner.dispatch.consumers.values()
    assert (consumer.held, consumer.quiet, consumer.recalling) == ({}, True, False)
    assert router.owner.dispatch.ready_count == 1


def test_what_a_living_slot_was_granted_and_has_not_begun_it_never_will(router, client, restart):
    # Given a slot that was granted two tasks, and has begun none of them as its page says
    slot = router.slot()
    ids_ = client.calls(2)
    slot.holds()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4096, {})

    # When the next router has started, then another slot gets both, as if for the first time
    router = restart(router, pages=pages(living))
    other = router.slot()
    assert other.holds() == ids_
    assert [one.attempt for one in other.held.values()] == [0, 0]


def test_a_slot_that_dies_before_it_has_a_link_again_loses_what_it_ran(router, client, restart):
    # Given a slot that runs a task while the router is away
    slot = router.slot()
    task_id = client.call()
    slot.holds()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})
    router = restart(router, pages=pages(living))
    assert router.owner.slots_of_pid(slot.pid) == [("n.page", 0)]

    # When it dies, and no node tells why
    router.process_ended(slot.pid, begun=1)

    # Then its task runs again, charged as with a lost node, and the page goes when the journal knows
    other = router.slot()
    assert other.holds() == [task_id]
    task = router.owner.dispatch.open[task_id]
    assert (task.attempt, task.losses, task.crashes) == (1, 1, 0)
    router.settles()
    assert [one.path for one in router.removed] == ["n.page"]


def test_a_slot_that_has_run_a_task_before_its_caller_sends_it_again_runs_it_once(router, client, restart):
    # Given a transient task that a slot has begun when the router dies
    slot = router.slot()
    records = [client.record(flags=Flag.TRANSIENT)]
    client.publishes(*records)
    (task_id,) = slot.holds()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})
    router = restart(router, pages=pages(living))
    assert router.recovered == Recovered(0, 0, 0, 0)

    # When its caller sends it again, and another slot is idle
    other, again = router.slot(), router.client(2)
    again.publishes(*records)

    # Then it runs on where it runs
    assert other.holds() == []
    assert router.state(again, task_id)[3]["phase"] == "LEASED"
    assert router.owner.intake.begun_elsewhere == {}

    # And its outcome ends it
    rejoined = router.node(slot.node.name, pid=7).slot(0, pid=slot.pid, last_lease=1, unreceipted=[[1, 1]])
    rejoined.says(m.Outcomes([[1, task_id, Status.SUCCESS, 5, b"value", 0, False]]))
    assert again.results() == {task_id: (Status.SUCCESS, b"value")}


def test_a_slot_that_joins_without_the_outcome_of_what_its_page_says_has_not_begun_it(router, client, restart):
    # Given a page that says of a task nobody knows that it has begun, which its slot had to give back
    slot = router.slot()
    records = [client.record(flags=Flag.TRANSIENT)]
    client.publishes(*records)
    (task_id,) = slot.holds()
    router = restart(router, pages=pages(LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})))
    assert list(router.owner.intake.begun_elsewhere) == [task_id]

    # When the slot joins and has nothing to tell
    rejoined = router.node(slot.node.name, pid=7).slot(0, pid=slot.pid, last_lease=1)
    assert router.owner.intake.begun_elsewhere == {}

    # Then the call is run when it comes
    router.client(2).publishes(*records)
    assert rejoined.holds() == [task_id]


def test_a_slot_that_has_told_an_outcome_that_nobody_knew_of_is_not_waited_for(router, client, restart):
    slot = router.slot()
    records = [client.record(flags=Flag.TRANSIENT)]
    client.publishes(*records)
    (task_id,) = slot.holds()
    router = restart(router, pages=pages(LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})))
    rejoined = router.node(slot.node.name, pid=7).slot(0, pid=slot.pid, last_lease=1, unreceipted=[[1, 1]])
    assert list(router.owner.intake.begun_elsewhere) == [task_id]
    rejoined.says(m.Outcomes([[1, task_id, Status.SUCCESS, 5, b"value", 0, False]]))
    assert router.owner.intake.begun_elsewhere == {}
    again = router.client(2)
    again.publishes(*records)
    assert again.results() == {task_id: (Status.SUCCESS, b"value")}


def test_the_death_of_a_slot_frees_what_only_its_page_knew(router, client, restart):
    slot = router.slot()
    records = [client.record(flags=Flag.TRANSIENT)]
    client.publishes(*records)
    (task_id,) = slot.holds()
    router = restart(router, pages=pages(LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})))
    router.process_ended(slot.pid, begun=1)
    assert router.owner.intake.begun_elsewhere == {}
    router.client(2).publishes(*records)
    assert router.slot().holds() == [task_id]


def test_a_slot_keeps_all_of_its_outcomes_that_have_no_receipt(router, client, restart):
    # Given a slot that has run two tasks and runs a third, and has a receipt for none
    slot = router.slot()
    first, second, third = client.calls(3)
    slot.holds()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4099, {third: 3, first: 1, second: 2})

    # When the router starts, then all three are with the slot, in the order of their leases
    router = restart(router, pages=pages(living))
    assert router.recovered == Recovered(3, 3, 0, 0)
    (consumer,) = router.owner.dispatch.consumers.values()
    assert {lease: sequences([task]) for lease, task in consumer.held.items()} == {1: [1], 2: [2], 3: [3]}
    assert list(consumer.held) == [1, 2, 3]

    # And when it dies in the third, only that is charged
    router.process_ended(slot.pid, begun=3)
    found = {ids.sequence_of(one.task_id): (one.attempt, one.losses) for one in router.owner.dispatch.open.values()}
    assert found == {1: (1, 0), 2: (1, 0), 3: (1, 1)}
    assert router.slot().holds() == [first, second, third]


# --- at most once --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desc", "dead", "complete", "lost"),
    [
        ("no page says that it has begun", False, True, False),
        ("a page says that a process which is gone has begun it", True, True, True),
        ("pages are missing: the host was started anew", False, False, True),
    ],
)
def test_what_may_run_at_most_once_runs_where_it_can_not_have_begun(
    router, client, restart, desc, dead, complete, lost
):
    # Given a task that went out to a slot, marked so in the journal, when the router and the slot died
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    assert slot.holds() == [task_id]
    other = client.call(flags=Flag.EARLY_ACK, queue="nobody")
    router.settles()

    # When the next router starts, with what the pages say
    router = restart(router, pages=pages(dead=[task_id] if dead else [], complete=complete))
    again = router.client(2)
    again.says(m.Reconcile([[1, 2]]))

    # Then it has failed, or runs for the first time; and one that never went out waits on
    assert router.recovered == Recovered(1 if lost else 2, 0, 0, 1 if lost else 0)
    if lost:
        (failure,) = again.failures().values()
        assert failure.status is Status.FAILURE
        assert "it had begun and may run at most once, and its slot is gone" in failure.error
        assert router.slot().holds() == []
    else:
        later = router.slot()
        assert later.holds() == [task_id]
        assert (later.held[1].attempt, router.owner.dispatch.open[task_id].begun) == (0, Begun.MAYBE_HERE)
    assert other in router.owner.dispatch
    router.settles()

    # And that stays so for the one after it
    assert restart(router, pages=pages(complete=True)).recovered.tasks == router.recovered.tasks


def test_what_may_run_at_most_once_and_went_to_a_peer_has_failed(router, client, restart):
    # Given a task that a peer may have begun
    task_id = client.call(flags=Flag.EARLY_ACK)
    task = router.owner.dispatch.open[task_id]
    task.begun = Begun.MAYBE_ANYWHERE
    router.owner.ledger.news([task], router.now)
    router.settles()

    # Then no page of this host tells that it has not
    router = restart(router)
    assert (router.recovered, router.owner.outcomes.get(task_id).status) == (Recovered(0, 0, 0, 1), Status.FAILURE)


def test_what_may_run_at_most_once_and_runs_in_a_living_slot_runs_on(router, client, restart):
    slot = router.slot()
    task_id = client.call(flags=Flag.EARLY_ACK)
    slot.holds()
    router.settles()
    living = LivingSlot(slot.node.name, 0, slot.pid, "n.page", 4097, {task_id: 1})
    router = restart(router, pages=pages(living, dead=[], complete=False))
    assert router.recovered == Recovered(1, 1, 0, 0)
    router.process_ended(slot.pid, begun=1)
    assert "may run at most once" in router.owner.outcomes.get(task_id).body.decode()


# --- again and again -----------------------------------------------------------------------------


def test_a_router_that_starts_again_finds_the_same(router, client, restart):
    # Given tasks of every kind
    node = router.node()
    plain, retried, ended, received = client.calls(4)
    slot = node.slot()
    slot.ends(ended, received)
    client.says(m.Received([[4, 4]]))
    slot.says(m.Outcomes([[slot.lease_of(retried), retried, Status.RETRY, 5, b"why", 0, True, [2e9, None]]]))
    router.settles()

    # When it is started again and again, and each writes a little
    found = []
    for _ in range(4):
        router = restart(router)
        router.client(5).says(m.Bye(""))
        router.settles()
        found.append((router.recovered, set(router.owner.dispatch.open), set(router.owner.outcomes)))

    # Then each finds the same
    assert found == [(Recovered(2, 0, 1, 0), {plain, retried}, {ended})] * 4


def test_rows_in_which_nothing_stands_go_at_once(router, client, restart):
    # Given a row that a note empties, of which the router died before it was removed
    client.publishes(client.record())
    router.journal.commits[0] = router.journal.commits[0]._replace(
        rows=[*router.journal.commits[0].rows, (2, RowKind.NOTES, packed([[client.prefix, [[1, 1]]]]))]
    )

    # When the next router starts
    router = restart(router)

    # Then it removes the row, and not the note
    assert router.recovered == Recovered(0, 0, 0, 0)
    router.settles()
    assert router.journal.kinds() == {2: RowKind.NOTES}


def packed(records):
    return msgpack.packb(records)


def test_from_every_prefix_of_the_commits_nothing_is_lost_and_nothing_invented(router, restart, monkeypatch):
    # Given a long run: calls of all levels, deaths, retries, outcomes that are received or not, and rows that move
    monkeypatch.setattr("mesh.core.notes.NOTES_BYTES", 100)
    monkeypatch.setattr("mesh.core.ledger.LOOK_AFTER", 3)
    monkeypatch.setattr("mesh.core.ledger.SLACK_BYTES", 100)
    run = Run(router)
    for step in range(40):
        run.step(step)
    router.settles()
    assert len(router.journal.commits) > 40
    assert RowKind.CALLERS in router.journal.kinds().values()

    # When a router starts from each prefix of the commits
    for commits in range(len(router.journal.commits) + 1):
        later = restart(router, commits)
        confirmed, received = run.confirmed_by.get(commits, set()), run.received_before(commits)

        # Then all that was confirmed at that time is there, as a task or as an outcome, or its caller has it
        here = set(later.owner.dispatch.open) | set(later.owner.outcomes)
        assert confirmed - run.transient - received <= here, commits
        # And nothing that was never called
        assert here <= run.called
        # And nothing both waits and has ended
        assert not set(later.owner.dispatch.open) & set(later.owner.outcomes)
        # And what was read is written no second time
        later.settles()
        again = restart(later)
        assert set(again.owner.dispatch.open) == set(later.owner.dispatch.open)
        assert set(again.owner.outcomes) == set(later.owner.outcomes)


class Run:
    """A client and a slot that do everything that can be done, and keep account."""

    def __init__(self, router):
        self.router = router
        self.client = router.client(2)
        self.node = router.node()
        self.slot = self.node.slot()
        self.called, self.transient, self.received = set(), set(), {}
        #: {commits: what was confirmed while the journal held so many}
        self.confirmed_by = {}
        self._confirmed = set()

    def step(self, step):
        flags = (Flag.NONE, Flag.IGNORE_RESULT, Flag.TRANSIENT, Flag.SYNCED, Flag.KEEP_RESULT, Flag.EARLY_ACK)[step % 6]
        calls = set(self.client.calls(1 + step % 4, flags=flags))
        self.called |= calls
        if flags & (Flag.TRANSIENT | Flag.IGNORE_RESULT):
            self.transient |= calls
        held = self.slot.holds()
        match step % 5:
            case 0 if held:
                self.slot.dies(begun=self.slot.lease_of(held[0]))
                self.slot = self.node.slot()
            case 1 if held:
                lease = self.slot.lease_of(held[0])
                del self.slot.held[lease]
                eta_wall_s = self.router.now.wall_s + step % 3
                self.slot.says(m.Outcomes([[lease, held[0], Status.RETRY, 5, b"", 0, True, [eta_wall_s, None]]]))
            case 2 | 3 if held:
                self.slot.ends(*held)
                taken = held[:: 1 + step % 2]
                for task_id in taken:
                    self.received.setdefault(task_id, len(self.router.journal.commits))
                self.client.says(m.Received([[ids.sequence_of(one)] * 2 for one in sorted(taken)]))
        self._account()
        self.router.passes((0.0, NEWS_LINGER_S, 0.5)[step % 3])
        self._account()

    def _account(self):
        for first, last in self.client.confirmed():
            self._confirmed |= {self.client.id(one) for one in range(first, last + 1)}
        self.confirmed_by.setdefault(len(self.router.journal.commits), set(self._confirmed))

    def received_before(self, commits):
        """What its caller may have had by then: outcomes are told before the journal hears of them."""
        return {task_id for task_id, when in self.received.items() if when <= commits}
