"""Storms over whole meshes: hundreds of worlds from a seed each, faults of every kind, then heal, drain and judge.

`MESH_SIM_SEEDS` says how many, `MESH_SIM_BASE` which is the first; `python -m tests.sim` runs more of them and counts.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.__main__ import describe
from tests.sim.storm import run, script_of

SEEDS = int(os.environ.get("MESH_SIM_SEEDS", "200"))
BASE = int(os.environ.get("MESH_SIM_BASE", "0"))
EVENTS = 300
#: Seeds that one test runs: the fixtures around a test cost as much as one.
SEEDS_PER_TEST = 20


@pytest.mark.parametrize("first", range(BASE, BASE + SEEDS, SEEDS_PER_TEST))
def test_no_storm_breaks_an_invariant(first: int) -> None:
    for seed in range(first, min(first + SEEDS_PER_TEST, BASE + SEEDS)):
        script = script_of(seed, EVENTS)
        try:
            run(script)
        except Exception as error:
            pytest.fail(
                f"{describe(script, error, script.events)}\nreproduce: python -m tests.sim --seeds {seed} --shrink"
            )


def test_a_seed_tells_the_same_story_twice() -> None:
    script = script_of("twice", EVENTS)
    assert run(script).counts == run(script).counts
