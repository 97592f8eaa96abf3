"""How tasks end, what time does to them, and that none is lost whatever happens."""

import random

import pytest

from mesh.core.credit import DOUBT_S, FIRST_SAMPLES, OVERHEAD_US, STALE_S, WINDOW_US
from mesh.core.leases import Kind
from mesh.messages import Flag
from mesh.states import Phase
from tests.core.bench import START, Bench, Ended
from tests.core.builders import at, make_task, sequences, wall

# --- outcomes ------------------------------------------------------------------------------------


def test_an_outcome_ends_its_lease_and_its_task(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    assert bench.ends(slot) is task
    assert (task.phase, slot.held, bench.dispatch.open) == (Phase.DONE, {}, {})


@pytest.mark.parametrize(
    ("lease", "sequence"),
    [
        pytest.param(2, 1, id="a lease that is not held"),
        pytest.param(1, 2, id="a lease that is held for another task"),
    ],
)
def test_an_outcome_that_belongs_to_no_lease_ends_none(bench, lease, sequence):
    slot = bench.slot()
    bench.accept()
    bench.assign()
    assert bench.dispatch.outcome(slot, lease, make_task(sequence).task_id, START, 1) is None
    assert list(slot.held) == [1]


@pytest.mark.parametrize("flags", [Flag.NONE, Flag.EARLY_ACK])
@pytest.mark.parametrize("back", ["returned", "recalled", "lost", "lost with its node", "outcome"])
def test_a_task_that_has_its_outcome_is_not_run_again_when_its_holder_gives_it_back(bench, back, flags):
    # Given a task that is leased when the outcome of its earlier attempt comes
    slot = bench.slot()
    task = bench.accept(flags=flags)
    bench.assign()
    bench.dispatch.finish(task)

    # When the holder gives it back in whatever way
    match back:
        case "returned":
            bench.dispatch.returned(slot, [1])
        case "recalled":
            bench.dispatch.recalled(slot, 0, 1)
        case "outcome":
            assert bench.ends(slot) is None
        case _:
            bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=back != "lost")

    # Then it is over
    assert (bench.waiting(), bench.ended, slot.held, bench.dispatch.open) == ([], [], {}, {})


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.READY])
def test_a_task_can_end_wherever_it_is(bench, phase):
    task = bench.accept(eta=wall(999.0)) if phase is Phase.WAITING else bench.accept()
    bench.dispatch.finish(task)
    assert (bench.waiting(), bench.dispatch.open, len(bench.dispatch.schedule)) == ([], {}, 0)


def test_run_times_are_learnt_from_slots_and_not_from_peers(bench):
    peer = bench.peer(credit=FIRST_SAMPLES)
    bench.accept(2 * FIRST_SAMPLES)
    bench.assign()
    for _ in range(FIRST_SAMPLES):
        bench.ends(peer, runtime_us=10)
    assert bench.dispatch.estimates.expected_us("t") == WINDOW_US
    slot = bench.slot()
    for _ in range(FIRST_SAMPLES):
        bench.assign()
        bench.ends(slot, runtime_us=10)
    assert bench.dispatch.estimates.expected_us("t") == 10 + OVERHEAD_US


# --- time ----------------------------------------------------------------------------------------


def test_a_task_with_an_eta_waits_for_it_and_then_joins_the_queue(bench):
    # Given a task that is due in a second, and a slot
    bench.slot()
    task = bench.accept(eta=wall(START.mono_s + 1))
    assert (bench.assign(), task.phase) == ({}, Phase.WAITING)

    # When its time comes
    assert bench.dispatch.next_deadline_mono_s(START) == START.mono_s + 1
    now = at(START.mono_s + 1)
    bench.dispatch.tick(now)

    # Then it is placed
    assert bench.assign(now) == {"slot": [1]}


