"""Every setting with its default, unit and reason; the frozen `Settings` that a process runs on."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_type_hints

from mesh.exceptions import InvalidSetting, UnsupportedURL
from mesh.masking import masked
from mesh.messages import LIMIT_MAX_S

#: What the environment variable of each setting begins with.
VARIABLE_PREFIX: Final = "MESH_"
_SCHEME: Final = "mesh://"
_QUEUE_CHARS_MAX: Final = 200
QUEUE_NAME_RULE: Final = "a queue name of 1 to 200 characters without spaces and commas that does not begin with '-'"
PRIORITY_RULE: Final = "a whole number from 0 to 9; higher runs first"
LOG_LEVEL_RULE: Final = "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"
#: Slots of a node: each has a record of its own in the slot page, and a socket.
SLOTS_MAX: Final = 5000
DURABILITIES: Final = ("none", "journaled", "synced")
DURABILITY_RULE: Final = "'none', 'journaled' or 'synced'"


class Settings(NamedTuple):
    """What a client, node or router runs on. Built once by `Conf.freeze`; `SETTINGS` says what each field means."""

    broker_url: str | None = None
    result_backend: str = "rpc://"
    broker_connection_timeout: float = 5.0
    include: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    task_default_queue: str = "celery"
    task_default_priority: int = 0
    task_ignore_result: bool = False
    task_track_started: bool = False
    task_acks_late: bool = True
    task_acks_on_timeout: bool = True
    task_time_limit: float | None = None
    task_soft_time_limit: float | None = None
    task_durability: str = "journaled"
    task_always_eager: bool = False
    task_eager_propagates: bool = False
    publish_unconfirmed_max: int = 100_000
    publish_timeout: float = 10.0
    result_expires: float | None = 86_400.0
    results_max_bytes: int = 256 << 20
    result_persistent: bool = False
    worker_concurrency: int | None = None
    worker_pool: str = "prefork"
    worker_max_tasks_per_child: int | None = None
    worker_max_memory_per_child: int | None = None
    worker_autoscale: tuple[int, ...] | None = None
    worker_autoscale_idle: float = 30.0
    worker_max_blocked: int = 16
    worker_shutdown_timeout: float | None = None
    worker_soft_shutdown_timeout: float | None = None
    worker_redirect_stdouts: bool = True
    worker_redirect_stdouts_level: str = "WARNING"
    crash_budget: int = 3
    lost_budget: int = 20
    queue_max_tasks: int = 20_000_000
    queue_max_bytes: int = 8 << 30
    queue_resident: int = 100_000
    queue_max_age: float | None = None
    dead_letters_max: int = 10_000
    dead_letters_max_bytes: int = 64 << 20
    journal: bool = True
    router_idle_exit: float | None = 60.0
    timezone: str | None = None
    enable_utc: bool = True


#: Settings of the router. One that is started on demand runs on those of whoever starts it.
ROUTER_SETTINGS: Final = (
    "result_expires",
    "results_max_bytes",
    "crash_budget",
    "lost_budget",
    "queue_max_tasks",
    "queue_max_bytes",
    "queue_resident",
    "queue_max_age",
    "dead_letters_max",
    "dead_letters_max_bytes",
    "journal",
    "router_idle_exit",
)


def router_settings(settings: Settings) -> dict[str, Any]:
    """Those settings of the router that are not the defaults: plain values by name."""
    defaults = Settings()
    wanted = {name: getattr(settings, name) for name in ROUTER_SETTINGS}
    return {name: value for name, value in wanted.items() if value != getattr(defaults, name)}


# --- checks: each returns the value as it is kept, or raises ValueError ----------------------------


def is_queue_name(name: object) -> bool:
    """Whether this can name a queue."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= _QUEUE_CHARS_MAX
        and name.isprintable()
        and not name.startswith("-")
        and "," not in name
        and " " not in name
    )


