"""This host's router in the foreground, for a unit file or for looking at it."""

from __future__ import annotations

import os

from mesh import locate

from . import exit_codes
from .daemon import DaemonOptions, living
from .errors import Failed
from .service import Service
from .state import State


class RouterService(Service):
    """A router, until it is stopped."""

    def __init__(self, state: State, daemon: DaemonOptions) -> None:
        super().__init__(state)
        self._daemon = daemon

    def run(self) -> int:
        """As its base."""
        with living(f"router@{os.uname().nodename}", self._daemon, self.state.colour) as life:
            settings = self.state.settings()
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
