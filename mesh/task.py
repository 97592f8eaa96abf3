"""Task: a function that can be called here, or sent to run elsewhere."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from mesh import calling
from mesh.arity import arity_of, complaint
from mesh.bodies import encode_call
from mesh.calling import CallOptions, Defaults, EagerRun, TaskOptions, eager_run
from mesh.exceptions import (
    InvalidCall,
    MaxRetriesExceededError,
    OptionNotAvailable,
    Retry,
    TimeoutError,
    WrongArguments,
)
from mesh.interfaces import PendingCall
from mesh.request import Request, enter_request, leave_request, request_of
from mesh.results import AsyncResult, ResultSource, default_source

if TYPE_CHECKING:
    from mesh.eager import EagerResult

P = ParamSpec("P")
R = TypeVar("R")

#: How often a task may be retried that does not say, and after how long: Celery's values.
MAX_RETRIES: Final = 3
RETRY_DELAY_S: Final = 180.0

_CO_GENERATOR: Final = 0x20
_CO_COROUTINE: Final = 0x80
_CO_ASYNC_GENERATOR: Final = 0x200
_UNRUNNABLE: Final = {_CO_ASYNC_GENERATOR: "async def with yield", _CO_GENERATOR: "yield"}


class App(ResultSource, Protocol):
    """What tasks need of their app."""

    @property
    def client(self) -> Any:
        """The client in use now: an `interfaces.Sender` and `interfaces.ResultReader`."""
        ...


class _Plan(NamedTuple):
    """Everything that is the same for all calls of a task, until a setting, an option or the client changes."""

    submit: Callable[..., PendingCall]
    client: Any
    fewest: int  #: as in Arity
    most: int
    name: str
    queue: str
    priority: int
    flags: int
    expires: Any
    ignored: bool
    promise: Callable[..., AsyncResult[Any]]


class Task(Generic[P, R]):
    """What @app.task makes of a function.

    1. Called, it is that function. 2. `delay` and `apply_async` send the call. 3. `request` tells a run about itself.
    Its options are attributes; one that is set later holds from the next call on.
    """

    name: str
    bind: bool
    queue: str | None
    priority: int | None
    ignore_result: bool | None
    track_started: bool | None
    acks_late: bool | None
    acks_on_timeout: bool | None
    durability: str | None
    expires: Any
    max_retries: int | None  #: None: without end
    default_retry_delay: float  #: seconds
    time_limit: float | None  #: seconds; then its process is killed
    soft_time_limit: float | None  #: seconds; then SoftTimeLimitExceeded is raised in it
    throws: tuple[type[BaseException], ...]
    typing: bool  #: arguments are checked against the function before anything is sent
    run: Callable[..., R]  #: the function; without `self` where it is bound
    app: App
    _plan: _Plan | None

    def __init__(
        self,
        app: App,
        function: Callable[..., R],
        name: str,
        options: TaskOptions,
        *,
        bind: bool = False,
        throws: Iterable[type[BaseException]] | type[BaseException] = (),
        typing: bool = True,
        max_retries: int | None = MAX_RETRIES,
        default_retry_delay: float = RETRY_DELAY_S,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
    ) -> None:
        _refuse_unrunnable(function, name)
        for attribute in ("__module__", "__qualname__", "__name__", "__doc__", "__annotations__"):
            if hasattr(function, attribute):
                setattr(self, attribute, getattr(function, attribute))
        self.app = app
        self.name = calling.check_task_name(name)
        self.bind = calling.check_boolean("bind", bind)
        self.typing = calling.check_boolean("typing", typing)
        self.throws = _exception_types(throws)
        self.max_retries = max_retries
        self.default_retry_delay = default_retry_delay
        calling.check_limits(time_limit, soft_time_limit)
        self.time_limit = time_limit
        self.soft_time_limit = soft_time_limit
        self.run = types.MethodType(function, self) if bind else function
        self.__wrapped__ = self.run
        self._arity = arity_of(function, skip_first=bind)
        for option, value in options._asdict().items():
            setattr(self, option, value)

    # --- calling -----------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function here and now."""
        enter_request(None, self.name, args=args, kwargs=kwargs)
        try:
            return self.run(*args, **kwargs)
        finally:
            leave_request()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Sends a call with these arguments and the task's own options. Any thread may call it.

        Raises:
            WrongArguments: the function does not take them.
            UnserialisableArgument: one of them can't be sent.
            RouterUnreachable: no router answered on first use.
            SubmitBlocked: too many calls wait for the router's confirmation.
        """
        if eager_run.get() is not None:
            return self.apply_async(args, kwargs)
        plan = self._plan or self._prepare()
        submit, client, fewest, most, name, queue, priority, flags, expires, ignored, promise = plan
        if kwargs or not fewest <= len(args) <= most:
            self._check_arguments(args, kwargs)
        body, frames = encode_call(args, kwargs)
        rare = None if expires is None else {"expires": calling.expiry(expires, self.app.settings)}
        return promise(submit(name, queue, priority, flags, body, frames, rare), client, self.app, ignored)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        countdown: float | None = None,
        eta: Any = None,
        expires: Any = None,
        ignore_result: bool | None = None,
        track_started: bool | None = None,
        acks_late: bool | None = None,
        durability: str | None = None,
        delivery_mode: int | str | None = None,
        headers: Mapping[str, Any] | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        confirm: bool = False,
        **unknown: Any,
    ) -> AsyncResult[R]:
        """Sends a call with options of its own. Any thread may call it.

        `countdown` is in seconds; `eta` a datetime or ISO 8601 text; `expires` either. A time without a zone is read in
        the setting `timezone`, which is UTC unless set. `priority` is 0 to 9, higher first. `durability` is what the
        call survives once it is confirmed: "none", "journaled" or "synced"; `delivery_mode` is Celery's way to say it.
        `time_limit` and `soft_time_limit` are in seconds, from when it begins.
        `confirm` waits until the router answers for the call, for `publish_timeout` at most.

        Raises:
            InvalidCall: an option that can't be, or countdown together with eta.
            UnknownOption, OptionNotAvailable: a keyword that is no option of mesh.
            TimeoutError: the confirmation did not come in time; the call may still arrive.
            OperationalError: with `confirm`: the router refused the call.
            Exception: as `delay`.
        """
        if unknown:
            calling.refuse_unknown("apply_async", unknown)
        positional, named = check_arguments(args, kwargs)
        self._check_arguments(positional, named)
        plan = self._plan or self._prepare()
        defaults = Defaults(plan.queue, plan.priority, plan.flags, plan.expires)
        options = calling.call_options(
            defaults,
            self.app.settings,
            task_id=task_id,
            queue=queue,
            priority=priority,
            countdown=countdown,
            eta=eta,
            expires=expires,
            ignore_result=ignore_result,
            track_started=track_started,
            acks_late=acks_late,
            durability=durability,
            delivery_mode=delivery_mode,
            headers=headers,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        )
        return send(self.app, self.name, positional, named, options, confirm)

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Runs a call here and now, to its end, with what `apply_async` takes; nothing is sent.

        It is to the task what a run in a slot is, its retries too, for which nobody waits; calls that it makes run here
        and now as well. With `throw` what `get()` would raise is raised; None leaves it to `task_eager_propagates`.

        Raises:
            Exception: as `apply_async` before it sends; with `throw` as `get()`.
        """
        calling.refuse_unknown("apply", options.keys() - set(calling.NAMES))
        token = eager_run.set(EagerRun(None if throw is None else calling.check_boolean("throw", throw)))
        try:
            return cast("EagerResult[R]", self.apply_async(args, kwargs, task_id, **options))
        finally:
            eager_run.reset(token)

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:
        """The result of a call made anywhere, by its id."""
        return AsyncResult.from_id(check_id(task_id), self.app)

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> Retry:
        """Ends this run and asks for another of the same id, in the same queue; `raise self.retry()` reads well.

        It runs `countdown` seconds from now, or at `eta`; by default after `default_retry_delay`. Without `args` and
        `kwargs` it gets the arguments it had. With `throw=False` the exception is returned, to be raised by the task.

        Raises:
            Retry: always, but for what follows.
            Exception: `exc`, or the exception being handled, where `max_retries` is reached; else
                MaxRetriesExceededError. The same in a direct call, which nobody can run again.
        """
        request = self.request
        reason = exc if exc is not None else sys.exc_info()[1]
        most = self.max_retries if max_retries is None else max_retries
        if request.called_directly or (most is not None and request.retries >= most):
            raise reason if reason is not None else MaxRetriesExceededError(self.name, request.retries)
        if countdown is None and eta is None:
            countdown = self.default_retry_delay
        call = None
        if args is not None or kwargs is not None:
            positional, named = check_arguments(
                request.args if args is None else args, request.kwargs if kwargs is None else kwargs
            )
            self._check_arguments(positional, named)
            call = encode_call(positional, named)
        retry = Retry(reason, calling.due(countdown, eta, self.app.settings), call)
        if throw:
            raise retry
        return retry

    @property
    def request(self) -> Request:
        """This thread's run of the task."""
        return request_of(self.name)

    # --- within ------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forgets what was prepared for calls. For the app: a setting or the client has changed."""
        object.__setattr__(self, "_plan", None)

    def _prepare(self) -> _Plan:
        client, checked = self.app.client, self.typing
        options = TaskOptions(*[getattr(self, option) for option in TaskOptions._fields])
        defaults = calling.defaults_of(options, self.app.settings)
        plan = _Plan(
            submit=client.submit,
            client=client,
            fewest=self._arity.fewest if checked else 0,
            most=self._arity.most if checked else sys.maxsize,
            name=self.name,
            queue=defaults.queue,
            priority=defaults.priority,
            flags=defaults.flags,
            expires=defaults.expires,
            ignored=bool(defaults.flags & calling.IGNORE_RESULT),
            promise=_promise_of(client),
        )
        if eager_run.get() is None:  # in an eager run the client is another than elsewhere
            object.__setattr__(self, "_plan", plan)
        return plan

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.typing or self._arity.accepts(args, kwargs):
            return
        reason = complaint(self.run, self._arity, args, kwargs)
        if reason is not None:
            raise WrongArguments(self.name, reason)

    def __setattr__(self, attribute: str, value: Any) -> None:
        check = _CHECKS.get(attribute)
        object.__setattr__(self, attribute, value if check is None or value is None else check(value))
        object.__setattr__(self, "_plan", None)

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.name,)


