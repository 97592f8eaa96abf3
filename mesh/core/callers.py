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
        "last_seen_mono_s",
        "link",
        "peer",
        "pid",
        "prefix",
        "refused",
        "seen",
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
        #: Those of `seen` that are journaled and not yet told.
        self.unconfirmed = SequenceSet()
        #: [[sequence, reason], ...] not yet told.
        self.refused: list[list[object]] = []
        #: When they are told; None where there is nothing to tell.
        self.confirm_due_mono_s: float | None = None
        self.last_seen_mono_s = 0.0

    def confirm_by(self, mono_s: float) -> None:
        """There is something to tell, by this moment."""
        if self.confirm_due_mono_s is None or mono_s < self.confirm_due_mono_s:
            self.confirm_due_mono_s = mono_s

    def take_confirm(self, durability: Durability) -> Confirm:
        """What is to be told now; nothing is left afterwards."""
        self.confirm_due_mono_s = None
        refused, self.refused = self.refused, []
        return Confirm(durability, self.unconfirmed.take(), refused)

    def check(self) -> None:
        """Raises AssertionError where a range set is damaged, or something untold has no due time."""
        self.seen.check()
        self.unconfirmed.check()
        assert self.confirm_due_mono_s is not None or not (self.unconfirmed or self.refused)
