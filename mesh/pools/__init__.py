"""The ways of running slots, by the name that `-P` gives them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from mesh.exceptions import OptionRefused, PoolNotAvailable
from mesh.pools.hosting import Pool

DEFAULT: Final = "prefork"
#: In place of a number of slots: as many as the pool sees fit.
AUTO: Final = 0
#: Other packages offer pools under this group: an entry point's name is the pool's, its object is the class.
ENTRY_POINTS: Final = "mesh.pools"
#: {pool: (module, class)}, imported when it is asked for.
POOLS: Final = {
    "prefork": ("mesh.pools.prefork", "Prefork"),
    "threads": ("mesh.pools.threads", "Threads"),
    "solo": ("mesh.pools.solo", "Solo"),
    "asyncio": ("mesh.pools.event_loop", "EventLoop"),
    "gevent": ("mesh.pools.green", "Gevent"),
    "eventlet": ("mesh.pools.green", "Eventlet"),
}
#: What says the same in the settings as options of `mesh worker`.
SETTINGS: Final = {
    "--concurrency": "worker_concurrency",
    "--autoscale": "worker_autoscale",
    "--max-tasks-per-child": "worker_max_tasks_per_child",
    "--max-memory-per-child": "worker_max_memory_per_child",
}
#: What an option says, and the setting that says it, where it is not the option itself.
Given = tuple[Any, str | None]
#: {other name of Celery's: pool}
_ALIASES: Final = {"processes": "prefork", "thread": "threads", "aio": "asyncio"}


def find(name: str) -> Pool:
    """The pool of this name.

    Raises:
        PoolNotAvailable: there is none, or what it needs is not installed.
    """
    name = name_of(name)
    place = POOLS.get(name)
    if place is not None:
        made: Pool = getattr(importlib.import_module(place[0]), place[1])()
        return made
    return _from_entry_point(name)


def name_of(name: str) -> str:
    """The one name of a pool that has several."""
    return _ALIASES.get(name, name)


def names() -> list[str]:
    """Every pool there is, those of other packages included."""
    return [*POOLS, *sorted(_entry_points())]


def refuse(pool: Pool, given: Mapping[str, Given]) -> None:
    """Raises OptionRefused where the pool can't do one of the options that were given."""
    for option, (value, setting) in given.items():
        reason = pool.refused.get(option)
        if reason is None or (option == "--concurrency" and value in (AUTO, pool.concurrency())):
            continue
        raise OptionRefused(option, setting, pool.name, reason)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    import importlib.metadata

    return {
        found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINTS) if found.name not in POOLS
    }


def _from_entry_point(name: str) -> Pool:
    found = _entry_points().get(name)
    if found is None:
        from mesh.celery_names import suggest

        near = suggest(name, names())
        hint = f"(did you mean {near!r}?)" if near else f"(there are {', '.join(names())})"
        raise PoolNotAvailable(name, f"no pool has this name {hint}")
    try:
        made: Pool = found.load()()
    except Exception as error:
        raise PoolNotAvailable(name, f"the entry point {found.value} fails: {type(error).__name__}: {error}") from error
    return made
