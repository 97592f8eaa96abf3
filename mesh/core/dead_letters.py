"""Tasks that were given up: kept, with what happened to them, until somebody replays or purges them (DESIGN D6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from mesh.core.dispatch import CRASHED, DAMAGED, NODE_LOST
from mesh.core.records import task_of, task_record
from mesh.core.task import MAX_CAUSES, NO_ROW, Begun, Task
from mesh.messages import Flag

#: What a dead letter takes beside its body, about.
ENTRY_BYTES: Final = 1024
#: What stands in the causes of a task where it was replayed.
REPLAYED: Final = "replayed"
#: Their reason is what ended each delivery, which the task's own causes tell already.
_TOLD_BY_CAUSES: Final = (CRASHED, NODE_LOST)


class DeadLetter(NamedTuple):
    """One task that was given up."""

    task: Task
    cause: str  #: in a word or two, as `dispatch` and `messages.Unrunnable` have them
    reason: str  #: the same in full
    died_wall_s: float
    row: int  #: of the journal; 0 where it is in none

    @property
    def size(self) -> int:
        """What it takes of the room."""
        return self.task.body_bytes + ENTRY_BYTES

    @property
    def ids(self) -> tuple[bytes | str, ...]:
        """The names it goes by."""
        custom = self.task.custom_id
        return (self.task.task_id,) if custom is None else (self.task.task_id, custom)

    @property
    def can_be_replayed(self) -> bool:
        """Its arguments are there."""
        return self.cause != DAMAGED

    @property
    def history(self) -> list[str]:
        """What ended each delivery that is to be told of, oldest first, and where it was replayed."""
        causes = list(self.task.causes or ())
        return causes if causes and self.cause in _TOLD_BY_CAUSES else [*causes, self.reason]

    def facts(self) -> dict[str, Any]:
        """What is told of it."""
        task = self.task
        return {
            "id": task.task_id,
            "custom_id": task.custom_id,
            "name": task.name,
            "queue": task.queue,
            "priority": task.priority,
            "cause": self.cause,
            "reason": self.reason,
            "causes": self.history,
            "attempts": task.attempt,
            "crashes": task.crashes,
            "losses": task.losses,
            "died_wall_s": self.died_wall_s,
            "body_bytes": task.body_bytes,
        }


class Chosen(NamedTuple):
    """Which dead letters are meant: those for which everything that is said holds."""

    ids: frozenset[bytes | str] | None = None  #: ids or custom ids
    name: str | None = None  #: of the task
    cause: str | None = None  #: its word, or any part of the reason
    since_wall_s: float | None = None
    until_wall_s: float | None = None

    def includes(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        task = letter.task
        return (
            (self.ids is None or not self.ids.isdisjoint(letter.ids))
            and (self.name is None or task.name == self.name)
            and (self.cause is None or self.cause.casefold() in f"{letter.cause}: {letter.reason}".casefold())
            and (self.since_wall_s is None or letter.died_wall_s >= self.since_wall_s)
            and (self.until_wall_s is None or letter.died_wall_s <= self.until_wall_s)
        )


class DeadLetters:
    """1. Keeps what was given up, within bounds: the oldest go. 2. Finds and hands it out again."""

    def __init__(self, max_letters: int, max_bytes: int, on_gone: Callable[[DeadLetter], None]) -> None:
        self.max_letters = max_letters
        self.max_bytes = max_bytes
        #: Called with each that is kept no longer.
        self._on_gone = on_gone
        #: {task id: letter}, oldest first.
        self._letters: dict[bytes, DeadLetter] = {}
        self.kept_bytes = 0
        #: How many had to go because there was no room.
        self.crowded_out = 0

    def add(self, letter: DeadLetter) -> None:
        """Keeps one more, where there is room for it at all."""
        self.take([letter.task.task_id])
        if letter.size > self.max_bytes or not self.max_letters:
            self.crowded_out += 1
            self._on_gone(letter)
            return
        self._letters[letter.task.task_id] = letter
        self.kept_bytes += letter.size
        while len(self._letters) > self.max_letters or self.kept_bytes > self.max_bytes:
            self.crowded_out += 1
            self.take([next(iter(self._letters))])

    def select(self, chosen: Chosen) -> list[DeadLetter]:
        """Those that are meant, oldest first."""
        return [letter for letter in self._letters.values() if chosen.includes(letter)]

    def take(self, ids: Iterable[bytes]) -> list[DeadLetter]:
        """Removes and returns what there is of these."""
        taken = []
        for task_id in ids:
            letter = self._letters.pop(task_id, None)
            if letter is not None:
                self.kept_bytes -= letter.size
                self._on_gone(letter)
                taken.append(letter)
        return taken

    def revive(self, task_id: bytes) -> DeadLetter:
        """Removes and returns one that becomes a task again."""
        letter = self._letters.pop(task_id)
        self.kept_bytes -= letter.size
        return letter

    def __len__(self) -> int:
        return len(self._letters)

    # --- the journal -----------------------------------------------------------------------------

    def recover(self, row: int, records: list[Any]) -> None:
        """Keeps what a row of the journal says."""
        task, cause, reason, died_wall_s = records
        self.add(DeadLetter(task_of(task, NO_ROW), cause, reason, died_wall_s, row))

    def check(self) -> None:
        """Raises AssertionError where a bound is passed or the bytes don't add up."""
        assert len(self._letters) <= self.max_letters
        assert self.kept_bytes == sum(letter.size for letter in self._letters.values())
        assert self.kept_bytes <= self.max_bytes


def letter_record(task: Task, cause: str, reason: str, died_wall_s: float) -> list[Any]:
    """What a row of the journal says."""
    return [task_record(task), cause, reason, died_wall_s]


def replayed(letter: DeadLetter) -> Task:
    """The task as it is run again: at once, under its id, with its history, and with fresh budgets."""
    task = task_of(task_record(letter.task), NO_ROW)
    task.crashes = task.losses = 0
    task.causes = [*letter.history, REPLAYED][-MAX_CAUSES:]
    task.retry_reason = b""
    task.flags = (task.flags | Flag.REDELIVERED) & ~Flag.RECEIVED
    task.begun = Begun.NO
    if task.options is not None:
        task.options = {key: value for key, value in task.options.items() if key not in ("eta", "expires")}
    return task
