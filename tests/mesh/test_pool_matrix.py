"""Each cell of the table of pools, with a real node: what it says works, and what it denies is refused by name."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from docs.pool_matrix import MATRIX, POOLS, Cell
from mesh import Mesh
from mesh.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WouldDeadlock
from mesh_cli import exit_codes
from tests.mesh import proj
from tests.mesh.conftest import end_router
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, Node, eventually

#: How long a task with a limit may run.
LIMIT_S: Final = 0.3
PATH: Final = "tests.mesh.proj.tasks."


class Bench(NamedTuple):
    """What a check works on."""

    pool: str
    cell: Cell
    host: Host
    node: Node
    app: Mesh
    tmp_path: Path

    def hold(self) -> tuple[Any, Callable[[], None]]:
        """A task that has begun, and what ends it."""
        gate = self.tmp_path / "end"
        held = tasks.hold.delay(str(self.tmp_path / "begun"), str(gate))
        eventually(lambda: list(self.tmp_path.glob("begun.*")))
        return held, gate.touch

    def run_beside(self, limited: Callable[[], Any]) -> None:
        """A task is killed for its limit. What ran beside it is left alone, or runs again: as the cell says."""
        held, end = self.hold() if slots_of(self.pool) > 1 else (None, lambda: None)
        with pytest.raises(TimeLimitExceeded):
            limited().get(DEADLINE_S)
        assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
        end()
        if held is not None:
            assert held.get(DEADLINE_S)["attempt"] == (1 if self.cell is Cell.WHOLE else 0)


def slots_of(pool: str) -> int:
    return 1 if pool == "solo" else 3


# --- what works ------------------------------------------------------------------------------------


def runs_functions(bench: Bench) -> None:
    assert tasks.connect_to_itself.delay().get(DEADLINE_S) < DEADLINE_S
    assert [one.get(DEADLINE_S) for one in [tasks.add.delay(n, 1) for n in range(20)]] == list(range(1, 21))


def runs_coroutines(bench: Bench) -> None:
    pids = {one.get(DEADLINE_S) for one in [tasks.nap.delay(0.05) for _ in range(slots_of(bench.pool))]}
    assert pids <= set(bench.node.slots())


def waits_for_another(bench: Bench) -> None:
    # Every slot has a task that waits for one that waits for one
    waiting = [tasks.ask.delay(PATH + "ask", PATH + "add", n, 1) for n in range(slots_of(bench.pool))]
    assert [one.get(DEADLINE_S) for one in waiting] == [n + 1 for n in range(slots_of(bench.pool))]
    if bench.pool == "asyncio":
        with pytest.raises(WouldDeadlock, match=r"await asyncio\.to_thread\(result\.get\)"):
            tasks.ask_directly.delay(PATH + "add", 1, 2).get(DEADLINE_S)
    assert tasks.ask_aside.delay(PATH + "add", 1, 2).get(DEADLINE_S) == 3


def would_deadlock(bench: Bench) -> None:
    for task in (tasks.ask, tasks.ask_directly):
        with pytest.raises(WouldDeadlock, match="-P prefork"):
            task.delay(PATH + "add", 1, 2).get(DEADLINE_S)


def is_interrupted(bench: Bench) -> None:
    paths = str(bench.tmp_path / "begun"), str(bench.tmp_path / "never")
    calls: list[tuple[Any, tuple[Any, ...]]] = [(tasks.hold, paths), (tasks.nap, (60,))]
    for task, args in calls:
        with pytest.raises(SoftTimeLimitExceeded):
            task.apply_async(args, soft_time_limit=LIMIT_S).get(DEADLINE_S)
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


def is_killed(bench: Bench) -> None:
    bench.run_beside(lambda: tasks.nap.apply_async((60,), time_limit=LIMIT_S))


def never_returns(bench: Bench) -> None:
    bench.run_beside(lambda: tasks.never_return.apply_async(time_limit=LIMIT_S))
    with pytest.raises(TimeLimitExceeded):
        tasks.block.apply_async(time_limit=LIMIT_S).get(DEADLINE_S)
    bench.node.ready()


def answers_while_busy(bench: Bench) -> None:
    count, gate = slots_of(bench.pool), bench.tmp_path / "end"
    held = [tasks.hold.delay(str(bench.tmp_path / f"begun-{n}"), str(gate)) for n in range(count)]
    eventually(lambda: len(list(bench.tmp_path.glob("begun-*"))) == count)
    active = bench.app.control.inspect().active()
    assert {row["id"] for row in active[bench.node.name]} == {one.id for one in held}
    gate.touch()
    assert {one.get(DEADLINE_S)["attempt"] for one in held} == {0}


def takes_new_code(bench: Bench) -> None:
    before = set(bench.node.slots())
    bench.node.send(signal.SIGHUP)
    eventually(lambda: not before & set(bench.node.slots()))
    assert tasks.whoami.delay().get(DEADLINE_S)["pid"] not in before
    bench.node.ready()


def replaces_its_process(option: str) -> Callable[[Bench], None]:
    def check(bench: Bench) -> None:
        node = bench.host.start_node("spare", slots=1, queues="spare", options=["-P", bench.pool, option, "1"])
        pids = [tasks.whoami.apply_async(queue="spare").get(DEADLINE_S)["pid"] for _ in range(3)]
        assert len(set(pids)) == 3
        assert node.stop() == exit_codes.OK

    return check


def is_to_be_filled(bench: Bench) -> None:
    pytest.skip("the command that does it is not here yet")


#: {feature: what shows that a pool can do it}
CHECKS: Final[dict[str, Callable[[Bench], None]]] = {
    "plain functions": runs_functions,
    "`async def` tasks": runs_coroutines,
    "`get()` in a task": waits_for_another,
    "soft time limit": is_interrupted,
    "hard time limit": is_killed,
    "code that never returns is killed": never_returns,
    # `terminate`, the commands that resize and `--autoscale` come with another change, and their checks with it.
    "terminate a running task": is_to_be_filled,
    "questions are answered while all slots are busy": answers_while_busy,
    "grow and shrink": is_to_be_filled,
    "`--autoscale`": is_to_be_filled,
    "new code by SIGHUP": takes_new_code,
    "`--max-tasks-per-child`": replaces_its_process("--max-tasks-per-child"),
    "`--max-memory-per-child`": replaces_its_process("--max-memory-per-child"),
}
#: {feature: (options and variables that ask for it, what the refusal names)}
ASKED: Final[dict[str, list[tuple[list[str], dict[str, str], str]]]] = {
    "`--max-tasks-per-child`": [
        (["--max-tasks-per-child", "5"], {}, "--max-tasks-per-child"),
        ([], {"MESH_WORKER_MAX_TASKS_PER_CHILD": "5"}, "worker_max_tasks_per_child (--max-tasks-per-child)"),
    ],
    "`--max-memory-per-child`": [
        (["--max-memory-per-child", "5"], {}, "--max-memory-per-child"),
        ([], {"MESH_WORKER_MAX_MEMORY_PER_CHILD": "5"}, "worker_max_memory_per_child (--max-memory-per-child)"),
    ],
    "`--autoscale`": [([], {"MESH_WORKER_AUTOSCALE": "4,1"}, "worker_autoscale (--autoscale)")],
    "grow and shrink": [
        (["-c", "5"], {}, "--concurrency"),
        ([], {"MESH_WORKER_CONCURRENCY": "5"}, "worker_concurrency (--concurrency)"),
    ],
}


def is_refused(bench: Bench, feature: str) -> None:
    for options, variables, named in ASKED[feature]:
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            node = bench.host.start_node("refused", slots=None, options=["-P", bench.pool, *options], wait=False)
            assert node.wait() == exit_codes.USAGE
        assert f"{named} can't be honoured by pool {bench.pool}: " in node.said


# --- the table -------------------------------------------------------------------------------------


class PoolNode(NamedTuple):
    """A node, and the pool it runs."""

    pool: str
    node: Node


@pytest.fixture(scope="module", params=POOLS)
def pool_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolNode]:
    """A node of one pool, in a mesh of its own, for all cells of that pool."""
    directory = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    host = Host(directory, tmp_path_factory.mktemp("logs"))
    try:
        yield PoolNode(request.param, host.start_node(slots=slots_of(request.param), options=["-P", request.param]))
    finally:
        host.close()
        end_router(host)
        shutil.rmtree(directory)


@pytest.mark.parametrize("feature", MATRIX)
def test_a_pool_can_do_what_the_table_says_and_refuses_the_rest_by_name(
    pool_node: PoolNode, feature: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pool, node = pool_node
    cell = MATRIX[feature][POOLS.index(pool)]
    monkeypatch.delenv("MESH_BROKER_URL", raising=False)
    proj.app.conf.broker_url = node.host.url
    proj.app.set_current()
    bench = Bench(pool, cell, node.host, node, proj.app, tmp_path)
    try:
        if cell is Cell.REFUSED:
            is_refused(bench, feature)
        elif cell is Cell.RAISES:
            would_deadlock(bench)
        else:
            CHECKS[feature](bench)
    finally:
        proj.app.close()
