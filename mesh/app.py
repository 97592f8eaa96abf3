"""Mesh: one application. Its settings, its tasks, and the client through which they are called."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Final, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from mesh import calling, celery_names, results
from mesh.calling import TaskOptions, eager_run
from mesh.conf import Conf
from mesh.exceptions import InvalidCall, UnknownAttribute
from mesh.locate import locate
from mesh.registry import Registry, TaskDefinition
from mesh.request import current_name
from mesh.results import AsyncResult
from mesh.settings import SETTINGS, Settings
from mesh.task import Task, check_arguments, check_id, send

if TYPE_CHECKING:
    from mesh.client import Client
    from mesh.control import Control
    from mesh.eager import EagerClient

P = ParamSpec("P")
R = TypeVar("R")


class _Decorator(Protocol):
    """Makes a task of a function; of one that is `async def`, with what it returns when it is awaited."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _BindingDecorator(Protocol):
    """As `_Decorator`, of a function that gets its task first."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


_MAIN_MODULES: Final = ("__main__", "__mp_main__")
_APP_OPTIONS: Final = ("main", "broker", "backend", "include", "config_source", "namespace", "set_as_current")
#: {setting: where it is set, as it is no keyword of Mesh}
_SETTINGS_ELSEWHERE: Final = {spec.name: f"write app.conf.{spec.name} = ..." for spec in SETTINGS}
_TASK_OPTIONS: Final = (
    "name",
    "bind",
    "throws",
    "max_retries",
    "default_retry_delay",
    "time_limit",
    "soft_time_limit",
    "delivery_mode",
    "typing",
    "shared",
    "lazy",
    *TaskOptions._fields,
)


class Mesh:
    """An application.

    1. `conf` holds its settings. 2. `task` registers functions. 3. `client` calls them, connected on first use; a
    forked child gets its own. Any thread may use it.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | str | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        **unknown: Any,
    ) -> None:
        """`main` names tasks of a module that is run as a script. Nothing is connected or imported yet.

        `config_source` is what `config_from_object` takes; `namespace` is the one it has where it names none.

        Raises:
            UnsupportedURL, InvalidSetting: a broker, backend or include that can't be.
            UnknownOption, OptionNotAvailable: a keyword that is no option of mesh.
        """
        for option in unknown:
            celery_names.refuse_option(
                "Mesh", option, _APP_OPTIONS, {**_SETTINGS_ELSEWHERE, **celery_names.APP_OPTIONS}
            )
        self.main = main
        self.namespace = namespace
        self.conf = Conf(self._changed)
        #: The tasks by name, as a mapping; for slots also by `tasks.find(name)`.
        self.tasks = Registry()
        #: Every Task made, also those that a second import of their module has replaced.
        self._made: weakref.WeakSet[Task[..., Any]] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._eager: EagerClient | None = None
        self._control: Control | None = None
        self._settings: Settings | None = None
        said = {"broker_url": broker, "result_backend": backend, "include": include}
        self.conf.update({name: value for name, value in said.items() if value is not None})
        if config_source is not None:
            self.config_from_object(config_source)
        _apps.add(self)
        if set_as_current:
            self.set_current()

    # --- settings ----------------------------------------------------------------------------------

    def config_from_object(
        self, config: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Takes settings from a module's name, `module:attribute`, an object or a mapping. As `Conf`'s."""
        self.conf.config_from_object(config, silent, force, namespace or self.namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """As `config_from_object`, with what an environment variable names. Returns whether it names anything."""
        return self.conf.config_from_envvar(variable_name, silent, force)

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Sets defaults of the app's own, or a function that is asked for them when they are needed."""
        self.conf.add_defaults(defaults)

    # --- tasks -------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(self, /, *, bind: Literal[True], **options: Any) -> _BindingDecorator: ...

    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Any) -> _Decorator: ...

    def task(self, function: Any = None, /, **options: Any) -> Any:
        """Makes a task of a function, `async def` or not, as a decorator with or without options.

        Options: `name`; `bind` (the task itself is the first argument); `queue`, `priority`, `expires`,
        `ignore_result`, `track_started`, `acks_late`, `durability` (or `delivery_mode`), `time_limit` and
        `soft_time_limit`, as in a call; `acks_on_timeout` (False: killed for its time limit it is run again);
        `max_retries` (3; None is without end) and `default_retry_delay` (180 s), for `self.retry()`; `throws`
        (exceptions that are expected and no news for the log); `typing=False` (arguments are not checked before they
        are sent).

        Raises:
            UnknownOption, OptionNotAvailable: a keyword that is no option of mesh.
            InvalidCall: an option with a value that can't be.
            TaskNameTaken: another function has the name.
        """
        for option in options:
            if option not in _TASK_OPTIONS:
                celery_names.refuse_option("@app.task", option, _TASK_OPTIONS, celery_names.TASK_OPTIONS)
        if function is None:
            return lambda decorated: self._register(decorated, **options)
        return self._register(function, **options)

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        confirm: bool = False,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Sends a call by name alone: the function need not be known here.

        Options and errors as `Task.apply_async`; arguments are not checked, for nobody here knows what the function
        takes.
        """
        calling.refuse_unknown("send_task", options.keys() - set(calling.NAMES))
        positional, named = check_arguments(args, kwargs)
        settings = self.settings
        chosen = calling.call_options(calling.defaults_of(TaskOptions(), settings), settings, **options)
        return send(self, calling.check_task_name(name), positional, named, chosen, confirm)

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:
        """The result of a call made anywhere, by its id. Asks nobody until something is asked of it."""
        return AsyncResult.from_id(check_id(task_id), self)

    def batch(self) -> AbstractContextManager[None]:
        """What this thread sends inside `with app.batch():` leaves together at its end, in few messages."""
        grouped: AbstractContextManager[None] = self.client.batch()
        return grouped

    @property
    def current_task(self) -> Task[..., Any] | None:
        """The task that this thread runs, if any."""
        name = current_name()
        return None if name is None else self.tasks.get(name)

    # --- the process -------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings as they stand, frozen."""
        settings = self._settings
        if settings is None:
            settings = self._settings = self.conf.freeze()
        return settings

    @property
    def client(self) -> Client | EagerClient:
        """The client through which calls go from here: `real_client`, or one that runs them where they are eager.

        Raises:
            Exception: as `real_client`.
        """
        if self.settings.task_always_eager or eager_run.get() is not None:
            return self._eager_client()
        return self.real_client

    @property
    def real_client(self) -> Client:
        """The client through which this process reaches the mesh; made on first use.

        Raises:
            InvalidMeshName, RouterNotPermitted, UnsupportedURL: the broker URL means no usable place.
        """
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = self._open_client(self.settings)
                self.conf.mark_in_use(True)
            return self._client

    @property
    def has_real_client(self) -> bool:
        """Whether the client is made."""
        return self._client is not None

    @property
    def control(self) -> Control:
        """Asks and commands nodes."""
        if self._control is None:
            from mesh.control import Control

            self._control = Control(self)
        return self._control

    def set_current(self) -> None:
        """Makes this the app that `current_app` means in this process."""
        results.set_default_source(self)

    def start(self, argv: list[str] | None = None) -> None:
        """Runs the command line with this app, as the command `mesh` does.

        `argv` is without the program's name; None takes that of the process.
        """
        command_line = importlib.import_module("mesh_cli")
        command_line.main(sys.argv[1:] if argv is None else argv, app=self)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """`start` for the command `worker`, which `argv` need not name."""
        argv = sys.argv[1:] if argv is None else argv
        self.start(argv if "worker" in argv else ["worker", *argv])

    def close(self) -> None:
        """Delivers what was sent and disconnects. A later call connects again; settings may change meanwhile."""
        with self._lock:
            client, self._client = self._client, None
            self._eager = None
            self._renew()
        if client is not None:
            client.close()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- within ------------------------------------------------------------------------------------

    def _open_client(self, settings: Settings) -> Client:
        from mesh.client import Client

        return Client(locate(settings.broker_url), settings)

    def _eager_client(self) -> EagerClient:
        eager = self._eager
        if eager is not None:
            return eager
        from mesh.eager import EagerClient

        with self._lock:
            if self._eager is None:
                self._eager = EagerClient(self)
            return self._eager

    def _changed(self) -> None:
        """A setting has changed."""
        self._settings = None
        for task in self._made:
            task.reset()

    def _renew(self) -> None:
        """Nothing holds on to the client from here on."""
        self._control = None
        self.conf.mark_in_use(False)
        self._changed()

    def _forked(self) -> None:
        """In a forked child: leaves the parent's client alone. The lock may be held by a thread that is not here."""
        self._lock = threading.Lock()
        _inherited.append(self._client)
        self._client = self._eager = None
        self._renew()

    def _register(self, function: Callable[..., Any], **options: Any) -> Task[..., Any]:
        if not callable(function):
            raise InvalidCall("function", function, "a function to @app.task; name its options: @app.task(name=...)")
        name = options.pop("name", None) or self._name_of(function)
        options["durability"] = calling.said_durability(options.get("durability"), options.pop("delivery_mode", None))
        ours = TaskOptions(**{field: options.pop(field, None) for field in TaskOptions._fields})
        options.pop("shared", None), options.pop("lazy", None)
        task: Task[..., Any] = Task(self, function, name, ours, **options)
        self.tasks.add(TaskDefinition(task.name, function, task, task.bind, task.throws))
        self._made.add(task)
        return task

    def _name_of(self, function: Callable[..., Any]) -> str:
        """`module.function`, with the name of the app for a module that runs as a script."""
        local = getattr(function, "__name__", None)
        if local is None or not local.isidentifier():
            raise InvalidCall("function", function, "a name to a task that has none: @app.task(name=...)")
        module = function.__module__
        return f"{self._main_name() if module in _MAIN_MODULES else module}.{local}"

    def _main_name(self) -> str:
        """The app's name; without one, the name under which others would import the script."""
        if self.main is not None:
            return self.main
        script = sys.modules["__main__"]
        spec, file = getattr(script, "__spec__", None), getattr(script, "__file__", None)
        if spec is not None:
            return str(spec.name).removesuffix(".__main__")
        return os.path.splitext(os.path.basename(file))[0] if file else "__main__"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        instead = celery_names.APP_ATTRIBUTES.get(name)
        if instead is None:
            near = celery_names.suggest(name, [known for known in dir(self) if not known.startswith("_")])
            instead = f"did you mean {near!r}?" if near else "dir(app) lists what there is"
        raise UnknownAttribute("an app", name, instead.rstrip("."))

    def __repr__(self) -> str:
        return f"<Mesh {self.main or '__main__'}>"

    def __reduce__(self) -> Any:
        raise InvalidCall("app", self, "the task or the result instead: an app belongs to its process")


class _CurrentApp:
    """Stands for the app made last in this process, whenever that is."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(results.default_source("current_app"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(results.default_source("current_app"), name, value)

    def __repr__(self) -> str:
        return repr(results.default_source("current_app"))


current_app: Final = cast(Mesh, _CurrentApp())

#: Clients of parents. Kept, so that nothing of theirs is finalised here: sockets and threads are the parent's.
_inherited: Final[list[Any]] = []
#: Every app of the process.
_apps: Final[weakref.WeakSet[Mesh]] = weakref.WeakSet()


@atexit.register
def _close_clients() -> None:
    """Delivers what was called. Registered so early that the user's own `atexit` handlers may call too."""
    client = sys.modules.get("mesh.client")
    if client is not None:
        client.close_all()


def _after_fork_in_child() -> None:
    for app in _apps:
        app._forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
