"""Tasks that are given up become dead letters, which users list, look at, replay and purge."""

import pytest

from mesh import messages as m
from mesh.core import graveyard
from mesh.core.dead_letters import REPLAYED
from mesh.core.dispatch import CRASHED, DAMAGED, MAY_HAVE_RUN, Budgets
from mesh.core.ledger import LINGER_S
from mesh.core.owner import SWEEP_S
from mesh.messages import Flag, Unrunnable
from mesh.states import Status
from tests.core.builders import make_task, wall


def ask(router, command, **arguments):
    """What the router answers to a command."""
    asker = router.asker()
    asker.says(m.Request(5, f"dead_{command}", arguments, None, 1.0))
    (replies,) = asker.take(m.Replies)
    assert replies.errors == {}
    return replies.values["router"]


def listed(router, **arguments):
    return [letter["id"] for letter in ask(router, "list", **arguments)["letters"]]


@pytest.fixture
def router(make_router):
    """Its tasks may take down one slot."""
    return make_router(budgets=Budgets(crash=1, lost=0))


def runs_to_death(router, node, task_id, deaths=2, cause="signal 9"):
    """A task takes down so many slots."""
    for _ in range(deaths):
        slot = node.slot()
        assert task_id in slot.holds()
        slot.dies(begun=slot.lease_of(task_id), cause=cause)


def unrunnable(slot, task_id, cause=Unrunnable.UNKNOWN):
    """The slot says that it could not run a task it holds."""
    record = [slot.lease_of(task_id), task_id, Status.FAILURE, 9, b"error", 0, False, cause]
    del slot.held[record[0]]
    slot.says(m.Outcomes([record]))


# --- what becomes one ----------------------------------------------------------------------------


def test_a_task_beyond_its_crash_budget_is_a_dead_letter_with_its_causes(router):
    client, node = router.client(), router.node()
    task_id = client.call(name="mail", body=b"args")
    runs_to_death(router, node, task_id)
    (letter,) = ask(router, "list")["letters"]
    assert (letter["id"], letter["name"], letter["cause"], letter["causes"]) == (
        *(task_id, "mail", CRASHED),
        ["signal 9", "signal 9"],
    )
    assert (letter["died_wall_s"], letter["crashes"], letter["attempts"]) == (wall(router.mono_s), 2, 2)


@pytest.mark.parametrize("flags", [Flag.NONE, Flag.IGNORE_RESULT], ids=["with a result", "result ignored"])
@pytest.mark.parametrize("cause", [Unrunnable.UNKNOWN, Unrunnable.UNDECODABLE])
def test_a_task_that_could_not_run_is_a_dead_letter_and_its_caller_has_the_error(router, flags, cause):
    # Given a slot that holds a task
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=flags)

    # When it says that it can't run it
    slot.holds()
    unrunnable(slot, task_id, cause)

    # Then it is kept, and who waits for its result gets the slot's own error
    (letter,) = ask(router, "list")["letters"]
    assert (letter["id"], letter["cause"], letter["causes"]) == (task_id, cause, [cause])
    assert client.results() == ({} if flags else {task_id: (Status.FAILURE, b"error")})


def test_a_task_that_may_have_run_is_a_dead_letter_and_one_that_expired_is_none(router):
    client, node = router.client(), router.node()
    slot = node.slot()
    once = client.call(flags=Flag.EARLY_ACK)
    assert slot.holds() == [once]
    client.call(options={"expires": wall(router.mono_s + 1)})
    slot.dies(begun=1)
    router.passes(1.0)
    (letter,) = ask(router, "list")["letters"]
    assert (letter["id"], letter["cause"]) == (once, MAY_HAVE_RUN)


def test_an_outcome_that_comes_twice_buries_nothing_twice(router):
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.holds()
    record = [slot.lease_of(task_id), task_id, Status.FAILURE, 9, b"error", 0, False, Unrunnable.UNKNOWN]
    slot.says(m.Outcomes([record]), m.Outcomes([record]))
    assert listed(router) == [task_id]
    assert ask(router, "list")["crowded_out"] == 0


# --- list and show -------------------------------------------------------------------------------


