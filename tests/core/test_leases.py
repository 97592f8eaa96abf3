"""Who holds which task, and what becomes of it when the holder goes."""

import random

import pytest

from mesh.core.credit import WINDOW_US
from mesh.core.leases import Consumer, Kind, LostLeases
from tests.core.builders import make_task, sequences


def make_consumer(last_lease=0):
    return Consumer(b"slot", Kind.SLOT, ("q",), node="n", index=0, pid=7, last_lease=last_lease)


@pytest.fixture
def slot(checked):
    return checked(make_consumer())


def grant(slot, count, expected_us=10):
    """Leases so many tasks, numbered as their sequences."""
    tasks = [make_task(slot.last_lease + 1 + at) for at in range(count)]
    for task in tasks:
        slot.grant(task, expected_us, task.body_bytes)
    return tasks


def split(lost: LostLeases):
    """The three parts of what a lost consumer held, by sequence."""
    begun = None if lost.begun is None else sequences([lost.begun])[0]
    return sequences(lost.ran), begun, sequences(lost.returned)


def test_leases_are_numbered_on_from_what_the_slot_has_seen_last(checked):
    # Given a slot that an earlier router had numbered up to 40
    slot = checked(make_consumer(last_lease=40))

    # When it gets two tasks
    grant(slot, 2)

    # Then their numbers go on
    assert (list(slot.held), slot.last_lease) == ([41, 42], 42)


def test_sums_follow_what_is_held(slot):
    # Given three leases
    tasks = grant(slot, 3, expected_us=100)
    assert (slot.held_us, slot.held_bytes) == (300, 12)

    # When the middle one ends, twice
    assert slot.close(2) is tasks[1]
    assert slot.close(2) is None
    assert [task.expected_us for task in tasks] == [100, 0, 100]

    # Then the sums are those of the other two
    assert (slot.held_us, slot.held_bytes, list(slot.held)) == (200, 8, [1, 3])


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        pytest.param(0, ([], None, [1, 2, 3, 4]), id="nothing had begun"),
        pytest.param(1, ([], 1, [2, 3, 4]), id="the first had begun"),
        pytest.param(3, ([1, 2], 3, [4]), id="two had run, the third had begun"),
        pytest.param(4, ([1, 2, 3], 4, []), id="the last had begun"),
        pytest.param(9, ([1, 2, 3, 4], None, []), id="all had run"),
    ],
)
def test_the_leases_of_a_lost_consumer_are_split_at_the_one_it_had_begun(slot, begun, expected):
    # Given a slot that holds four tasks
    grant(slot, 4)

    # When it is gone, and had begun up to here
    lost = slot.close_all(begun)

    # Then one had begun, those before it had run, those behind it had not begun; and it holds nothing any more
    assert split(lost) == expected
    assert (slot.held, slot.held_us, slot.held_bytes) == ({}, 0, 0)


def test_a_begun_lease_with_an_outcome_is_not_lost_with_its_slot(slot):
    grant(slot, 3)
    slot.close(1)
    assert split(slot.close_all(1)) == ([], None, [2, 3])


def test_what_was_taken_back_is_exactly_what_lies_between(slot):
    grant(slot, 5)
    assert sequences(slot.close_between(2, 4)) == [3, 4]
    assert list(slot.held) == [1, 2, 5]


@pytest.mark.parametrize(
    ("granted", "closed", "stored"),
    [
        pytest.param(0, [], 40, id="nothing was ever granted"),
        pytest.param(3, [], 40, id="all are held"),
        pytest.param(3, [41], 41, id="the first has ended"),
        pytest.param(3, [42, 43], 40, id="others have ended and the first has not"),
        pytest.param(3, [41, 42, 43], 43, id="all have ended"),
    ],
)
def test_a_receipt_covers_the_leases_before_the_first_that_is_held(checked, granted, closed, stored):
    slot = checked(make_consumer(last_lease=40))
    grant(slot, granted)
    for number in closed:
        slot.close(number)
    assert slot.stored_upto() == stored


@pytest.mark.parametrize(
    ("change", "room"),
    [
        pytest.param({}, True, id="holds nothing"),
        pytest.param({"quiet": True}, False, id="its node takes no more"),
        pytest.param({"recalling": True}, False, id="a recall is under way"),
    ],
)
def test_room_is_where_a_window_stands_open(slot, change, room):
    for name, value in change.items():
        setattr(slot, name, value)
    assert slot.has_room() == room


def test_a_full_window_has_no_room(slot):
    grant(slot, 1, expected_us=WINDOW_US - 1)
    assert slot.has_room()
    grant(slot, 1, expected_us=1)
    assert not slot.has_room()


@pytest.mark.parametrize("seed", range(6))
def test_a_consumer_does_what_a_list_of_leases_does(checked, seed):
    rng = random.Random(seed)
    slot, model = checked(make_consumer()), {}
    for _ in range(400):
        # Given whatever came before, when leases are granted, end, are taken back, or are all lost
        number = rng.randint(1, slot.last_lease + 1)
        match rng.choices(("grant", "close", "between", "all"), (6, 5, 2, 0.3))[0]:
            case "grant":
                task = make_task(slot.last_lease + 1, body=b"x" * rng.randrange(50), frames=(b"y" * rng.randrange(5),))
                model[slot.last_lease + 1] = (task, rng.randrange(3_000))
                slot.grant(task, model[slot.last_lease + 1][1], task.body_bytes)
            case "close":
                expected = model.pop(number, None)
                assert slot.close(number) is (expected[0] if expected else None)
            case "between":
                upto = number + rng.randrange(4)
                taken = [model.pop(one)[0] for one in sorted(model) if number < one <= upto]
                assert slot.close_between(number, upto) == taken
            case _:
                ran, begun, returned = split(slot.close_all(number))
                assert ran == [one for one in sorted(model) if one < number]
                assert begun == (number if number in model else None)
                assert returned == [one for one in sorted(model) if one > number]
                model.clear()

        # Then what is held, and the sums over it, are the same
        slot.check()
        assert {one: task for one, (task, _) in model.items()} == slot.held
        assert slot.held_us == sum(expected_us for _, expected_us in model.values())
        assert slot.held_bytes == sum(task.body_bytes for task, _ in model.values())
        assert slot.stored_upto() == min(model, default=slot.last_lease + 1) - 1


@pytest.mark.parametrize("damaged", ["held_us", "held_bytes", "credit"])
def test_the_check_finds_a_wrong_sum(damaged):
    slot = make_consumer()
    setattr(slot, damaged, -1)
    with pytest.raises(AssertionError):
        slot.check()
