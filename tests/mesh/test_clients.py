"""Programs that call: what they send is not lost when they end, and children of theirs call for themselves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mesh import Mesh
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually

CALLS = 1000

#: A program that calls so many times that one file gets a line, and then ends in some way.
SEND = f"""
import multiprocessing, os, sys
from tests.mesh.proj import tasks
def send():
    for number in range({CALLS}):
        tasks.note.delay(sys.argv[1], str(number))
"""

#: {how a program ends: its last lines}
ENDINGS = {
    "plain": "send()",
    "sys.exit": "send(); sys.exit(0)",
    "an error": "sys.excepthook = lambda *_: os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\nsend(); 1 / 0",
    "its own atexit handler": "import atexit; atexit.register(send)",
    "its own atexit handler, connected before": "import atexit; tasks.echo.delay(1); atexit.register(send)",
    "a forked child": """
send_in_child = os.fork() == 0
if send_in_child:
    send()
    sys.exit(0)
assert os.wait()[1] == 0
""",
    "a forked child, the parent calls too": """
from tests.mesh.proj import app
assert tasks.echo.delay(1).get(30) == 1
if os.fork() == 0:
    send()
    sys.exit(0)
assert os.wait()[1] == 0
assert tasks.echo.delay(2).get(30) == 2
""",
    **{
        f"a child of multiprocessing, {method}": f"""
import tests.mesh.sending
context = multiprocessing.get_context({method!r})
if __name__ == "__main__":
    child = context.Process(target=tests.mesh.sending.send, args=(sys.argv[1], {CALLS}))
    child.start()
    child.join()
    assert child.exitcode == 0
"""
        for method in ("fork", "spawn", "forkserver")
    },
}


def lines_of(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_what_is_sent_while_no_node_runs_is_run_when_one_starts(host: Host, app: Mesh):
    # Given calls that nobody can run
    results = [tasks.echo.delay(number) for number in range(CALLS)]
    assert results[-1].confirmed(DEADLINE_S)
    assert host.status()["router"]["tasks"]["ready"] == CALLS

    # When a node starts
    host.start_node(wait=False)

    # Then all of them run
    assert [result.get(DEADLINE_S) for result in results] == list(range(CALLS))


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_program_that_ends_at_once_loses_none_of_its_calls(shared_host: Host, tmp_path: Path, ending: str):
    # When a program calls many times and ends
    log = tmp_path / "log"
    script = shared_host.start_script(SEND + ending, str(log))
    script.wait()

    # Then every call has run once
    eventually(lambda: len(lines_of(log)) >= CALLS)
    assert sorted(map(int, lines_of(log))) == list(range(CALLS)), script.said
    assert "Error" not in script.said


def test_children_and_parent_call_each_for_themselves(shared_host: Host):
    # When a parent and children of every kind call at the same time, some made while results are awaited
    code = """
import concurrent.futures, multiprocessing, os, sys
from tests.mesh.proj import tasks
from tests.mesh.sending import add_up
if __name__ == "__main__":
    early = [tasks.add.delay(number, number) for number in range(100)]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as forked:
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as spawned:
            sums = [pool.submit(add_up, 50) for pool in (forked, spawned) for _ in range(3)]
            assert add_up(50) == 1225
            assert [one.result(30) for one in sums] == [1225] * 6
    assert [one.get(30) for one in early] == list(range(0, 200, 2))
    print("done")
"""
    # Then each gets its own results
    assert shared_host.run_script(code) == "done\n"


def test_a_forked_child_reads_the_result_of_its_parents_call(shared_host: Host):
    # When a child asks for a result that its parent awaits too
    code = """
import os
from tests.mesh.proj import tasks
result = tasks.add.apply_async((20, 22), countdown=0.1, confirm=True)
if os.fork() == 0:
    assert result.get(30) == 42
    raise SystemExit(0)
assert result.get(30) == 42
assert os.wait()[1] == 0
print("both")
"""
    # Then both have it
    assert shared_host.run_script(code) == "both\n"


def test_a_child_that_is_forked_while_threads_call_can_call(shared_host: Host):
    # When children are forked in the middle of calls of other threads
    code = """
import os, threading
from tests.mesh.proj import tasks
assert tasks.add.delay(1, 1).get(30) == 2
over = threading.Event()
def go_on():
    while not over.is_set():
        tasks.add.delay(1, 1).get(30)
threads = [threading.Thread(target=go_on) for _ in range(3)]
[thread.start() for thread in threads]
for number in range(10):
    if os.fork() == 0:
        assert tasks.add.delay(number, 1).get(30) == number + 1
        os._exit(0)
    assert os.wait()[1] == 0
over.set()
[thread.join() for thread in threads]
print("done")
"""
    # Then each of them has its own client
    assert shared_host.run_script(code) == "done\n"


def test_results_are_kept_for_a_caller_that_was_killed(shared_host: Host, shared_app: Mesh, tmp_path: Path):
    # Given a program whose call runs
    code = """
import sys
from tests.mesh.proj import tasks
result = tasks.hold.apply_async((sys.argv[1], sys.argv[2]), confirm=True)
print(result.id, flush=True)
result.get()
"""
    script = shared_host.start_script(code, str(tmp_path / "begun"), str(tmp_path / "end"))
    eventually(lambda: list(tmp_path.glob("begun.*")))
    task_id = eventually(lambda: script.said.rstrip("\n"))

    # When it is killed, and the task ends after that
    script.send(signal.SIGKILL)
    script.wait()
    (tmp_path / "end").touch()

    # Then whoever knows the id reads the outcome
    assert shared_app.AsyncResult(task_id).get(DEADLINE_S)["attempt"] == 0


def test_a_program_says_what_it_could_not_deliver(host: Host):
    # Given a program whose router is stopped when it has just called
    code = """
import os, signal, sys
from mesh import client
from tests.mesh.proj import tasks
client.FLUSH_S = 0.3
assert tasks.echo.apply_async((1,), confirm=True)
os.kill(int(sys.argv[1]), signal.SIGSTOP)
tasks.echo.delay(2)
"""
    router = host.start_router()
    eventually(host.router_pid)

    # When it ends
    said = host.run_script(code, str(router.pid))

    # Then it says how many calls may be lost
    assert "1 calls could not be delivered" in said
    os.kill(router.pid, signal.SIGCONT)


def test_a_program_that_never_looks_at_its_results_hears_that_calls_were_refused(host: Host, tmp_path: Path):
    # Given a router that holds fifty tasks at most
    code = """
from tests.mesh.proj import app, tasks
app.conf.update(queue_max_tasks=50)
for number in range(200):
    tasks.echo.delay(number)
"""

    # When a program calls more often, and ends
    said = host.run_script(code)

    # Then it was told, once
    assert said.count("a call was refused") == 1
    assert "raise queue_max_tasks" in said
