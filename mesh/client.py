"""The client: what a process that calls tasks has of the mesh.

One link to its router, one reply socket for its slots.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from mesh import ids, locate, messages, transport
from mesh.core.calls import Calls
from mesh.exceptions import MeshError, RouterUnreachable, SubmitBlocked, TaskLost, VersionRefused
from mesh.interfaces import PendingCall, TaskState
from mesh.messages import Buffer, Role
from mesh.reactor import Reactor
from mesh.settings import Settings, router_settings

logger = logging.getLogger(__name__)

#: How long to wait for HELLO-OK before HELLO is said again.
HELLO_AGAIN_S: Final = 0.2
#: Slots let in at the reply door at once; the results of one that is forgotten come by way of the router.
LET_IN_MAX: Final = 10_000
#: How long the I/O thread rests after an error, so that one that comes again and again does not take the CPU.
AFTER_FAILURE_S: Final = 0.1
#: How long a client that closes waits for confirms.
FLUSH_S: Final = 10.0
#: How long the last messages may take to leave.
LINGER_MS: Final = 500


class Answer:
    """What a request over the control or inbox link waits for."""

    __slots__ = ("message", "waiter")

    def __init__(self) -> None:
        self.message: Any = None
        self.waiter: threading.Event | None = None


#: The clients of this process that are up.
_open: Final[set[Client]] = set()


class Client:
    """1. Publishes calls. 2. Takes results. 3. Asks the router. Connected on first use; any thread may use it.

    Not to be used in a forked child: make a new one there.
    """

    def __init__(self, place: locate.Place, settings: Settings, *, autostart: bool = True) -> None:
        self._place = place
        self._settings = settings
        self._autostart = autostart
        self._pid = os.getpid()
        self._submit_lock = threading.Lock()
        self._connect_lock = threading.Lock()
        self._calls = Calls(b"", settings.publish_unconfirmed_max)
        #: Connected, and not yet closed.
        self._up = False
        self._batching: dict[int, int] = {}
        self._answers: dict[int, Answer] = {}
        self._last_request = 0
        #: Questions, from any thread to the driver. Deques, which are appended to and emptied without a lock.
        self._to_send: deque[messages.Message] = deque()
        self._control: transport.Link | None = None
        self._control_up = False
        #: Counts the links to routers, so that a late HELLO over an earlier one is told from the last.
        self._links = 0
        self._control_hello_mono_s = 0.0
        self._control_to_send: deque[messages.Request] = deque()
        self._closed = False
        #: Set when the client closes and everything is confirmed.
        self._drained = threading.Event()
        self._joined = False
        self._refused = ""
        #: Since when no router has been heard of, before the first answers.
        self._waiting_since_mono_s = 0.0
        self._last_failure = ""
        #: Codes of refused calls that were logged.
        self._told: set[str] = set()
        #: Why no router of this mesh will ever take this client.
        self._fatal: MeshError | None = None
        self._router_pid = 0
        #: Slots that have said HELLO at the reply door, longest there first; what others say there is dropped.
        self._let_in: dict[bytes, None] = {}

    # --- connecting ------------------------------------------------------------------------------

    def _connect(self) -> None:
        with self._connect_lock:
            if self._up:
                return
            if self._closed:
                raise MeshError("this client is closed; use the app to get a new one")
            self._open()
            try:
                self._first_hello()
            except BaseException:
                self._release()
                raise
            self._reactor.start()
            _open.add(self)
            _close_in_multiprocessing_child(self)
            self._up = True

    def _open(self) -> None:
        if self._autostart:
            locate.ensure_router(self._place, router_settings(self._settings))
        else:
            locate.prepare(self._place)
        self._incarnation = transport.fresh_incarnation()
        self._context = transport.context()
        self._poller = transport.Poller()
        self._wakeup = transport.Wakeup()
        self._processes = transport.Processes()
        self._reactor = Reactor(self, self._wakeup)
        self._door = transport.Door(
            self._context, f"ipc://{locate.reply_path(self._place.directory, self._incarnation)}"
        )
        for source in (self._wakeup.fileno(), self._processes.fileno(), self._door):
            self._poller.add(source)
        self._link = self._dial()

    def _first_hello(self) -> None:
        self._waiting_since_mono_s = time.monotonic()
        while not self._joined:
            if self._fatal is not None:
                raise self._fatal
            waited_s = time.monotonic() - self._waiting_since_mono_s
            if waited_s >= self._settings.broker_connection_timeout:
                raise RouterUnreachable(self._place.mesh, waited_s, locate.inbox_url(self._place), self._refused)
            self.turn(HELLO_AGAIN_S)

    def _dial(self) -> transport.Link:
        link = transport.Link(self._context, locate.inbox_url(self._place))
        self._poller.add(link)
        self._links += 1
        with self._submit_lock:
            info = self._calls.hello_info()
        link.send(self._hello({**info, "link": self._links}))
        self._hello_mono_s = time.monotonic()
        return link

    def _hello(self, info: dict[str, Any]) -> messages.Hello:
        return messages.Hello(
            messages.PROTOCOL_MAJOR,
            messages.PROTOCOL_MINOR,
            Role.CLIENT,
            self._place.mesh,
            self._incarnation,
            os.getpid(),
            info,
        )

    def _rejoin(self, *, ensure: bool) -> None:
        """Says HELLO anew, over new links, so that nothing meant for an earlier router reaches the next one."""
        self._joined = False
        self._poller.remove(self._link)
        self._link.close()
        self._close_control()
        if ensure and self._autostart:
            try:
                locate.ensure_router(self._place, router_settings(self._settings))
            except MeshError as error:
                self._refused = str(error)
        self._link = self._dial()

    def _close_control(self) -> None:
        if self._control is not None:
            self._poller.remove(self._control)
            self._control.close()
            self._control, self._control_up = None, False

    # --- Sender ----------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        queue: str,
        priority: int,
        flags: int,
        body: bytes,
        frames: list[Buffer] | None,
        options: dict[str, Any] | None,
    ) -> PendingCall:
        """As interfaces.Sender."""
        if not self._up:
            self._connect()
        calls = self._calls
        if calls.is_full:
            self._wait_for_room(calls)
        with self._submit_lock:
            pending = calls.add(name, queue, priority, flags, body, frames, options)
        if not self._batching or threading.get_ident() not in self._batching:
            self._reactor.submitted()
        return pending

    def _wait_for_room(self, calls: Calls) -> None:
        limit_s = self._settings.publish_timeout
        calls.confirm_wanted = True
        event = threading.Event()
        deadline_mono_s = time.monotonic() + limit_s
        self._reactor.wake()
        while calls.is_full:
            if self._closed or time.monotonic() >= deadline_mono_s:
                raise SubmitBlocked(self._settings.publish_unconfirmed_max, limit_s)
            self._reactor.wait(lambda: not calls.is_full, lambda: event, 0.05)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """As interfaces.Sender."""
        self._connect()
        me = threading.get_ident()
        self._batching[me] = self._batching.get(me, 0) + 1
        try:
            yield
        finally:
            self._batching[me] -= 1
            if not self._batching[me]:
                del self._batching[me]
            self._reactor.submitted()

    # --- ResultReader ----------------------------------------------------------------------------

    def wait(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """As interfaces.ResultReader."""
        return self._reactor.wait(
            lambda: pending.ending is not None or pending.failure is not None, lambda: _follow(pending), timeout_s
        )

    def wait_confirmed(self, pending: PendingCall, timeout_s: float | None) -> bool:
        """As interfaces.ResultReader."""
        self._connect()
        self._calls.confirm_wanted = True
        return self._reactor.wait(
            lambda: pending.confirmed or pending.failure is not None, lambda: _follow(pending), timeout_s
        )

    @property
    def delay(self) -> str:
        """As interfaces.ResultReader."""
        return self._calls.delay

    def watch(self, task_id: bytes | str) -> PendingCall:
        """As interfaces.ResultReader."""
        self._connect()
        calls = self._calls
        with self._submit_lock:
            pending = calls.watch(task_id)
            if pending.task_id not in calls.open:
                self._last_request += 1
                self._to_send.append(messages.Ask(self._last_request, True, [task_id]))
        self._reactor.wake()
        return pending

    def states(self, ids: Iterable[bytes | str], timeout_s: float) -> list[TaskState]:
        """As interfaces.ResultReader. Raises RouterUnreachable where no answer comes in time."""
        self._connect()
        asked = list(ids)
        states = self._ask(lambda number: self._to_send.append(messages.Ask(number, False, asked)), timeout_s)
        known = {row[0]: TaskState(row[1], row[2], row[3]) for row in states.states}
        return [known[one] for one in asked]

    def request(
        self, command: str, arguments: dict[str, Any], destination: list[str] | None, timeout_s: float
    ) -> messages.Replies:
        """As interfaces.ControlLink."""
        self._connect()
        patience_s = timeout_s + self._settings.broker_connection_timeout
        replies: messages.Replies = self._ask(
            lambda number: self._control_to_send.append(
                messages.Request(number, command, arguments, destination, timeout_s)
            ),
            patience_s,
        )
        return replies

    def _ask(self, put: Any, timeout_s: float) -> Any:
        with self._submit_lock:
            self._last_request += 1
            number = self._last_request
            answer = self._answers[number] = Answer()
            put(number)
        try:
            self._reactor.wake()
            if not self._reactor.wait(lambda: answer.message is not None, lambda: _follow(answer), timeout_s):
                raise RouterUnreachable(self._place.mesh, timeout_s, locate.inbox_url(self._place), "it did not answer")
            return answer.message
        finally:
            self._answers.pop(number, None)

    # --- the reactor's turns: only who drives comes here -----------------------------------------

    def turn(self, timeout_s: float | None) -> None:
        """As reactor.Turns."""
        due_mono_s = self._due_mono_s()
        if due_mono_s is not None:
            left_s = max(0.0, due_mono_s - time.monotonic())
            timeout_s = left_s if timeout_s is None else min(timeout_s, left_s)
        ready = self._poller.wait(timeout_s)
        if self._wakeup.fileno() in ready:
            self._wakeup.clear()
        self._reactor.took_notice()
        if ready:
            if self._door.socket in ready:
                self._receive_results()
            if self._link.socket in ready:
                self._receive()
            if self._control is not None and self._control.socket in ready:
                self._receive_control()
            if self._processes.fileno() in ready and self._processes.ended():
                self._rejoin(ensure=True)
        if not self._joined:
            if time.monotonic() >= self._hello_mono_s + HELLO_AGAIN_S:
                self._rejoin(ensure=True)
            return
        if due_mono_s is not None and time.monotonic() >= due_mono_s:
            with self._submit_lock:  # nobody adds a call while the table is gone through
                said = self._calls.look(time.monotonic())
            for message in said:
                self._link.send(message)
        self.flush()
        if self._closed and not self._calls.unconfirmed:
            self._drained.set()

    def failed(self, error: Exception) -> None:
        """As reactor.Turns."""
        if str(error) != self._last_failure:
            logger.error("a defect of mesh, please report it: %r", error, exc_info=error, extra={"action": "failed"})
        self._last_failure = str(error)
        time.sleep(AFTER_FAILURE_S)

    def _due_mono_s(self) -> float | None:
        """When there is something to do though nothing comes in."""
        if not self._joined:
            return self._hello_mono_s + HELLO_AGAIN_S
        due_mono_s = self._calls.next_deadline_mono_s(time.monotonic())
        if not self._control_to_send or self._control is None or self._control_up:
            return due_mono_s
        again_mono_s = self._control_hello_mono_s + HELLO_AGAIN_S
        return again_mono_s if due_mono_s is None else min(due_mono_s, again_mono_s)

    def flush(self) -> None:
        """As reactor.Turns."""
        if not self._joined:
            return
        calls, link = self._calls, self._link
        while calls.has_unsent:
            publish, frames = calls.next_publish()
            if publish.calls and not link.send(publish, frames):
                calls.not_sent()
                break
            calls.sent()
        received = calls.received_at_once()
        if received is not None:
            link.send(received)
        while self._to_send:
            link.send(self._to_send.popleft())
        if self._control_to_send:
            self._flush_control()

    def _flush_control(self) -> None:
        if not self._control_up and time.monotonic() >= self._control_hello_mono_s + HELLO_AGAIN_S:
            self._close_control()
        if self._control is None:
            self._control = transport.Link(self._context, locate.control_url(self._place))
            self._poller.add(self._control)
            self._control.send(self._hello({}))
            self._control_hello_mono_s = time.monotonic()
        while self._control_up and self._control_to_send:
            self._control.send(self._control_to_send.popleft())

    def _receive_results(self) -> None:
        for peer, message, frames, _ in self._door.receive():
            if type(message) is messages.Results:
                if peer in self._let_in:
                    self._take_results(message, frames)
            elif type(message) is messages.Hello:
                self._greet(peer, message)

    def _take_results(self, results: messages.Results, frames: tuple[Buffer, ...]) -> None:
        calls = self._calls
        if calls.has_watched:
            with self._submit_lock:  # nobody watches an id between its being looked up and its being dropped
                ended = calls.results(results, frames)
        else:
            ended = calls.results(results, frames)
        _wake(ended)

    def _greet(self, peer: bytes, hello: messages.Hello) -> None:
        """Lets a slot in at the reply door; one of another mesh or version goes through the router, if that lets it."""
        if hello.mesh != self._place.mesh or hello.major != messages.PROTOCOL_MAJOR:
            code = messages.Code.VERSION if hello.major != messages.PROTOCOL_MAJOR else messages.Code.MESH
            refusal = f"this client is of mesh {self._place.mesh!r} and speaks protocol {messages.PROTOCOL_MAJOR}"
            self._door.send(peer, messages.HelloRefused(messages.PROTOCOL_MAJOR, code, refusal))
            return
        if len(self._let_in) >= LET_IN_MAX:
            self._let_in.pop(next(iter(self._let_in)))
        self._let_in[peer] = None
        self._door.send(peer, messages.HelloOk(messages.PROTOCOL_MINOR, b"", b"", os.getpid(), {}))

    def _receive(self) -> None:
        calls = self._calls
        for message, frames in self._link.receive():
            if isinstance(message, messages.Confirm):
                _wake(calls.confirm(message))
                if message.refused:
                    self._tell_refused(message)
            elif isinstance(message, messages.Results):
                self._take_results(message, frames)
            elif isinstance(message, messages.Missing):
                _wake(calls.missing(message))
            elif isinstance(message, messages.States):
                with self._submit_lock:  # as in _take_results
                    failed = calls.states(message)
                _wake(failed)
                self._answered(message.request, message)
            elif isinstance(message, messages.HelloOk):
                self._join(message)
            elif isinstance(message, messages.NeedHello):
                self._rejoin(ensure=False)
                return
            elif isinstance(message, messages.HelloRefused):
                self._on_refused(message)
            elif isinstance(message, messages.Malformed):
                logger.warning("the router dropped a message: %s", message, extra={"action": "malformed"})

    def _tell_refused(self, confirm: messages.Confirm) -> None:
        """Says once of each kind of refusal that there was one: nobody may ever look at the results of these calls."""
        for _, code, reason in confirm.refused:
            if code in self._told:
                continue
            self._told.add(code)
            what = "a call can't be journaled yet" if code == messages.Refused.WAITS else "a call was refused"
            logger.warning("%s: %s", what, reason, extra={"action": "call_refused"})

    def _on_refused(self, refused: messages.HelloRefused) -> None:
        said, self._refused = self._refused, refused.reason
        if refused.code == messages.Code.STARTING:
            self._waiting_since_mono_s = time.monotonic()  # it is there, and will answer
        elif refused.reason != said:
            logger.warning("the router refused this client: %s", refused.reason, extra={"action": "refused"})
        if refused.code in messages.Code.FINAL:
            # No later HELLO of this client will be answered otherwise: whoever waits is told.
            self._fatal = _refusal(refused)
            with self._submit_lock:
                lost = self._calls.abandon(self._fatal) + self._calls.abandon_watched(self._fatal)
            _wake(lost)

    def _join(self, hello_ok: messages.HelloOk) -> None:
        if self._joined:
            return
        calls = self._calls
        prefix = ids.prefix(hello_ok.owner_tag, self._incarnation)
        if not self._processes.watch(hello_ok.pid):
            return  # it is dead already; its successor gets a HELLO of its own
        lost: list[PendingCall] = []
        with self._submit_lock:  # nobody adds a call while the table is gone through
            if calls.prefix and calls.prefix != prefix:
                lost = calls.abandon(TaskLost("the mesh's directory was made anew: call again."))
            calls.prefix = prefix
            question, asks = calls.joined(hello_ok.boot), calls.asks()
        _wake(lost)
        self._joined = True
        if question is not None:
            self._link.send(question)
        if asks:
            self._link.send(messages.Ask(0, True, asks))

    def _receive_control(self) -> None:
        assert self._control is not None
        for message, _ in self._control.receive():
            if type(message) is messages.Replies:
                self._answered(message.number, message)
            elif type(message) is messages.HelloOk:
                self._control_up = True
            elif type(message) is messages.NeedHello:
                self._control.send(self._hello({}))

    def _answered(self, number: int, message: messages.Message) -> None:
        answer = self._answers.get(number)
        if answer is not None:
            answer.message = message
            if answer.waiter is not None:
                answer.waiter.set()

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Delivers what was submitted and disconnects; tells stderr what it could not deliver.

        In a forked child it does nothing: the parent's links are the parent's.
        """
        with self._connect_lock:
            was_up, self._up = self._up, False
            if self._closed or self._pid != os.getpid():
                return
            self._closed = True
        if not was_up:
            return
        _open.discard(self)
        try:
            self._deliver()
        finally:
            self._reactor.close()
            self._say_goodbye()
            self._release()

    def _deliver(self) -> None:
        calls = self._calls
        calls.confirm_wanted = True
        self._reactor.wake()
        if self._reactor.wait(lambda: not calls.unconfirmed, lambda: self._drained, FLUSH_S):
            return
        why = (
            f"the router has them, and can't journal them now: {calls.delay}"
            if calls.delay
            else f'no router of mesh {self._place.mesh!r} confirmed them in {FLUSH_S:g} s. See "mesh status".'
        )
        print(f"mesh: {calls.unconfirmed} calls could not be delivered: {why}", file=sys.stderr)

    def _say_goodbye(self) -> None:
        received = self._calls.received_rest()
        if received is not None:
            self._link.send(received)
        self._link.send(messages.Bye("the client ends"))

    def _release(self) -> None:
        self._link.close(linger_ms=LINGER_MS)
        if self._control is not None:
            self._control.send(messages.Bye("the client ends"))
            self._control.close(linger_ms=LINGER_MS)
        self._door.close()
        self._context.term()
        self._processes.close()
        self._wakeup.close()


def _refusal(refused: messages.HelloRefused) -> MeshError:
    if refused.code == messages.Code.VERSION:
        return VersionRefused(refused.major, messages.PROTOCOL_MAJOR)
    return MeshError(f"the router refuses this client: {refused.reason}")


def _follow(one: PendingCall | Answer) -> threading.Event:
    # Read once: whoever drives may take it away in between.
    waiter: threading.Event | None = one.waiter
    if waiter is None:
        waiter = one.waiter = threading.Event()
    return waiter


def _wake(settled: list[PendingCall]) -> None:
    for pending in settled:
        waiter = pending.waiter
        if waiter is not None:
            # Whoever waits from here on makes a new one, so that no event is ever cleared under another's feet.
            pending.waiter = None
            waiter.set()


def close_all() -> None:
    """Closes every client of this process that is up: each delivers what was called."""
    for client in list(_open):
        client.close()


def _close_in_multiprocessing_child(client: Client) -> None:
    """Children of multiprocessing leave without running `atexit`; they run its finalizers instead."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(client, client.close, exitpriority=10)
