"""Which id stands in which row of the journal, by its task or its outcome; and the rows of a commit, as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mesh.clock import Now
from mesh.core.outcomes import Stored
from mesh.core.ready import Block
from mesh.core.records import ITEM_BYTES, Row, RowKind, outcome_record, task_record
from mesh.core.sequences import SequenceSet
from mesh.core.task import Task
from mesh.ids import PREFIX_BYTES, sequence_of, stamp
from mesh.messages import Flag

#: A row of a commit that has so much takes nothing more; SQLite knows no longer ones than a billion bytes.
ROW_BYTES: Final = 64 << 20


class Facts:
    """What is known of a row with tasks or outcomes."""

    __slots__ = ("body_bytes", "live", "paged", "spans", "written")

    def __init__(self) -> None:
        #: (client prefix, first, last) of the ids that were written here; some stand in a later row, or nowhere.
        self.spans: list[tuple[bytes, int, int]] = []
        #: How many that are, and their bytes.
        self.written = self.body_bytes = 0
        #: How many stand here.
        self.live = 0
        #: Of these, in blocks.
        self.paged = 0

    @property
    def dead_bytes(self) -> int:
        """Bytes of what does not stand here any more, on average."""
        return self.body_bytes * (self.written - self.live) // self.written if self.written else 0

    def add(self, prefix: bytes, first: int, last: int, body_bytes: int) -> None:
        """Ids are written here, and stand here."""
        size = last - first + 1
        self.live += size
        self.written += size
        self.body_bytes += body_bytes + ITEM_BYTES * size
        if self.spans:
            known, before, end = self.spans[-1]
            if end + 1 == first and known == prefix:
                self.spans[-1] = (prefix, before, last)
                return
        self.spans.append((prefix, first, last))

    def add_block(self, block: Block) -> None:
        """A block is written here, and stands here."""
        self.add(block.prefix, block.first, block.last, block.body_bytes)
        self.paged += len(block)


def changed_bytes(task: Task) -> int:
    """What a task that has changed takes of a row: with its body, why it was run again."""
    return task.body_bytes + len(task.retry_reason) + sum(map(len, task.causes or ()))


class Rows:
    """1. Numbers rows. 2. Knows what stands in each, and which are empty. 3. Knows how much they hold, and how much of
    it is dead.
    """

    def __init__(self) -> None:
        self._last_row = 0
        #: {number: row}, ascending. Exactly the rows with tasks or outcomes, the commit under way included.
        self.by_number: dict[int, Facts] = {}
        #: {task id: row} of outcomes.
        self.of_outcomes: dict[bytes, int] = {}
        #: Rows in which nothing stands any more.
        self.empty = SequenceSet()
        self.written_bytes = 0
        #: Ids that have left their rows; who looks at the dead bytes sets it back.
        self.left = 0
        #: The rows that a commit is being made of.
        self._page: Page | None = None

    def new_row(self) -> int:
        """The number of one more row."""
        self._last_row += 1
        return self._last_row

    def known(self, number: int) -> None:
        """A row was read: new ones have higher numbers."""
        self._last_row = max(self._last_row, number)

    def wrote(self, number: int, facts: Facts) -> bool:
        """A row with tasks or outcomes is to be written; False where nothing stands in it already."""
        if not facts.live:
            self.by_number.pop(number, None)
            return False
        self.by_number[number] = facts
        self.written_bytes += facts.body_bytes
        return True

    def unfolded(self, block: Block, tasks: list[Task]) -> None:
        """A block is tasks from here on."""
        for task in tasks:
            task.row = block.row
        if block.row:
            self.by_number[block.row].paged -= len(block)

    def leave(self, number: int, count: int = 1) -> None:
        """So many ids do not stand in this row any more."""
        facts = self.by_number[number]
        facts.live -= count
        self.left += count
        if not facts.live and not (self._page is not None and self._page.is_filling(number)):
            self.written_bytes -= facts.body_bytes
            del self.by_number[number]
            self.empty.add(number)

    @property
    def dead_bytes(self) -> int:
        """Bytes of what does not stand any more where it was written."""
        return sum(facts.dead_bytes for facts in self.by_number.values())

    def standing_in(self, number: int, open_tasks: dict[bytes, Task]) -> Iterator[bytes]:
        """The ids that stand in a row without blocks."""
        for prefix, first, last in self.by_number[number].spans:
            for sequence in range(first, last + 1):
                task_id = stamp(prefix, sequence)
                task = open_tasks.get(task_id)
                if (task is not None and task.row == number) or self.of_outcomes.get(task_id) == number:
                    yield task_id

    def mentioned(self) -> dict[bytes, SequenceSet]:
        """{client prefix: sequences that stand, or stood, in the rows that are there}."""
        mentioned: dict[bytes, SequenceSet] = {}
        for facts in self.by_number.values():
            for prefix, first, last in facts.spans:
                mentioned.setdefault(prefix, SequenceSet()).add_range(first, last)
        return mentioned

    # --- the rows of one commit ------------------------------------------------------------------

    def turn_over(self) -> Page:
        """A page for a commit that is being made."""
        self._page = Page(self)
        return self._page

    def close(self, page: Page) -> list[Row]:
        """All rows of the page in which something stands."""
        self._page = None
        return page.rows()

    def check(self) -> None:
        """Raises AssertionError where counts are off."""
        assert self.written_bytes == sum(facts.body_bytes for facts in self.by_number.values())
        for number, facts in self.by_number.items():
            assert 0 < facts.live <= facts.written, (number, facts.live, facts.written)


class Page:
    """The rows of one commit, while they are being filled."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        #: Bodies that were added but those of batches.
        self.body_bytes = 0
        self._filled: dict[RowKind, tuple[int, Facts, list[Any]]] = {}
        #: Rows that take nothing more: (kind, number, facts, records).
        self._full: list[tuple[RowKind, int, Facts, list[Any]]] = []
        self._numbers: set[int] = set()
        #: It says of a task that is to survive power loss that it may have begun, and that may happen once.
        self.must_be_synced = False

    def is_filling(self, number: int) -> bool:
        """Whether this is one of its rows."""
        return number in self._numbers

    def _row(self, kind: RowKind) -> tuple[int, Facts, list[Any]]:
        found = self._filled.get(kind)
        if found is not None and found[1].body_bytes >= ROW_BYTES:
            self._full.append((kind, *found))
            found = None
        if found is None:
            number = self._rows.new_row()
            found = self._filled[kind] = (number, Facts(), [])
            self._numbers.add(number)
            # Known at once: what is added may leave it before the commit is handed out.
            self._rows.by_number[number] = found[1]
        return found

    def tasks_row(self) -> tuple[int, Facts]:
        """Where tasks are written as they were published."""
        return self._row(RowKind.TASKS)[:2]

    def add_batch(self, prefix: bytes, calls: bytes | list[list[Any]], tasks: list[Task]) -> None:
        """A batch of tasks whose ids are in the facts of that row."""
        frames = [frame for task in tasks if task.frames for frame in task.frames]
        self._row(RowKind.TASKS)[2].append([prefix, calls, frames])

    def add_block(self, calls: bytes | list[list[Any]], block: Block) -> None:
        """A batch that need not be in memory."""
        number, facts, records = self._row(RowKind.TASKS)
        block.row = number
        facts.add_block(block)
        records.append([block.prefix, calls, []])

    def add_changed(self, task: Task) -> None:
        """A task as it has become, or that has to move."""
        number, facts, records = self._row(RowKind.CHANGED)
        task.row = number
        self._add(facts, task.task_id, changed_bytes(task))
        records.append(task_record(task))
        self.must_be_synced |= bool(task.begun and task.flags & Flag.SYNCED)

    def add_outcome(self, task_id: bytes, stored: Stored, now: Now) -> None:
        """An outcome that must outlive the router."""
        number, facts, records = self._row(RowKind.OUTCOMES)
        self._rows.of_outcomes[task_id] = number
        self._add(facts, task_id, stored.body_bytes)
        records.append(outcome_record(task_id, stored, now.wall_s - (now.mono_s - stored.stored_mono_s)))

    def rows(self) -> list[Row]:
        """All in which something stands."""
        filled = [*self._full, *((kind, *row) for kind, row in self._filled.items())]
        filled.sort(key=lambda row: row[1])
        return [
            Row(number, kind, records) for kind, number, facts, records in filled if self._rows.wrote(number, facts)
        ]

    def _add(self, facts: Facts, task_id: bytes, body_bytes: int) -> None:
        sequence = sequence_of(task_id)
        facts.add(task_id[:PREFIX_BYTES], sequence, sequence, body_bytes)
        self.body_bytes += body_bytes
