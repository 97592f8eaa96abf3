"""Tasks that run too long: they are interrupted, or their process is killed, and nobody else pays for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.exceptions import InvalidCall, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, Host, eventually
from tests.mesh.test_slots import make_known


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("options", [{}, {"acks_late": False}], ids=["late ack", "early ack"])
def test_a_task_that_never_returns_is_killed_and_fails_and_the_slot_goes_on(shared_app: Mesh, options: dict[str, Any]):
    result = tasks.never_return.apply_async(time_limit=0.3, **options)
    with pytest.raises(TimeLimitExceeded, match=r"ran longer than its time limit of 0\.3 s"):
        result.get(DEADLINE_S)
    assert result.state == "FAILURE"
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


def test_it_is_not_run_again_nor_a_dead_letter(shared_app: Mesh, tmp_path: Path):
    result = tasks.limited.delay(str(tmp_path / "notes"))
    with pytest.raises(TimeLimitExceeded):
        result.get(DEADLINE_S)
    assert lines(tmp_path / "notes") == ["began"]
    assert shared_app.control.dead_letters(result.id).count() == 0


def test_a_call_may_have_more_time_than_its_task(shared_app: Mesh, tmp_path: Path):
    # Given a call whose limit is longer than that of its task
    result = tasks.limited.apply_async((str(tmp_path / "notes"),), time_limit=1.5)

    # When others have reached that of the task
    for _ in range(2):
        with pytest.raises(TimeLimitExceeded, match=r"0\.3 s"):
            tasks.limited.delay(str(tmp_path / "others")).get(DEADLINE_S)

    # Then it ends by its own
    with pytest.raises(TimeLimitExceeded, match=r"1\.5 s"):
        result.get(DEADLINE_S)


def test_a_task_is_interrupted_at_its_soft_limit_and_may_tidy_up(shared_app: Mesh, tmp_path: Path):
    notes = tmp_path / "notes"
    result = tasks.tidy_up.apply_async((str(notes),), soft_time_limit=0.2, time_limit=60)
    assert result.get(DEADLINE_S) == "tidied up"
    assert lines(notes) == ["interrupted"]


def test_who_does_not_catch_the_interruption_fails_by_it(shared_app: Mesh, tmp_path: Path):
    result = tasks.hold.apply_async((str(tmp_path / "begun"), str(tmp_path / "never")), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(DEADLINE_S)
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3


def test_what_may_hang_now_and_then_is_run_again(shared_app: Mesh, tmp_path: Path):
    result = tasks.hang_once.delay(str(tmp_path / "notes"))
    assert result.get(DEADLINE_S) == 1
    assert lines(tmp_path / "notes") == ["began", "began"]


def test_what_was_leased_behind_it_runs_once_and_uncharged(host: Host, app: Mesh):
    # Given one slot, and tasks that it knows as tiny
    node = host.start_node(slots=1)
    make_known()
    (slot,) = node.slots()

    # When one that never returns is sent together with such tasks
    with app.batch():
        before = [tasks.whoami.delay() for _ in range(20)]
        endless = tasks.never_return.apply_async(time_limit=0.3)
        behind = [tasks.whoami.delay() for _ in range(20)]
    with pytest.raises(TimeLimitExceeded):
        endless.get(DEADLINE_S)

    # Then the others run once each, in a process of their own where it is behind
    ran = [result.get(DEADLINE_S) for result in before + behind]
    assert {(one["attempt"], one["redelivered"]) for one in ran} == {(0, False)}
    assert slot not in node.ready().slots()


def test_a_task_that_crashes_before_its_limit_is_charged_with_the_crash(host: Host, app: Mesh):
    host.start_node(slots=1)
    with pytest.raises(WorkerLostError, match="exited with code 7"):
        tasks.leave.apply_async((7,), time_limit=0.5).get(DEADLINE_S)


def test_a_cold_stop_is_no_time_limit(host: Host, app: Mesh, tmp_path: Path):
    # Given a task with a limit that runs
    node = host.start_node(slots=1)
    until = tmp_path / "until"
    result = tasks.hold.apply_async((str(tmp_path / "begun"), str(until)), time_limit=60)
    eventually(lambda: list(tmp_path.glob("begun.*")))

    # When its node is stopped cold
    node.send(signal.SIGQUIT)
    node.wait()

    # Then it runs again elsewhere, uncharged
    until.touch()
    host.start_node("n2")
    assert result.get(DEADLINE_S)["attempt"] == 1


def test_a_warm_stop_waits_for_the_limit_and_the_caller_hears_of_it(host: Host, app: Mesh, tmp_path: Path):
    node = host.start_node(slots=1)
    result = tasks.limited.apply_async((str(tmp_path / "notes"),), time_limit=1.0)
    eventually(lambda: lines(tmp_path / "notes"))
    node.send(signal.SIGTERM)
    with pytest.raises(TimeLimitExceeded):
        result.get(DEADLINE_S)
    assert node.wait() == 0


def test_many_runs_within_their_limit_leave_the_slot_alone(host: Host, app: Mesh):
    # Given one slot
    node = host.start_node(slots=1)
    (slot,) = node.slots()

    # When more tasks than fit into one limit run one after the other, each within its own
    results = [tasks.tidy_up.apply_async(("", 0.03), time_limit=0.5, soft_time_limit=0.4) for _ in range(40)]
    assert {result.get(DEADLINE_S) for result in results} == {"slept"}

    # Then nothing has happened to it, nor to tasks without a limit
    assert tasks.add.delay(1, 2).get(DEADLINE_S) == 3
    assert node.slots() == [slot]


def test_the_command_line_sets_limits_for_tasks_that_say_nothing(host: Host, app: Mesh, tmp_path: Path):
    node = host.start_node(slots=1, options=["--time-limit", "0.4", "--soft-time-limit", "0.2"])
    assert tasks.tidy_up.delay(str(tmp_path / "notes")).get(DEADLINE_S) == "tidied up"
    with pytest.raises(TimeLimitExceeded, match=r"0\.4 s"):
        tasks.never_return.delay().get(DEADLINE_S)
    assert eventually(lambda: "has reached its time limit of 0.4 s" in node.said)
    assert ".> time limits: hard 0.4 s, soft 0.2 s\n" in node.said


def test_a_limit_holds_while_the_router_is_away_and_the_failure_arrives(host: Host, app: Mesh, tmp_path: Path):
    # Given a task that runs
    host.start_node(slots=1)
    result = tasks.limited.apply_async((str(tmp_path / "notes"),), time_limit=1.0)
    eventually(lambda: lines(tmp_path / "notes"))

    # When its router is killed
    os.kill(host.router_pid(), signal.SIGKILL)

    # Then it ends by its limit, or is run again and ends by it, and its caller hears of that
    with pytest.raises(TimeLimitExceeded):
        result.get(DEADLINE_S)


@pytest.mark.parametrize(
    "options",
    [{"time_limit": 0}, {"time_limit": -1}, {"soft_time_limit": "1"}, {"time_limit": 1, "soft_time_limit": 1}],
    ids=str,
)
def test_limits_that_can_t_be_are_refused(shared_app: Mesh, options: dict[str, Any]):
    with pytest.raises(InvalidCall, match="time_limit"):
        tasks.add.apply_async((1, 2), **options)
    with pytest.raises(InvalidCall, match="time_limit"):
        shared_app.task(name="never.registered", **options)(lambda: None)
