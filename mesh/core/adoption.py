"""Calls whose client went on to another router: whose they are when the first one comes back (DESIGN D2).

A client that fails over sends again what its router had not confirmed, or had confirmed and not ended, under the same
ids. The router that takes them has adopted them. One that starts asks its peers what they have adopted from it, and
does not dispatch what it has recovered before they have answered.
"""

from __future__ import annotations

from typing import Final

from mesh import messages as m
from mesh.core.callers import Caller
from mesh.core.dispatch import Dispatch
from mesh.core.effects import Send
from mesh.core.ledger import Ledger
from mesh.core.outbox import Outbox
from mesh.core.paging import Paging
from mesh.core.sequences import SequenceSet
from mesh.ids import OWNER_TAG_BYTES, PREFIX_BYTES, sequence_of, stamp
from mesh.states import Phase

#: How long a router that starts waits for its peers.
PATIENCE_S: Final = 2.0


class Adoption:
    """1. Tells a peer what was adopted from it. 2. Lets go of what peers have adopted. 3. Holds dispatch back until
    they have told.
    """

    def __init__(
        self,
        owner_tag: bytes,
        callers: dict[bytes, Caller],
        dispatch: Dispatch,
        paging: Paging,
        ledger: Ledger,
        outbox: Outbox,
    ) -> None:
        self._owner_tag = owner_tag
        self._callers = callers
        self._dispatch = dispatch
        self._paging = paging
        self._ledger = ledger
        self._outbox = outbox
        #: Peers that have yet to tell.
        self._awaited: set[bytes] = set()
        self._patience_ends_mono_s: float | None = None

    # --- asking ----------------------------------------------------------------------------------

    def ask(self, peers: list[bytes]) -> None:
        """Asks the peers that were known when this router was last there."""
        if not peers:
            return
        self._awaited = set(peers)
        self._patience_ends_mono_s = self._outbox.now.mono_s + PATIENCE_S
        self._dispatch.on_hold = True
        self._outbox.effects += [Send(peer, m.AskAdoptions(self._owner_tag)) for peer in peers]

    def told(self, peer: bytes, adoptions: m.Adoptions) -> None:
        """A peer tells what it has adopted from here; at any time."""
        for prefix, ranges in adoptions.adopted:
            if prefix[:OWNER_TAG_BYTES] == self._owner_tag:
                self._let_go(prefix, ranges)
        self._awaited.discard(peer)
        if not self._awaited:
            self._go_on()

    def tick(self) -> None:
        """Peers that do not answer are not waited for for ever."""
        if self._patience_ends_mono_s is not None and self._patience_ends_mono_s <= self._outbox.now.mono_s:
            self._go_on()

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do."""
        return self._patience_ends_mono_s

    def _go_on(self) -> None:
        self._awaited.clear()
        self._patience_ends_mono_s = None
        self._dispatch.on_hold = False

    def _let_go(self, prefix: bytes, ranges: m.Ranges) -> None:
        """These are a peer's. What runs here runs on: its outcome is the caller's by whichever way it comes first."""
        caller = self._callers.get(prefix)
        if caller is None:
            caller = self._callers[prefix] = Caller(prefix, 0)
        theirs = SequenceSet(ranges)
        for first, last in ranges:
            caller.seen.add_range(first, last)
            caller.durable.add_range(first, last)
        tasks = [task for task_id, task in self._dispatch.open.items() if task_id[:PREFIX_BYTES] == prefix]
        for task in tasks:
            if sequence_of(task.task_id) in theirs and task.phase is not Phase.LEASED:
                self._dispatch.finish(task)
                self._ledger.news([task], self._outbox.now)
        paged = self._dispatch.paged.get(prefix)
        for first, last in paged.common_with(ranges) if paged is not None else ():
            for sequence in range(first, last + 1):
                self._paging.drop(stamp(prefix, sequence))

    # --- answering -------------------------------------------------------------------------------

    def asked(self, peer: bytes, ask: m.AskAdoptions) -> None:
        """A peer is back. Only what the journal holds is told: of anything else the peer's copy is the better one."""
        adopted = []
        for prefix, caller in self._callers.items():
            if prefix[:OWNER_TAG_BYTES] == ask.owner_tag:
                ranges = caller.uncommitted.missing_from(caller.durable.ranges())
                if ranges:
                    adopted.append([prefix, ranges])
        self._outbox.effects.append(Send(peer, m.Adoptions(adopted)))
