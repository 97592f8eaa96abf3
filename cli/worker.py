"""`mesh worker`: a node in the foreground. This process only supervises: a child imports the app and forks slots."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from mesh import locate, logs, pools
from mesh.exceptions import InvalidCall, MeshError
from mesh.messages import LIMIT_MAX_S

from . import errors, exit_codes, inline_settings
from .banner import banner
from .celery_options import celery_options
from .daemon import DaemonOptions, Life, daemon_options, living
from .help import CONTEXT, examples
from .naming import node_name, queue_names, slot_range, slots
from .options import names
from .state import State

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.pools.hosting import LoadedApp
    from mesh.settings import Settings

LIMIT: Final = click.FloatRange(min=0, min_open=True, max=LIMIT_MAX_S, max_open=True)


def _settings(ctx: click.Context, param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    return inline_settings.split(words)


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh -A proj worker -l INFO", "a node with one slot per CPU"),
        ("mesh -A proj worker -c 4 -Q mail,celery", "four slots, for two queues"),
        ("mesh -A proj worker -n w2", "a second node on this host: w2@HOST"),
        ("mesh -A proj worker -P asyncio -c 200", "two hundred coroutines at once"),
        ("mesh -A proj -b mesh://lab worker", "a node of another mesh"),
        ("mesh -A proj worker -D -f /var/log/mesh/%n.log", "in the background"),
    ),
)
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    type=node_name,
    default="mesh@%h",
    show_default=True,
    help="Name of the node.",
)
@click.option(
    "-c",
    "--concurrency",
    metavar="N",
    type=slots,
    allow_from_autoenv=False,  # MESH_WORKER_CONCURRENCY is the variable of a setting, and read as such
    help="Slots: tasks that run at once; auto: as the pool sees fit, one per CPU or, where tasks only wait, 100 "
    "[default: the app's, else auto].",
)
@click.option(
    "-Q",
    "--queues",
    metavar="A,B",
    type=queue_names,
    help="Queues to take tasks from [default: the app's task_default_queue].",
)
@click.option(
    "-P",
    "--pool",
    metavar="POOL",
    allow_from_autoenv=False,  # as MESH_WORKER_CONCURRENCY
    help="How tasks run: prefork, threads, solo, asyncio, gevent, eventlet, or that of a plug-in [default: the app's "
    "worker_pool].",
)
@click.option(
    "--preload/--no-preload",
    default=True,
    show_default=True,
    help="Import the app once and fork slots from there, or in each slot.",
)
@click.option(
    "--autoscale",
    metavar="MAX,MIN",
    type=slot_range,
    allow_from_autoenv=False,  # as MESH_WORKER_CONCURRENCY
    help="Have between MIN (0) and MAX slots, as many as there is work for [default: the app's worker_autoscale].",
)
@click.option(
    "--max-tasks-per-child",
    metavar="N",
    type=click.IntRange(min=1),
    allow_from_autoenv=False,
    help="Replace a slot's process after N tasks [default: the app's worker_max_tasks_per_child, else never].",
)
@click.option(
    "--max-memory-per-child",
    metavar="KIB",
    type=click.IntRange(min=1),
    allow_from_autoenv=False,
    help="Replace a slot's process once it has more resident memory, KiB [default: the app's, else never].",
)
@click.option(
    "--time-limit",
    metavar="S",
    type=LIMIT,
    help="Kill a task that runs longer, seconds [default: the app's task_time_limit].",
)
@click.option(
    "--soft-time-limit",
    metavar="S",
    type=LIMIT,
    help="Raise SoftTimeLimitExceeded in a task that runs longer, seconds [default: the app's].",
)
@click.option(
    "-X",
    "--exclude-queues",
    metavar="A,B",
    type=queue_names,
    callback=lambda ctx, param, queues: queues or (),
    help="Queues not to take tasks from, of those it would.",
)
@click.option(
    "-I", "--include", metavar="M,N", type=names, default="", help="Further modules to import for their tasks."
)
@daemon_options(logs.DEFAULT_LEVEL)
@celery_options
@click.argument("settings", metavar="[KEY=VALUE]...", nargs=-1, callback=_settings)
@click.pass_obj
def command(state: State, /, *, hostname: str, daemon: DaemonOptions, **choices: Any) -> int:
    """Run a node: it executes tasks.

    It takes tasks from the queues and runs them in its slots: processes, or what --pool says. A router is started where
    none runs. KEY=VALUE sets what the app would: worker_concurrency=4, or .concurrency=4 for what begins with worker_.

    Stop it with Ctrl-C or SIGTERM: what runs is finished, what waits goes to other nodes, and the exit code is 0.
    A second Ctrl-C, or SIGQUIT, ends it at once; what ran then is run again elsewhere.
    """
    state.need_app("mesh -A proj worker")
    choice = Choice(**choices)
    _check(choice)
    from mesh.template import VARIABLE

    with living(hostname, daemon.of_host() if VARIABLE in os.environ else daemon, state.colour) as life:
        return _run(state, hostname, choice, life)


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


def _check(choice: Choice) -> None:
    hard_s, soft_s = choice.time_limit, choice.soft_time_limit
    if hard_s is not None and soft_s is not None and soft_s >= hard_s:
        raise click.UsageError(f"--soft-time-limit {soft_s:g} comes too late: give less than --time-limit {hard_s:g}.")
    if choice.queues is not None and not set(choice.queues) - set(choice.exclude_queues):
        raise click.UsageError("--exclude-queues leaves no queue of --queues.")


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
