"""`python -m bench.nodes`: it runs, gives its figures, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> dict[str, Any]:
    """What it prints as JSON. In a process of its own, as it is a client."""
    said = subprocess.run(
        [sys.executable, "-m", "bench.nodes", "--json", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    figures: dict[str, Any] = json.loads(said.stdout)
    return figures


def test_starts_and_ends_are_measured() -> None:
    figures = run("--rounds", "1")
    wanted = {"ready, s", "ready, router there, s", "end, s", "fresh process a task, s"}
    assert wanted == figures.keys() - {"machine"}
    assert all(figures[key] > 0 for key in wanted)


@pytest.mark.timeout(120)
def test_the_soak_counts_what_comes_back() -> None:
    figures = run("--soak", "600")
    assert (figures["tasks"], figures["wrong_or_lost"]) == (600, 0)
    assert figures["at_half"]["processes"] > 3
