"""`mesh worker`: its options."""

from __future__ import annotations

from typing import Any, Final

import click

from mesh import logs
from mesh.messages import LIMIT_MAX_S

from . import inline_settings
from .celery_options import celery_options
from .daemon import DaemonOptions
from .daemon_options import daemon_options
from .help import CONTEXT, examples
from .naming import node_name, queue_names, slot_range, slots
from .node_service import Choice, NodeService
from .options import names
from .state import State

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
def command(state: State, /, *, hostname: str, daemon: DaemonOptions, **choices: Any) -> NodeService:
    """Run a node: it executes tasks.

    It takes tasks from the queues and runs them in its slots: processes, or what --pool says. A router is started where
    none runs. KEY=VALUE sets what the app would: worker_concurrency=4, or .concurrency=4 for what begins with worker_.

    Stop it with Ctrl-C or SIGTERM: what runs is finished, what waits goes to other nodes, and the exit code is 0.
    A second Ctrl-C, or SIGQUIT, ends it at once; what ran then is run again elsewhere.
    """
    state.need_app("mesh -A proj worker")
    choice = Choice(**choices)
    _check(choice)
    return NodeService(state, hostname, daemon, choice)


def _check(choice: Choice) -> None:
    hard_s, soft_s = choice.time_limit, choice.soft_time_limit
    if hard_s is not None and soft_s is not None and soft_s >= hard_s:
        raise click.UsageError(f"--soft-time-limit {soft_s:g} comes too late: give less than --time-limit {hard_s:g}.")
    if choice.queues is not None and not set(choice.queues) - set(choice.exclude_queues):
        raise click.UsageError("--exclude-queues leaves no queue of --queues.")
