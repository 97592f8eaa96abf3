"""Taking calls back: what has not begun is ended as REVOKED, what runs runs on (DESIGN 4, "revoke")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mesh.core.crew import Crew
from mesh.core.dispatch import REVOKED, Dispatch
from mesh.core.inquiry import KnownCalls, state_of
from mesh.core.leases import Consumer
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.task import Task
from mesh.ids import is_stamp
from mesh.states import Phase

#: Ids of one request.
IDS_MAX: Final = 10_000


class Fate:
    """What becomes of one id that is revoked, as the answer names it."""

    REMOVED: Final = "revoked"  #: it has not begun and never will
    RECALLED: Final = "recalled"  #: a slot holds it: it is taken back, or runs on where it has begun
    ENDED: Final = "ended"  #: too late
    UNKNOWN: Final = "unknown"


class Revocation:
    """1. Ends what waits. 2. Recalls what is leased; `Dispatch` ends it when it comes back. 3. Says what became of
    each.
    """

    def __init__(
        self,
        known: KnownCalls,
        dispatch: Dispatch,
        crew: Crew,
        ledger: Ledger,
        outbox: Outbox,
        end_paged: Callable[[bytes], None],
    ) -> None:
        self._known = known
        self._dispatch = dispatch
        self._crew = crew
        self._ledger = ledger
        self._outbox = outbox
        #: Ends a task that is in a block.
        self._end_paged = end_paged

    def answer(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Values and errors of the reply to a request with `ids`: `{"fates": [[id as asked, Fate], ...]}`."""
        ids = arguments.get("ids")
        if type(ids) is not list or not all(type(one) is str or (type(one) is bytes and is_stamp(one)) for one in ids):
            return {}, {"router": "revoke: ids is a list of ids"}
        if len(ids) > IDS_MAX:
            return {}, {"router": f"revoke: at most {IDS_MAX} ids at once"}
        return {"router": {"fates": [[asked, self._revoke(asked)] for asked in ids]}}, {}

    def _revoke(self, asked: bytes | str) -> str:
        task_id = self._known.custom.get(asked) if isinstance(asked, str) else asked
        if task_id is None:
            return Fate.UNKNOWN
        task = self._dispatch.open.get(task_id)
        if task is not None:
            return self._revoke_task(task)
        if task_id in self._dispatch:
            self._end_paged(task_id)
            return Fate.REMOVED
        return Fate.UNKNOWN if state_of(self._known, task_id)[3] is None else Fate.ENDED

    def _revoke_task(self, task: Task) -> str:
        if task.phase is not Phase.LEASED:
            self._dispatch.give_up(task, REVOKED, "it was revoked before it began")
            return Fate.REMOVED
        if not task.revoked:
            task.revoked = True
            self._ledger.news([task], self._outbox.now)
            holder = self._holder(task)
            if holder is not None:
                self._crew.recall(holder)
        return Fate.RECALLED

    def _holder(self, task: Task) -> Consumer | None:
        consumers = self._dispatch.consumers.values()
        return next((one for one in consumers if any(held is task for held in one.held.values())), None)
