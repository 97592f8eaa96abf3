"""The template: a child of the node that imports the app once and forks a slot of it on command (DESIGN D5).

It is forked before any thread or ZeroMQ context exists, so that its forks are clean, and freezes the garbage
collector, so that slots share its memory. It speaks with the supervisor over a socket pair, one msgpack array a
packet: to the template a SlotOrder; from it `["loaded", info]`, `["failed", text, traceback]`,
`["spawned", slot, pid]`, `["exited", pid, wait status, peak RSS in KiB]`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack

from mesh import locate
from mesh.exceptions import MeshError
from mesh.registry import Registry

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
#: Largest packet between template and supervisor: the list of task names is the longest.
_PACKET_BYTES: Final = 1 << 20


class LoadedApp(NamedTuple):
    """What loading the user's app yields, in the template."""

    registry: Registry
    #: "app", "tasks", "queue" (default), "concurrency", "broker_url", "router_settings", "limits" (hard and soft, s)
    info: dict[str, Any]


class SlotOrder(NamedTuple):
    """What the supervisor says when it wants a slot."""

    slot: int
    mesh: str
    directory: str
    node: str
    queues: tuple[str, ...]
    page_path: str
    slots: int
    alarm_fd: int  #: an eventfd of the supervisor, inherited: a run begins whose limit it would overlook


#: Runs a slot in the forked child until it ends: (app, order, lifeline descriptor).
RunSlot = Callable[[LoadedApp, SlotOrder, int], None]


class Template:
    """The supervisor's handle: a process, and the socket to it."""

    def __init__(self, load: Callable[[], LoadedApp], run_slot: RunSlot) -> None:
        """Forks the template. Call it before any thread, socket or context exists.

        Closing the lifeline (`end`) makes slots finish what they run and exit.
        """
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lifeline, self._lifeline = os.pipe()
        #: Slots inherit it under the same number: readable when the supervisor is to look at their time limits.
        self.alarm_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        supervisor_pid = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            os.close(self._lifeline)
            _become_template(load, run_slot, theirs, lifeline, supervisor_pid)
        theirs.close()
        os.close(lifeline)
        self._lifeline_open = True

    def fileno(self) -> int:
        """Readable when the template has said something, or is gone."""
        return self._channel.fileno()

    def receive(self) -> list[Any] | None:
        """The next packet; None where the template is gone."""
        try:
            packet = self._channel.recv(_PACKET_BYTES)
        except ConnectionError:
            return None
        said: list[Any] | None = msgpack.unpackb(packet) if packet else None
        return said

    def spawn(self, order: SlotOrder) -> None:
        """Orders a slot. That the template is gone shows in `receive`."""
        try:
            self._channel.send(msgpack.packb(order))
        except OSError:
            logger.debug("the template is gone", extra={"action": "template_gone"})

    def end(self) -> None:
        """Slots end after what they run."""
        if self._lifeline_open:
            os.close(self._lifeline)
            self._lifeline_open = False

    def kill(self) -> None:
        """Ends the template at once, wherever it is; `close` reaps it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> int:
        """Ends the template (its slots have ended) and reaps it. Returns its wait status."""
        self.end()
        self._channel.close()
        os.close(self.alarm_fd)
        _, status = os.waitpid(self.pid, 0)
        return status


def _become_template(
    load: Callable[[], LoadedApp], run_slot: RunSlot, channel: socket.socket, lifeline: int, parent: int
) -> None:
    """What the forked template does until the supervisor is gone. Never returns."""
    code = 1
    try:
        _die_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, _ignore)
        app = _load(load, channel)
        if app is not None:
            with contextlib.suppress(ConnectionError):  # the supervisor is gone, and so is the template's purpose
                _serve(app, run_slot, channel, lifeline)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _ignore(number: int, frame: object) -> None:
    """Signals to the whole group are the supervisor's to act on.

    A handler, so that programs started by tasks don't inherit it.
    """


def _die_with_parent(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _load(load: Callable[[], LoadedApp], channel: socket.socket) -> LoadedApp | None:
    try:
        app = load()
    except MeshError as error:
        cause = error.__cause__
        text = "".join(traceback.format_exception(cause)) if cause is not None else ""
        channel.send(msgpack.packb(["failed", str(error), text]))
        return None
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        channel.send(
            msgpack.packb(["failed", f"the app did not load: {type(error).__name__}: {error}", text[-100_000:]])
        )
        return None
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        logger.warning(
            "importing the app started threads (%s): they do not exist in the slots. Start them in the task instead.",
            names,
            extra={"action": "preload_threads"},
        )
    gc.collect()
    gc.freeze()
    channel.send(msgpack.packb(["loaded", app.info]))
    return app


def _serve(app: LoadedApp, run_slot: RunSlot, channel: socket.socket, lifeline: int) -> None:
    #: {pidfd: pid}
    children: dict[int, int] = {}
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != channel.fileno():
                poll.unregister(fd)
                os.close(fd)
                pid, status, usage = os.wait4(children.pop(fd), 0)
                channel.send(msgpack.packb(["exited", pid, status, usage.ru_maxrss]))
                continue
            packet = channel.recv(_PACKET_BYTES)
            if not packet:
                return
            order = SlotOrder(*msgpack.unpackb(packet, use_list=False))
            pid = _fork_slot(app, run_slot, order, channel, lifeline, tuple(children))
            pidfd = os.pidfd_open(pid)
            children[pidfd] = pid
            poll.register(pidfd, select.POLLIN)
            channel.send(msgpack.packb(["spawned", order.slot, pid]))


def _fork_slot(
    app: LoadedApp, run_slot: RunSlot, order: SlotOrder, channel: socket.socket, lifeline: int, others: tuple[int, ...]
) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _die_with_parent(parent)
        channel.close()
        for fd in others:
            os.close(fd)
        run_slot(app, order, lifeline)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a task may have closed or replaced them
                stream.flush()
        os._exit(code)


def place_of(order: SlotOrder) -> locate.Place:
    """Where the slot's router is."""
    return locate.Place(order.mesh, order.directory, False)
