"""Which calls a router takes: within its bounds, where its disk works, and under ids that are free."""

from __future__ import annotations

from typing import Any, NamedTuple

from mesh import messages as m
from mesh.core.answers import Answers
from mesh.core.dispatch import Dispatch
from mesh.core.effects import Send
from mesh.core.ledger import JOURNALED_BYTES_MAX, Ledger
from mesh.core.outbox import Outbox
from mesh.messages import Buffer, Flag
from mesh.states import PENDING

Refusal = tuple[str, str]  #: code of `messages.Refused` and reason


class Bounds(NamedTuple):
    """How much a router holds before it refuses more."""

    tasks_max: int
    bytes_max: int


class Admission:
    """1. Knows whether there is room. 2. Says why a call is refused. 3. Gives callers ids of their own, once each."""

    def __init__(self, bounds: Bounds, dispatch: Dispatch, answers: Answers, ledger: Ledger, outbox: Outbox) -> None:
        self._bounds = bounds
        self._dispatch = dispatch
        self._answers = answers
        self._ledger = ledger
        self._outbox = outbox
        #: {custom id: task id}
        self.custom: dict[str, bytes] = {}

    def welcomes(self, calls: list[list[Any]], frames: tuple[Buffer, ...]) -> bool:
        """Whether all of these are taken, unless one wants an id of its own."""
        size = sum(len(call[5]) for call in calls) + sum(map(len, frames))
        return not self._ledger.refusal and size <= JOURNALED_BYTES_MAX and self.has_room(len(calls), size)

    def has_room(self, n_tasks: int, n_bytes: int) -> bool:
        dispatch, bounds = self._dispatch, self._bounds
        return len(dispatch) + n_tasks <= bounds.tasks_max and dispatch.body_bytes + n_bytes <= bounds.bytes_max

    def refusal(self, task_id: bytes, flags: int, body_bytes: int, options: dict[str, Any] | None) -> Refusal | None:
        """Why a call can't be taken: a code and the reason; None where it can."""
        if not self.has_room(1, 0):
            if len(self._dispatch) >= self._bounds.tasks_max:
                held = f"it holds {self._bounds.tasks_max} tasks already"
                return m.Refused.FULL, f"{held}; start more nodes, or raise queue_max_tasks"
            held = f"it holds {self._bounds.bytes_max} bytes of arguments already"
            return m.Refused.FULL, f"{held}; start more nodes, or raise queue_max_bytes"
        if not flags & Flag.TRANSIENT and self._ledger.refusal:
            return m.Refused.DISK, self._ledger.refusal
        if not flags & Flag.TRANSIENT and body_bytes > JOURNALED_BYTES_MAX:
            return m.Refused.DISK, f"its arguments have {body_bytes} bytes, of {JOURNALED_BYTES_MAX} that it can take"
        if options is not None and "id" in options and not self.names(task_id, options["id"]):
            return m.Refused.ID, f"task_id {options['id']!r} is taken; give another, or none"
        return None

    def names(self, task_id: bytes, custom: str) -> bool:
        """Gives a task the caller's own id, and tells those who watch that id. False where another task has it."""
        if custom in self.custom:
            return False
        self.custom[custom] = task_id
        watchers = self._answers.watchers
        for peer in watchers.pop(custom, ()):
            watchers.setdefault(task_id, set()).add(peer)
            self._outbox.effects.append(Send(peer, m.States(0, [[custom, task_id, PENDING, {"known": True}]])))
        return True

    def forget_custom_ids(self) -> None:
        """Frees the custom ids of tasks of which nothing is known any more."""
        open_, outcomes = self._dispatch.open, self._answers.outcomes
        past = [one for one, task_id in self.custom.items() if task_id not in open_ and task_id not in outcomes]
        for custom in past:
            del self.custom[custom]
