"""Simulated time: a heap of things to do, a monotonic clock that only they move, and a wall clock that may be set."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from mesh.clock import Now

START_MONO_S = 1_000.0
START_WALL_S = 1_700_000_000.0


class Timeline:
    """Does everything in the order of its time; what is due at the same time, in the order of asking."""

    def __init__(self) -> None:
        self.mono_s = START_MONO_S
        self._wall_offset_s = START_WALL_S - START_MONO_S
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = 0
        self.steps = 0

    def now(self) -> Now:
        """Both clocks."""
        return Now(self.mono_s + self._wall_offset_s, self.mono_s)

    def set_wall(self, jump_s: float) -> None:
        """Somebody sets the wall clock."""
        self._wall_offset_s += jump_s

    def at(self, mono_s: float, do: Callable[[], None]) -> None:
        """Does it then, or at once where that is past."""
        self._tie += 1
        heappush(self._heap, (max(mono_s, self.mono_s), self._tie, do))

    def after(self, delay_s: float, do: Callable[[], None]) -> None:
        """Does it after a while."""
        self.at(self.mono_s + delay_s, do)

    def run_until(self, mono_s: float) -> None:
        """Does all that is due until then."""
        while self._heap and self._heap[0][0] <= mono_s:
            self.mono_s, _, do = heappop(self._heap)
            self.steps += 1
            do()
        self.mono_s = max(self.mono_s, mono_s)
