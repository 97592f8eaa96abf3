"""Tasks that are given up, with real processes: what their callers are told, and how they run once more."""

from __future__ import annotations

import json
import re

import pytest

from mesh import Mesh
from mesh.exceptions import NotRegistered, OperationalError, WorkerLostError
from mesh.settings import Settings
from tests.edges.cgroup import small_cgroup
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually

DEATHS = Settings().crash_budget + 1

#: A node whose code has one task more; its arguments are a file into which to write its pid first, and the mesh.
DEPLOYED = """
import os, sys
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
from tests.mesh.proj import app

@app.task(name="proj.later")
def later(x):
    return 2 * x

@app.task(name="proj.eat")
def eat():
    bytearray(1 << 30)

app.worker_main(["worker", "-n", "n2@here", "-c", "1", "-Q", "later"])
"""

COMMAND = "import sys; from mesh_cli import main; main(['dead', *sys.argv[1:-1]])"


def test_what_no_node_knew_runs_once_the_code_is_deployed(host: Host, app: Mesh, tmp_path):
    # Given calls that no node knows, one of which nobody waits for
    node = host.start_node(slots=1, queues="later")
    calls = [app.send_task("proj.later", (n,), queue="later", ignore_result=n == 1) for n in range(3)]
    for result in (calls[0], calls[2]):
        with pytest.raises(NotRegistered):
            result.get(DEADLINE_S)
    letters = app.control.dead_letters(task="proj.later", cause="unknown task", timeout=DEADLINE_S)
    eventually(lambda: [one["args"] for one in letters.list().letters] == [[0], [1], [2]])
    node.stop()

    # When a node comes that does, and they are replayed
    host.start_script(DEPLOYED, str(tmp_path / "pid"))
    assert letters.replay() == (3, [], [])

    # Then each has its value, under its id
    for n in (0, 2):
        assert app.AsyncResult(calls[n].id).get(DEADLINE_S) == 2 * n
    assert letters.list().letters == []


def test_what_takes_down_its_slot_each_time_is_listed_with_each_death_and_can_be_thrown_away(host: Host, app: Mesh):
    # Given a task that has taken down more slots than it may
    host.start_node(slots=1)
    result = tasks.leave.delay(7)
    with pytest.raises(WorkerLostError, match=rf"code 7 \({DEATHS} times\)\. See \"mesh dead show {result.id}\"\."):
        result.get(DEADLINE_S)

    # When it is looked at from the command line
    listed = json.loads(host.run_script(COMMAND, "list", "--json"))
    (letter,) = listed["letters"]
    shown = host.run_script(COMMAND, "show", result.id)

    # Then all is told
    assert (letter["id"], letter["cause"], letter["args"]) == (result.id, "crashed", [7])
    assert letter["causes"] == ["its process exited with code 7"] * DEATHS
    assert f"history   1. {letter['causes'][0]}" in shown

    # And it can be thrown away
    assert "1 dead letter thrown away" in host.run_script(COMMAND, "purge", result.id)
    assert app.control.dead_letters(timeout=DEADLINE_S).count() == 0


def test_dead_letters_outlive_their_router(host: Host, app: Mesh):
    # Given a dead letter of a router of its own
    router = host.start_router()
    host.start_node(slots=1, queues="later")
    result = app.send_task("proj.later", (1,), queue="later")
    with pytest.raises(NotRegistered):
        result.get(DEADLINE_S)

    # When the router ends and another one comes
    router.stop()
    app.close()
    host.start_router()

    # Then it is there
    def listed() -> list[str]:
        try:
            return [one["id"] for one in app.control.dead_letters(timeout=1.0).list().letters]
        except OperationalError:
            return []

    assert eventually(listed) == [result.id]


@pytest.mark.root
def test_a_task_that_wants_more_memory_than_there_is_fails_with_the_figures(host: Host, app: Mesh):
    # Given a node with little memory, and a task that wants a lot
    with small_cgroup(256 << 20) as folder:
        node = host.start_script(DEPLOYED, str(folder / "cgroup.procs"))
        result = app.send_task("proj.eat", queue="later")

        # When it has taken down more slots than it may
        with pytest.raises(WorkerLostError) as lost:
            result.get(3 * DEADLINE_S)
        node.stop()

    # Then each death is explained
    told = r"killed by the kernel: out of memory \(it had \d+ MiB; the cgroup allows 256 MiB\)"
    assert re.search(told, str(lost.value))
    (letter,) = app.control.dead_letters(cause="out of memory", timeout=DEADLINE_S).list().letters
    assert len(letter["causes"]) == DEATHS
    assert all(re.fullmatch(told, cause) for cause in letter["causes"])
