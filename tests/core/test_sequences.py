"""Sets of sequence numbers as ranges, against Python's own sets."""

import random

import pytest

from mesh.core.sequences import SequenceSet


@pytest.fixture
def make(checked):
    return lambda *ranges: checked(SequenceSet(ranges))


def as_ranges(numbers):
    """The ascending, disjoint, non-adjacent ranges of a set of numbers."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


@pytest.mark.parametrize(
    ("ranges", "added", "expected"),
    [
        pytest.param([], (3, 5), [[3, 5]], id="into an empty set"),
        pytest.param([(1, 3)], (4, 6), [[1, 6]], id="right behind the last"),
        pytest.param([(4, 6)], (1, 3), [[1, 6]], id="right before the first"),
        pytest.param([(1, 3)], (5, 6), [[1, 3], [5, 6]], id="behind a gap"),
        pytest.param([(5, 6)], (1, 3), [[1, 3], [5, 6]], id="before a gap"),
        pytest.param([(1, 3), (7, 9)], (4, 6), [[1, 9]], id="exactly into a gap"),
        pytest.param([(1, 3), (7, 9)], (5, 5), [[1, 3], [5, 5], [7, 9]], id="inside a gap"),
        pytest.param([(1, 9)], (3, 4), [[1, 9]], id="what is there"),
        pytest.param([(2, 3), (5, 6), (8, 9)], (1, 10), [[1, 10]], id="over all"),
        pytest.param([(2, 3), (5, 6), (9, 9)], (3, 7), [[2, 7], [9, 9]], id="over some"),
    ],
)
def test_a_range_that_is_added_merges_with_what_it_touches(make, ranges, added, expected):
    numbers = make(*ranges)
    numbers.add_range(*added)
    assert numbers.ranges() == expected


def test_adding_tells_whether_the_number_is_new(make):
    numbers = make((5, 6))
    assert [numbers.add(number) for number in (7, 7, 5, 3, 4, 3, 9, 8)] == [
        *(True, False, False, True),
        *(True, False, True, True),
    ]
    assert numbers.ranges() == [[3, 9]]


def test_taking_empties_the_set_and_leaves_the_ranges_to_the_taker(make):
    # Given a set
    numbers = make((1, 3), (5, 5))

    # When its ranges are taken
    taken = numbers.take()
    numbers.add(4)

    # Then they are the taker's
    assert (taken, numbers.ranges(), bool(make())) == ([[1, 3], [5, 5]], [[4, 4]], False)


def test_a_copy_of_the_ranges_stays_as_it_is(make):
    numbers = make((1, 3))
    copied = numbers.ranges()
    numbers.add(4)
    assert copied == [[1, 3]]


@pytest.mark.parametrize(
    ("ranges", "removed", "expected"),
    [
        pytest.param([], (1, 9), [], id="from an empty set"),
        pytest.param([(3, 5)], (3, 5), [], id="exactly what is there"),
        pytest.param([(3, 5)], (1, 9), [], id="more than is there"),
        pytest.param([(3, 5)], (6, 9), [[3, 5]], id="what lies behind"),
        pytest.param([(3, 5)], (1, 2), [[3, 5]], id="what lies before"),
        pytest.param([(3, 5)], (5, 9), [[3, 4]], id="the last"),
        pytest.param([(3, 5)], (1, 3), [[4, 5]], id="the first"),
        pytest.param([(3, 5)], (4, 4), [[3, 3], [5, 5]], id="one in the middle"),
        pytest.param([(1, 9)], (3, 6), [[1, 2], [7, 9]], id="a part in the middle"),
        pytest.param([(1, 2), (4, 5), (7, 9)], (2, 7), [[1, 1], [8, 9]], id="parts of several, and those between them"),
        pytest.param([(1, 2), (4, 5), (7, 9)], (3, 3), [[1, 2], [4, 5], [7, 9]], id="a gap"),
        pytest.param([(1, 2), (4, 5), (7, 9)], (6, 8), [[1, 2], [4, 5], [9, 9]], id="the first part of the last"),
        pytest.param([(1, 2), (4, 5), (7, 9)], (1, 1), [[2, 2], [4, 5], [7, 9]], id="the very first"),
    ],
)
def test_a_range_that_is_removed_leaves_what_is_beside_it(make, ranges, removed, expected):
    numbers = make(*ranges)
    numbers.discard_range(*removed)
    assert numbers.ranges() == expected


@pytest.mark.parametrize(
    ("ranges", "others", "expected"),
    [
        pytest.param([], [[1, 9]], [], id="nothing in an empty set"),
        pytest.param([(1, 9)], [], [], id="nothing with nothing"),
        pytest.param([(1, 3)], [[4, 9]], [], id="nothing with what follows"),
        pytest.param([(1, 5)], [[3, 9]], [[3, 5]], id="where they overlap"),
        pytest.param([(3, 4), (6, 9)], [[1, 7]], [[3, 4], [6, 7]], id="parts"),
        pytest.param([(1, 9)], [[2, 3], [5, 5]], [[2, 3], [5, 5]], id="all of the others"),
    ],
)
def test_what_two_sets_have_in_common_is_in_both(make, ranges, others, expected):
    numbers = make(*ranges)
    assert numbers.common_with(others) == expected
    assert numbers.ranges() == [list(one) for one in ranges]


def test_what_is_missing_costs_no_more_than_there_are_ranges(make):
    numbers = make((10, 20), (30, 40))
    assert numbers.missing_from([[1, 1 << 60]]) == [[1, 9], [21, 29], [41, 1 << 60]]


@pytest.mark.parametrize("seed", range(6))
def test_a_sequence_set_does_what_a_set_does(make, seed):
    rng = random.Random(seed)
    numbers, model = make(), set()
    for _ in range(600):
        # Given whatever came before, when one more thing is done to both
        first = rng.randint(1, 80)
        last = min(80, first + rng.choice((0, 1, 2, 10)))
        match rng.randrange(5):
            case 0 | 1:
                assert numbers.add(first) == (first not in model)
                model.add(first)
            case 2:
                numbers.add_range(first, last)
                model.update(range(first, last + 1))
            case 3:
                numbers.discard(first)
                model.discard(first)
            case _:
                asked = as_ranges(rng.sample(range(1, 90), 20))
                missing = {one for low, high in asked for one in range(low, high + 1)} - model
                assert numbers.missing_from(asked) == as_ranges_within(missing, asked)
        if rng.random() < 0.01:
            numbers.clear()
            model.clear()

        # Then both hold the same
        numbers.check()
        assert numbers.ranges() == as_ranges(model)
        assert (list(numbers), len(numbers), bool(numbers)) == (sorted(model), len(model), bool(model))
        assert (first in numbers) == (first in model)


def as_ranges_within(numbers, asked):
    """The same numbers as ranges, none of which goes beyond one of the ranges asked about."""
    return [one for low, high in asked for one in as_ranges(numbers & set(range(low, high + 1)))]


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([[3, 2]], id="a range that ends before it begins"),
        pytest.param([[1, 2], [3, 4]], id="ranges that touch"),
        pytest.param([[5, 6], [1, 2]], id="ranges out of order"),
    ],
)
def test_the_check_finds_damage(ranges):
    numbers = SequenceSet()
    numbers._ranges = ranges
    with pytest.raises(AssertionError):
        numbers.check()
