"""A task that asks to be run again: self.retry(), against a node in the test's own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.exceptions import Retry
from tests.mesh.proj import tasks
from tests.mesh.running import DEADLINE_S, eventually

pytestmark = pytest.mark.usefixtures("in_process_app")


def test_a_task_that_asks_for_another_run_is_started_again(tmp_path: Path):
    # Given a task that returns at its second run
    gate = str(tmp_path / "gate")
    result = tasks.settle.delay(gate, 2)
    eventually(lambda: result.state == "STARTED")

    # When the first run ends
    Path(f"{gate}0").touch()

    # Then it is started again, and that run counts as a retry and not as a lost delivery
    Path(f"{gate}1").touch()
    assert result.get(DEADLINE_S) == [1, 0]
    assert result.state == "SUCCESS"


def test_the_reason_of_a_retry_is_the_result_until_the_next_run(tmp_path: Path):
    # Given a task whose first run is over and whose second is an hour off
    gate = tmp_path / "gate"
    Path(f"{gate}0").touch()
    result = tasks.settle.delay(str(gate), 2, countdown=3600)

    # When it waits for that
    eventually(lambda: result.state == "RETRY")

    # Then its result says why
    assert isinstance(result.result, tasks.Refused)
    assert not result.ready()


def test_beyond_max_retries_the_task_fails_with_its_own_reason(tmp_path: Path):
    # Given a task that would need more runs than it may have
    gate = str(tmp_path / "gate")
    for run in range(3):
        Path(f"{gate}{run}").touch()

    # When it asks for the fourth
    result = tasks.settle.delay(gate, 10)

    # Then the caller gets what it failed for last
    with pytest.raises(tasks.Refused, match="not yet"):
        result.get(DEADLINE_S)


def test_a_retry_may_bring_other_arguments():
    assert tasks.count_down.delay(5).get(DEADLINE_S) == "5 retries"


def test_a_direct_call_can_not_be_retried_and_raises_the_reason(tmp_path: Path):
    # Given the gate of the only run
    Path(f"{tmp_path}/gate0").touch()

    # When the task is called like a function, then what it would be retried for is raised
    with pytest.raises(tasks.Refused):
        tasks.settle(f"{tmp_path}/gate", 2)
    assert not issubclass(tasks.Refused, Retry)
