"""SIGHUP: a node takes new code, and loses nothing of what runs or waits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.exceptions import TimeLimitExceeded
from tests.mesh.running import DEADLINE_S, ROOT, Host, Node, eventually, is_alive

POOLS = pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])

SHOP = """
import os, time
from mesh import Mesh
from mesh.exceptions import TimeLimitExceeded

app = Mesh("shop")

@app.task
def price():
    return {price!r}, os.getpid()

@app.task
def hold(begun, until):
    open(begun, "w").close()
    while not os.path.exists(until):
        time.sleep(0.002)
    return {price!r}, os.getpid()
"""


class Shop:
    """A project whose code changes."""

    def __init__(self, host: Host, app: Mesh, directory: Path) -> None:
        self._host = host
        self._app = app
        self.directory = directory
        self.write(SHOP.format(price=1))

    def write(self, text: str) -> None:
        """Other code. As a deployment, it leaves no compiled code of before behind."""
        (self.directory / "shop.py").write_text(text)
        for compiled in self.directory.glob("__pycache__/shop*"):
            compiled.unlink()

    def start(self, pool: str = "prefork", *, slots: int | None = 2, options: tuple[str, ...] = ()) -> Node:
        slots = None if pool == "solo" else slots
        return self._host.start_node(
            slots=slots, options=["-P", pool, *options], project="shop", workdir=str(self.directory)
        )

    def send(self, name: str, *args: Any) -> Any:
        return self._app.send_task(f"shop.{name}", args)

    def price(self) -> tuple[int, int]:
        """What it is, and which process says so."""
        price, pid = self.send("price").get(DEADLINE_S)
        return price, pid

    def costs(self, price: int) -> bool:
        return self.price()[0] == price


@pytest.fixture
def shop(host: Host, app: Mesh, tmp_path: Path) -> Shop:
    (tmp_path / "code").mkdir()
    return Shop(host, app, tmp_path / "code")


def said(node: Node, words: str) -> Callable[[], bool]:
    return lambda: words in node.said


def renewed(node: Node, times: int = 1) -> Callable[[], bool]:
    return lambda: node.said.count("action=renewed") >= times


@POOLS
def test_new_code_runs_after_a_hangup_in_the_same_node(shop: Shop, pool: str) -> None:
    # Given a node
    node = shop.start(pool)
    price, pid = shop.price()
    assert price == 1

    # When its code changes, and changes again, and it is told each time
    for new in (2, 3):
        assert shop.price()[0] == new - 1
        shop.write(SHOP.format(price=new))
        node.send(signal.SIGHUP)

        # Then the new code runs, soon
        eventually(partial(shop.costs, new))

    # And the old process ends, and the node is the one that it was
    eventually(lambda: not is_alive(pid))
    assert node.popen.poll() is None
    assert node.ready().stop() == 0
    assert "Traceback" not in node.said


@POOLS
def test_no_call_is_lost_or_run_twice_meanwhile(shop: Shop, pool: str) -> None:
    # Given a node with many calls
    node = shop.start(pool)
    results = [shop.send("price") for _ in range(300)]
    results[10].get(DEADLINE_S)

    # When it takes new code, twice at once, while more come
    shop.write(SHOP.format(price=2))
    for _ in range(2):
        node.send(signal.SIGHUP)
        results += [shop.send("price") for _ in range(300)]
    while shop.price()[0] == 1:
        results += [shop.send("price") for _ in range(20)]

    # Then each ends, by old code or new
    assert {result.get(DEADLINE_S)[0] for result in results} == {1, 2}


@POOLS
def test_a_task_that_runs_is_finished_by_the_old_code(shop: Shop, pool: str, tmp_path: Path) -> None:
    # Given one slot that runs a long task
    node = shop.start(pool, slots=1)
    begun, until = tmp_path / "begun", tmp_path / "until"
    _, pid = shop.price()
    held = shop.send("hold", str(begun), str(until))
    eventually(begun.exists)

    # When the code changes
    shop.write(SHOP.format(price=2))
    node.send(signal.SIGHUP)
    eventually(renewed(node))
    behind = shop.send("price")

    # Then the task runs on in its process, with nothing beside it
    assert len(node.slots()) == 1
    until.touch()
    assert tuple(held.get(DEADLINE_S)) == (1, pid)

    # And what comes behind it runs by the new code, soon, in another
    assert behind.get(DEADLINE_S)
    eventually(lambda: shop.price()[0] == 2)
    assert shop.price()[1] != pid
    eventually(lambda: not is_alive(pid))


@POOLS
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('half of it is missing')", "half of it is missing"),
        ("def broken(:", "SyntaxError"),
        ("import os; os._exit(3)", "its process died"),
    ],
    ids=["raises", "no Python", "exits"],
)
def test_code_that_does_not_load_leaves_the_node_as_it_was_and_the_log_says_why(
    shop: Shop, pool: str, code: str, reason: str
) -> None:
    # Given a node
    node = shop.start(pool)
    _, pid = shop.price()

    # When its code is broken, and it is told to take it
    shop.write(code)
    node.send(signal.SIGHUP)
    eventually(said(node, "action=renewal_failed"))

    # Then the old code goes on, and the log says what was wrong
    assert reason in node.said
    assert shop.price()[0] == 1
    assert is_alive(pid)

    # And mended code is taken
    shop.write(SHOP.format(price=2))
    node.send(signal.SIGHUP)
    eventually(lambda: shop.price()[0] == 2)


def test_a_stop_in_the_middle_of_it_is_a_stop(shop: Shop) -> None:
    # Given a node that takes code which loads for ever
    node = shop.start()
    marker = shop.directory / "loads"
    shop.write(f"import time\nopen({str(marker)!r}, 'w').close()\ntime.sleep(600)")
    node.send(signal.SIGHUP)
    eventually(marker.exists)

    # When it is told to stop, then it does
    assert node.stop() == 0


def test_a_process_of_slots_that_dies_is_followed_by_one_with_the_code_of_then(shop: Shop) -> None:
    # Given a node whose code is broken meanwhile
    node = shop.start("threads")
    _, pid = shop.price()
    shop.write("raise RuntimeError('half of it is missing')")

    # When the process of its slots dies, then it is tried again
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: node.said.count("half of it is missing") >= 2)

    # And goes on once the code is there
    shop.write(SHOP.format(price=2))
    assert shop.price()[0] == 2


def test_a_node_that_was_started_in_another_directory_takes_new_code_too(host: Host, app: Mesh, shop: Shop) -> None:
    # Given a node that changes to its directory, by a path from where it was started
    relative = os.path.relpath(shop.directory, ROOT)
    node = host.start_node(slots=1, project="shop", workdir=relative)
    assert shop.price()[0] == 1

    # When its code changes
    shop.write(SHOP.format(price=2))
    node.send(signal.SIGHUP)

    # Then it takes it
    eventually(lambda: shop.price()[0] == 2)


def test_new_code_may_have_other_tasks_queues_and_limits(shop: Shop, app: Mesh) -> None:
    # Given a node, and a call for a queue that it does not serve
    node = shop.start()
    waits = app.send_task("shop.stay", queue="letters")
    assert shop.price()[0] == 1

    # When its new code serves that queue, has such a task, and limits tasks
    more = """
