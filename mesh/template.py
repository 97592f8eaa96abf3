"""The host of a node's slots: a child that imports the app, and from which, or in which, slots run (DESIGN D5).

For the pool that forks it is the *template*: it has no thread and no ZeroMQ context, so that its forks are clean, and
freezes the garbage collector, so that slots share its memory. `mesh.pools` says how the other pools run slots in it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

from mesh import pools, stacks
from mesh.core.supervision import end_of
from mesh.exceptions import MeshError
from mesh.pools.hosting import Channel, HostLine, LoadedApp, Pool, SlotMaker, die_with_parent
from mesh.slot_page import SETTLE_S

logger = logging.getLogger(__name__)

#: How much of a traceback the supervisor is told.
_TRACEBACK_CHARS: Final = 100_000
#: Tells a program that is started anew that it is to be a host: what a `_Berth` says, as JSON.
VARIABLE: Final = "_MESH_HOST_OF_NODE"


class HostPlan(NamedTuple):
    """What a host does."""

    load: Callable[[], LoadedApp]  #: imports the app
    pool: str
    maker: SlotMaker
    preload: bool = True  #: import the app once, before slots are forked, and not in each of them


class SharedFiles(NamedTuple):
    """What all processes of a node have open, under the same numbers."""

    alarm_fd: int  #: an eventfd, readable when the supervisor is to look at the slot page
    stacks_fd: int  #: as in `mesh.stacks`


class Program(NamedTuple):
    """This program, as it was started."""

    argv: Sequence[str]
    directory: str  #: where that was: its arguments may be relative to it


class _Berth(NamedTuple):
    """What a host that is started anew inherits."""

    channel_fd: int
    alarm_fd: int
    stacks_fd: int
    supervisor_pid: int
    preload: bool
    pool: str


class Template(HostLine):
    """The supervisor's handle, as `hosting.Host`: a process, and the socket to it."""

    kills_one = False

    @classmethod
    def fork(cls, plan: HostPlan, files: SharedFiles) -> Template:
        """Forks a host. Call it before any thread, socket or context exists."""
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        supervisor_pid = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # Who asks for its stacks before it can write them is answered once it can.
        signal.pthread_sigmask(signal.SIG_BLOCK, stacks.ASKING)
        try:
            pid = os.fork()
            if pid == 0:
                channel.close()
                become_host(plan, Channel(theirs), files, supervisor_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stacks.ASKING)
        theirs.close()
        return cls(pid, channel, os.pidfd_open(pid))

    @classmethod
    def execute(cls, program: Program, files: SharedFiles, *, preload: bool, pool: str) -> Template:
        """Starts this program anew as a host: for new code, from a supervisor that has threads.

        It must lead to `become_what_was_ordered`.
        """
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        berth = _Berth(theirs.fileno(), *files, os.getpid(), preload, pool)
        inherited = (berth.channel_fd, *files)
        try:
            for fd in inherited:
                os.set_inheritable(fd, True)
            with contextlib.chdir(program.directory):
                pid = os.posix_spawn(program.argv[0], [*program.argv], {**os.environ, VARIABLE: json.dumps(berth)})
        except OSError:
            channel.close()
            raise
        finally:
            for fd in files:
                os.set_inheritable(fd, False)
            theirs.close()
        return cls(pid, channel, os.pidfd_open(pid))

    def kill_run(self, seat: int, pid: int, still_runs: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """Stops the slot's process before it looks, so that the kill hits this run and not the next one."""
        _kill(pid, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        try:
            hits = still_runs()
            if hits:
                _kill(pid, number)
        finally:
            _kill(pid, signal.SIGCONT)
        return hits

    def kill_slot(self, seat: int, pid: int) -> None:
        """Ends the process of a slot, whatever it does."""
        _kill(pid, signal.SIGKILL)

    def ends_within(self, patience_s: float) -> bool:
        """Whether its process ends so soon."""
        assert self._pidfd is not None, "it is not closed"
        return bool(select.select([self._pidfd], [], [], patience_s)[0])

    def kill(self) -> None:
        """Ends the host at once, wherever it is; `close` reaps it."""
        _kill(self.pid, signal.SIGKILL)

    def close(self) -> tuple[int, int]:
        """Ends the host (its slots have ended) and reaps it. Returns its wait status and peak RSS in KiB."""
        self._channel.close()
        _, status, usage = os.wait4(self.pid, 0)
        self.forget()
        return status, usage.ru_maxrss


def _kill(pid: int, number: int) -> None:
    """A signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def become_what_was_ordered(plan: HostPlan) -> None:
    """Never returns where this program was started by `Template.execute`; else does nothing."""
    ordered = os.environ.pop(VARIABLE, None)
    if ordered is None:
        return
    berth = _Berth(*json.loads(ordered))
    for fd in (berth.channel_fd, berth.alarm_fd, berth.stacks_fd):
        os.set_inheritable(fd, False)
    channel = Channel(socket.socket(fileno=berth.channel_fd))
    files = SharedFiles(berth.alarm_fd, berth.stacks_fd)
    become_host(plan._replace(preload=berth.preload, pool=berth.pool), channel, files, berth.supervisor_pid)


def become_host(plan: HostPlan, channel: Channel, files: SharedFiles, supervisor_pid: int) -> NoReturn:
    """What the host does until the supervisor is gone."""
    code = 1
    try:
        die_with_parent(supervisor_pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, _ignore)
        stacks.write_on_request(files.stacks_fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stacks.ASKING)
        pool = _prepared(plan, channel)
        load = None if pool is None else _loading(plan, pool, channel)
        if pool is not None and load is not None:
            with contextlib.suppress(ConnectionError):  # the supervisor is gone, and so is the host's purpose
                pool.serve(load, plan.maker, channel)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _ignore(number: int, frame: object) -> None:
    """Signals to the whole group are the supervisor's to act on.

    A handler, so that programs started by tasks don't inherit it.
    """


def _prepared(plan: HostPlan, channel: Channel) -> Pool | None:
    """The pool, in a process that is ready for it; None, where it can't be, and the supervisor was told."""
    try:
        pool = pools.find(plan.pool)
        pool.prepare()
        if pool.greenlets is not None:
            plan.maker.use(pool.greenlets)
    except Exception as error:
        text = "" if isinstance(error, MeshError) else "".join(traceback.format_exception(error))
        channel.say("failed", f"pool {plan.pool}: {error}", text[-_TRACEBACK_CHARS:])
        return None
    return pool


def _loading(plan: HostPlan, pool: Pool, channel: Channel) -> Callable[[], LoadedApp] | None:
    """Tells the supervisor what the app is. What gives slots the app; None where it can't be imported."""
    if pool.forks and not plan.preload:
        return plan.load if _describe_in_a_child(plan.load, channel) else None
    app = _load(plan.load, channel, forks=pool.forks)
    return None if app is None else lambda: app


def _describe_in_a_child(load: Callable[[], LoadedApp], channel: Channel) -> bool:
    """Whether a child could import the app, and has told the supervisor of it: here it must not be imported."""
    parent_pid = os.getpid()
    heard, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent(parent_pid)
        os.write(tell, b"\1" if _load(load, channel, forks=False) is not None else b"\0")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    os.set_blocking(heard, False)  # what the app has started may hold the other end
    try:
        told = os.read(heard, 1)
    except BlockingIOError:
        told = b""
    os.close(heard)
    os.close(tell)
    if not told:
        channel.say("failed", f"the process that loads the app {end_of(status)}", "")
    return told == b"\1"


def _load(load: Callable[[], LoadedApp], channel: Channel, *, forks: bool) -> LoadedApp | None:
    from mesh import preloading

    try:
        with preloading.watched() as watch:
            app = load()
    except MeshError as error:
        cause = error.__cause__
        text = "".join(traceback.format_exception(cause)) if cause is not None else ""
        channel.say("failed", str(error), text[-_TRACEBACK_CHARS:])
        return None
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        channel.say("failed", f"the app did not load: {type(error).__name__}: {error}", text[-_TRACEBACK_CHARS:])
        return None
    obstacle = watch.obstacle() if forks else ""
    if not obstacle:
        gc.collect()
        gc.freeze()
    channel.say("loaded", {**app.info, "obstacle": obstacle})
    return app
