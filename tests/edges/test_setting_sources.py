"""Where settings come from: the order of the sources, and what each of them takes and refuses."""

from __future__ import annotations

import logging
import sys
import textwrap
import types
from datetime import timedelta

import pytest

from mesh import Mesh, celery_names
from mesh import exceptions as ex
from mesh.conf import Conf
from mesh.settings import SETTINGS, Settings
from tests.edges.recording import RecordingMesh


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """An empty current directory, on the Python path, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for variable in ("MESH_CONFIG", *(spec.variable for spec in SETTINGS)):
        monkeypatch.delenv(variable, raising=False)
    known = set(sys.modules)
    yield tmp_path
    for module in sys.modules.keys() - known:
        if (getattr(sys.modules[module], "__file__", None) or "").startswith(f"{tmp_path}/"):
            del sys.modules[module]


@pytest.fixture
def conf():
    return Conf()


def write(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- the order -----------------------------------------------------------------------------------


def test_each_source_goes_before_those_below_it(conf, here, monkeypatch):
    # Given all sources, each with another value, from the weakest to the strongest
    steps = [
        ("add_defaults", lambda: conf.add_defaults({"crash_budget": 1})),
        ("[tool.mesh] of pyproject.toml", lambda: write(here / "pyproject.toml", "[tool.mesh]\ncrash_budget = 2")),
        ("mesh.toml", lambda: write(here / "mesh.toml", "crash_budget = 3")),
        ("config_from_object(dict)", lambda: conf.config_from_object({"crash_budget": 4})),
        ("code", lambda: conf.update(crash_budget=5)),
        ("environment MESH_CRASH_BUDGET", lambda: monkeypatch.setenv("MESH_CRASH_BUDGET", "6")),
        ("command line", lambda: conf.override({"crash_budget": "7"})),
    ]

    # When one after the other speaks
    seen = []
    for source, say in steps:
        say()
        # Files are read once; a fresh Conf of the same app would read them now.
        fresh = Conf()
        object.__setattr__(fresh, "_layers", conf._layers._replace(files=fresh._layers.files))
        found = fresh.explain()["crash_budget"]
        seen.append((source, found))

    # Then it has the word, and who has it is known
    assert [found for _, found in seen] == [(number, source) for number, (source, _) in enumerate(steps, start=1)]
    assert seen[-1][1].value == 7


def test_what_nobody_says_is_the_default(conf):
    assert {found.source for found in conf.explain().values()} == {"default"}
    assert conf.freeze() == Settings()


def test_what_is_said_in_code_does_not_depend_on_when_the_module_is_named(conf):
    conf.crash_budget = 1
    conf.config_from_object({"crash_budget": 2, "lost_budget": 2})
    conf.update(queue_resident=5)

    assert (conf.crash_budget, conf.lost_budget, conf.queue_resident) == (1, 2, 5)


def test_a_source_is_read_when_a_value_is_needed_and_then_once(conf, here):
    # Given a file and a module that are not there yet as they are named
    conf.config_from_object("later")
    write(here / "later.py", "crash_budget = 1")
    write(here / "mesh.toml", "lost_budget = 1")

    # When values are asked for, and both change
    assert (conf.crash_budget, conf.lost_budget) == (1, 1)
    write(here / "mesh.toml", "lost_budget = 2")

    # Then the app goes on with what it has read
    assert conf.lost_budget == 1
    assert Conf().lost_budget == 2


# --- text: the environment and the command line ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("journal", word, False) for word in ("0", "false", "No", "OFF", "n", "f")),
        *(("task_track_started", word, True) for word in ("1", "true", "Yes", "ON", "y", "t")),
        ("crash_budget", "7", 7),
        ("result_expires", "90.5", 90.5),
        ("result_expires", "0", None),
        ("result_expires", "none", None),
        ("worker_concurrency", "None", None),
        ("include", " a, b.c ,", ("a", "b.c")),
        ("task_default_queue", "mail", "mail"),
        ("timezone", "Europe/London", "Europe/London"),
        ("broker_url", "mesh://lab", "mesh://lab"),
    ],
)
def test_text_is_read_by_the_type_of_the_setting(conf, monkeypatch, name, text, value):
    monkeypatch.setenv(f"MESH_{name.upper()}", text)
    assert conf[name] == getattr(conf.freeze(), name) == value

    other = Conf()
    other.override({name: text})
    assert other[name] == value


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: spec.name)
def test_every_setting_has_a_variable_that_can_say_its_default(conf, monkeypatch, spec):
    default = spec.default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    conf.update({spec.name: default})
    monkeypatch.setenv(f"MESH_{spec.name.upper()}", text)

    found = conf.explain()[spec.name]

    assert found.value == default
    assert found.source == (f"environment MESH_{spec.name.upper()}" if text else "code")


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("journal", "perhaps", "True or False"),
        ("crash_budget", "-1", "a whole number from 0"),
        ("crash_budget", "1.5", "a whole number from 0"),
        ("result_expires", "soon", "seconds"),
        ("publish_timeout", "inf", "seconds above 0"),
        ("task_default_queue", "a b", "a queue name"),
    ],
)
def test_text_that_means_no_value_is_refused_with_its_place_and_what_is_allowed(conf, monkeypatch, name, text, allowed):
    with pytest.raises(ex.InvalidSetting, match=rf"setting {name}=.* of the command line is not allowed: .*{allowed}"):
        conf.override({name: text})

    monkeypatch.setenv(f"MESH_{name.upper()}", text)
    with pytest.raises(ex.InvalidSetting, match=rf"of the environment MESH_{name.upper()} is not allowed"):
        conf.freeze()


def test_the_command_line_may_use_celerys_names_and_gets_them_corrected(conf):
    conf.override({"task_default_delivery_mode": "1"}, source="worker's command line")
    assert conf.explain()["task_durability"] == ("none", "worker's command line")

    with pytest.raises(ex.UnknownSetting, match=r"of the command line: did you mean 'result_expires'\?"):
        conf.override({"result_expire": "1"})
    with pytest.raises(ex.SettingNotAvailable, match="msgpack"):
        conf.override({"task_serializer": "json"})


# --- files ---------------------------------------------------------------------------------------


def test_a_named_file_is_the_only_one(conf, here, monkeypatch):
    write(here / "mesh.toml", "crash_budget = 1\nlost_budget = 1")
    write(here / "lab.toml", 'crash_budget = 2\ninclude = ["a", "b"]\ntask_time_limit = "none"\nresult_expires = 60')
    monkeypatch.setenv("MESH_CONFIG", "lab.toml")

    assert (conf.crash_budget, conf.lost_budget, conf.include, conf.task_time_limit) == (2, 20, ("a", "b"), None)
    assert conf.explain()["result_expires"] == (60.0, "lab.toml")


def test_a_named_pyproject_is_read_from_its_table(conf, here, monkeypatch):
    (here / "sub").mkdir()
    write(here / "sub/pyproject.toml", '[project]\nname = "x"\n[tool.mesh]\ncrash_budget = 2')
    monkeypatch.setenv("MESH_CONFIG", "sub/pyproject.toml")

    assert conf.explain()["crash_budget"] == (2, "[tool.mesh] of sub/pyproject.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[tool.mesh]\nA",
        '["tool"."mesh"]\nA',
        "[ tool . mesh ]\nA",
        "[tool]\nmesh.A",
        "tool.mesh.A",
        "[tool]\nmesh = {A}",
    ],
)
def test_the_table_of_a_pyproject_may_be_written_in_each_way_of_toml(conf, here, text):
    write(here / "pyproject.toml", text.replace("A", "crash_budget = 2"))
    assert conf.crash_budget == 2


@pytest.mark.parametrize("text", ["", "[tool.other]\nx = 1", '[project]\ndependencies = ["mesh-tasks"]', "tool = 1"])
def test_a_pyproject_without_a_table_for_mesh_says_nothing(conf, here, text):
    write(here / "pyproject.toml", text)
    assert conf.freeze() == Settings()


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("mesh.toml", "crash_budget =\n", ex.SettingsFileUnusable, "mesh.toml can't be used: it is no TOML: .*line 1"),
        ("mesh.toml", "\xff", ex.SettingsFileUnusable, "it is no TOML"),
        ("mesh.toml", "crash_budgt = 1", ex.UnknownSetting, r"in /.*/mesh.toml: did you mean 'crash_budget'\?"),
        ("mesh.toml", "[task]\ntime_limit = 1", ex.UnknownSetting, "'task' in /.*/mesh.toml"),
        ("mesh.toml", "crash_budget = -1", ex.InvalidSetting, "in /.*/mesh.toml is not allowed: give a whole number"),
        ("mesh.toml", 'crash_budget = "1"', ex.InvalidSetting, "crash_budget='1' in "),
        ("mesh.toml", 'crash_budget = "none"', ex.InvalidSetting, "crash_budget='none' in "),
        (
            "mesh.toml",
            'task_serializer = "json"',
            ex.SettingNotAvailable,
            "in /.*/mesh.toml is not available: .*msgpack",
        ),
        ("mesh.toml", 'broker_url = "redis://h"', ex.UnsupportedURL, "in /.*/mesh.toml is not a URL"),
        ("pyproject.toml", "[tool.mesh]\nx = 1", ex.UnknownSetting, r"in \[tool.mesh\] of /.*/pyproject.toml"),
        ("pyproject.toml", "[tool]\nmesh = 1", ex.SettingsFileUnusable, "tool.mesh is no table"),
        ("pyproject.toml", "[tool.mesh", ex.SettingsFileUnusable, "pyproject.toml can't be used: it is no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(conf, here, name, text, error, says):
    (here / name).write_text(text, encoding="latin-1")
    with pytest.raises(error, match=says):
        conf.freeze()


def test_a_file_that_is_named_has_to_be_there(conf, here, monkeypatch):
    monkeypatch.setenv("MESH_CONFIG", "nowhere.toml")
    with pytest.raises(ex.SettingsFileUnusable, match=r"/nowhere\.toml can't be used: No such file"):
        conf.freeze()


# --- config_from_object ----------------------------------------------------------------------------

CELERYCONFIG = """
    import os
    from collections import OrderedDict
    from datetime import timedelta

    _private = 1
    broker_url = "amqp://me:secret@host//"
    result_backend = "db+sqlite:///results"
    task_serializer = "json"
    worker_prefetch_multiplier = 1
    redis_max_connections = 3
    task_acks_late = False
    result_expires = timedelta(hours=1)
    task_default_delivery_mode = "transient"
    beat_schedule = {"x": {"task": "t", "schedule": 1.0}}
    colours = ["red"]
    DEBUG = True

    def task_things():
        pass
