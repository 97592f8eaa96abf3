"""`mesh router`: this host's router in the foreground, for a unit file or for looking at it."""

from __future__ import annotations

import click

from mesh import locate, logs

from . import exit_codes
from .errors import Failed
from .help import CONTEXT, examples
from .options import loglevel_option
from .state import State


@click.command(
    context_settings=CONTEXT,
    epilog=examples(
        ("mesh router", "the router of the default mesh"),
        ("mesh -b mesh://lab router -l DEBUG", "of another mesh, with much to read"),
    ),
)
@loglevel_option("INFO")
@click.pass_obj
def command(state: State, *, loglevel: str) -> int:
    """Run this host's router in the foreground.

    Nobody needs to: the first node or call starts one. This one stays until Ctrl-C or SIGTERM; those that were started
    on demand leave when they have been idle for a while.
    """
    settings = state.settings()
    place = locate.locate(settings.broker_url)
    pid = locate.router_pid(place)
    if pid is not None:
        raise Failed(_runs_already(place, pid))
    logs.configure(loglevel, colour=None if state.colour else False)
    from mesh.router import run_router

    ready = f"router of mesh {place.mesh!r} ready in {place.directory}"
    code = run_router(place, settings._replace(router_idle_exit=None), on_ready=lambda: logs.announce(ready, "ready"))
    return exit_codes.FAILURE if code else exit_codes.OK


def _runs_already(place: locate.Place, pid: int) -> str:
    return (
        f"a router of mesh {place.mesh!r} runs already, with pid {pid}. "
        f'See it with "mesh status"; stop it with "kill {pid}".'
    )
