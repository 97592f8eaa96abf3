"""The only maker of sockets and their options; sending and receiving whole messages; the poll loop.

The options answer the pitfalls of ZeroMQ one by one: mandatory routing (an unknown or full peer is an error and not a
silent drop), no lingering at close, hand-over of a routing id to the same process after a reconnect, bounded queues,
bounded message sizes. A link belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

# Now: where greenlets run, those of later are others, which let others go on, close later, or are not there.
from os import close, read, write
from select import EPOLLIN, epoll
from typing import Any, Final

import zmq

from mesh import codec
from mesh.exceptions import MalformedMessage, MeshError
from mesh.ids import INCARNATION_BITS
from mesh.messages import FRAMES_MAX, Buffer, Message

#: Older releases of libzmq can be crashed or starved by unauthenticated peers.
LIBZMQ_MIN: Final = (4, 3, 4)
#: Largest frame accepted; larger arguments and results are refused by the sender.
MAX_FRAME_BYTES: Final = 1 << 30
#: Messages a pipe may hold. Credit and the unconfirmed table are the real bounds; this is the backstop.
HIGH_WATER_MARK: Final = 20_000
#: Messages taken from one socket before the others get their turn.
DRAIN: Final = 256
#: Longest single wait: who waits for a moment beyond it looks again, as libzmq counts in milliseconds of 32 bits.
WAIT_MAX_S: Final = 1e6
#: Frames above this size are handed to libzmq by reference.
ZERO_COPY_BYTES: Final = 1 << 16

#: How greenlets wait for a descriptor to be readable, (descriptor, seconds or None): set by the pool that runs them.
wait_for_descriptor: Callable[[int, float | None], object] | None = None

if zmq.zmq_version_info() < LIBZMQ_MIN:
    raise MeshError(f"libzmq {zmq.zmq_version()} is too old; install pyzmq>=26.2, which brings its own")


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context of this process. Must not be made before a fork."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made.set(zmq.BLOCKY, 0)
    made.set(zmq.MAX_SOCKETS, 8192)
    return made


def fresh_incarnation() -> int:
    """What tells this process from every other: random, of the width that ids have room for."""
    return int.from_bytes(os.urandom(8), "big") >> (64 - INCARNATION_BITS)


class _Socket:
    """What links and doors share: options, receiving, closing."""

    def __init__(
        self, socket: zmq.Socket[bytes], url: str, on_malformed: Callable[[bytes, MalformedMessage], None] | None
    ) -> None:
        self.socket = socket
        self.url = url
        self._on_malformed = on_malformed
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, HIGH_WATER_MARK)
        socket.set(zmq.RCVHWM, HIGH_WATER_MARK)
        socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)

    def _receive(self, *, routed: bool) -> tuple[bytes, Message | None, tuple[Buffer, ...], Buffer]:
        """(peer, message, frames, header as it came) where there is one; None in place of a malformed message."""
        socket = self.socket
        # A message has at least one frame, so at least one follows the routing id.
        peer = socket.recv(zmq.NOBLOCK) if routed else b""
        header = socket.recv(zmq.NOBLOCK, copy=False)
        frames: tuple[Buffer, ...] = ()
        if header.more:
            frames = self._more_frames()
        try:
            return peer, codec.decode(header.buffer, len(frames)), frames, header.buffer
        except MalformedMessage as error:
            self._malformed(peer, error)
            return peer, None, (), b""

    def _drain(self, limit: int, *, routed: bool) -> Iterator[tuple[bytes, Message, tuple[Buffer, ...], Buffer]]:
        # Asking for events costs a third of the exception that an empty socket raises.
        events = self.socket.getsockopt
        while limit and int(events(zmq.EVENTS)) & zmq.POLLIN:
            limit -= 1
            peer, message, frames, raw = self._receive(routed=routed)
            if message is not None:
                yield peer, message, frames, raw

    def _more_frames(self) -> tuple[Buffer, ...]:
        frames: list[Buffer] = []
        more = True
        while more:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            more = frame.more
            if len(frames) <= FRAMES_MAX:
                frames.append(frame)
        return tuple(frames)

    def _malformed(self, peer: bytes, error: MalformedMessage) -> None:
        if self._on_malformed is not None:
            self._on_malformed(peer, error)

    def _send_rest(self, header: bytes, frames: tuple[Buffer, ...]) -> None:
        if not frames:
            self.socket.send(header, zmq.NOBLOCK)
            return
        self.socket.send(header, zmq.NOBLOCK | zmq.SNDMORE)
        last = len(frames) - 1
        for at, frame in enumerate(frames):
            by_reference = len(frame) >= ZERO_COPY_BYTES
            self.socket.send(frame, zmq.NOBLOCK | (zmq.SNDMORE if at < last else 0), copy=not by_reference)

    def close(self, linger_ms: int = 0) -> None:
        """Closes the socket; what it has not sent within `linger_ms` after that is dropped."""
        self.socket.close(linger=linger_ms)


class Link(_Socket):
    """A DEALER connected to one place. Its routing id is fresh, so a successor never takes it for somebody it knows."""

    def __init__(
        self,
        ctx: zmq.Context[zmq.Socket[bytes]],
        url: str,
        *,
        reconnect: bool = True,
        on_malformed: Callable[[bytes, MalformedMessage], None] | None = None,
    ) -> None:
        super().__init__(ctx.socket(zmq.DEALER), url, on_malformed)
        self.socket.set(zmq.ROUTING_ID, b"\x01" + os.urandom(8))
        # A spread of waits, so that a router that comes back is not met by everybody at once.
        self.socket.set(zmq.RECONNECT_IVL, random.randint(10, 40) if reconnect else -1)
        self.socket.connect(url)

    def send(self, message: Message, frames: tuple[Buffer, ...] = ()) -> bool:
        """Hands a message over; False where the pipe is full or gone.

        What was handed over may still be lost with the link.
        """
        try:
            self._send_rest(codec.encode(message), frames)
        except zmq.Again:
            return False
        return True

    def receive(self, limit: int = DRAIN) -> Iterator[tuple[Message, tuple[Buffer, ...]]]:
        """What has arrived, up to `limit` messages, without waiting. Malformed messages are left out."""
        for _, message, frames, _ in self._drain(limit, routed=False):
            yield message, frames


class Door(_Socket):
    """A bound ROUTER."""

    def __init__(
        self,
        ctx: zmq.Context[zmq.Socket[bytes]],
        url: str,
        *,
        on_malformed: Callable[[bytes, MalformedMessage], None] | None = None,
    ) -> None:
        super().__init__(ctx.socket(zmq.ROUTER), url, on_malformed)
        self.socket.set(zmq.ROUTER_MANDATORY, 1)
        self.socket.set(zmq.ROUTER_HANDOVER, 1)
        self.socket.set(zmq.BACKLOG, 1024)
        self.socket.bind(url)

    def close(self, linger_ms: int = 0) -> None:
        """Closes the socket and removes its file; who closes it must be the one that owns the path."""
        super().close(linger_ms)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.url.removeprefix("ipc://"))

    def unbind(self) -> None:
        """Takes no new peers and lets go of those that are there. What they have sent so far can still be received."""
        with contextlib.suppress(zmq.ZMQError):
            self.socket.unbind(self.url)

    def send(self, peer: bytes, message: Message, frames: tuple[Buffer, ...] = ()) -> bool:
        """Hands a message over; False where the peer is unknown or its pipe is full."""
        # Before the first part is handed over: a message that can't be encoded must not leave half of one behind.
        header = codec.encode(message)
        try:
            self.socket.send(peer, zmq.NOBLOCK | zmq.SNDMORE)
            self._send_rest(header, frames)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def receive(self, limit: int = DRAIN) -> Iterator[tuple[bytes, Message, tuple[Buffer, ...], Buffer]]:
        """(peer, message, frames, header as it came) of what has arrived, up to `limit` messages, without waiting.

        Malformed messages are left out. A header is to be copied by who keeps it.
        """
        return self._drain(limit, routed=True)


class Poller:
    """Waits for links, doors and file descriptors together."""

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        #: {source: its descriptor}
        self._descriptors: dict[_Socket | int, int] = {}
        #: All descriptors behind one, for who waits in another way than `wait`.
        self._epoll: epoll | None = None

    def add(self, source: _Socket | int) -> None:
        """Waits for input from this one too."""
        self._poller.register(source if isinstance(source, int) else source.socket, zmq.POLLIN)
        fd = self._descriptors[source] = source if isinstance(source, int) else int(source.socket.getsockopt(zmq.FD))
        if self._epoll is not None:
            self._epoll.register(fd, EPOLLIN)

    def remove(self, source: _Socket | int) -> None:
        """Waits for it no longer. To be called before it is closed."""
        fd = self._descriptors.pop(source, None)
        if fd is None:
            return
        self._poller.unregister(source if isinstance(source, int) else source.socket)
        if self._epoll is not None:
            with contextlib.suppress(OSError):  # a task may have closed it
                self._epoll.unregister(fd)

    def fileno(self) -> int:
        """Readable when `wait` may have something to tell, if it had nothing before."""
        if self._epoll is None:
            self._epoll = epoll()
            for fd in self._descriptors.values():
                self._epoll.register(fd, EPOLLIN)
        return self._epoll.fileno()

    def wait(self, timeout_s: float | None) -> dict[Any, int]:
        """{socket or descriptor with input: events}; empty on time-out. None waits without end."""
        if wait_for_descriptor is not None:
            return self._wait_green(timeout_s, wait_for_descriptor)
        if timeout_s is None:
            return dict(self._poller.poll())
        # Rounded up: a deadline that is a fraction of a millisecond off must not become a busy loop.
        return dict(self._poller.poll(0 if timeout_s <= 0 else int(min(timeout_s, WAIT_MAX_S) * 1000) + 1))

    def _wait_green(self, timeout_s: float | None, wait: Callable[[int, float | None], object]) -> dict[Any, int]:
        """As `wait`, while other greenlets of this thread go on."""
        deadline_mono_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (ready := dict(self._poller.poll(0))):
            left_s = None if deadline_mono_s is None else deadline_mono_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            wait(self.fileno(), left_s)
        return ready

    async def wait_async(self, timeout_s: float | None) -> dict[Any, int]:
        """As `wait`, while the running loop goes on with others."""
        import asyncio

        ready = dict(self._poller.poll(0))
        if ready or (timeout_s is not None and timeout_s <= 0):
            return ready
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.fileno(), came.set)
        try:
            async with asyncio.timeout(timeout_s):
                while not ready:
                    await came.wait()
                    came.clear()
                    ready = dict(self._poller.poll(0))
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(self.fileno())
        return ready

    def close(self) -> None:
        """Gives its descriptor back; those it waits for are others' to close."""
        if self._epoll is not None:
            self._epoll.close()


