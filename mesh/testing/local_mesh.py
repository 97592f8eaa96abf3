"""A mesh of a test's own: a real router, in a thread of the process, in a directory that goes with it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import Final
from weakref import WeakKeyDictionary

from mesh import locate
from mesh.app import Mesh
from mesh.exceptions import InvalidMeshName
from mesh.router import Router
from mesh.settings import Settings, router_settings

#: How the settings that an app has for the time are explained.
SOURCE: Final = "mesh.testing"
#: Where meshes are if the directory for temporary files has too long a name for the sockets in it.
_SHORT: Final = "/tmp"


class LocalMesh:
    """1. Runs a router. 2. Numbers the nodes that join it. 3. Removes everything at its end."""

    def __init__(self, settings: Settings) -> None:
        """Starts the router; it serves when this returns, and until `close`, however idle it is."""
        self.place = _make_place()
        #: Of the nodes of this process, which would have one name and one slot page else.
        self.numbers = itertools.count()
        lock = locate.acquire_router_lock(self.place)
        assert lock is not None, "nobody else knows this directory"
        self._lock = lock
        kept = Settings()._replace(**router_settings(settings))
        self._router = Router(self.place, kept._replace(router_idle_exit=None))
        self._thread = threading.Thread(target=self._router.run, name="mesh router", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What `broker_url` is to be."""
        return f"mesh://{self.place.directory}"

    def close(self) -> None:
        """Ends the router, and forgets what it still had."""
        self._router.stop()
        self._thread.join()
        self._router.close()
        locate.release_router_lock(self._lock)
        shutil.rmtree(self.place.directory)


def _make_place() -> locate.Place:
    """A new directory, in which nobody else starts a router: one that is gone must not get a successor."""
    directory = tempfile.mkdtemp(prefix="mesh-")
    try:
        locate.locate(f"mesh://{directory}")
    except InvalidMeshName:
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="mesh-", dir=_SHORT)
    open(f"{directory}/{locate.MANAGED_MARKER}", "w").close()
    return locate.locate(f"mesh://{directory}")


#: {app: the mesh in this process that it is a client of}
_meshes: WeakKeyDictionary[Mesh, LocalMesh] = WeakKeyDictionary()


@contextlib.contextmanager
def start_router(app: Mesh, *, eager: bool = False) -> Iterator[LocalMesh]:
    """Has the app call into a mesh of its own for the time of a block: what it calls waits there for a worker.

    `eager` leaves it to the app whether it calls eagerly. What it said before of its broker and of eager mode holds
    again afterwards. In a block within a block of the same app the mesh is the outer one's.
    """
    present = _meshes.get(app)
    if present is not None:
        yield present
        return
    app.close()
    mesh = LocalMesh(app.settings)
    try:
        sends = {"task_always_eager": False} if app.settings.task_always_eager and not eager else {}
        said = {"broker_url": mesh.url, **sends}
        with app.conf.overridden(said, SOURCE):
            _meshes[app] = mesh
            try:
                yield mesh
            finally:
                del _meshes[app]
                app.close()
    finally:
        mesh.close()