def test_a_task_whose_eta_has_passed_does_not_wait(bench):
    bench.slot()
    bench.accept(eta=wall(START.mono_s))
    assert bench.assign() == {"slot": [1]}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="ready"),
        pytest.param({"eta": wall(999.0)}, id="waiting for its eta"),
    ],
)
def test_what_expires_before_it_begins_is_over(bench, options):
    task = bench.accept(expires=wall(START.mono_s + 1), **options)
    bench.dispatch.tick(at(START.mono_s + 0.9))
    assert bench.ended == []
    bench.dispatch.tick(at(START.mono_s + 1))
    assert bench.ended == [Ended(1, "expired", "it expired before it began")]
    assert (task.phase, bench.dispatch.open) == (Phase.DONE, {})


def test_what_expires_while_it_runs_runs_on(bench):
    slot = bench.slot()
    task = bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)
    assert bench.ended == []
    assert bench.ends(slot, now) is task


@pytest.mark.parametrize("back", ["returned", "recalled", "lost"])
def test_what_expired_while_it_was_leased_and_comes_back_is_over(bench, back):
    # Given a task that expires while a slot holds it
    slot = bench.slot()
    bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)

    # When it comes back without having run to its end
    match back:
        case "returned":
            bench.dispatch.returned(slot, [1])
        case "recalled":
            bench.dispatch.recalled(slot, 0, 1)
        case _:
            bench.dispatch.lost(b"slot", 1, "signal 9", node_lost=False)
            bench.slot("other")
    bench.dispatch.tick(now)

    # Then it is over, and not run
    assert [one.kind for one in bench.ended] == ["expired"]
    assert bench.assign(now) == {}


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay_s", "phase"),
    [
        pytest.param(5.0, Phase.WAITING, id="later"),
        pytest.param(0.0, Phase.READY, id="at once"),
    ],
)
def test_a_task_that_asks_for_another_run_waits_for_it(bench, delay_s, phase):
    # Given a task that runs
    slot = bench.slot()
    task = bench.accept()
    bench.assign()

    # When it asks to be run again
    assert bench.dispatch.retried(slot, 1, task.task_id, START, wall(START.mono_s + delay_s)) is task

    # Then it is no longer leased, is not charged, and comes when it is due
    assert (task.phase, slot.held, task.attempt, task.crashes) == (phase, {}, 0, 0)
    now = at(START.mono_s + delay_s)
    bench.dispatch.tick(now)
    assert bench.assign(now) == {"slot": [1]}


def test_a_retry_makes_the_next_lease_the_front(bench):
    bench.learn("t", 100)
    slot = bench.slot()
    task, _ = bench.accept(2)
    bench.assign()
    later = at(START.mono_s + 0.004)
    bench.dispatch.retried(slot, 1, task.task_id, later, wall(999.0))
    bench.accept()
    assert bench.assign(at(later.mono_s + STALE_S * 0.9)) == {"slot": [3]}


@pytest.mark.parametrize(
    ("lease", "sequence"),
    [
        pytest.param(2, 1, id="a lease that is not held"),
        pytest.param(1, 2, id="a lease that is held for another task"),
    ],
)
def test_a_retry_that_belongs_to_no_lease_changes_nothing(bench, lease, sequence):
    slot = bench.slot()
    bench.accept()
    bench.assign()
    assert bench.dispatch.retried(slot, lease, make_task(sequence).task_id, START, wall(999.0)) is None
    assert list(slot.held) == [1]


