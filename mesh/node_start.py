"""Starts a node in this process: has the app loaded in a host, finds out what it asks for, and runs until stopped."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Any

from mesh import locate, pools, stacks
from mesh.exceptions import MeshError
from mesh.node import Node, NodeOptions, complete
from mesh.pools.hosting import SlotMaker
from mesh.template import HostPlan, SharedFiles, Template
from mesh.workforce import in_words, warn_of_obstacle

logger = logging.getLogger(__name__)


class AppFailed(MeshError):
    """The app could not be loaded."""

    def __init__(self, message: str, remote_traceback: str) -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback


def run_node(options: NodeOptions, maker: SlotMaker) -> int:
    """Runs a node in this process until it is stopped by a signal. Returns its exit code.

    Must be called before this process has any thread or ZeroMQ context.

    Raises:
        AppFailed: the app could not be loaded.
        RouterUnreachable: no router answered in `options.connect_s`.
    """
    pools.find(options.pool)  # raises before anything is started
    files = SharedFiles(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), stacks.make_file())
    host, info, pool_name = _hire(HostPlan(options.load, options.pool, maker, options.preload), files)
    node = None
    try:
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
        host.kill()  # what runs is not waited for
        raise
    finally:
        if node is not None:
            node.close()
        else:
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
    except BaseException:
        host.kill()
        host.close()
        raise
    if said is None:
        status, _ = host.close()
        raise AppFailed(f"the process that loads the app {in_words(status)}", "")
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

    for number, handler in (
        (signal.SIGTERM, end),
        (signal.SIGQUIT, end),
        (signal.SIGUSR1, show),
        (signal.SIGHUP, wait),
    ):
        signal.signal(number, handler)
