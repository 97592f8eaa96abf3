"""A task as its owner holds it, from publish to outcome."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from itertools import groupby
from typing import Any

from mesh.exceptions import IllegalTransition
from mesh.messages import Buffer, Flag
from mesh.states import PHASE_MOVES, Phase


class Begun(IntEnum):
    """Whether a task that may run at most once may have begun, as far as a later router knows from the journal."""

    NO = 0
    MAYBE_HERE = 1  #: in a slot of this host: its slot page says whether it has
    MAYBE_ANYWHERE = 2  #: at a peer too


class Task:
    """One accepted call. Written by `Dispatch` alone; a slotted class, since a million of them may wait."""

    __slots__ = (
        "attempt",
        "begun",
        "body",
        "causes",
        "closed_mono_s",
        "crashes",
        "expected_us",
        "flags",
        "frames",
        "losses",
        "name",
        "options",
        "phase",
        "priority",
        "queue",
        "retry_reason",
        "revoked",
        "row",
        "runner",
        "started_wall_s",
        "task_id",
    )

    def __init__(
        self,
        task_id: bytes,
        name: str,
        queue: str,
        priority: int,
        flags: int,
        body: bytes,
        frames: tuple[Buffer, ...],
        options: dict[str, Any] | None,
    ) -> None:
        self.task_id = task_id
        self.name = name
        self.queue = queue
        self.priority = priority
        self.flags = flags
        self.body = body
        self.frames = frames
        self.options = options
        self.phase = Phase.READY
        #: Deliveries that had begun before this one.
        self.attempt = 0
        #: Deaths of a slot under a living supervisor, charged to this task.
        self.crashes = 0
        #: Losses of the whole node or host, charged to this task.
        self.losses = 0
        #: What ended each charged delivery, oldest first; None until the first.
        self.causes: list[str] | None = None
        #: Expected work of the current lease; 0 unless LEASED.
        self.expected_us = 0
        #: The encoded exception for which it asked to be run again last; empty until then.
        self.retry_reason = b""
        #: The journal's row in which it stands: 0 where in none yet, NO_ROW where in none (any more) and never again.
        self.row = NO_ROW if flags & Flag.TRANSIENT else 0
        #: When its last run was over, for the journal: what slot pages say of beginnings before that is past.
        self.closed_mono_s = 0.0
        #: It is not to begin (again).
        self.revoked = False
        #: What the journal is told of a task that may run at most once, before it goes out.
        self.begun: Begun = Begun.NO
        #: When it began, where that is tracked; 0.0 otherwise.
        self.started_wall_s = 0.0
        #: (node, pid) that has begun it, where that is tracked.
        self.runner: tuple[str, int] | None = None

    @property
    def body_bytes(self) -> int:
        """Size of the body, frames included."""
        if not self.frames:
            return len(self.body)
        return len(self.body) + sum(len(frame) for frame in self.frames)

    @property
    def custom_id(self) -> str | None:
        """The id the caller chose, if any."""
        return self.options.get("id") if self.options else None

    def move(self, phase: Phase) -> None:
        """Changes the phase. Raises IllegalTransition, and changes nothing, for a move that is not in the table."""
        if phase not in PHASE_MOVES[self.phase]:
            raise IllegalTransition(f"task {self.task_id.hex()}", self.phase.name, phase.name)
        self.phase = phase

    def charge(self, cause: str, *, node_lost: bool) -> None:
        """Counts a death against this task and remembers why."""
        if node_lost:
            self.losses += 1
        else:
            self.crashes += 1
        self.causes = [*(self.causes or ()), cause][-MAX_CAUSES:]

    def begun_in_vain(self) -> None:
        """Counts a delivery that had begun and brought no outcome, whoever is to blame."""
        self.attempt += 1
        self.flags |= Flag.REDELIVERED


#: How many causes a task remembers: above both budgets' defaults.
MAX_CAUSES = 32
#: The row of a task that needs none.
NO_ROW = -1
#: The row of a dead letter that is replayed: it gets one of its own.
REVIVED = -2


def in_words(causes: Iterable[str]) -> str:
    """What ended deliveries, oldest first; the same over and over is said once: `signal 9 (3 times); exit code 1`."""
    counted = [(cause, len(list(same))) for cause, same in groupby(causes)]
    return "; ".join(cause if count == 1 else f"{cause} ({count} times)" for cause, count in counted)