def test_a_retry_of_a_task_that_has_its_outcome_comes_to_nothing(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    bench.dispatch.finish(task)
    assert bench.dispatch.retried(slot, 1, task.task_id, START, wall(999.0)) is None
    assert (slot.held, len(bench.dispatch.schedule), task.phase) == ({}, 0, Phase.DONE)


def test_a_slot_under_recall_that_has_only_a_retry_left_gets_more(bench):
    slot = bench.slot()
    task = bench.accept()
    bench.assign()
    now = at(START.mono_s + DOUBT_S)
    assert bench.stale(now) == ["slot"]
    bench.dispatch.retried(slot, 1, task.task_id, now, wall(999.0))
    bench.accept()
    assert bench.assign(now) == {"slot": [2]}


def test_a_task_that_expired_while_it_ran_is_not_run_once_more(bench):
    slot = bench.slot()
    task = bench.accept(expires=wall(START.mono_s + 1))
    bench.assign()
    now = at(START.mono_s + 2)
    bench.dispatch.tick(now)
    bench.dispatch.retried(slot, 1, task.task_id, now, wall(START.mono_s + 5))
    bench.dispatch.tick(now)
    assert [one.kind for one in bench.ended] == ["expired"]


# --- anything ------------------------------------------------------------------------------------


def something(bench, rng, now):
    """One random thing happens. The sequences of tasks that have their outcome by it."""
    consumers = list(bench.dispatch.consumers.values())
    consumer = rng.choice(consumers) if consumers else None
    leases = list(consumer.held) if consumer else []
    what = ("accept", "join", "ends", "returned", "recalled", "lost", "credit")
    match rng.choices(what, (8, 1.2, 8, 1, 2, 1, 1))[0]:
        case "accept":
            options = rng.choice(({}, {}, {"eta": now.wall_s + 2}, {"expires": now.wall_s + 1}))
            name, flags = rng.choice(("tiny", "short", "new")), rng.choice((0, 0, Flag.EARLY_ACK))
            bench.accept(rng.randint(1, 6), now, name=name, priority=rng.choice((0, 9)), flags=flags, **options)
        case "join" if len(consumers) < 5:
            (bench.slot if rng.random() < 0.7 else bench.peer)(f"c{now.mono_s}")
        case "ends" if consumer and leases:
            task = consumer.held[leases[0]]
            over = bench.dispatch.outcome(consumer, leases[0], task.task_id, now, rng.randrange(2_000))
            return [] if over is None else sequences([over])
        case "returned" if leases:
            bench.dispatch.returned(consumer, rng.sample(leases, rng.randint(1, len(leases))))
        case "recalled" if leases:
            bench.dispatch.recalled(consumer, rng.choice([0, *leases]), rng.choice(leases))
        case "lost" if consumer:
            begun, charged = rng.choice([None, 0, *leases]), rng.random() < 0.7
            bench.dispatch.lost(consumer.peer, begun, "died", node_lost=rng.random() < 0.5, charged=charged)
        case "credit" if consumer and consumer.kind is Kind.PEER:
            consumer.credit = rng.randint(0, 4)
    return []


@pytest.mark.parametrize("seed", range(8))
def test_no_task_is_lost_doubled_or_held_beyond_credit_whatever_happens(make_bench, seed):
    rng = random.Random(seed)
    bench, mono_s = make_bench(2, 3), 100.0
    done: list[int] = []
    for name, runtime_us in (("tiny", 10), ("short", 600)):
        bench.learn(name, runtime_us)
    for _ in range(500):
        # Given whatever came before, when something happens, and the dispatch looks around
        mono_s += rng.choice((0.0001, 0.001, 0.02, 1.0))
        now = at(mono_s)
        done += something(bench, rng, now)
        bench.dispatch.tick(now)
        credit = {name.decode(): one.credit for name, one in bench.dispatch.consumers.items() if one.kind is Kind.PEER}
        granted = bench.assign(now)
        list(bench.dispatch.stale(now))

        # Then every task is in one place or has ended once, and no peer got more than it wanted
        bench.check()
        ended = [one.sequence for one in bench.ended]
        assert sorted([*ended, *done, *sequences(bench.dispatch.open.values())]) == list(range(1, bench.count + 1))
        assert all(len(granted.get(peer, ())) <= wanted for peer, wanted in credit.items())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda d: setattr(d, "ready_count", 5), id="the count of what is ready"),
        pytest.param(lambda d: d.open.clear(), id="a task that is held and not open"),
        pytest.param(lambda d: d.consumers.clear(), id="a task that is leased to nobody"),
        pytest.param(lambda d: d.queues.clear(), id="a task that is ready and in no queue"),
    ],
)
def test_the_check_finds_damage(damage):
    bench = Bench()
    bench.slot()
    bench.accept(2)
    bench.assign()
    damage(bench.dispatch)
    with pytest.raises((AssertionError, StopIteration)):
        bench.check()
