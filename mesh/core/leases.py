"""Who holds which task: a consumer (slot or peer router) and the leases it was granted, numbered per consumer."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mesh.core.credit import WINDOW_US
from mesh.core.task import Task


class Kind(IntEnum):
    """What a consumer is."""

    SLOT = 1  #: window in expected work
    PEER = 2  #: another router: as many tasks as it has granted credit for, begun at once or returned


class LostLeases(NamedTuple):
    """The leases of a consumer that is gone, split."""

    begun: Task | None  #: the one that had begun and has no outcome
    ran: list[Task]  #: those before it, whose outcomes were lost on the way
    returned: list[Task]  #: those behind it, in the order of their leases


class Consumer:
    """One slot or peer, and its leases. Written by `Dispatch` alone."""

    __slots__ = (
        "begun_upto",
        "blocked_until_mono_s",
        "busy_since_mono_s",
        "claims",
        "credit",
        "held",
        "held_bytes",
        "held_us",
        "index",
        "kind",
        "last_lease",
        "link",
        "node",
        "peer",
        "pid",
        "queues",
        "quiet",
        "recalled_mono_s",
        "recalled_upto",
        "recalling",
        "receipt",
        "turn",
        "waits",
    )

    def __init__(
        self, peer: bytes, kind: Kind, queues: tuple[str, ...], *, node: str, index: int, pid: int, last_lease: int = 0
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.queues = queues
        self.node = node
        self.index = index
        self.pid = pid
        #: The highest number ever granted to this consumer; numbers go on where an earlier router left off.
        self.last_lease = last_lease
        #: {number: task}, ascending. Exactly the tasks leased to it.
        self.held: dict[int, Task] = {}
        #: Sum of `expected_us` over `held`.
        self.held_us = 0
        #: Sum of `body_bytes` over `held`.
        self.held_bytes = 0
        #: PEER: how many more tasks it wants.
        self.credit = 0
        #: When the front lease became the front.
        self.busy_since_mono_s = 0.0
        #: Its pipe refused a message: nothing is granted until then.
        self.blocked_until_mono_s = 0.0
        #: Which of its process's links this is, as its HELLO counts them: a later one replaces an earlier one.
        self.link = 0
        #: A recall is under way: nothing is granted until it is answered.
        self.recalling = False
        #: When it was recalled last.
        self.recalled_mono_s = 0.0
        #: Leases up to this number were recalled: those still held had begun.
        self.recalled_upto = 0
        #: Leases up to this number had begun, as its slot page says.
        self.begun_upto = 0
        #: Its node takes no more.
        self.quiet = False
        #: Its task waits for another one.
        self.waits = False
        #: Outcomes up to this lease are stored; None when the slot has been told.
        self.receipt: int | None = None
        #: Ids that it has begun on the word of an earlier router, as its page told: some of `begun_elsewhere`.
        self.claims: list[bytes] = []
        #: Which of its queues is served next among equals.
        self.turn = 0

    def grant(self, task: Task, expected_us: int, body_bytes: int) -> None:
        """Adds the lease `last_lease + 1`."""
        self.last_lease += 1
        self.held[self.last_lease] = task
        task.expected_us = expected_us
        self.held_us += expected_us
        self.held_bytes += body_bytes

    def holds_from_before(self, number: int, task: Task) -> None:
        """Adds a lease that an earlier link or router granted; it has run, or runs."""
        later = {}
        if self.held and next(reversed(self.held)) > number:
            later = {one: self.held.pop(one) for one in [one for one in self.held if one > number]}
        self.held[number] = task
        self.held.update(later)
        self.last_lease = max(self.last_lease, number)
        task.expected_us = 0
        self.held_bytes += task.body_bytes

    def close(self, number: int) -> Task | None:
        """Ends one lease; None where it is not held (any more)."""
        task = self.held.pop(number, None)
        if task is None:
            return None
        self.held_us -= task.expected_us
        self.held_bytes -= task.body_bytes
        task.expected_us = 0
        return task

    def close_between(self, after: int, upto: int) -> list[Task]:
        """Ends the leases in (after, upto], in order."""
        numbers = [number for number in self.held if after < number <= upto]
        return [task for number in numbers if (task := self.close(number)) is not None]

    def close_all(self, begun: int) -> LostLeases:
        """Ends all leases of a consumer that is gone; `begun` is the last number it began."""
        ran = self.close_between(0, begun - 1)
        return LostLeases(self.close(begun), ran, self.close_between(begun, self.last_lease))

    def stored_upto(self) -> int:
        """All leases up to this number are closed."""
        return next(iter(self.held), self.last_lease + 1) - 1

    def has_room(self) -> bool:
        """Whether a window stands open behind what it runs."""
        return self.held_us < WINDOW_US and not (self.recalling or self.quiet or self.waits)

    def check(self) -> None:
        """Raises AssertionError where numbers, sums or bounds are off."""
        numbers = list(self.held)
        assert numbers == sorted(numbers)
        assert not numbers or numbers[-1] <= self.last_lease
        assert self.held_us == sum(task.expected_us for task in self.held.values())
        assert self.held_bytes == sum(task.body_bytes for task in self.held.values())
        assert self.credit >= 0
