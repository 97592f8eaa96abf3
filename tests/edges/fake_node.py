"""A node with one slot, both played by one thread of the test: it speaks the protocol and runs no user code."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from mesh import locate, messages, transport
from mesh.messages import Role
from mesh.states import Status

#: How long anything that a test waits for may take. Long, as the machine may be slow and busy; a sound mesh needs none.
DEADLINE_S = 30.0

#: When outcomes without a receipt are sent once more.
AGAIN_S = 0.5

Answer = Callable[[list[Any]], bytes]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits for a fact that nobody announces."""
    give_up, never = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come within {DEADLINE_S} s"
        never.wait(0.002)


def hello(
    role: int, mesh: str, info: dict[str, Any], *, incarnation: int = 1, pid: int | None = None
) -> messages.Hello:
    """What an honest process says first."""
    pid = os.getpid() if pid is None else pid
    return messages.Hello(messages.PROTOCOL_MAJOR, messages.PROTOCOL_MINOR, role, mesh, incarnation, pid, info)


class FakeNode:
    """1. Joins as a node and its slot. 2. Answers each task with what `answer` makes of it. 3. Answers recalls."""

    def __init__(
        self, place: locate.Place, *, queue: str = "work", name: str = "fake@host", answer: Answer | None = None
    ) -> None:
        self._place = place
        self._queue = queue
        self._name = name
        self._answer = answer or (lambda record: bytes(record[4]))
        #: Ids in the order in which they ran.
        self.ran: list[bytes] = []
        self.begun = 0
        self.joined = threading.Event()
        self.refused: list[str] = []
        #: Outcome records, ascending.
        self._unreceipted: list[list[Any]] = []
        self._again_mono_s = 0.0
        self._wakeup = transport.Wakeup()
        self._stopping = False
        #: Counts its links, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._thread = threading.Thread(target=self._run, name="fake-node", daemon=True)

    def __enter__(self) -> FakeNode:
        self._thread.start()
        assert self.joined.wait(DEADLINE_S), f"the fake slot was not let in: {self.refused}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._wakeup.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._wakeup.close()

    def _run(self) -> None:
        self._context = transport.context()
        self._poller = transport.Poller()
        self._poller.add(self._wakeup.fileno())
        self._dial()
        while not self._stopping:
            self._poller.wait(0.2)
            self._wakeup.clear()
            self._hear_slot()
            self._hear_node()
            self._send_again()
            if not self.joined.is_set():
                self._redial()
        for link in (self._slot, self._node):
            link.send(messages.Bye("the test ends"))
            link.close(linger_ms=500)
        self._context.term()

    def _dial(self) -> None:
        self._links += 1
        self._slot = transport.Link(self._context, locate.inbox_url(self._place))
        self._node = transport.Link(self._context, locate.control_url(self._place))
        self._poller.add(self._slot)
        self._poller.add(self._node)
        node = {"name": self._name, "page": "", "queues": [self._queue], "concurrency": 1, "link": self._links}
        self._node.send(hello(Role.NODE, self._place.mesh, node))
        self._slot.send(self._slot_hello())

    def _slot_hello(self) -> messages.Hello:
        last = {"last_lease": self.begun, "link": self._links}
        slot = {"node": self._name, "index": 0, "queues": [self._queue], **last}
        return hello(Role.SLOT, self._place.mesh, slot)

    def _redial(self) -> None:
        self.joined.clear()
        for link in (self._slot, self._node):
            self._poller.remove(link)
            link.close()
        self._dial()

    def _hear_slot(self) -> None:
        for message, _ in self._slot.receive():
            if isinstance(message, messages.HelloOk):
                self.joined.set()
            elif isinstance(message, messages.HelloRefused):
                self.refused.append(message.code)
            elif isinstance(message, messages.NeedHello):
                self._redial()
                return
            elif isinstance(message, messages.Receipt):
                self._receipt(message.upto)
            elif isinstance(message, messages.Tasks):
                self._receipt(message.receipt)
                self._work(message)

    def _work(self, tasks: messages.Tasks) -> None:
        lost = list(range(self.begun + 1, tasks.first_lease))
        if lost:
            self._slot.send(messages.Returned(lost))
        for lease, record in enumerate(tasks.tasks, start=tasks.first_lease):
            if lease <= self.begun:
                continue
            self.begun = lease
            self.ran.append(record[0])
            body = self._answer(record)
            self._unreceipted.append([lease, record[0], int(Status.SUCCESS), 10, body, 0, False])
            self._slot.send(messages.Outcomes(self._unreceipted[-1:]))
            self._again_mono_s = time.monotonic() + AGAIN_S

    def _receipt(self, upto: int) -> None:
        self._unreceipted = [outcome for outcome in self._unreceipted if outcome[0] > upto]

    def _send_again(self) -> None:
        """What has no receipt may have been lost."""
        if self._unreceipted and time.monotonic() >= self._again_mono_s:
            self._slot.send(messages.Outcomes(self._unreceipted))
            self._again_mono_s = time.monotonic() + AGAIN_S

    def _hear_node(self) -> None:
        for message, _ in self._node.receive():
            if isinstance(message, messages.Recall):
                self._node.send(messages.Recalled(message.slot, os.getpid(), self.begun, message.upto))
            elif isinstance(message, messages.Request):
                self._node.send(messages.Reply(message.number, True, {"ok": "pong"}))