"""


def test_a_celeryconfig_works_as_it_is_and_what_means_nothing_here_is_named_once(conf, here, caplog):
    # Given a module that was made for Celery
    write(here / "celeryconfig.py", CELERYCONFIG)
    conf.config_from_object("celeryconfig")
    assert warnings(caplog) == []

    # When its values are needed, more than once
    settings = conf.freeze()
    conf.freeze()

    # Then those that mean something here hold
    assert settings == Settings(task_acks_late=False, result_expires=3600.0, task_durability="none")
    assert conf.explain()["task_acks_late"].source == "config_from_object('celeryconfig')"

    # And each that doesn't is named once, with its reason and no password
    said = warnings(caplog)
    named = ["beat_schedule", "broker_url", "redis_max_connections", "result_backend"]
    named += ["task_serializer", "worker_prefetch_multiplier"]
    assert [line.split()[1] for line in said] == named
    assert all("of config_from_object('celeryconfig') is passed over: " in line for line in said)
    assert "msgpack" in said[4]
    assert "secret" not in "".join(said)


@pytest.mark.parametrize(
    "target", ["pack.config", "pack.config:nested", "pack.config.nested", "pack:inner", "pack.inner"]
)
def test_a_configuration_is_named_as_in_celery(here, target):
    (here / "pack").mkdir()
    write(here / "pack/__init__.py", "class inner:\n    crash_budget = 1")
    write(here / "pack/config.py", 'crash_budget = 1\nnested = {"crash_budget": 1}')
    app = Mesh("x", set_as_current=False)

    app.config_from_object(target)

    assert app.conf.crash_budget == app.settings.crash_budget == 1


@pytest.mark.parametrize(
    "config", [types.SimpleNamespace(crash_budget=1), {"crash_budget": 1}, type("Config", (), {"crash_budget": 1})]
)
def test_a_configuration_may_be_an_object_a_class_or_a_mapping(config):
    assert Mesh("x", config_source=config, set_as_current=False).conf.crash_budget == 1


def test_with_a_namespace_only_the_names_in_it_are_settings(here, caplog):
    # Given a module of constants of all kinds
    write(
        here / "constants.py",
        """
        CELERY_TASK_TIME_LIMIT = 3
        CELERY_CACHE_BACKEND = "default"
        CELERY_OF_OUR_OWN = 1
        CRASH_BUDGET = 1
        TIMEZONE = "Mars"
        crash_budget = 1
        """,
    )

    # When it is read in a namespace, which the app or the call names
    by_app = Mesh("x", namespace="CELERY", config_source="constants", set_as_current=False)
    by_call = Mesh("x", set_as_current=False)
    by_call.config_from_object("constants", namespace="CELERY_")

    # Then the others are none of mesh's
    assert by_app.settings == by_call.settings == Settings(task_time_limit=3.0)
    assert [line.split()[1] for line in warnings(caplog)] == ["CELERY_CACHE_BACKEND", "CELERY_OF_OUR_OWN"] * 2


@pytest.mark.parametrize(
    ("config", "namespace", "error", "says"),
    [
        pytest.param({"x": 1}, None, ex.UnknownSetting, r"'x' of config_from_object\(dict\)", id="a mapping"),
        pytest.param({"task_things": print}, None, ex.UnknownSetting, "task_things", id="a function in a mapping"),
        pytest.param("task_time_limits = 1", None, ex.UnknownSetting, "mean 'task_time_limit'", id="misspelt"),
        pytest.param("NS_RESULT_EXPIRE = 1", "NS", ex.UnknownSetting, "'NS_RESULT_EXPIRE'", id="in a namespace"),
        pytest.param("crash_budget = -1", None, ex.InvalidSetting, r"of config_from_object\('c'\)", id="a value"),
        pytest.param("broker_url = 'work'", None, ex.UnsupportedURL, "mesh://work", id="a name without scheme"),
        pytest.param("CELERYD_CONCURRENCY = 1", None, ex.SettingNotAvailable, "worker_concurrency", id="an old name"),
        pytest.param("BROKER_URL = 'x'", None, ex.SettingNotAvailable, "write broker_url", id="an old broker"),
        pytest.param("CELERY_TIMEZONE = 'UTC'", None, ex.SettingNotAvailable, "write timezone", id="no namespace"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_refused_as_it_is_read(conf, here, config, namespace, error, says):
    if isinstance(config, str):
        write(here / "c.py", config)
        config = "c"
    conf.config_from_object(config, namespace=namespace)

    with pytest.raises(error, match=says):
        conf.freeze()
    with pytest.raises(error, match=says):
        conf.config_from_object(config, namespace=namespace, force=True)


def test_a_name_that_only_begins_like_a_setting_is_passed_over(conf, here, caplog):
    write(here / "c.py", "task_modules = ['a']\ncolour = 1\nCELERY_TASK_SERIALIZER = 'json'")
    conf.config_from_object("c", force=True)

    said = warnings(caplog)
    assert len(said) == 2
    assert said[0].startswith("setting CELERY_TASK_SERIALIZER of config_from_object('c') is passed over: arguments")
    assert said[1].endswith(
        "setting task_modules of config_from_object('c') is passed over: neither mesh nor Celery has it"
    )


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("nowhere.at.all", "there is no module 'nowhere.at'"),
        ("good:lot", r"module 'good' has no 'lot'; did you mean 'slot'\?"),
        ("good.py", "give a module and not a file: 'good'"),
        ("", "does not import"),
    ],
)
def test_a_configuration_that_is_not_there_is_an_import_error_with_what_to_do(conf, here, target, says):
    write(here / "good.py", "slot = {}")
    with pytest.raises(ex.SettingsModuleNotFound, match=says):
        conf.config_from_object(target, force=True)
    with pytest.raises(ImportError):
        conf.config_from_object(target, force=True)


def test_silence_forgives_a_module_that_is_not_there_and_no_other_fault(conf, here):
    # Given a module that is not there, and one that fails
    write(here / "broken.py", "import nowhere_to_be_found")
    write(here / "raising.py", "1 / 0")

    # When both are taken silently, then only the first is forgiven
    conf.config_from_object("nowhere", silent=True, force=True)
    assert conf.freeze() == Settings()
    with pytest.raises(ex.SettingsModuleNotFound, match="nowhere_to_be_found") as broken:
        conf.config_from_object("broken", silent=True, force=True)
    with pytest.raises(ex.SettingsModuleNotFound, match="ZeroDivisionError") as raising:
        conf.config_from_object("raising", silent=True, force=True)
    assert isinstance(broken.value.__cause__, ModuleNotFoundError)
    assert isinstance(raising.value.__cause__, ZeroDivisionError)


def test_a_variable_may_name_the_module(here, monkeypatch):
    write(here / "c.py", "crash_budget = 1")
    app = Mesh("x", set_as_current=False)
    with pytest.raises(ex.SettingsVariableUnset, match="'PROJ_CONFIG' is not set"):
        app.config_from_envvar("PROJ_CONFIG")
    assert app.config_from_envvar("PROJ_CONFIG", silent=True) is False

    monkeypatch.setenv("PROJ_CONFIG", "c")

    assert app.config_from_envvar("PROJ_CONFIG") is True
    assert app.conf.explain()["crash_budget"] == (1, "config_from_envvar('PROJ_CONFIG')")


def test_a_second_module_takes_the_place_of_the_first(conf):
    conf.config_from_object({"crash_budget": 1})
    conf.config_from_object({"lost_budget": 1})

    assert conf.freeze() == Settings(lost_budget=1)


def test_defaults_of_the_app_may_come_late_and_those_said_last_go_first():
    # Given defaults at once and on demand
    app, asked = Mesh("x", set_as_current=False), []
    app.add_defaults({"crash_budget": 1, "lost_budget": 1})

    def late():
        asked.append(1)
        return {"crash_budget": 2, "result_expires": timedelta(minutes=1)}

    app.add_defaults(late)
    assert asked == []

    # When they are needed, more than once
    settings = app.settings
    app.conf.freeze()

    # Then they have been asked for once, and the last go first
    assert settings == Settings(crash_budget=2, lost_budget=1, result_expires=60.0)
    assert asked == [1]
    with pytest.raises(ex.UnknownSetting):
        app.add_defaults({"crash_budgt": 1})


# --- while a client works with them ----------------------------------------------------------------


def test_no_source_can_change_what_the_client_works_with():
    # Given an app that is connected
    app = RecordingMesh("proj", broker="mesh://one")
    app.send_task("t")

    # When other sources say what is fixed, then they are refused, and nothing has changed
    for say in (
        lambda: app.conf.override({"broker_url": "mesh://two"}),
        lambda: app.config_from_object({"crash_budget": 1}),
        lambda: app.add_defaults({"crash_budget": 1}),
    ):
        with pytest.raises(ex.SettingsInUse):
            say()
    assert app.settings == Settings(broker_url="mesh://one")

    # And what is not fixed, or is said already, may be said
    app.config_from_object({"task_default_queue": "q", "broker_url": "mesh://three"})
    assert (app.settings.task_default_queue, app.settings.broker_url) == ("q", "mesh://one")
    app.close()
    app.conf.override({"broker_url": "mesh://two"})
    assert app.settings.broker_url == "mesh://two"


# --- shown -----------------------------------------------------------------------------------------


def test_what_is_set_can_be_shown(conf):
    conf.update(crash_budget=1, include=["a"])

    assert conf.table() == {"include": ("a",), "crash_budget": 1}
    assert conf.humanize() == "include: ('a',)\ncrash_budget: 1"
    assert list(conf.table(with_defaults=True)) == list(Settings._fields)
    assert "\nlost_budget: 20\n" in conf.humanize(with_defaults=True)


# --- Celery's names ----------------------------------------------------------------------------------

#: All settings of Celery 5.6 that have something to do with a queue without a broker, and the broker's.
OF_CELERY = """
    timezone enable_utc imports include accept_content result_accept_content override_backends
    task_serializer task_compression task_protocol task_publish_retry task_publish_retry_policy task_annotations
    task_acks_late task_acks_on_failure task_acks_on_timeout task_reject_on_worker_lost task_ignore_result
    task_store_errors_even_if_ignored task_track_started task_time_limit task_soft_time_limit task_default_rate_limit
    task_remote_tracebacks task_allow_error_cb_on_chord_header
    task_always_eager task_eager_propagates task_store_eager_result
    task_queues task_routes task_default_queue task_create_missing_queues task_default_priority task_queue_max_priority
    task_inherit_parent_priority task_default_delivery_mode worker_direct
    result_backend result_serializer result_compression result_extended result_expires result_cache_max
    result_persistent result_chord_join_timeout result_chord_retry_interval result_backend_always_retry
    result_backend_max_retries result_backend_base_sleep_between_retries_ms
    result_backend_max_sleep_between_retries_ms result_backend_thread_safe
    worker_concurrency worker_pool worker_prefetch_multiplier worker_disable_prefetch worker_eta_task_limit
    worker_max_tasks_per_child worker_max_memory_per_child worker_disable_rate_limits
    worker_deduplicate_successful_tasks worker_lost_wait worker_proc_alive_timeout worker_timer_precision
    worker_state_db worker_enable_remote_control worker_send_task_events worker_pool_restarts
    worker_soft_shutdown_timeout worker_enable_soft_shutdown_on_idle worker_autoscaler worker_consumer worker_timer
    worker_cancel_long_running_tasks_on_connection_loss
    worker_hijack_root_logger worker_log_color worker_log_format worker_task_log_format worker_redirect_stdouts
    worker_redirect_stdouts_level
    worker_logfile worker_pidfile worker_uid worker_gid worker_umask worker_executable
    beat_logfile beat_pidfile beat_uid beat_gid beat_umask beat_executable
    events_logfile events_pidfile events_uid events_gid events_umask events_executable
    task_send_sent_event event_serializer event_queue_ttl event_queue_expires control_queue_ttl control_queue_expires
    beat_schedule beat_scheduler beat_schedule_filename beat_sync_every beat_max_loop_interval
    beat_cron_starting_deadline
    security_key security_key_password security_certificate security_cert_store security_digest
    broker_url broker_read_url broker_write_url broker_connection_timeout broker_connection_retry
    broker_connection_retry_on_startup broker_connection_max_retries broker_pool_limit broker_pool_acquire_timeout
    broker_heartbeat broker_failover_strategy broker_use_ssl broker_transport_options
