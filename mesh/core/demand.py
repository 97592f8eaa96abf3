"""How much work waits for nodes that have as many slots as they need: who is told of it, and when."""

from __future__ import annotations

from typing import Final, NamedTuple

from mesh.core.dispatch import Dispatch
from mesh.core.effects import SendControl
from mesh.core.membership import Membership, Node
from mesh.messages import Demand

#: A node is told of a change no sooner than this after the last one: more often than it can start slots is no use.
TELL_AGAIN_S: Final = 0.1


class _Told(NamedTuple):
    tasks: int
    mono_s: float


class Demands:
    """Tells each node that asks for it how many tasks wait in its queues, whenever that has changed."""

    def __init__(self, dispatch: Dispatch, membership: Membership) -> None:
        self._dispatch = dispatch
        self._membership = membership
        #: {routing id of a node's control link: what it was told last}
        self._told: dict[bytes, _Told] = {}
        self._next_mono_s: float | None = None

    def tick(self, mono_s: float) -> list[SendControl]:
        """What is to be told now."""
        self._next_mono_s = None
        wanting = [self._membership.nodes[name] for name in self._membership.wanting]
        self._told = {node.peer: self._told[node.peer] for node in wanting if node.peer in self._told}
        effects = []
        for node in wanting:
            tasks, told = self._waiting(node), self._told.get(node.peer, _Told(0, float("-inf")))
            if tasks == told.tasks:
                continue
            if told.mono_s + TELL_AGAIN_S > mono_s:
                self._look_at(told.mono_s + TELL_AGAIN_S)
                continue
            self._told[node.peer] = _Told(tasks, mono_s)
            effects.append(SendControl(node.peer, Demand(tasks)))
        return effects

    def _look_at(self, mono_s: float) -> None:
        if self._next_mono_s is None or mono_s < self._next_mono_s:
            self._next_mono_s = mono_s

    def _waiting(self, node: Node) -> int:
        queues, names = self._dispatch.queues, node.info.get("queues")
        known = [queues.get(name) for name in names if type(name) is str] if type(names) is list else []
        return sum(len(queue) for queue in known if queue is not None)

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to tell that came too soon."""
        return self._next_mono_s if self._membership.wanting else None
