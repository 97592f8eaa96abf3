"""Calls that are taken back before they begin, and those for which it is too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.exceptions import OptionNotAvailable, TaskRevokedError
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually


@pytest.mark.parametrize("options", [{}, {"countdown": 3600}], ids=["queued", "with a countdown"])
def test_a_revoked_call_never_runs(host: Host, app: Mesh, tmp_path: Path, options: dict[str, Any]):
    # Given a call that waits
    waiting = tasks.touch.apply_async((str(tmp_path / "ran"),), confirm=True, **options)

    # When it is revoked, and a node comes
    assert waiting.revoke() == "revoked"
    host.start_node(slots=1)

    # Then its caller is told, and it has not run when later ones have
    with pytest.raises(TaskRevokedError, match="revoked before it began"):
        waiting.get(DEADLINE_S)
    assert tasks.add.delay(1, 1).get(DEADLINE_S) == 2
    assert not (tmp_path / "ran").exists()
    assert waiting.state == "REVOKED"


def test_a_revoked_call_stays_revoked_when_the_router_is_killed(host: Host, app: Mesh, tmp_path: Path):
    # Given a call of a client that is gone, revoked by another
    script = "import sys; from tests.mesh.proj import tasks; print(tasks.touch.delay(sys.argv[1]).id)"
    task_id = host.run_script(script, str(tmp_path / "ran")).strip()
    assert app.control.revoke(task_id) == {task_id: "revoked"}
    assert tasks.add.apply_async((1, 1), confirm=True).confirmed(DEADLINE_S)

    # When the router is killed, and a node comes
    os.kill(host.router_pid(), signal.SIGKILL)
    host.start_node(slots=1)

    # Then the call has not run
    assert tasks.add.delay(2, 2).get(DEADLINE_S) == 4
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TaskRevokedError):
        app.AsyncResult(task_id).get(DEADLINE_S)


def test_a_call_that_runs_runs_on(host: Host, app: Mesh, tmp_path: Path):
    # Given a call that runs
    host.start_node(slots=1)
    running = tasks.hold.delay(str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When it is revoked, and may end
    assert running.revoke() == "recalled"
    (tmp_path / "end").touch()

    # Then it ends as it would have; for another revoke it is too late
    assert running.get(DEADLINE_S)["attempt"] == 0
    eventually(lambda: running.revoke() == "ended")


def test_what_nobody_knows_is_named(host: Host, app: Mesh):
    # Given a mesh with one call under an id of its caller's choice
    tasks.add.apply_async((1, 1), task_id="order-1", confirm=True)

    # Then the command line tells what becomes of each id, and by its exit code that one is unknown
    command = [sys.executable, "-m", "mesh", "-b", host.url, "control", "revoke", "order-1", "order-2", "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert json.loads(said.stdout) == {"order-1": "revoked", "order-2": "unknown"}
    assert said.returncode == 1


def test_ending_what_runs_is_refused(shared_app: Mesh):
    with pytest.raises(OptionNotAvailable, match="terminate"):
        shared_app.control.revoke("order-1", terminate=True)
    with pytest.raises(OptionNotAvailable, match="terminate"):
        shared_app.AsyncResult("order-1").revoke(terminate=True)


@pytest.mark.parametrize("wrong", [None, 5, [b"raw"]])
def test_only_ids_can_be_revoked(shared_app: Mesh, wrong: Any):
    with pytest.raises(TypeError, match=r"control\.revoke takes ids"):
        shared_app.control.revoke(wrong)


def test_a_result_is_not_taken_for_its_id(shared_app: Mesh):
    with pytest.raises(TypeError, match=r"give result\.id"):
        shared_app.control.revoke(shared_app.AsyncResult("order-1"))  # type: ignore[arg-type]
