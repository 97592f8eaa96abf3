"""Names that Celery knows and mesh doesn't, or not yet: what to tell somebody who brings a Celery project along."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from mesh.exceptions import OptionNotAvailable, UnknownOption

_LATER: Final = "mesh does not offer it yet; leave it out"
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
        "broker_failover_strategy broker_use_ssl broker_transport_options broker_login_method task_publish_retry "
        "task_publish_retry_policy task_queue_max_priority control_queue_ttl "
        "control_queue_expires event_queue_ttl event_queue_expires result_chord_join_timeout "
        "result_chord_retry_interval result_backend_always_retry result_backend_transport_options override_backends "
        "worker_enable_prefetch_count_reduction",
        _NO_BROKER,
    ),
    ("task_default_exchange task_default_exchange_type task_default_routing_key", _QUEUE),
    ("task_create_missing_queues worker_enable_remote_control", _ALWAYS),
    (
        "worker_logfile worker_pidfile worker_uid worker_gid worker_umask",
        "it is needed before the app is loaded; write it behind the command, as in mesh worker --pidfile PATH, or set "
        "MESH_WORKER_PIDFILE and the like",
    ),
    ("task_reject_on_worker_lost", "a task whose process dies is run again within crash_budget; leave it out"),
    (
        "worker_prefetch_multiplier worker_disable_prefetch worker_eta_task_limit",
        "slots are given as much work as they can begin at once; leave it out",
    ),
    (
        "task_annotations task_acks_on_failure task_acks_on_failure_or_timeout "
        "task_store_errors_even_if_ignored task_default_rate_limit "
        "task_remote_tracebacks task_allow_error_cb_on_chord_header task_always_eager task_eager_propagates "
        "task_store_eager_result task_queues task_routes task_inherit_parent_priority task_send_sent_event "
        "result_extended result_cache_max worker_direct worker_pool worker_max_tasks_per_child "
        "worker_max_memory_per_child worker_disable_rate_limits worker_deduplicate_successful_tasks worker_lost_wait "
        "worker_proc_alive_timeout worker_timer_precision worker_state_db worker_send_task_events worker_pool_restarts "
        "worker_soft_shutdown_timeout worker_enable_soft_shutdown_on_idle worker_autoscaler worker_consumer "
        "worker_timer worker_cancel_long_running_tasks_on_connection_loss worker_hijack_root_logger worker_log_color "
        "worker_log_format worker_task_log_format beat_schedule beat_scheduler "
        "beat_schedule_filename beat_sync_every beat_max_loop_interval beat_cron_starting_deadline "
        "security_key security_key_password security_certificate security_cert_store security_digest",
        _LATER,
    ),
)

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
    ("config_source task_cls namespace strict_typing", _LATER),
    ("result_backend", "write backend=..."),
    ("broker_url", "write broker=..."),
)

#: {attribute of an app: what to do instead}
APP_ATTRIBUTES: Final = _table(
    (
        "autodiscover_tasks config_from_object config_from_envvar add_defaults signature canvas add_periodic_task "
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


def suggest(word: str, known: Collection[str]) -> str | None:
    """The known word nearest to a misspelt one."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)