class Wakeup:
    """Lets another thread, or a signal, end one thread's wait: a pipe."""

    def __init__(self) -> None:
        self._fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_signals = False

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._fd

    def set(self) -> None:
        """Ends the wait. Any thread, also a signal handler."""
        with contextlib.suppress(OSError):
            write(self._write_fd, b"\0")

    def set_on_signals(self) -> None:
        """Every signal ends the wait from here on, also one that comes right before it. Main thread only.

        Python runs the signal's handler only when the wait is over.
        """
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._on_signals = True

    def clear(self) -> None:
        """To be called when the wait has ended."""
        with contextlib.suppress(BlockingIOError):
            read(self._fd, 1 << 16)

    def close(self) -> None:
        """Gives the descriptors back; `set` has no effect from here on."""
        if self._on_signals:
            signal.set_wakeup_fd(-1)
        fds, self._fd, self._write_fd = (self._fd, self._write_fd), -1, -1
        for fd in fds:
            close(fd)


class Processes:
    """Deaths of processes, from the kernel: one pidfd each, all behind one descriptor."""

    def __init__(self) -> None:
        self._epoll = epoll()
        #: {pidfd: pid}
        self._pid_of: dict[int, int] = {}

    def fileno(self) -> int:
        """Readable when a watched process has died."""
        return self._epoll.fileno()

    def watch(self, pid: int) -> bool:
        """Watches a process; False where it is dead already, or can't be one. Watching it twice is once.

        Raises:
            OSError: there is no descriptor left for it.
        """
        if pid in self._pid_of.values():
            return True
        try:
            pidfd = os.pidfd_open(pid)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        self._pid_of[pidfd] = pid
        self._epoll.register(pidfd, EPOLLIN)
        return True

    def ended(self) -> list[int]:
        """The processes that have died since the last call."""
        pids = []
        for pidfd, _ in self._epoll.poll(0):
            pids.append(self._pid_of.pop(pidfd))
            self._epoll.unregister(pidfd)
            close(pidfd)
        return pids

    def close(self) -> None:
        """Gives all descriptors back."""
        for pidfd in self._pid_of:
            close(pidfd)
        self._epoll.close()
