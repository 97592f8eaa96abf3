"""A task queue without a broker: `from mesh import Mesh`.

Names are imported as they are asked for: a process that needs only a part of mesh, such as a router, carries only that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mesh.app import Mesh, current_app
    from mesh.body_types import register_type
    from mesh.eager import EagerResult
    from mesh.results import AsyncResult
    from mesh.task import Task
    from mesh.task_logger import get_task_logger
    from mesh.version import VERSION as __version__

__all__ = [
    "AsyncResult",
    "EagerResult",
    "Mesh",
    "Task",
    "__version__",
    "current_app",
    "get_task_logger",
    "register_type",
]

#: {public name: (module, name there)}
_PUBLIC: Final = {
    "AsyncResult": ("mesh.results", "AsyncResult"),
    "EagerResult": ("mesh.eager", "EagerResult"),
    "Mesh": ("mesh.app", "Mesh"),
    "Task": ("mesh.task", "Task"),
    "__version__": ("mesh.version", "VERSION"),
    "current_app": ("mesh.app", "current_app"),
    "get_task_logger": ("mesh.task_logger", "get_task_logger"),
    "register_type": ("mesh.body_types", "register_type"),
}


def __getattr__(name: str) -> Any:
    found = _PUBLIC.get(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(found[0]), found[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
