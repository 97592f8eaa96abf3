"""The order of a queue: priority 0-9, higher first; first in, first out within; what comes back goes to the front."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mesh.core.task import Task
from mesh.states import Phase

PRIORITIES = 10
#: Entries of ended tasks, in queues with fewer others, that are worth a sweep.
SWEEP_FROM = 64


class ReadyQueue:
    """Tasks of one queue that may begin now.

    Those that ended meanwhile (revoked, late outcome) are skipped on the way out.
    """

    __slots__ = ("_by_priority", "_ended", "_nonempty", "depth", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        #: {priority: tasks in order}; made when first used.
        self._by_priority: dict[int, deque[Task]] = {}
        #: Bit p is set where priority p has entries.
        self._nonempty = 0
        #: Exactly the tasks in it with phase READY.
        self.depth = 0
        #: Entries of tasks that ended in the queue.
        self._ended = 0

    def push(self, task: Task) -> None:
        """Appends a READY task."""
        self._line(task.priority).append(task)
        self.depth += 1

    def push_front(self, task: Task) -> None:
        """Puts a READY task before all of its priority."""
        self._line(task.priority).appendleft(task)
        self.depth += 1

    def _line(self, priority: int) -> deque[Task]:
        self._nonempty |= 1 << priority
        line = self._by_priority.get(priority)
        if line is None:
            line = self._by_priority[priority] = deque()
        return line

    def top(self) -> Task | None:
        """The next task, or None."""
        while self._nonempty:
            priority = self._nonempty.bit_length() - 1
            line = self._by_priority[priority]
            while line:
                if line[0].phase is Phase.READY:
                    return line[0]
                line.popleft()
                self._ended -= 1
            self._nonempty &= ~(1 << priority)
        return None

    def pop(self) -> Task:
        """Removes what `top` has just returned."""
        self.depth -= 1
        return self._by_priority[self._nonempty.bit_length() - 1].popleft()

    def ended(self) -> None:
        """One task of this queue ended while it was READY; its entry is dropped later."""
        self.depth -= 1
        self._ended += 1
        if not self.depth or self._ended > max(self.depth, SWEEP_FROM):
            self._sweep()

    def _sweep(self) -> None:
        """Drops the entries of ended tasks. Each has been paid for by the task that ended, so this adds O(1) to it."""
        lines = {
            priority: deque(task for task in line if task.phase is Phase.READY)
            for priority, line in self._by_priority.items()
        }
        self._by_priority = {priority: line for priority, line in lines.items() if line}
        self._nonempty = sum(1 << priority for priority in self._by_priority)
        self._ended = 0

    def __iter__(self) -> Iterator[Task]:
        for priority in sorted(self._by_priority, reverse=True):
            for task in self._by_priority[priority]:
                if task.phase is Phase.READY:
                    yield task

    def check(self) -> None:
        """Raises AssertionError where the depth, the bits or the places differ from the entries."""
        assert self.depth == sum(1 for _ in self), (self.name, self.depth)
        assert self.depth + self._ended == sum(map(len, self._by_priority.values())), (self.name, self._ended)
        for priority, line in self._by_priority.items():
            assert not line or self._nonempty >> priority & 1, (self.name, priority)
            assert all(task.queue == self.name and task.priority == priority for task in line)
