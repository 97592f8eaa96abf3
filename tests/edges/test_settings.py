"""Settings: what may be set, where values come from, and what the docs can be made of."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mesh import celery_names
from mesh import exceptions as ex
from mesh.conf import Conf
from mesh.settings import ROUTER_SETTINGS, SETTINGS, Settings, check, router_settings
from tests.edges.recording import RecordingMesh


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for spec in SETTINGS:
        if spec.variable:
            monkeypatch.delenv(spec.variable, raising=False)


@pytest.fixture
def conf():
    return Conf(lambda: None)


# --- the table -----------------------------------------------------------------------------------


def test_every_setting_is_described_once_and_in_order():
    assert tuple(spec.name for spec in SETTINGS) == Settings._fields


@pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: spec.name)
def test_a_setting_says_what_it_is_and_allows_its_default(spec):
    assert check(spec, spec.default) == spec.default
    assert spec.unit
    assert spec.allowed
    assert spec.reason.endswith(".")


def test_no_setting_of_meshs_own_is_called_unavailable():
    assert not celery_names.SETTINGS.keys() & {*Settings._fields, *celery_names.SETTING_ALIASES}


def test_settings_of_the_router_are_settings_and_go_to_it_where_they_differ():
    assert set(ROUTER_SETTINGS) <= set(Settings._fields)
    settings = Settings(journal=False, queue_max_age=60.0, task_durability="none")
    assert router_settings(settings) == {"journal": False, "queue_max_age": 60.0}


# --- names that Celery has -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "durability", "read"),
    [(1, "none", 1), ("transient", "none", 1), (2, "journaled", 2), ("persistent", "journaled", 2)],
)
def test_celerys_delivery_mode_is_a_durability(conf, mode, durability, read):
    conf.update(task_default_delivery_mode=mode)

    assert conf.task_durability == durability
    assert conf.task_default_delivery_mode == conf.get("task_default_delivery_mode") == read


def test_what_is_synced_is_persistent_to_who_asks_as_in_celery(conf):
    conf.task_durability = "synced"
    assert conf["task_default_delivery_mode"] == 2


@pytest.mark.parametrize("mode", [0, 3, "disk", None, True, [1]])
def test_a_delivery_mode_that_celery_has_not_is_refused_under_the_name_it_was_given(conf, mode):
    with pytest.raises(ex.InvalidSetting, match=r"task_default_delivery_mode=.*'persistent'"):
        conf.task_default_delivery_mode = mode

    assert conf.freeze() == Settings()


# --- setting and reading -------------------------------------------------------------------------


def test_a_setting_can_be_set_and_read_in_each_way_that_celery_has(conf):
    conf.result_expires = 60
    conf["task_acks_late"] = False
    conf.update({"task_default_queue": "q"}, crash_budget=1)

    assert (conf["result_expires"], conf.task_acks_late) == (60.0, False)
    assert (conf.get("task_default_queue"), conf.crash_budget, conf.get("nothing", 7)) == ("q", 1, 7)
    assert "lost_budget" in conf
    assert dict(conf.items()) == conf.freeze()._asdict()
    assert list(conf) == conf.keys() == list(Settings._fields)
    assert len(conf) == len(Settings._fields)
    assert repr(conf).startswith("<Conf: result_expires=60.0, ")


def test_defaults_are_kept_where_nothing_is_said(conf):
    assert conf.freeze() == Settings()


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        pytest.param("result_expires", timedelta(hours=1), 3600.0, id="a timedelta"),
        pytest.param("result_expires", 0, None, id="0 is never, as in Celery"),
        pytest.param("result_expires", None, None, id="None is never"),
        pytest.param("include", "proj.tasks", ("proj.tasks",), id="one module"),
        pytest.param("include", ["a", "b"], ("a", "b"), id="a list of modules"),
        pytest.param("imports", ("a",), ("a",), id="a tuple of modules"),
        pytest.param("result_backend", "rpc", "rpc://", id="the scheme alone"),
        pytest.param("result_backend", None, "rpc://", id="no backend is this one"),
        pytest.param("broker_url", "mesh://work", "mesh://work", id="a name"),
        pytest.param("broker_url", "mesh:///srv/m", "mesh:///srv/m", id="a directory"),
        pytest.param("broker_url", None, None, id="no broker"),
        pytest.param("worker_concurrency", 4, 4, id="slots"),
        pytest.param("timezone", "Europe/London", "Europe/London", id="a zone"),
    ],
)
def test_a_value_is_kept_in_one_form(conf, name, given, kept):
    conf[name] = given

    assert conf[name] == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("result_expires", -1),
        ("result_expires", "60"),
        ("result_expires", True),
        ("result_expires", float("inf")),
        ("results_max_bytes", 1000),
        ("publish_unconfirmed_max", 0),
        ("publish_timeout", 0),
        ("broker_connection_timeout", None),
        ("task_acks_late", 1),
        ("task_default_priority", 10),
        ("task_default_queue", "a,b"),
        ("task_default_queue", ""),
        ("include", [1]),
        ("include", 5),
        ("worker_concurrency", 0),
        ("crash_budget", 1.5),
        ("timezone", "Mars/Phobos"),
        ("timezone", 7),
        ("broker_url", 5),
        ("broker_url", ["mesh://a", "mesh://b"]),
        ("result_backend", 5),
        ("task_durability", "disk"),
        ("task_durability", 2),
        ("result_persistent", 1),
        ("queue_max_bytes", 0),
        ("queue_resident", 0),
        ("queue_max_age", -1),
        ("dead_letters_max", -1),
        ("dead_letters_max_bytes", 1.5),
        ("journal", "no"),
    ],
)
def test_a_value_outside_what_is_allowed_is_refused_as_it_is_set(conf, name, value):
    with pytest.raises(ex.InvalidSetting, match=f"setting {name}="):
        conf[name] = value

    assert conf.freeze() == Settings()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        pytest.param("result_expire", ex.UnknownSetting, "did you mean 'result_expires'", id="misspelt"),
        pytest.param("flavour", ex.UnknownSetting, "docs/settings.md", id="unknown"),
        pytest.param("task_routes", ex.SettingNotAvailable, "yet", id="Celery's, not yet"),
        pytest.param("task_serializer", ex.SettingNotAvailable, "msgpack", id="Celery's, without meaning here"),
        pytest.param("worker_prefetch_multiplier", ex.SettingNotAvailable, "at once", id="Celery's, needed no more"),
    ],
)
def test_a_key_that_is_no_setting_is_refused(conf, name, error, words):
    with pytest.raises(error, match=words):
        setattr(conf, name, 1)
    with pytest.raises(error, match=words):
        conf.update({name: 1})
    with pytest.raises(error, match=words):
        getattr(conf, name)


def test_an_update_with_one_wrong_value_changes_nothing(conf):
    with pytest.raises(ex.InvalidSetting):
        conf.update(crash_budget=1, lost_budget=-1)

    assert conf.crash_budget == 3


@pytest.mark.parametrize(
    ("name", "url", "instead"),
    [
        ("broker_url", "amqp://guest@localhost//", "mesh://default"),
        ("broker_url", "redis://localhost:6379/0", "mesh://default"),
        ("broker_url", "work", "mesh://work"),
        ("broker_url", "/srv/mesh", "mesh://default"),
        ("result_backend", "redis://localhost", "rpc://"),
        ("result_backend", "db+sqlite:///x", "rpc://"),
    ],
)
def test_a_url_of_something_else_is_refused_with_what_to_write(conf, name, url, instead):
    with pytest.raises(ex.UnsupportedURL) as caught:
        conf[name] = url

    assert caught.value.instead == instead
    assert repr(instead) in str(caught.value)


def test_a_password_in_a_url_is_not_repeated(conf):
    with pytest.raises(ex.UnsupportedURL) as caught:
        conf.broker_url = "amqp://me:secret@host/"

    assert "secret" not in str(caught.value)
    assert "secret" not in caught.value.url


# --- the environment -----------------------------------------------------------------------------


def test_the_environment_goes_before_the_code_and_is_read_when_a_value_is_needed(conf, monkeypatch):
    conf.broker_url = "mesh://code"

    monkeypatch.setenv("MESH_BROKER_URL", "mesh://outside")
    assert conf.broker_url == conf.freeze().broker_url == "mesh://outside"

    monkeypatch.setenv("MESH_BROKER_URL", "")
    assert conf.broker_url == "mesh://code"


def test_a_wrong_value_in_the_environment_is_refused_when_it_is_read(conf, monkeypatch):
    monkeypatch.setenv("MESH_BROKER_URL", "redis://h")

    with pytest.raises(ex.UnsupportedURL):
        conf.freeze()


# --- while a client works with them --------------------------------------------------------------


def test_what_the_client_works_with_cannot_change_until_it_is_closed():
    # Given an app that is connected
    app = RecordingMesh("proj", broker="mesh://one")
    app.send_task("t")

    # When its settings are changed, then those of the client are refused
    app.conf.task_default_queue = "free"
    app.conf.broker_url = "mesh://one"
    with pytest.raises(ex.SettingsInUse, match=r"after app\.close\(\)"):
        app.conf.broker_url = "mesh://two"
    assert app.settings.broker_url == "mesh://one"

    # And after it is closed all may change, for the next client
    app.close()
    app.conf.broker_url = "mesh://two"
    app.send_task("t")
    assert [client.settings.broker_url for client in app.opened] == ["mesh://one", "mesh://two"]


def test_an_app_takes_its_settings_from_its_keywords():
    app = RecordingMesh("proj", broker="mesh:///srv/m", backend="rpc://", include=["proj.tasks"])
    app.conf.update(result_expires=3600)

    assert app.settings[:4] == ("mesh:///srv/m", "rpc://", 5.0, ("proj.tasks",))
    assert app.settings.result_expires == 3600.0
