"""Calls that are taken back before they begin, and those for which it is too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.exceptions import InvalidCall, TaskRevokedError
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


class Held:
    """A node with one slot that runs a task which clings to it, and what else the slot holds."""

    def __init__(self, host: Host, app: Mesh, directory: Path, options: Sequence[str] = (), **call: Any) -> None:
        self.node = host.start_node(slots=1, options=options)
        for result in [tasks.whoami.delay() for _ in range(50)]:
            result.get(DEADLINE_S)
        self.begun, self.ended = directory / "begun", directory / "ended"
        with app.batch():
            self.running = tasks.cling.apply_async((str(self.begun), str(self.ended)), call)
            self.waiting = [tasks.whoami.delay() for _ in range(20)]
        eventually(lambda: list(directory.glob("begun.*")))


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_call_that_runs_is_terminated_and_nothing_else(host: Host, app: Mesh, tmp_path: Path, pool: str):
    # Given a slot that runs a call
    held = Held(host, app, tmp_path, () if pool == "prefork" else ("-P", pool))

    # When that is terminated
    fate = held.running.revoke(terminate=True, timeout=DEADLINE_S)

    # Then it had a moment, and its caller is told
    assert fate == "terminated"
    assert held.ended.exists()
    with pytest.raises(TaskRevokedError, match="terminated"):
        held.running.get(DEADLINE_S)
    assert held.running.state == "REVOKED"

    # And all the others run, none of them for a second time
    assert {one.get(DEADLINE_S)["attempt"] for one in held.waiting} == {0}
    assert len(list(tmp_path.glob("begun.*"))) == 1


def test_a_call_that_does_not_heed_its_interruption_is_killed(host: Host, app: Mesh, tmp_path: Path):
    held = Held(host, app, tmp_path, heeds=False)
    assert held.running.revoke(terminate=True, timeout=0.2) == "terminating"
    with pytest.raises(TaskRevokedError):
        held.running.get(DEADLINE_S)
    assert {one.get(DEADLINE_S)["attempt"] for one in held.waiting} == {0}


@pytest.mark.parametrize("number", ["KILL", "SIGABRT", signal.SIGKILL])
def test_a_signal_ends_a_call_at_once(host: Host, app: Mesh, tmp_path: Path, number: Any):
    held = Held(host, app, tmp_path)
    assert app.control.terminate(held.running.id, number, timeout=DEADLINE_S) == {held.running.id: "terminated"}
    assert not held.ended.exists()
    assert {one.get(DEADLINE_S)["attempt"] for one in held.waiting} == {0}


@pytest.mark.parametrize("number", ["SIGWINCH", "SIGUSR1", "SIGSTOP"])
def test_a_signal_that_ends_nothing_is_followed_by_one_that_does(host: Host, app: Mesh, tmp_path: Path, number: str):
    held = Held(host, app, tmp_path)
    assert held.running.revoke(terminate=True, signal=number, timeout=DEADLINE_S) == "terminated"
    assert {one.get(DEADLINE_S)["attempt"] for one in held.waiting} == {0}


def test_a_call_that_may_run_once_is_terminated_too(host: Host, app: Mesh, tmp_path: Path):
    host.start_node(slots=1)
    arguments = (str(tmp_path / "begun"), str(tmp_path / "ended"))
    running = tasks.cling.apply_async(arguments, acks_late=False)
    eventually(lambda: list(tmp_path.glob("begun.*")))
    assert running.revoke(terminate=True, timeout=DEADLINE_S) == "terminated"
    with pytest.raises(TaskRevokedError):
        running.get(DEADLINE_S)


def test_what_has_not_begun_or_has_ended_needs_no_termination(host: Host, app: Mesh):
    # Given a call that waits, and one that has ended
    waiting = tasks.add.apply_async((1, 1), confirm=True)
    assert waiting.revoke(terminate=True) == "revoked"
    host.start_node(slots=1)
    ended = tasks.add.delay(1, 1)
    assert ended.get(DEADLINE_S) == 2

    # Then the termination is a revocation, or too late
    eventually(lambda: ended.revoke(terminate=True) == "ended")
    assert tasks.add.delay(2, 2).get(DEADLINE_S) == 4


def test_a_call_is_terminated_by_the_command_line(host: Host, app: Mesh, tmp_path: Path):
    held = Held(host, app, tmp_path)
    command = [sys.executable, "-m", "mesh", "-b", host.url, "control", "terminate", "KILL", held.running.id]
    said = subprocess.run([*command, "-t", str(DEADLINE_S)], stdout=subprocess.PIPE, check=True, text=True)
    assert said.stdout == f"{held.running.id} terminated: it ran, and was ended\n"


@pytest.mark.parametrize("wrong", ["SIGNOTHING", 0, 999, 1.5j])
def test_what_is_no_signal_is_named(shared_app: Mesh, wrong: Any):
    with pytest.raises(InvalidCall, match="signal"):
        shared_app.control.revoke("order-1", terminate=True, signal=wrong)


@pytest.mark.parametrize("wrong", [None, 5, [b"raw"]])
def test_only_ids_can_be_revoked(shared_app: Mesh, wrong: Any):
    with pytest.raises(TypeError, match=r"control\.revoke takes ids"):
        shared_app.control.revoke(wrong)


def test_a_result_is_not_taken_for_its_id(shared_app: Mesh):
    with pytest.raises(TypeError, match=r"give result\.id"):
        shared_app.control.revoke(shared_app.AsyncResult("order-1"))  # type: ignore[arg-type]
