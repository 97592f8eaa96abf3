"""For tests of what is built on mesh: a node and a router inside the test, and a whole mesh in simulated time.

Names are imported as they are asked for. `mesh.testing.plugin` has the fixtures for pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mesh.testing.local_mesh import start_router
    from mesh.testing.sim_mesh import SimCall, SimMesh
    from mesh.testing.worker import Worker, WorkerStillRuns, start_worker

__all__ = ["SimCall", "SimMesh", "Worker", "WorkerStillRuns", "start_router", "start_worker"]

#: {public name: its module}
_PUBLIC: Final = {
    "SimCall": "mesh.testing.sim_mesh",
    "SimMesh": "mesh.testing.sim_mesh",
    "Worker": "mesh.testing.worker",
    "WorkerStillRuns": "mesh.testing.worker",
    "start_router": "mesh.testing.local_mesh",
    "start_worker": "mesh.testing.worker",
}


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return __all__
