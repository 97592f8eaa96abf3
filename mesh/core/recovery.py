"""How a router that starts learns from its journal, and from the slot pages, what an earlier one has left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mesh.clock import Now
from mesh.core.callers import Caller
from mesh.core.crew import Crew, LivingSlot
from mesh.core.dead_letters import DeadLetters
from mesh.core.dispatch import MAY_HAVE_RUN, REVOKED, Dispatch
from mesh.core.intake import Intake
from mesh.core.ledger import Ledger
from mesh.core.outcomes import Stored
from mesh.core.paging import block_of
from mesh.core.ready import Block
from mesh.core.records import Row, RowKind, outcome_of, task_of
from mesh.core.rows import Facts
from mesh.core.sequences import SequenceSet
from mesh.core.task import Begun, Task
from mesh.ids import PREFIX_BYTES, sequence_of, stamp


class SlotRecord(NamedTuple):
    """What the page of a node says of one of its slots, after all its leases were withdrawn."""

    node: str
    slot: int
    pid: int
    is_alive: bool
    page: str
    withdrawn: int
    #: (task id, lease, when, whether by this process and not one before it)
    beginnings: list[tuple[bytes, int, float, bool]]


class Pages(NamedTuple):
    """What the slot pages say at the start of a router."""

    living: list[LivingSlot]
    #: What was last begun by a process that lives no more.
    begun_by_the_dead: set[bytes]
    #: The host was not started anew since the journal was written: what is in no page has not begun.
    are_complete: bool
    #: Paths of pages of which neither the node nor a slot lives: needed until the journal says what was made of them.
    stale: frozenset[str] = frozenset()
    #: {pid of a node that lives: path of its page}
    keepers: Mapping[int, str] = {}
    #: {task id: when it was last begun}, by whomever.
    begun_mono_s: Mapping[bytes, float] = {}


def pages_of(records: list[SlotRecord], *, are_complete: bool, keepers: Mapping[str, int | None]) -> Pages:
    """Whoever has begun a task last has it. `keepers`: {page: pid of its node, None where that is dead}."""
    last: dict[bytes, tuple[float, int | None, int]] = {}
    for place, record in enumerate(records):
        for task_id, lease, mono_s, by_this in record.beginnings:
            if task_id not in last or mono_s > last[task_id][0]:
                last[task_id] = (mono_s, place if by_this and record.is_alive else None, lease)
    begun: dict[int, dict[bytes, int]] = {}
    for task_id, (_, has_it, lease) in last.items():
        if has_it is not None:
            begun.setdefault(has_it, {})[task_id] = lease
    living = [
        LivingSlot(one.node, one.slot, one.pid, one.page, one.withdrawn, begun.get(place, {}))
        for place, one in enumerate(records)
        if one.is_alive
    ]
    begun_by_the_dead = {task_id for task_id, (_, has_it, _) in last.items() if has_it is None}
    stale = frozenset(path for path, pid in keepers.items() if pid is None) - {one.page for one in living}
    living_keepers = {pid: path for path, pid in keepers.items() if pid is not None}
    begun_mono_s = {task_id: mono_s for task_id, (mono_s, _, _) in last.items()}
    return Pages(living, begun_by_the_dead, are_complete, stale, living_keepers, begun_mono_s)


class Recovered(NamedTuple):
    """What there was, for the log."""

    tasks: int
    running: int
    outcomes: int
    ended: int  #: tasks that may run at most once and may have begun


class Recovery:
    """1. Reads what has become of tasks, then the tasks. 2. Leaves with their slots what these have begun. 3. Gives
    everything else to its queue.
    """

    def __init__(
        self, dispatch: Dispatch, intake: Intake, ledger: Ledger, crew: Crew, dead_letters: DeadLetters
    ) -> None:
        self._dispatch = dispatch
        self._intake = intake
        self._ledger = ledger
        self._crew = crew
        self._dead_letters = dead_letters
        self._gone: dict[bytes, SequenceSet] = {}
        #: {id: row in which it stands}, of what is not as it was published.
        self._stands_in: dict[bytes, int] = {}
        self._outcomes: dict[bytes, Stored] = {}
        self._changed: dict[bytes, Task] = {}
        self._facts: dict[int, Facts] = {}
        self._may_have_run: list[Task] = []
        self._revoked: list[Task] = []
        self._running = 0
        self._pages = Pages([], set(), True)

    def run(self, first_pass: Iterable[Row], tasks: Iterable[Row], pages: Pages, now: Now) -> Recovered:
        """`first_pass` gives all rows but TASKS, `tasks` those; each ascending."""
        self._pages = pages
        for slot in pages.living:
            self._crew.stands_in(slot)
        self._crew.expects(pages.keepers)
        notes = []
        for row in first_pass:
            if row.kind in (RowKind.NOTES, RowKind.CALLERS):
                self._read_notes(row)
                notes.append(row.number)
            elif row.kind == RowKind.CHANGED:
                self._read_changed(row)
            elif row.kind == RowKind.OUTCOMES:
                self._read_outcomes(row, now)
            elif row.kind == RowKind.DEAD:
                self._ledger.recovered_other(row.number)
                self._dead_letters.recover(row.number, row.records)
        for number in notes:
            self._ledger.recovered_note(number, self._gone)
        self._drop_what_is_gone()
        for task in self._changed.values():
            self._take(task, now)
        for row in tasks:
            self._read_tasks(row, now)
        for number in sorted(self._facts):
            self._ledger.recovered_row(number, self._facts[number])
        self._keep_outcomes()
        for task in self._revoked:
            self._dispatch.accept(task, now)
            self._dispatch.give_up(task, REVOKED, "it was revoked before it began")
        for task in self._may_have_run:
            self._dispatch.accept(task, now)
            self._dispatch.give_up(task, MAY_HAVE_RUN, "it had begun and may run at most once, and its slot is gone")
        return Recovered(len(self._dispatch), self._running, len(self._outcomes), len(self._may_have_run))

    # --- what has become of tasks ----------------------------------------------------------------

    def _caller(self, prefix: bytes) -> Caller:
        caller = self._intake.callers.get(prefix)
        if caller is None:
            caller = self._intake.callers[prefix] = Caller(prefix, 0)
        return caller

    def _knows(self, prefix: bytes, first: int, last: int) -> None:
        caller = self._caller(prefix)
        caller.seen.add_range(first, last)
        caller.durable.add_range(first, last)

    def _read_notes(self, row: Row) -> None:
        for prefix, *rest in row.records:
            seen, gone = ([], rest[0]) if row.kind == RowKind.NOTES else rest[1:]
            known = self._gone.setdefault(prefix, SequenceSet())
            for first, last in gone:
                known.add_range(first, last)
            for first, last in [*seen, *gone]:
                self._knows(prefix, first, last)

    def _stands(self, task_id: bytes, number: int, body_bytes: int) -> None:
        """The latest row is the one that counts."""
        earlier = self._stands_in.get(task_id)
        if earlier is not None:
            self._facts[earlier].live -= 1
        self._stands_in[task_id] = number
        prefix, sequence = task_id[:PREFIX_BYTES], sequence_of(task_id)
        self._facts[number].add(prefix, sequence, sequence, body_bytes)
        self._knows(prefix, sequence, sequence)

    def _read_changed(self, row: Row) -> None:
        self._facts[row.number] = Facts()
        for record in row.records:
            task = task_of(record, row.number)
            self._stands(task.task_id, row.number, task.body_bytes)
            self._changed[task.task_id] = task
            self._outcomes.pop(task.task_id, None)  # it was a dead letter and was replayed

    def _read_outcomes(self, row: Row, now: Now) -> None:
        self._facts[row.number] = Facts()
        for record in row.records:
            task_id, stored = outcome_of(record, now)
            self._stands(task_id, row.number, len(stored.body))
            self._changed.pop(task_id, None)
            self._outcomes[task_id] = stored

    def _is_gone(self, task_id: bytes) -> bool:
        gone = self._gone.get(task_id[:PREFIX_BYTES])
        return gone is not None and sequence_of(task_id) in gone

    def _drop_what_is_gone(self) -> None:
        for task_id, number in list(self._stands_in.items()):
            if self._is_gone(task_id):
                self._facts[number].live -= 1
                self._changed.pop(task_id, None)
                self._outcomes.pop(task_id, None)

    def _keep_outcomes(self) -> None:
        for task_id, stored in self._outcomes.items():
            self._ledger.rows.of_outcomes[task_id] = self._stands_in[task_id]
            if stored.custom_id is not None:
                self._intake.custom[stored.custom_id] = task_id
        for task_id, stored in self._outcomes.items():
            self._intake.outcomes.put(task_id, stored)  # where there is no room, the oldest go, and are noted

    # --- tasks -----------------------------------------------------------------------------------

    def _read_tasks(self, row: Row, now: Now) -> None:
        facts = self._facts[row.number] = Facts()
        for prefix, calls, frames in row.records:
            if not calls:
                continue
            self._knows_calls(prefix, calls)
            block = self._as_block(prefix, calls, frames)
            if block is not None:
                block.row, block.calls = row.number, None
                facts.add_block(block)
                self._dispatch.accept_block(block, now)
                continue
            at = 0
            for sequence, name, queue, priority, flags, body, n_frames, options in calls:
                own = tuple(frames[at : at + n_frames])
                at += n_frames
                task_id = stamp(prefix, sequence)
                task = Task(task_id, name, queue, priority, flags, body, own, options)
                facts.add(prefix, sequence, sequence, task.body_bytes)
                if task_id in self._stands_in or self._is_gone(task_id):
                    facts.live -= 1
                    continue
                task.row = row.number
                self._take(task, now)

    def _knows_calls(self, prefix: bytes, calls: list[list[Any]]) -> None:
        first, last = calls[0][0], calls[-1][0]
        if last - first == len(calls) - 1:
            self._knows(prefix, first, last)
        else:
            for call in calls:
                self._knows(prefix, call[0], call[0])

    def _as_block(self, prefix: bytes, calls: list[list[Any]], frames: list[Any]) -> Block | None:
        """As `Intake` pages out, where nothing of it has changed."""
        block = block_of(prefix, calls, frames) if self._dispatch.wants_paging(calls[0][2]) else None
        if block is None or (prefix in self._gone and self._gone[prefix].common_with([[block.first, block.last]])):
            return None
        begun = self._intake.begun_elsewhere
        ids = [stamp(prefix, sequence) for sequence in range(block.first, block.last + 1)]
        return None if any(one in self._stands_in or one in begun for one in ids) else block

    def _take(self, task: Task, now: Now) -> None:
        if task.custom_id is not None:
            self._intake.custom[task.custom_id] = task.task_id
        runs = self._intake.begun_elsewhere.pop(task.task_id, None)
        is_over = 0.0 < task.closed_mono_s >= self._pages.begun_mono_s.get(task.task_id, 0.0)
        if runs is not None and not is_over:
            self._running += 1
            self._dispatch.accept_running(task, *runs)
            return
        unknown = task.begun == Begun.MAYBE_ANYWHERE or not self._pages.are_complete
        if task.begun and (unknown or (task.task_id in self._pages.begun_by_the_dead and not is_over)):
            self._may_have_run.append(task)
            return
        task.begun = Begun.NO
        if task.revoked:
            self._revoked.append(task)
            return
        self._dispatch.accept(task, now)
