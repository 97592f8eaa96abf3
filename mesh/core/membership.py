"""The nodes of this host, and control requests that are fanned out to them (DESIGN D10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from mesh.core.effects import SendControl
from mesh.messages import Replies, Reply, Request

#: Requests under way at once; beyond it the oldest is answered with what has come.
MAX_REQUESTS: Final = 1024


class Node(NamedTuple):
    """One supervisor and what it said of itself."""

    name: str
    peer: bytes  #: routing id of its control link
    pid: int
    info: dict[str, Any]  #: "page", "queues", "concurrency", "template_pid", "tasks"


class _Waiting:
    """One request whose answers are being collected."""

    __slots__ = ("asker", "deadline_mono_s", "errors", "missing", "number", "timeout_s", "values")

    def __init__(
        self, asker: bytes, request: Request, missing: Iterable[str], errors: dict[str, str], mono_s: float
    ) -> None:
        self.asker = asker
        self.number = request.number
        self.timeout_s = request.timeout_s
        self.deadline_mono_s = mono_s + request.timeout_s
        self.missing = set(missing)
        self.values: dict[str, Any] = {}
        self.errors = errors


class Membership:
    """1. Knows the nodes. 2. Fans requests out. 3. Accounts for every node in every answer."""

    def __init__(self) -> None:
        #: {name: node}
        self.nodes: dict[str, Node] = {}
        #: Names of the nodes that want to know how much work waits; a dict, for its order.
        self.wanting: dict[str, None] = {}
        #: {routing id of the control link: name}
        self._name_of: dict[bytes, str] = {}
        #: {number on the link to the nodes: request under way}
        self._waiting: dict[int, _Waiting] = {}
        self._last_number = 0

    def join(self, node: Node) -> Node | None:
        """A node is there.

        Returns the living node that bears the name already, if it is another process: then nothing changes.
        """
        known = self.nodes.get(node.name)
        if known is not None and known.pid != node.pid:
            return known
        if known is not None:
            self._name_of.pop(known.peer, None)
        self.nodes[node.name] = node
        if node.info.get("wants_demand") is True:
            self.wanting[node.name] = None
        else:
            self.wanting.pop(node.name, None)
        self._name_of[node.peer] = node.name
        return None

    def leave(self, name: str, reason: str) -> list[SendControl]:
        """A node is gone; whoever waits for its answer is told why there is none."""
        node = self.nodes.pop(name, None)
        if node is None:
            return []
        self.wanting.pop(name, None)
        self._name_of.pop(node.peer, None)
        return self._missing(name, reason)

    def by_peer(self, peer: bytes) -> Node | None:
        """The node of a control link."""
        name = self._name_of.get(peer)
        return self.nodes[name] if name is not None else None

    def all_by_pid(self, pid: int) -> list[Node]:
        """The nodes with this supervisor: one, unless a process says that it is several."""
        return [node for node in self.nodes.values() if node.pid == pid]

    def request(self, asker: bytes, request: Request, mono_s: float) -> list[SendControl]:
        """Sends a request on to the nodes it is meant for; answers at once where there are none."""
        wanted = list(self.nodes) if request.destination is None else list(dict.fromkeys(request.destination))
        errors = {name: "no node of this name is known" for name in wanted if name not in self.nodes}
        targets = [name for name in wanted if name in self.nodes]
        self._last_number += 1
        waiting = _Waiting(asker, request, targets, errors, mono_s)
        if not targets:
            return [_answer(waiting)]
        effects = self._drop_oldest()
        self._waiting[self._last_number] = waiting
        onward = request._replace(number=self._last_number, destination=None)
        return effects + [SendControl(self.nodes[name].peer, onward) for name in targets]

    def reply(self, peer: bytes, reply: Reply) -> list[SendControl]:
        """One node's answer; the last one completes the request. What nobody waits for is ignored."""
        node, waiting = self.by_peer(peer), self._waiting.get(reply.number)
        if node is None or waiting is None or node.name not in waiting.missing:
            return []
        waiting.missing.discard(node.name)
        if reply.ok:
            waiting.values[node.name] = reply.value
        else:
            waiting.errors[node.name] = str(reply.value)
        return self._complete(reply.number)

    def unreachable(self, peer: bytes) -> list[SendControl]:
        """A message to a node could not be handed over."""
        node = self.by_peer(peer)
        return [] if node is None else self._missing(node.name, "its link is down")

    def _missing(self, name: str, reason: str) -> list[SendControl]:
        effects = []
        for number, waiting in list(self._waiting.items()):
            if name in waiting.missing:
                waiting.missing.discard(name)
                waiting.errors[name] = reason
                effects += self._complete(number)
        return effects

    def _complete(self, number: int) -> list[SendControl]:
        if self._waiting[number].missing:
            return []
        return [_answer(self._waiting.pop(number))]

    def _drop_oldest(self) -> list[SendControl]:
        if len(self._waiting) < MAX_REQUESTS:
            return []
        return [self._give_up(next(iter(self._waiting)), "too many requests are under way")]

    def _give_up(self, number: int, reason: str) -> SendControl:
        waiting = self._waiting.pop(number)
        waiting.errors.update(dict.fromkeys(waiting.missing, reason))
        return _answer(waiting)

    def tick(self, mono_s: float) -> list[SendControl]:
        """Answers requests whose time is up, naming who did not answer."""
        if not self._waiting:
            return []
        late = [number for number, waiting in self._waiting.items() if waiting.deadline_mono_s <= mono_s]
        return [self._give_up(number, f"no answer in {self._waiting[number].timeout_s:g} s") for number in late]

    def next_deadline_mono_s(self) -> float | None:
        """When `tick` has something to do."""
        return min((waiting.deadline_mono_s for waiting in self._waiting.values()), default=None)

    def check(self) -> None:
        """Raises AssertionError where the indexes differ or a request waits for nobody."""
        assert self._name_of == {node.peer: name for name, node in self.nodes.items()}
        assert len(self._waiting) <= MAX_REQUESTS
        for waiting in self._waiting.values():
            assert waiting.missing
            assert not waiting.missing & (waiting.values.keys() | waiting.errors.keys())


def _answer(waiting: _Waiting) -> SendControl:
    return SendControl(waiting.asker, Replies(waiting.number, waiting.values, waiting.errors))
