"""How long tasks wait in their queues, where that has a limit (`queue_max_age`)."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from mesh.core.task import Task
from mesh.states import Phase

#: Entries from which on those of the past are looked for, so that they can't pile up.
_SWEEP_FROM = 4096


class Ages:
    """1. Remembers until when each open task may wait. 2. Tells who has waited too long."""

    def __init__(self, max_age_s: float) -> None:
        self.max_age_s = max_age_s
        #: {task_id: wall seconds until which it may wait}. Exactly the tasks that are open and in memory.
        self._until: dict[bytes, float] = {}
        #: (until, tie, task); one that does not agree with `_until` is of the past.
        self._heap: list[tuple[float, int, Task]] = []
        self._tie = 0

    def waits(self, task: Task, since_wall_s: float) -> None:
        """A task waits for a slot from then on."""
        until_wall_s = since_wall_s + self.max_age_s
        self._until[task.task_id] = until_wall_s
        self._tie += 1
        heappush(self._heap, (until_wall_s, self._tie, task))
        if len(self._heap) > _SWEEP_FROM + 2 * len(self._until):
            self._heap = [one for one in self._heap if self._until.get(one[2].task_id) == one[0]]
            heapify(self._heap)

    def forget(self, task_id: bytes) -> None:
        """A task has ended."""
        self._until.pop(task_id, None)

    def too_old(self, wall_s: float) -> list[Task]:
        """The tasks that have waited too long, the first first.

        One that a slot holds is left in peace; should it come back, it may wait anew.
        """
        found = []
        while self._heap and self._heap[0][0] <= wall_s:
            until_wall_s, _, task = heappop(self._heap)
            if self._until.get(task.task_id) != until_wall_s:
                continue
            if task.phase is Phase.READY:
                del self._until[task.task_id]
                found.append(task)
            else:
                self.waits(task, wall_s)
        return found

    def next_wall_s(self) -> float | None:
        """When `too_old` may have something."""
        return self._heap[0][0] if self._heap else None

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._until

    def __len__(self) -> int:
        return len(self._until)

    def check(self) -> None:
        """Raises AssertionError where a task is not looked after, or the heap is out of order."""
        heap = self._heap
        assert {task.task_id for until, _, task in heap if self._until.get(task.task_id) == until} == set(self._until)
        assert all(heap[(at - 1) // 2] <= heap[at] for at in range(1, len(heap)))
        assert len(heap) <= _SWEEP_FROM + 2 * len(self._until) + 1
