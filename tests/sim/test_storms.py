"""Storms over whole meshes: a thousand worlds from a seed each, faults of every kind, then heal, drain and judge.

`MESH_SIM_SEEDS` says how many, `MESH_SIM_BASE` which is the first. `python -m tests.sim` runs any others, and prints
what happened in them; `make nightly` runs new ones for hours.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.coverage import IMPOSSIBLE, pairs, table
from tests.sim.many import EVENTS, Asked, Total, describe_alike, play_all
from tests.sim.storm import run, script_of

SEEDS = int(os.environ.get("MESH_SIM_SEEDS", "1000"))
BASE = int(os.environ.get("MESH_SIM_BASE", "0"))
#: Worlds in which nothing goes wrong; they come on top.
FAIR_SEEDS = max(1, SEEDS // 20)
JOBS = min(2, os.cpu_count() or 1)
#: How often each transition has to be met under each fault.
MET_MIN = 10

pytestmark = pytest.mark.timeout(1200)  # a tenth of it, on two cores that nobody else uses


@pytest.fixture(scope="module")
def storms() -> Total:
    total = Total()
    for played in play_all([Asked(seed) for seed in range(BASE, BASE + SEEDS)], JOBS):
        total.add(played)
        assert played.n_faults >= 2, f"seed {played.seed} has no storm"
    return total


def explain(total: Total) -> str:
    """One failure with the events that lead there, and the seeds of all."""
    first = total.failed[0]
    seeds = ", ".join(str(one.seed) for one in total.failed)
    return f"{describe_alike(Asked(first.seed), first.error)}\n{len(total.failed)} of {total.n_played} failed: {seeds}"


@pytest.mark.slow
def test_no_storm_breaks_an_invariant(storms: Total) -> None:
    assert not storms.failed, explain(storms)
    assert storms.counts["events"] >= EVENTS * (SEEDS - storms.counts["climate hostile"])


@pytest.mark.slow
@pytest.mark.skipif(SEEDS < 1000, reason="so few storms do not meet everything")
def test_every_transition_is_met_under_every_fault(storms: Total) -> None:
    rare = {pair: storms.met[pair] for pair in pairs() if pair not in IMPOSSIBLE and storms.met[pair] < MET_MIN}
    assert not rare, f"{rare}\n{table(storms.met)}"
    unknown = storms.met.keys() - set(pairs())
    assert not unknown, f"not in the table: {unknown}"


@pytest.mark.slow
def test_in_fair_weather_every_call_runs_once_and_in_its_order() -> None:
    total = Total()
    for played in play_all([Asked(f"fair {number}", fair=True) for number in range(FAIR_SEEDS)], JOBS):
        total.add(played)
    assert not total.failed, [(one.seed, one.error) for one in total.failed]


def test_a_seed_tells_the_same_story_twice() -> None:
    script = script_of("twice", EVENTS)
    assert run(script).counts == run(script).counts
