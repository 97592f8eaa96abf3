"""The options of one call, from what users write to what is sent: queue, priority, flags, and the rare ones."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from mesh import celery_names, ids
from mesh.exceptions import InvalidCall, UnserialisableArgument
from mesh.messages import LIMIT_MAX_S, Flag
from mesh.settings import DURABILITIES, DURABILITY_RULE, PRIORITY_RULE, QUEUE_NAME_RULE, Settings, is_queue_name

_WHEN_RULE: Final = "a datetime or an ISO 8601 text"
_EXPIRES_RULE: Final = f"seconds from now, {_WHEN_RULE}"
ID_CHARS_MAX: Final = 255
IGNORE_RESULT: Final = int(Flag.IGNORE_RESULT)
TRACK_STARTED: Final = int(Flag.TRACK_STARTED)
EARLY_ACK: Final = int(Flag.EARLY_ACK)
KEEP_RESULT: Final = int(Flag.KEEP_RESULT)
AGAIN_ON_TIMEOUT: Final = int(Flag.AGAIN_ON_TIMEOUT)
#: {durability: the flag that asks for it}
_DURABILITY_FLAGS: Final = {"none": int(Flag.TRANSIENT), "journaled": 0, "synced": int(Flag.SYNCED)}
_ANY_DURABILITY: Final = int(Flag.TRANSIENT) | int(Flag.SYNCED)


class TaskOptions(NamedTuple):
    """What @app.task says of a task; None leaves it to the settings."""

    queue: str | None = None
    priority: int | None = None
    ignore_result: bool | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_timeout: bool | None = None
    durability: str | None = None
    expires: Any = None  #: as in a call; seconds count from each call


class Defaults(NamedTuple):
    """What a call gets that says nothing itself: the task's options over the settings."""

    queue: str
    priority: int
    flags: int
    expires: Any


class CallOptions(NamedTuple):
    """As `interfaces.Sender.submit` takes them."""

    queue: str
    priority: int
    flags: int
    rare: dict[str, Any] | None


class EagerRun(NamedTuple):
    """Calls made in this context run at once where they are made, for they are made by one that does."""

    throw: bool | None = None  #: whether they raise what their task raises; None leaves it to the settings


#: None where calls go where the settings say.
eager_run: Final[ContextVar[EagerRun | None]] = ContextVar("eager_run", default=None)


def defaults_of(options: TaskOptions, settings: Settings) -> Defaults:
    """The defaults of a task under these settings."""
    flags = IGNORE_RESULT * _either(options.ignore_result, settings.task_ignore_result)
    flags |= TRACK_STARTED * _either(options.track_started, settings.task_track_started)
    flags |= EARLY_ACK * (not _either(options.acks_late, settings.task_acks_late))
    flags |= AGAIN_ON_TIMEOUT * (not _either(options.acks_on_timeout, settings.task_acks_on_timeout))
    flags |= KEEP_RESULT * settings.result_persistent
    flags |= _DURABILITY_FLAGS[settings.task_durability if options.durability is None else options.durability]
    return Defaults(
        settings.task_default_queue if options.queue is None else options.queue,
        settings.task_default_priority if options.priority is None else options.priority,
        flags,
        options.expires,
    )


def _either(option: bool | None, setting: bool) -> bool:
    return setting if option is None else option


