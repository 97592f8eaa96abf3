"""Sets of sequence numbers kept as ranges: what a client has published, got confirmed, or received."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

from mesh.messages import Ranges


class SequenceSet:
    """Ascending, disjoint, non-adjacent ranges. Adding in order is O(1); anything else O(ranges)."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        #: [[first, last], ...]
        self._ranges: Ranges = []
        for first, last in ranges:
            self.add_range(first, last)

    def add(self, number: int) -> bool:
        """Adds one number; False if it was there."""
        ranges = self._ranges
        if ranges:
            tail = ranges[-1]
            if number == tail[1] + 1:
                tail[1] = number
                return True
            if tail[0] <= number <= tail[1]:
                return False
        else:
            ranges.append([number, number])
            return True
        if number in self:
            return False
        self.add_range(number, number)
        return True

    def add_range(self, first: int, last: int) -> None:
        """Adds [first, last], merging what touches it."""
        ranges = self._ranges
        if not ranges or first > ranges[-1][1] + 1:
            ranges.append([first, last])
            return
        if first == ranges[-1][1] + 1:
            ranges[-1][1] = last
            return
        low = bisect_right(ranges, first - 1, key=_last)
        if low and ranges[low - 1][1] == first - 1:
            low -= 1
        high = low
        while high < len(ranges) and ranges[high][0] <= last + 1:
            first, last = min(first, ranges[high][0]), max(last, ranges[high][1])
            high += 1
        ranges[low:high] = [[first, last]]

    def discard(self, number: int) -> None:
        """Removes one number if it is there."""
        place = self._place(number)
        if place is None:
            return
        first, last = self._ranges[place]
        parts = [[first, number - 1], [number + 1, last]]
        self._ranges[place : place + 1] = [part for part in parts if part[0] <= part[1]]

    def discard_range(self, first: int, last: int) -> None:
        """Removes [first, last] as far as it is there."""
        ranges = self._ranges
        low = bisect_right(ranges, first - 1, key=_last)
        high = low
        parts: Ranges = []
        while high < len(ranges) and ranges[high][0] <= last:
            parts += [[ranges[high][0], first - 1], [last + 1, ranges[high][1]]]
            high += 1
        ranges[low:high] = [part for part in parts if part[0] <= part[1]]

    def common_with(self, ranges: Ranges) -> Ranges:
        """The parts of `ranges` that are in this set."""
        return SequenceSet(self.missing_from(ranges)).missing_from(ranges)

    def clear(self) -> None:
        """Empties the set."""
        self._ranges = []

    def take(self) -> Ranges:
        """The ranges; the set is empty afterwards."""
        taken, self._ranges = self._ranges, []
        return taken

    def ranges(self) -> Ranges:
        """A copy of the ranges."""
        return [list(one) for one in self._ranges]

    def missing_from(self, ranges: Ranges) -> Ranges:
        """The parts of `ranges` that are not in this set. Costs O(both), however wide the ranges are."""
        missing: Ranges = []
        for first, last in ranges:
            at = bisect_right(self._ranges, first - 1, key=_last)
            while first <= last:
                if at >= len(self._ranges) or self._ranges[at][0] > last:
                    missing.append([first, last])
                    break
                if self._ranges[at][0] > first:
                    missing.append([first, self._ranges[at][0] - 1])
                first = self._ranges[at][1] + 1
                at += 1
        return missing

    def _place(self, number: int) -> int | None:
        at = bisect_right(self._ranges, number, key=_first) - 1
        return at if at >= 0 and self._ranges[at][1] >= number else None

    def __contains__(self, number: int) -> bool:
        return self._place(number) is not None

    def __iter__(self) -> Iterator[int]:
        for first, last in self._ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def check(self) -> None:
        """Raises AssertionError where ranges touch, overlap or are out of order."""
        previous = None
        for first, last in self._ranges:
            assert first <= last, self._ranges
            assert previous is None or first > previous + 1, self._ranges
            previous = last


def spans(calls: list[list[Any]]) -> list[tuple[int, int]]:
    """The ranges of the sequences of calls, which ascend; one for each where any is left out."""
    if not calls:
        return []
    first, last = calls[0][0], calls[-1][0]
    return [(first, last)] if last - first == len(calls) - 1 else [(call[0], call[0]) for call in calls]


def _first(one: list[int]) -> int:
    return one[0]


def _last(one: list[int]) -> int:
    return one[1]
