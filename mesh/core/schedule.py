"""Tasks whose time has not come, and tasks that expire: two heaps on the wall clock."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from mesh.core.task import Task
from mesh.states import Phase


class Schedule:
    """1. Holds WAITING tasks until their eta. 2. Tells which unfinished tasks have expired."""

    def __init__(self) -> None:
        #: (eta_wall_s, tie, task); every WAITING task is in it once.
        self._etas: list[tuple[float, int, Task]] = []
        #: (expires_wall_s, tie, task); entries of ended tasks are dropped when they come up or in a sweep.
        self._expiries: list[tuple[float, int, Task]] = []
        self._tie = 0
        #: Entries at which those that nothing will come of are dropped.
        self._sweep_at = _SWEEP_FROM
        #: Expiries up to here have been told.
        self._told_wall_s = float("-inf")

    def wait(self, task: Task, eta_wall_s: float) -> None:
        """Holds a WAITING task until its eta."""
        self._add(self._etas, eta_wall_s, task)

    def expire(self, task: Task, expires_wall_s: float) -> None:
        """Remembers when a task expires."""
        self._add(self._expiries, expires_wall_s, task)

    def expire_again(self, task: Task, expires_wall_s: float) -> None:
        """A task that was leased may begin anew: if its expiry was told meanwhile, it is told once more."""
        if expires_wall_s <= self._told_wall_s:
            self.expire(task, expires_wall_s)

    def _add(self, heap: list[tuple[float, int, Task]], wall_s: float, task: Task) -> None:
        self._tie += 1
        heappush(heap, (wall_s, self._tie, task))
        if len(self._etas) + len(self._expiries) >= self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Drops entries that nothing will come of.

        The next sweep is as far off as this one left entries: O(1) for each added.
        """
        self._etas = [one for one in self._etas if one[2].phase is Phase.WAITING]
        self._expiries = [one for one in self._expiries if one[2].phase is not Phase.DONE]
        heapify(self._etas)
        heapify(self._expiries)
        self._sweep_at = max(_SWEEP_FROM, 2 * (len(self._etas) + len(self._expiries)))

    def due(self, wall_s: float) -> list[Task]:
        """Removes and returns the tasks whose eta has come and that still wait, earliest first."""
        return self._pop(self._etas, wall_s, lambda phase: phase is Phase.WAITING)

    def expired(self, wall_s: float) -> list[Task]:
        """Removes and returns unfinished tasks that have expired."""
        self._told_wall_s = max(self._told_wall_s, wall_s)
        return self._pop(self._expiries, wall_s, lambda phase: phase is not Phase.DONE)

    def _pop(self, heap: list[tuple[float, int, Task]], wall_s: float, keep: object) -> list[Task]:
        popped = []
        while heap and heap[0][0] <= wall_s:
            popped.append(heappop(heap)[2])
        return [task for task in popped if keep(task.phase)]  # type: ignore[operator]

    def __bool__(self) -> bool:
        """Whether anything is to come due."""
        return bool(self._etas or self._expiries)

    def next_wall_s(self) -> float | None:
        """When something is due next, or None."""
        heads = [heap[0][0] for heap in (self._etas, self._expiries) if heap]
        return min(heads) if heads else None

    def __len__(self) -> int:
        """How many tasks wait for their eta."""
        return sum(1 for _, _, task in self._etas if task.phase is Phase.WAITING)

    def waiting_by_queue(self) -> dict[str, int]:
        """{queue: how many of its tasks wait for their eta}."""
        counts: dict[str, int] = {}
        for _, _, task in self._etas:
            if task.phase is Phase.WAITING:
                counts[task.queue] = counts.get(task.queue, 0) + 1
        return counts

    def check(self) -> None:
        """Raises AssertionError where a heap is out of order or a task waits twice."""
        waiting = [task.task_id for _, _, task in self._etas if task.phase is Phase.WAITING]
        assert len(waiting) == len(set(waiting))
        for heap in (self._etas, self._expiries):
            assert all(heap[(at - 1) // 2] <= heap[at] for at in range(1, len(heap)))


#: Entries from which on those of ended tasks are looked for, so that they can't pile up.
_SWEEP_FROM = 4096
