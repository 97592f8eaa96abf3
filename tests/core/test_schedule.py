"""Tasks whose time has not come, and tasks that expire."""

import random

import pytest

from mesh.core import schedule as schedule_module
from mesh.core.schedule import Schedule
from mesh.states import Phase
from tests.core.builders import make_task, sequences


@pytest.fixture
def schedule(checked):
    return checked(Schedule())


def waiting(schedule, number, eta_wall_s, queue="q"):
    """A task that waits for its eta."""
    task = make_task(number, queue=queue)
    task.phase = Phase.WAITING
    schedule.wait(task, eta_wall_s)
    return task


def due(schedule, wall_s):
    """What comes due; it then is READY."""
    tasks = schedule.due(wall_s)
    for task in tasks:
        task.phase = Phase.READY
    return sequences(tasks)


def test_tasks_come_due_in_the_order_of_their_time_and_not_before(schedule):
    # Given three tasks that wait, two of them for the same moment
    for number, eta in ((1, 30.0), (2, 10.0), (3, 30.0)):
        waiting(schedule, number, eta)

    # When time passes
    came = [due(schedule, wall_s) for wall_s in (9.9, 10.0, 29.9, 30.0, 99.0)]

    # Then each comes once, at its moment, equals as they were put in
    assert came == [[], [2], [], [1, 3], []]


def test_the_next_moment_is_the_earliest_of_both_heaps(schedule):
    assert schedule.next_wall_s() is None
    assert not schedule
    waiting(schedule, 1, 30.0)
    assert schedule.next_wall_s() == 30.0
    schedule.expire(make_task(2), 20.0)
    assert schedule.next_wall_s() == 20.0
    assert schedule


def test_what_ended_while_it_waited_does_not_come_due(schedule):
    # Given two tasks that wait
    ended, _ = waiting(schedule, 1, 10.0), waiting(schedule, 2, 10.0)

    # When one ends before its time
    ended.phase = Phase.DONE

    # Then only the other counts, and comes
    assert (len(schedule), schedule.waiting_by_queue()) == (1, {"q": 1})
    assert due(schedule, 10.0) == [2]


@pytest.mark.parametrize("phase", Phase)
def test_an_expiry_is_told_of_every_task_that_has_not_ended(schedule, phase):
    # Given a task that expires
    task = make_task(1)
    schedule.expire(task, 10.0)

    # When its time comes while it is in this phase
    task.phase = phase

    # Then that is told once, unless it has ended
    assert sequences(schedule.expired(10.0)) == ([] if phase is Phase.DONE else [1])
    assert schedule.expired(10.0) == []


def test_a_task_that_comes_back_is_told_of_again_if_its_expiry_has_passed(schedule):
    # Given two tasks of which one's expiry has been told
    early, late = make_task(1), make_task(2)
    schedule.expire(early, 10.0)
    schedule.expire(late, 20.0)
    assert sequences(schedule.expired(15.0)) == [1]

    # When both come back from a consumer, more than once
    for _ in range(3):
        schedule.expire_again(late, 20.0)
    schedule.expire_again(early, 10.0)

    # Then each is told of when it is due, once
    assert sequences(schedule.expired(15.0)) == [1]
    assert sequences(schedule.expired(20.0)) == [2]
    schedule.expire_again(late, 20.0)
    assert sequences(schedule.expired(20.0)) == [2]


def test_the_waiting_are_counted_by_queue(schedule):
    for number, queue in enumerate(("a", "b", "a")):
        waiting(schedule, number, 10.0, queue)
    assert (schedule.waiting_by_queue(), len(schedule)) == ({"a": 2, "b": 1}, 3)


@pytest.mark.parametrize("heap", ["_etas", "_expiries"])
def test_entries_of_ended_tasks_do_not_pile_up_behind_a_far_moment(schedule, heap, monkeypatch):
    # Given a schedule that sweeps early, and a task far off
    monkeypatch.setattr(schedule_module, "_SWEEP_FROM", 16)
    schedule._sweep_at = 16
    kept = waiting(schedule, 0, 1e9)

    # When many others come and end before their time
    for number in range(1, 1000):
        if heap == "_etas":
            task = waiting(schedule, number, 1e8)
        else:
            task = make_task(number)
            schedule.expire(task, 1e8)
        task.phase = Phase.DONE

    # Then few of their entries are kept, and the far one is
    assert len(getattr(schedule, heap)) <= 16
    assert schedule.due(1e9) == [kept]


def test_entries_are_swept_seldom_where_few_tasks_end(schedule, monkeypatch):
    # Given a schedule that counts its sweeps
    sweeps: list[int] = []

    def sweep():
        sweeps.append(len(schedule))
        Schedule._sweep(schedule)

    monkeypatch.setattr(schedule_module, "_SWEEP_FROM", 16)
    monkeypatch.setattr(schedule, "_sweep", sweep)
    schedule._sweep_at = 16

    # When it takes tasks that wait and expire, and none of them ends
    for number in range(1024):
        schedule.expire(waiting(schedule, number, 1e8 - number), 1e9)

    # Then the sweeps are twice as far apart each time
    assert sweeps == [8, 16, 32, 64, 128, 256, 512, 1024]


@pytest.mark.parametrize("seed", range(6))
def test_a_schedule_does_what_two_sorted_lists_do(checked, seed, monkeypatch):
    monkeypatch.setattr(schedule_module, "_SWEEP_FROM", 8)
    rng = random.Random(seed)
    schedule = checked(Schedule())
    schedule._sweep_at = 8
    etas, expiries, open_, wall_s = [], [], [], 0.0
    for number in range(800):
        # Given whatever came before, when a task is put in, ends, or time passes
        moment = wall_s + rng.choice((0.0, 1.0, rng.uniform(0, 500)))
        match rng.choices(("wait", "expire", "end", "pass"), (4, 4, 3, 4))[0]:
            case "wait":
                open_.append(waiting(schedule, number, moment))
                etas.append((moment, number))
            case "expire":
                open_.append(make_task(number))
                schedule.expire(open_[-1], moment)
                expiries.append((moment, number))
            case "end" if open_:
                task = open_.pop(rng.randrange(len(open_)))
                task.phase = Phase.DONE
                etas = [one for one in etas if one[1] not in sequences([task])]
                expiries = [one for one in expiries if one[1] not in sequences([task])]
            case _:
                wall_s += rng.uniform(0, 5)
                assert due(schedule, wall_s) == [number for moment, number in sorted(etas) if moment <= wall_s]
                assert sequences(schedule.expired(wall_s)) == [n for moment, n in sorted(expiries) if moment <= wall_s]
                etas = [one for one in etas if one[0] > wall_s]
                expiries = [one for one in expiries if one[0] > wall_s]

        # Then what is left is the same
        schedule.check()
        assert len(schedule) == len(etas)
        soonest = min((moment for moment, _ in [*etas, *expiries]), default=None)
        assert soonest is None or (schedule.next_wall_s() or soonest) <= soonest


def test_the_check_finds_a_task_that_waits_twice():
    schedule = Schedule()
    task = waiting(schedule, 1, 10.0)
    schedule.wait(task, 11.0)
    with pytest.raises(AssertionError):
        schedule.check()


def test_the_check_finds_a_heap_out_of_order():
    schedule = Schedule()
    for number in range(3):
        waiting(schedule, number, float(number))
    schedule._etas.reverse()
    with pytest.raises(AssertionError):
        schedule.check()
