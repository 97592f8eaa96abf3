"""The order of a queue: priority 0-9, higher first; first in, first out within; what comes back goes to the front.

Of a long queue only the beginning is in memory: the rest are blocks, whole batches that stand in the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from mesh.core.task import Task
from mesh.states import Phase

PRIORITIES = 10
#: Entries of ended tasks, in queues with fewer others, that are worth a sweep.
SWEEP_FROM = 64
#: Tasks of a line in memory below which its next block is read: a tenth of a second's work for the fastest slots.
HUNGRY: Final = 8192


class Block:
    """A published batch of like tasks that need not be in memory: one queue, one priority, no options, no frames."""

    __slots__ = (
        *("accepted_wall_s", "body_bytes", "calls", "first", "last", "prefix", "priority", "queue", "row"),
        *("tasks", "wanted"),
    )

    def __init__(self, prefix: bytes, calls: list[list[Any]], body_bytes: int) -> None:
        self.prefix = prefix
        #: The Call records, until they are in the journal.
        self.calls: list[list[Any]] | None = calls
        #: Its sequences are consecutive.
        self.first: int = calls[0][0]
        self.last: int = calls[-1][0]
        self.queue: str = calls[0][2]
        self.priority: int = calls[0][3]
        self.body_bytes = body_bytes
        #: Since when it waits.
        self.accepted_wall_s = 0.0
        #: As in Task.
        self.row = 0
        #: What has been made of it, once it is not a block any more.
        self.tasks: list[Task] | None = None
        #: It is being read.
        self.wanted = False

    def __len__(self) -> int:
        return self.last - self.first + 1


class Line:
    """The tasks of one priority."""

    __slots__ = ("front", "tail")

    def __init__(self) -> None:
        #: Tasks in order.
        self.front: deque[Task] = deque()
        #: What follows: empty, or a block and whatever came after it.
        self.tail: deque[Block | Task] = deque()

    @property
    def next_block(self) -> Block | None:
        """The block that is needed next, where the tasks before it become few."""
        if self.tail and len(self.front) < HUNGRY:
            block = self.tail[0]
            assert isinstance(block, Block)
            return block
        return None

    def unfold(self, tasks: list[Task]) -> None:
        """Puts tasks in the place of the first block."""
        self.tail.popleft()
        self.front.extend(tasks)
        while self.tail:
            one = self.tail[0]
            if isinstance(one, Block):
                return
            self.front.append(one)
            self.tail.popleft()

    def __iter__(self) -> Iterator[Block | Task]:
        yield from self.front
        yield from self.tail


class ReadyQueue:
    """Tasks of one queue that may begin now.

    Those that ended meanwhile (revoked, late outcome) are skipped on the way out.
    """

    __slots__ = ("_by_priority", "_ended", "_nonempty", "depth", "name", "paged")

    def __init__(self, name: str) -> None:
        self.name = name
        #: {priority: its tasks}; made when first used.
        self._by_priority: dict[int, Line] = {}
        #: Bit p is set where priority p has tasks in front.
        self._nonempty = 0
        #: Exactly the tasks in it with phase READY.
        self.depth = 0
        #: Tasks in blocks; beside those of `depth`.
        self.paged = 0
        #: Entries of tasks that ended in the queue.
        self._ended = 0

    def push(self, task: Task) -> None:
        """Appends a READY task."""
        priority = task.priority
        line = self._by_priority.get(priority) or self._line(priority)
        if line.tail:
            line.tail.append(task)
        else:
            line.front.append(task)
            self._nonempty |= 1 << priority
        self.depth += 1

    def push_front(self, task: Task) -> None:
        """Puts a READY task before all of its priority."""
        self._line(task.priority).front.appendleft(task)
        self._nonempty |= 1 << task.priority
        self.depth += 1

    def push_block(self, block: Block) -> None:
        """Appends a batch that need not be in memory."""
        self._line(block.priority).tail.append(block)
        self.paged += len(block)

    def _line(self, priority: int) -> Line:
        line = self._by_priority.get(priority)
        if line is None:
            line = self._by_priority[priority] = Line()
        return line

    def top(self) -> Task | None:
        """The next task, or None."""
        while self._nonempty:
            priority = self._nonempty.bit_length() - 1
            front = self._by_priority[priority].front
            if front and front[0].phase is not Phase.READY:
                self._drop_ended(front)
            if front:
                return front[0]
            self._nonempty &= ~(1 << priority)
        return None

    def _drop_ended(self, front: deque[Task]) -> None:
        """Drops the entries of ended tasks before the first that is READY."""
        while front and front[0].phase is not Phase.READY:
            front.popleft()
            self._ended -= 1

    def pop(self) -> Task:
        """Removes what `top` has just returned."""
        self.depth -= 1
        return self._by_priority[self._nonempty.bit_length() - 1].front.popleft()

    def upcoming(self, limit: int) -> Iterator[Task]:
        """What `top` would return next, at most so many; only of the highest priority."""
        if self.top() is None:
            return
        for task in self._by_priority[self._nonempty.bit_length() - 1].front:
            if limit <= 0:
                return
            if task.phase is Phase.READY:
                limit -= 1
                yield task

    # --- blocks ----------------------------------------------------------------------------------

    def next_blocks(self) -> list[Block]:
        """The blocks that should be in memory soon: at most one a priority."""
        lines = [line for line in self._by_priority.values() if line.tail]
        for line in lines:
            self._drop_ended(line.front)
        return [block for line in lines if (block := line.next_block) is not None]

    def first_blocks(self) -> list[Block]:
        """The first block of each priority, however many tasks are before it."""
        return [one for line in self._by_priority.values() if line.tail and isinstance(one := line.tail[0], Block)]

    def block_behind(self, block: Block) -> Block | None:
        """The block that follows one which has just been unfolded, where nothing is between them."""
        line = self._by_priority.get(block.priority)  # none where all that was unfolded has ended at once
        one = line.tail[0] if line is not None and line.tail else None
        return one if isinstance(one, Block) else None

    def unfold(self, block: Block, tasks: list[Task]) -> None:
        """Puts its tasks, all READY, in the place of a block that is the first of its priority."""
        line = self._by_priority[block.priority]
        assert line.tail[0] is block
        line.unfold(tasks)
        self._nonempty |= (1 if line.front else 0) << block.priority
        self.depth += len(tasks)
        self.paged -= len(block)

    # --- tasks that end here ---------------------------------------------------------------------

    def ended(self) -> None:
        """One task of this queue ended while it was READY; its entry is dropped later."""
        self.depth -= 1
        self._ended += 1
        if not self.depth or self._ended > max(self.depth, SWEEP_FROM):
            self._sweep()

    def _sweep(self) -> None:
        """Drops the entries of ended tasks. Each has been paid for by the task that ended, so this adds O(1) to it."""
        for priority, line in list(self._by_priority.items()):
            line.front = deque(task for task in line.front if task.phase is Phase.READY)
            line.tail = deque(one for one in line.tail if isinstance(one, Block) or one.phase is Phase.READY)
            if not line.front:
                self._nonempty &= ~(1 << priority)
                if not line.tail:
                    del self._by_priority[priority]
        self._ended = 0

    def __len__(self) -> int:
        return self.depth + self.paged

    def __iter__(self) -> Iterator[Task]:
        """The tasks in memory, in order."""
        for priority in sorted(self._by_priority, reverse=True):
            for task in self._by_priority[priority]:
                if isinstance(task, Task) and task.phase is Phase.READY:
                    yield task

    def blocks(self) -> Iterator[Block]:
        """The blocks, in order within their priority."""
        for line in self._by_priority.values():
            yield from (one for one in line.tail if isinstance(one, Block))

    def check(self) -> None:
        """Raises AssertionError where the depth, the bits or the places differ from the entries."""
        assert self.depth == sum(1 for _ in self), (self.name, self.depth)
        assert self.paged == sum(map(len, self.blocks())), (self.name, self.paged)
        entries = sum(isinstance(one, Task) for line in self._by_priority.values() for one in line)
        assert self.depth + self._ended == entries, (self.name, self._ended)
        for priority, line in self._by_priority.items():
            assert not line.front or self._nonempty >> priority & 1, (self.name, priority)
            assert not line.tail or isinstance(line.tail[0], Block)
            assert all(one.queue == self.name and one.priority == priority for one in line)
