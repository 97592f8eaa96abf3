"""Names that Celery knows and mesh doesn't, or not yet: what to tell somebody who brings a Celery project along."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from mesh.exceptions import OptionNotAvailable, UnknownOption

_LATER: Final = "mesh does not offer it yet; leave it out"
_NO_BACKEND: Final = "results go straight to the caller and are kept by the router; leave it out"
_PUSHED: Final = "results are pushed to whoever waits for them, and nothing is polled; leave it out"
_NO_BROKER: Final = "mesh has no broker, so it has nothing to act on; leave it out"
_ENCODING: Final = "arguments and results always travel as msgpack; leave it out"
_ALWAYS: Final = "mesh always does so; leave it out"
_QUEUE: Final = "mesh has queues and no exchanges; write queue=... in the call or in @app.task"


def _table(*rows: tuple[str, str]) -> dict[str, str]:
    """{name: what to do instead}, from rows of (names, what to do instead)."""
    return {name: instead for names, instead in rows for name in names.split()}


#: {Celery's delivery mode: the durability that it asks for}
_DELIVERY_MODES: Final = {1: "none", "transient": "none", 2: "journaled", "persistent": "journaled"}
DELIVERY_MODE_RULE: Final = "2 or 'persistent' (durability 'journaled'), or 1 or 'transient' ('none')"


def durability_of(delivery_mode: Any) -> str:
    """The durability that a delivery mode of Celery's asks for. Raises ValueError."""
    if not isinstance(delivery_mode, int | str) or isinstance(delivery_mode, bool):
        raise ValueError
    durability = _DELIVERY_MODES.get(delivery_mode)
    if durability is None:
        raise ValueError
    return durability


def delivery_mode_of(durability: str) -> int:
    """The delivery mode that Celery has for it."""
    return 1 if durability == "none" else 2


class Alias(NamedTuple):
    """A setting that has another name and other values here."""

    name: str  #: here
    allowed: str
    ours: Callable[[Any], Any]  #: value there -> value here, or ValueError
    theirs: Callable[[Any], Any]  #: value here -> value there


#: {setting of Celery's: what it is here}
SETTING_ALIASES: Final = {
    "task_default_delivery_mode": Alias("task_durability", DELIVERY_MODE_RULE, durability_of, delivery_mode_of),
}

#: {setting: what to do instead}
SETTINGS: Final = _table(
    (
        "accept_content result_accept_content task_serializer result_serializer event_serializer task_compression "
        "result_compression task_protocol",
        _ENCODING,
    ),
    (
        "broker_read_url broker_write_url broker_connection_retry broker_connection_retry_on_startup "
        "broker_connection_max_retries broker_pool_limit broker_pool_acquire_timeout broker_heartbeat "
        "broker_heartbeat_checkrate broker_channel_error_retry broker_native_delayed_delivery_queue_type "
        "broker_failover_strategy broker_use_ssl broker_transport broker_transport_options broker_login_method "
        "task_publish_retry task_publish_retry_policy task_default_queue_type worker_detect_quorum_queues "
        "control_exchange control_queue_ttl control_queue_expires control_queue_durable control_queue_exclusive "
        "event_exchange event_queue_ttl event_queue_expires event_queue_prefix event_queue_durable "
        "event_queue_exclusive worker_enable_prefetch_count_reduction",
        _NO_BROKER,
    ),
    ("task_queue_max_priority", "every queue knows the priorities 0 to 9; leave it out"),
    (
        "result_backend_always_retry result_backend_max_retries result_backend_base_sleep_between_retries_ms "
        "result_backend_max_sleep_between_retries_ms result_backend_thread_safe result_backend_transport_options "
        "result_exchange result_exchange_type override_backends",
        _NO_BACKEND,
    ),
    ("result_cache_max", "results are kept by the router, up to results_max_bytes; leave it out"),
    ("result_chord_join_timeout result_chord_retry_interval", _PUSHED),
    ("task_default_exchange task_default_exchange_type task_default_routing_key", _QUEUE),
    ("task_create_missing_queues worker_enable_remote_control", _ALWAYS),
    (
        "worker_logfile worker_pidfile worker_uid worker_gid worker_umask",
        "it is needed before the app is loaded; write it behind the command, as in mesh worker --pidfile PATH, or set "
        "MESH_WORKER_PIDFILE and the like",
    ),
    (
        "task_create_missing_queue_type task_create_missing_queue_exchange_type",
        "queues are of one kind; leave it out",
    ),
    ("task_reject_on_worker_lost", "a task whose process dies is run again within crash_budget; leave it out"),
    ("worker_lost_wait", "the kernel tells of the death of a slot at once; leave it out"),
    ("worker_proc_alive_timeout", "slots are forked from a process that has the app already; leave it out"),
    ("worker_state_db", "revokes are kept in the router's journal; leave it out"),
    (
        "worker_cancel_long_running_tasks_on_connection_loss",
        "a running task goes on while its router is away, and is not run twice for that; leave it out",
    ),
    (
        "worker_consumer worker_timer worker_timer_precision worker_autoscaler worker_executable worker_agent "
        "beat_executable events_executable",
        "mesh is built of other parts, which can't be exchanged; leave it out",
    ),
    (
        "task_store_eager_result",
        "outcomes of eager calls are kept in their process until app.close(), and a router keeps those of its own "
        "calls only; leave it out",
    ),
    (
        "worker_prefetch_multiplier worker_disable_prefetch worker_eta_task_limit",
        "slots are given as much work as they can begin at once; leave it out",
    ),
    (
        "task_annotations task_acks_on_failure task_acks_on_failure_or_timeout "
        "task_store_errors_even_if_ignored task_default_rate_limit "
        "task_remote_tracebacks task_allow_error_cb_on_chord_header "
        "task_queues task_routes task_inherit_parent_priority task_send_sent_event "
        "result_extended worker_direct worker_disable_rate_limits worker_deduplicate_successful_tasks "
        "worker_send_task_events worker_pool_restarts worker_enable_soft_shutdown_on_idle "
        "worker_hijack_root_logger worker_log_color "
        "worker_log_format worker_task_log_format beat_schedule beat_scheduler "
        "beat_schedule_filename beat_sync_every beat_max_loop_interval beat_cron_starting_deadline "
        "security_key security_key_password security_certificate security_cert_store security_digest",
        _LATER,
    ),
    ("worker_logfile worker_pidfile worker_uid worker_gid worker_umask", _LATER),
    ("beat_logfile beat_pidfile beat_uid beat_gid beat_umask", "mesh has no beat yet; leave it out"),
    ("events_logfile events_pidfile events_uid events_gid events_umask", "mesh has no events yet; leave it out"),
)

