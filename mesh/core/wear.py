"""When a slot has run all it may, or has grown too large, and when its successor is to be made ready."""

from __future__ import annotations

from typing import Final

#: A slot that may run only so many tasks asks for its successor before the last tenth of them, and at least one ahead,
#: but not earlier than a thousand ahead: that many tiny ones take longer than a fork.
HEIR_AHEAD_SHARE: Final = 10
HEIR_AHEAD_MAX: Final = 1000
#: One that may only grow so large asks for it at this share of it.
HEIR_AT_MEMORY: Final = 0.9


class Wear:
    """Counts what a slot has run against what it may."""

    def __init__(self, tasks_max: int, memory_max_kib: int) -> None:
        """0 is without end."""
        self._tasks_max = tasks_max
        self._memory_max_kib = memory_max_kib
        self._runs = 0
        #: With which run the successor is wanted; 0: before the first.
        self._heir_with = tasks_max - max(1, min(HEIR_AHEAD_MAX, tasks_max // HEIR_AHEAD_SHARE))
        #: There is an end to it. Where there is none, nothing has to be counted.
        self.is_bounded = bool(tasks_max or memory_max_kib)

    @property
    def wants_heir_from_the_start(self) -> bool:
        """It may run so few tasks that its successor is to be ready before the first."""
        return bool(self._tasks_max) and not self._heir_with

    def begins(self) -> bool:
        """A run begins. Whether it is the one with which the successor is wanted."""
        self._runs += 1
        return self._runs == self._heir_with

    def wants_heir(self, has_kib: int) -> bool:
        """A run has ended, and its process has so much memory: whether the successor is wanted for that."""
        return 0 < HEIR_AT_MEMORY * self._memory_max_kib <= has_kib

    def is_over(self, has_kib: int) -> bool:
        """A run has ended, and its process has so much memory: whether it was the last."""
        return 0 < self._tasks_max <= self._runs or 0 < self._memory_max_kib <= has_kib

    def check(self) -> None:
        """Raises AssertionError where more was run than may be."""
        assert not self._tasks_max or self._runs <= self._tasks_max
        assert self._heir_with < max(1, self._tasks_max)