def test_dead_letters_are_chosen_by_what_is_said_of_them(router):
    # Given three of two tasks
    client, slot = router.client(), router.slot()
    ids = [client.call(name=name, options={"id": name}) for name in ("mail", "pay", "ship")]
    for at, task_id in enumerate(ids):
        router.passes(10.0)
        slot.holds()
        unrunnable(slot, task_id, (Unrunnable.UNKNOWN, Unrunnable.UNDECODABLE)[at % 2])

    # When they are asked for, then those are told that are meant, and how many there are
    assert listed(router) == ids
    assert listed(router, name="pay") == [ids[1]]
    assert listed(router, cause="unknown task") == [ids[0], ids[2]]
    assert listed(router, since_wall_s=wall(router.mono_s - 10.0)) == ids[1:]
    assert listed(router, until_wall_s=wall(router.mono_s - 10.0)) == ids[:2]
    answer = ask(router, "list", ids=[ids[0], "ship", "nothing", b"?" * 16])
    assert [letter["id"] for letter in answer["letters"]] == [ids[0], ids[2]]
    assert (answer["count"], answer["kept"]) == (2, 3)
    assert set(answer["unknown"]) == {"nothing", b"?" * 16}


def test_the_latest_are_told_of_where_there_are_many(router, monkeypatch):
    monkeypatch.setattr(graveyard, "LISTED_MAX", 2)
    client, slot = router.client(), router.slot()
    ids = client.calls(3)
    for task_id in ids:
        slot.holds()
        unrunnable(slot, task_id)
    answer = ask(router, "list")
    assert ([letter["id"] for letter in answer["letters"]], answer["count"]) == (ids[1:], 3)
    assert [letter["id"] for letter in ask(router, "show")["letters"]] == ids[1:]


def test_one_that_is_shown_comes_with_its_arguments_and_options(router):
    client, slot = router.client(), router.slot()
    task_id = client.call(body=b"args", options={"headers": {"a": 1}})
    slot.holds()
    unrunnable(slot, task_id)
    (letter,) = ask(router, "show", ids=[task_id])["letters"]
    assert (letter["id"], letter["body"], letter["options"]) == (task_id, b"args", {"headers": {"a": 1}})


def test_arguments_beyond_what_an_answer_holds_are_left_out_from_the_oldest_on(router, monkeypatch):
    # Given three dead letters, of which the last has frames
    monkeypatch.setattr(graveyard, "SHOWN_BYTES_MAX", 10)
    client, slot = router.client(), router.slot()
    ids = [client.call(body=b"123456"), client.call(body=b"1234567")]
    client.publishes(client.record(body=b"", n_frames=1), frames=(b"frame",))
    for task_id in [*ids, client.id(3)]:
        slot.holds()
        unrunnable(slot, task_id)

    # When they are shown, then the latest that fits is, and of the others the size
    letters = ask(router, "show")["letters"]
    assert [letter["body"] for letter in letters] == [None, b"1234567", None]
    assert [letter["body_bytes"] for letter in letters] == [6, 7, 5]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"task": "mail"}, id="an argument that is none"),
        pytest.param({"ids": "mail"}, id="one id, without its list"),
        pytest.param({"ids": [5]}, id="an id that is a number"),
        pytest.param({"name": b"mail"}, id="a name that is bytes"),
        pytest.param({"cause": 5}, id="a cause that is a number"),
        pytest.param({"since_wall_s": "2026"}, id="a time that is text"),
        pytest.param({"until_wall_s": True}, id="a time that is true"),
    ],
)
@pytest.mark.parametrize("command", ["list", "show", "replay", "purge"])
def test_what_can_not_be_asked_is_refused_and_changes_nothing(router, command, arguments):
    client, slot = router.client(), router.slot()
    task_id = client.call(name="mail")
    slot.holds()
    unrunnable(slot, task_id)
    asker = router.asker()
    asker.says(m.Request(5, f"dead_{command}", arguments, None, 1.0))
    ((_, values, errors),) = asker.take(m.Replies)
    assert (values, list(errors)) == ({}, ["router"])
    assert errors["router"].startswith(f"dead_{command}: ")
    assert listed(router) == [task_id]


# --- replay --------------------------------------------------------------------------------------


def test_a_replayed_task_runs_once_more_under_its_id_and_its_new_outcome_counts(router):
    # Given a dead letter whose caller knows that it failed
    client, slot = router.client(), router.slot()
    task_id = client.call(options={"id": "order-1"})
    slot.holds()
    unrunnable(slot, task_id)
    assert client.results()[task_id][0] == Status.FAILURE
    client.says(m.Received([[1, 1]]))

    # When it is replayed, and runs
    answer = ask(router, "replay", ids=["order-1"])
    assert answer == {"count": 1, "ids": [task_id], "left": [], "unknown": []}
    assert slot.holds() == [task_id]
    assert router.state(client, "order-1")[2] == "PENDING"
    slot.ends(task_id, body=b"value")

    # Then whoever asks gets what came of it, and the dead letter is gone
    reader = router.client(3)
    reader.says(m.Ask(1, True, ["order-1"]))
    assert reader.results() == {task_id: (Status.SUCCESS, b"value")}
    assert listed(router) == []


