"""`mesh router`: this host's router in the foreground, for a unit file or for looking at it."""

from __future__ import annotations

import socket

import click

from mesh import locate

from . import exit_codes
from .daemon import DaemonOptions, daemon_options, living
from .errors import Failed
from .help import CONTEXT, examples
from .state import State


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh router", "the router of the default mesh"),
        ("mesh -b mesh://lab router -l DEBUG", "of another mesh, with much to read"),
        ("mesh router -D --pidfile /run/mesh/router.pid", "in the background"),
    ),
)
@daemon_options("INFO")
@click.pass_obj
def command(state: State, *, daemon: DaemonOptions) -> int:
    """Run this host's router in the foreground.

    Nobody needs to: the first node or call starts one. This one stays until Ctrl-C or SIGTERM; those that were started
    on demand leave when they have been idle for a while.
    """
    with living(f"router@{socket.gethostname()}", daemon, state.colour) as life:
        settings = state.settings()
        place = locate.locate(settings.broker_url)
        pid = locate.router_pid(place)
        if pid is not None:
            raise Failed(_runs_already(place, pid))
        from mesh.router import run_router

        ready = f"router of mesh {place.mesh!r} ready in {place.directory}"
        code = run_router(place, settings._replace(router_idle_exit=None), on_ready=lambda: life.ready(ready))
        return exit_codes.FAILURE if code else exit_codes.OK


def _runs_already(place: locate.Place, pid: int) -> str:
    return (
        f"a router of mesh {place.mesh!r} runs already, with pid {pid}. "
        f'See it with "mesh status"; stop it with "kill {pid}".'
    )
