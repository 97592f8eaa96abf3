"""`mesh settings`, run as a user would: what is in force, and who said so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.settings import SETTINGS, Settings
from mesh_cli import exit_codes
from tests.edges.test_cli import Node, Shell

DEADLINE_S = 20.0

APP = """
from mesh import Mesh
app = Mesh("proj")
app.config_from_object("celeryconfig")
app.conf.task_time_limit = 30
app.conf.worker_concurrency = 3
app.add_defaults({"crash_budget": 9})
"""
CELERYCONFIG = """
task_time_limit = 20
task_acks_late = False
worker_prefetch_multiplier = 1
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in a directory that holds an app, its module and a file, with these variables and no others."""
    (tmp_path / "proj.py").write_text(APP)
    (tmp_path / "celeryconfig.py").write_text(CELERYCONFIG)
    (tmp_path / "mesh.toml").write_text('task_time_limit = 10\ntask_default_queue = "mail"\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_") or name == "MESH_TEST"}

    def run(*argv: str, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "mesh", *argv],
            cwd=tmp_path,
            env=kept | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def test_what_somebody_has_set_is_shown_with_who_it_was(run: Run) -> None:
    # When an app's settings are shown, with a word from each source
    ended = run("-A", "proj", "-b", "mesh://lab", "settings", MESH_LOST_BUDGET="5", MESH_BROKER_URL="mesh://other")

    # Then they come with where each comes from, the strongest first
    assert ended.code == exit_codes.OK
    assert [re.split(r"  +", line) for line in ended.out.splitlines()] == [
        ["setting", "value", "from"],
        ["broker_url", "'mesh://lab'", "command line"],
        ["task_default_queue", "'mail'", "mesh.toml"],
        ["task_acks_late", "False", "config_from_object('celeryconfig')"],
        ["task_time_limit", "30.0", "code"],
        ["worker_concurrency", "3", "code"],
        ["crash_budget", "9", "add_defaults"],
        ["lost_budget", "5", "environment MESH_LOST_BUDGET"],
        [""],
        [f"{len(SETTINGS) - 7} more have their defaults; --all shows them."],
    ]

    # And what means nothing here is named, but not among them
    assert re.fullmatch(r"setting worker_prefetch_multiplier of .* is passed over: .*\n", ended.err)


def test_without_an_app_it_shows_what_would_hold_for_any(run: Run, tmp_path: Path) -> None:
    shown = json.loads(run("settings", "--json", MESH_JOURNAL="off").out)
    assert {name: (facts["value"], facts["source"]) for name, facts in shown.items()} == {
        "task_default_queue": ("mail", "mesh.toml"),
        "task_time_limit": (10.0, "mesh.toml"),
        "journal": (False, "environment MESH_JOURNAL"),
    }

    (tmp_path / "mesh.toml").unlink()
    assert run("settings") == (0, f"{len(SETTINGS)} settings have their defaults; --all shows them.\n", "")
    assert run("-q", "settings").out == ""
    assert run("settings", "--json").out == "{}\n"


def test_all_and_single_ones_are_shown_where_they_are_wanted(run: Run) -> None:
    # When all are wanted, then all are there, in the order of the table
    every = json.loads(run("settings", "--all", "--json").out)
    assert list(every) == list(Settings._fields)
    assert every["result_expires"] == {
        "value": 86400.0,
        "source": "default",
        "default": 86400.0,
        "type": "float | None",
        "unit": "s",
    }
    assert len(run("settings", "--all").out.splitlines()) == 1 + len(SETTINGS)

    # And single ones are shown alone, also under Celery's name
    ended = run("settings", "lost_budget", "task_default_delivery_mode")
    assert [line.split() for line in ended.out.splitlines()[1:]] == [
        ["task_durability", "'journaled'", "default"],
        ["lost_budget", "20", "default"],
    ]


def test_a_file_may_be_named_and_is_looked_for_in_the_working_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/lab.toml").write_text("crash_budget = 1\n")
    shown = json.loads(run("--workdir", "sub", "--config", "lab.toml", "settings", "--json").out)
    assert {name: (facts["value"], facts["source"]) for name, facts in shown.items()} == {
        "crash_budget": (1, str(tmp_path / "sub/lab.toml"))
    }
    assert run("settings", "--json", MESH_CONFIG="sub/lab.toml").out == json.dumps(shown) + "\n"


@pytest.mark.parametrize(
    ("argv", "environment", "says"),
    [
        ("settings result_expire", {}, "unknown setting 'result_expire': did you mean 'result_expires'?"),
        ("settings task_serializer", {}, "setting 'task_serializer' is not available: arguments and results"),
        (
            "settings",
            {"MESH_JOURNAL": "perhaps"},
            "journal='perhaps' of the environment MESH_JOURNAL is not allowed: give",
        ),
        ("settings", {"MESH_BROKER_URL": "redis://a:b@c"}, "broker='redis://...@c' of the environment MESH_BROKER_URL"),
        ("-A proj worker", {"MESH_BROKER_URL": "redis://a:b@c"}, "broker='redis://...@c' of the environment"),
        (
            "-A proj worker",
            {"MESH_WORKER_CONCURRENCY": "0"},
            "worker_concurrency=0 of the environment MESH_WORKER_CONCUR",
        ),
        ("--config no.toml status", {}, "/no.toml can't be used: No such file or directory."),
        ("status", {"MESH_CONFIG": "proj.py"}, "/proj.py can't be used: it is no TOML"),
        ("-b redis://h settings", {}, "broker='redis://h' is not a URL"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_code_2(
    run: Run, argv: str, environment: dict[str, str], says: str
) -> None:
    ended = run(*argv.split(), **environment)

    assert ended.code == exit_codes.USAGE
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_a_settings_module_that_fails_shows_its_traceback_and_one_that_is_missing_does_not(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "celeryconfig.py").write_text("1 / 0\n")
    ended = run("-A", "proj", "settings")
    assert ended.code == exit_codes.USAGE
    assert ended.err.endswith(
        "Error: no settings found at 'celeryconfig': its module does not import: ZeroDivisionError: division by zero.\n"
    )
    assert f'File "{tmp_path / "celeryconfig.py"}", line 1' in ended.err
    assert "mesh/setting_objects.py" not in ended.err

    (tmp_path / "celeryconfig.py").unlink()
    ended = run("-A", "proj", "settings")
    assert ended.err == (
        "Error: no settings found at 'celeryconfig': there is no module 'celeryconfig' on the Python path.\n"
    )


def test_a_variable_that_looks_like_a_misspelt_setting_is_pointed_out(run: Run) -> None:
    # When the environment has such a variable, beside those of options and of others
    ended = run(
        "settings",
        "--json",
        MESH_RESULT_EXPIRE="3",
        MESH_WORKER_TIME_LIMIT="3",
        MESH_APP="",
        MESH_OF_OURS="1",
        MESH_WORKER_CONCURENCY="1",
    )

    # Then it is named, and the output stays pure
    assert ended.err.splitlines() == [
        "Warning: MESH_RESULT_EXPIRE in the environment is no setting; did you mean MESH_RESULT_EXPIRES?",
        "Warning: MESH_WORKER_CONCURENCY in the environment is no setting; did you mean MESH_WORKER_CONCURRENCY?",
    ]
    assert json.loads(ended.out)


@pytest.mark.parametrize(
    ("options", "variable", "slots"),
    [
        pytest.param([], None, 3, id="the code"),
        pytest.param([], "1", 1, id="the environment"),
        pytest.param(["-c", "2"], "1", 2, id="the command line"),
        pytest.param([], "none", len(os.sched_getaffinity(0)), id="a word that no option knows"),
    ],
)
def test_the_variable_of_a_setting_and_of_an_option_means_the_same(
    run: Run, tmp_path: Path, mesh_url: str, options: list[str], variable: str | None, slots: int
) -> None:
    # Given an app that says how many slots a node has, and an environment that may say another number
    environment = {} if variable is None else {"MESH_WORKER_CONCURRENCY": variable}

    # When a node is started
    shell = Shell(tmp_path, {"MESH_BROKER_URL": mesh_url, **environment})
    node = Node(shell.start("-A", "proj", "worker", *options)).ready()

    # Then the stronger has the word
    assert node.stop() == 0
    assert f".> concurrency: {slots} (prefork)" in node.out
    assert ".> mail" in node.out


def test_a_router_started_on_demand_runs_on_the_settings_of_a_file(run: Run, tmp_path: Path, mesh_dir: Path) -> None:
    # Given a file with a setting of the router
    (tmp_path / "mesh.toml").write_text(f'broker_url = "mesh://{mesh_dir}"\nqueue_max_tasks = 1\n')

    # When two calls are made, without an app, in the mesh that the file names
    first, second = run("call", "t"), run("call", "t")

    # Then the router that came with the first takes no second
    assert first.code == 0
    assert second.code != 0
    assert "queue" in second.err.lower()
