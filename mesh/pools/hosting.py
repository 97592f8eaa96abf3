"""What a host process is told, what it says, and what a pool is: the way in which a host runs slots.

A *host* is the child of a node in which, or from which, slots run. It speaks with the supervisor over a socket pair,
one msgpack array a message. To the host: `["spawn", *SlotOrder]`, `["go", seat]`, `["end", seat]` (or None for all),
`["interrupt", seat]`. From it: `["loaded", info]`, `["failed", text, traceback]`, `["spawned", seat, pid]`,
`["exited", seat, pid, wait status, peak RSS in KiB]`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

# Now: where greenlets run, those of later let others go on, or close when their loop has something to do.
from os import close as _close
from os import read, write
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from mesh.registry import Registry

#: What goes into one packet between host and supervisor: less than the least that a socket takes. The list of task
#: names may be much longer.
_PACKET_BYTES: Final = 1 << 15
_MORE: Final = b"\1"
_LAST: Final = b"\0"
#: The other end has gone, or this one is closed.
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF})
_GO: Final = b"g"
#: Wait status of a slot that was never there: exit code 1.
FAILED: Final = 1 << 8
_PR_SET_PDEATHSIG: Final = 1


class LoadedApp(NamedTuple):
    """What loading the user's app yields, in the host."""

    registry: Registry
    #: "app", "tasks", "queue" (default), "concurrency", "broker_url", "router_settings", "limits" (hard and soft, s)
    info: dict[str, Any]


class SlotOrder(NamedTuple):
    """What the supervisor says when it wants a slot."""

    seat: int  #: its record in the slot page, and its index in the node
    mesh: str
    directory: str
    node: str
    queues: tuple[str, ...]
    page_path: str
    seats: int
    alarm_fd: int  #: an eventfd of the supervisor, inherited: it is to look at the slot page
    limits: tuple[float, float] = (0.0, 0.0)  #: hard and soft time limit of tasks that have none of their own, s
    standby: bool = False  #: it waits for "go" before it joins a router
    tasks_max: int = 0  #: runs after which it leaves; 0 is without end
    memory_max_kib: int = 0  #: resident memory of its process above which it leaves after a run; 0 is without end
    blocked_max: int = 0  #: slots of the node that may wait in a task at once; -1: none stands in for them
    shares_process: bool = False  #: other slots run in its process


class HostedSlot(Protocol):
    """A slot, as the pool sees it that runs it."""

    def run(self) -> None:
        """Works in this thread until it has ended."""

    async def run_async(self) -> None:
        """Works as a coroutine of the running loop until it has ended."""

    def interrupt(self) -> None:
        """Raises in the task that runs what is due to be raised in it, if anything is. Any thread, also a handler."""


class Greenlets(Protocol):
    """What takes the place of threads in a process that runs greenlets."""

    def wait(self, fd: int, timeout_s: float | None) -> None:
        """Waits until the descriptor is readable, or so long, while others go on."""

    def start(self, work: Callable[..., object], *args: Any) -> Any:
        """A greenlet that does this."""

    def join(self, greenlet: Any) -> None:
        """Waits until it has ended."""

    def current(self) -> Any:
        """The one that calls."""

    def raise_in(self, thread: Any, error: type[BaseException] | None) -> None:
        """As `interruption.Threads`: where it waits."""


class SlotMaker(Protocol):
    """Makes the slots of a process."""

    def use(self, greenlets: Greenlets) -> None:
        """From here on whatever waits in this process lets other greenlets go on. Before the app is imported."""

    def make(self, app: LoadedApp, order: SlotOrder, lifeline_fd: int) -> HostedSlot:
        """A slot; to be called in the thread that will run it. The lifeline is its own to read, not to close."""

    def close(self) -> None:
        """After the last slot of this process: what is still to be sent is sent."""


