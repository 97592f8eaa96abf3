"""Slots that are replaced after so many tasks, or so much memory: exactly then, and without a loss or a pause."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh import Mesh
from mesh.settings import Settings
from tests.mesh.proj import lasting, tasks
from tests.mesh.running import DEADLINE_S, Host, eventually, is_alive


class Span(NamedTuple):
    """A run, as its task notes it."""

    number: int
    pid: int
    begun_ns: int
    ended_ns: int


def spans(path: Path) -> list[Span]:
    """What ran, in the order in which it began."""
    rows = [Span(*map(int, line.split())) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda span: span.begun_ns)


def runs_by_process(ran: list[Span]) -> list[int]:
    """How many tasks each process ran, in the order in which they began."""
    counts: dict[int, int] = {}
    for span in ran:
        counts[span.pid] = counts.get(span.pid, 0) + 1
    return list(counts.values())


@pytest.mark.parametrize("runs", [1, 2, 7])
def test_each_process_runs_exactly_so_many_tasks_and_never_two_at_once(
    host: Host, app: Mesh, tmp_path: Path, runs: int
) -> None:
    # Given one slot that is replaced after so many tasks
    host.start_node(slots=1, options=["--max-tasks-per-child", str(runs)])

    # When many are sent at once
    with app.batch():
        results = [lasting.span.delay(str(tmp_path / "spans"), number, 100) for number in range(10 * runs)]
    assert [result.get(DEADLINE_S) for result in results] == list(range(10 * runs))

    # Then ten processes have run them, each so many, one task after the other
    ran = spans(tmp_path / "spans")
    assert runs_by_process(ran) == [runs] * 10
    assert all(first.ended_ns <= second.begun_ns for first, second in pairwise(ran))


def test_no_outcome_is_lost_while_slots_are_replaced_under_load(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given two slots that are replaced after ten tasks
    node = host.start_node(slots=2, options=["--max-tasks-per-child", "10"])

    # When thousands are sent
    results = [lasting.span.delay(str(tmp_path / "spans"), number) for number in range(5_000)]

    # Then each returns what is its own, having run once, and no process ran more than it may
    assert [result.get(DEADLINE_S) for result in results] == list(range(5_000))
    ran = spans(tmp_path / "spans")
    assert sorted(span.number for span in ran) == list(range(5_000))
    assert max(runs_by_process(ran)) == 10
    assert "Traceback" not in node.said


def test_retries_count_as_runs_and_nobody_is_charged_for_a_slot_that_leaves(host: Host, app: Mesh) -> None:
    # Given slots that are replaced after each run, and tasks that run more often than the crash budget allows deaths
    host.start_node(slots=2, options=["--max-tasks-per-child", "1"])
    runs = Settings().crash_budget + 3

    # When they ask to be run again each time
    results = [tasks.count_down.delay(runs) for _ in range(4)]

    # Then they end as they should
    assert {result.get(DEADLINE_S) for result in results} == {f"{runs} retries"}


def test_a_slot_that_has_grown_too_large_is_replaced_after_its_task(host: Host, app: Mesh) -> None:
    # Given slots that may have 150 MiB
    host.start_node(slots=1, options=["--max-memory-per-child", str(150 << 10)])

    # When small tasks run, then nothing happens
    assert len({lasting.pid.delay().get(DEADLINE_S) for _ in range(20)}) == 1

    # When tasks make it grow, then each that goes beyond is the last of its process
    grown = [lasting.grow.delay(200).get(DEADLINE_S) for _ in range(3)]
    assert len(set(grown)) == 3
    eventually(lambda: not any(map(is_alive, grown)))


def test_a_slot_that_grows_slowly_has_a_successor_before_it_leaves(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a slot that may have 150 MiB
    node = host.start_node(slots=1, options=["--max-memory-per-child", str(150 << 10)])
    first = lasting.pid.delay().get(DEADLINE_S)

    # When its tasks leave more and more behind, then another one follows
    while lasting.grow.delay(4).get(DEADLINE_S) == first:
        pass
    eventually(lambda: not is_alive(first))
    node.ready()


def test_a_slot_that_crashes_has_its_task_run_by_its_successor(host: Host, app: Mesh) -> None:
    host.start_node(slots=1, options=["--max-tasks-per-child", "3"])
    results = [tasks.leave_once.delay(7) for _ in range(10)]
    # Once more where a tiny task was over, and the next one took the slot down before that was told.
    assert {result.get(DEADLINE_S) for result in results} <= {1, 2, 3}


def test_a_stop_in_the_middle_of_replacing_leaves_nothing_behind(host: Host, app: Mesh, tmp_path: Path) -> None:
    # Given a node that replaces its slots all the time
    node = host.start_node(slots=2, options=["--max-tasks-per-child", "1"])
    results = [lasting.span.delay(str(tmp_path / "spans"), number, 500) for number in range(300)]
    results[30].get(DEADLINE_S)

    # When it is told to stop
    assert node.stop() == 0

    # Then the rest waits for another node, where it runs once
    host.start_node("n2", wait=False)
    assert [result.get(DEADLINE_S) for result in results] == list(range(300))
    assert len(spans(tmp_path / "spans")) == 300
    assert "Traceback" not in node.said
