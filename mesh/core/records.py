"""What stands in the rows of the journal: plain values, which the journal packs and unpacks, made and read here.

A row is written once and read in the order of the numbers. Of what rows say about one id the latest holds:
a task as it was published, a task as it has become, its outcome. `gone` stands above them all: nothing is needed of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

from mesh.clock import Now
from mesh.core.outcomes import Stored
from mesh.core.task import Begun, Task
from mesh.messages import Flag

#: What an item takes of a row beside its body, about.
ITEM_BYTES: Final = 64


class RowKind(IntEnum):
    """What a row holds."""

    TASKS = 1  #: [[client prefix, Publish as received or its Call records, frames], ...]
    CHANGED = 2  #: [[id, ...], ...]: tasks that are not as they were published, as `task_record` lists them
    OUTCOMES = 3  #: [[id, status, body, frames, stored_wall_s, custom id, kept], ...]
    NOTES = 4  #: [[client prefix, ranges of sequences of which nothing is needed], ...]
    CALLERS = 5  #: [[client prefix, pid, ranges seen, ranges gone], ...]: instead of all earlier NOTES and CALLERS
    DEAD = 6  #: one dead letter


class Row(NamedTuple):
    """One row to be written."""

    number: int
    kind: int  #: RowKind
    records: list[Any]


def task_record(task: Task) -> list[Any]:
    """A task as it has become."""
    return [
        task.task_id,
        task.name,
        task.queue,
        task.priority,
        task.flags,
        task.body,
        list(task.frames),
        task.options,
        task.attempt,
        task.crashes,
        task.losses,
        task.causes,
        task.retry_reason,
        int(task.begun),
        task.revoked,
        task.closed_mono_s,
    ]


def task_of(record: list[Any], row: int) -> Task:
    """The task of a record."""
    task_id, name, queue, priority, flags, body, frames, options, *rest = record
    task = Task(task_id, name, queue, priority, flags, body, tuple(frames), options)
    task.attempt, task.crashes, task.losses, task.causes, task.retry_reason, begun, *rest = rest
    task.revoked, task.closed_mono_s = rest
    task.begun, task.row = Begun(begun), row
    if task.attempt:
        task.flags |= Flag.REDELIVERED
    return task


def outcome_record(task_id: bytes, stored: Stored, stored_wall_s: float) -> list[Any]:
    """An outcome."""
    return [task_id, stored.status, stored.body, list(stored.frames), stored_wall_s, stored.custom_id, stored.kept]


def outcome_of(record: list[Any], now: Now) -> tuple[bytes, Stored]:
    """The id and outcome of a record. Its age is counted on from what the wall clock says."""
    task_id, status, body, frames, stored_wall_s, custom_id, kept = record
    age_s = max(0.0, now.wall_s - stored_wall_s)
    return task_id, Stored(status, body, tuple(frames), now.mono_s - age_s, kept, custom_id)
