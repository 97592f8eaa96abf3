"""`mesh worker`: a node in the foreground. This process only supervises: a child imports the app and forks slots."""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from mesh import locate, logs, pools
from mesh.exceptions import MeshError
from mesh.messages import LIMIT_MAX_S
from mesh.settings import QUEUE_NAME_RULE, is_queue_name
from mesh.version import VERSION

from . import errors, exit_codes
from .help import CONTEXT, examples
from .options import loglevel_option, names
from .state import State

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.pools.hosting import LoadedApp

_NODE_NAME = re.compile(r"[^\s,@%]+@[^\s,@%]+")


def node_name(text: str) -> str:
    """`name@host`, by default this host; %h, %n and %d stand for its whole name, the first part and the rest."""
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    parts = {"%h": host, "%n": short, "%d": domain, "%%": "%"}
    name = re.sub("%.", lambda found: parts.get(found[0], found[0]), text)
    name = name if "@" in name else f"{name}@{host}"
    if not _NODE_NAME.fullmatch(name):
        raise click.BadParameter(
            f"{text!r} is no node name: give NAME@HOST without spaces and commas; %h, %n, %d are expanded."
        )
    return name


def queue_names(text: str) -> tuple[str, ...]:
    """As `names`, where each can be a queue."""
    if not names(text):
        raise click.BadParameter("no queue is named: give A,B, or leave -Q out for the app's default queue.")
    for name in names(text):
        if not is_queue_name(name):
            raise click.BadParameter(f"{name!r} is no queue: give {QUEUE_NAME_RULE}.")
    return names(text)


LIMIT: Final = click.FloatRange(min=0, min_open=True, max=LIMIT_MAX_S, max_open=True)


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh -A proj worker -l INFO", "a node with one slot per CPU"),
        ("mesh -A proj worker -c 4 -Q mail,celery", "four slots, for two queues"),
        ("mesh -A proj worker -n w2", "a second node on this host: w2@HOST"),
        ("mesh -A proj -b mesh://lab worker", "a node of another mesh"),
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
    type=click.IntRange(min=1),
    allow_from_autoenv=False,  # MESH_WORKER_CONCURRENCY is the variable of a setting, and read as such
    help="Slots: tasks that run at once [default: the app's, else one per CPU].",
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
    default=pools.DEFAULT,
    show_default=True,
    help="How tasks run: prefork, threads, solo, asyncio, gevent, eventlet, or that of a plug-in.",
)
@click.option(
    "--preload/--no-preload",
    default=True,
    show_default=True,
    help="Import the app once and fork slots from there, or in each slot.",
)
@click.option(
    "--max-tasks-per-child",
    metavar="N",
    type=click.IntRange(min=1),
    help="Replace a slot's process after N tasks [default: the app's worker_max_tasks_per_child, else never].",
)
@click.option(
    "--max-memory-per-child",
    metavar="KIB",
    type=click.IntRange(min=1),
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
@loglevel_option(logs.DEFAULT_LEVEL)
@click.option(
    "-I", "--include", metavar="M,N", type=names, default="", help="Further modules to import for their tasks."
)
@click.pass_obj
def command(
    state: State,
    *,
    hostname: str,
    concurrency: int | None,
    pool: str,
    preload: bool,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    queues: tuple[str, ...] | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    loglevel: str,
    include: tuple[str, ...],
) -> int:
    """Run a node: it executes tasks.

    It takes tasks from the queues and runs them in its slots, each a process. A router is started where none runs.

    Stop it with Ctrl-C or SIGTERM: what runs is finished, what waits goes to other nodes, and the exit code is 0.
    A second Ctrl-C, or SIGQUIT, ends it at once; what ran then is run again elsewhere.
    """
    state.need_app("mesh -A proj worker")
    if time_limit is not None and soft_time_limit is not None and soft_time_limit >= time_limit:
        raise click.UsageError(
            f"--soft-time-limit {soft_time_limit:g} comes too late: give less than --time-limit {time_limit:g}."
        )
    logs.configure(loglevel, colour=None if state.colour else False)
    from mesh.node import AppFailed, NodeOptions, run_node
    from mesh.slot import Slots
    from mesh.template import HostPlan, become_what_was_ordered

    def on_loaded(info: dict[str, Any]) -> None:
        if not state.quiet:
            click.echo(banner(hostname, info, with_tasks=logs.level_number(loglevel) <= logs.LEVELS["INFO"]))

    said = {
        "time_limit": time_limit,
        "soft_time_limit": soft_time_limit,
        "max_tasks_per_child": max_tasks_per_child,
        "max_memory_per_child": max_memory_per_child,
    }
    load, maker = _loader(state, include, said), Slots()
    become_what_was_ordered(HostPlan(load, pool, maker))
    options = NodeOptions(
        name=hostname,
        load=load,
        place=None if state.broker is None else locate.locate(state.broker),
        pool=pool,
        concurrency=concurrency,
        queues=queues,
        preload=preload,
        argv=(sys.executable, *sys.orig_argv[1:]),
        on_loaded=on_loaded,
        on_ready=lambda: logs.announce(f"{hostname} ready.", "ready"),
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


def _loader(state: State, include: tuple[str, ...], said: dict[str, Any]) -> Callable[[], LoadedApp]:
    """What imports the app. It runs in the host. What the command line has `said` goes before what the app says."""

    def load() -> LoadedApp:
        from mesh import loading

        try:
            app = _load_app(state, include)
        except MeshError as error:
            errors.trim(error)
            raise
        return loading.described(app, state.target or app.main or "__main__", said)

    return load


def _load_app(state: State, include: tuple[str, ...]) -> Mesh:
    from mesh import loading

    app = state.find_app()
    assert app is not None
    loading.load_tasks(app)
    for module in include:
        loading.load_module(module)
    return app


def banner(name: str, info: dict[str, Any], with_tasks: bool) -> str:
    """What a node says of itself before it is ready."""
    limits = [f"{what} {s:g} s" for what, s in zip(("hard", "soft"), info["limits"], strict=True) if s]
    lines = [
        f"{name} v{VERSION} (pid {os.getpid()})",
        "",
        "[config]",
        f".> app:         {info['app']}",
        f".> mesh:        {info['mesh']} in {info['directory']}",
        f".> concurrency: {info['concurrency']} ({info['pool']})",
        *([f".> time limits: {', '.join(limits)}"] if limits else []),
        "",
        "[queues]",
        *(f".> {queue}" for queue in info["queues"]),
        "",
    ]
    if with_tasks:
        lines += ["[tasks]", *(f"  . {task}" for task in info["tasks"]), ""]
    return "\n".join(lines)
