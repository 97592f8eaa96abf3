"""Finding the app that `-A` names, and importing the modules its tasks live in."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Final

from mesh import celery_names
from mesh.app import Mesh
from mesh.exceptions import AppNotFound, TaskModuleNotFound
from mesh.pools.hosting import LoadedApp
from mesh.settings import router_settings

#: Under these names an app is looked for, in a module and as submodules, in this order.
_ATTRIBUTES: Final = ("app", "mesh", "celery")
_SUBMODULES: Final = ("mesh", "app", "celery")


def find_app(target: str) -> Mesh:
    """The app that `-A target` means. The current directory is searched first.

    `module:attribute` is that attribute. A module is searched for `app`, `mesh` and `celery`, then for any Mesh, then
    its submodules of these names likewise. `module.attribute` works too, where no module has that name.

    Raises:
        AppNotFound: no such module or attribute, or there is no Mesh in it.
        TaskModuleNotFound: a module that was found fails as it is imported; its error is the `__cause__`.
    """
    use_current_directory()
    module_name, colon, attribute = target.partition(":")
    _check_target(target, module_name, attribute if colon else None)
    module = _import(module_name)
    if module is None:
        return _from_parent(target, module_name)
    found = _attribute(target, module, attribute) if colon else module
    if isinstance(found, ModuleType):
        app = _search(found)
        if app is None:
            raise AppNotFound(target, f"{_searched(found)}. Make one there: app = Mesh({found.__name__!r})")
        return app
    return _checked(target, found)


def load_tasks(app: Mesh) -> None:
    """Imports the modules of the settings `include` and `imports`, which registers their tasks.

    Raises:
        TaskModuleNotFound: a module is not there, or fails as it is imported; its error is the `__cause__`.
    """
    use_current_directory()
    for name in dict.fromkeys((*app.conf.include, *app.conf.imports)):
        load_module(name)
    for twin in _twins(app):
        app.tasks.adopt(twin.tasks)


def described(app: Mesh, name: str, said: Mapping[str, Any]) -> LoadedApp:
    """What a node has to know of an app, which is called `name`. What whoever starts the node has `said` goes first."""
    settings = app.settings
    info = {
        "app": name,
        "tasks": sorted(app.tasks),
        "queue": settings.task_default_queue,
        "concurrency": settings.worker_concurrency,
        "pool": said.get("pool") or settings.worker_pool,
        "broker_url": settings.broker_url,
        "router_settings": router_settings(settings),
        "limits": [
            said.get("time_limit") or settings.task_time_limit or 0.0,
            said.get("soft_time_limit") or settings.task_soft_time_limit or 0.0,
        ],
        "max_tasks_per_child": said.get("max_tasks_per_child") or settings.worker_max_tasks_per_child,
        "max_memory_per_child": said.get("max_memory_per_child") or settings.worker_max_memory_per_child,
        "max_blocked": settings.worker_max_blocked,
        "autoscale": said.get("autoscale") or settings.worker_autoscale,
        "autoscale_idle_s": settings.worker_autoscale_idle,
        "soft_shutdown_s": settings.worker_soft_shutdown_timeout,
        "shutdown_s": settings.worker_shutdown_timeout,
        "redirect_stdouts": settings.worker_redirect_stdouts and settings.worker_redirect_stdouts_level,
    }
    return LoadedApp(app.tasks, info)


def load_module(name: str) -> ModuleType:
    """Imports one task module. Raises as `load_tasks`."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise TaskModuleNotFound(name, _reason(error)) from error


def use_current_directory() -> None:
    """Puts the current directory first on the search path, where `python` itself puts it for a script."""
    here = os.getcwd()
    if not sys.path or sys.path[0] not in ("", here):
        sys.path.insert(0, here)


# --- within --------------------------------------------------------------------------------------


def _twins(app: Mesh) -> Iterator[Mesh]:
    """The apps that the app's own script made when it was imported as a module.

    `python -m proj.mesh` makes one app, and task modules that import `proj.mesh` make a second, which gets their tasks.
    """
    script = sys.modules["__main__"]
    file = getattr(script, "__file__", None)
    if file is None or not any(value is app for value in vars(script).values()):
        return
    for module in list(sys.modules.values()):
        if module is not script and getattr(module, "__file__", None) == file:
            yield from (value for value in vars(module).values() if isinstance(value, Mesh) and value.main == app.main)


def _check_target(target: str, module_name: str, attribute: str | None) -> None:
    """Raises AppNotFound for what names no module at all."""
    if os.sep in target or module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise AppNotFound(target, f"give a module and not a file: -A {dotted}")
    if not all(part.isidentifier() for part in module_name.split(".")) or attribute == "":
        raise AppNotFound(target, "give a module, or module:attribute, such as -A proj or -A proj.tasks:app")


def _import(name: str) -> ModuleType | None:
    """The module, or None where it (or a package it would be in) does not exist."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise TaskModuleNotFound(name, _reason(error)) from error
    except (Exception, SystemExit) as error:
        raise TaskModuleNotFound(name, _reason(error)) from error


def _from_parent(target: str, name: str) -> Mesh:
    """`module.attribute`, for a name that is no module."""
    parent_name, _, attribute = name.rpartition(".")
    parent = _import(parent_name) if parent_name and ":" not in target else None
    if parent is None:
        raise AppNotFound(
            target,
            f"there is no module {name!r} in {os.getcwd()} or on the Python path. Run from the directory that holds it",
        )
    return _checked(target, _attribute(target, parent, attribute))


def _attribute(target: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            near = celery_names.suggest(name, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; did you mean {near!r}?" if near else ""
            raise AppNotFound(target, f"module {module.__name__!r} has no {path!r}{hint}")
        found = getattr(found, name)
    return found


def _checked(target: str, found: Any) -> Mesh:
    if isinstance(found, Mesh):
        return found
    raise AppNotFound(target, f"it is a {type(found).__name__} and no Mesh. Name the variable that holds Mesh(...)")


def _search(module: ModuleType) -> Mesh | None:
    for app in _apps_in(module):
        return app
    for name in _SUBMODULES if hasattr(module, "__path__") else ():
        submodule = _import(f"{module.__name__}.{name}")
        for app in _apps_in(submodule) if submodule is not None else ():
            return app
    return None


def _apps_in(module: ModuleType) -> Iterator[Mesh]:
    """The apps of a module: those under the known names first, then in the order they were made there."""
    values = [getattr(module, name, None) for name in _ATTRIBUTES]
    yield from (value for value in (*values, *vars(module).values()) if isinstance(value, Mesh))


def _searched(module: ModuleType) -> str:
    names = [f"{module.__name__}.{name}" for name in _ATTRIBUTES]
    tail = f", nor in its submodules {', '.join(_SUBMODULES)}" if hasattr(module, "__path__") else ""
    return f"no Mesh under {', '.join(names)} or any other name in the module{tail}"


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: {error}"
