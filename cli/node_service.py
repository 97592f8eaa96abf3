"""A node in the foreground. This process only supervises: a child imports the app and forks slots."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mesh import locate, pools
from mesh.exceptions import InvalidCall, MeshError

from . import errors, exit_codes
from .banner import banner
from .daemon import DaemonOptions, Life, living
from .service import Service
from .state import State

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.pools.hosting import LoadedApp
    from mesh.settings import Settings


class Choice(NamedTuple):
    """What the options say of the node's work."""

    concurrency: int | None
    pool: str | None
    preload: bool
    autoscale: tuple[int, int] | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    queues: tuple[str, ...] | None
    exclude_queues: tuple[str, ...]
    time_limit: float | None
    soft_time_limit: float | None
    include: tuple[str, ...]
    settings: dict[str, str]


class NodeService(Service):
    """A node."""

    def __init__(self, state: State, name: str, daemon: DaemonOptions, choice: Choice) -> None:
        super().__init__(state)
        self._name = name
        self._daemon = daemon
        self._choice = choice

    def run(self) -> int:
        """As its base."""
        from mesh.template import VARIABLE

        daemon = self._daemon.of_host() if VARIABLE in os.environ else self._daemon
        with living(self._name, daemon, self.state.colour) as life:
            return _run(self.state, self._name, self._choice, life)


def _run(state: State, name: str, choice: Choice, life: Life) -> int:
    from mesh.logged_slots import LoggedSlots
    from mesh.node import NodeOptions
    from mesh.node_start import AppFailed, run_node
    from mesh.slot_maker import Slots
    from mesh.template import HostPlan, Program, become_what_was_ordered

    def on_loaded(info: dict[str, Any]) -> None:
        if not state.quiet:
            life.say(banner(name, info, life.log, with_tasks=logging.getLogger().isEnabledFor(logging.INFO)))

    load, maker, queues = _loader(state, choice), LoggedSlots(Slots()), choice.queues
    pool = choice.pool or _pool_before_the_app(state, choice)
    become_what_was_ordered(HostPlan(load, pool, maker))
    options = NodeOptions(
        name=name,
        load=load,
        place=None if state.broker is None else locate.locate(state.broker),
        pool=pool,
        concurrency=choice.concurrency,
        queues=None if queues is None else tuple(queue for queue in queues if queue not in choice.exclude_queues),
        preload=choice.preload,
        program=None if state.started_in is None else Program((sys.executable, *sys.orig_argv[1:]), state.started_in),
        on_loaded=on_loaded,
        on_ready=lambda: life.ready(f"{name} ready."),
    )
    # Frozen before the fork, so that no later collection writes to the pages which this process and its children share:
    # 3.5 MiB less for a node of two slots.
    gc.collect()
    gc.freeze()
    try:
        return run_node(options, maker)
    except AppFailed as error:
        errors.say(str(error), error.remote_traceback)
        return exit_codes.USAGE


def _loader(state: State, choice: Choice) -> Callable[[], LoadedApp]:
    """What imports the app. It runs in the host. What the command line says goes before what the app says."""

    def load() -> LoadedApp:
        from mesh import loading

        try:
            app = _load_app(state, choice)
        except MeshError as error:
            errors.trim(error)
            raise
        if choice.queues is None and app.conf.task_default_queue in choice.exclude_queues:
            raise InvalidCall("exclude_queues", app.conf.task_default_queue, "--queues too: it was the only queue")
        loaded = loading.described(app, state.target or app.main or "__main__", choice._asdict())
        return loaded._replace(info={**loaded.info, "given": _given(choice, app.settings)})

    return load


def _pool_before_the_app(state: State, choice: Choice) -> str:
    """The pool as far as it can be known without the app; where that says another, the host is made again."""
    conf = state.conf_before_the_app()
    conf.override(choice.settings)
    pool: str = conf["worker_pool"]
    return pool


def _given(choice: Choice, settings: Settings) -> dict[str, pools.Given]:
    """What a pool may not be able to do, and is asked for: by options, else by settings."""
    given: dict[str, pools.Given] = {}
    for option, setting in pools.SETTINGS.items():
        value = getattr(choice, option.lstrip("-").replace("-", "_"), None)
        if value is not None:
            given[option] = (value, None)
        elif (value := getattr(settings, setting)) is not None:
            given[option] = (value, setting)
    return given


def _load_app(state: State, choice: Choice) -> Mesh:
    from mesh import loading

    app = state.find_app()
    assert app is not None
    app.conf.override(choice.settings)
    loading.load_tasks(app)
    for module in choice.include:
        loading.load_module(module)
    return app