"""


@pytest.mark.parametrize("name", OF_CELERY.split())
def test_every_setting_of_celerys_is_one_here_or_refused_with_a_reason(conf, name):
    if name in Settings._fields or name in celery_names.SETTING_ALIASES:
        assert conf.get(name, conf) is not conf
        return
    with pytest.raises(ex.SettingNotAvailable) as caught:
        conf[name] = None
    assert len(caught.value.instead.split()) > 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CELERYD_CONCURRENCY", "worker_concurrency"),
        ("CELERY_ACKS_LATE", "task_acks_late"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("CELERY_INCLUDE", "include"),
        ("CELERY_DEFAULT_QUEUE", "task_default_queue"),
        ("BROKER_CONNECTION_TIMEOUT", "broker_connection_timeout"),
    ],
)
def test_a_name_of_before_celery_4_is_refused_with_that_of_today(conf, old, new):
    with pytest.raises(ex.SettingNotAvailable, match=f"setting '{old}' is not available: write {new}"):
        conf[old] = 1


@pytest.mark.parametrize(("old", "reason"), [("CELERYBEAT_SCHEDULE", "yet"), ("CELERY_TASK_SERIALIZER", "msgpack")])
def test_an_old_name_of_what_mesh_has_not_is_refused_with_the_reason(conf, old, reason):
    with pytest.raises(ex.SettingNotAvailable, match=reason):
        conf[old] = 1