def test_a_replay_is_waited_for_though_its_caller_once_had_an_outcome(router):
    # Given a dead letter whose caller got an outcome from a slot of which the router never heard
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.holds()
    client.says(m.Received([[1, 1]]))
    unrunnable(slot, task_id)
    assert not router.owner.outcomes.has_unreceived

    # When it is replayed, and runs
    ask(router, "replay")
    slot.holds()
    slot.ends(task_id)

    # Then its outcome is kept for its caller
    assert set(router.owner.outcomes.unreceived) == {task_id}


def test_a_replay_is_waited_for_though_its_caller_tells_late_that_it_has_the_failure(router):
    # Given a dead letter that is replayed before its caller says that it has the failure
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.holds()
    unrunnable(slot, task_id)
    ask(router, "replay")
    slot.holds()
    client.says(m.Received([[1, 1]]))

    # When it ends
    slot.ends(task_id)

    # Then its outcome is kept for its caller
    assert set(router.owner.outcomes.unreceived) == {task_id}


def test_who_watches_the_callers_own_id_of_a_dead_letter_is_told_of_its_replay(router):
    # Given a dead letter of whose id nothing else is known any more, and somebody who watches that id
    client, slot, reader = router.client(), router.slot(), router.client(3)
    task_id = client.call(options={"id": "order-1"})
    slot.holds()
    unrunnable(slot, task_id)
    router.owner.outcomes.forget(task_id)
    router.passes(SWEEP_S)
    reader.says(m.Ask(1, True, ["order-1"]))

    # When it is replayed, and runs
    ask(router, "replay")
    slot.holds()
    slot.ends(task_id, body=b"value")

    # Then the watcher gets what came of it
    assert reader.results() == {task_id: (Status.SUCCESS, b"value")}
    assert router.owner.answers.watchers == {}


def test_a_task_that_dies_again_has_its_whole_history_and_fresh_budgets(router):
    # Given a task that has taken down two slots and was replayed
    client, node = router.client(), router.node()
    task_id = client.call()
    runs_to_death(router, node, task_id)
    ask(router, "replay")
    assert listed(router) == []

    # When it takes down as many again
    runs_to_death(router, node, task_id, cause="exit 3")

    # Then all of that is told
    (letter,) = ask(router, "list")["letters"]
    assert letter["causes"] == ["signal 9", "signal 9", REPLAYED, "exit 3", "exit 3"]
    assert (letter["crashes"], letter["attempts"]) == (2, 4)


def test_a_task_whose_id_went_to_another_meanwhile_does_not_take_it_back(router):
    # Given a dead letter, of whose id nothing else is known any more
    client, slot = router.client(), router.slot()
    task_id = client.call(options={"id": "order-1"})
    slot.holds()
    unrunnable(slot, task_id)
    router.owner.outcomes.forget(task_id)
    router.passes(SWEEP_S)

    # When another task takes the id, and the first is replayed
    other = client.call(options={"id": "order-1"})
    ask(router, "replay")

    # Then the id is the other's, and both run
    assert router.state(client, "order-1")[1] == other
    slot.holds()
    slot.ends()
    slot.ends()
    assert client.results().keys() >= {other, task_id}


def test_what_can_not_be_replayed_is_left_and_named(router):
    # Given a dead letter whose arguments are lost, and one whose task runs
    client, slot = router.client(), router.slot()
    lost, runs = make_task(70), client.call()
    router.owner.graveyard.bury(lost, DAMAGED, "its row of the journal is damaged")
    router.owner.graveyard.bury(router.owner.dispatch.open[runs], CRASHED, "signal 9")
    before = listed(router)

    # When all are replayed, then these stay
    answer = ask(router, "replay")
    assert answer == {"count": 0, "ids": [], "left": [lost.task_id, runs], "unknown": []}
    assert listed(router) == before
    slot.holds()
    slot.ends()


# --- purge ---------------------------------------------------------------------------------------


def test_what_is_purged_is_gone_for_good(router):
    client, slot = router.client(), router.slot()
    ids = client.calls(2)
    for task_id in ids:
        slot.holds()
        unrunnable(slot, task_id)
    assert ask(router, "purge", ids=ids[:1]) == {"count": 1, "unknown": []}
    assert listed(router) == ids[1:]
    assert ask(router, "purge", ids=ids[:1]) == {"count": 0, "unknown": ids[:1]}
    assert ask(router, "replay", ids=ids[:1])["count"] == 0
    assert client.results().keys() == set(ids)


# --- the journal ---------------------------------------------------------------------------------


