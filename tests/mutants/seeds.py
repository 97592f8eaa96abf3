"""A few storms, each a test of its own in this process: what mutants are killed by that no test of the core kills.

Not named as a test: `make test` plays many more storms than these.
"""

from __future__ import annotations

import pytest

from tests.sim.storm import run, script_of

EVENTS = 300


@pytest.mark.parametrize("seed", range(10))
def test_no_storm_breaks_an_invariant(seed: int) -> None:
    run(script_of(seed, EVENTS))