app.conf.task_default_queue = "letters"
app.conf.task_time_limit = 0.3

@app.task
def stay():
    time.sleep(600)
"""
    shop.write(SHOP.format(price=2) + more)
    node.send(signal.SIGHUP)

    # Then the call runs, and is ended by the limit
    with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
        waits.get(DEADLINE_S)
    assert "shop.stay" in app.control.inspect().registered()[node.name]
    assert eventually(lambda: node.report().get("queues") == ["letters"])


def test_slots_that_are_replaced_all_the_time_take_new_code_too(shop: Shop) -> None:
    node = shop.start(options=("--max-tasks-per-child", "1"))
    results = [shop.send("price") for _ in range(100)]
    shop.write(SHOP.format(price=2))
    node.send(signal.SIGHUP)
    while shop.price()[0] == 1:
        pass
    ran = [result.get(DEADLINE_S) for result in results]
    assert len({pid for _, pid in ran}) == len(ran)


def test_code_that_hangs_as_it_is_loaded_is_given_up_for_the_next(shop: Shop) -> None:
    # Given a node that was told of code which never loads
    node = shop.start()
    shop.write("import time\ntime.sleep(3600)\n")
    node.send(signal.SIGHUP)
    eventually(said(node, "loading the app again"))

    # When it is told of code that does
    shop.write(SHOP.format(price=2))
    node.send(signal.SIGHUP)

    # Then that runs
    eventually(partial(shop.costs, 2))
    assert node.ready().stop() == 0
