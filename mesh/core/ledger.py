"""What is to be on disk: gathers what happened, leaves out what needs no recovery any more, hands out commits (D12).

Every id has a row in which it stands: first its task, as published or as it has become; then its outcome, where that
must outlive the router; at last none. A row goes when nothing stands in it. Rows of which little is left are written
anew.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Final, TypeAlias

from mesh.clock import Now
from mesh.core.callers import Caller
from mesh.core.effects import Commit
from mesh.core.notes import Notes
from mesh.core.outcomes import OutcomeStore
from mesh.core.ready import Block
from mesh.core.records import Row
from mesh.core.rows import Facts, Page, Rows, changed_bytes
from mesh.core.sequences import SequenceSet, spans
from mesh.core.task import NO_ROW, REVIVED, Task
from mesh.messages import Durability, Flag
from mesh.states import Phase

_DONE: Final = Phase.DONE
_KEEP_RESULT: Final = Flag.KEEP_RESULT
#: Of a task with one of these more may be left than that it was here, once its caller has the outcome.
_NOT_JUST_OVER: Final = Flag.KEEP_RESULT | Flag.IGNORE_RESULT
#: How long what happened may wait for more to join it, where nobody waits for a confirm. What ends meanwhile, and is
#: received by its caller, is never written.
LINGER_S: Final = 0.02
#: The same for what has become of a task. Longer, since nobody waits for it but the slot, which keeps the outcome
#: meanwhile: most callers have told by then that they have it.
NEWS_LINGER_S: Final = 0.1
#: Tasks of which there are news that may wait so long. Where there are more the older half is written at once: a slot
#: that has no receipts for too many outcomes begins nothing more.
NEWS_MAX: Final = 2048
#: How long news that only save space may wait.
LAZY_S: Final = 1.0
#: Calls and body bytes of one commit; more go into the next.
COMMIT_CALLS: Final = 8192
COMMIT_BYTES: Final = 16 << 20
#: Largest body that is journaled: a row holds it whole, and SQLite knows no longer ones than a billion bytes.
JOURNALED_BYTES_MAX: Final = 512 << 20
#: A commit that failed is tried again after this time, doubled each time.
RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 5.0
#: Bytes that may wait for a slow disk; beyond it calls are refused.
WAITING_BYTES_MAX: Final = 256 << 20
#: Dead bytes on disk that are no reason to write anything again.
SLACK_BYTES: Final = 16 << 20
#: Live bytes that one commit writes again at most.
MOVE_BYTES: Final = 1 << 20
#: Whether there is so much is looked at after so many ids have left their rows.
LOOK_AFTER: Final = 1 << 14
#: Ids and rows that one commit looks at for that.
TIDY_IDS: Final = 1 << 14
TIDY_ROWS: Final = 1024


class Batch:
    """Calls of one client that came together and are not on disk."""

    __slots__ = ("block", "body_bytes", "caller", "calls", "due_mono_s", "level", "raw", "tasks")

    def __init__(
        self,
        caller: Caller,
        calls: list[list[Any]],
        raw: bytes | None,
        held: list[Task] | Block,
        body_bytes: int,
        level: Durability,
        due_mono_s: float,
    ) -> None:
        self.caller = caller
        self.calls = calls
        #: The message with exactly these calls, as it came; None where it had others too.
        self.raw = raw
        self.block = held if isinstance(held, Block) else None
        #: One for each of `calls`; empty while they are a block.
        self.tasks = [] if isinstance(held, Block) else held
        self.body_bytes = body_bytes
        self.level = level
        self.due_mono_s = due_mono_s

    def settle(self) -> None:
        """It may have become tasks meanwhile."""
        if self.block is not None and self.block.tasks is not None:
            self.tasks, self.block = self.block.tasks, None


#: (when it is to be written, tasks, id): tasks have ended, or are not as they were; or one has ended that only its slot
#: knew, and that has this id.
News: TypeAlias = tuple[float, list[Task], bytes]
#: Ids of which nothing is needed any more, and the row of each.
Over: TypeAlias = tuple[list[bytes], list[int]]


class Ledger:
    """1. Gathers what is to be written. 2. Hands out one commit at a time, and knows what it vouches for. 3. Knows what
    stands in which row, and lets rows go.
    """

    def __init__(self, open_tasks: dict[bytes, Task], outcomes: OutcomeStore, callers: dict[bytes, Caller]) -> None:
        #: To be read.
        self._open = open_tasks
        self._outcomes = outcomes
        # What has happened and is in no commit yet.
        self._batches: deque[Batch] = deque()
        self._news: deque[News] = deque()
        #: How many tasks that are.
        self._n_news = 0
        #: {number: row} of `also`, not written yet.
        self._others: dict[int, Row] = {}
        self._waiting_bytes = 0
        self._due_mono_s: float | None = None
        #: When notes are due that only say that an id was here; None where there are none.
        self._lazy_due_mono_s: float | None = None
        self._urgent = False
        #: The router ends: nothing may wait any more.
        self._ends = False
        # The commit under way, and what it vouches for.
        self._under_way: Commit | None = None
        self._vouched: list[Batch] = []
        self._covers = 0
        #: Why the disk takes nothing; empty while it does.
        self.failing = ""
        self._retry_s = 0.0
        self._retry_mono_s = 0.0
        #: How many news there have been, and how many of the first of them the disk holds.
        self.told = 0
        self._covered = 0
        # What is there.
        self.commits = 0
        self.rows = Rows()
        self._notes = Notes(self.rows, callers)
        #: {task id: rows of its dead letters, oldest first}. Exactly what was revived and is in no commit yet.
        self._letter_rows: dict[bytes, list[int]] = {}
        #: Rows to be looked at because much is dead, descending.
        self._to_tidy: list[int] = []

    # --- what happens ----------------------------------------------------------------------------

    @property
    def refusal(self) -> str:
        """Why no call can be taken that is to be on disk; empty where it can."""
        if self.failing:
            return self.failing
        if self._waiting_bytes > WAITING_BYTES_MAX:
            return "the disk is too slow for what comes in"
        return ""

    def published(
        self,
        caller: Caller,
        calls: list[list[Any]],
        raw: bytes | None,
        held: list[Task] | Block,
        body_bytes: int,
        level: Durability,
        now: Now,
        *,
        urgent: bool,
    ) -> None:
        """Calls were accepted that are to be on disk. `held` is what was made of them: a task each, or one block."""
        batch = Batch(caller, calls, raw, held, body_bytes, level, now.mono_s + LINGER_S)
        self._batches.append(batch)
        self._waiting_bytes += body_bytes
        self._by(now.mono_s if urgent else batch.due_mono_s, urgent=urgent)

    def news(self, tasks: list[Task], now: Now, *, urgent: bool = False) -> None:
        """Tasks have ended, or are not as they were published."""
        tasks = [task for task in tasks if task.row != NO_ROW]
        if tasks:
            self._hear(tasks, b"", now.mono_s if urgent else now.mono_s + NEWS_LINGER_S, urgent=urgent)

    def news_of_lost(self, task_id: bytes, now: Now) -> None:
        """A task has ended that only its slot knew."""
        self._hear([], task_id, now.mono_s + NEWS_LINGER_S, urgent=False)

    def _hear(self, tasks: list[Task], lost_id: bytes, due_mono_s: float, *, urgent: bool) -> None:
        self.told += 1
        self._news.append((due_mono_s, tasks, lost_id))
        self._n_news += len(tasks)
        if self._n_news > NEWS_MAX:
            due_mono_s = 0.0
        if urgent or self._due_mono_s is None or due_mono_s < self._due_mono_s:
            self._by(due_mono_s, urgent=urgent)

    def revived(self, task: Task, letter_row: int, now: Now) -> None:
        """A task that had ended, and of which no outcome is kept any more, is to run after all, under its id.

        Its dead letter goes when that is written.
        """
        task.row = REVIVED
        self._letter_rows.setdefault(task.task_id, []).append(letter_row)
        self.news([task], now)

    def _write_revival(self, task_id: bytes, now: Now) -> None:
        """Instead of its dead letter there is the task again; nor is it gone, as earlier news of it may have said."""
        letter_row, *later = self._letter_rows.pop(task_id)
        if later:  # it has died again meanwhile, and was revived again
            self._letter_rows[task_id] = later
        self.remove(letter_row, now)
        self._notes.is_back(task_id)

    def dropped(self, task_id: bytes, now: Now) -> None:
        """An outcome need not be kept: its caller has it, or it had to make room."""
        row = self.rows.of_outcomes.pop(task_id, None)
        if row is not None:
            self.rows.leave(row)
            self._notes.is_gone(task_id)
            self._by(now.mono_s + LAZY_S)

    def also(self, kind: int, records: list[Any], now: Now) -> int:
        """Something else is to be written, in a row of its own. Returns the row's number."""
        number = self.rows.new_row()
        self._others[number] = Row(number, kind, records)
        self._by(now.mono_s + LINGER_S)
        return number

    def remove(self, row: int, now: Now) -> None:
        """A row of `also` is needed no more."""
        if self._others.pop(row, None) is None:
            self.rows.empty.add(row)
            self._by(now.mono_s + LINGER_S)

    def _by(self, mono_s: float, *, urgent: bool = False) -> None:
        self._urgent = self._urgent or urgent
        if self._due_mono_s is None or mono_s < self._due_mono_s:
            self._due_mono_s = mono_s

    def holds(self, told: int) -> bool:
        """Whether the disk holds the first `told` news, as far as it must; a disk that fails is not waited for."""
        return self._covered >= told or bool(self.failing)

    def has(self, told: float) -> bool:
        """Whether the disk holds the first `told` news."""
        return self._covered >= told

    # --- commits ---------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Nothing that happened waits for the disk."""
        return self._due_mono_s is None and self._under_way is None

    def next_deadline_mono_s(self) -> float | None:
        """When `take` has something. While a commit is under way its answer comes first."""
        if self._under_way is not None:
            return self._retry_mono_s if self.failing and self._retry_mono_s != float("inf") else None
        return self._due_mono_s

    def hurry(self, *, ends: bool = False) -> None:
        """Everything is to be written at once. `ends`: also what a later router only needs to know."""
        self._ends = ends
        if self._due_mono_s is not None:
            self._by(0.0, urgent=True)

    def take(self, now: Now) -> Commit | None:
        """The next commit, where one is due. Its answer, by `committed` or `failed`, must come before the next."""
        if self._under_way is not None:
            if not self.failing or now.mono_s < self._retry_mono_s:
                return None
            self._retry_mono_s = float("inf")
            return self._under_way
        if self._due_mono_s is None or now.mono_s < self._due_mono_s:
            return None
        upto_mono_s = float("inf") if self._urgent else now.mono_s
        self._due_mono_s, self._urgent = None, False
        page = self.rows.turn_over()
        self._take_batches(page, upto_mono_s, now)
        self._take_news(page, max(upto_mono_s, self._crowded_out_mono_s()), now)
        self._tidy(page, now)
        rows = self.rows.close(page) + list(self._others.values()) + self._notes.take(lazy=self._lazy_is_due(now))
        self._others = {}
        removed = self.rows.empty.take()
        if not rows and not removed and not self._vouched:
            self._covered = self.told - len(self._news)
            return None
        self.commits += 1
        self._covers = self.told - len(self._news)
        synced = page.must_be_synced or any(batch.level is Durability.SYNCED for batch in self._vouched)
        self._under_way = Commit(self.commits, rows, removed, synced)
        return self._under_way

    def _crowded_out_mono_s(self) -> float:
        """Until when news are to be written that could wait longer, were there fewer."""
        return self._news[len(self._news) // 2][0] if self._n_news > NEWS_MAX else 0.0

    def _lazy_is_due(self, now: Now) -> bool:
        due_mono_s = self._lazy_due_mono_s
        if due_mono_s is None:
            return False
        if now.mono_s < due_mono_s and not self._ends:
            self._by(due_mono_s)
            return False
        self._lazy_due_mono_s = None
        return True

    def committed(self, number: int) -> tuple[list[Batch], bool]:
        """The disk holds this commit. Which batches may be confirmed, and whether it survives power loss."""
        commit = self._under_way
        if commit is None or number != commit.number:
            return [], False
        self._under_way, self.failing, self._retry_s = None, "", 0.0
        self._covered = self._covers
        vouched, self._vouched = self._vouched, []
        self._waiting_bytes -= sum(batch.body_bytes for batch in vouched)
        for batch in vouched:
            if batch.block is not None and batch.block.tasks is None:
                batch.block.calls = None  # it is read again when it is needed
        return vouched, commit.synced

    def failed(self, number: int, reason: str, now: Now) -> list[Batch]:
        """The disk does not hold this commit: it is tried again after a while. Which batches wait for it."""
        if self._under_way is None or number != self._under_way.number:
            return []
        vouched = self._vouched if not self.failing else []
        self.failing = reason
        self._retry_s = min(max(2 * self._retry_s, RETRY_S), RETRY_MAX_S)
        self._retry_mono_s = now.mono_s + self._retry_s
        return vouched

    # --- what a commit says ----------------------------------------------------------------------

    def _take_batches(self, page: Page, upto_mono_s: float, now: Now) -> None:
        n_calls = n_bytes = 0
        batches = self._batches
        while batches and batches[0].due_mono_s <= upto_mono_s:
            if n_calls >= COMMIT_CALLS or n_bytes >= COMMIT_BYTES:
                self._by(now.mono_s, urgent=True)
                return
            batch = batches.popleft()
            batch.settle()
            self._vouched.append(batch)
            n_calls += len(batch.calls)
            n_bytes += batch.body_bytes
            self._are_durable(batch)
            if batch.block is not None:
                page.add_block(batch.raw or batch.calls, batch.block)
            else:
                self._take_tasks(page, batch, now)
        if batches:
            self._by(now.mono_s + LINGER_S)  # not each when it is due: what is near waits for what is nearer

    @staticmethod
    def _are_durable(batch: Batch) -> None:
        for first, last in spans(batch.calls):
            batch.caller.durable.add_range(first, last)

    def _take_tasks(self, page: Page, batch: Batch, now: Now) -> None:
        """Writes what has not ended of a batch, and of what has ended the outcome where it is needed."""
        if any(task.phase is _DONE for task in batch.tasks):
            self._take_open_tasks(page, batch, now)
            return
        number, facts = page.tasks_row()
        for task in batch.tasks:
            task.row = number
        calls, prefix = batch.calls, batch.caller.prefix
        page.add_batch(prefix, batch.raw or calls, batch.tasks)
        if calls[-1][0] - calls[0][0] == len(calls) - 1:
            facts.add(prefix, calls[0][0], calls[-1][0], batch.body_bytes)
        else:
            for call, task in zip(calls, batch.tasks, strict=True):
                facts.add(prefix, call[0], call[0], task.body_bytes)

    def _take_open_tasks(self, page: Page, batch: Batch, now: Now) -> None:
        calls, tasks = [], []
        unreceived, over = self._outcomes.unreceived, []
        for call, task in zip(batch.calls, batch.tasks, strict=True):
            if task.phase is _DONE:
                if task.flags & _NOT_JUST_OVER or task.task_id in unreceived:
                    self._write_end(page, task.task_id, task, now)
                else:  # most, where calls are answered as fast as they come
                    over.append(task.task_id)
                    task.row = NO_ROW
                continue
            calls.append(call)
            tasks.append(task)
            number, facts = page.tasks_row()
            facts.add(batch.caller.prefix, call[0], call[0], task.body_bytes)
            task.row = number
        if calls:
            page.add_batch(batch.caller.prefix, calls, tasks)
        if over:
            self._were_here(over, now)

    def _were_here(self, task_ids: list[bytes], now: Now) -> None:
        """They ended, and were received, before they were ever written: of that a later router only needs to know."""
        self._notes.were_here(task_ids)
        if self._lazy_due_mono_s is None:
            self._lazy_due_mono_s = now.mono_s + LAZY_S

    def _take_news(self, page: Page, upto_mono_s: float, now: Now) -> None:
        news = self._news
        over: Over = ([], [])
        while news and news[0][0] <= upto_mono_s:
            due_mono_s, tasks, lost_id = news[0]
            if lost_id and page.body_bytes >= COMMIT_BYTES:
                break
            self._n_news -= len(tasks)
            others = self._without_what_is_over(tasks, over)
            if others or lost_id:
                self._are_over(over)
                if lost_id:
                    self._write_end(page, lost_id, None, now)
                others = self._write_news(page, others, now)
                if others:
                    news[0] = (due_mono_s, others, b"")
                    self._n_news += len(others)
                    break
            news.popleft()
        self._are_over(over)
        if news:
            full = page.body_bytes >= COMMIT_BYTES
            self._by(now.mono_s if full else now.mono_s + LINGER_S, urgent=full and upto_mono_s == float("inf"))

    def _without_what_is_over(self, tasks: list[Task], over: Over) -> list[Task]:
        """Puts aside those that are on disk and of which nothing is needed any more: by far the most.

        Returns the others of which something is to be written.
        """
        unreceived, (ids, rows), others = self._outcomes.unreceived, over, []
        for task in tasks:
            if task.row > 0 and task.phase is _DONE and not (task.flags & _KEEP_RESULT or task.task_id in unreceived):
                ids.append(task.task_id)
                rows.append(task.row)
                task.row = NO_ROW
            elif task.row != NO_ROW:
                others.append(task)
        return others

    def _are_over(self, over: Over) -> None:
        """Nothing is needed of these ids, which stood in these rows."""
        ids, rows = over
        if not ids:
            return
        self._notes.are_gone(ids)
        for row, count in Counter(rows).items():
            self.rows.leave(row, count)
        ids.clear()
        rows.clear()

    def _write_news(self, page: Page, tasks: list[Task], now: Now) -> list[Task]:
        """Says what has become of tasks. Returns those for which it is too early, or this commit has no room."""
        for at, task in enumerate(tasks):
            if page.body_bytes >= COMMIT_BYTES or task.row == 0:  # its batch, too much for this commit, goes first
                return tasks[at:]
            if task.row == REVIVED:
                self._write_revival(task.task_id, now)
            if task.phase is _DONE:
                self._write_end(page, task.task_id, task, now)
                continue
            if task.row > 0:
                self.rows.leave(task.row)
            self._write_changed(page, task)
        return []

    def _write_changed(self, page: Page, task: Task) -> None:
        if changed_bytes(task) <= JOURNALED_BYTES_MAX:
            page.add_changed(task)
            return
        # It asked to be run again with arguments that no row can hold: it goes on, and dies with the router.
        self._notes.is_gone(task.task_id)
        task.row = NO_ROW
        task.flags |= Flag.TRANSIENT

    def _write_end(self, page: Page, task_id: bytes, task: Task | None, now: Now) -> None:
        stored = self._outcomes.needed(task_id)
        if stored is not None and stored.body_bytes <= JOURNALED_BYTES_MAX:
            if task_id not in self.rows.of_outcomes:
                page.add_outcome(task_id, stored, now)
        elif task is None or task.row or task.flags & Flag.IGNORE_RESULT:
            self._notes.is_gone(task_id)
        else:
            self._were_here([task_id], now)
        if task is not None:
            if task.row > 0:
                self.rows.leave(task.row)
            task.row = NO_ROW

    # --- letting rows go -------------------------------------------------------------------------

    def _tidy(self, page: Page, now: Now) -> None:
        """Where more is dead than lives: writes what is left in the emptiest of the rows again, a part at a time."""
        if not self._to_tidy:
            if self.rows.left < LOOK_AFTER:
                return
            self.rows.left = 0
            if self.rows.dead_bytes <= SLACK_BYTES + self.rows.written_bytes // 2:
                return
            self._to_tidy = sorted(self.rows.by_number, reverse=True)
        moved = looked_at = 0
        for _ in range(min(TIDY_ROWS, len(self._to_tidy))):
            number = self._to_tidy.pop()
            facts = self.rows.by_number.get(number)
            if facts is None or facts.paged or facts.live * 2 > facts.written or page.is_filling(number):
                continue
            looked_at += facts.written
            for task_id in list(self.rows.standing_in(number, self._open)):
                moved += self._move(page, task_id, number, now)
            if moved >= MOVE_BYTES or looked_at >= TIDY_IDS:
                break
        self._by(now.mono_s + LINGER_S)

    def _move(self, page: Page, task_id: bytes, number: int, now: Now) -> int:
        task = self._open.get(task_id)
        if task is not None and task.row == number:
            self.rows.leave(number)
            page.add_changed(task)
            return task.body_bytes
        stored = self._outcomes.get(task_id)
        if stored is None:
            return 0
        self.rows.leave(number)
        page.add_outcome(task_id, stored, now)
        return len(stored.body)

    # --- recovery --------------------------------------------------------------------------------

    def recovered_row(self, number: int, facts: Facts) -> None:
        """A row with tasks or outcomes was read, some of which stand there."""
        self.rows.known(number)
        if not self.rows.wrote(number, facts):
            self.rows.empty.add(number)
            self._by(0.0)

    def recovered_note(self, number: int, gone: dict[bytes, SequenceSet]) -> None:
        """A row of notes or callers was read; `gone` is what all of them said."""
        self._notes.recovered(number, gone)

    def recovered_other(self, number: int) -> None:
        """A row of `also` was read."""
        self.rows.known(number)

    def check(self) -> None:
        """Raises AssertionError where counts are off."""
        assert self._n_news == sum(len(tasks) for _, tasks, _ in self._news)
        assert self._waiting_bytes == sum(one.body_bytes for one in (*self._batches, *self._vouched))
        assert not self._vouched or self._under_way is not None
        self.rows.check()
        standing = {number: facts.paged for number, facts in self.rows.by_number.items()}
        for number in self.rows.of_outcomes.values():
            standing[number] += 1
        # What has ended and is in no commit yet stands there too.
        ended = {id(task): task for _, tasks, _ in self._news for task in tasks if task.phase is Phase.DONE}
        for task in (*self._open.values(), *ended.values()):
            if task.row > 0:
                standing[task.row] += 1
        assert standing == {number: facts.live for number, facts in self.rows.by_number.items()}