#: {option: value -> checked value}, as tasks and calls have them alike
_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "queue": calling.check_queue,
    "priority": calling.check_priority,
    "expires": calling.check_expires,
    "ignore_result": lambda value: calling.check_boolean("ignore_result", value),
    "track_started": lambda value: calling.check_boolean("track_started", value),
    "acks_late": lambda value: calling.check_boolean("acks_late", value),
    "durability": calling.check_durability,
    "max_retries": calling.check_retries,
    "default_retry_delay": calling.check_delay,
    "time_limit": lambda value: calling.check_limit("time_limit", value),
    "soft_time_limit": lambda value: calling.check_limit("soft_time_limit", value),
    "acks_on_timeout": lambda value: calling.check_boolean("acks_on_timeout", value),
}


def send(
    app: App, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions, confirm: bool
) -> AsyncResult[Any]:
    """Sends one call, and waits for its confirmation where asked to. Raises as `Task.apply_async`."""
    body, frames = encode_call(args, kwargs)
    client, ignored = app.client, bool(options.flags & calling.IGNORE_RESULT)
    pending = client.submit(name, options.queue, options.priority, options.flags, body, frames, options.rare)
    result = _promise_of(client)(pending, client, app, ignored)
    patience_s = app.settings.publish_timeout
    if confirm and not result.confirmed(patience_s):
        look = f"look with app.AsyncResult({result.id!r}).state before you send it again."
        why = f"The router has it, and can't journal it now: {client.delay} " if client.delay else ""
        remedy = f"{why}The call may still arrive: {look}"
        raise TimeoutError(f"the router's confirmation of task {result.id}", patience_s, remedy)
    return result


