"""What the owner knows of each client: which calls it has seen, which it has yet to confirm, and where results go."""

from __future__ import annotations

from typing import Final

from mesh.core.sequences import SequenceSet
from mesh.messages import Confirm, Durability

#: How long a confirm may wait for more to join it. Nobody waits for it unless the publish says so.
CONFIRM_DELAY_S: Final = 0.002


class Caller:
    """One client incarnation. It outlives its connection: its ids stay known."""

    __slots__ = (
        "confirm_due_mono_s",
        "durable",
        "last_seen_mono_s",
        "link",
        "peer",
        "pid",
        "prefix",
        "refused",
        "seen",
        "uncommitted",
        "unconfirmed",
    )

    def __init__(self, prefix: bytes, pid: int) -> None:
        self.prefix = prefix
        self.pid = pid
        #: Routing id of its link; None while it has none.
        self.peer: bytes | None = None
        #: Which of the client's links that is, as its HELLO counts them: a later one replaces an earlier one.
        self.link = 0
        #: Sequences that came here, or that the client said have ended.
        self.seen = SequenceSet()
        #: {level: those of `seen` for which that level is reached, and not yet told}
        self.unconfirmed: dict[Durability, SequenceSet] = {}
        #: Those of `seen` that need not be known to the journal any more, or that are in a commit.
        self.durable = SequenceSet()
        #: Those of `seen` that are to be journaled and are not yet.
        self.uncommitted = SequenceSet()
        #: [[sequence, code, reason], ...] not yet told.
        self.refused: list[list[object]] = []
        #: When they are told; None where there is nothing to tell.
        self.confirm_due_mono_s: float | None = None
        self.last_seen_mono_s = 0.0

    def confirm_by(self, mono_s: float) -> None:
        """There is something to tell, by this moment."""
        if self.confirm_due_mono_s is None or mono_s < self.confirm_due_mono_s:
            self.confirm_due_mono_s = mono_s

    def reached(self, level: Durability, first: int, last: int) -> None:
        """Of these sequences the level is to be told."""
        self.unconfirmed.setdefault(level, SequenceSet()).add_range(first, last)

    def take_confirms(self) -> list[Confirm]:
        """What is to be told now, one message a level; nothing is left afterwards."""
        self.confirm_due_mono_s = None
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        refused, self.refused = self.refused, []
        confirms = [Confirm(level, sequences.take(), []) for level, sequences in unconfirmed.items()]
        if refused:
            confirms.append(Confirm(Durability.NONE, [], refused))
        return confirms

    def check(self) -> None:
        """Raises AssertionError where a range set is damaged, or something untold has no due time."""
        self.seen.check()
        self.uncommitted.check()
        for sequences in self.unconfirmed.values():
            sequences.check()
        assert self.confirm_due_mono_s is not None or not (self.unconfirmed or self.refused)
