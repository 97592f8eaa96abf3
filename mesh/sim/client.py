"""The shell of a client in simulated form: mirrors mesh/client.py around the real Calls."""

from __future__ import annotations

from typing import Any, NamedTuple

from mesh import ids
from mesh import messages as m
from mesh.client import HELLO_AGAIN_S
from mesh.core.calls import Calls
from mesh.interfaces import PendingCall
from mesh.messages import Role
from mesh.sim.kernel import Kernel
from mesh.sim.process import NEVER, Process
from mesh.sim.router import MESH, control_address, inbox_address, reply_address
from mesh.sim.wire import Door, Link


class Question(NamedTuple):
    """A control request under way."""

    request: m.Request
    asked_s: float


class SimClient(Process):
    """1. Publishes calls. 2. Takes results. 3. Asks the router."""

    def __init__(self, kernel: Kernel, host: str, name: str, unconfirmed_max: int) -> None:
        super().__init__(kernel, host, name)
        self.incarnation = kernel.new_incarnation()
        #: The host whose router it talks to: its own, unless it has failed over.
        self.at = host
        self.calls = Calls(b"", unconfirmed_max)
        #: {task id: call made here}
        self.pending: dict[bytes, PendingCall] = {}
        #: {asked: watch made here}
        self.watching: list[PendingCall] = []
        #: {id of the pending: how often it was settled}
        self.settled: dict[int, int] = {}
        self.questions: dict[int, Question] = {}
        self.replies: list[tuple[Question, m.Replies]] = []
        self._last_request = 0
        self._to_send: list[m.Message] = []
        self._control_to_send: list[m.Request] = []
        self._control: Link | None = None
        self._control_up = False
        self._control_hello_s = 0.0
        self._links = 0
        self.joined = False
        self._door = Door(self.wire, self, reply_address(host, self.incarnation))
        self._link = self._dial()
        self.wake()

    # --- for the workload ------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Has been connected, so that calls may be made."""
        return bool(self.calls.prefix)

    def submit(self, *call: Any) -> PendingCall | None:
        """As Client.submit; None where that would block."""
        if self.calls.is_full:
            return None
        pending = self.calls.add(*call)
        self.pending[pending.task_id] = pending
        self.wake()
        return pending

    def watch_task(self, asked: bytes | str) -> None:
        """As Client.watch."""
        pending = self.calls.watch(asked)
        self.watching.append(pending)
        if pending.task_id not in self.calls.open:
            self._last_request += 1
            self._to_send.append(m.Ask(self._last_request, True, [asked]))
        self.wake()

    def request(
        self,
        command: str,
        destination: list[str] | None,
        timeout_s: float,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """As Client.request."""
        self._last_request += 1
        request = m.Request(self._last_request, command, arguments or {}, destination, timeout_s)
        self.questions[request.number] = Question(request, self.timeline.mono_s)
        self._control_to_send.append(request)
        self.wake()

    # --- the loop --------------------------------------------------------------------------------

    def turn(self) -> None:
        self._receive_results()
        self._receive()
        if self._control is not None:
            self._receive_control()
        if self.ended():
            self._rejoin()
        if not self.joined:
            if self.timeline.mono_s >= self._hello_s + HELLO_AGAIN_S:
                self._rejoin()
            return
        self._flush()

    def next_deadline(self) -> float | None:
        if not self.joined:
            return self._hello_s + HELLO_AGAIN_S
        due = self.calls.next_deadline_mono_s(self.timeline.mono_s)
        soonest = min(self._control_again_s(), NEVER if due is None else due)
        return None if soonest == NEVER else soonest

    def check(self) -> None:
        self.calls.check()

    def has_input(self) -> bool:
        return self._link.has_input or self._door.has_input or (self._control is not None and self._control.has_input)

    def _flush(self) -> None:
        calls, link = self.calls, self._link
        while calls.has_unsent:
            publish, frames = calls.next_publish()
            if publish.calls and not link.send(publish, frames):
                calls.not_sent()
                break
            calls.sent()
        received = calls.received_at_once()
        if received is not None:
            link.send(received)
        for message in calls.look(self.timeline.mono_s):
            link.send(message)
        waiting, self._to_send = self._to_send, []
        for message in waiting:
            link.send(message)
        if self._control_to_send:
            self._flush_control()

    def _flush_control(self) -> None:
        if self._control is not None and self.timeline.mono_s >= self._control_again_s():
            self._close_control()
        if self._control is None:
            self._control = Link(self.wire, self, control_address(self.at))
            self._control.send(self._hello({}))
            self._control_hello_s = self.timeline.mono_s
        if self._control_up:
            waiting, self._control_to_send = self._control_to_send, []
            for request in waiting:
                self._control.send(request)

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control, self._control_up = None, False

    def _control_again_s(self) -> float:
        if self._control is None or self._control_up or not self._control_to_send:
            return NEVER
        return self._control_hello_s + HELLO_AGAIN_S

    # --- what comes in ---------------------------------------------------------------------------

    def _settle(self, settled: list[PendingCall]) -> None:
        for pending in settled:
            if pending.ending is not None or pending.failure is not None:
                self.settled[id(pending)] = self.settled.get(id(pending), 0) + 1

    def _receive_results(self) -> None:
        for peer, message, frames in self._door.receive():
            if isinstance(message, m.Results):
                self._settle(self.calls.results(message, frames))
            elif isinstance(message, m.Hello) and message.mesh == MESH:
                self._door.send(peer, m.HelloOk(m.PROTOCOL_MINOR, b"", b"", self.pid, {}))

    def _receive(self) -> None:
        calls = self.calls
        for message, frames in self._link.receive():
            if isinstance(message, m.Confirm):
                self._settle([one for one in calls.confirm(message) if one.failure is not None])
            elif isinstance(message, m.Results):
                self._settle(calls.results(message, frames))
            elif isinstance(message, m.Missing):
                self._settle(calls.missing(message))
            elif isinstance(message, m.States):
                self._settle(calls.states(message))
            elif isinstance(message, m.HelloOk):
                self._join(message)
            elif isinstance(message, m.NeedHello):
                self._rejoin()
                return

    def _receive_control(self) -> None:
        assert self._control is not None
        for message, _ in self._control.receive():
            if isinstance(message, m.Replies):
                question = self.questions.pop(message.number, None)
                if question is not None:
                    self.replies.append((question, message))
            elif isinstance(message, m.HelloOk):
                self._control_up = True
            elif isinstance(message, m.NeedHello):
                self._control.send(self._hello({}))

    # --- the router ------------------------------------------------------------------------------

    def _dial(self) -> Link:
        link = Link(self.wire, self, inbox_address(self.at))
        self._links += 1
        owner = {} if self.at == self.host else {"owner": self.calls.prefix[: ids.OWNER_TAG_BYTES]}
        link.send(self._hello({**self.calls.hello_info(), **owner, "link": self._links}))
        self._hello_s = self.timeline.mono_s
        return link

    def _hello(self, info: dict[str, Any]) -> m.Hello:
        return m.Hello(m.PROTOCOL_MAJOR, m.PROTOCOL_MINOR, Role.CLIENT, MESH, self.incarnation, self.pid, info)

    def _rejoin(self) -> None:
        self.joined = False
        self._link.close()
        self._close_control()
        self._link = self._dial()

    def go_to(self, host: str) -> None:
        """Fails over to the router of another host, or comes home. Only once it has been connected at home."""
        self.at = host
        self._rejoin()
        self.wake()

    def _join(self, hello_ok: m.HelloOk) -> None:
        if self.joined:
            return
        away = self.at != self.host
        if not away:
            self.calls.prefix = ids.prefix(hello_ok.owner_tag, self.incarnation)
        if not self.watch(hello_ok.pid):
            return
        self.joined = True
        question = self.calls.joined(hello_ok.boot, away=away)
        if question is not None:
            self._link.send(question)
        asks = self.calls.asks()
        if asks:
            self._link.send(m.Ask(0, True, asks))

    def leave(self) -> None:
        """Closes in good order."""
        received = self.calls.received_rest()
        if received is not None:
            self._link.send(received)
        self._link.send(m.Bye("the client ends"))
        self._link.close(linger=True)
        if self._control is not None:
            self._control.send(m.Bye("the client ends"))
            self._control.close(linger=True)
        self._door.close(unlink=True)
        self.kernel.ended(self, "code 0")

    def released(self, cause: str) -> None:
        self._link.close()
        if self._control is not None:
            self._control.close()
        self._door.close(unlink=False)
