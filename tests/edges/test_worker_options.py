"""Options of `mesh worker` that Celery's has, settings on its command line, and its banner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from mesh_cli import banner, celery_options, daemon, exit_codes, inline_settings, root

INFO: dict[str, Any] = {
    "app": "proj",
    "mesh": "default",
    "directory": "/nonexistent",
    "concurrency": 2,
    "pool": "prefork",
    "queues": ["celery", "mail"],
    "tasks": ["proj.add"],
    "limits": [0.0, 0.0],
}


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command line is told that can't be understood."""
    monkeypatch.delenv("MESH_APP", raising=False)

    def run(*argv: str) -> str:
        assert root.run(argv) == exit_codes.USAGE
        return capfd.readouterr().err

    return run


# --- Celery's options ----------------------------------------------------------------------------


@pytest.mark.parametrize("option", celery_options.OPTIONS, ids=lambda option: option.names[-1])
def test_options_of_celery_are_taken_or_refused_under_each_name(
    refusal: Callable[..., str], option: celery_options.CeleryOption
) -> None:
    # Given each spelling of an option
    for name in option.names:
        value = [] if option.kind is None else ["fair"] if name == "-O" else ["4"]

        # When it is given to a node without an app
        told = refusal("worker", name, *value)

        # Then it is refused with the remedy; or only the app is missing
        if option.is_refused:
            assert f"Error: {option.names[-1]} is not available: {option.why}.\n" in told
        else:
            assert "no app is given" in told


def test_a_strategy_that_celery_has_not_is_refused(refusal: Callable[..., str]) -> None:
    assert "'best' is not one of 'default', 'fair'" in refusal("worker", "-O", "best")


def test_a_node_without_any_queue_is_refused(refusal: Callable[..., str]) -> None:
    told = refusal("-A", "proj", "worker", "-Q", "a,b", "-X", "b,a")
    assert "--exclude-queues leaves no queue of --queues" in told


# --- settings on the command line ----------------------------------------------------------------


def test_settings_are_split_at_the_first_equals_sign_and_dots_are_namespaces() -> None:
    words = ["task_time_limit=5", ".concurrency=4", "worker.concurrency=5", "broker_url=mesh://a=b", "include="]
    assert inline_settings.split(words) == {
        "task_time_limit": "5",
        "worker_concurrency": "5",
        "broker_url": "mesh://a=b",
        "include": "",
    }


@pytest.mark.parametrize("word", ["worker_concurrency", "=4", "."])
def test_a_word_that_is_no_setting_is_refused(refusal: Callable[..., str], word: str) -> None:
    with pytest.raises(click.UsageError, match="is no setting: give KEY=VALUE"):
        inline_settings.split([word])
    assert f"{word!r} is no setting: give KEY=VALUE" in refusal("-A", "proj", "worker", "--", word)


# --- the banner ----------------------------------------------------------------------------------


def test_the_banner_says_what_one_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a node with limits, whose router runs
    monkeypatch.setattr(banner.locate, "router_pid", lambda place: 4712)

    # When it shows itself
    shown = banner.banner("w1@here", INFO | {"limits": [60.0, 0.0]}, "/var/log/w1.log", with_tasks=True)

    # Then everything is there
    for line in (
        ".> app:         proj",
        ".> mesh:        default in /nonexistent",
        ".> router:      pid 4712",
        ".> key:         none: this host only",
        ".> concurrency: 2 (prefork)",
        ".> time limits: hard 60 s",
        ".> log:         /var/log/w1.log",
    ):
        assert f"\n{line}\n" in shown
    assert "\n[queues]\n.> celery\n.> mail\n\n[tasks]\n  . proj.add\n" in shown


def test_the_banner_says_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banner.locate, "router_pid", lambda place: None)
    shown = banner.banner("w1@here", INFO, "stderr", with_tasks=False)
    assert ".> router:      is being started\n" in shown
    assert ".> time limits: none\n" in shown
    assert "[tasks]" not in shown


# --- daemons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_root", "state"), [(True, "/x"), (False, "/x"), (False, "")])
def test_a_detached_process_has_a_log_without_being_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_root: bool, state: str
) -> None:
    # Given root, or a user with or without XDG_STATE_HOME
    monkeypatch.setattr(daemon, "_ROOT_LOGS", f"{tmp_path}/var")
    monkeypatch.setattr(daemon.os, "geteuid", lambda: 0 if is_root else 1000)
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    monkeypatch.setenv("XDG_STATE_HOME", state and f"{tmp_path}{state}")

    # When it looks where to log
    directory = daemon._default_directory()

    # Then the directory is there
    assert Path(directory).is_dir()
    assert directory == f"{tmp_path}/" + ("var" if is_root else "x/mesh/log" if state else "home/.local/state/mesh/log")
