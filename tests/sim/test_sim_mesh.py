"""`mesh.testing.SimMesh`, as those use it who build on mesh."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.exceptions import NotRegistered, TimeoutError
from mesh.messages import Durability
from mesh.testing import SimMesh


def divide(a: float, b: float = 1.0) -> float:
    return a / b


@pytest.fixture
def sim() -> SimMesh:
    return SimMesh(seed=1, functions={"divide": divide})


def test_a_call_has_the_value_of_its_function(sim: SimMesh) -> None:
    call = sim.call("divide", 6, kwargs={"b": 4})
    assert (call.state, call.result, call.runs) == ("PENDING", None, 0)
    sim.drain()
    assert (call.state, call.result, call.runs) == ("SUCCESS", 1.5, 1)


def test_what_a_function_raises_is_raised_by_its_result(sim: SimMesh) -> None:
    call = sim.call("divide", 1, 0)
    sim.drain()
    assert call.state == "FAILURE"
    with pytest.raises(ZeroDivisionError):
        call.result  # noqa: B018


def test_a_task_that_kills_every_slot_is_given_up(sim: SimMesh) -> None:
    call = sim.call("divide", 1, crashes=99)
    sim.drain()
    assert (call.state, call.runs) == ("FAILURE", 4)


def test_a_countdown_passes_before_the_run(sim: SimMesh) -> None:
    call = sim.call("divide", 1, countdown=5.0)
    sim.run(4.9)
    assert call.runs == 0
    sim.run(until=lambda: call.runs, for_s=0.2)


@pytest.mark.parametrize(
    "fault",
    [
        lambda sim: sim.kill_router(),
        lambda sim: sim.kill_slot(),
        lambda sim: sim.kill_node(),
        lambda sim: sim.pause_router(2.0),
        lambda sim: sim.cut_links(0.5),
        lambda sim: sim.lose_messages(0.3),
        lambda sim: sim.fill_disk(),
    ],
)
def test_no_call_is_lost_whatever_goes_wrong(sim: SimMesh, fault) -> None:
    calls = [sim.call("divide", number, takes_s=0.02) for number in range(20)]
    sim.run(0.1)
    fault(sim)
    sim.run(1.0)
    sim.drain()
    assert [call.result for call in calls] == [float(number) for number in range(20)]


def test_what_was_synced_runs_after_a_power_loss_that_took_its_caller(sim: SimMesh) -> None:
    call = sim.call("divide", 1, durability="synced", countdown=1.0)
    sim.run(until=lambda: call.confirmed)
    assert call.confirmed is Durability.SYNCED
    sim.kill_host(power=True)
    sim.run(until=lambda: call.runs)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        pytest.param("devide", {}, "'devide' is not registered on this SimMesh", id="no such function"),
        pytest.param("divide", {"takes_s": -1.0}, "takes_s=-1.0", id="a run of negative length"),
        pytest.param("divide", {"crashes": -1}, "crashes=-1", id="fewer crashes than none"),
        pytest.param("divide", {"durability": "safe"}, "none, journaled, synced", id="no such level"),
    ],
)
def test_what_can_t_be_called_is_refused(sim: SimMesh, name: str, options: dict[str, Any], error: str) -> None:
    with pytest.raises((NotRegistered, ValueError), match=error):
        sim.call(name, 1, **options)
    assert sim.calls == []


def test_where_nothing_fails_no_outcome_is_left_that_its_caller_has(sim: SimMesh) -> None:
    for number in range(300):
        sim.call("divide", number, takes_s=0.0001)
        sim.run(0.0003)
    sim.drain()
    sim.run(5.0)
    assert not sim._world.routers["A"].owner.outcomes.has_unreceived


def test_a_condition_that_never_comes_true_raises(sim: SimMesh) -> None:
    with pytest.raises(TimeoutError, match="never came true"):
        sim.run(0.1, until=lambda: False)


def test_a_seed_tells_the_same_story_twice() -> None:
    def story() -> list[tuple[int, float]]:
        with SimMesh(seed=7) as sim:
            for number in range(30):
                sim.call("divide", number, takes_s=0.01, crashes=number % 3 == 0)
            sim.run(0.1)
            sim.kill_router()
            sim.drain()
            return [(call.runs, sim.now_s) for call in sim.calls]

    assert story() == story()
