"""A ledger by itself: calls are made, end and are received, and a journal takes its commits when the test says."""

from __future__ import annotations

from typing import Any

from mesh import codec, ids
from mesh import messages as m
from mesh.core.callers import Caller
from mesh.core.effects import Commit
from mesh.core.ledger import Batch, Ledger
from mesh.core.outcomes import OutcomeStore, Stored
from mesh.core.ready import Block
from mesh.core.task import NO_ROW, Task
from mesh.messages import Durability, Flag
from mesh.states import Phase, Status
from tests.core.builders import OWNER_TAG, at
from tests.core.fake_journal import FakeJournal


class Book:
    """A ledger, what it reads, and the journal that it writes."""

    def __init__(self, results_max_bytes: int = 1 << 30) -> None:
        self.open: dict[bytes, Task] = {}
        self.outcomes = OutcomeStore(None, results_max_bytes, lambda task_id: self.ledger.dropped(task_id, self.now))
        self.callers: dict[bytes, Caller] = {}
        self.ledger = Ledger(self.open, self.outcomes, self.callers)
        self.journal = FakeJournal()
        self.mono_s = 100.0
        #: {client prefix: its last sequence}
        self._last: dict[bytes, int] = {}

    @property
    def now(self) -> Any:
        return at(self.mono_s)

    def check(self) -> None:
        self.outcomes.check()
        self.ledger.check()

    # --- what happens ------------------------------------------------------------------------------

    def caller(self, incarnation: int = 1) -> Caller:
        prefix = ids.prefix(OWNER_TAG, incarnation)
        if prefix not in self.callers:
            self.callers[prefix] = Caller(prefix, incarnation)
        return self.callers[prefix]

    def publishes(
        self,
        count: int = 1,
        *,
        caller: int = 1,
        urgent: bool = False,
        level: Durability = Durability.JOURNALED,
        as_it_came: bool = True,
        frames: tuple[bytes, ...] = (),
        gap: int = 0,
        **fields: Any,
    ) -> list[Task]:
        """Calls of one client come together; `gap` sequences are left out before the last of them."""
        one = self.caller(caller)
        calls, tasks = [], []
        for n in range(count):
            sequence = self._last[one.prefix] = self._last.get(one.prefix, 0) + 1 + (gap if n == count - 1 else 0)
            call = m.Call(sequence, "t", "q", 0, Flag.NONE, b"body", len(frames), None)._replace(**fields)
            calls.append(list(call))
            _, name, queue, priority, flags, body, _, options = call
            tasks.append(Task(ids.stamp(one.prefix, sequence), name, queue, priority, flags, body, frames, options))
        self.open.update({task.task_id: task for task in tasks})
        raw = codec.encode(m.Publish(False, calls)) if as_it_came else None
        size = sum(task.body_bytes for task in tasks)
        self.ledger.published(one, calls, raw, tasks, size, level, self.now, urgent=urgent)
        return tasks

    def publishes_block(self, count: int, *, caller: int = 1, urgent: bool = True) -> Block:
        """The same, as a batch that need not be in memory."""
        one = self.caller(caller)
        first = self._last.get(one.prefix, 0) + 1
        self._last[one.prefix] = first + count - 1
        calls = [list(m.Call(first + n, "t", "q", 0, Flag.NONE, b"body", 0, None)) for n in range(count)]
        block = Block(one.prefix, calls, 4 * count)
        raw = codec.encode(m.Publish(False, calls))
        self.ledger.published(one, calls, raw, block, 4 * count, Durability.JOURNALED, self.now, urgent=urgent)
        return block

    def changes(self, *tasks: Task, urgent: bool = False, **fields: Any) -> None:
        """Tasks are not as they were published."""
        for task in tasks:
            for name, value in fields.items():
                setattr(task, name, value)
            self.ledger.news([task], self.now, urgent=urgent)

    def ends(self, *tasks: Task, body: bytes = b"value", received: bool = False) -> None:
        """Tasks end, and leave an outcome."""
        for task in tasks:
            self.finishes(task)
            kept = task.flags & Flag.KEEP_RESULT != 0
            self.outcomes.put(task.task_id, Stored(Status.SUCCESS, body, (), self.mono_s, kept))
            self.ledger.news([task], self.now)
        if received:
            self.receives(*tasks)

    def ends_ignored(self, *tasks: Task) -> None:
        """Tasks end, and nobody wants to know how."""
        for task in tasks:
            self.finishes(task)
            self.ledger.news([task], self.now)

    def finishes(self, task: Task) -> None:
        task.phase = Phase.DONE
        del self.open[task.task_id]

    def receives(self, *tasks: Task) -> None:
        """Their callers have the outcomes."""
        for task in tasks:
            stored = self.outcomes.received(task.task_id)
            if stored is not None and not stored.kept:
                self.ledger.dropped(task.task_id, self.now)

    def revives(self, task: Task) -> Task:
        """A task that had ended, and is a dead letter in a row of its own, is to run after all."""
        row = self.ledger.also(6, ["letter"], self.now)
        again = Task(task.task_id, task.name, task.queue, task.priority, task.flags, task.body, task.frames, None)
        again.row = NO_ROW
        self.outcomes.forget(task.task_id)
        self.ledger.revived(again, row, self.now)
        self.open[again.task_id] = again
        return again

    # --- what is written ---------------------------------------------------------------------------

    def passes(self, seconds: float) -> Commit | None:
        """Time passes. The commit that is due then; it is under way, or done where there is nothing to write."""
        self.mono_s += seconds
        commit = self.ledger.take(self.now)
        if commit is not None and (commit.rows or commit.removed):
            self.journal.hand(commit)
        elif commit is not None:
            self.ledger.committed(commit.number)
        return commit

    def commits(self) -> list[Batch]:
        """The journal takes the commit under way. What it vouches for."""
        return self.ledger.committed(self.journal.take())[0]

    def fails(self, reason: str = "no space") -> None:
        """The journal can't take the commit under way."""
        assert self.journal.under_way is not None
        self.ledger.failed(self.journal.under_way.number, reason, self.now)

    def settles(self) -> None:
        """The journal takes all that has happened."""
        while not self.ledger.is_settled:
            self.passes(1.0)
            if self.journal.under_way is not None:
                self.commits()

    def live(self) -> dict[int, int]:
        """{row: how many stand in it}"""
        return {number: facts.live for number, facts in self.ledger.rows.by_number.items()}
