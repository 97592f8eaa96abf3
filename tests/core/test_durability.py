"""What a call is to survive, what its confirm says, and what is written for it."""

import pytest

from mesh import messages as m
from mesh.core.ledger import LINGER_S, RETRY_S
from mesh.core.records import RowKind
from mesh.messages import Durability, Flag
from tests.core.builders import BOOT


def levels(client):
    """[(level, ranges), ...] of what was confirmed since it looked last, as it came."""
    return [(confirm.durability, confirm.confirmed) for confirm in client.take(m.Confirm)]


# --- the level of a call -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "level", "written", "synced"),
    [
        (Flag.NONE, Durability.JOURNALED, True, False),
        (Flag.SYNCED, Durability.SYNCED, True, True),
        (Flag.TRANSIENT, Durability.NONE, False, False),
        (Flag.TRANSIENT | Flag.SYNCED, Durability.NONE, False, False),
        (Flag.IGNORE_RESULT, Durability.JOURNALED, True, False),
    ],
)
def test_a_call_gets_the_level_that_it_asks_for(router, client, flags, level, written, synced):
    client.call(flags=flags)
    assert levels(client) == [(level, [[1, 1]])]
    assert bool(router.journal.tasks()) is written
    assert [commit.synced for commit in router.journal.commits] == ([synced] if written else [])


def test_calls_of_all_levels_in_one_message_are_confirmed_by_level(router, client):
    # Given calls of each level
    flags = [Flag.NONE, Flag.TRANSIENT, Flag.NONE, Flag.TRANSIENT, Flag.TRANSIENT]

    # When they come in one message
    client.publishes(*[client.record(flags=one) for one in flags])

    # Then the transient ones are confirmed as that, and the others when the journal holds them
    assert levels(client) == [(Durability.NONE, [[2, 2], [4, 5]]), (Durability.JOURNALED, [[1, 1], [3, 3]])]
    assert router.journal.tasks() == {1: [(client.prefix, [1, 3])]}


def test_a_transient_call_is_confirmed_though_the_disk_takes_its_time(router, client):
    router.journal.waits = True
    client.publishes(client.record(), client.record(flags=Flag.TRANSIENT))
    assert levels(client) == [(Durability.NONE, [[2, 2]])]
    router.commit()
    assert levels(client) == [(Durability.JOURNALED, [[1, 1]])]


def test_one_synced_call_makes_its_whole_commit_survive_power_loss(router, client):
    # Given two calls that wait for a commit
    other = router.client(3)
    client.publishes(client.record(), now=False)
    other.publishes(other.record(flags=Flag.SYNCED), now=False)
    router.passes(LINGER_S)

    # Then both are told the level that was met
    assert levels(client) == levels(other) == [(Durability.SYNCED, [[1, 1]])]

    # And the next commit is an ordinary one again
    client.call()
    assert levels(client) == [(Durability.JOURNALED, [[2, 2]])]
    assert [commit.synced for commit in router.journal.commits] == [True, False]


def test_a_synced_call_waits_with_others_of_its_message(router, client):
    client.publishes(client.record(), client.record(flags=Flag.SYNCED), client.record())
    assert levels(client) == [(Durability.SYNCED, [[1, 3]])]


def test_a_router_without_a_journal_writes_nothing_whatever_calls_ask_for(make_router):
    # Given a router whose users want no journal
    router = make_router(journaled=False)
    client, slot = router.client(), router.slot()

    # When calls of all levels come and end
    client.publishes(*[client.record(flags=flags) for flags in (Flag.NONE, Flag.SYNCED, Flag.EARLY_ACK)])
    ids = [client.id(number) for number in (1, 2, 3)]
    while held := slot.holds():
        slot.ends(held[0])
    router.settles()

    # Then all is as ever, but for the level
    assert levels(client) == [(Durability.NONE, [[1, 3]])]
    assert set(client.results()) == set(ids)
    assert router.journal.commits == []


# --- what comes again ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "level"),
    [(Flag.NONE, Durability.JOURNALED), (Flag.SYNCED, Durability.JOURNALED), (Flag.TRANSIENT, Durability.NONE)],
)
@pytest.mark.parametrize("asks", [True, False], ids=["asks", "sends it again"])
def test_a_confirm_that_was_lost_is_told_again_with_a_level_that_holds(router, client, flags, level, asks):
    record = client.record(flags=flags)
    client.publishes(record)
    client.told.clear()
    if asks:
        client.says(m.Reconcile([[1, 1]]))
    else:
        client.publishes(record)
    assert levels(client) == [(level, [[1, 1]])]


@pytest.mark.parametrize("asks", [True, False], ids=["asks", "sends it again"])
def test_nothing_is_told_again_of_a_call_that_the_journal_does_not_hold_yet(router, client, asks):
    router.journal.waits = True
    record = client.record()
    client.publishes(record)
    if asks:
        client.says(m.Reconcile([[1, 1]]))
    else:
        client.publishes(record)
    router.passes(1.0)
    assert levels(client) == []
    router.commit()
    assert levels(client) == [(Durability.JOURNALED, [[1, 1]])]


def test_calls_that_no_row_could_hold_together_are_written_each_by_itself(router, client, monkeypatch):
    # Given rows that hold seven bytes of arguments
    monkeypatch.setattr("mesh.core.intake.JOURNALED_BYTES_MAX", 7)

    # When two calls of four come together
    client.says(m.Publish(False, [client.record(), client.record()]))

    # Then each is a batch of its own, and both are confirmed
    assert [[call[0] for call in batch.calls] for batch in router.owner.ledger._batches] == [[1], [2]]
    router.settles()
    assert levels(client) == [(Durability.JOURNALED, [[1, 2]])]