def call_options(
    defaults: Defaults,
    settings: Settings,
    *,
    task_id: str | None = None,
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
) -> CallOptions:
    """The options of one call over the defaults of its task. Times become wall seconds.

    Raises:
        InvalidCall: an option that can't be, or two that exclude each other.
        UnserialisableArgument: headers that don't travel.
    """
    rare: dict[str, Any] = {}
    if task_id is not None:
        rare["id"] = check_task_id(task_id)
    if countdown is not None or eta is not None:
        rare["eta"] = due(countdown, eta, settings)
    if expires is None:
        expires = defaults.expires
    if expires is not None:
        rare["expires"] = expiry(expires, settings)
    if headers:
        rare["headers"] = _headers(headers)
    if time_limit is not None or soft_time_limit is not None:
        rare["limits"] = check_limits(time_limit, soft_time_limit)
    flags = _flag(defaults.flags, IGNORE_RESULT, "ignore_result", ignore_result)
    flags = _flag(flags, TRACK_STARTED, "track_started", track_started)
    flags = flags if acks_late is None else _flag(flags, EARLY_ACK, "acks_late", acks_late, inverted=True)
    level = said_durability(durability, delivery_mode)
    if level is not None:
        flags = flags & ~_ANY_DURABILITY | _DURABILITY_FLAGS[level]
    return CallOptions(
        defaults.queue if queue is None else check_queue(queue),
        defaults.priority if priority is None else check_priority(priority),
        flags,
        rare or None,
    )


# --- one option each ------------------------------------------------------------------------------


def check_queue(queue: Any) -> str:
    """The name of a queue. Raises InvalidCall."""
    if not is_queue_name(queue):
        raise InvalidCall("queue", queue, QUEUE_NAME_RULE)
    return str(queue)


def check_priority(priority: Any) -> int:
    """A priority. Raises InvalidCall."""
    if not isinstance(priority, int) or isinstance(priority, bool) or not 0 <= priority <= 9:
        raise InvalidCall("priority", priority, PRIORITY_RULE)
    return int(priority)


def check_durability(durability: Any) -> str:
    """What a call is to survive. Raises InvalidCall."""
    if durability not in DURABILITIES:
        raise InvalidCall("durability", durability, DURABILITY_RULE)
    return str(durability)


def said_durability(durability: Any, delivery_mode: Any) -> str | None:
    """The durability that is asked for in this or in Celery's way; None where nothing is said. Raises InvalidCall."""
    if delivery_mode is None:
        return None if durability is None else check_durability(durability)
    if durability is not None:
        raise InvalidCall("delivery_mode", delivery_mode, "either durability or delivery_mode, not both")
    try:
        return celery_names.durability_of(delivery_mode)
    except ValueError:
        raise InvalidCall("delivery_mode", delivery_mode, celery_names.DELIVERY_MODE_RULE) from None


def check_expires(expires: Any) -> Any:
    """Seconds or a time, as it stands. Raises InvalidCall."""
    if not _is_number(expires):
        wall_s("expires", expires, Settings(), _EXPIRES_RULE)
    return expires


def check_retries(retries: Any) -> int:
    """How often a task may be retried. Raises InvalidCall."""
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise InvalidCall("max_retries", retries, "a whole number from 0, or None for no limit")
    return int(retries)


def check_delay(seconds: Any) -> float:
    """A time to wait. Raises InvalidCall."""
    if not _is_number(seconds) or seconds < 0:
        raise InvalidCall("default_retry_delay", seconds, "seconds from 0, as a number")
    return float(seconds)


def check_limit(option: str, seconds: Any) -> float:
    """How long a run may take. Raises InvalidCall."""
    if not _is_number(seconds) or not 0 < seconds < LIMIT_MAX_S:
        raise InvalidCall(option, seconds, "seconds above 0, as a number, or leave it out")
    return float(seconds)


def check_limits(hard: Any, soft: Any) -> list[float | None]:
    """Both limits of one call. Raises InvalidCall."""
    hard_s = None if hard is None else check_limit("time_limit", hard)
    soft_s = None if soft is None else check_limit("soft_time_limit", soft)
    if hard_s is not None and soft_s is not None and soft_s >= hard_s:
        raise InvalidCall("soft_time_limit", soft, f"less than time_limit={hard!r}")
    return [hard_s, soft_s]


def check_boolean(option: str, value: Any) -> bool:
    """A switch. Raises InvalidCall."""
    if not isinstance(value, bool):
        raise InvalidCall(option, value, "True or False")
    return value