#: What the settings of result backends begin with.
_OF_BACKENDS: Final = (
    *("arangodb_", "azureblockblob_", "cache_", "cassandra_", "consul_", "cosmosdbsql_", "couchbase_", "database_"),
    *("dynamodb_", "elasticsearch_", "filesystem_", "gcs_", "mongodb_", "redis_", "s3_"),
)
_OLD_NAME: Final = re.compile(r"(CELERY|CELERYD|CELERYBEAT|BROKER)_([A-Z0-9_]+)")
#: {what an old name begins with: what the new one may begin with}
_OLD_FAMILIES: Final = {
    "CELERY": ("", "task_", "worker_", "result_"),
    "CELERYD": ("worker_", ""),
    "CELERYBEAT": ("beat_",),
    "BROKER": ("broker_",),
}
#: {old name: new one}, where no rule leads from one to the other.
_OLD_NAMES: Final = {
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
}

#: {option of @app.task: what to do instead}
TASK_OPTIONS: Final = _table(
    ("serializer compression", _ENCODING),
    ("exchange routing_key", _QUEUE),
    ("backend", "results always go to the caller; leave it out"),
    ("reject_on_worker_lost", "a task whose process dies is run again within crash_budget; leave it out"),
    (
        "base autoretry_for dont_autoretry_for retry_kwargs retry_backoff "
        "retry_backoff_max retry_jitter rate_limit store_errors_even_if_ignored trail "
        "send_events resultrepr_maxsize acks_on_failure acks_on_failure_or_timeout Request Strategy "
        "pydantic pydantic_strict pydantic_context pydantic_dump_kwargs",
        _LATER,
    ),
)

#: {option of apply_async and send_task: what to do instead}
CALL_OPTIONS: Final = _table(
    ("serializer compression", _ENCODING),
    ("exchange exchange_type routing_key", _QUEUE),
    ("retry retry_policy producer connection timeout confirm_timeout publisher mandatory", _NO_BROKER),
    (
        "link link_error add_to_parent shadow argsrepr kwargsrepr group_id group_index "
        "root_id parent_id chord chain reply_to retries stamped_headers",
        _LATER,
    ),
)

#: {keyword of Mesh(...): what to do instead}
APP_OPTIONS: Final = _table(
    ("loader events log amqp control annotations_cls autofinalize fixups tasks changes", _LATER),
    ("task_cls strict_typing", _LATER),
    ("result_backend", "write backend=..."),
    ("broker_url", "write broker=..."),
)

#: {attribute of an app: what to do instead}
APP_ATTRIBUTES: Final = _table(
    (
        "autodiscover_tasks signature canvas add_periodic_task "
        "register_task Task Worker Beat WorkController events log loader bugreport setup_security set_default "
        "on_configure on_after_configure on_after_finalize on_after_fork steps user_options GroupResult ResultSet "
        "either finalize gen_task_name select_queues",
        _LATER,
    ),
    ("amqp connection connection_for_read connection_for_write pool producer_pool backend", _NO_BROKER),
)


def refuse_option(where: str, name: str, known: Collection[str], of_celery: Mapping[str, str]) -> None:
    """Raises what is to be said of a keyword that `where` does not take.

    Raises:
        OptionNotAvailable: Celery has it.
        UnknownOption: nobody has it.
    """
    instead = of_celery.get(name)
    if instead is not None:
        raise OptionNotAvailable(where, name, instead)
    raise UnknownOption(where, name, suggest(name, known))


def suggest(word: str, known: Collection[str], likeness: float = 0.6) -> str | None:
    """The known word nearest to a misspelt one, of those that are at least so like it, from 0 to 1."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)), None)


def setting_reason(name: str) -> str | None:
    """What to do instead of a setting of Celery's that mesh has not; None for any other name."""
    reason = SETTINGS.get(name)
    return _NO_BACKEND if reason is None and name.startswith(_OF_BACKENDS) else reason


def newer_name(name: str, known: Collection[str]) -> str | None:
    """The known setting that was, before Celery 4, called by this name in upper case: CELERYD_CONCURRENCY.

    None for any other. Names in a namespace that was not given are found too: CELERY_TASK_TIME_LIMIT.
    """
    found = _OLD_NAME.fullmatch(name)
    if found is None:
        return None
    rest = found[2].lower()
    candidates = [_OLD_NAMES.get(name, ""), *(f"{family}{rest}" for family in _OLD_FAMILIES[found[1]])]
    return next((candidate for candidate in candidates if candidate in known), None)