def _promise_of(client: Any) -> Callable[..., AsyncResult[Any]]:
    """What makes the result of a call that this client takes."""
    promise: Callable[..., AsyncResult[Any]] = getattr(client, "result_type", AsyncResult)
    return promise


def check_arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`args` and `kwargs` as they are sent. Raises InvalidCall."""
    if type(args) is tuple and kwargs is None:
        return args, {}
    if args is not None and (isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable)):
        raise InvalidCall("args", args, "a tuple or list of the positional arguments, such as (2, 2)")
    if kwargs is not None and (not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs)):
        raise InvalidCall("kwargs", kwargs, "a dict of the keyword arguments, such as {'x': 2}")
    return tuple(args or ()), dict(kwargs or {})


def check_id(task_id: Any) -> str:
    """The id of a call made anywhere. Raises InvalidCall."""
    if not isinstance(task_id, str) or not 0 < len(task_id) <= calling.ID_CHARS_MAX or not task_id.isprintable():
        raise InvalidCall("task_id", task_id, "the id as text, as AsyncResult.id gives it")
    return task_id


def _refuse_unrunnable(function: Any, name: str) -> None:
    """Raises for what can't run as a task."""
    if not callable(function):
        raise InvalidCall("function", function, "a function to @app.task")
    if isinstance(function, Task):
        raise InvalidCall("function", function, "the function itself, which is decorated only once")
    code = getattr(function, "__code__", None)
    for flag, form in _UNRUNNABLE.items():
        if code is not None and code.co_flags & flag:
            raise OptionNotAvailable(f"task {name!r}", form, "mesh does not run such functions yet; write a plain one")


def _exception_types(throws: Any) -> tuple[type[BaseException], ...]:
    kinds = (throws,) if isinstance(throws, type) else tuple(throws)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidCall("throws", throws, "a tuple of exception classes")
    return kinds


def _unpickled(name: str) -> Any:
    return default_source("a task that is unpickled").tasks[name]