@pytest.fixture
def restart(make_router):
    """The next router, which has read what an earlier one wrote, or the first so many commits of it."""

    def restart(router, commits=None):
        journal = router.journal.upto(commits)
        later = make_router(budgets=Budgets(crash=1, lost=0), journal=journal, mono_s=router.mono_s)
        later.recover()
        return later

    return restart


def test_dead_letters_outlive_the_router_but_for_those_that_are_not_journaled(router, restart):
    # Given dead letters of each kind
    client, slot = router.client(), router.slot()
    journaled = client.call(name="mail", body=b"args", options={"id": "order-1"})
    transient = client.call(flags=Flag.TRANSIENT)
    for task_id in (journaled, transient):
        slot.holds()
        unrunnable(slot, task_id)
    facts = ask(router, "show", ids=[journaled])["letters"]
    router.settles()

    # When the next router has started
    router = restart(router)

    # Then it knows the one as it was, and it can be replayed
    assert ask(router, "show")["letters"] == facts
    ask(router, "replay", ids=["order-1"])
    assert router.slot().holds() == [journaled]


def test_what_was_purged_or_crowded_out_does_not_come_back(router, restart):
    client, slot = router.client(), router.slot()
    task_id = client.call()
    slot.holds()
    unrunnable(slot, task_id)
    router.settles()
    ask(router, "purge")
    router.settles()
    assert listed(restart(router)) == []


@pytest.mark.parametrize("settled", [True, False], ids=["the death is on disk", "the death is not on disk"])
@pytest.mark.parametrize("received", [True, False], ids=["its caller has the failure", "nobody has the failure"])
def test_a_replayed_task_outlives_the_router(router, restart, settled, received):
    # Given a dead letter
    client, slot = router.client(), router.slot()
    task_id = client.call()
    router.settles()
    slot.holds()
    unrunnable(slot, task_id)
    if received:
        client.says(m.Received([[1, 1]]))
    if settled:
        router.settles()

    # When it is replayed, and the router is started anew before it runs
    slot.dies()
    ask(router, "replay")
    router.settles()
    router = restart(router)

    # Then it is no dead letter, and runs, with its history
    assert listed(router) == []
    assert router.slot().holds() == [task_id]
    assert router.owner.dispatch.open[task_id].causes == [Unrunnable.UNKNOWN, REPLAYED]


def test_what_is_replayed_is_a_dead_letter_or_a_task_whenever_the_router_dies(router, restart):
    # Given a dead letter, and news of others that are due sooner and later
    client, slot = router.client(), router.slot()
    task_id, *others = client.calls(3)
    router.settles()
    slot.holds()
    unrunnable(slot, task_id)
    router.settles()
    before = len(router.journal.commits)

    # When it is replayed among them
    slot.ends(others[0])
    router.passes(LINGER_S / 2)
    ask(router, "replay")
    router.passes(LINGER_S / 2)
    slot.ends(others[1])
    router.settles(LINGER_S / 4)
    after = len(router.journal.commits)
    assert after > before

    # Then it is the one or the other, whatever was written last
    for commits in range(before, after + 1):
        later = restart(router, commits)
        is_dead, is_open = listed(later) == [task_id], task_id in later.owner.dispatch
        assert is_dead is not is_open, commits


@pytest.mark.parametrize("received", [True, False], ids=["its caller has the value", "nobody has the value"])
def test_what_was_replayed_and_has_ended_does_not_run_again(router, restart, received):
    # Given a dead letter that was published together with a task that still waits
    client, slot = router.client(), router.slot()
    task_id = client.id(1)
    client.publishes(client.record(), client.record(queue="elsewhere"))
    slot.holds()
    unrunnable(slot, task_id)
    client.says(m.Received([[1, 1]]))
    router.settles()

    # When it is replayed and ends at once
    ask(router, "replay")
    slot.holds()
    slot.ends(task_id, body=b"value")
    if received:
        client.says(m.Received([[1, 1]]))
    router.settles()

    # Then the next router has nothing to run, and what nobody has yet
    router = restart(router)
    assert (listed(router), router.slot().holds()) == ([], [])
    assert (task_id in router.owner.outcomes) is not received


def test_what_is_not_journaled_is_replayed_without_it(router):
    # Given a dead letter of which nothing is on disk
    client, slot = router.client(), router.slot()
    task_id = client.call(flags=Flag.TRANSIENT)
    slot.holds()
    unrunnable(slot, task_id)
    commits = len(router.journal.commits)

    # When it is replayed and ends, then nothing waits for the disk
    ask(router, "replay")
    assert slot.holds() == [task_id]
    slot.ends(task_id)
    router.passes(1.0)
    assert router.owner.ledger.has(router.owner.ledger.told)
    assert len(router.journal.commits) == commits
