"""Long queues: which calls need not be in memory, and how they come back when they are needed (`queue_resident`)."""

from __future__ import annotations

from sys import intern
from typing import Any, Final

from mesh.core.answers import Answers
from mesh.core.dispatch import DAMAGED, Dispatch
from mesh.core.effects import Effect, Fetch
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.ready import Block
from mesh.core.task import Task
from mesh.ids import stamp
from mesh.messages import Buffer, Flag

#: When a row of the journal that could not be read is tried again.
FETCH_AGAIN_S: Final = 1.0
#: Flags with which a call stays in memory.
_SPECIAL: Final = Flag.TRANSIENT | Flag.EARLY_ACK


def block_of(prefix: bytes, calls: list[list[Any]], frames: tuple[Buffer, ...] | list[Any]) -> Block | None:
    """These calls as one block; None where something about them is special."""
    _, _, queue, priority, flags, *_ = calls[0]
    if frames or flags & _SPECIAL or calls[-1][0] - calls[0][0] != len(calls) - 1:
        return None
    if any(call[7] is not None or call[2] != queue or call[3] != priority or call[4] != flags for call in calls):
        return None
    return Block(prefix, calls, sum(len(call[5]) for call in calls))


class Paging:
    """1. Makes tasks of blocks that are needed soon. 2. Has rows read for that. 3. Revokes what is in blocks."""

    def __init__(self, dispatch: Dispatch, answers: Answers, ledger: Ledger, outbox: Outbox) -> None:
        self._dispatch = dispatch
        self._answers = answers
        self._ledger = ledger
        self._outbox = outbox
        #: Tasks in blocks that are not to run.
        self._revoked: set[bytes] = set()
        #: When rows that could not be read are tried again; None where there are none.
        self.fetch_again_mono_s: float | None = None

    def unfold_needed(self) -> list[Effect]:
        """Makes tasks of the blocks that are needed; those that are on disk alone are to be read first."""
        if self.fetch_again_mono_s is not None:
            if self._outbox.now.mono_s < self.fetch_again_mono_s:
                return []
            self.fetch_again_mono_s = None
        effects: list[Effect] = []
        asked = set()
        for block in self._dispatch.needed_blocks():
            if block.calls is not None:
                self._unfold(block, block.calls)
            else:
                block.wanted = True
                if block.row not in asked:
                    asked.add(block.row)
                    effects.append(Fetch(block.row))
        return effects

    def fetched(self, row: int, records: list[Any] | None) -> None:
        """A row has been read again; None where it can't be. Blocks in it that are next become tasks."""
        calls_of = {(prefix, calls[0][0]): calls for prefix, calls, _ in records or ()}
        for queue in self._dispatch.queues.values():
            for first in queue.first_blocks() if queue.paged else ():
                block: Block | None = first if first.wanted else None
                while block is not None and block.row == row:
                    calls = calls_of.get((block.prefix, block.first))
                    if calls is None:
                        self._lose(block)
                    else:
                        self._unfold(block, calls)
                    block = queue.block_behind(block)

    def not_fetched(self, row: int) -> None:
        """A row can't be read now: it is tried again in a while."""
        self.fetch_again_mono_s = self._outbox.now.mono_s + FETCH_AGAIN_S
        for queue in self._dispatch.queues.values():
            for block in queue.first_blocks() if queue.paged else ():
                if block.row == row:
                    block.wanted = False

    def _unfold(self, block: Block, calls: list[list[Any]]) -> None:
        key = block.prefix
        tasks = [
            Task(stamp(key, sequence), intern(name), intern(queue), priority, flags, body, (), None)
            for sequence, name, queue, priority, flags, body, _, _ in calls
        ]
        self._ledger.rows.unfolded(block, tasks)
        self._dispatch.unfold(block, tasks)
        if self._revoked:
            for task in tasks:
                if task.task_id in self._revoked:
                    self._revoked.discard(task.task_id)
                    self._dispatch.finish(task)
                    self._ledger.news([task], self._outbox.now)

    def revoke(self, task_id: bytes) -> None:
        """Ends a task that is in a block. It has its outcome now, and is taken out when the block is unfolded."""
        if task_id not in self._revoked:
            self._revoked.add(task_id)
            self._answers.revoked_unseen(task_id)

    def drop(self, task_id: bytes) -> None:
        """Takes a task out that is in a block, without an outcome, when the block is unfolded."""
        self._revoked.add(task_id)

    def _lose(self, block: Block) -> None:
        """Its row is damaged: its callers are told, instead of waiting for ever."""
        tasks = [
            Task(stamp(block.prefix, sequence), "?", block.queue, block.priority, 0, b"", (), None)
            for sequence in range(block.first, block.last + 1)
        ]
        self._dispatch.body_bytes -= block.body_bytes
        self._ledger.rows.unfolded(block, tasks)
        self._dispatch.unfold(block, tasks)
        for task in tasks:
            self._dispatch.give_up(task, DAMAGED, "its row of the journal is damaged")
