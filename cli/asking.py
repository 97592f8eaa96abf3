"""Asking without starting anything: for `status` and `inspect`, which must leave a mesh as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from mesh import locate
from mesh.control import Control
from mesh.exceptions import RouterUnreachable
from mesh.interfaces import ControlLink
from mesh.settings import Settings

from .state import State

#: How long a router that is there may take to answer the first message, in seconds: 1000 times what it takes.
CONNECT_S: Final = 1.0


class _Source(NamedTuple):
    client: ControlLink
    settings: Settings


@contextmanager
def control(state: State, timeout_s: float) -> Iterator[Control]:
    """The control of the mesh that is there.

    Raises:
        RouterUnreachable: it has no router.
    """
    settings = state.settings()
    place = locate.locate(settings.broker_url)
    if not place.managed and locate.router_pid(place) is None:
        raise RouterUnreachable(place.mesh, 0.0, place.directory, "none is running there")
    from mesh.client import Client

    patience = settings._replace(broker_connection_timeout=max(timeout_s, CONNECT_S))
    client = Client(place, patience, autostart=False)
    try:
        yield Control(_Source(client, settings))
    finally:
        client.close()
