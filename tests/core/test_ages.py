"""Tasks that wait for longer than they may are given up."""

import random

import pytest

from mesh import messages as m
from mesh.core import ages, ready
from mesh.core.ages import Ages
from mesh.core.dispatch import TOO_OLD, Budgets
from mesh.messages import Flag
from mesh.states import Phase, Status
from tests.core.bench import Ended
from tests.core.builders import at, make_task, sequences, wall

MAX_AGE_S = 60.0


@pytest.fixture
def aged(checked):
    return checked(Ages(MAX_AGE_S))


def test_who_has_waited_for_as_long_as_it_may_is_too_old_the_first_first(aged):
    for sequence, since_wall_s in ((1, 10.0), (2, 0.0), (3, 20.0)):
        aged.waits(make_task(sequence), since_wall_s)
    assert aged.next_wall_s() == MAX_AGE_S
    assert sequences(aged.too_old(MAX_AGE_S + 9.9)) == [2]
    assert sequences(aged.too_old(MAX_AGE_S + 20.0)) == [1, 3]
    assert (len(aged), aged.next_wall_s(), aged.too_old(1e9)) == (0, None, [])


def test_who_begins_to_wait_anew_has_all_its_time_again(aged):
    task = make_task(1)
    aged.waits(task, 0.0)
    aged.waits(task, 50.0)
    assert aged.too_old(MAX_AGE_S) == []
    assert aged.too_old(50.0 + MAX_AGE_S) == [task]


def test_who_has_ended_waits_for_nothing(aged):
    task = make_task(1)
    aged.waits(task, 0.0)
    assert task.task_id in aged
    aged.forget(task.task_id)
    aged.forget(task.task_id)
    assert (aged.too_old(1e9), task.task_id in aged) == ([], False)


@pytest.mark.parametrize("phase", [Phase.LEASED, Phase.WAITING])
def test_who_does_not_wait_for_a_slot_is_left_in_peace(aged, phase):
    # Given a task that runs, or waits for its time, for far longer
    task = make_task(1)
    aged.waits(task, 0.0)
    task.phase = phase
    for wall_s in (100.0, 1000.0):
        assert aged.too_old(wall_s) == []

    # When it is back in its queue, then it may wait as long as any
    task.phase = Phase.READY
    assert aged.too_old(1000.0 + MAX_AGE_S - 0.1) == []
    assert aged.too_old(1000.0 + MAX_AGE_S) == [task]


def test_what_is_past_does_not_pile_up(aged, monkeypatch):
    monkeypatch.setattr(ages, "_SWEEP_FROM", 10)
    for sequence in range(1000):
        task = make_task(sequence)
        aged.waits(task, 0.0)
        if sequence % 100:
            aged.forget(task.task_id)
    assert len(aged) == 10
    assert len(aged._heap) <= 10 + 2 * 10 + 1


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_is_told_once_and_in_time(checked, seed):
    rng = random.Random(seed)
    aged, wall_s, waiting = checked(Ages(MAX_AGE_S)), 0.0, {}
    for sequence in range(500):
        wall_s += rng.choice((0.0, 1.0, 7.0))
        task = make_task(sequence)
        aged.waits(task, wall_s)
        waiting[task.task_id] = wall_s
        if rng.random() < 0.5:
            gone = rng.choice(list(waiting))
            aged.forget(gone)
            del waiting[gone]
        due = [task_id for task_id, since in waiting.items() if since + MAX_AGE_S <= wall_s]
        assert [one.task_id for one in aged.too_old(wall_s)] == due
        for task_id in due:
            del waiting[task_id]
        aged.check()


# --- in their queues -----------------------------------------------------------------------------


@pytest.fixture
def router(make_router):
    return make_router(budgets=Budgets(crash=3, lost=20, max_age_s=MAX_AGE_S))


def dead(router):
    asker = router.asker()
    asker.says(m.Request(5, "dead_list", {}, None, 1.0))
    return {letter["id"]: letter["cause"] for letter in asker.take(m.Replies)[0].values["router"]["letters"]}