def _queue(value: Any) -> str:
    if not is_queue_name(value):
        raise ValueError
    return str(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _durability(value: Any) -> str:
    if value not in DURABILITIES:
        raise ValueError
    return str(value)


def _whole(least: int, most: int | None = None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < least
            or (most is not None and value > most)
        ):
            raise ValueError
        return value

    return check


def _seconds(value: Any) -> float:
    """Seconds above zero, from a number or a timedelta."""
    total = getattr(value, "total_seconds", None)
    seconds = total() if total is not None else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < float("inf"):
        raise ValueError
    return float(seconds)


def _seconds_or_never(value: Any) -> float | None:
    """As Celery reads result_expires: None and 0 mean never."""
    return None if value is None or (value == 0 and not isinstance(value, bool)) else _seconds(value)


def _limit(value: Any) -> float | None:
    seconds = _seconds_or_never(value)
    if seconds is not None and not 0 < seconds < LIMIT_MAX_S:
        raise ValueError
    return seconds


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _pool_name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _autoscale(value: Any) -> tuple[int, int]:
    """Most and least, in either order; a single number is the most."""
    numbers = (value, 0) if isinstance(value, int) else tuple(value)
    least, most = sorted(_whole(0, SLOTS_MAX)(one) for one in numbers)
    if not most:
        raise ValueError
    return most, least


def _modules(value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value or ())
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError
    return names


def _log_level(value: Any) -> str:
    name = str(value).upper()
    if name not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise ValueError
    return name


def _timezone(value: Any) -> str:
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(value).key
    except Exception as error:  # zoneinfo raises several kinds for one fact
        raise ValueError from error


def _broker_url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    if not value.startswith(_SCHEME):
        plain = re.fullmatch(r"[a-z0-9][a-z0-9._-]*", value)
        raise UnsupportedURL(_without_password(value), "broker", _SCHEME + (value if plain else "default"))
    return value


def _result_backend(value: Any) -> str:
    if value in (None, "rpc", "rpc://"):
        return "rpc://"
    if not isinstance(value, str):
        raise ValueError
    raise UnsupportedURL(_without_password(value), "backend", "rpc://")


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//...@", url)


# --- the table -----------------------------------------------------------------------------------


class SettingSpec(NamedTuple):
    """One setting, as the reference in the docs prints it."""

    name: str
    unit: str
    allowed: str
    reason: str  #: what it does, and why the default is what it is
    check: Callable[[Any], Any]
    fixed: bool = True  #: can't change while the app has a client

    @property
    def default(self) -> Any:
        """The value where nobody says another."""
        return Settings._field_defaults[self.name]

    @property
    def variable(self) -> str:
        """The environment variable that says it."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def kind(self) -> Any:
        """Its type, as `Settings` annotates it: `float | None`, `tuple[str, ...]`."""
        return _kinds()[self.name]


_NAME_OR_DIR: Final = "mesh://NAME or mesh:///an/absolute/directory"

#: In the order of `Settings`.
SETTINGS: Final[tuple[SettingSpec, ...]] = (
    SettingSpec(
        "broker_url", "URL", _NAME_OR_DIR,
        "Which mesh this app belongs to. None is the mesh called `default`: one machine needs no configuration.",
        _optional(_broker_url),
    ),
    SettingSpec(
        "result_backend", "URL", "'rpc://'",
        "Results go straight to the caller and are kept by the router that owns the task; there is no other store.",
        _result_backend,
    ),
    SettingSpec(
        "broker_connection_timeout", "s", "seconds above 0",
        "How long a first call waits for a router to answer. A router starts in under 0.5 s; 5 s leaves room for "
        "a loaded machine.",
        _seconds,
    ),
    SettingSpec(
        "include", "modules", "a list of module names",
        "Modules a node imports so that their tasks are registered; `Mesh(include=[...])` sets it.",
        _modules, fixed=False,
    ),
    SettingSpec(
        "imports", "modules", "a list of module names",
        "As `include`, for settings kept apart from the app; both are imported.",
        _modules, fixed=False,
    ),
    SettingSpec(
        "task_default_queue", "queue", QUEUE_NAME_RULE,
        "Where calls go that name no queue, and what a node without -Q consumes. Celery's name, so that ported "
        "projects meet.",
        _queue, fixed=False,
    ),
    SettingSpec(
        "task_default_priority", "0-9", PRIORITY_RULE,
        "Priority of calls that name none. 0, the lowest: as with RabbitMQ, who names a priority goes before "
        "who names none.",
        _whole(0, 9), fixed=False,
    ),
    SettingSpec(
        "task_ignore_result", "bool", "True or False",
        "Keep and send no results. Off, because a result costs little and a lost one costs an afternoon.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "task_track_started", "bool", "True or False",
        "Report STARTED when a task begins. Off: it is one more message a task.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "task_acks_late", "bool", "True or False",
        "Acknowledge after the task has run: at least once. False is at most once. Unlike Celery on by default: "
        "no task is lost with the process that ran it.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "task_acks_on_timeout", "bool", "True or False",
        "A task that is killed for its time limit has failed. False runs it again, as often as it takes: for tasks "
        "that hang now and then.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "task_time_limit", "s", "seconds above 0, or None for no limit",
        "How long a task may run before its process is killed and it ends as TimeLimitExceeded. No limit, because "
        "nobody but you knows what your tasks do; a call or a task may say its own.",
        _limit,
    ),
    SettingSpec(
        "task_soft_time_limit", "s", "seconds above 0, or None for no limit",
        "How long a task may run before SoftTimeLimitExceeded is raised in it, so that it can put things in order. No "
        "limit, for the same reason.",
        _limit,
    ),
    SettingSpec(
        "task_durability", "level", DURABILITY_RULE,
        "What a confirmed call survives. 'none': the death of its router as long as the caller lives. 'journaled': the "
        "death of every process of the host. 'synced': loss of power too, and its confirm waits for the disk. "
        "'journaled', because it costs calls no time.",
        _durability, fixed=False,
    ),
    SettingSpec(
        "task_always_eager", "bool", "True or False",
        "Run each call at once in the process that makes it, and send nothing: for tests. Off, because it is no task "
        "queue then.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "task_eager_propagates", "bool", "True or False",
        "Raise what an eager call's task raises where it is called. Off: `get()` raises it, as with a real call.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "publish_unconfirmed_max", "calls", "a whole number from 1 to 10000000",
        "How many calls may wait for the router's confirmation before apply_async blocks. 100 000 small calls are "
        "about 50 MB and one to two seconds of a router's work.",
        _whole(1, 10_000_000),
    ),
    SettingSpec(
        "publish_timeout", "s", "seconds above 0",
        "How long apply_async blocks on a full table, and confirm=True waits, before it raises. Twice the connection "
        "timeout, so that a router may be replaced meanwhile.",
        _seconds,
    ),
    SettingSpec(
        "result_expires", "s", "seconds, a timedelta, or None for never",
        "How long an outcome is kept for readers. One day, as in Celery.",
        _seconds_or_never,
    ),
    SettingSpec(
        "results_max_bytes", "bytes", "a whole number from 1048576",
        "How much memory and disk outcomes may take in a router; those the caller has received go first. 256 MiB are "
        "about 700 000 small results.",
        _whole(1 << 20),
    ),
    SettingSpec(
        "result_persistent", "bool", "True or False",
        "Keep outcomes in the journal until `result_expires` though their callers have received them. Off, as in "
        "Celery: what its caller has is seldom read again, and then from memory.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "worker_concurrency", "slots", "a whole number from 1 to 5000, or None for the number of CPUs",
        "Slots of a node that is started without -c.",
        _optional(_whole(1, SLOTS_MAX)),
    ),
    SettingSpec(
        "worker_pool", "pool", "the name of a pool",
        "How a node runs tasks: prefork, threads, solo, asyncio, gevent, eventlet, or one that another package offers. "
        "prefork: processes, on which every limit can be enforced.",
        _pool_name,
    ),
    SettingSpec(
        "worker_max_tasks_per_child", "tasks", "a whole number from 1, or None for no limit",
        "After how many tasks a slot's process is replaced by a fresh one. No limit: only who has a leak needs one.",
        _optional(_whole(1)),
    ),
    SettingSpec(
        "worker_max_memory_per_child", "KiB", "a whole number from 1, or None for no limit",
        "With how much resident memory a slot's process is replaced after its task. No limit, for the same reason.",
        _optional(_whole(1)),
    ),
    SettingSpec(
        "worker_autoscale", "slots", "(most, least), or None for a fixed number",
        "Between how many slots a node has as many as it needs. None: idle slots cost next to nothing.",
        _optional(_autoscale),
    ),
    SettingSpec(
        "worker_autoscale_idle", "s", "seconds above 0",
        "How long a slot that `worker_autoscale` has added may be without work before it leaves. 30 s, as in Celery.",
        _seconds,
    ),
    SettingSpec(
        "worker_max_blocked", "slots", "a whole number from 0",
        "For how many tasks of a node that wait for another task a further slot stands in; beyond it they get "
        "WouldDeadlock. 16 is deeper than recursion is meant to go.",
        _whole(0, 1024),
    ),
    SettingSpec(
        "worker_shutdown_timeout", "s", "seconds above 0, or None for as long as it takes",
        "How long running tasks have in a warm stop, before it becomes a cold one. As long as it takes, as in Celery: "
        "whoever stops the node knows better.",
        _seconds_or_never,
    ),
    SettingSpec(
        "worker_soft_shutdown_timeout", "s", "seconds above 0, or None for none",
        "How long running tasks have in a cold stop, before they are interrupted. None: who asks for a cold stop wants "
        "one.",
        _seconds_or_never,
    ),
    SettingSpec(
        "worker_redirect_stdouts", "bool", "True or False",
        "What tasks print goes into the node's log, with the task's id and a record for each line. On, so that a line "
        "can be told from those of other tasks; False leaves stdout and stderr as they are.",
        _boolean, fixed=False,
    ),
    SettingSpec(
        "worker_redirect_stdouts_level", "level", LOG_LEVEL_RULE,
        "At which level the log has what tasks print. 'WARNING', as in Celery: at the level that a node has by default "
        "it is there.",
        _log_level, fixed=False,
    ),
    SettingSpec(
        "crash_budget", "deaths", "a whole number from 0",
        "How many slots a task may take down with it before it is a dead letter. 3: a crash that repeats is "
        "the task's own.",
        _whole(0),
    ),
    SettingSpec(
        "lost_budget", "losses", "a whole number from 0",
        "How often a task may be lost with its whole node or host. 20: machines fail for reasons that are "
        "not the task's.",
        _whole(0),
    ),
    SettingSpec(
        "queue_max_tasks", "tasks", "a whole number from 1",
        "How many unfinished tasks a router holds before it refuses more (QueueFull). 20 million small ones are about "
        "10 GB.",
        _whole(1),
    ),
    SettingSpec(
        "queue_max_bytes", "bytes", "a whole number from 1",
        "How many bytes of arguments unfinished tasks may have in a router before it refuses more (QueueFull). 8 GiB "
        "are most of a small machine's disk that is spare, and 400 bytes for each of 20 million tasks.",
        _whole(1),
    ),
    SettingSpec(
        "queue_resident", "tasks", "a whole number from 1",
        "How many tasks a router keeps in memory; beyond that the ends of long queues stay on disk alone until their "
        "turn comes nearer. 100 000 small ones are about 60 MB.",
        _whole(1),
    ),
    SettingSpec(
        "queue_max_age", "s", "seconds, a timedelta, or None for no limit",
        "How long a task may wait in a queue before it is a dead letter, with the cause 'too old'. No limit, because "
        "a queue may be long on purpose; `expires` says it for one call.",
        _seconds_or_never,
    ),
    SettingSpec(
        "dead_letters_max", "tasks", "a whole number from 0",
        "How many dead letters a router keeps; the oldest go first. 10 000 are more than anybody looks through.",
        _whole(0),
    ),
    SettingSpec(
        "dead_letters_max_bytes", "bytes", "a whole number from 0",
        "How many bytes dead letters may take; the oldest go first. 64 MiB are 6 KiB for each of 10 000.",
        _whole(0),
    ),
    SettingSpec(
        "journal", "bool", "True or False",
        "Write what is to survive the router to disk. False writes nothing: every call has the level 'none', "
        "whatever it asks for.",
        _boolean,
    ),
    SettingSpec(
        "router_idle_exit", "s", "seconds, or None for never",
        "When a router that was started on demand leaves, after its last node, client and task. 60 s spares a restart "
        "between two commands typed by hand.",
        _seconds_or_never,
    ),
    SettingSpec(
        "timezone", "zone", "an IANA name such as 'Europe/London', or None",
        "How an eta or expires without a zone is read. None is UTC (local time with enable_utc=False). Messages are "
        "always in UTC.",
        _optional(_timezone), fixed=False,
    ),
    SettingSpec(
        "enable_utc", "bool", "True or False",
        "False makes local time the zone of an eta without one, where `timezone` is not set.",
        _boolean, fixed=False,
    ),
)  # fmt: skip


def check(spec: SettingSpec, value: Any, where: str = "") -> Any:
    """The value as it is kept. `where` says in an error who gave it; a secret is not repeated there.

    Raises:
        InvalidSetting, UnsupportedURL: it is outside what the setting allows.
    """
    try:
        return spec.check(value)
    except UnsupportedURL as error:
        raise UnsupportedURL(error.url, error.option, error.instead, where) from None
    except (ValueError, TypeError):
        raise InvalidSetting(spec.name, masked(spec.name, value), spec.allowed, where) from None


@functools.cache
def _kinds() -> dict[str, Any]:
    return get_type_hints(Settings)