# --- received ------------------------------------------------------------------------------------


def test_what_a_caller_has_received_may_come_along_with_its_next_calls(router, client):
    # Given an outcome that the journal does not hold yet
    slot = router.slot()
    first, second = client.calls(2)
    slot.ends(first, second)
    assert router.owner.outcomes.has_unreceived

    # When the next publish says that its caller has the first, and nothing else
    client.says(m.Publish(False, [], [[1, 1]]))
    assert list(router.owner.outcomes.unreceived) == [second]

    # Then with the next calls the rest
    client.says(m.Publish(True, [client.record()], [[2, 2]]))
    assert not router.owner.outcomes.has_unreceived
    assert levels(client)[-1] == (Durability.JOURNALED, [[3, 3]])
    router.settles()

    # And neither outcome was ever written
    assert all(kind != RowKind.OUTCOMES for commit in router.journal.commits for _, kind, _ in commit.rows)


def test_a_stranger_s_publish_tells_of_nothing(router, client):
    slot = router.slot()
    slot.ends(client.call())
    client.says(m.Bye("done"))
    client.told.clear()
    client.says(m.Publish(True, [client.record()], [[1, 1]]))
    assert client.told == [m.NeedHello(BOOT)]
    assert router.owner.outcomes.has_unreceived


# --- the disk fails ------------------------------------------------------------------------------


def refusals(client):
    """{sequence: (code, reason)}"""
    return {one[0]: (one[1], one[2]) for confirm in client.take(m.Confirm) for one in confirm.refused}


def test_while_the_disk_fails_calls_are_refused_and_transient_ones_taken(router, client):
    # Given a call under way when the disk is full
    router.journal.failure = "no space left on device"
    client.call()
    assert client.take(m.Confirm) == [
        m.Confirm(Durability.NONE, [], [[1, m.Refused.WAITS, "no space left on device"]])  # not refused: it waits
    ]

    # When others come
    client.publishes(client.record(), client.record(flags=Flag.TRANSIENT), client.record(flags=Flag.SYNCED))

    # Then those that are to be journaled are refused, with the reason, and may come again
    confirms = client.take(m.Confirm)
    refused = {one[0]: one[1] for confirm in confirms for one in confirm.refused}
    assert refused == {2: m.Refused.DISK, 4: m.Refused.DISK}
    assert all("no space left on device" in one[2] for confirm in confirms for one in confirm.refused)
    assert [(one.durability, one.confirmed) for one in confirms if one.confirmed] == [(Durability.NONE, [[3, 3]])]

    # And when the disk works again, the first is confirmed, and calls are taken
    router.journal.failure = ""
    router.passes(RETRY_S)
    assert levels(client) == [(Durability.JOURNALED, [[1, 1]])]
    client.last_sequence = 1
    client.call()
    assert levels(client) == [(Durability.JOURNALED, [[2, 2]])]
    assert router.journal.tasks() == {1: [(client.prefix, [1])], 2: [(client.prefix, [2])]}


def test_while_the_disk_fails_tasks_run_and_results_come(router, client):
    # Given a task that the journal holds, when the disk fails
    slot = router.slot()
    task_id = client.call()
    router.journal.failure = "read-only file system"
    client.publishes(client.record(flags=Flag.TRANSIENT))

    # When it ends
    slot.ends(task_id)
    assert task_id in client.results()
    for _ in range(100):
        router.passes(0.1)
    slot.looks()

    # Then the slot has its receipt, and the journal hears of it when it can
    assert slot.receipts == [1]
    router.journal.failure = ""
    router.settles()
    assert router.journal.ids(RowKind.OUTCOMES) == {2: [task_id]}


def test_a_disk_that_is_too_slow_for_what_comes_in_is_spared(router, client, monkeypatch):
    monkeypatch.setattr("mesh.core.ledger.WAITING_BYTES_MAX", 8)
    router.journal.waits = True
    client.calls(3)
    client.call()
    found = refusals(client)
    assert {sequence: code for sequence, (code, _) in found.items()} == {4: m.Refused.DISK}
    assert "too slow" in found[4][1]
    router.commit()
    client.call()
    assert refusals(client) == {}
    router.commit()


# --- room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "sizes", "taken", "reason"),
    [
        ({"tasks_max": 2}, [1, 1, 1], 2, "it holds 2 tasks already; start more nodes, or raise queue_max_tasks"),
        ({"bytes_max": 9}, [5, 4], 2, None),
        (
            {"bytes_max": 9},
            [5, 5, 1],
            2,
            "it holds 9 bytes of arguments already; start more nodes, or raise queue_max_bytes",
        ),
    ],
)
def test_a_router_holds_so_many_tasks_and_bytes(make_router, limits, sizes, taken, reason):
    # Given a router with such bounds
    router = make_router(**limits)
    client = router.client()

    # When calls with arguments of these sizes come, each by itself
    for size in sizes:
        client.publishes(client.record(body=b"x" * size))

    # Then what is beyond the bound is refused, as full
    found = refusals(client)
    assert len(router.owner.dispatch.open) == taken
    assert list(found.values()) == ([(m.Refused.FULL, reason)] if reason is not None else [])


def test_a_custom_id_that_is_taken_has_a_code_of_its_own(router, client):
    client.call(options={"id": "order-17"})
    client.call(options={"id": "order-17"})
    assert refusals(client) == {2: (m.Refused.ID, "task_id 'order-17' is taken; give another, or none")}