def test_a_task_that_nobody_takes_is_a_dead_letter_and_its_caller_is_told(router):
    # Given a task whose queue nobody consumes
    client = router.client()
    task_id = client.call()
    assert router.owner.next_deadline_mono_s() <= router.mono_s + MAX_AGE_S

    # When it has waited for as long as it may
    router.passes(MAX_AGE_S - 1)
    assert client.results() == {}
    router.passes(1)

    # Then it has failed, and is kept
    failure = client.failures()[task_id]
    assert failure.status is Status.FAILURE
    assert failure.error.startswith(
        "TaskTooOld: task t was given up: it waited for a slot for more than 60 s, which is queue_max_age. See "
    )
    assert dead(router) == {task_id: TOO_OLD}
    assert router.slot().holds() == []


def test_a_task_with_a_time_waits_from_then_on(router):
    client = router.client()
    client.call(options={"eta": wall(router.mono_s + 100.0)})
    router.passes(100.0 + MAX_AGE_S - 1)
    assert dead(router) == {}
    router.passes(1)
    assert set(dead(router).values()) == {TOO_OLD}


def test_a_task_that_expires_sooner_expires(router):
    client = router.client()
    task_id = client.call(options={"expires": wall(router.mono_s + 10.0)})
    router.passes(MAX_AGE_S)
    assert client.failures()[task_id].status is Status.REVOKED
    assert dead(router) == {}


def test_a_task_that_runs_for_long_is_left_in_peace_and_waits_anew_when_it_comes_back(router):
    # Given a task that runs for far longer than it may wait
    client, node = router.client(), router.node()
    slot = node.slot()
    task_id = client.call()
    assert slot.holds() == [task_id]
    router.passes(1000.0)

    # When its slot dies, then it may wait as long again
    slot.dies(begun=1)
    router.passes(MAX_AGE_S / 2)
    assert (client.results(), dead(router)) == ({}, {})
    router.passes(MAX_AGE_S / 2)
    assert dead(router) == {task_id: TOO_OLD}


def test_a_task_that_asks_for_another_run_waits_from_then_on(make_bench):
    # Given a task that has run, and is to run again in 100 s
    bench = make_bench(3, 20, MAX_AGE_S)
    task = bench.accept()
    slot = bench.slot()
    bench.assign()
    bench.dispatch.retried(slot, 1, task.task_id, at(110.0), at(210.0).wall_s)
    bench.dispatch.leave(slot.peer)

    # When nobody takes it then
    for mono_s in (209.0, 211.0, 210.0 + MAX_AGE_S - 1):
        bench.dispatch.tick(at(mono_s))
        assert bench.ended == []
    bench.dispatch.tick(at(210.0 + MAX_AGE_S))

    # Then it is over as long after that
    assert [(sequence, kind) for sequence, kind, _ in bench.ended] == [(1, TOO_OLD)]
    assert isinstance(bench.ended[0], Ended)


def test_what_was_paged_out_waits_since_it_came(make_router, monkeypatch):
    # Given more tasks than are kept in memory, none of which anybody takes
    monkeypatch.setattr(ready, "HUNGRY", 100)
    router = make_router(budgets=Budgets(3, 20, MAX_AGE_S), resident_max=8)
    client = router.client()
    for _ in range(40):
        client.calls(64)
    router.settles()
    assert router.owner.dispatch.paged_count > 1000

    # When they have waited too long
    router.passes(MAX_AGE_S)
    router.settles()

    # Then not one of them runs
    assert router.slot().holds() == []
    assert (len(router.owner.dispatch), len(client.results())) == (0, 40 * 64)


def test_what_is_replayed_waits_anew(router):
    client = router.client()
    task_id = client.call(flags=Flag.TRANSIENT)
    router.passes(MAX_AGE_S)
    asker = router.asker()
    asker.says(m.Request(5, "dead_replay", {}, None, 1.0))
    router.passes(MAX_AGE_S - 1)
    assert dead(router) == {}
    assert router.slot().holds() == [task_id]


def test_without_a_limit_tasks_wait_for_ever(make_router):
    router = make_router()
    client = router.client()
    task_id = client.call()
    router.passes(1e9)
    assert router.owner.dispatch.ages is None
    assert router.slot().holds() == [task_id]
