"""The order of a queue."""

import random

import pytest

from mesh.core.ready import SWEEP_FROM, ReadyQueue
from mesh.states import Phase
from tests.core.builders import make_task, sequences


@pytest.fixture
def queue(checked):
    return checked(ReadyQueue("q"))


def drain(queue):
    """Everything, as it comes."""
    came = []
    while queue.top() is not None:
        task = queue.pop()
        task.phase = Phase.LEASED
        came.append(task)
    return came


def end(queue, task):
    """A task of the queue ends where it is: revoked, expired, or by a late outcome."""
    task.phase = Phase.DONE
    queue.ended()


def test_higher_priorities_go_first_and_equals_as_they_came(queue):
    # Given two tasks of each priority, lowest first
    tasks = [make_task(number, priority=number // 2) for number in range(20)]

    # When all are put in and taken out
    for task in tasks:
        queue.push(task)

    # Then 9 is first, 0 last, and the first of each before the second
    assert sequences(drain(queue)) == [18, 19, 16, 17, 14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1]


def test_what_comes_back_goes_before_its_own_priority_and_not_before_a_higher_one(queue):
    # Given a queue of two priorities
    for task in (make_task(1, priority=5), make_task(2, priority=5), make_task(3, priority=7)):
        queue.push(task)

    # When one of the lower priority comes back
    queue.push_front(make_task(4, priority=5))

    # Then it is the first of its own
    assert sequences(drain(queue)) == [3, 4, 1, 2]


def test_what_ended_in_the_middle_does_not_come_out(queue):
    # Given five tasks
    tasks = [make_task(number) for number in range(1, 6)]
    for task in tasks:
        queue.push(task)

    # When the first, one in the middle and the last end
    for number in (0, 2, 4):
        end(queue, tasks[number])

    # Then the others come, and are all that is counted
    assert (queue.depth, sequences(queue)) == (2, [2, 4])
    assert sequences(drain(queue)) == [2, 4]


def test_an_empty_queue_has_no_top_and_goes_on(queue):
    assert queue.top() is None
    queue.push(make_task(1))
    assert queue.top() is queue.top() is not None
    assert sequences(drain(queue)) == [1]
    assert queue.top() is None
    queue.push_front(make_task(2, priority=9))
    assert sequences(drain(queue)) == [2]


def test_entries_of_ended_tasks_do_not_pile_up_behind_one_that_stays(queue):
    # Given a task that nobody takes
    queue.push(make_task(0, priority=9))

    # When others come behind it and expire, without end
    for number in range(1, 10 * SWEEP_FROM):
        task = make_task(number, priority=number % 9)
        queue.push(task)
        end(queue, task)

    # Then few of their entries are kept
    assert sum(len(line.front) + len(line.tail) for line in queue._by_priority.values()) <= SWEEP_FROM + 2
    assert sequences(drain(queue)) == [0]


@pytest.mark.parametrize("seed", range(8))
def test_the_order_is_that_of_a_sorted_list(checked, seed):
    rng = random.Random(seed)
    queue, model, back, forth = checked(ReadyQueue("q")), [], 0, 0
    for step in range(1200):
        # Given whatever came before, when a task is put in, put back, ends, or is taken
        priority = rng.choice((0, 0, 3, 9))
        match rng.choices(("push", "push_front", "ended", "pop"), (5, 1, 2 if seed % 2 else 5, 3))[0]:
            case "push":
                forth += 1
                model.append(((-priority, forth), make_task(step, priority=priority)))
                queue.push(model[-1][1])
            case "push_front":
                back -= 1
                model.append(((-priority, back), make_task(step, priority=priority)))
                queue.push_front(model[-1][1])
            case "ended" if model:
                end(queue, model.pop(rng.randrange(len(model)))[1])
            case "pop" if model:
                model.sort(key=lambda one: one[0])
                assert queue.top() is model[0][1]
                assert queue.pop() is model.pop(0)[1]

        # Then the queue holds what the sorted list holds, in that order
        queue.check()
        assert queue.depth == len(model)
    assert sequences(queue) == sequences(task for _, task in sorted(model, key=lambda one: one[0]))
    assert len(drain(queue)) == len(model)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda queue: setattr(queue, "depth", 2), id="the depth"),
        pytest.param(lambda queue: setattr(queue, "_nonempty", 0), id="the bits"),
        pytest.param(lambda queue: setattr(queue, "name", "other"), id="a task of another queue"),
        pytest.param(lambda queue: setattr(queue, "_ended", 1), id="the count of ended entries"),
    ],
)
def test_the_check_finds_damage(damage):
    queue = ReadyQueue("q")
    queue.push(make_task(1))
    damage(queue)
    with pytest.raises(AssertionError):
        queue.check()