class Host(Protocol):
    """The supervisor's handle of a host."""

    pid: int
    #: It can end a slot and leave others of the same process alone.
    kills_one: bool

    def fileno(self) -> int:
        """Readable when the host has said something, or is gone."""

    def receive(self) -> list[Any] | None:
        """The next packet, waited for; None where the host is gone."""

    def spawn(self, order: SlotOrder) -> None:
        """Orders a slot. That the host is gone shows in `receive`."""

    def go(self, seat: int) -> None:
        """A slot on standby may begin."""

    def end(self, seat: int | None = None) -> None:
        """A slot ends after what it runs; None: all of them."""

    def interrupt(self, seat: int) -> None:
        """What is due to be raised in a slot's task is raised."""

    def kill_run(self, seat: int, pid: int, still_runs: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """Ends a slot, and what must go with it, in the middle of a run. False where that has ended meanwhile.

        `number`: the signal by which it is ended, where that is done by a signal.
        """

    def kill_slot(self, seat: int, pid: int) -> None:
        """Ends a slot, whatever it does."""

    def kill(self) -> None:
        """Ends the host at once; `close` waits for its end."""

    def close(self) -> tuple[int, int]:
        """Ends the host, whose slots have ended. Returns its wait status and peak RSS in KiB."""


class Pool(Protocol):
    """A way of running slots."""

    #: What `-P` says.
    name: str
    #: {option of `mesh worker`: why this pool can't honour it}
    refused: Mapping[str, str]
    #: Slots are processes of their own, forked from the host.
    forks: bool
    #: A task may wait for another one: a slot can stand in for it.
    stands_in: bool

    @property
    def greenlets(self) -> Greenlets | None:
        """What its slots run in, where that is neither a process, nor a thread, nor a coroutine."""

    def concurrency(self) -> int:
        """Slots of a node that says nothing."""

    def prepare(self) -> None:
        """What must be done in the host before the app is imported."""

    def serve(self, load: Callable[[], LoadedApp], maker: SlotMaker, channel: Channel) -> None:
        """Runs slots as ordered until the supervisor is gone. `load` returns the app, each time the same one."""


class Channel:
    """The host's end of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Readable when there is an order, or the supervisor is gone."""
        return self._socket.fileno()

    def receive(self) -> list[Any] | None:
        """The next order, waited for; None where the supervisor is gone."""
        return _received(self._socket)

    def say(self, *words: Any) -> None:
        """Tells the supervisor; nothing where it is gone. Any thread."""
        with self._lock:
            _send(self._socket, words)

    def spawned(self, seat: int) -> None:
        """A slot runs in this process."""
        self.say("spawned", seat, os.getpid())

    def exited(self, seat: int, pid: int, status: int, peak_kib: int) -> None:
        """A slot has ended."""
        self.say("exited", seat, pid, status, peak_kib)

    def not_started(self, seat: int) -> None:
        """A slot that was ordered can't be started."""
        self.exited(seat, 0, FAILED, 0)

    def close(self) -> None:
        """Gives the socket back."""
        self._socket.close()


class HostLine:
    """The supervisor's end of the socket pair, by which it speaks to a host. As `Host`, but for the ends of it."""

    def __init__(self, pid: int, channel: socket.socket, pidfd: int | None = None) -> None:
        """`pidfd` tells of the death of its process: the end of the channel may not, where a task has forked."""
        self.pid = pid
        self._channel = channel
        self._pidfd = pidfd
        #: What the host has yet to take. It may have to be heard before it listens again.
        self._unsent: deque[Sequence[Any]] = deque()
        self._epoll = select.epoll()
        self._epoll.register(channel, select.EPOLLIN)
        if pidfd is not None:
            self._epoll.register(pidfd, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when there is a reason to `receive`."""
        return self._epoll.fileno()

    def receive(self) -> list[Any] | None:
        """The next message, waited for; None where the host is gone, and `[]` where it has only listened."""
        events = dict(self._epoll.poll())
        of_channel = events.get(self._channel.fileno(), 0)
        if of_channel & select.EPOLLOUT:
            self._send_unsent()
        if of_channel & ~select.EPOLLOUT:
            return _received(self._channel)
        return None if self._pidfd in events else []

    def forget(self) -> None:
        """Gives the descriptors back. The host is gone, or ends with it."""
        self._epoll.close()
        self._channel.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def spawn(self, order: SlotOrder) -> None:
        """Orders a slot. That the host is gone shows in `receive`."""
        self._say("spawn", *order)

    def go(self, seat: int) -> None:
        """A slot on standby may begin."""
        self._say("go", seat)

    def end(self, seat: int | None = None) -> None:
        """A slot ends after what it runs; None: all of them."""
        self._say("end", seat)

    def interrupt(self, seat: int) -> None:
        """What is due to be raised in a slot's task is raised."""
        self._say("interrupt", seat)

    def _say(self, *words: Any) -> None:
        self._unsent.append(words)
        self._send_unsent()

    def _send_unsent(self) -> None:
        """As much as the host takes without being waited for."""
        while self._unsent:
            try:
                _send(self._channel, self._unsent[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            self._unsent.popleft()
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        with contextlib.suppress(OSError, ValueError):  # it is closed
            self._epoll.modify(self._channel, wanted)


def _send(sock: socket.socket, words: Sequence[Any], flags: int = 0) -> None:
    """In packets that a socket takes, each with a byte before it that says whether there are more. Nothing where the
    other end is gone.

    Raises:
        BlockingIOError: with MSG_DONTWAIT, of what fits into one packet.
    """
    packed = msgpack.packb(words)
    try:
        for at in range(0, len(packed), _PACKET_BYTES):
            more = _MORE if at + _PACKET_BYTES < len(packed) else _LAST
            sock.send(more + packed[at : at + _PACKET_BYTES], flags)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _received(sock: socket.socket) -> list[Any] | None:
    """What the other end has sent, waited for; None where it is gone."""
    parts = []
    while True:
        try:
            packet = sock.recv(_PACKET_BYTES + 1)
        except ConnectionError:
            return None
        if not packet:
            return None
        parts.append(packet[1:])
        if packet[:1] == _LAST:
            said: list[Any] = msgpack.unpackb(b"".join(parts), use_list=True)
            return said


def order_of(words: list[Any]) -> SlotOrder:
    """The order in a "spawn" packet."""
    order = SlotOrder(*words[1:])
    return order._replace(queues=tuple(order.queues), limits=(order.limits[0], order.limits[1]))


class Lifelines:
    """One pipe a slot: a byte lets a slot on standby go, the end of the pipe ends it."""

    def __init__(self) -> None:
        #: {seat: the host's end}
        self._ends: dict[int, int] = {}

    def open(self, seat: int) -> int:
        """A lifeline for a new slot. Returns the slot's end; who runs the slot closes it."""
        theirs, self._ends[seat] = os.pipe2(os.O_CLOEXEC)
        return theirs

    def go(self, seat: int) -> None:
        """A slot may begin."""
        end = self._ends.get(seat)
        if end is not None:
            with contextlib.suppress(OSError):
                write(end, _GO)

    def end(self, seat: int | None) -> None:
        """A slot is to end; None: all."""
        for one in list(self._ends) if seat is None else [seat]:
            end = self._ends.pop(one, None)
            if end is not None:
                close_at_once(end)


def close_at_once(fd: int) -> None:
    """Closes a descriptor that another one's wait may be for, also where greenlets run."""
    _close(fd)


def waits_for_its_turn(lifeline_fd: int) -> bool:
    """Reads a lifeline that is readable. True where the slot may begin, False where it is to end."""
    return read(lifeline_fd, 1) == _GO


def die_with_parent(parent_pid: int) -> None:
    """This process is killed when its parent dies; to be called after any change of user, which undoes it."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