def check_task_id(task_id: Any) -> str:
    """An id that the caller chose. Raises InvalidCall."""
    if not isinstance(task_id, str) or not 0 < len(task_id) <= ID_CHARS_MAX or not task_id.isprintable():
        raise InvalidCall("task_id", task_id, f"a text of 1 to {ID_CHARS_MAX} printable characters")
    if ids.from_text(task_id) is not None:
        raise InvalidCall("task_id", task_id, "an id of your own, not one that mesh has made (a UUID of version 8)")
    return task_id


def check_task_name(name: Any) -> str:
    """A task's name. Raises InvalidCall."""
    if not isinstance(name, str) or not 0 < len(name) <= ID_CHARS_MAX or not name.isprintable():
        raise InvalidCall("name", name, f"a task name: a text of 1 to {ID_CHARS_MAX} printable characters")
    return name


def _flag(flags: int, bit: int, option: str, value: bool | None, inverted: bool = False) -> int:
    if value is None:
        return flags
    return flags | bit if check_boolean(option, value) is not inverted else flags & ~bit


def _headers(headers: Any) -> dict[str, Any]:
    """Headers travel beside the body and are read by routers: plain values only."""
    import msgpack

    if not isinstance(headers, Mapping) or not all(isinstance(key, str) for key in headers):
        raise InvalidCall("headers", headers, "a dict with texts as keys")
    plain = dict(headers)
    try:
        msgpack.packb(plain, strict_types=True)
    except Exception as error:  # msgpack raises many kinds; all mean the same here
        raise UnserialisableArgument("headers", "dict", f"{error}; give texts, numbers, lists and dicts") from error
    return plain


# --- times ----------------------------------------------------------------------------------------


def due(countdown: Any, eta: Any, settings: Settings) -> float:
    """When the task may begin, wall seconds. The past means at once."""
    if countdown is None:
        return wall_s("eta", eta, settings)
    if eta is not None:
        raise InvalidCall("eta", eta, "either countdown or eta, not both")
    if not _is_number(countdown):
        raise InvalidCall("countdown", countdown, "seconds, as a number")
    at: float = time.time() + countdown
    return at


def expiry(expires: Any, settings: Settings) -> float:
    """After when the task must not begin any more, wall seconds; the past is clamped to now, with a warning.

    Raises:
        InvalidCall: neither seconds from now nor a time.
    """
    now = time.time()
    at = now + expires if _is_number(expires) else wall_s("expires", expires, settings, _EXPIRES_RULE)
    if at >= now:
        return at
    import logging

    logging.getLogger("mesh").warning(
        "expires=%r is %.3f s past: the task ends as REVOKED", expires, now - at, extra={"action": "expires_clamped"}
    )
    return now


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def wall_s(option: str, value: Any, settings: Settings, rule: str = _WHEN_RULE) -> float:
    """A datetime or ISO text as wall seconds. One without a zone is read in `timezone`, which is UTC unless set.

    Raises:
        InvalidCall: it is neither; `rule` says what can be given.
    """
    from datetime import datetime

    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidCall(option, value, rule) from None
    if not isinstance(value, datetime):
        raise InvalidCall(option, value, rule)
    zoned: datetime = _zoned(value, settings) if value.tzinfo is None else value
    return zoned.timestamp()


def _zoned(naive: Any, settings: Settings) -> Any:
    if settings.timezone is not None:
        from zoneinfo import ZoneInfo

        return naive.replace(tzinfo=ZoneInfo(settings.timezone))
    if not settings.enable_utc:
        return naive
    from datetime import UTC

    return naive.replace(tzinfo=UTC)


# --- unknown ones ---------------------------------------------------------------------------------

#: What apply_async takes beside the arguments.
NAMES: Final = (
    *("task_id", "queue", "priority", "countdown", "eta", "expires", "ignore_result", "track_started", "acks_late"),
    *("durability", "delivery_mode", "headers", "time_limit", "soft_time_limit", "confirm"),
)


def refuse_unknown(where: str, names: Collection[str]) -> None:
    """Raises OptionNotAvailable or UnknownOption for keywords that no call takes."""
    for name in names:
        celery_names.refuse_option(where, name, NAMES, celery_names.CALL_OPTIONS)
