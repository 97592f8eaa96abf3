"""Taking calls back: what has not begun is ended as REVOKED, what runs runs on (DESIGN 4, "revoke")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

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
SIGNAL_MAX: Final = 64
#: How much of the time that the asker waits may pass before it is told how things stand, and how much in all.
ANSWER_SHARE: Final = 0.8
PATIENCE_MAX_S: Final = 60.0


class Fate:
    """What becomes of one id that is revoked, as the answer names it."""

    REMOVED: Final = "revoked"  #: it has not begun and never will
    RECALLED: Final = "recalled"  #: a slot holds it: it is taken back, or runs on where it has begun
    ENDED: Final = "ended"  #: too late
    UNKNOWN: Final = "unknown"
    TERMINATED: Final = "terminated"  #: it ran, and was ended
    TERMINATING: Final = "terminating"  #: its node was told to end it, and has not said yet that it has


class Answer(NamedTuple):
    """To one request: values and errors of the reply."""

    values: dict[str, Any]
    errors: dict[str, str]


class _Awaited:
    """A request whose answer waits for the ends of tasks that run."""

    def __init__(self, fates: list[list[Any]], due_mono_s: float) -> None:
        self.fates = fates
        self.due_mono_s = due_mono_s
        #: {place in `fates`: task}
        self.tasks: dict[int, Task] = {}
        #: Gets the answer.
        self.reply: Callable[[Answer], None] = lambda answer: None


class _Holders:
    """Who holds which task, looked up once for all ids of a request."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        #: {id: (holder, lease)}; None until it is asked for.
        self._by_id: dict[bytes, tuple[Consumer, int]] | None = None

    def of(self, task: Task) -> tuple[Consumer, int] | None:
        """The slot or peer that holds a task, and under which lease."""
        if self._by_id is None:
            consumers = self._dispatch.consumers.values()
            self._by_id = {held.task_id: (one, lease) for one in consumers for lease, held in one.held.items()}
        return self._by_id.get(task.task_id)


class Revocation:
    """1. Ends what waits. 2. Recalls what is leased; `Dispatch` ends it when it comes back. 3. Has nodes end what runs,
    where that is wanted. 4. Says what became of each.
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
        #: In the order in which they came.
        self._awaited: list[_Awaited] = []

    @property
    def awaits(self) -> bool:
        """Somebody waits for the end of a task, or one was ended that nobody waits for any more."""
        return bool(self._awaited or self._dispatch.terminated)

    def request(self, arguments: dict[str, Any], timeout_s: float, reply: Callable[[Answer], None]) -> None:
        """Answers a request with `ids`, and a `signal` where what runs is to be ended; at once, or within its time.

        The answer's values are `{"router": {"fates": [[id as asked, Fate], ...]}}`.
        """
        ids, signal = arguments.get("ids"), arguments.get("signal", 0)
        if type(ids) is not list or not all(type(one) is str or (type(one) is bytes and is_stamp(one)) for one in ids):
            return reply(Answer({}, {"router": "revoke: ids is a list of ids"}))
        if len(ids) > IDS_MAX:
            return reply(Answer({}, {"router": f"revoke: at most {IDS_MAX} ids at once"}))
        if type(signal) is not int or not 0 <= signal <= SIGNAL_MAX:
            return reply(Answer({}, {"router": f"revoke: signal is a number from 1 to {SIGNAL_MAX}"}))
        holders = _Holders(self._dispatch)
        fates = [[asked, self._revoke(asked, holders)] for asked in ids]
        awaited = _Awaited(fates, self._outbox.now.mono_s + min(max(timeout_s * ANSWER_SHARE, 0.0), PATIENCE_MAX_S))
        awaited.reply = reply
        if signal:
            self._terminate(awaited, signal, holders)
        self._awaited.append(awaited)
        self.tick()
        return None

    def _terminate(self, awaited: _Awaited, signal: int, holders: _Holders) -> None:
        for place, (asked, fate) in enumerate(awaited.fates):
            task = self._open(asked) if fate == Fate.RECALLED else None
            held = holders.of(task) if task is not None else None
            if task is None or held is None:
                continue
            self._dispatch.terminating[task.task_id] = signal
            self._crew.terminate(*held, signal)
            awaited.tasks[place] = task

    def terminate_again(self, node: str) -> None:
        """A node has joined, which may not have heard what is to be ended in its slots."""
        for consumer in [one for one in self._dispatch.consumers.values() if one.node == node]:
            for lease, task in consumer.held.items():
                signal = self._dispatch.terminating.get(task.task_id)
                if signal is not None:
                    self._crew.terminate(consumer, lease, signal)

    def tick(self) -> None:
        """Answers whom it can answer now."""
        now_mono_s, terminated = self._outbox.now.mono_s, self._dispatch.terminated
        for awaited in list(self._awaited):
            for place, task in list(awaited.tasks.items()):
                if task.phase is Phase.DONE:
                    awaited.fates[place][1] = Fate.TERMINATED if task.task_id in terminated else Fate.ENDED
                    del awaited.tasks[place]
                elif awaited.due_mono_s <= now_mono_s:
                    awaited.fates[place][1] = Fate.TERMINATING
                    del awaited.tasks[place]
            if not awaited.tasks:
                self._awaited.remove(awaited)
                awaited.reply(Answer({"router": {"fates": awaited.fates}}, {}))
        terminated.clear()

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do, whatever comes."""
        return min((awaited.due_mono_s for awaited in self._awaited), default=None)

    def _open(self, asked: bytes | str) -> Task | None:
        task_id = self._known.custom.get(asked) if isinstance(asked, str) else asked
        return None if task_id is None else self._dispatch.open.get(task_id)

    def _revoke(self, asked: bytes | str, holders: _Holders) -> str:
        task_id = self._known.custom.get(asked) if isinstance(asked, str) else asked
        if task_id is None:
            return Fate.UNKNOWN
        task = self._dispatch.open.get(task_id)
        if task is not None:
            return self._revoke_task(task, holders)
        if task_id in self._dispatch:
            self._end_paged(task_id)
            return Fate.REMOVED
        return Fate.UNKNOWN if state_of(self._known, task_id)[3] is None else Fate.ENDED

    def _revoke_task(self, task: Task, holders: _Holders) -> str:
        if task.phase is not Phase.LEASED:
            self._dispatch.give_up(task, REVOKED, "it was revoked before it began")
            return Fate.REMOVED
        if not task.revoked:
            task.revoked = True
            self._ledger.news([task], self._outbox.now)
            held = holders.of(task)
            if held is not None:
                self._crew.recall(held[0])
        return Fate.RECALLED
