"""Starts a node in this process: has the app loaded in a host, finds out what it asks for, and runs until stopped."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Any, Final

from mesh import locate, pools, stacks
from mesh.core.supervision import end_of
from mesh.exceptions import MeshError
from mesh.node import Node, NodeOptions, complete
from mesh.pools.hosting import SlotMaker
from mesh.template import HostPlan, SharedFiles, Template
from mesh.workforce import warn_of_obstacle

logger = logging.getLogger(__name__)

#: What is heeded before there is a node.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP)
#: How long a host that has closed its line may take to end.
_GONE_S: Final = 1.0


class AppFailed(MeshError):
    """The app could not be loaded."""

    def __init__(self, message: str, remote_traceback: str) -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback


def run_node(options: NodeOptions, maker: SlotMaker) -> int:
    """Runs a node in this process until it is stopped by a signal. Returns its exit code.

    Must be called before this process has any thread or ZeroMQ context, in its main thread.

    Raises:
        AppFailed: the app could not be loaded.
        RouterUnreachable: no router answered in `options.connect_s`.
    """
    pools.find(options.pool)  # raises before anything is started
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who started this may have had it ignored: hosts are reaped
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    files = SharedFiles(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), stacks.make_file())
    host = node = None
    try:
        host, info, pool_name = _hire(HostPlan(options.load, options.pool, maker, options.preload), files)
        pool = pools.find(pool_name)
        pools.refuse(pool, info.get("given", {}))
        place = options.place or locate.locate(info.get("broker_url"))
        locate.ensure_router(place, info.get("router_settings"))
        complete(info, options, pool.concurrency())
        node = Node(options, pool, host, files, info, place)
        node.heed_signals()
        options.on_loaded({**info, "mesh": place.mesh, "directory": place.directory, "pool": pool.name})
        return 0 if node.run() else 1
    except BaseException:
        if host is not None:
            host.kill()  # what runs is not waited for
        for number, handler in before.items():
            signal.signal(number, handler)
        raise
    finally:
        if node is not None:
            node.close()
        elif host is not None:
            host.kill()
            host.close()
        for fd in files:
            os.close(fd)


def _hire(plan: HostPlan, files: SharedFiles) -> tuple[Template, dict[str, Any], str]:
    """A host that has the app, what it says of it, and the pool. An import that takes its time can be interrupted."""
    host = Template.fork(plan, files)
    try:
        _heed_signals_meanwhile(host.pid, files)
        while (said := host.receive()) == []:
            pass
        if said is not None and said[0] != "loaded":
            raise AppFailed(*said[1:])
        ended = said is not None or host.ends_within(_GONE_S)
    except BaseException:
        host.kill()
        host.close()
        raise
    if said is None:
        host.kill()
        status, _ = host.close()
        how = end_of(status) if ended else "has closed its line to the node"
        raise AppFailed(f"the process that loads the app {how}", "")
    info: dict[str, Any] = said[1]
    pool = pools.name_of(info.get("pool", plan.pool))
    if pool == pools.name_of(plan.pool) and not info["obstacle"]:
        return host, info, pool
    host.kill()
    host.close()
    if pool != pools.name_of(plan.pool):
        pools.find(pool)
        return _hire(plan._replace(pool=pool), files)
    warn_of_obstacle(info["obstacle"])
    return _hire(plan._replace(preload=False), files)


def _heed_signals_meanwhile(host_pid: int, files: SharedFiles) -> None:
    """Until there is a node that heeds them: this process ends in order, or says where the import of the app is."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def show(number: int, frame: FrameType | None) -> None:
        text = stacks.of(host_pid, files.stacks_fd) or "it does not answer"
        logger.warning("stacks of the process that loads the app:\n%s", text, extra={"action": "stacks"})

    def wait(number: int, frame: FrameType | None) -> None:
        """What is loaded is new already."""

    for number, handler in zip(_SIGNALS, (end, end, show, wait), strict=True):
        signal.signal(number, handler)
