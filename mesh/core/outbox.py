"""What one batch wants done, gathered until the batch has been worked off."""

from __future__ import annotations

from typing import Any

from mesh import messages as m
from mesh.clock import Now
from mesh.core.effects import Effect, Send
from mesh.core.outcomes import Stored
from mesh.messages import Buffer


class Outbox:
    """1. Collects effects in order. 2. Joins the results for one peer into one message. 3. Bears the moment of
    the batch.
    """

    def __init__(self, boot: bytes) -> None:
        self._boot = boot
        #: When the batch came in. The same for all that is done with it.
        self.now = Now(0.0, 0.0)
        self.effects: list[Effect] = []
        #: {peer: (Result records, frames)} to be sent at the end of the batch.
        self._results: dict[bytes, tuple[list[list[Any]], list[Buffer]]] = {}

    def add_result(self, peer: bytes, task_id: bytes, stored: Stored) -> None:
        """Sends an outcome, together with the others for this peer."""
        records, frames = self._results.setdefault(peer, ([], []))
        records.append([task_id, stored.status, stored.body, len(stored.frames)])
        frames.extend(stored.frames)

    def need_hello(self, peer: bytes) -> None:
        """Asks a stranger on the inbox link to introduce itself."""
        self.effects.append(Send(peer, m.NeedHello(self._boot)))

    def take(self) -> list[Effect]:
        """All effects of the batch; nothing is left afterwards."""
        effects, self.effects = self.effects, []
        if self._results:
            for peer, (records, frames) in self._results.items():
                effects.append(Send(peer, m.Results(records), tuple(frames)))
            self._results = {}
        return effects

    def check(self) -> None:
        """Raises AssertionError where a batch has left something behind."""
        assert not self.effects
        assert not self._results
