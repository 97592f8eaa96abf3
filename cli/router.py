"""`mesh router`: its options."""

from __future__ import annotations

import click

from .daemon import DaemonOptions
from .daemon_options import daemon_options
from .help import CONTEXT, examples
from .router_service import RouterService
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
def command(state: State, *, daemon: DaemonOptions) -> RouterService:
    """Run this host's router in the foreground.

    Nobody needs to: the first node or call starts one. This one stays until Ctrl-C or SIGTERM; those that were started
    on demand leave when they have been idle for a while.
    """
    return RouterService(state, daemon)
