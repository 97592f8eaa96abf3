"""Task name -> what a slot needs to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mesh.exceptions import NotRegistered, TaskNameTaken

#: Flags of a code object, as in `inspect`.
_CO_COROUTINE: Final = 0x80
_CO_ITERABLE_COROUTINE: Final = 0x100


class TaskDefinition:
    """What runs under a name. A slot calls `run(*args, **kwargs)`, with `task` in front where `bind` is set."""

    __slots__ = ("bind", "is_async", "name", "run", "task", "throws")

    def __init__(
        self,
        name: str,
        run: Callable[..., Any],
        task: Any,
        bind: bool = False,
        throws: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name = name
        self.run = run  #: the function as the user wrote it
        self.task = task  #: the Task that callers hold
        self.bind = bind
        self.is_async = _is_coroutine_function(run)  #: a call of it is to be awaited
        self.throws = throws  #: expected: a FAILURE that is no news for the log

    @property
    def origin(self) -> tuple[str, str]:
        """Where the function was written, which tells a module that was imported twice from a clash of names."""
        code = getattr(self.run, "__code__", None)
        file = code.co_filename if code is not None else getattr(self.run, "__module__", "")
        return str(file), getattr(self.run, "__qualname__", repr(self.run))


class Registry(Mapping[str, Any]):
    """The tasks of one app: by name the Task (it is `app.tasks`), and through `find` its definition."""

    def __init__(self) -> None:
        #: {name: TaskDefinition}
        self._definitions: dict[str, TaskDefinition] = {}

    def add(self, definition: TaskDefinition) -> None:
        """Registers a task; a module that is imported again replaces its own.

        Raises:
            TaskNameTaken: another function has this name.
        """
        known = self._definitions.get(definition.name)
        if known is not None and known.origin != definition.origin:
            raise TaskNameTaken(definition.name, _shown(known), _shown(definition))
        self._definitions[definition.name] = definition

    def adopt(self, other: Registry) -> None:
        """Takes over the tasks of another app whose names are free here."""
        self._definitions = {**other._definitions, **self._definitions}

    def find(self, name: str) -> TaskDefinition:
        """What runs under this name.

        Raises:
            NotRegistered: nothing does.
        """
        definition = self._definitions.get(name)
        if definition is None:
            raise NotRegistered(name)
        return definition

    def __getitem__(self, name: str) -> Any:
        return self.find(name).task

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)

    def __repr__(self) -> str:
        return f"<Registry: {', '.join(self._definitions) or 'no tasks'}>"


def _is_coroutine_function(run: Any) -> bool:
    """As inspect.iscoroutinefunction, which would be a megabyte more in every process."""
    run = getattr(run, "__func__", run)
    while hasattr(run, "func"):  # functools.partial
        run = run.func
    code = getattr(run, "__code__", None)
    return code is not None and bool(code.co_flags & (_CO_COROUTINE | _CO_ITERABLE_COROUTINE))


def _shown(definition: TaskDefinition) -> str:
    file, name = definition.origin
    return f"{name}() in {file}"
